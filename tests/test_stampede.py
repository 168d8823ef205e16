"""One fill: a cold key is computed once, and an invalidation always wins, whatever happens to whoever computes it.

What does not take threads or processes of its own to show: tests/contract/test_stampede_contract.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.memcached import Memcached, start_memcached
from support.slow import Slow, waiters_on
from support.targets import own_prefix, url_of
from support.threads import Outcome, eventually

from cachekit import MISS, Cache, Policy


@pytest.fixture(params=["embedded", "real"])
def cache(request: pytest.FixtureRequest) -> Iterator[Cache]:
    """A cache on the embedded server, and one on a real one."""
    url = "memory:" if request.param == "embedded" else url_of(request.getfixturevalue("server"))
    with Cache(f"{url}?deadline=5s", prefix=own_prefix()) as made:
        yield made


# -- threads ----------------------------------------------------------------------------------------------------------


def test_an_interrupt_is_not_shared(cache: Cache) -> None:
    """A run that ended by KeyboardInterrupt ends for its own caller only; a waiter runs in its place."""
    slow = Slow(cache)
    slow.error = KeyboardInterrupt()
    first = Outcome(slow.call, 1)
    assert slow.started.wait(10)
    others = [Outcome(slow.call, 1) for _ in range(3)]
    assert eventually(lambda: waiters_on(cache) == 3)

    slow.go_on.set()
    with pytest.raises(KeyboardInterrupt):
        first.result()
    slow.error = None
    done = []
    for other in others:
        try:
            done.append(other.result())
        except KeyboardInterrupt:
            done.append("interrupted")
    assert len(done) == 3
    assert slow.call(1) is not MISS
    assert len(cache._env.flights) == 0


@pytest.mark.parametrize("reachable", [True, False])
def test_threads_whose_fills_want_each_other_do_not_deadlock(cache: Cache, reachable: bool) -> None:
    """A fills and wants B while B fills and wants A, in two threads, with the server up or not: both end."""
    used = cache if reachable else Cache("memcached://127.0.0.1:1", prefix=own_prefix())
    barrier = threading.Barrier(2)
    first = threading.local()

    def meet() -> None:
        if not getattr(first, "met", False):
            first.met = True
            barrier.wait(10)

    policy = Policy(lease=2)

    @used(policy=policy)
    def a(n: int) -> str:
        meet()
        return f"a{b(n)}" if n < 10 else "a"

    @used(policy=policy)
    def b(n: int) -> str:
        meet()
        return f"b{a(n + 10)}" if n >= 10 else "b" + a.uncached(n + 10)

    @used(policy=policy)
    def x(n: int) -> str:
        meet()
        return "x" + (y(n) if threading.current_thread() is one else "")

    @used(policy=policy)
    def y(n: int) -> str:
        meet()
        return "y" + (x(n) if threading.current_thread() is two else "")

    ready = threading.Event()

    def begin(function: Any) -> Any:
        assert ready.wait(10)
        return function(1)

    one, two = Outcome(begin, x), Outcome(begin, y)
    ready.set()
    assert one.result().startswith("xy")
    assert two.result().startswith("yx")
    used.close()


def test_a_fill_that_asks_a_thread_of_its_own_for_the_same_key_ends(cache: Cache) -> None:
    """The helper thread does not know that it works for the fill it waits for; after a lease it runs all the same."""

    @cache(policy=Policy(lease=1), ignore=["level"])
    def f(n: int, level: int = 0) -> int:
        if level:
            return n
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(f, n, 1).result(15) + 1

    assert Outcome(f, 5).result() == 6


# -- processes --------------------------------------------------------------------------------------------------------

WORKER = """
import sys, threading, time
from cachekit import Cache, Policy

url, prefix, mode = sys.argv[1:]
cache = Cache(url + "?deadline=5s", prefix=prefix, policy=Policy(lease=1))

