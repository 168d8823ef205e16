"""The plain reads of one loop turn: they go to a server as one classic ``get`` of many keys.

Memcached answers each of many pipelined ``get`` commands with a write of its own, 6.5 µs apiece on the machine where
this was tried; one ``get`` of a hundred keys takes it 0.9 µs a key. Tasks that ask for the same key in the same turn
share its bytes, of which each unpacks a value of his own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cachekit.errors import ProtocolError, Refused, ServerError
from cachekit.meta import MAX_LINE_BYTES, MAX_VALUE_BYTES

Stored = asyncio.Future[tuple[int, bytes] | None]
"""Client flags and payload of a stored value; None: nothing is stored."""


class Gets:
    """Who waits for which keys of one ``get``. It stands in line like the future of an answer, and takes its own answer
    off the stream. ``waiting``: by key, who was the first to ask for it; ``same``: those who came after him.
    """

    left = ()  # plain reads hold no lease, so nobody misses those that come too late
    __slots__ = ("_ready", "same", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[bytes, Stored] = {}
        self.same: dict[bytes, list[Stored]] = {}
        self._ready: list[tuple[Stored, tuple[int, bytes]]] = []

    def request(self) -> bytes:
        """The command for all keys."""
        return b"get %b\r\n" % b" ".join(self.waiting)

    def take(self, data: bytes, at: int) -> tuple[int, int]:
        """Take the values that ``data`` holds from ``at`` on. Returns where the rest begins, and how long ``data`` must
        be for the next of them; 0: that was all, and everybody has his own. Raises ``ProtocolError`` for what is no
        such answer; nothing of it is used then.
        """
        waiting, same, ready, find, end = self.waiting, self.same, self._ready, data.find, len(data)
        try:
            while data.startswith(b"VALUE ", at):
                line_end = find(b"\r\n", at)
                if line_end < 0:
                    break
                _, key, flags, size = data[at:line_end].split(b" ")
                if not size.isdigit():  # int() would take b"-2"
                    raise ValueError(size)
                begin = line_end + 2
                stop = begin + int(size)
                if stop + 2 > end:
                    return at, self._bounded(stop + 2, begin)
                if data[stop : stop + 2] != b"\r\n":
                    raise ValueError(size)
                found = int(flags), data[begin:stop]
                ready.append((waiting.pop(key), found))
                if same and key in same:
                    ready += [(each, found) for each in same.pop(key)]
                at = stop + 2
            line_end = find(b"\r\n", at)
            if line_end >= 0:
                self._end(data[at:line_end])
                return line_end + 2, 0
            if end - at > MAX_LINE_BYTES:
                raise ValueError(at)
        except (ValueError, KeyError):
            raise ProtocolError("the answer to another request") from None
        return at, end + 1

    def _bounded(self, need: int, begin: int) -> int:
        if not 0 <= need - begin <= MAX_VALUE_BYTES:
            raise ValueError(need)
        return need

    def _end(self, line: bytes) -> None:
        """The last line of the answer: whatever was not told is not there, or could not be had."""
        refused = line.startswith(b"SERVER_ERROR")
        if line != b"END" and not refused:
            raise ValueError(line)
        for answer, found in self._ready:
            if not answer.done():
                answer.set_result(found)
        self._ready = []
        said = line.decode("utf-8", "replace")
        self._settle(lambda each: each.set_exception(Refused(said)) if refused else each.set_result(None))

    def done(self) -> bool:
        """Whether nobody waits any more."""
        return all(each.done() for each in self._all())

    def set_exception(self, error: ServerError) -> None:
        """Nobody gets an answer."""
        # Each his own: who raises one adds his frames to it.
        self._settle(lambda each: each.set_exception(type(error)(str(error), server=error.server)))

    def _settle(self, settle: Callable[[Stored], None]) -> None:
        for each in self._all():
            if not each.done():
                settle(each)
        self.waiting, self.same, self._ready = {}, {}, []

    def _all(self) -> list[Stored]:
        same = (each for asked in self.same.values() for each in asked)
        return [*self.waiting.values(), *same, *(each for each, _ in self._ready)]
