"""The pool of background refreshes: bounded, gone when idle, and waited for at the end, but not for ever."""

from __future__ import annotations

import contextvars
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from support.threads import LIMIT_S, eventually

from cachekit.sync import pool as pool_module
from cachekit.sync.pool import Pool

PLACE: contextvars.ContextVar[str] = contextvars.ContextVar("place", default="nowhere")


class Blocked:
    """Tasks that wait until they are let go, and say that they have begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.gate = threading.Event()

    def task(self) -> None:
        """Begin, wait, end."""
        self.begun.append(threading.current_thread().name)
        assert self.gate.wait(LIMIT_S)
        self.ended.append(threading.current_thread().name)


@pytest.fixture
def blocked() -> Iterator[Blocked]:
    """Tasks that are let go at the end of the test, whatever became of it."""
    tasks = Blocked()
    yield tasks
    tasks.gate.set()


def busy(pool: Pool, blocked: Blocked, threads: int) -> None:
    """Have so many threads of the pool begin a blocked task."""
    for at in range(threads):
        assert pool.submit(blocked.task)
        assert eventually(partial(_as_many, blocked.begun, at + 1))


def _as_many(things: list[Any], count: int) -> bool:
    return len(things) == count


def test_a_task_runs_in_a_named_daemon_of_the_pool() -> None:
    """Who looks at a process sees what its threads are for; none of them keeps it from ending."""
    pool, seen = Pool(), list[threading.Thread]()
    assert pool.submit(lambda: seen.append(threading.current_thread()))
    assert pool.drain(LIMIT_S)
    assert seen[0].name.startswith("cachekit-refresh-")
    assert seen[0].daemon
    assert seen[0] is not threading.current_thread()


def test_so_many_run_so_many_wait_and_no_more_are_taken(blocked: Blocked) -> None:
    """A full pool refuses: the caller then runs it himself."""
    pool = Pool(threads=2, waiting=3)
    busy(pool, blocked, 2)
    assert [pool.submit(blocked.task) for _ in range(4)] == [True, True, True, False]
    assert len(blocked.begun) == 2
    blocked.gate.set()
    assert eventually(lambda: len(blocked.ended) == 5)
    assert len(set(blocked.ended)) == 2
    assert pool.submit(blocked.task)
    assert pool.drain(LIMIT_S)
    assert len(blocked.ended) == 6


def test_an_idle_thread_is_used_again() -> None:
    """One task after the other needs one thread."""
    pool, seen = Pool(threads=4), set[int]()
    for _ in range(20):
        done = threading.Event()

        def task(done: threading.Event = done) -> None:
            seen.add(threading.get_ident())
            done.set()

        assert pool.submit(task)
        assert done.wait(LIMIT_S)
        assert eventually(lambda: pool._idle == 1)
    assert len(seen) == pool._alive == 1
    assert pool.drain(LIMIT_S)


def test_a_thread_with_nothing_to_do_ends_and_another_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that refreshes now and then keeps no threads for it."""
    monkeypatch.setattr(pool_module, "IDLE_S", 0.01)
    pool, seen = Pool(threads=2), list[threading.Thread]()
    for count in (1, 2):
        assert pool.submit(lambda: seen.append(threading.current_thread()))
        assert eventually(partial(_as_many, seen, count))
        seen[-1].join(LIMIT_S)
        assert not seen[-1].is_alive()
        assert (pool._alive, pool._idle, pool._running) == (0, 0, 0)
    assert seen[0] is not seen[1]