@cache(ttl=60)
def slow(n):
    cache.incr("runs", initial=1)
    if mode == "hang":
        print("filling", flush=True)
        sys.stdin.readline()
    if mode == "raise":
        raise LookupError("mine")
    time.sleep(0.3)
    return n * n

print("ready", flush=True)
sys.stdin.readline()
began = time.monotonic()
try:
    print(slow(7), time.monotonic() - began, flush=True)
except LookupError:
    print("raised", time.monotonic() - began, flush=True)
"""


class Worker:
    """A process that calls ``slow(7)`` when it is told to."""

    def __init__(self, folder: Path, server: Memcached, prefix: str, mode: str = "run") -> None:
        script = folder / "stampede_worker.py"
        script.write_text(WORKER)
        command = [sys.executable, str(script), url_of(server), prefix, mode]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        self.process = subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment)
        assert self.line() == "ready"

    def line(self) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        """Let it call."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def answer(self) -> tuple[str, float]:
        """What the call gave, and the seconds that it took."""
        word, seconds = self.line().split()
        self.close()
        return word, float(seconds)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait(10)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def test_processes_on_a_cold_key_share_one_run(tmp_path: Path, server: Memcached) -> None:
    """Over several processes too: one runs, the others wait for what it stores."""
    prefix = own_prefix()
    workers = [Worker(tmp_path, server, prefix) for _ in range(4)]
    for worker in workers:
        worker.go()
    assert [worker.answer()[0] for worker in workers] == ["49"] * 4
    with Cache(url_of(server), prefix=prefix) as cache:
        assert cache.get("runs") == 1


def test_a_killed_filler_is_taken_over_after_the_lease(tmp_path: Path, server: Memcached) -> None:
    """The lease of a process that was killed in mid-fill passes on, once, and the value is stored."""
    prefix = own_prefix()
    doomed = Worker(tmp_path, server, prefix, "hang")
    heirs = [Worker(tmp_path, server, prefix) for _ in range(2)]
    late = Worker(tmp_path, server, prefix)
    doomed.go()
    assert doomed.line() == "filling"
    for heir in heirs:
        heir.go()
    os.kill(doomed.process.pid, signal.SIGKILL)
    answers = [heir.answer() for heir in heirs]
    doomed.close()
    assert [word for word, _ in answers] == ["49"] * 2
    assert max(seconds for _, seconds in answers) < 10
    late.go()
    assert late.answer()[0] == "49"
    with Cache(url_of(server), prefix=prefix) as cache:
        assert cache.get("runs") == 2


def test_a_filler_that_raises_hands_on_at_once(tmp_path: Path, server: Memcached) -> None:
    """Another process does not wait for the lease of one whose function raised."""
    prefix = own_prefix()
    raising, other = Worker(tmp_path, server, prefix, "raise"), Worker(tmp_path, server, prefix)
    raising.go()
    assert raising.answer()[0] == "raised"
    began = time.monotonic()
    other.go()
    assert other.answer()[0] == "49"
    assert time.monotonic() - began < 10
    with Cache(url_of(server), prefix=prefix) as cache:
        assert cache.get("runs") == 2


def test_a_restart_between_lease_and_store_voids_the_lease() -> None:
    """CAS numbers begin anew with a server: a store under an old one must not replace what was computed since."""
    with start_memcached() as server, Cache(f"{url_of(server)}?deadline=5s", prefix="p") as cache:
        slow = Slow(cache)
        old = Outcome(slow.call, 1)
        assert slow.started.wait(10)
        server.restart()
        with Cache(f"{url_of(server)}?deadline=5s", prefix="p") as other:
            fresh = Slow(other)
            fresh.result = ["newer"]
            new = Outcome(fresh.call, 1)
            assert fresh.started.wait(10)
            slow.go_on.set()
            assert old.result() == [0]
            fresh.go_on.set()
            assert new.result() == ["newer"]
            assert fresh.call.peek(1) in (["newer"], MISS)
            assert fresh.call(1) == ["newer"]
        assert slow.call.info().unstored == 1
