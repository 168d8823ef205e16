"""What all commands of the embedded server share: the common error lines, refusing, lines and data blocks."""

from __future__ import annotations

from typing import Final

from ..errors import RequestError

# protocol.txt, *Error strings*.
ERROR: Final = b"ERROR\r\n"
BAD_FORMAT: Final = b"CLIENT_ERROR bad command line format\r\n"
BAD_CHUNK: Final = b"CLIENT_ERROR bad data chunk\r\n"
TOO_LARGE: Final = b"SERVER_ERROR object too large for cache\r\n"


class Refusal(Exception):
    """A command is answered by this error line and changes nothing more."""

    def __init__(self, line: bytes) -> None:
        super().__init__(line)
        self.line = line


class Body:
    """The request, and how far it has been read."""

    __slots__ = ("at", "request")

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.at = 0

    def line(self) -> bytes:
        r"""The next command line, without its end, which is "\n" or "\r\n"."""
        start = self.at
        end = self.request.find(b"\n", start)
        if end < 0:
            raise RequestError(f"an unfinished command line: {self.request[start:]!r:.100}")
        self.at = end + 1
        # 1.6.18 takes a "\r\n" with nothing before it for a line that holds a "\r".
        return self.request[start : end - 1 if end - start > 1 and self.request[end - 1] == 13 else end]

    def take(self, size: int) -> bytes | None:
        r"""The data block of ``size`` bytes; None if it does not end in "\r\n". Either way it is used up."""
        start, end = self.at, self.at + size
        if end + 2 > len(self.request):
            raise RequestError(f"a data block of {size} bytes is announced, {len(self.request) - start} bytes came")
        self.at = end + 2
        return self.request[start:end] if self.request[end : end + 2] == b"\r\n" else None
