"""The generation over many entries that are read in one loop turn: asked once, behind all of them.

A hit holds only under the generation that its server has now. To ask for that with each of a hundred reads costs the
server as much again as the reads themselves; one question behind them says the same of all of them. It is answered
later than every read before it, so an invalidation in between makes them void, and never the other way about.
"""

from __future__ import annotations

import asyncio
import re
from typing import TypeAlias

from cachekit.errors import ServerError

Read: TypeAlias = "asyncio.Future[tuple[bytes, Group]]"
"""The reply to one read, and the group that it was made in."""

_TOLD = re.compile(rb"HD c(\d{1,20}) O(\d+)((?: [WZ])?\r\n)").fullmatch


class Group:
    """The reads of one turn under one generation. It stands in line like the future of its own answer, behind them.

    ``number``: the generation, −1 where the answer is no plain one. ``opaque``: the token of the question.
    """

    __slots__ = ("_behind", "_over", "_reads", "number", "opaque", "tail")

    def __init__(self, opaque: int) -> None:
        self.opaque = opaque
        self.number = -1
        self.tail = self._behind = b""
        self._over = False
        self._reads: list[tuple[Read, bytes]] = []

    def add(self, read: Read, reply: bytes) -> None:
        """The reply to one of the reads has come."""
        self._reads.append((read, reply))

    def set_result(self, data: bytes) -> list[tuple[Read, bytes]]:
        """The generation is told: now every read has all that it needs. Returns those that nobody waits for any more,
        with their replies.
        """
        found = _TOLD(data)
        if found is not None and int(found[2]) == self.opaque:
            self.number, self._behind = int(found[1]), found[3]
        self.tail, self._over = data, True
        left = []
        for read, reply in self._reads:
            if read.done():
                left.append((read, reply))
            else:
                read.set_result((reply, self))
        self._reads = []
        return left

    def whole(self, reply: bytes, opaque: int) -> bytes:
        """The reply to a read under ``opaque`` as if it had asked for the generation itself."""
        if self.number < 0:
            return reply + self.tail
        return reply + b"HD c%d O%d" % (self.number, opaque) + self._behind

    def done(self) -> bool:
        """Whether it is over: those who wait for it may come yet, so it never is before."""
        return self._over

    def set_exception(self, error: ServerError) -> None:
        """The generation is not to be had: nobody gets an answer."""
        self._over = True
        # Each his own: who raises one adds his frames to it.
        for read, _ in self._reads:
            if not read.done():
                read.set_exception(type(error)(str(error), server=error.server))
