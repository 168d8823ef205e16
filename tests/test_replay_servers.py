"""A server that could not be told comes back with its old memory: nobody in this process reads what it invalidated."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.memcached import Memcached, start_memcached
from support.outage import (
    DEADLINE_S,
    NEW,
    OLD,
    READERS,
    World,
    invalidate,
    mortal_fixture,
    unprobed_fixture,
    world_fixture,
)
from support.targets import own_prefix, url_of
from support.threads import Outcome, eventually

from cachekit import MISS, Cache, DeadlineExceeded, Policy, Unreachable
from cachekit.hooks import Replayed
from cachekit.outbox import MARGIN_S
from cachekit.roster import Roster
from cachekit.sync.connection import Connection
from cachekit.testing import isolated

ROOT = Path(__file__).parents[1]

__all__ = ["mortal_fixture", "unprobed_fixture", "world_fixture"]


def miss_it(world: World, reader: str, n: int = 1) -> None:
    """Have what ``reader`` reads change and be invalidated while the server can't be asked. It is not even sent: what a
    stopped server has in its socket it would still carry out.
    """
    world.version = NEW
    with unreachable(world):
        assert invalidate(world, reader, n) is False


@contextmanager
def unreachable(world: World) -> Iterator[None]:
    """Inside, nothing is sent; after it, as far as this process knows, nothing is the matter with the server."""
    Roster.failed(world.fleet, 0, Unreachable("the network is down"), refused=True)
    yield
    world.fleet.succeeded(0)


# -- who asks, tells first --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", READERS)
def test_a_request_tells_the_server_first(unprobed: None, world: World, reader: str) -> None:
    """On every way to a value, over connections that were open before the outage."""
    world.warm(1)
    miss_it(world, reader)
    assert READERS[reader](world, 1) == NEW
    assert not world.fleet.waiting(0)
    assert world.cache.stats().replayed > 0


@pytest.mark.parametrize("reader", READERS)
def test_without_that_the_old_value_would_be_read(
    unprobed: None, world: World, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can see what it is for: taken out, every reader gives the old value."""
    world.warm(1)
    monkeypatch.setattr(world.cache._env, "keep", lambda *_, **__: None)
    miss_it(world, reader)
    assert READERS[reader](world, 1) == OLD


@pytest.mark.parametrize("reader", ["call", "await", "get", "await get"])
def test_the_probe_tells_the_server_before_it_is_up(world: World, mortal: Memcached, reader: str) -> None:
    """Marked down, a server is used again once it knows; nobody reads an old value in between."""
    world.warm(1)
    mortal.pause()
    world.version = NEW
    for _ in range(2):
        assert world.cache.delete("another") is False
    assert invalidate(world, reader, 1) is False
    assert world.cache.stats().servers == {mortal.name: False}
    assert world.cache.stats().replay == {mortal.name: 2}
    mortal.resume()
    seen = []
    while not world.cache.stats().servers[mortal.name]:
        seen.append(READERS[reader](world, 1))
    seen.append(READERS[reader](world, 1))
    assert set(seen) == {NEW}
    assert world.cache.stats().replay == {}


BUMPS: dict[str, Any] = {
    "invalidate_all": lambda world: world.function.invalidate_all(),
    "invalidate_tags": lambda world: world.cache.invalidate_tags("tag"),
    "invalidate_namespace": lambda world: world.cache.invalidate_namespace("space"),
    "await invalidate_tags": lambda world: world.inside(world.cache.aio.invalidate_tags, "tag"),
    "expire_all": lambda world: world.function.expire_all(),
    "expire_tags": lambda world: world.cache.expire_tags("tag"),
    "expire": lambda world: world.function.expire(1),
}


