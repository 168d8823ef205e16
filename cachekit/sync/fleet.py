"""The servers of one cache as its threads see them: connections on shelves, health, and the probe of what is down.

Every thread has a shelf of its own with one connection per server, so no lock stands on the way to a server. Whoever
asks takes the connection off the shelf and puts it back after a full reply; so a connection that was interrupted is
never seen again, and code that breaks in (a signal handler, a finalizer) finds an empty shelf and opens another.
"""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from cachekit.errors import DeadlineExceeded, ServerError, Unreachable
from cachekit.health import Health
from cachekit.hooks import Hooks, ServerState
from cachekit.meta import Reply
from cachekit.ops import Exchange, LeaseVoid, Replies
from cachekit.ring import Ring
from cachekit.servers import Server, Target
from cachekit.sync.connection import Connection, Request
from cachekit.sync.loopback import Loopback

if TYPE_CHECKING:
    from cachekit.embedded import EmbeddedServer
    from cachekit.sync.pool import Pool

logger = logging.getLogger("cachekit")

AnyConnection = Connection | Loopback

EXPLICIT_CAS = (1, 6, 27)
"""The first version that knows the E flag: a CAS number that the client chooses."""


class Shelves(threading.local):
    """One row of idle connections per server, for the current thread."""

    def __init__(self, servers: int) -> None:
        self.rows: list[list[AnyConnection]] = [[] for _ in range(servers)]


