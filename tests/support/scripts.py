"""Scripts that are played to a server, so that two servers can be found equal.

A script is a list of (request, reply) in which ``|`` stands for the end of a line, ``$a`` … ``$z`` for keys that nobody
used before, and ``@1``, ``@2`` … for CAS numbers, numbered in the order in which the server first named them. So the
numbers themselves, which no two servers share, don't matter, but their being equal or different, and using them in
later requests, does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import count

# Where a server names a CAS number: the c flag, me, and the end of a VALUE line.
_CAS = re.compile(rb"( c|cas=|VALUE \S+ \d+ \d+ )(\d+)")
_CLASS = re.compile(rb"cls=\d+")
_KEY_NAMES = count(1)

# What is left of a life that ended when the server began: it wraps, and tells how long the server has been up.
_PAST = re.compile(rb" t429496\d{4}\b")

# Scripts use small numbers as CAS numbers that fit nothing; so the first real ones are above them.
_FIRST_CAS = 200
_WARM_UP = b"ma warm N0 q\r\n" * _FIRST_CAS


class Peer:
    """One of the two servers. ``ask`` carries out complete commands, ``seconds`` tells its clock."""

    def __init__(self, name: str, ask: Callable[[bytes], bytes]) -> None:
        self.name = name
        self.ask = ask
        ask(_WARM_UP)

    def __repr__(self) -> str:
        return self.name

    def seconds(self) -> bytes:
        """The whole second that the server lives in: 1.6.18's clock ticks, and a tick changes what t tells."""
        found = re.search(rb"STAT uptime (\d+)", self.ask(b"stats\r\n"))
        assert found is not None
        return found[1]

    def play(self, requests: Sequence[bytes]) -> list[bytes]:
        """The normalised replies to the requests, all given in one second of the server's clock, under fresh keys."""
        while True:
            before = self.seconds()
            replies = self._play(requests)
            if self.seconds() == before:
                return replies

    def _play(self, requests: Sequence[bytes]) -> list[bytes]:
        suffix = b"%06d" % next(_KEY_NAMES)
        numbers: list[int] = [0]
        replies = []
        for request in requests:
            request = re.sub(rb"\$([a-z])", lambda at: at[1] + suffix, request)
            request = re.sub(rb"@(\d)", lambda at: b"%d" % _numbered(numbers, int(at[1])), request)
            reply = _CAS.sub(lambda cas: cas[1] + _name(numbers, int(cas[2])), self.ask(request))
            reply = re.sub(rb"([a-z])" + suffix, rb"$\1", reply)
            reply = _PAST.sub(b" t<past>", reply)
            replies.append(_CLASS.sub(b"cls=?", reply))
        return replies


def _numbered(numbers: list[int], rank: int) -> int:
    return numbers[rank] if 0 < rank < len(numbers) else 1


def _name(numbers: list[int], cas: int) -> bytes:
    if cas == 0:
        return b"0"
    if cas not in numbers:
        numbers.append(cas)
    return b"@%d" % numbers.index(cas)
