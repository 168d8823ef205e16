"""Three servers without a socket: what they answer, in which pieces, and when they fail is up to the test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, cast

from cachekit.addresses import parse_target
from cachekit.embedded import EmbeddedServer
from cachekit.errors import DeadlineExceeded, ProtocolError, ServerError, Unreachable
from cachekit.meta import Parser, Reply
from cachekit.ring import Ring
from cachekit.sync.fleet import Fleet

Cut = Callable[[bytes], Iterable[bytes | BaseException]]
"""How an answer comes: in these pieces; an exception among them is raised in place of one."""


def whole(answer: bytes) -> list[bytes]:
    """In one piece."""
    return [answer]


def at(*places: int) -> Cut:
    """In pieces that end at these places."""

    def cut(answer: bytes) -> list[bytes]:
        ends = sorted({min(place, len(answer)) for place in places} | {len(answer)})
        return [answer[start:end] for start, end in zip([0, *ends], ends, strict=False) if end > start]

    return cut


def byte_by_byte(answer: bytes) -> list[bytes]:
    """As slowly as can be."""
    return [answer[place : place + 1] for place in range(len(answer))]


@cache
def _ring(servers: int) -> Ring:
    return Ring(parse_target("memcached://" + ",".join(f"10.0.0.{n + 1}" for n in range(servers))).servers)


class FakeServer:
    """One server: an embedded one, unless ``answer`` says otherwise. ``requests`` are what it was sent.

    ``on_send``: an exception for each send to come, None for a good one. ``closed``: how many idle connections the
    server has closed.
    """

    def __init__(self, name: str, log: list[tuple[str, str]]) -> None:
        self.name = name
        self.log = log
        self.embedded = EmbeddedServer()
        self.answer: Callable[[bytes], bytes] = self.embedded.handle
        self.cut: Cut = whole
        self.requests: list[bytes] = []
        self.on_send: list[BaseException | None] = []
        self.closed = 0
        self.down = False
        self.connections: list[FakeConnection] = []


class FakeConnection:
    """Behaves as ``Connection`` does: whatever goes wrong in the middle of an exchange closes it."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.name = server.name
        self.opened_at = 0.0
        self.is_closed = False
        self.timer_is_short = False
        self.pieces: list[bytes | BaseException] = []
        server.connections.append(self)

    def _fail(self, error: BaseException) -> None:
        self.close()
        raise error

    def send(self, request: bytes) -> None:
        assert not self.is_closed
        assert self.pieces == [], "the answer before was not taken"
        self.server.log.append(("send", self.name))
        self.server.requests.append(request)
        error = self.server.on_send.pop(0) if self.server.on_send else None
        if error is not None:
            self._fail(error)
        self.pieces = list(self.server.cut(self.server.answer(request)))

    def receive(self, until: float) -> bytes:
        assert not self.is_closed
        self.server.log.append(("receive", self.name))
        self.timer_is_short = True
        if not self.pieces:
            self._fail(DeadlineExceeded(f"{self.name} did not answer in time", server=self.name))
        piece = self.pieces.pop(0)
        if isinstance(piece, BaseException):
            self._fail(piece)
        return cast(bytes, piece)

    def receive_more(self, data: bytes, until: float = 0.0) -> bytes:
        return data + self.receive(until)

    def replies(self, data: bytes, count: int, opaque: int | None = None, until: float = 0.0) -> list[Reply]:
        parser = Parser()
        try:
            found = parser.feed(data)
            while len(found) < count:
                found += parser.feed(self.receive(until))
            if len(found) > count or parser.pending:
                raise ProtocolError("more than was asked for")
            if opaque is not None and any(reply.opaque != b"%d" % opaque for reply in found):
                raise ProtocolError("answered another request")
        except BaseException:
            self.close()
            raise
        return found

    def rearm(self) -> None:
        self.timer_is_short = False

    def closed_by_peer(self) -> bool:
        if self.is_closed:
            return True
        if self.server.closed:
            self.server.closed -= 1
            return True
        return False

    def close(self) -> None:
        self.is_closed = True


class FakeFleet:
    """The part of a ``Fleet`` that windows use. ``failures``: what was reported as failed."""

    def __init__(self, servers: int = 3) -> None:
        self.ring = _ring(servers)
        self.servers = self.ring.servers
        self.names = tuple(server.name for server in self.servers)
        self.deadline_s = 0.25
        self.log: list[tuple[str, str]] = []
        self.fakes = [FakeServer(name, self.log) for name in self.names]
        self.rows: list[list[FakeConnection]] = [[] for _ in self.servers]
        self.failures: list[tuple[int, ServerError]] = []
        self.suspects: set[int] = set()

    @property
    def real(self) -> Fleet:
        """This, for those who want a real one."""
        return cast(Fleet, cast(Any, self))

    def check_up(self, index: int) -> None:
        if self.fakes[index].down:
            raise Unreachable(f"{self.names[index]} is marked down", server=self.names[index])

    def take(self, index: int, held_since: float | None = None) -> FakeConnection:
        row = self.rows[index]
        return row.pop() if row else self.connect(index)

    def connect(self, index: int) -> FakeConnection:
        self.check_up(index)
        return FakeConnection(self.fakes[index])

    def put(self, index: int, connection: FakeConnection) -> None:
        self.rows[index].append(connection)

    def drop(self, index: int) -> None:
        while self.rows[index]:
            self.rows[index].pop().close()

    def failed(self, index: int, error: ServerError, *, refused: bool = False) -> None:
        self.failures.append((index, error))

    def idle(self) -> list[FakeConnection]:
        """The connections on the shelves."""
        return [connection for row in self.rows for connection in row]

    def settled(self) -> bool:
        """Every connection is either on its shelf, its answer taken and its timer set anew, or closed."""
        idle = self.idle()
        good = all(not (each.is_closed or each.timer_is_short or each.pieces) for each in idle)
        return good and all(each.is_closed or each in idle for fake in self.fakes for each in fake.connections)
