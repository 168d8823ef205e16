"""The servers of one cache as its threads see them: connections on shelves.

Every thread has a shelf of its own with one connection per server, so no lock stands on the way to a server. Whoever
asks takes the connection off the shelf and puts it back after a full reply; so a connection that was interrupted is
never seen again, and code that breaks in (a signal handler, a finalizer) finds an empty shelf and opens another.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from cachekit.errors import DeadlineExceeded, ProtocolError, ServerError, Unreachable
from cachekit.meta import Reply
from cachekit.ops import Exchange, LeaseVoid, Replies
from cachekit.roster import Roster
from cachekit.sync.connection import Connection, Request
from cachekit.sync.loopback import Loopback

if TYPE_CHECKING:
    from cachekit.sync.pool import Pool

AnyConnection = Connection | Loopback


class Shelves(threading.local):
    """One row of idle connections per server, for the current thread."""

    def __init__(self, servers: int) -> None:
        self.rows: list[list[AnyConnection]] = [[] for _ in range(servers)]


class Fleet(Roster):
    """The servers behind one cache, with the connections of its threads."""

    def _begin(self) -> None:
        super()._begin()
        self.shelves = Shelves(len(self.servers))
        self._pool: Pool | None = None

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
            self.versions_known.discard(index)
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
        if index not in self.versions_known:
            try:
                (reply,) = connection.exchange(b"version\r\n", 1)
                self.note_version(index, reply)
            except ServerError as error:
                self.failed(index, error)
                raise
        return connection

    def exchange(self, op: Exchange) -> Replies:
        """Perform one exchange. Raises ``ServerError``."""
        try:
            replies, sent_at = self.converse(op.server, op.request, op.expected, op.opaque, op.held_since, op.fits)
        except Unreachable:
            # The server may have closed a connection that lay idle. Nothing that is asked with ``retry`` changes twice.
            if not op.retry or not self.health[op.server].up:
                raise
            if op.lost is not None:
                op.lost()
            self.drop(op.server)
            replies, sent_at = self.converse(op.server, op.request, op.expected, op.opaque, fits=op.fits)
        return Replies(replies[op.skip :] if op.skip else replies, sent_at)

    def converse(
        self,
        index: int,
        request: Request,
        expected: int,
        opaque: int | None,
        held_since: float | None = None,
        fits: Callable[[list[Reply]], bool] | None = None,
    ) -> tuple[list[Reply], float]:
        """Send ``request`` to a server; its ``expected`` replies, each under ``opaque`` and together as ``fits`` wants
        them, and the monotonic seconds just before it was sent, with the connection open. Raises ``ServerError``.
        """
        if self.suspects:
            self.admit(index)
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
            if fits is not None and not fits(replies):
                connection.close()
                raise ProtocolError(f"{self.names[index]} answered another request", server=self.names[index])
        except ServerError as error:
            # That an idle connection was closed says nothing of the server; whether it still listens, the next connect
            # tells.
            if not (was_open and isinstance(error, Unreachable)):
                self.failed(index, error)
            raise
        self.put(index, connection)
        return replies, sent_at

    def admit(self, index: int) -> None:
        """Raise ``Unreachable`` at once while the server is marked down; else tell it what it has to be told before it
        is asked anything. Raises ``ServerError``.
        """
        self.check_up(index)
        if self.waiting(index):
            began = time.monotonic()
            for error in self.tell_first((index,)).values():
                raise error
            for connection in self.shelves.rows[index][-1:]:
                connection.count_in(time.monotonic() - began)

    def tell_first(self, servers: Iterable[int]) -> dict[int, ServerError]:
        """Tell ``servers`` what they have to be told, all at once, and by one deadline; which could not be told, and
        why.
        """
        untold = [index for index in servers if self.waiting(index)]
        if not untold:
            return {}
        from cachekit.sync import replaying  # noqa: PLC0415 - hardly ever needed

        if os.getpid() != self.pid:
            self.forked()
        return replaying.tell(self, untold)

    def tell(self) -> None:
        """Try once, for at most a deadline, to tell the servers that are up what they have not been told."""
        untold = [index for index, health in enumerate(self.health) if health.up and self.waiting(index)]
        self.tell_first(untold)
        for index in untold:
            self.drop(index)

    def drop(self, index: int) -> None:
        """Close this thread's idle connections to a server."""
        self.versions_known.discard(index)
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
        if self.embedded is None and (isinstance(error, DeadlineExceeded) or refused):
            self.drop(index)
        super().failed(index, error, refused=refused)

    def try_server(self, index: int) -> None:
        """Connect to a server, have it say its version, and tell it what it has to be told: what is kept near of it is
        from before its restart, if it had one. Raises ``ServerError``.
        """
        connection = Connection(self.servers[index], self.deadline_s)
        try:
            (reply,) = connection.exchange(b"version\r\n", 1)
            self.note_version(index, reply)
            self.versions_known.discard(index)  # it may be restarted once more before it is used
            if self.waiting(index):
                from cachekit.sync import replaying  # noqa: PLC0415 - hardly ever needed

                replaying.tell_over(connection, self, index)
        finally:
            connection.close()

    def works_in_background(self) -> bool:
        """Whether ``drain`` may have to wait."""
        return self._pool is not None or any(map(self.waiting, range(len(self.servers))))

    def drain(self) -> None:
        """Wait up to 5 s for background work, and try once to tell servers what they have not been told."""
        pool, self._pool = self._pool, None
        if pool is not None and os.getpid() == self.pid:
            pool.drain()
        self.tell()

    def close(self, *, drained: bool = False) -> None:
        """Wait up to 5 s for background work, try once to tell servers what they have not been told, end the probe, and
        close this thread's connections; the other threads' close with their threads. ``drained``: the first two are
        done.
        """
        if not drained:
            self.drain()
        self.stop_probing()
        if self.outbox is not None and self.outbox.spool is not None:
            self.outbox.spool.close()
        for index in range(len(self.servers)):
            self.drop(index)
        self.shelves = Shelves(len(self.servers))
