"""Loops, threads and processes that share one cache, and the end of each: nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.aio import (
    RUNS,
    Run,
    clock_fixture,
    listening,
    on_both_loops,
    run_on_asyncio,
    turns,
    until,
)
from support.aio_fleet import MN, ONCE, failure, mortal_fixture, roster_of, strikes, tls_server_fixture
from support.memcached import Memcached
from support.targets import unix_server_fixture
from support.threads import Outcome

from cachekit import Unreachable
from cachekit.aio import fleet as module
from cachekit.aio.fleet import AsyncFleet
from cachekit.aio.loops import Loops
from cachekit.aio.tasks import BACKGROUND
from cachekit.ops import Replies

__all__ = ["clock_fixture", "mortal_fixture", "tls_server_fixture", "unix_server_fixture"]

ROOT = Path(__file__).parents[1]


# -- loops, threads, processes ----------------------------------------------------------------------------------------


def test_each_loop_has_its_own_connections(server: Memcached) -> None:
    """Two loops in two threads use one cache at once; each opens its own, and a closed loop is forgotten."""
    loops = Loops(roster_of(server.name))
    together = threading.Barrier(2)

    async def main() -> AsyncFleet:
        fleet = loops.here()
        assert loops.here() is fleet
        together.wait(20)
        for _ in range(100):
            replies = await asyncio.gather(*(fleet.exchange(MN) for _ in range(10)))
            assert all(each.replies[0].code == "MN" for each in replies)
        together.wait(20)
        assert set(loops.fleets) >= {asyncio.get_running_loop()}
        await loops.aclose()
        return fleet

    threads = [Outcome(run, main()) for run in (run_on_asyncio, [*RUNS.values()][-1])]
    fleets = {thread.result() for thread in threads}
    assert len(fleets) == 2

    async def third() -> int:
        loops.here()
        return len(loops.fleets)

    assert run_on_asyncio(third()) == 1
    assert {len(fleet._open) for fleet in fleets} == {0}


def test_no_loop_runs() -> None:
    """Asked outside of any, it says so."""
    with pytest.raises(RuntimeError):
        Loops(roster_of("127.0.0.1:1")).here()


def test_abandon_outside_of_the_loops(server: Memcached) -> None:
    """It asks every loop to cancel what goes on in its background, and passes over closed ones."""
    loops = Loops(roster_of(server.name))

    async def main() -> bool:
        fleet = loops.here()
        assert fleet.tasks.refresh(partial(asyncio.sleep, 60))
        (task,) = fleet.tasks._refreshes
        await asyncio.to_thread(loops.abandon)
        await asyncio.wait([task], timeout=20)
        return task.cancelled()

    assert run_on_asyncio(main())
    loops.abandon()
    assert [*RUNS.values()][-1](main())


PROGRAM = """
import asyncio, os, sys
from cachekit import Cache

cache = Cache(sys.argv[1], prefix="p")

@cache(ttl=60)
async def identity(n):
    return {"n": n}

async def use():
    asyncio.get_running_loop().slow_callback_duration = 60  # -X dev tells of those that took 0.1 s
    for _ in range(3):
        assert await asyncio.gather(*(identity(n) for n in range(20))) == [{"n": n} for n in range(20)]
    await cache.aio.set("k", 1)
    assert await cache.aio.get("k") == 1
    assert await cache.aio.get_many(["k"]) == {"k": 1}

def run(main):
    if sys.argv[2] == "uvloop":
        import uvloop
        uvloop.run(main)
    else:
        asyncio.run(main)
