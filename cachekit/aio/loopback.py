"""The embedded server behind the same methods as a connection: nothing is sent, and nothing waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cachekit.aio.connection import Answer
from cachekit.aio.gets import Stored
from cachekit.direct import plain_value
from cachekit.errors import ServerError

if TYPE_CHECKING:
    from cachekit.embedded import EmbeddedServer


class AsyncLoopback:
    """A connection to the embedded server of this process. It never fails and never has to be opened again."""

    name = "memory:"
    index = 0
    closed = False

    def __init__(self, server: EmbeddedServer) -> None:
        self._handle = server.handle
        self._loop = asyncio.get_running_loop()
        self.opened_at = time.monotonic()

    def ask(self, request: bytes, expected: int, since: float = 0.0) -> Answer:
        """The answer to ``request``, in a future that is done."""
        answer: Answer = self._loop.create_future()
        answer.set_result(self._handle(request))
        return answer

    def get(self, key: bytes) -> Stored:
        """A plain value, in a future that is done."""
        stored: Stored = self._loop.create_future()
        stored.set_result(plain_value(self._handle(b"get %b\r\n" % key), key))
        return stored

    def entrust(self, answer: asyncio.Future[Any], to: Callable[[Any], None]) -> None:
        """The answer is there already."""
        to(answer.result())

    def abort(self, error: ServerError) -> None:
        """There is nothing to close."""

    def retire(self) -> None:
        """There is nothing to close."""
