"""One fill: a cold key is computed once, and an invalidation always wins, whatever happens to whoever computes it."""

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
from support.targets import own_prefix, url_of
from support.threads import Outcome, eventually

from cachekit import MISS, Cache, Policy

THREADS = 12


@pytest.fixture(params=["embedded", "real"])
def cache(request: pytest.FixtureRequest) -> Iterator[Cache]:
    """A cache on the embedded server, and one on a real one."""
    url = "memory:" if request.param == "embedded" else url_of(request.getfixturevalue("server"))
    with Cache(f"{url}?deadline=5s", prefix=own_prefix()) as made:
        yield made


class Slow:
    """A function that says when it runs and ends when it is told to; its results are 0, 1, 2 … by run."""

    def __init__(self, cache: Cache, **options: Any) -> None:
        self.started = threading.Event()
        self.go_on = threading.Event()
        self.runs = 0
        self.error: BaseException | None = None
        self.result: Any = None
        self._lock = threading.Lock()

        @cache(**options)
        def slow(n: int) -> Any:
            with self._lock:
                mine, self.runs = self.runs, self.runs + 1
            self.started.set()
            assert self.go_on.wait(20)
            if self.error is not None:
                raise self.error
            return [mine] if self.result is None else self.result

        self.call = slow


def waiters_on(cache: Cache) -> int:
    """How many callers wait for runs of this process."""
    return sum(flight.waiters for flight in list(cache._env.flights._flights.values()))


# -- threads ----------------------------------------------------------------------------------------------------------


def test_threads_on_a_cold_key_share_one_run(cache: Cache) -> None:
    """One thread runs, the others get copies of its result, and everything is counted."""
    slow = Slow(cache)
    outcomes = [Outcome(slow.call, 1) for _ in range(THREADS)]
    assert eventually(lambda: waiters_on(cache) == THREADS - 1)
    slow.go_on.set()
    results = [outcome.result() for outcome in outcomes]
    assert results == [[0]] * THREADS
    assert len({id(result) for result in results}) == THREADS
    info = slow.call.info()
    assert (slow.runs, info.fills, info.waits, info.misses, info.hits) == (1, 1, THREADS - 1, THREADS, 0)
    assert len(cache._env.flights) == 0
    assert slow.call(1) == [0]


def test_threads_at_the_very_first_call_share_the_counts(cache: Cache) -> None:
    """However many threads are first, the function has one set of counters."""
    slow = Slow(cache)
    slow.go_on.set()
    barrier = threading.Barrier(THREADS)

    def first(n: int) -> Any:
        barrier.wait(10)
        return slow.call(n)

    for outcome in [Outcome(first, n) for n in range(THREADS)]:
        outcome.result()
    assert slow.call.info().fills == THREADS
    assert len(cache.stats().functions) == 1


def test_waiters_share_the_exception(cache: Cache) -> None:
    """What the run raises is raised for everybody who waited for it in this process; then the next call runs."""
    slow = Slow(cache)
    slow.error = LookupError("gone")
    outcomes = [Outcome(slow.call, 1) for _ in range(4)]
    assert eventually(lambda: waiters_on(cache) == 3)
    slow.go_on.set()
    for outcome in outcomes:
        with pytest.raises(LookupError, match="gone"):
            outcome.result()
    assert slow.runs == 1
    slow.error = None
    assert slow.call(1) == [1]


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


def test_get_or_set_is_computed_once(cache: Cache) -> None:
    """The direct verb has the same single flight."""
    runs, go_on = [], threading.Event()

    def compute() -> list[int]:
        runs.append(1)
        assert go_on.wait(20)
        return [7]

    outcomes = [Outcome(cache.get_or_set, "k", compute) for _ in range(5)]
    assert eventually(lambda: waiters_on(cache) == 4)
    assert cache.get("k", MISS) is MISS
    go_on.set()
    assert [outcome.result() for outcome in outcomes] == [[7]] * 5
    assert len(runs) == 1


# -- invalidation against a fill --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["invalidate", "invalidate_all", "delete", "set"])
def test_what_was_computed_before_an_invalidation_is_never_served_after_it(cache: Cache, how: str) -> None:
    """The late store is dropped, and who calls after the invalidation gets a new run, even while the old one lasts."""
    slow = Slow(cache)
    old = Outcome(slow.call, 1)
    assert slow.started.wait(10)
    joined = Outcome(slow.call, 1)
    assert eventually(lambda: waiters_on(cache) == 1)
    if how == "invalidate":
        assert slow.call.invalidate(1)
    elif how == "invalidate_all":
        assert slow.call.invalidate_all()
    elif how == "delete":
        assert cache.delete(slow.call.key(1))
    else:
        assert cache.set(slow.call.key(1), "somebody's own")
    if how in ("invalidate", "delete"):
        late = Outcome(slow.call, 1)
        assert eventually(lambda: slow.runs == 2)
        slow.go_on.set()
        assert late.result() == [1]
    slow.go_on.set()
    assert old.result() == [0]
    assert joined.result() == [0]
    assert slow.call.peek(1) != [0]
    assert slow.call(1) == [1]
    assert slow.call.peek(1) == [1]


