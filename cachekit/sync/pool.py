"""Background refresh for threads: a small bounded pool, which the end of the process waits for, but not for ever.

The threads are daemons, so that a run that never ends can't keep the process from ending; at exit whoever is left gets
``EXIT_S`` seconds. A full pool takes nothing more: the caller then runs his refresh himself, which slows the callers
down to what can be done.
"""

from __future__ import annotations

import atexit
import contextvars
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

logger = logging.getLogger("cachekit")

THREADS = 4
"""Most runs at the same time, of one cache."""

WAITING = 64
"""Most runs that wait for a thread."""

IDLE_S = 10.0
"""Seconds after which a thread with nothing to do ends."""

EXIT_S = 5.0
"""Seconds that ``drain`` waits, also at exit."""

Task = Callable[[], object]


class Pool:
    """Runs tasks in threads of its own, each in a copy of the context that it was submitted from. Thread-safe.

    ``threads``, ``waiting``: how many tasks may run and wait at a time.
    """

    def __init__(self, threads: int = THREADS, waiting: int = WAITING) -> None:
        self._threads, self._waiting = threads, waiting
        self._lock = threading.Condition(threading.RLock())
        self._tasks: deque[tuple[contextvars.Context, Task]] = deque()
        self._alive = self._idle = self._running = 0
        self._closed = False
        _watch(self)

    def submit(self, task: Task) -> bool:
        """Have ``task`` run soon; False when there is no room, or no thread to be had."""
        with self._lock:
            if self._closed or len(self._tasks) >= self._waiting:
                return False
            if self._idle <= len(self._tasks) and self._alive < self._threads and not self._start() and not self._alive:
                return False
            self._tasks.append((contextvars.copy_context(), task))
            self._lock.notify()
            return True

    def drain(self, timeout_s: float = EXIT_S) -> bool:
        """Take nothing more, and wait for what was taken; False when some of it has not ended by then."""
        until = time.monotonic() + timeout_s
        with self._lock:
            self._closed = True
            self._lock.notify_all()
            while self._tasks or self._running:
                left = until - time.monotonic()
                if left <= 0 or not self._alive:
                    return False
                self._lock.wait(left)
        return True

    def _start(self) -> bool:
        thread = threading.Thread(target=self._work, name=f"cachekit-refresh-{self._alive + 1}", daemon=True)
        self._alive += 1
        try:
            thread.start()
        except RuntimeError:  # there are too many, or the interpreter is ending
            self._alive -= 1
            return False
        return True

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            context, task = taken
            try:
                context.run(task)
            except BaseException as error:  # noqa: BLE001 - a thread lost to a SystemExit would still count as alive
                # Only its type: an exception's text may show arguments.
                logger.warning("a background refresh raised %s", type(error).__name__)
            finally:
                del context, task, taken
                with self._lock:
                    self._running -= 1
                    self._lock.notify_all()

    def _take(self) -> tuple[contextvars.Context, Task] | None:
        """The next task; None: this thread is not needed any more."""
        with self._lock:
            self._idle += 1
            while not self._tasks:
                if self._closed or not self._lock.wait(IDLE_S):
                    if self._tasks:
                        break
                    self._idle -= 1
                    self._alive -= 1
                    return None
            self._idle -= 1
            self._running += 1
            return self._tasks.popleft()


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_finalized: list[object] = []


def _watch(pool: Pool) -> None:
    """Have the process wait for the pool at its end: also a child of multiprocessing, where atexit does not run."""
    _pools.add(pool)
    util = sys.modules.get("multiprocessing.util")
    if util is not None and not _finalized:
        _finalized.append(util.Finalize(None, _drain_all, exitpriority=10))


def _drain_all() -> None:
    until = time.monotonic() + EXIT_S
    pools = list(_pools)
    _pools.clear()  # each of them once: an end may come here twice, by atexit and by multiprocessing
    for pool in pools:
        pool.drain(max(0.0, until - time.monotonic()))


def _forked() -> None:
    """The parent's threads are not here; nothing may wait for them."""
    _pools.clear()
    _finalized.clear()


atexit.register(_drain_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
