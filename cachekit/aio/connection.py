"""One connection to one server for all tasks of an event loop: pipelined, one write per loop turn.

Every task's request goes out at once, and the replies come back in the order of the requests; so each request has a
*slot*, and the slots stand in line. What a task asks for in one turn of the loop leaves in one write, and one read
brings many replies: that is what makes it cheap.

**Nobody disturbs another's reply.** A task that is cancelled, or whose time is up, leaves its slot standing; the reply
is taken off the stream when it comes and dropped, or given to who was left in charge of it (``entrust``): a lease may
be in it. A server that has said nothing for a deadline loses the connection for new requests (``overdue``): those
already sent wait on it, each to its own deadline. So a silent server costs every task its deadline and no more, and a
huge value that takes long to arrive does not stall those who come later.

**Back-pressure.** At most ``MAX_REQUESTS`` requests and ``MAX_BYTES`` bytes are under way; who comes then stands in a
queue, which counts for his deadline too. While the transport can't get rid of what it has, nothing is given to it.

What a reply means is not looked at here but for where it ends; whoever asked checks the token in it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from cachekit.aio.answers import end_of
from cachekit.aio.deadlines import Deadlines
from cachekit.aio.gets import Gets, Stored
from cachekit.aio.turns import Read, Turn
from cachekit.aio.unclaimed import Late, Unclaimed
from cachekit.errors import ProtocolError, ServerError, Unreachable
from cachekit.ops import BATCH_KEYS
from cachekit.servers import Server

MAX_REQUESTS = 1024
"""Most requests under way on one connection."""

MAX_BYTES = 1 << 20
"""Most bytes of large requests under way on one connection, a single larger one excepted."""

SMALL_BYTES = 1024
"""Up to here a request is small: it is counted, and not measured."""

ROOM = 8
"""Commands for which there is always room in an open turn: a read, and its questions."""

_BUFFER_BYTES = 65_536
_monotonic = time.monotonic

Answer = asyncio.Future[bytes]
"""All the bytes of the replies to one request."""

Taker = Gets | Turn
"""Many requests that stand in line as one, and take their answer off the stream by themselves."""

Slot = tuple[Any, int, float, int]
"""One request under way: who waits for its answer (a future, or a ``Taker``), how many replies end it (0 for a taker),
when it was asked (monotonic seconds), and how many bytes it had where that counts. (A plain tuple, for speed.)
"""


class Owner(Protocol):
    """Who is told what becomes of a connection."""

    def overdue(self, connection: AsyncConnection, silent: bool, /) -> None:
        """A deadline has passed, and nothing more should be asked here. ``silent``: the server said nothing at all, so
        it is not only slow.
        """

    def broken(self, connection: AsyncConnection, error: ProtocolError, /) -> None:
        """What came makes no sense: close the connection with ``error``."""

    def lost(self, connection: AsyncConnection, asked: bool, /) -> None:
        """The connection is closed. ``asked``: something was that got no answer."""


class AsyncConnection(asyncio.BufferedProtocol):
    """A connection, open once ``connect`` has returned it. ``opened_at``: monotonic seconds; a lease is only good on an
    older one. ``heard``: whether an answer has come.
    """

    def __init__(self, index: int, server: Server, deadline_s: float, owner: Owner) -> None:
        self.index, self.server, self.name = index, server, server.name
        self.deadline_s = deadline_s
        self.opened_at = self.heard_at = _monotonic()
        self.closed = self.heard = False
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._call_soon = self._loop.call_soon
        # What loop.create_future() does, without a call of Python's.
        self._create_future: Callable[[], Answer] = partial(asyncio.Future, loop=self._loop)
        self._create_read: Callable[[], Read] = partial(asyncio.Future, loop=self._loop)
        self._create_stored: Callable[[], Stored] = partial(asyncio.Future, loop=self._loop)
        self._turn_at = self.opened_at
        self._transport: asyncio.Transport | None = None
        self._slots: deque[Slot] = deque()
        self._queue: deque[tuple[Slot, bytes]] = deque()
        self._unclaimed = Unclaimed(self._call_soon)
        self.turn: Turn | None = None
        self._gets: Gets | None = None
        self._out: list[bytes] = []
        self._bytes = 0
        self._held = False
        self._deadlines = Deadlines(self, self._loop)
        self.retired_at: float | None = None
        # What was read and not yet given out, and how far it was looked through: the head of the line ends after
        # ``_left`` more replies, the next of which begins at ``_at``.
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._end = self._at = self._need = 0
        self._left = 0

    # -- asking ------------------------------------------------------------------------------------------------------

    def ask(self, request: bytes, expected: int, since: float = 0.0) -> Answer:
        """Send ``request``; the future of its ``expected`` replies. It fails with a ``ServerError``.

        ``since``: monotonic seconds from which its deadline counts, now where it is 0.
        """
        answer: Answer = self._create_future()
        self._enter(answer, request, expected, since)
        return answer

    def open_turn(self, opaque: int, number: int) -> Turn:
        """Open the turn in which reads go out together from now on, with a token and perhaps a CAS number for its
        questions. While it is open ``turn`` holds it, and there is ``ROOM`` in it.
        """
        if not self._out:
            self._call_soon(self._flush)
        turn = self.turn = Turn(opaque, number)
        return turn

    def make_room(self, commands: int) -> None:
        """See to it that ``turn`` has room for so many reads and questions, if it is open."""
        turn = self.turn
        if turn is not None and len(turn.reads) + len(turn.tags) + len(turn.generations) + commands > BATCH_KEYS:
            self._end_turn()

    def read(self, request: bytes, turn: Turn) -> Read:
        """Read one entry in the open turn; the future of its one reply, and of the turn. It fails with a
        ``ServerError``.
        """
        answer: Read = self._create_read()
        turn.requests.append(request)
        turn.reads.append(answer)
        if len(turn.reads) + len(turn.tags) + len(turn.generations) > BATCH_KEYS - ROOM:
            self._end_turn()
        return answer

    def _end_turn(self) -> None:
        turn, self.turn = self.turn, None
        if turn is not None:
            self._enter(turn, turn.request(), 0, 0.0)

    def get(self, key: bytes) -> Stored:
        """Read a plain value, together with whatever else is read in this turn of the loop. Fails with a
        ``ServerError``.
        """
        stored: Stored = self._create_stored()
        gets = self._gets
        if gets is None:
            gets = self._gets = Gets()
            self._call_soon(self._flush)
        if gets.waiting.setdefault(key, stored) is not stored:
            gets.same.setdefault(key, []).append(stored)
        elif len(gets.waiting) >= BATCH_KEYS:
            self._enter_gets()
        return stored

    def _enter_gets(self) -> None:
        gets, self._gets = self._gets, None
        if gets is not None and not gets.done():
            self._enter(gets, gets.request(), 0, 0.0)

    def _enter(self, answer: Answer | Taker, request: bytes, expected: int, since: float) -> None:
        """Give a request its place in line."""
        out = self._out
        if not out:  # all that is asked in one turn of the loop is asked at one time
            self._turn_at = _monotonic()
            if not self._held:
                self._call_soon(self._flush)
        slots = self._slots
        if self._held or len(request) > SMALL_BYTES or len(slots) >= MAX_REQUESTS or self._queue:
            self._ask_with_care((answer, expected, self._turn_at, len(request)), request)
        else:
            slots.append((answer, expected, self._turn_at, 0))
            out.append(request)
        if self._deadlines.timer is None:
            self._deadlines.look_after(self._turn_at)
        if since:
            self._deadlines.hasten(answer, since)

    @property
    def owes(self) -> bool:
        """Whether an answer is to come for which somebody was left in charge."""
        return bool(self._unclaimed.entrusted)

    def entrust(self, answer: asyncio.Future[Any], to: Late) -> None:
        """Whoever waited for ``answer`` has gone: have ``to`` called with it when it comes; with None if it won't."""
        self._unclaimed.entrust(answer, to, closed=self.closed)

    def _ask_with_care(self, slot: Slot, request: bytes) -> None:
        """Send, where there is room for it, what is large or comes when much is under way; else have it wait."""
        if self.closed:
            slot[0].set_exception(Unreachable(f"{self.name} closed the connection", server=self.name))
        else:
            self._queue.append((slot, request))
            self._fill_room()

    def _fill_room(self) -> None:
        """Send what waits for room, as far as there is some. What is larger than all the room goes alone."""
        while self._queue and not self._held:
            slot, request = self._queue[0]
            full = len(self._slots) >= MAX_REQUESTS or self._bytes + slot[3] > MAX_BYTES
            gone = slot[0].done()
            if full and self._slots and not gone:
                return
            self._queue.popleft()
            if not gone:
                self._slots.append(slot)
                self._bytes += slot[3]
                if not self._out:
                    self._call_soon(self._flush)
                self._out.append(request)

    def _flush(self) -> None:
        self._enter_gets()
        self._end_turn()
        out, self._out = self._out, []
        if out and self._transport is not None and not self.closed:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    # -- hearing -----------------------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go (asyncio.BufferedProtocol)."""
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """``nbytes`` have come (asyncio.BufferedProtocol)."""
        self._end += nbytes
        self.heard_at = _monotonic()
        try:
            if self._end >= self._need:
                self._need = 0
                self._give_out()
            if self._need > len(self._buffer) or self._end == len(self._buffer):
                self._resize(max(self._need, 2 * self._end))
        except ProtocolError as error:
            self._owner.broken(self, ProtocolError(f"{self.name}: {error}", server=self.name))

    def _give_out(self) -> None:
        """Hand every whole answer to who asked."""
        slots, begin, at, left, seen = self._slots, 0, 0, self._left, self._at
        # Bytes are looked through faster than a bytearray, and what was looked through need not be copied again.
        data = bytes(self._view[seen : self._end])
        while slots:
            answer, expected, _, size = slots[0]
            if expected:
                at, left, need = end_of(data, at, left or expected)
            else:
                begin, need = answer.take(data, at)
                at = begin
            if need:
                self._need = seen + need
                break
            slots.popleft()
            self._bytes -= size
            if expected:
                whole = data[begin:at] if begin or not seen else bytes(self._view[:seen]) + data[:at]
                begin = at
                self._hand(answer, whole)
            elif answer.left:
                for read, told in answer.left:
                    self._hand(read, told)
                answer.left.clear()  # they refer to the group, which refers to them
        self._at, self._left = seen + at, left
        if at < len(data) and not slots and not self.closed:  # before who waits for room is sent, and could be meant
            raise ProtocolError("more was sent than was asked for")
        if begin:
            self._given_out(data, seen, begin)

    def _hand(self, answer: asyncio.Future[Any], data: Any) -> None:
        """Give ``answer`` what came for it."""
        if not answer.done():
            answer.set_result(data)
        else:
            self._unclaimed.come(answer, data)

    def _given_out(self, data: bytes, seen: int, begin: int) -> None:
        """Answers were given out, up to ``begin`` in ``data``, which begins behind ``seen`` bytes of the buffer: there
        is room again, here and on the way.
        """
        self._forget(data, seen, begin)
        self.heard = True
        if self._queue:
            self._fill_room()
        if self.retired_at is not None and not self._slots:
            self.close()

    def _forget(self, data: bytes, seen: int, begin: int) -> None:
        rest = len(data) - begin
        if rest:
            self._view[:rest] = data[begin:]
        self._end, self._at = rest, self._at - seen - begin
        self._need = max(0, self._need - seen - begin)
        if len(self._buffer) > 16 * _BUFFER_BYTES and max(self._need, rest) < _BUFFER_BYTES:
            self._resize(_BUFFER_BYTES)

    def _resize(self, size: int) -> None:
        bigger = bytearray(size)
        bigger[: self._end] = self._view[: self._end]
        self._buffer, self._view = bigger, memoryview(bigger)

    # -- time --------------------------------------------------------------------------------------------------------

    @property
    def head(self) -> Slot | None:
        """Whose answer is the next to come."""
        return self._slots[0] if self._slots else None

    def waiting(self) -> list[Slot]:
        """All that have no answer yet, in the order of their asking."""
        return [*self._slots, *(slot for slot, _ in self._queue)]

    def overdue(self, *, silent: bool) -> None:
        """A deadline has passed; ``silent``: and nothing was heard."""
        self._owner.overdue(self, silent)
        self.retire()

    def retire(self) -> None:
        """Nothing more is asked here; what was asked is waited for, a deadline long, and then the connection closes."""
        if self.retired_at is None:
            self.retired_at = _monotonic()
            if not self._slots:
                self.close()

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close at once, without a word to the server. Idempotent."""
        self.abort(Unreachable(f"{self.name}: the connection was closed", server=self.name))

    def abort(self, error: ServerError) -> None:
        """Close at once; who waits for an answer gets ``error``."""
        if self.closed:
            return
        self.closed = True
        self._deadlines.cancel()
        if self._transport is not None:
            self._transport.abort()
        left = [slot[0] for slot in self.waiting()]
        if self.turn is not None:
            left.append(self.turn)
        self._slots.clear()
        self._queue.clear()
        self._held = True  # whoever asks now goes the long way, where it shows that this is closed
        for answer in left:
            if not answer.done():
                answer.set_exception(_again(error))
        self._unclaimed.end()
        self._owner.lost(self, bool(left))

    # -- what the transport says -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open (asyncio.BaseProtocol)."""
        self._transport = transport  # type: ignore[assignment]
        self.opened_at = self.heard_at = _monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by the server or by the network (asyncio.BaseProtocol)."""
        self.abort(Unreachable(f"{self.name} closed the connection", server=self.name))

    def eof_received(self) -> bool:
        """The server said its last word (asyncio.BaseProtocol)."""
        self.connection_lost(None)  # at once: the transport may have something left that it gets rid of to nobody
        return False

    def pause_writing(self) -> None:
        """The transport has more than it gets rid of (asyncio.BaseProtocol)."""
        self._held = True

    def resume_writing(self) -> None:
        """The transport has room again (asyncio.BaseProtocol)."""
        if not self.closed:
            self._held = False
            self._fill_room()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "retired" if self.retired_at is not None else "open"
        return f"<AsyncConnection {self.name} {state}, {len(self._slots)} under way>"


def _again(error: ServerError) -> ServerError:
    """The same error for another: each who raises one adds his frames to it."""
    return type(error)(str(error), server=error.server)