@pytest.mark.parametrize("verb", BUMPS)
@pytest.mark.parametrize("taken_out", [False, True], ids=["", "taken out"])
def test_every_verb(unprobed: None, world: World, verb: str, taken_out: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bumps of groups are made up for like invalidations of one entry; after a soft one, one caller refreshes."""
    world.warm(1)
    if taken_out:
        monkeypatch.setattr(world.cache._env, "keep", lambda *_, **__: None)
    world.version = NEW
    with unreachable(world):
        assert BUMPS[verb](world) is False
    assert world.function(1) == (OLD if taken_out else NEW)


@pytest.mark.parametrize("shell", ["threads", "asyncio"])
def test_a_ttl_of_0_removes_as_well(unprobed: None, world: World, shell: str) -> None:
    """``set(…, ttl=0)`` and ``touch(…, 0)`` that could not be delivered are made up for; any other set is not."""
    world.warm(1, 2, 3)
    verbs = world.cache if shell == "threads" else world.cache.aio

    def do(verb: Any, *args: Any) -> Any:
        return verb(*args) if shell == "threads" else world.inside(verb, *args)

    with unreachable(world):
        assert do(verbs.set, "k1", NEW, 0) is False
        assert do(verbs.touch, "k2", 0) is False
        assert do(verbs.set, "k3", NEW) is False
    assert [world.cache.get(f"k{n}", MISS) for n in (1, 2)] == [MISS, MISS]
    assert world.cache.stats().replayed == 2


def test_many_keys_of_two_servers(unprobed: None) -> None:
    """``delete_many`` keeps those of the silent server alone; they are told in several lots, and others meanwhile."""
    with start_memcached() as one, start_memcached() as two, Cache(f"{url_of(one, two)}?deadline=1s") as cache:
        keys = [f"k{n}" for n in range(2000)]
        assert cache.set_many(dict.fromkeys(keys, OLD)) == []
        mine = [key for key in keys if cache.server_of(key) == one.name]
        one.pause()
        lost = cache.delete_many(keys)
        one.resume()
        assert set(lost) == set(mine)
        assert cache.stats().replay == {one.name: len(mine)}
        assert cache.get_many(keys) == {}
        assert cache.stats().replayed == len(mine)
        assert one.stats()["curr_items"] == "0"


# -- what counts as undelivered ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["threads", "asyncio"])
@pytest.mark.parametrize("many", [False, True])
def test_who_wants_errors_raised_gets_them_and_it_is_kept(
    unprobed: None, mortal: Memcached, shell: str, many: bool
) -> None:
    """``Cache(on_error="raise")``: raised, after it was kept; also those keys that were not even sent."""
    world = World(mortal, on_error="raise")
    verbs = world.cache if shell == "threads" else world.cache.aio
    world.warm(1, 2)

    def do(verb: Any, *args: Any) -> Any:
        return verb(*args) if shell == "threads" else world.inside(verb, *args)

    mortal.pause()
    with pytest.raises(DeadlineExceeded):
        do(verbs.delete_many, ["k1", "k2"]) if many else do(verbs.delete, "k1")
    mortal.resume()
    assert world.cache.stats().replay == {mortal.name: 1 + many}
    world.fleet.succeeded(0)
    assert world.cache.get("k1", NEW) == NEW
    world.close()


@pytest.mark.parametrize("reader", ["get", "call"])
def test_an_interrupted_invalidation_counts_as_undelivered(
    unprobed: None, world: World, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether the server has got it; so it is told again."""

    def interrupted(self: Connection, *args: Any) -> None:
        self.close()
        raise KeyboardInterrupt

    world.warm(1)
    world.version = NEW
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "exchange", interrupted)
        with pytest.raises(KeyboardInterrupt):
            invalidate(world, reader, 1)
    assert sum(world.cache.stats().replay.values()) == 1
    assert READERS[reader](world, 1) == NEW


def test_a_cancelled_invalidation_counts_as_undelivered(unprobed: None, world: World, mortal: Memcached) -> None:
    """The task that awaited it has gone; the next request tells the server."""
    world.warm(1)

    async def give_up() -> None:
        task = asyncio.create_task(world.cache.aio.delete("k1"))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    mortal.pause()
    world.inside(give_up)
    mortal.resume()
    assert world.cache.stats().replay == {mortal.name: 1}
    assert world.cache.get("k1", NEW) == NEW


def test_what_was_acknowledged_is_not_kept(world: World) -> None:
    """Nothing is kept, and nothing of the machinery loaded, while servers answer."""
    world.warm(1)
    assert world.cache.delete("k1")
    assert not world.cache.delete("k1")
    assert world.simple.invalidate(1)
    assert world.simple.invalidate_all()
    assert world.cache.delete_many(["k1", "nothing"]) == []
    assert world.fleet.outbox is None
    assert (world.cache.stats().replay, world.cache.stats().replayed) == ({}, 0)


def test_the_embedded_server_hears_everything() -> None:
    """It is never a suspect."""
    with Cache("memory:") as cache:
        cache._env.undelivered(0, b"k", soft=False)
        assert cache._fleet.outbox is None
        assert cache._fleet.suspects == set()


# -- at once ----------------------------------------------------------------------------------------------------------


def test_nobody_overtakes_who_tells(unprobed: None, mortal: Memcached) -> None:
    """Threads and loops that come at once to a server with much to be told: none reads what was invalidated, and the
    threads wait for the one who tells.
    """
    world = World(mortal)
    keys = [f"k{n}" for n in range(5000)]
    assert world.cache.set_many(dict.fromkeys(keys, OLD)) == []
    with unreachable(world):
        assert len(world.cache.delete_many(keys)) == len(keys)
    world.fleet.deadline_s = 10.0

    def read(share: int) -> list[Any]:
        return [world.cache.get(keys[(share * 619 + n * 271) % len(keys)], NEW) for n in range(50)]

    async def read_here(share: int) -> list[Any]:
        return [await world.cache.aio.get(keys[(share * 619 + n * 271) % len(keys)], NEW) for n in range(50)]

    readers = [Outcome(read, share) for share in range(8)]
    readers += [Outcome(world.inside, read_here, share) for share in range(8, 12)]
    assert {value for each in readers for value in each.result(60)} == {NEW}
    # Not each of the eight told all: only the thread in front, and the loop.
    assert int(mortal.stats()["delete_misses"]) <= len(keys)
    world.close()


