"""The reads of one loop turn: they go to a server together, and each record that they stand under is asked for once,
behind all of them.

A hit holds only under the generations that its server has now: that of its function, and those of its tags and
namespace. To ask for them with each of a hundred reads costs the server as much again as the reads themselves, for each
record; one question behind all reads says the same of all that stand under it. It is answered later than every read
before it, so an invalidation in between makes them void, and never the other way about.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from typing import TypeAlias

from cachekit.aio.answers import end_of
from cachekit.errors import ServerError
from cachekit.recipe import GENERATION_QUESTIONS, TAG_QUESTIONS

Read: TypeAlias = "asyncio.Future[tuple[bytes, Turn]]"
"""The reply to one read, and the turn that it was made in."""

_LONGEST_NUMBER = 20
_VALUE = re.compile(rb"VA (\d{1,7}) [^\r\n]{0,99}\r\n").match
_TOLD = re.compile(rb"HD c(\d{1,20}) O(\d+)(?: W| (Z)|)\r\n").fullmatch
_OURS = re.compile(rb"(HD(?: [^O \r\n][^ \r\n]*)*) O(\d+)((?: [^ \r\n]+)*\r\n)").fullmatch


class Turn:
    """Who reads in one turn, and under which records. It stands in line like the future of an answer, and takes its own
    answer off the stream.

    ``opaque``: the token of its questions; ``number``: the CAS number of the records that they make, 0 where the server
    counts. ``tags`` and ``generations``: wire keys of the records that it asks for, by the kind of question; sets, in
    order. ``numbers``: by record, once they are told; −1 where the answer is no plain one. ``left``: reads that
    nobody waits for any more, with what they would have been given.
    """

    __slots__ = (
        "_numbers", "_odd", "_over", "_replies", "generations", "left", "number", "numbers", "opaque", "reads",
        "requests", "tags",
    )  # fmt: skip

    def __init__(self, opaque: int, number: int = 0) -> None:
        self.opaque, self.number = opaque, number
        self.requests: list[bytes] = []
        self.reads: list[Read] = []
        self.tags: dict[bytes, None] = {}
        self.generations: dict[bytes, None] = {}
        self.numbers: dict[bytes, int] = {}
        self.left: list[tuple[Read, tuple[bytes, Turn]]] = []
        self._replies: list[bytes] = []
        self._numbers: list[int] = []
        self._odd: dict[bytes, bytes] = {}
        self._over = False

    def request(self) -> bytes:
        """All reads, and the questions behind them."""
        tags = self._questions(TAG_QUESTIONS, self.tags)
        return b"".join([*self.requests, tags, self._questions(GENERATION_QUESTIONS, self.generations)])

    def _questions(self, templates: tuple[bytes, bytes], records: Collection[bytes]) -> bytes:
        """A question for each of the ``records``."""
        if not records:
            return b""
        before, _, behind = templates[self.number > 0].partition(b"%b")
        behind %= (self.number, self.opaque) if self.number else (self.opaque,)
        return b"%b%b%b" % (before, (behind + before).join(records), behind)

    def take(self, data: bytes, at: int) -> tuple[int, int]:
        """Take the replies that ``data`` holds from ``at`` on. Returns where the rest begins, and how long ``data``
        must be for the next of them; 0: that was all, and everybody has his own. Raises ``ProtocolError``.
        """
        replies, end = self._replies, len(data)
        missing = len(self.reads) - len(replies)
        while missing:
            # As end_of() has it, for the reply that nearly everybody gets.
            found = _VALUE(data, at)
            stop = found.end() + int(found[1]) + 2 if found is not None else end + 1
            if stop > end:
                stop, _, need = end_of(data, at, 1)
                if need:
                    return at, need
            replies.append(data[at:stop])
            at = stop
            missing -= 1
        return self._learn(data, at)

    def _learn(self, data: bytes, at: int) -> tuple[int, int]:
        """The same for the answers to the questions, which come behind."""
        numbers, records = self._numbers, (*self.tags, *self.generations)
        missing = len(records) - len(numbers)
        if missing > 1 and (stop := self._learn_plain(data, at, missing)):
            at, missing = stop, 0
        while missing:
            stop, _, need = end_of(data, at, 1)
            if need:
                return at, need
            answer = data[at:stop]
            found = _TOLD(answer)
            ours = found is not None and int(found[2]) == self.opaque
            if found is None or not ours or not found[3]:
                self._odd[records[len(numbers)]] = answer
            numbers.append(int(found[1]) if found is not None and ours else -1)
            at = stop
            missing -= 1
        self._tell()
        return at, 0

    def _learn_plain(self, data: bytes, at: int, missing: int) -> int:
        """Learn the numbers, in one go, where all that are ``missing`` stand in plain answers in ``data`` from ``at``
        on. Returns where the rest begins; 0: they are not plain, or not all there.
        """
        end = b" O%d Z\r\n" % self.opaque
        text = data[at : at + missing * (4 + _LONGEST_NUMBER + len(end))]
        told = text.split(end + b"HD c", missing - 1)
        last, behind, rest = told.pop().partition(end)
        told.append(last)
        if len(told) < missing or not behind or not text.startswith(b"HD c"):
            return 0
        told[0] = told[0][4:]
        lengths = [*map(len, told)]
        if not b"".join(told).isdigit() or min(lengths) < 1 or max(lengths) > _LONGEST_NUMBER:
            return 0
        self._numbers += map(int, told)
        return at + len(text) - len(rest)

    def _tell(self) -> None:
        """The generations are told: now every read has all that it needs."""
        self._over = True
        self.numbers = dict(zip((*self.tags, *self.generations), self._numbers, strict=True))
        for read, reply in zip(self.reads, self._replies, strict=True):
            if read.done():
                self.left.append((read, (reply, self)))
            else:
                read.set_result((reply, self))
        self.reads, self._replies, self.requests = [], [], []

    def whole(self, reply: bytes, opaque: int, records: tuple[bytes, ...]) -> bytes:
        """The reply to a read under ``opaque`` as if it had asked for its ``records`` itself, in that order."""
        return b"".join([reply, *[self._as_asked(opaque, record) for record in records]])

    def _as_asked(self, opaque: int, record: bytes) -> bytes:
        """The answer about ``record`` as if it had been asked for under ``opaque``. One that does not bear the turn's
        own token is an error's, or another request's: it stays as it is.
        """
        odd = self._odd.get(record)
        if odd is None:
            return b"HD c%d O%d Z\r\n" % (self.numbers[record], opaque)
        found = _OURS(odd)
        if found is None or int(found[2]) != self.opaque:
            return odd
        return b"%b O%d%b" % (found[1], opaque, found[3])

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
