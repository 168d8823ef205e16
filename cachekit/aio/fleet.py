"""The servers of one cache as one event loop sees them: a pipelined connection to each, and the tasks that go on by
themselves.

All of it belongs to one loop and is touched in its thread only, so there is not one lock here. Which server is up is
known to the cache's roster, which threads and other loops share.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from cachekit.aio.connection import Answer, AsyncConnection, connect
from cachekit.aio.loopback import AsyncLoopback
from cachekit.errors import DeadlineExceeded, ProtocolError, ServerError, Unreachable
from cachekit.health import STRIKES
from cachekit.meta import Parser
from cachekit.network import translated
from cachekit.ops import Exchange, LeaseVoid, Replies
from cachekit.roster import Roster

AnyLine = AsyncConnection | AsyncLoopback

_UnderWay = tuple[AnyLine, Answer] | asyncio.Task[Replies] | ServerError

BACKGROUND = 64
"""Most refreshes in the background at the same time, of one cache in one loop."""

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
        self._opening: dict[int, asyncio.Task[AsyncConnection]] = {}
        self._open: set[AsyncConnection] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._alone: set[asyncio.Task[Any]] = set()
        self._refreshes: set[asyncio.Task[Any]] = set()
        self._guard: AsyncGenerator[None, None] | None = None

    # -- asking ------------------------------------------------------------------------------------------------------

    async def exchange(self, op: Exchange) -> Replies:
        """Perform one exchange. Raises ``ServerError``."""
        try:
            return await self._exchange(op, time.monotonic())
        except Unreachable as error:
            if not self._may_repeat(op, error):
                raise
            return await self._exchange(op._replace(held_since=None), time.monotonic())

    async def _exchange(self, op: Exchange, since: float) -> Replies:
        line = self.ready(op) or await self.open(op.server)
        sent_at = time.monotonic()
        return self.understood(op, line, await line.ask(op.request, op.expected, since), sent_at)

    def _may_repeat(self, op: Exchange, outcome: Replies | ServerError) -> bool:
        """The server may have closed a connection that lay idle. Nothing that is asked with ``retry`` changes twice."""
        return isinstance(outcome, Unreachable) and op.retry and self.roster.health[op.server].up

    async def gather(self, ops: Sequence[Exchange]) -> list[Replies | ServerError]:
        """Perform exchanges with different servers at once; a server's failure is its own exchange's outcome."""
        since = time.monotonic()
        under_way = [self._begin(op, since) for op in ops]
        try:
            outcomes = [await self._outcome(op, each, since) for op, each in zip(ops, under_way, strict=True)]
        except BaseException:
            for each in under_way:
                if not isinstance(each, ServerError):
                    (each[1] if isinstance(each, tuple) else each).cancel()
            raise
        # None waits for another's connection, nor for its repetition.
        again = {
            index: self.hold(self._exchange(op._replace(held_since=None), time.monotonic()))
            for index, op in enumerate(ops)
            if self._may_repeat(op, outcomes[index])
        }
        for index, task in again.items():
            outcomes[index] = await self._outcome(ops[index], task, since)
        return outcomes

    def _begin(self, op: Exchange, since: float) -> _UnderWay:
        """Send ``op`` where a connection is open, else have that done as soon as one is."""
        try:
            line = self.ready(op)
        except ServerError as error:
            return error
        if line is None:
            return self.hold(self._exchange(op, since))
        return line, line.ask(op.request, op.expected, since)

    async def _outcome(self, op: Exchange, under_way: _UnderWay, since: float) -> Replies | ServerError:
        try:
            if isinstance(under_way, tuple):
                return self.understood(op, under_way[0], await under_way[1], since)
            return under_way if isinstance(under_way, ServerError) else await under_way
        except ServerError as error:
            return error

    def ready(self, op: Exchange) -> AnyLine | None:
        """The connection that ``op`` can go over; None: one must be opened. Raises ``Unreachable`` while the server is
        marked down, ``LeaseVoid`` where no connection is as old as the lease that ``op`` spends.
        """
        index, held_since = op.server, op.held_since
        if index in self.roster.suspects:
            self.roster.check_up(index)
        line = self.lines[index]
        if held_since is not None and (line is None or line.opened_at > held_since):
            name = self.roster.names[index]
            raise LeaseVoid(f"no connection to {name} is as old as the lease", server=name)
        return line

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
        in_use = self.lines[line.index] is line  # a connection is held against its server once
        line.abort(error)
        if in_use:
            self.roster.failed(line.index, error)

    # -- connections -------------------------------------------------------------------------------------------------

    async def open(self, index: int) -> AnyLine:
        """The connection to a server, opened for all who want it now. Raises ``ServerError``."""
        line = self.lines[index]
        return line if line is not None else await asyncio.shield(self.open_soon(index))

    def open_soon(self, index: int) -> asyncio.Task[AsyncConnection]:
        """The task that opens the connection to a server, for all who want it."""
        opening = self._opening.get(index)
        if opening is None:
            opening = self._opening[index] = self.hold(self._open_line(index))
            opening.add_done_callback(lambda _: self._opening.pop(index, None))
        return opening

    async def _open_line(self, index: int) -> AsyncConnection:
        roster, server = self.roster, self.roster.servers[index]
        roster.check_up(index)
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
            if isinstance(error, asyncio.CancelledError):  # by aclose(): who waits here has not been cancelled himself
                raise Unreachable(f"{server.name}: the connection was closed", server=server.name) from None
            if not isinstance(error, OSError | ServerError):
                raise
            failure = error if isinstance(error, ServerError) else translated(error, server)
            roster.failed(index, failure, refused=not connected)
            raise failure from error
        self.lines[index] = connection
        return connection

    def overdue(self, connection: AsyncConnection, unanswered: int) -> None:
        """Nothing more is asked on that connection; the server may be marked down. Two requests that got no answer are
        two strikes, as they are where two threads ask.
        """
        if self._let_go(connection):
            for _ in range(min(unanswered, STRIKES)):
                late = f"{connection.name} did not answer in time"
                self.roster.failed(connection.index, DeadlineExceeded(late, server=connection.name))

    def lost(self, connection: AsyncConnection) -> None:
        """That connection is closed. Whether its server still listens, the next connect tells."""
        self._open.discard(connection)
        self._let_go(connection)

    def _let_go(self, connection: AsyncConnection) -> bool:
        """Ask nothing more there; whether it was the one that is asked."""
        if self.lines[connection.index] is not connection:
            return False
        self.lines[connection.index] = None
        self.roster.versions_known.discard(connection.index)
        return True

    # -- tasks that nobody waits for ---------------------------------------------------------------------------------

    def hold(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task for ``work``, kept until it is done: a loop itself keeps only a weak reference."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        for tasks in (self._tasks, self._alone, self._refreshes):
            tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever is interested has heard of it

    def leave_alone(self, task: asyncio.Task[Any]) -> None:
        """Nobody waits for ``task`` any more, but ``aclose``."""
        self._alone.add(task)

    def refresh(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Have a refresh go on in the background; False where there is no room for one more."""
        if len(self._refreshes) >= BACKGROUND:
            work.close()
            return False
        task = self.hold(work)
        self._refreshes.add(task)
        self._alone.add(task)
        return True

    def close_lines(self) -> None:
        """Close every connection, at once."""
        for connection in list(self._open):
            connection.close()

    def cancel_refreshes(self) -> None:
        """Cancel every refresh in the background; each gives its claim back."""
        for task in list(self._refreshes):
            task.cancel()

    async def aclose(self) -> None:
        """Wait up to 5 s for what goes on though nobody waits for it, end what has not ended by then, and close the
        connections. Calls that go on are not touched: they open connections again. Idempotent.
        """
        until = self.loop.time() + EXIT_S
        while (going := self._but_this(self._alone)) and self.loop.time() < until:
            await asyncio.wait(going, timeout=until - self.loop.time())
        await self._end(self._alone)
        guard, self._guard = self._guard, None
        if guard is not None:
            await guard.aclose()

    def _but_this(self, tasks: set[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
        return [task for task in tasks if task is not asyncio.current_task()]

    async def _end(self, tasks: set[asyncio.Task[Any]]) -> None:
        """End ``tasks``, each of which may still give a lease back, and close the connections."""
        # A connect that is ended is not held against the server; one that is closed under its feet would be.
        going = self._but_this({*tasks, *self._opening.values()})
        for task in going:
            task.cancel()
        if going:
            await asyncio.wait(going, timeout=self.roster.deadline_s)
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
                    await self._end(self._tasks)


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