def test_who_waits_too_long_for_the_one_who_tells_goes_without(unprobed: None, world: World) -> None:
    """He runs the function; the server is not blamed for it."""
    world.warm(1)
    miss_it(world, "call")
    with world.fleet.telling(0):
        began = time.monotonic()
        assert Outcome(world.simple, 1).result() == NEW
        assert time.monotonic() - began < 10 * DEADLINE_S
        assert world.fleet.health[0].strikes == 0
    assert world.fleet.waiting(0)
    assert world.simple(1) == NEW
    assert not world.fleet.waiting(0)


def test_two_servers_are_told_at_once(unprobed: None) -> None:
    """A window over two silent servers that have something to be told costs one deadline, not one each."""
    with start_memcached() as one, start_memcached() as two, Cache(f"{url_of(one, two)}?deadline=1s") as cache:
        keys = [f"k{n}" for n in range(50)]
        cache.set_many(dict.fromkeys(keys, OLD))
        one.pause()
        two.pause()
        assert len(cache.delete_many(keys)) == 50
        cache._fleet.versions_known.update((0, 1))  # to ask for them costs a deadline as well
        began = time.monotonic()
        assert cache.get_many(keys) == {}
        assert time.monotonic() - began < 1.8
        one.resume()
        two.resume()


def test_a_restarted_server_is_told_in_vain(unprobed: None, world: World, mortal: Memcached) -> None:
    """It is empty, so nothing is there to be invalidated; what is stored after that stays."""
    world.warm(1)
    mortal.pause()
    assert world.cache.delete("k1") is False
    mortal.restart()
    assert world.cache.set("k1", NEW)
    assert not world.fleet.waiting(0)
    assert world.cache.get("k1") == NEW


# -- nobody asks ------------------------------------------------------------------------------------------------------


def gone(server: Memcached, key: bytes) -> bool:
    """Whether nothing is stored under ``key``."""
    return server.ask(b"mg %b\r\n" % key) == b"EN\r\n"


def prefixed(cache: Cache, key: str) -> bytes:
    """The key on the wire."""
    return f"{cache.prefix}:{key}".encode()


def test_the_server_is_told_also_where_nobody_asks_it(world: World, mortal: Memcached) -> None:
    """Within two seconds, though it was never marked down: other processes read there too."""
    world.warm(1)
    events: list[Replayed] = []
    world.cache.hooks.on_replay(events.append)
    miss_it(world, "get")
    assert world.cache.stats().servers == {mortal.name: True}
    assert eventually(lambda: gone(mortal, prefixed(world.cache, "k1")), 5)
    assert eventually(lambda: events == [Replayed(mortal.name, 1)])
    assert eventually(lambda: world.fleet.suspects == set())


def test_however_much_is_invalidated_the_probe_is_not_put_off(unprobed: None, world: World) -> None:
    """Its time is set by the first that is kept, and not by those that follow."""
    health = world.fleet.health[0]
    world.cache._env.undelivered(0, b"a", soft=False)
    assert 0 < health.probe_due_in(time.monotonic()) < 2
    health.probe_at = 0.0
    world.cache._env.undelivered(0, b"b", soft=False)
    assert health.probe_due_in(time.monotonic()) == 0


@pytest.mark.parametrize("end", ["close", "aclose"])
def test_closing_tells_what_can_be_told(unprobed: None, mortal: Memcached, end: str) -> None:
    """``close`` and ``aclose`` try once."""
    world = World(mortal)
    world.warm(1)
    miss_it(world, "get")
    world.cache.close() if end == "close" else world.inside(world.cache.aclose)
    assert gone(mortal, prefixed(world.cache, "k1"))
    world.close()


def test_closing_is_bounded(unprobed: None, world: World, mortal: Memcached) -> None:
    """A server that is silent still costs one deadline."""
    world.warm(1)
    mortal.pause()
    assert world.cache.delete("k1") is False
    began = time.monotonic()
    world.cache.close()
    assert time.monotonic() - began < 2 * DEADLINE_S
    assert world.cache.stats().replay == {mortal.name: 1}


