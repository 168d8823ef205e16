"""Hostile input for the encoders of ``cachekit.meta``, and a jury that tells whether any of it became a command.

Used by ``tests/contract/test_injection.py`` and by ``benchmarks/injection.py``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cachekit import meta
from cachekit.errors import RequestError

from .memcached import Memcached, read_until_mn

CANARY = b"canary"

# What an attacker would like to have carried out.
_PAYLOADS = [
    b"flush_all",
    b"set pwned 0 0 1\r\nx",
    b"ms pwned 1\r\nx",
    b"md canary",
    b"delete canary",
    b"mn",
    b"mn\r\nmn",
]
_BREAKS = [b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b"\x0b", b"\x0c", b"\x85", "\u2028".encode(), b"", b"\r\n\r\n"]
_BREAKS += [b" 0 0 0\r\n\r\n"]
_START = [b"", b"k", b"victim", b"k" * 249, b"k" * 250, b"k" * 300, b" ", "schlüssel".encode()]
_ODD_NUMBERS: list[Any] = [True, None, 1.5, float("nan"), float("inf"), "30", b"30"]
_ODD_NUMBERS += [-1, 0, 30, 2**31, 2**32 + 100, 2**63, 2**64, 10**400]

Request = Callable[[], bytes]
Builder = Callable[[bytes, Any, bytes], bytes]


def hostile_bytes(chance: random.Random) -> bytes:
    """Something that would end a command and begin another, if it could."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.randrange(0, 40))
    pick = chance.choice
    return pick(_START) + pick(_BREAKS) + pick(_PAYLOADS) + pick(_BREAKS)


def hostile_number(chance: random.Random) -> Any:
    """Something in the place of a number: text with a command in it, in most cases."""
    text = b"30" + hostile_bytes(chance)
    return chance.choice([text, text.decode("latin-1"), *_ODD_NUMBERS])


def _checked(key: bytes, number: Any, data: bytes, chance: random.Random) -> bytes:
    """One request as cachekit's code builds it: keys and data as they come, numbers and tokens by their functions."""
    letter = chance.choice("TNRFCEDJ")
    kind = chance.randrange(9)
    if kind == 0:
        return meta.mg(key, b"v " + meta.number(letter, number))
    if kind == 1:
        return meta.ms(key, data, meta.number(chance.choice("TF"), number))
    if kind == 2:
        return meta.md(key, b"I " + meta.number("T", number))
    if kind == 3:
        return meta.ma(key, b"N0 " + meta.number("D", number))
    if kind == 4:
        return meta.mg(b"good", b"v " + meta.opaque(chance.choice([data, number])))
    if kind == 5:
        return meta.ms(b"good", data)
    if kind == 6:
        return meta.md(b"good", data)
    if kind == 7:
        return meta.gets([b"good", key])
    return meta.me(key)


def checked_requests(seed: int) -> Iterator[Request]:
    """Without end: functions that build a request from hostile input, or raise RequestError."""
    chance = random.Random(seed)
    while True:
        key, number, data = hostile_bytes(chance), hostile_number(chance), hostile_bytes(chance)
        yield lambda key=key, number=number, data=data: _checked(key, number, data, chance)  # type: ignore[misc]


def naive_requests(seed: int) -> Iterator[Request]:
    """The same input, put together as text clients do it. The jury must find this guilty, or it is no jury."""
    chance = random.Random(seed)
    while True:
        key = hostile_bytes(chance)
        yield lambda key=key: b"mg " + key + b" v\r\n"  # type: ignore[misc]


@dataclass
class Verdict:
    """What became of the requests."""

    refused: int = 0
    sent: int = 0
    injected: int = 0

    def __str__(self) -> str:
        return f"{self.refused:,} refused, {self.sent:,} sent, {self.injected:,} injected"


def judge(server: Memcached, requests: Iterator[Request], count: int) -> Verdict:
    """Build and send ``count`` requests, each with an ``mn`` behind it; count those that were more than one command.

    A request is guilty if its replies are not exactly one reply and one MN, if the canary is gone or changed, if a
    flush was counted, or if a key that no request may create is there.
    """
    verdict = Verdict()
    sock = server.connect()
    server.ask(b"ms %b 4\r\nsafe\r\n" % CANARY)
    flushes = server.stats()["cmd_flush"]
    for _, request in zip(range(count), requests, strict=False):
        try:
            wire = request()
        except RequestError:
            verdict.refused += 1
            continue
        verdict.sent += 1
        if not _harmless(sock, wire):
            verdict.injected += 1
            sock.close()
            sock = server.connect()
            server.ask(b"md pwned\r\nms %b 4\r\nsafe\r\n" % CANARY)
    sock.close()
    if server.stats()["cmd_flush"] != flushes:
        verdict.injected += 1
    return verdict


def _harmless(sock: Any, wire: bytes) -> bool:
    """Whether the request had one reply, and the canary lives and "pwned" does not: asked in the same write."""
    try:
        sock.sendall(wire + b"mn\r\n")
        if not _one_reply(read_until_mn(sock), wire):
            return False
        sock.sendall(b"get canary pwned\r\nmn\r\n")
        return read_until_mn(sock) == b"VALUE canary 0 4\r\nsafe\r\nEND\r\n"
    except OSError:
        return False


def _one_reply(replies: bytes, wire: bytes) -> bool:
    parsed = meta.Parser().feed(replies)
    if wire.startswith((b"get ", b"gets ")):
        return [reply.code for reply in parsed if reply.code != "VALUE"] == ["END"]
    return len(parsed) == 1 and parsed[0].code in ("VA", "HD", "EN", "NF", "NS", "EX", "ME", "ERROR")
