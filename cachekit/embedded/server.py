"""EmbeddedServer: bytes of a request in, bytes of its replies out."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

from cachekit.errors import RequestError, Unreachable

from . import classic, meta_commands
from .store import Store
from .wire import ERROR, Body, Refusal

_LineCommand = Callable[[Store, list[bytes], float], bytes]
_DataCommand = Callable[[Store, list[bytes], Body, float], bytes]

_LINE_COMMANDS: Final[dict[bytes, _LineCommand]] = {
    b"mg": meta_commands.mg,
    b"md": meta_commands.md,
    b"ma": meta_commands.ma,
    b"me": meta_commands.me,
    b"mn": meta_commands.mn,
    b"get": classic.get,
    b"gets": classic.get,
    b"gat": classic.gat,
    b"gats": classic.gat,
    b"touch": classic.touch,
    b"incr": classic.arithmetic,
    b"decr": classic.arithmetic,
    b"delete": classic.delete,
    b"flush_all": classic.flush_all,
    b"version": classic.version,
    b"stats": classic.stats,
}
_DATA_COMMANDS: Final[dict[bytes, _DataCommand]] = {
    b"ms": meta_commands.ms,
    **dict.fromkeys((b"set", b"add", b"replace", b"append", b"prepend", b"cas"), classic.storage),
}


class EmbeddedServer:
    """A Memcached 1.6.18 within this process, without I/O and without threads of its own.

    memory_bytes: the budget for all items (key + value + 59 bytes each); beyond it the least recently used go.
    item_bytes: the limit for one item, counted likewise (``memcached -I``).
    clock: seconds since the epoch; it may be any function, so that tests need not sleep.
    """

    def __init__(
        self, *, memory_bytes: int = 64 << 20, item_bytes: int = 1 << 20, clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        # Re-entrant, so that a signal handler in the middle of a command meets ``_inside`` and not a lock of its own
        # thread.
        self._lock = threading.RLock()
        self._inside = False
        self._store = Store(memory_bytes, item_bytes, clock())
        with _forking:  # a set can't be looked through while it grows
            _servers.add(self)

    def __repr__(self) -> str:
        return f"EmbeddedServer({len(self._store.items)} items, {self._store.bytes} bytes)"

    def handle(self, request: bytes) -> bytes:
        """Carry out one or more complete commands; all their replies, in order.

        The commands of one call are carried out as one; no other thread's come between. Raises RequestError if the last
        command is incomplete: a real server would wait for the rest of it. Raises Unreachable in the middle of another
        call on the same thread: a signal handler or a finalizer can't be served from half-changed tables.
        """
        body = Body(request if type(request) is bytes else bytes(request))
        size = len(body.request)
        with self._lock:
            if self._inside:
                raise Unreachable("the embedded server was asked from within itself", server="memory:")
            store, now = self._store, self._clock()
            replies = []
            self._inside = True
            try:
                store.tick(now)
                while body.at < size:
                    replies.append(_carry_out(store, body, now))
            except RequestError:
                raise
            except BaseException:
                store.clear()  # interrupted between two changes that belong together: nothing in there can be trusted
                raise
            finally:
                self._inside = False
        return b"".join(replies)

    def hold(self) -> None:
        """Let no command run until ``let_go``: before a fork, whose child gets a copy of the tables."""
        self._lock.acquire()

    def let_go(self) -> None:
        """Undo ``hold``."""
        self._lock.release()

    def stats(self) -> dict[str, int]:
        """The numbers that the ``stats`` command tells, by their names there."""
        with self._lock:
            return self._store.stats(self._clock())


_servers: weakref.WeakSet[EmbeddedServer] = weakref.WeakSet()
_held: list[EmbeddedServer] = []
_forking = threading.RLock()
"""One fork at a time: ``_held`` is what the thread that forks must let go, and nobody else can."""


def _before_fork() -> None:
    _forking.acquire()
    for server in list(_servers):
        server.hold()
        _held.append(server)


def _after_fork() -> None:
    while _held:
        _held.pop().let_go()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _carry_out(store: Store, body: Body, now: float) -> bytes:
    line = body.line()
    if 0 in line:
        line = line[: line.index(0)]  # C strings end there
    words = line.split(b" ")
    if b"" in words:
        words = [word for word in words if word]
        if not words:
            return ERROR
    try:
        command = _LINE_COMMANDS.get(words[0])
        if command is not None:
            return command(store, words, now)
        with_data = _DATA_COMMANDS.get(words[0])
        return ERROR if with_data is None else with_data(store, words, body, now)
    except Refusal as refusal:
        return refusal.line