@pytest.mark.parametrize("how", ["invalidate", "invalidate_all"])
def test_an_invalidation_beats_a_refresh(cache: Cache, how: str) -> None:
    """Refresh stores nothing over an invalidation that came while it ran."""
    slow = Slow(cache)
    slow.go_on.set()
    assert slow.call(1) == [0]
    slow.go_on.clear()
    refreshing = Outcome(slow.call.refresh, 1)
    assert eventually(lambda: slow.runs == 2)
    assert slow.call.invalidate(1) if how == "invalidate" else slow.call.invalidate_all()
    slow.go_on.set()
    assert refreshing.result() == [1]
    assert slow.call.peek(1) is MISS
    assert slow.call(1) == [2]


def test_who_calls_after_invalidate_all_does_not_join_the_run_before_it(cache: Cache) -> None:
    """A run that began before invalidate_all is still under way: a later caller must not get its result."""
    slow = Slow(cache)
    old = Outcome(slow.call, 1)
    assert slow.started.wait(10)
    assert slow.call.invalidate_all()
    late = Outcome(slow.call, 1)
    eventually(lambda: slow.runs == 2, 0.5)
    slow.go_on.set()
    assert old.result() == [0]
    assert late.result() == [1]


def test_a_refresh_that_fails_beside_a_fill_leaves_the_lease(cache: Cache) -> None:
    """A refresh under somebody else's lease does not give that lease back."""
    slow = Slow(cache)
    filling = Outcome(slow.call, 1)
    assert slow.started.wait(10)
    broken = threading.Event()

    @cache(key="{n}")
    def other(n: int) -> int:
        if broken.is_set():
            raise OSError
        return n

    refreshing = Outcome(slow.call.refresh, 1)
    assert eventually(lambda: slow.runs == 2)
    slow.go_on.set()
    assert {filling.result()[0], refreshing.result()[0]} == {0, 1}
    assert slow.call.peek(1) in ([0], [1])


# -- results that can't be stored -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unencodable", "too large", "refused"])
def test_an_unstorable_result_is_returned(cache: Cache, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets it, one warning names the trouble, the old entry is gone, and the next ones run side by side."""
    slow = Slow(cache)
    slow.go_on.set()
    assert slow.call(1) == [0]
    results = {"unencodable": object(), "too large": os.urandom((1 << 20) + 1), "refused": os.urandom((1 << 20) - 100)}
    slow.result = results[kind]
    assert slow.call.refresh(1) is slow.result
    assert slow.call.peek(1) is MISS
    slow.go_on.clear()
    outcomes = [Outcome(slow.call, 1) for _ in range(3)]
    assert eventually(lambda: slow.runs == 5)
    slow.go_on.set()
    assert all(outcome.result() == slow.result for outcome in outcomes)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert slow.call.key(1) in warnings[0]
    assert slow.call.info().unstored == 4
    slow.result = [5]
    assert [slow.call(1), slow.call.peek(1)] == [[5], [5]]


def test_a_ttl_function_that_raises_costs_only_the_storing(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets his result, and one warning says why it was not stored."""

    @cache(ttl=lambda result: 1 / 0)
    def f() -> int:
        return 7

    assert [f(), f()] == [7, 7]
    assert f.info().unstored == 2
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


# -- recursion --------------------------------------------------------------------------------------------------------


def test_a_function_that_calls_itself_with_the_same_key(cache: Cache) -> None:
    """Inside its own fill a call of the same key runs the function; it does not wait for itself."""
    depth = []

    @cache(ignore=["level"])
    def f(n: int, level: int = 0) -> int:
        depth.append(level)
        return n if level == 3 else f(n, level + 1) + 1

    assert Outcome(f, 5).result() == 8
    assert depth == [0, 1, 2, 3]
    assert f(5) == 8


def test_a_recursive_function_fills_every_step(cache: Cache) -> None:
    """A function that calls itself with other keys caches each of them."""

    @cache
    def fibonacci(n: int) -> int:
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    assert Outcome(fibonacci, 20).result() == 6765
    assert fibonacci.info().fills == 21


def test_two_functions_that_call_each_other(cache: Cache) -> None:
    """A cycle of two cached functions ends."""

    @cache(ignore=["level"])
    def ping(n: int, level: int = 0) -> int:
        return n if level > 3 else pong(n, level + 1)

    @cache(ignore=["level"])
    def pong(n: int, level: int = 0) -> int:
        return n if level > 3 else ping(n, level + 1)

    assert Outcome(ping, 1).result() == 1
    assert Outcome(pong, 2).result() == 2


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
