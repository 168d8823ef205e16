"""Mutated stored values: a DecodeError, or a value whose fingerprint still matches; never anything else (R12).

``CACHEKIT_FUZZ`` sets the number of mutations; the default, 20 000, takes seconds.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import os
import random
import uuid
from decimal import Decimal
from fractions import Fraction

import pytest

from cachekit.codecs import Compression, Header, Packer, Registry, flags, open_envelope, resolve, seal
from cachekit.errors import DecodeError

ROUNDS = int(os.environ.get("CACHEKIT_FUZZ", "20000"))
FINGERPRINT = b"0123456789abcdef"


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Item:
    name: str
    color: Color
    at: dt.datetime


ITEM = Item("a", Color.RED, dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
VALUES: list[object] = [
    {f"field_{number}": (number, str(number), number / 3, None)[number % 4] for number in range(10)},
    [ITEM, (ITEM, {1: ITEM})],
    {"a": {(1, 2): {3, Decimal("1.5")}}, "b": bytearray(b"xyz")}, "text žluť", b"bytes", 42, None,
    [uuid.UUID(int=5), Fraction(1, 3), 2**70, 1j, range(3), dt.timedelta(1), collections.deque([1], 2)],
    collections.OrderedDict(a=collections.Counter("aab"), b=collections.defaultdict(list, {1: [2]})),
    "all work and no play " * 300, [{"a": number} for number in range(500)],
]  # fmt: skip


def _packers() -> list[Packer]:
    registry = Registry()
    registry.register(Item)
    registry.register(Color)
    codec = resolve(None, registry=registry)
    return [
        Packer(codec, Compression(method=method), readers=[resolve("json", registry=registry)])
        for method in ("zlib", "zstd")
    ]


def _stored(packer: Packer) -> list[tuple[int, bytes]]:
    header = Header(FINGERPRINT, 1, generations=(1, 2))
    found = []
    for value in VALUES:
        number, payload = packer.pack(value)
        found.append((number | flags.ENVELOPED, seal(header, payload)))
    return found


def _mutated(random_: random.Random, data: bytes) -> bytes:
    """Some bytes changed, cut out, doubled, or put in."""
    changed = bytearray(data)
    for _ in range(random_.choice((1, 1, 1, 2, 4, 16))):
        at = random_.randrange(len(changed) + 1)
        kind = random_.randrange(6)
        if kind == 0:
            del changed[at:]
        elif kind == 1:
            del changed[at : at + random_.randrange(8)]
        elif kind == 2:
            changed[at:at] = random_.randbytes(random_.randrange(8))
        elif kind == 3:
            changed[at:at] = changed[at : at + random_.randrange(64)]
        elif at < len(changed):
            changed[at] = random_.randrange(256) if kind == 4 else changed[at] ^ 1 << random_.randrange(8)
    return bytes(changed)


def _read(packer: Packer, number: int, data: bytes) -> bool:
    """Read as a cached function does: judge the header first. True for a value."""
    header, at = open_envelope(data)
    if header.fingerprint != FINGERPRINT:
        return False
    packer.unpack(number, data[at:])
    return True


@pytest.mark.parametrize("part", ["anywhere", "payload"])
def test_mutations(part: str) -> None:
    """Every mutation of a stored value ends as a value of this key, as another key's, or as a DecodeError."""
    random_ = random.Random(f"cachekit {part}")
    packers = _packers()
    stored = [(packer, number, data) for packer in packers for number, data in _stored(packer)]
    outcomes = collections.Counter[str]()
    for _ in range(ROUNDS // 2):
        packer, number, data = random_.choice(stored)
        at = open_envelope(data)[1] if part == "payload" else 0
        if random_.random() < 0.1:
            number ^= 1 << random_.randrange(16)
        try:
            outcomes["value" if _read(packer, number, data[:at] + _mutated(random_, data[at:])) else "other key"] += 1
        except DecodeError:
            outcomes["refused"] += 1
    assert sum(outcomes.values()) == ROUNDS // 2
    assert outcomes["refused"] > ROUNDS // 20
    assert outcomes["value"] > 0
    assert (outcomes["other key"] > 0) is (part == "anywhere")


def test_another_keys_value_is_seen() -> None:
    """The fingerprint in the header is what tells a value from another key's."""
    packer = _packers()[0]
    number, data = _stored(packer)[0]
    assert _read(packer, number, data)
    assert not _read(packer, number, data.replace(FINGERPRINT, FINGERPRINT[::-1]))