class Fleet:
    """The servers behind one cache.

    ``suspects`` holds the indexes of the servers that failed last time; the hit path leaves them to ``exchange``, which
    knows whether they are down. ``clock``: seconds since the epoch, for the embedded server.
    """

    def __init__(
        self,
        target: Target,
        hooks: Hooks,
        on_fork: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.deadline_s = target.options.deadline_s
        self.hooks = hooks
        self.embedded: EmbeddedServer | None = None
        if target.scheme == "memory":
            from cachekit.embedded import EmbeddedServer  # noqa: PLC0415 - nine modules that a real server replaces

            options = target.options
            self.embedded = EmbeddedServer(
                memory_bytes=options.memory_bytes, item_bytes=options.max_value_bytes, clock=clock
            )
            self.servers: tuple[Server, ...] = (Server(name="memory:", path="memory:"),)
        else:
            self.servers = target.servers
        self.ring = Ring(self.servers)
        self.servers = self.ring.servers
        self.names = tuple(server.name for server in self.servers)
        self.health = [Health() for _ in self.servers]
        self.suspects: set[int] = set()
        self.explicit: set[int] = set()
        self._asked: set[int] = set()
        self.on_fork = on_fork
        self._begin()
        _fleets.add(self)

    def _begin(self) -> None:
        self.pid = os.getpid()
        self.shelves = Shelves(len(self.servers))
        self._lock = threading.RLock()  # a signal handler may come here while its thread is in here
        self._prober: threading.Thread | None = None
        self._stop = self._watched_by = threading.Event()
        self._pool: Pool | None = None

    def forked(self) -> None:
        """This is a child process now: nothing that the parent's threads hold may be touched, only left behind."""
        self._begin()
        self.on_fork()

    # -- asking ------------------------------------------------------------------------------------------------------

    def take(self, index: int, held_since: float | None = None) -> AnyConnection:
        """A connection of this thread to the server, off the shelf or new. Raises ``ServerError``.

        ``held_since``: only one opened before that (monotonic seconds) will do; else ``LeaseVoid``.
        """
        if os.getpid() != self.pid:
            self.forked()
        row = self.shelves.rows[index]
        if held_since is not None:
            for at, connection in enumerate(row):
                if connection.opened_at <= held_since:
                    return row.pop(at)
            raise LeaseVoid(f"no connection to {self.names[index]} is as old as the lease", server=self.names[index])
        return row.pop() if row else self.connect(index)

    def put(self, index: int, connection: AnyConnection) -> None:
        """Back on the shelf, after a full reply."""
        if connection.closed:
            self._asked.discard(index)
        else:  # after a CLIENT_ERROR the reply is whole, but the stream may be out of step
            self.shelves.rows[index].append(connection)
        if index in self.suspects:
            self.succeeded(index)

    def connect(self, index: int) -> AnyConnection:
        """A new connection. Raises ``ServerError``; the server is then marked down."""
        if self.embedded is not None:
            return Loopback(self.embedded)
        self.check_up(index)
        try:
            connection = Connection(self.servers[index], self.deadline_s)
        except ServerError as error:
            self.failed(index, error, refused=True)
            raise
        if index not in self._asked:
            self._ask_version(index, connection)
        return connection

    def _ask_version(self, index: int, connection: Connection) -> None:
        """Learn whether the server takes CAS numbers from its client; again after whatever may have been its restart.
        Raises ``ServerError``.
        """
        try:
            (reply,) = connection.exchange(b"version\r\n", 1)
        except ServerError as error:
            self.failed(index, error)
            raise
        knows = reply.code == "VERSION" and _version(reply.value or b"") >= EXPLICIT_CAS
        (self.explicit.add if knows else self.explicit.discard)(index)
        self._asked.add(index)

    def check_up(self, index: int) -> None:
        """Raise ``Unreachable`` at once while the server is marked down."""
        if not self.health[index].up:
            self._watch()
            raise Unreachable(f"{self.names[index]} is marked down", server=self.names[index])

    def exchange(self, op: Exchange) -> Replies:
        """Perform one exchange. Raises ``ServerError``."""
        try:
            replies, sent_at = self.converse(op.server, op.request, op.expected, op.opaque, op.held_since)
        except Unreachable:
            # The server may have closed a connection that lay idle. Nothing that is asked with ``retry`` changes twice.
            if not op.retry or not self.health[op.server].up:
                raise
            self.drop(op.server)
            replies, sent_at = self.converse(op.server, op.request, op.expected, op.opaque)
        return Replies(replies[op.skip :] if op.skip else replies, sent_at)

    def converse(
        self, index: int, request: Request, expected: int, opaque: int | None, held_since: float | None = None
    ) -> tuple[list[Reply], float]:
        """Send ``request`` to a server; its ``expected`` replies, each under ``opaque``, and the monotonic seconds just
        before it was sent, with the connection open. Raises ``ServerError``.
        """
        if self.suspects:
            self.check_up(index)
        row = self.shelves.rows[index]
        was_open = bool(row)
        # The pid first: after a call a signal handler may run, and may empty the row by ``close``.
        if os.getpid() == self.pid and row and (held_since is None or row[-1].opened_at <= held_since):
            connection = row.pop()
        else:
            connection = self.take(index, held_since)
        sent_at = time.monotonic()
        try:
            replies = connection.exchange(request, expected, opaque)
        except ServerError as error:
            # That an idle connection was closed says nothing of the server; whether it still listens, the next connect
            # tells.
            if not (was_open and isinstance(error, Unreachable)):
                self.failed(index, error)
            raise
        self.put(index, connection)
        return replies, sent_at

    def drop(self, index: int) -> None:
        """Close this thread's idle connections to a server."""
        self._asked.discard(index)
        row = self.shelves.rows[index]
        while row:
            row.pop().close()

    def background(self) -> Pool:
        """The threads that refresh in the background, of this process."""
        if os.getpid() != self.pid:
            self.forked()
        with self._lock:
            if self._pool is None:
                from cachekit.sync.pool import Pool  # noqa: PLC0415 - few caches refresh in the background

                self._pool = Pool()
            return self._pool

    # -- health ------------------------------------------------------------------------------------------------------

    def failed(self, index: int, error: ServerError, *, refused: bool = False) -> None:
        """Note a failure; the server may be marked down by it."""
        if self.embedded is not None:
            return
        if isinstance(error, DeadlineExceeded) or refused:
            self.drop(index)
        with self._lock:
            self.suspects.add(index)
            down = self.health[index].failed(time.monotonic(), random.random, refused=refused)
        if down:
            logger.warning("memcached server %s is marked down: %s", self.names[index], error)
            if self.hooks.on_server:
                self.hooks.on_server.emit(ServerState(self.names[index], up=False))
            self._watch()

    def succeeded(self, index: int) -> None:
        """Note a full reply; the server is up."""
        with self._lock:
            back = self.health[index].succeeded()
            self.suspects.discard(index)
        if back:
            logger.info("memcached server %s is back", self.names[index])
            if self.hooks.on_server:
                self.hooks.on_server.emit(ServerState(self.names[index], up=True))

    def _watch(self) -> None:
        """Have the probe running while anything is down."""
        with self._lock:
            if self._prober is not None and self._prober.is_alive() and self._watched_by is self._stop:
                return
            self._watched_by = self._stop
            self._prober = threading.Thread(
                target=_probe, args=(weakref.ref(self), self._stop), name="cachekit-probe", daemon=True
            )
            try:
                self._prober.start()
            except RuntimeError:
                # No thread can be had: there are too many, or the interpreter is ending. The next caller tries again.
                self._prober = None

    def probe(self) -> float | None:
        """Try the servers that are due; seconds until the next probe, None when all are up."""
        for index, health in enumerate(self.health):
            if health.up or health.probe_due_in(time.monotonic()) > 0:
                continue
            try:
                connection = Connection(self.servers[index], self.deadline_s)
                connection.exchange(b"mn\r\n", 1)
                connection.close()
            except ServerError:
                with self._lock:
                    health.failed(time.monotonic(), random.random)
            else:
                self.succeeded(index)
        pauses = [health.probe_due_in(time.monotonic()) for health in self.health if not health.up]
        return min(pauses) if pauses else None

    def close(self) -> None:
        """Wait up to 5 s for background work, end the probe, and close this thread's connections; the other threads'
        close with their threads.
        """
        pool, self._pool = self._pool, None
        if pool is not None and os.getpid() == self.pid:
            pool.drain()
        self._stop.set()
        self._stop = threading.Event()  # a later use may need a probe of its own
        for index in range(len(self.servers)):
            self.drop(index)
        self.shelves = Shelves(len(self.servers))


def _version(text: bytes) -> tuple[int, ...]:
    """The leading numbers of a version: ``1.6.18`` and ``1.6.18-cachekit`` alike."""
    found = re.match(rb"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(b".")) if found else ()


def _probe(fleet: weakref.ref[Fleet], stop: threading.Event) -> None:
    """The probe's thread. It holds the fleet only while it works, so that a forgotten cache can go."""
    while True:
        alive = fleet()
        pause = alive.probe() if alive is not None else None
        del alive
        if pause is None or stop.wait(max(0.01, pause)):
            return


_fleets: weakref.WeakSet[Fleet] = weakref.WeakSet()


def _after_fork() -> None:
    for fleet in list(_fleets):
        fleet.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
