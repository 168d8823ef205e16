"""The servers of one cache as one event loop sees them: a pipelined connection to each, and the tasks that go on by
themselves.

All of it belongs to one loop and is touched in its thread only, so there is not one lock here. Which server is up is
known to the cache's roster, which threads and other loops share.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from typing import Any, TypeVar

from cachekit.aio.connect import connect
from cachekit.aio.connection import Answer, AsyncConnection
from cachekit.aio.loopback import AsyncLoopback
from cachekit.aio.tasks import Tasks, unharmed
from cachekit.errors import DeadlineExceeded, ProtocolError, Refused, ServerError, Unreachable
from cachekit.meta import Parser
from cachekit.network import translated
from cachekit.ops import Exchange, LeaseVoid, Replies
from cachekit.roster import Roster

T = TypeVar("T")
AnyLine = AsyncConnection | AsyncLoopback

Patience = Callable[[], None]
"""What to tell of a cancellation, in place of giving up: there may be a lease in the answer, which is then heard."""

_UnderWay = tuple[AnyLine, Answer] | asyncio.Task[Replies] | ServerError

EXIT_S = 5.0
"""Seconds that ``aclose`` waits for what goes on in the background."""


class AsyncFleet:
    """One cache's connections in the running event loop.

    ``lines`` holds the connection that new requests to each server go over, None where there is none.
    """

    def __init__(self, roster: Roster) -> None:
        self.roster = roster
        self.loop = asyncio.get_running_loop()
        self.lines: list[AnyLine | None] = [None] * len(roster.servers)
        if roster.embedded is not None:
            self.lines[0] = AsyncLoopback(roster.embedded)
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._open: set[AsyncConnection] = set()
        self.tasks = Tasks(self.loop)
        self._guard: AsyncGenerator[None, None] | None = None

    # -- asking ------------------------------------------------------------------------------------------------------

    async def exchange(self, op: Exchange, patience: Patience | None = None) -> Replies:
        """Perform one exchange. Raises ``ServerError``."""
        try:
            return await self._exchange(op, time.monotonic(), patience)
        except Unreachable as error:
            if not self._may_repeat(op, error):
                raise
            return await self._exchange(op._replace(held_since=None), time.monotonic(), patience)

    async def _exchange(self, op: Exchange, since: float, patience: Patience | None) -> Replies:
        line, waited_since = self.ready(op), 0.0
        if line is None:
            line, waited_since = await self.open(op.server), since
            self._check_lease(op, line)
        sent_at = time.monotonic()
        answer = line.ask(op.request, op.expected, waited_since)
        return self.understood(op, line, await _heard(answer, patience), sent_at)

    def _may_repeat(self, op: Exchange, outcome: Replies | ServerError) -> bool:
        """The server may have closed a connection that lay idle. Nothing that is asked with ``retry`` changes twice."""
        if not (isinstance(outcome, Unreachable) and op.retry and self.roster.health[op.server].up):
            return False
        if op.lost is not None:
            op.lost()
        return True

    async def gather(self, ops: Sequence[Exchange], patience: Patience | None = None) -> list[Replies | ServerError]:
        """Perform exchanges with different servers at once; a server's failure is its own exchange's outcome."""
        since = time.monotonic()
        under_way = [self._begin(op, since, patience) for op in ops]
        try:
            pairs = zip(ops, under_way, strict=True)
            outcomes = [await self._outcome(op, each, since, patience) for op, each in pairs]
        except BaseException:
            for each in under_way:
                if not isinstance(each, ServerError):
                    (each[1] if isinstance(each, tuple) else each).cancel()
            raise
        # None waits for another's connection, nor for its repetition.
        again = {
            index: self.tasks.hold(self._exchange(op._replace(held_since=None), time.monotonic(), patience))
            for index, op in enumerate(ops)
            if self._may_repeat(op, outcomes[index])
        }
        for index, task in again.items():
            outcomes[index] = await self._outcome(ops[index], task, since, patience)
        return outcomes

    def _begin(self, op: Exchange, since: float, patience: Patience | None) -> _UnderWay:
        """Send ``op`` where a connection is open, else have that done as soon as one is."""
        try:
            line = self.ready(op)
        except ServerError as error:
            return error
        if line is None:
            return self.tasks.hold(self._exchange(op, since, patience))
        return line, line.ask(op.request, op.expected)

    async def _outcome(
        self, op: Exchange, under_way: _UnderWay, since: float, patience: Patience | None
    ) -> Replies | ServerError:
        try:
            if isinstance(under_way, tuple):
                return self.understood(op, under_way[0], await _heard(under_way[1], patience), since)
            if isinstance(under_way, ServerError):
                return under_way
            return await _heard(under_way, patience)
        except ServerError as error:
            return error

    def ready(self, op: Exchange) -> AnyLine | None:
        """The connection that ``op`` can go over; None: one must be opened, or the server be told something first.
        Raises ``Unreachable`` while the server is marked down, ``LeaseVoid`` where no connection is as old as the lease
        that ``op`` spends.
        """
        index, roster = op.server, self.roster
        suspect = index in roster.suspects
        if suspect:
            roster.check_up(index)
        line = self.lines[index]
        self._check_lease(op, line)
        return None if suspect and roster.waiting(index) else line

    def _check_lease(self, op: Exchange, line: AnyLine | None) -> None:
        if op.held_since is not None and (line is None or line.opened_at > op.held_since):
            name = self.roster.names[op.server]
            raise LeaseVoid(f"no connection to {name} is as old as the lease", server=name)

    def understood(self, op: Exchange, line: AnyLine, data: bytes, sent_at: float) -> Replies:
        """The replies in an answer, checked; what makes no sense closes the connection. Raises ``ProtocolError``."""
        try:
            replies = Parser().feed(data)
            ended = sum(reply.code != "VALUE" for reply in replies)
            expected = None if op.opaque is None else b"%d" % op.opaque
            odd = [reply for reply in replies if reply.code == "ERROR"]
            if ended != op.expected:
                raise ProtocolError(f"{line.name} sent something else than was asked for", server=line.name)
            others = expected is not None and any(r.opaque != expected for r in replies if r.code != "ERROR")
            if others or (op.fits is not None and not op.fits(replies)):
                raise ProtocolError(f"{line.name} answered another request", server=line.name)
        except ProtocolError as error:
            error.server = line.name
            self.broken(line, error)
            raise
        if line.index in self.roster.suspects:
            self.roster.succeeded(line.index)
        # Such a line bears no token; only SERVER_ERROR surely leaves the stream in step.
        if any(not (reply.error or "").startswith("SERVER_ERROR") for reply in odd):
            line.abort(Unreachable(f"{line.name} refused a command", server=line.name))
        return Replies(replies[op.skip :] if op.skip else replies, sent_at)

    def broken(self, line: AnyLine, error: ProtocolError) -> None:
        """An answer made no sense; behind it nothing on that connection does."""
        in_use = self._let_go(line)  # a connection is held against its server once
        line.abort(error)
        if in_use:
            self.roster.failed(line.index, error)

    # -- connections -------------------------------------------------------------------------------------------------

    async def open(self, index: int) -> AnyLine:
        """The connection to a server, opened for all who want it now; the server has been told what it has to be told.
        Raises ``ServerError``.
        """
        while (line := self.lines[index]) is None or self.roster.waiting(index):
            await self._opened(index)
        return line

    async def _opened(self, index: int) -> None:
        opening = self.open_soon(index)
        try:
            await unharmed(opening)
        except asyncio.CancelledError:
            here = asyncio.current_task()
            if opening.cancelled() and not (here is not None and here.cancelling()):  # by aclose()
                name = self.roster.names[index]
                raise Unreachable(f"{name}: the connection was closed", server=name) from None
            raise

    def open_soon(self, index: int) -> asyncio.Task[None]:
        """The task that opens the connection to a server, and tells it what it has to be told, for all who want it."""
        opening = self._opening.get(index)
        if opening is None:
            # In a context of its own: the transport keeps the one that it is made in, with all that a caller has in it.
            opening = self._opening[index] = self.tasks.hold(self._open_line(index), Context())
            opening.add_done_callback(lambda _: self._opening.pop(index, None))
        return opening

    async def _open_line(self, index: int) -> None:
        roster, server = self.roster, self.roster.servers[index]
        roster.check_up(index)
        if (line := self.lines[index]) is not None and await self._told(line):
            return
        await self._begin_guard()
        connection = AsyncConnection(index, server, roster.deadline_s, self)
        self._open.add(connection)
        connected = False
        try:
            async with _within(roster.deadline_s):
                await connect(connection)
                connected = True
                if index not in roster.versions_known:
                    (reply,) = Parser().feed(await connection.ask(b"version\r\n", 1))
                    roster.note_version(index, reply)
            if connection.closed:  # before it was used: kept, it would be in the way of every other
                raise Unreachable(f"{server.name} closed the connection", server=server.name)
        except BaseException as error:
            connection.close()
            roster.versions_known.discard(index)
            if not isinstance(error, OSError | ServerError):
                raise
            failure = error if isinstance(error, ServerError) else translated(error, server)
            roster.failed(index, failure, refused=not connected)
            raise failure from error
        connection.heard = False  # since it went into service
        self.lines[index] = connection

    async def _told(self, line: AnyLine) -> bool:
        """Tell a server what it has to be told, over the connection that there is; False where that turns out to have
        been closed. Raises ``ServerError``.
        """
        try:
            async with _within(self.roster.deadline_s):
                await self._tell(line)
        except Unreachable:
            if self.lines[line.index] is line:
                raise
            return False
        except Refused as error:
            self.roster.failed(line.index, error)
            raise
        except TimeoutError as error:
            if isinstance(error, DeadlineExceeded):
                raise
            raise DeadlineExceeded(f"{line.name} did not answer in time", server=line.name) from error
        return True

    async def _tell(self, line: AnyLine) -> None:
        """Tell a server all that it has to be told, lot after bounded lot. Requests wait until it has acknowledged:
        right behind on the line they would be answered also where it refuses. Raises ``ServerError``.
        """
        roster, index = self.roster, line.index
        while roster.waiting(index):
            lot, replies = roster.lot(index), []
            if lot:
                asked = Exchange(index, lot.request(), lot.expected, lot.opaque)
                data = await line.ask(asked.request, asked.expected)
                replies = self.understood(asked, line, data, 0.0).replies
            roster.settle(index, lot.items, replies)

    def overdue(self, connection: AsyncConnection, silent: bool) -> None:
        """Nothing more is asked on that connection. Where its server was silent the next one is opened at once: should
        that be silent too, the server is down, and only those have waited who asked before.
        """
        if self._let_go(connection) and silent:
            late = f"{connection.name} did not answer in time"
            self.roster.failed(connection.index, DeadlineExceeded(late, server=connection.name))
            self.open_soon(connection.index)

    def lost(self, connection: AsyncConnection, asked: bool) -> None:
        """That connection is closed. Where it was of use before, the next connect tells whether its server still
        listens; where it was closed upon the first thing that was ``asked``, that is held against the server.
        """
        self._open.discard(connection)
        if self._let_go(connection) and asked and not connection.heard:
            error = Unreachable(f"{connection.name} closed the connection", server=connection.name)
            self.roster.failed(connection.index, error)

    def _let_go(self, connection: AnyLine) -> bool:
        """Ask nothing more there; whether it was the one that is asked."""
        if self.lines[connection.index] is not connection or isinstance(connection, AsyncLoopback):
            return False
        self.lines[connection.index] = None
        self.roster.versions_known.discard(connection.index)
        return True

    # -- the end -----------------------------------------------------------------------------------------------------

    def close_lines(self) -> None:
        """Close every connection, at once."""
        for connection in list(self._open):
            connection.close()

    async def aclose(self) -> None:
        """Wait up to 5 s for what goes on though nobody waits for it, end what has not ended by then, and close the
        connections. Calls that go on are not touched: they open connections again. Idempotent.
        """
        await self.tasks.drain(EXIT_S)
        for opening in list(self._opening.values()):
            opening.cancel()
        await self._end(self.tasks.alone)
        guard, self._guard = self._guard, None
        if guard is not None:
            await guard.aclose()

    async def _end(self, tasks: set[asyncio.Task[Any]]) -> None:
        """Wait for ``tasks`` that were cancelled, each of which may still give a lease back, and for answers with a
        lease in them; then close the connections.
        """
        until = self.loop.time() + 2 * self.roster.deadline_s
        await self.tasks.end(tasks, 2 * self.roster.deadline_s)
        while any(connection.owes for connection in self._open) and self.loop.time() < until:
            await asyncio.sleep(0.001)
            await self.tasks.end(tasks, until - self.loop.time())
        self.close_lines()
        await asyncio.sleep(0)  # the transports close their sockets in the next turn

    async def _begin_guard(self) -> None:
        if self._guard is None:
            self._guard = self._until_the_loop_ends()
            await anext(self._guard)

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        """``asyncio.run`` closes every asynchronous generator at its end: so the connections of a program that does not
        call ``aclose`` are closed in time.
        """
        try:
            yield
        finally:
            if self._guard is not None:  # else aclose() has seen to it
                with suppress(asyncio.CancelledError):
                    await self._end(self.tasks.all)


async def _heard(answer: asyncio.Future[T], patience: Patience | None) -> T:
    """What comes; with ``patience`` also where the wait is cancelled."""
    if patience is None:
        return await answer
    while True:
        try:
            return await unharmed(answer)
        except asyncio.CancelledError:
            if answer.cancelled():
                raise
            patience()


@asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    """Inside there are ``seconds``; raises ``TimeoutError`` after that. A loop that was kept busy by something else, so
    that the time was up before anything could be heard, gets them once more.
    """
    loop = asyncio.get_running_loop()
    until = time.monotonic() + seconds

    def look() -> None:
        if time.monotonic() > until:
            timeout.reschedule(loop.time() + seconds)

    async with asyncio.timeout(seconds) as timeout:
        busy = loop.call_later(seconds * 0.9, look)
        try:
            yield
        finally:
            busy.cancel()
