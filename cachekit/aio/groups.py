"""The reads of one loop turn under one generation: they go to a server together, and the generation is asked once,
behind all of them.

A hit holds only under the generation that its server has now. To ask for that with each of a hundred reads costs the
server as much again as the reads themselves; one question behind them says the same of all of them. It is answered
later than every read before it, so an invalidation in between makes them void, and never the other way about.
"""

from __future__ import annotations

import asyncio
import re
from typing import TypeAlias

from cachekit.aio.answers import end_of
from cachekit.errors import ServerError

Read: TypeAlias = "asyncio.Future[tuple[bytes, Group]]"
"""The reply to one read, and the group that it was made in."""

_TOLD = re.compile(rb"HD c(\d{1,20}) O(\d+)((?: [WZ])?\r\n)").fullmatch


class Group:
    """Who reads under one generation in one turn. It stands in line like the future of an answer, and takes its own
    answer off the stream.

    ``question`` asks for the generation under the token ``opaque``. ``number``: the generation, −1 where the answer is
    no plain one, and before it has come. ``left``: reads that nobody waits for any more, with what they would have been
    given.
    """

    __slots__ = ("_behind", "_over", "_replies", "left", "number", "opaque", "question", "reads", "requests", "tail")

    def __init__(self, opaque: int, question: bytes) -> None:
        self.opaque, self.question = opaque, question
        self.number = -1
        self.tail = self._behind = b""
        self.requests: list[bytes] = []
        self.reads: list[Read] = []
        self.left: list[tuple[Read, tuple[bytes, Group]]] = []
        self._replies: list[bytes] = []
        self._over = False

    def request(self) -> bytes:
        """All reads, and the question behind them."""
        return b"".join([*self.requests, self.question])

    def take(self, data: bytes, at: int) -> tuple[int, int]:
        """Take the replies that ``data`` holds from ``at`` on. Returns where the rest begins, and how long ``data``
        must be for the next of them; 0: that was all, and everybody has his own. Raises ``ProtocolError``.
        """
        missing = len(self.reads) - len(self._replies)
        while missing:
            stop, _, need = end_of(data, at, 1)
            if need:
                return at, need
            self._replies.append(data[at:stop])
            at = stop
            missing -= 1
        stop, _, need = end_of(data, at, 1)
        if need:
            return at, need
        self._tell(data[at:stop])
        return stop, 0

    def _tell(self, tail: bytes) -> None:
        """The generation is told: now every read has all that it needs."""
        found = _TOLD(tail)
        if found is not None and int(found[2]) == self.opaque:
            self.number, self._behind = int(found[1]), found[3]
        self.tail, self._over = tail, True
        for read, reply in zip(self.reads, self._replies, strict=True):
            if read.done():
                self.left.append((read, (reply, self)))
            else:
                read.set_result((reply, self))
        self.reads, self._replies, self.requests = [], [], []

    def whole(self, reply: bytes, opaque: int) -> bytes:
        """The reply to a read under ``opaque`` as if it had asked for the generation itself."""
        if self.number < 0:
            return reply + self.tail
        return reply + b"HD c%d O%d" % (self.number, opaque) + self._behind

    def done(self) -> bool:
        """Whether it is over. Not before its answer: leases may be in it, also for reads that nobody waits for."""
        return self._over

    def set_exception(self, error: ServerError) -> None:
        """Nobody gets an answer."""
        self._over = True
        # Each his own: who raises one adds his frames to it.
        for read in self.reads:
            if not read.done():
                read.set_exception(type(error)(str(error), server=error.server))