SCRIPT = """
import os, sys
from cachekit import Cache, Unreachable
cache = Cache(sys.argv[1], prefix=sys.argv[2])
assert cache.get("k") == 1
cache._fleet.failed(0, Unreachable("the network is down"), refused=True)
cache._fleet.stop_probing()
assert cache.delete("k") is False
cache._fleet.stop_probing()
if sys.argv[3] != "down":
    cache._fleet.succeeded(0)
if sys.argv[3] == "fork":
    child = os.fork()
    if not child:
        print(cache.get("k", "nothing"), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def run(script: str, *arguments: str) -> tuple[str, str]:
    """What a script prints, and what it says on the side; it must end well."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize("how", ["up", "down", "fork"])
def test_the_end_of_the_process(mortal: Memcached, how: str) -> None:
    """It tries once more to tell what it has to; where it can't, it says how much was never told, and not what. A
    child that was forked meanwhile knows it too.
    """
    prefix = own_prefix()
    with Cache(url_of(mortal), prefix=prefix) as cache:
        cache.set("k", 1)
        said, aside = run(SCRIPT, url_of(mortal), prefix, how)
        if how == "down":
            assert f"memcached server {mortal.name} was never told 1 invalidation of this process" in aside
            assert prefix not in aside
            assert cache.get("k") == 1
        else:
            assert gone(mortal, prefixed(cache, "k"))
            assert "never told" not in aside
            assert said == ("nothing" if how == "fork" else "")


WORKERS = """
import multiprocessing, sys
from cachekit import Cache, Unreachable
cache = Cache(sys.argv[1], prefix=sys.argv[2])
assert cache.get("k") == 1

def work():
    cache._fleet.failed(0, Unreachable("the network is down"), refused=True)
    assert cache.delete("k") is False
    cache._fleet.stop_probing()
    cache._fleet.succeeded(0)

if __name__ == "__main__":
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
"""


def test_the_end_of_a_worker_of_multiprocessing(mortal: Memcached) -> None:
    """``atexit`` does not run there; the server is told all the same."""
    prefix = own_prefix()
    with Cache(url_of(mortal), prefix=prefix) as cache:
        cache.set("k", 1)
        run(WORKERS, url_of(mortal), prefix)
        assert gone(mortal, prefixed(cache, "k"))


def test_an_isolated_cache_owes_nothing(world: World, mortal: Memcached) -> None:
    """Inside ``isolated`` nothing waits; after it, all that did still does."""
    world.warm(1)
    mortal.pause()
    assert world.cache.delete("k1") is False
    with isolated(world.cache):
        assert world.cache.stats().replay == {}
        assert world.cache.delete("k1") is False
        assert world.cache.stats().replay == {}
    assert world.cache.stats().replay == {mortal.name: 1}


# -- too much ---------------------------------------------------------------------------------------------------------


def test_an_overflow_bumps_the_groups(unprobed: None, world: World, mortal: Memcached) -> None:
    """Everybody then computes anew what this cache's functions have stored there, and this process distrusts what is
    older.
    """
    world.warm(*range(6))
    other = World(mortal)
    other.cache.prefix, other.cache._prefix = world.cache.prefix, world.cache._prefix
    began = time.time()
    world.fleet._outbox().replay._limit = 3
    world.version = other.version = NEW
    with unreachable(world):
        assert [world.simple.invalidate(n) for n in range(6)] == [False] * 6
    assert world.cache.stats().replay_dropped == 3
    assert began <= world.cache._env.distrust[0] <= time.time() + 2
    assert [world.simple(n) for n in range(6)] == [NEW] * 6
    assert [world.function(n) for n in range(6)] == [NEW] * 6
    assert [other.simple(n) for n in range(6)] == [NEW] * 6
    assert not world.fleet.waiting(0)
    other.close()


def test_an_entry_without_a_generation_is_distrusted_after_an_overflow(unprobed: None, mortal: Memcached) -> None:
    """No group tells that it is void, so its age does: in calls, in ``peek``, and for the direct verbs. What is
    computed after that is trusted.
    """
    with Cache(url_of(mortal), policy=Policy(group=False)) as cache:
        version = OLD

        @cache(ttl=600)
        def function(n: int) -> int:
            return version

        assert [function(n) for n in range(6)] == [OLD] * 6
        assert cache.get(function.key(0)) == OLD
        cache._fleet._outbox().replay._limit = 1
        version = NEW
        Roster.failed(cache._fleet, 0, Unreachable("the network is down"), refused=True)
        assert [function.invalidate(n) for n in range(6)] == [False] * 6
        cache._fleet.succeeded(0)
        assert cache.get(function.key(0), MISS) is MISS
        assert function.peek(1) is MISS
        assert [function(n) for n in range(6)] == [NEW] * 6
        cache._env.distrust[0] -= 2 * MARGIN_S
        fills = function.info().fills
        assert [function(n) for n in range(6)] == [NEW] * 6
        assert function.info().fills == fills