"""


def run_program(text: str, *arguments: str) -> str:
    """What a program prints, which must end well and complain of nothing."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONASYNCIODEBUG": "0"}
    options = ["-X", "dev", "-W", "error", "-W", "ignore::DeprecationWarning"]
    done = subprocess.run(
        [sys.executable, *options, "-c", PROGRAM + text, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("where", ["tcp", "tls"])
def test_a_program_that_forgets_aclose_leaves_nothing_open(
    kind: str, where: str, server: Memcached, tls_server: tuple[Memcached, str]
) -> None:
    """asyncio.run(main()) ends without a ResourceWarning or a task that was destroyed; twice in one process."""
    url = f"memcached://{server.name}?deadline=10s"
    if where == "tls":
        url = f"memcached+tls://{tls_server[0].name}?ca={tls_server[1]}&deadline=10s"
    text = """
async def main():
    await use()
    asyncio.get_running_loop().create_task(identity(77))  # is on its way when the loop ends
    await asyncio.sleep(0)
run(main())
run(main())
print("done")
"""
    assert run_program(text, url, kind) == "done"


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("where", ["loop", "thread"])
def test_a_fork_in_a_program_with_a_loop(kind: str, where: str, server: Memcached) -> None:
    """The child runs a loop of its own with connections of its own; the parent goes on with his."""
    text = """
async def in_child():
    assert cache._loops.fleets == {}
    await use()
    await cache.aclose()

def fork():
    child = os.fork()
    if not child:
        run(in_child())
        os._exit(0)
    return child

async def parent():
    await use()
    fleet = cache._loops.here()
    line = fleet.lines[0]
    asked = [asyncio.ensure_future(cache.aio.get("k")) for _ in range(3)]
    child = await asyncio.to_thread(fork) if sys.argv[3] == "thread" else fork()
    await use()
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert status == 0, status
    await use()
    assert await asyncio.gather(*asked) == [1, 1, 1]
    assert fleet.lines[0] is line and not line.closed
    assert cache._loops.here() is fleet
    await cache.aclose()

run(parent())
print("done")
"""
    assert run_program(text, f"memcached://{server.name}?deadline=10s", kind, where) == "done"


# -- the end ----------------------------------------------------------------------------------------------------------


@on_both_loops
def test_aclose_is_idempotent_and_a_later_use_opens_again(run: Run[None], mortal: Memcached) -> None:
    """No connection is left on the server."""
    idle = int(mortal.stats()["curr_connections"])

    async def main() -> None:
        loops = Loops(roster_of(mortal.name))
        await loops.aclose()
        fleet = loops.here()
        await fleet.aclose()
        for _ in range(3):
            await fleet.exchange(MN)
            assert isinstance((await fleet.gather([MN]))[0], Replies)
            await loops.aclose()
            await loops.aclose()
            await asyncio.gather(loops.aclose(), loops.aclose())
            assert fleet.lines == [None]
            assert fleet._open == set()
        await until(lambda: int(mortal.stats()["curr_connections"]) == idle)

    run(main())


@on_both_loops
def test_aclose_waits_for_what_goes_on(run: Run[None], server: Memcached) -> None:
    """Background work ends first, also what it starts itself; then the connections are closed."""

    async def main() -> None:
        fleet = AsyncFleet(roster_of(server.name))
        await fleet.exchange(MN)
        over: list[str] = []
        go = asyncio.Event()

        async def second() -> None:
            await fleet.exchange(MN)
            over.append("second")

        async def first() -> None:
            await go.wait()
            await fleet.exchange(MN)
            over.append("first")
            fleet.tasks.refresh(second)

        fleet.tasks.alone.add(fleet.tasks.hold(first()))
        closing = asyncio.create_task(fleet.aclose())
        await turns()
        assert not closing.done()
        go.set()
        await closing
        assert over == ["first", "second"]
        assert not fleet.tasks._refreshes
        assert not fleet.tasks.alone
        assert not fleet.tasks.all

    run(main())


@on_both_loops
def test_aclose_ends_what_does_not_end(run: Run[None], server: Memcached, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cancelled, and may still ask the server something."""
    monkeypatch.setattr(module, "EXIT_S", 0.05)

    async def main() -> None:
        fleet = AsyncFleet(roster_of(server.name))
        said: list[str] = []

        async def endless() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                said.append((await fleet.exchange(MN)).replies[0].code)

        assert fleet.tasks.refresh(endless)
        (task,) = fleet.tasks._refreshes
        await fleet.exchange(MN)
        await fleet.aclose()
        assert task.cancelled()
        assert said == ["MN"]
        assert fleet.lines == [None]

    run(main())


@on_both_loops
def test_aclose_while_others_wait_for_a_connection(run: Run[None], monkeypatch: pytest.MonkeyPatch) -> None:
    """They hear that it was closed; only who is cancelled is told that he was."""
    monkeypatch.setattr(module, "EXIT_S", 0.05)

    async def main() -> None:
        async with listening(version=None) as server:
            fleet = AsyncFleet(roster_of(server.name))
            asked = asyncio.create_task(fleet.exchange(ONCE))
            await until(lambda: server.versions)
            await fleet.aclose()
            assert await failure(asked) is Unreachable
            assert strikes(fleet) == 0
            await until(lambda: server.peers[0].lost)

    run(main())


def test_a_task_that_nobody_waits_for_may_fail() -> None:
    """Whoever is interested has heard of it; the loop does not complain of an exception that was never retrieved."""

    async def main() -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        fleet = AsyncFleet(roster_of("127.0.0.1:1"))

        async def fails() -> None:
            raise LookupError

        assert fleet.tasks.refresh(fails)
        await turns()
        gc.collect()
        assert not fleet.tasks.all
        assert complaints == []

    run_on_asyncio(main())


def test_there_is_room_for_so_many_in_the_background() -> None:
    """And there is again, when one has ended."""

    async def main() -> None:
        fleet = AsyncFleet(roster_of("127.0.0.1:1"))
        over = asyncio.Event()
        for _ in range(BACKGROUND):
            assert fleet.tasks.refresh(over.wait)
        assert not fleet.tasks.refresh(over.wait)
        over.set()
        await turns()
        assert fleet.tasks.refresh(over.wait)
        await fleet.aclose()

    run_on_asyncio(main())
