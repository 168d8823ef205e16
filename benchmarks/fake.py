"""A faked socket: it records one exchange, and from then on gives its answer under the new request's opaque token."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

OPAQUE = re.compile(rb" O(\d+)[ \r]")


class Hook(NamedTuple):
    """Where a client keeps what it sends and receives with: attributes of `owner` that hold the bound methods.

    `receive_into` says that the receiver is called with a buffer.
    """

    owner: Any
    send: str
    receive: str
    receive_into: bool = False


class Recorder:
    """One exchange, recorded and replayed."""

    def __init__(self) -> None:
        self._request = b""
        self._answer = b""
        self._parts: list[bytes] = []
        self._start = 0
        self._behind = b""
        self._ready = b""

    @contextmanager
    def listening(self, hooks: Sequence[Hook]) -> Iterator[None]:
        kept = [(hook, getattr(hook.owner, hook.send), getattr(hook.owner, hook.receive)) for hook in hooks]
        for hook, send, receive in kept:
            setattr(hook.owner, hook.send, self._recording_send(send))
            setattr(hook.owner, hook.receive, self._recording_receive(receive, hook.receive_into))
        try:
            yield
        finally:
            for hook, send, receive in kept:
                setattr(hook.owner, hook.send, send)
                setattr(hook.owner, hook.receive, receive)

    def replay(self, hooks: Sequence[Hook]) -> None:
        """Put the fake in the place of the socket's methods, for good."""
        token = OPAQUE.search(self._request)
        if token:
            self._start = token.start(1)
            self._behind = token[0][-1:]
            self._parts = re.split(rb"(?<= O)%b(?=[ \r])" % token[1], self._answer)
        self._ready = self._answer
        for hook in hooks:
            setattr(hook.owner, hook.send, self._send_with_token if token else self._send)
            setattr(hook.owner, hook.receive, self._receive_into if hook.receive_into else self._receive)

    def trip(self) -> bytes:
        """What the fake itself costs: one send and one receive."""
        if self._parts:
            self._send_with_token(self._request)
        else:
            self._send(self._request)
        return self._receive(4096)

    def _recording_send(self, send: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def recording(data: bytes) -> Any:
            self._request += data
            return send(data)

        return recording

    def _recording_receive(self, receive: Callable[..., Any], into: bool) -> Callable[..., Any]:
        def recording(*arguments: Any) -> Any:
            got = receive(*arguments)
            self._answer += bytes(arguments[0][:got]) if into else got
            return got

        return recording

    def _send(self, data: bytes) -> None:
        pass

    def _send_with_token(self, data: bytes) -> None:
        start = self._start
        self._ready = data[start : data.index(self._behind, start)].join(self._parts)

    def _receive(self, size: int, flags: int = 0) -> bytes:
        return self._ready

    def _receive_into(self, buffer: bytearray, size: int = 0, flags: int = 0) -> int:
        ready = self._ready
        buffer[: len(ready)] = ready
        return len(ready)