def test_each_task_has_a_copy_of_its_submitters_context() -> None:
    """It sees what was set there, and changes nothing for anybody else."""
    pool, seen = Pool(threads=1), list[str]()

    def task() -> None:
        seen.append(PLACE.get())
        PLACE.set("the task")

    for place in ("here", "there"):
        token = PLACE.set(place)
        assert pool.submit(task)
        assert PLACE.get() == place
        PLACE.reset(token)
    assert pool.submit(task)
    assert pool.drain(LIMIT_S)
    assert (seen, PLACE.get()) == (["here", "there", "nowhere"], "nowhere")


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_a_task_raises_is_logged_by_its_type_only(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """An exception's text may show arguments. And its thread goes on: the next task runs there."""
    pool, ran = Pool(threads=1), threading.Event()

    def task() -> None:
        raise kind("the secret argument")

    with caplog.at_level(logging.WARNING, "cachekit"):
        assert pool.submit(task)
        assert pool.submit(ran.set)
        assert ran.wait(LIMIT_S)
        assert pool.drain(LIMIT_S)
    assert [record.getMessage() for record in caplog.records] == [f"a background refresh raised {kind.__name__}"]
    assert "secret" not in caplog.text
    assert caplog.records[0].exc_info is None


def test_nothing_keeps_a_task_that_has_ended() -> None:
    """Its arguments may be large, and an idle thread lives on for a while."""
    pool, kept = Pool(threads=1), Held()
    gone = threading.Event()
    kept.on_end = gone.set
    assert pool.submit(kept)
    del kept
    assert gone.wait(LIMIT_S)
    assert pool.drain(LIMIT_S)


class Held:
    """A task that says when it is freed."""

    on_end: Any = None

    def __call__(self) -> None:
        """Do nothing."""

    def __del__(self) -> None:
        """Say so."""
        self.on_end()


# -- the end -----------------------------------------------------------------------------------------------------------


def test_drain_waits_for_what_runs_and_for_what_waits(blocked: Blocked) -> None:
    """Nothing that was taken is lost; and nothing more is taken."""
    pool = Pool(threads=1, waiting=5)
    busy(pool, blocked, 1)
    assert all(pool.submit(blocked.task) for _ in range(3))
    results: list[bool] = []
    draining = threading.Thread(target=lambda: results.append(pool.drain(LIMIT_S)), daemon=True)
    draining.start()
    assert eventually(lambda: not pool.submit(blocked.task))
    assert draining.is_alive()
    blocked.gate.set()
    draining.join(LIMIT_S)
    assert (results, len(blocked.ended)) == ([True], 4)


def test_drain_does_not_wait_for_ever(blocked: Blocked) -> None:
    """A run that never ends: so many seconds, and then False."""
    pool = Pool(threads=1)
    busy(pool, blocked, 1)
    began = time.monotonic()
    assert pool.drain(0.05) is False
    assert 0.05 <= time.monotonic() - began < LIMIT_S


def test_draining_twice_or_an_unused_pool_is_nothing() -> None:
    """close() may be called as often as one likes."""
    pool = Pool()
    assert pool.drain(0.0)
    assert pool.drain(0.0)
    assert pool.submit(print) is False


def test_idle_threads_end_at_once_when_drained() -> None:
    """They need not be idle for ten seconds first."""
    pool, seen = Pool(), list[threading.Thread]()
    assert pool.submit(lambda: seen.append(threading.current_thread()))
    assert pool.drain(LIMIT_S)
    seen[0].join(LIMIT_S)
    assert not seen[0].is_alive()


def test_where_no_thread_can_be_had_a_task_is_refused(monkeypatch: pytest.MonkeyPatch, blocked: Blocked) -> None:
    """Too many threads, or the interpreter is ending. One that lives already will do it in its time."""
    pool = Pool(threads=2)
    start = threading.Thread.start

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert pool.submit(blocked.task) is False
    assert (pool._alive, len(pool._tasks)) == (0, 0)
    monkeypatch.setattr(threading.Thread, "start", start)
    busy(pool, blocked, 1)
    monkeypatch.setattr(threading.Thread, "start", refused)
    assert pool.submit(blocked.task) is True
    blocked.gate.set()
    assert pool.drain(LIMIT_S)
    assert len(blocked.ended) == 2


# -- processes ---------------------------------------------------------------------------------------------------------

ENDING = """
import atexit, threading
from cachekit.sync import pool as pools
{early}
pool, ending = pools.Pool(), threading.Event()
def task():
    ending.wait()
    print("refreshed", flush=True)
"""

AT_EXIT = (
    ENDING.format(early="")
    + """
atexit.register(ending.set)  # before the pool's own, which was registered first
pool.submit(task)
"""
)

NEVER_ENDS = (
    ENDING.format(early="pools.EXIT_S = 0.05")
    + """
pool.submit(task)
"""
)

IN_A_CHILD = """
import multiprocessing, multiprocessing.util, threading
from cachekit.sync.pool import Pool

def child():
    pool, ending = Pool(), threading.Event()
    multiprocessing.util.Finalize(None, ending.set, exitpriority=100)  # the highest is called first
    def task():
        ending.wait()
        print("refreshed", flush=True)
    pool.submit(task)

if __name__ == "__main__":
    process = multiprocessing.get_context("METHOD").Process(target=child)
    process.start()
    process.join()
"""

AFTER_A_FORK = """
import os, threading, warnings
from cachekit import Cache, Policy
cache = Cache("memory:", policy=Policy(refresh="background", ttl=60, stale=60, beta=0))
runs, done = [], threading.Event()

@cache
def report() -> int:
    runs.append(os.getpid())
    if len(runs) > 1 and runs[-1] != runs[0] or len(runs) == 2:
        done.set()
    return len(runs)

report(); report.expire(); assert report() == 1 and done.wait(20)
done.clear()
warnings.simplefilter("ignore")
child = os.fork()
if not child:
    report.expire()
    assert report() == 2
    assert done.wait(20) and runs[-1] == os.getpid()
    cache.close()
    print("refreshed", flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def printed(script: str) -> str:
    """What a Python process of its own prints until it has ended."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_the_end_of_a_process_waits_for_its_refreshes() -> None:
    """Daemons would be cut off in the middle of a run."""
    assert printed(AT_EXIT) == "refreshed"


def test_the_end_of_a_process_does_not_wait_for_ever() -> None:
    """A run that never ends is left behind."""
    assert printed(NEVER_ENDS) == ""


def test_the_end_of_a_child_of_multiprocessing_waits_too() -> None:
    """There atexit does not run."""
    assert printed(IN_A_CHILD.replace("METHOD", "fork")) == "refreshed"


def test_a_forked_child_has_a_pool_of_its_own() -> None:
    """The parent's threads are not there; a refresh in the child is not left to them."""
    assert printed(AFTER_A_FORK) == "refreshed"
