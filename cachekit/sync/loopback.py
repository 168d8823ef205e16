"""The embedded server behind the same methods as a connection: no socket, no deadline, nothing to wait for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cachekit.errors import ProtocolError
from cachekit.meta import Parser, Reply

if TYPE_CHECKING:
    from cachekit.embedded import EmbeddedServer


class Loopback:
    """A connection to the embedded server of this process. It never fails and never has to be opened again."""

    name = "memory:"
    closed = False
    __slots__ = ("_parser", "_waiting", "ask", "opened_at", "server")

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server
        self.ask = server.handle
        self.opened_at = time.monotonic()
        self._parser = Parser()
        self._waiting = b""

    def exchange(self, request: bytes | tuple[bytes, ...], count: int, opaque: int | None = None) -> list[Reply]:
        """Send ``request`` and return its replies."""
        return self._parser.feed(self.ask(b"".join(request) if isinstance(request, tuple) else request))

    def replies(self, data: bytes, count: int, opaque: int | None = None, until: float = 0.0) -> list[Reply]:
        """Parse an answer."""
        return self._parser.feed(data)

    def complete(self, data: bytes, *, and_more: bool = False) -> bytes:
        """An answer is always whole."""
        return data

    def finish(self, data: bytes, size: int, *, and_more: bool = False) -> bytes:
        """An answer is always whole."""
        return data

    def finish_value(self, data: bytes, start: int, end: int, tail: int) -> tuple[bytes, bytes]:
        """An answer is always whole."""
        return data[start:end], data[end:]

    def send(self, request: bytes) -> None:
        """Keep the answer until ``receive`` asks for it."""
        self._waiting = self.ask(request)

    def receive(self, until: float) -> bytes:
        """The answer to what was sent."""
        return self._waiting

    def closed_by_peer(self) -> bool:
        """Never."""
        return False

    def receive_more(self, data: bytes, until: float = 0.0) -> bytes:
        """An answer is always whole; to be asked for more of it means that it makes no sense."""
        raise ProtocolError("the embedded server's answer was cut short", server=self.name)

    def rearm(self) -> None:
        """There is no timer."""

    def count_in(self, spent_s: float) -> None:
        """There is no timer."""

    def close(self) -> None:
        """Nothing to close: the values live as long as the cache."""
