"""Invalidations that are put off: inside a transaction they are collected, and sent when it has succeeded.

What is collected belongs to one cache, known by its surroundings, and to the thread or task in whose context the
transaction was begun. Copies of that context (tasks and threads that were begun inside) belong to it as well, until it
has ended.
"""

# Annotations are not postponed here, as in the other flows.

import os
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple

from cachekit.env import Env
from cachekit.flows.abreast import Teller


class Mark(NamedTuple):
    """One invalidation that is to be sent. ``soft``: an ``expire``."""

    soft: bool
    tell: Teller


class Collection:
    """What one transaction has collected, each entry, function, tag or namespace once, by its wire key.

    ``env``: the surroundings of its cache. ``outer``: the transaction that it is inside of. ``on_mark`` is called for
    whatever is collected. Thread-safe.
    """

    __slots__ = ("_lock", "_on_mark", "env", "marks", "outer", "over", "pid")

    def __init__(self, env: Env, on_mark: Callable[[], None]) -> None:
        self.env = env
        self.pid = os.getpid()
        self.over = False
        self.outer: Collection | None = next(
            (each for each in reversed(_OPEN.get()) if each.env is env and each.goes_on()), None
        )
        self.marks: dict[bytes, Mark] = {}
        self._on_mark = on_mark
        self._lock = threading.RLock()  # a signal handler may come here while its thread is in here

    def goes_on(self) -> bool:
        """Whether it can end here still: a child that was forked inside has a copy that nobody will send."""
        return not self.over and self.pid == os.getpid()

    def add(self, key: bytes, mark: Mark) -> bool:
        """Collect an invalidation of ``key``; the latest counts, but a hard one is not softened. False: too late."""
        if self.pid != os.getpid():
            return False  # a thread that is not in this child may hold the lock
        with self._lock:
            if not self.goes_on():
                return False
            known = self.marks.pop(key, None)
            self.marks[key] = known if known is not None and mark.soft else mark
            self._on_mark()
        return True

    def end(self) -> dict[bytes, Mark]:
        """Take what was collected; nothing is collected here from now on."""
        if self.pid != os.getpid():
            self.over = True
            return {}
        with self._lock:
            self.over = True
            marks, self.marks = self.marks, {}
        return marks

    def hand_over(self, marks: dict[bytes, Mark]) -> bool:
        """Give ``marks`` to the transaction around this one; False where there is none any more."""
        outer = self.outer
        while outer is not None:
            if all(outer.add(key, mark) for key, mark in marks.items()):
                return True
            outer = outer.outer
        return False


_OPEN: ContextVar[tuple[Collection, ...]] = ContextVar("cachekit_transactions", default=())
"""The transactions around the current code, outermost first, and perhaps some that have ended."""


def begin(collection: Collection) -> None:
    """From here on, in this context, invalidations of its cache go to ``collection``."""
    _OPEN.set((*(each for each in _OPEN.get() if not each.over), collection))


def leave() -> None:
    """Forget those that have ended. Not by a token: an asynchronous generator may end in another context."""
    _OPEN.set(tuple(each for each in _OPEN.get() if not each.over))


def put_off(env: Env, key: bytes, tell: Teller, *, soft: bool) -> bool:
    """Collect an invalidation of ``key`` where the current code is inside a transaction; False: it is to be sent."""
    inside = _OPEN.get()
    if not inside:
        return False
    own = getattr(env, "origin", env)
    return any(each.env is own and each.add(key, Mark(soft, tell)) for each in reversed(inside))
