"""Which values are shared as they are, and what a value takes of the memory."""

from __future__ import annotations

import datetime as dt
import enum
import sys
import uuid
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest

from cachekit.near.sizes import allotted, immutable_bytes, near_key_bytes
from cachekit.near_calls import typed


class Text(str):
    """A subclass may have a state of its own."""


class Zone(dt.tzinfo):
    """So may somebody's time zone."""

    def utcoffset(self, _: dt.datetime | None, /) -> dt.timedelta:
        """None to speak of."""
        return dt.timedelta(0)

    def tzname(self, _: dt.datetime | None, /) -> str:
        """A name."""
        return "zone"

    dst = utcoffset


class Pair(NamedTuple):
    one: int
    other: int


class Colour(enum.Enum):
    RED = 1


NAIVE = dt.datetime(2026, 1, 1, tzinfo=dt.UTC).replace(tzinfo=None)


@pytest.mark.parametrize(
    "value",
    [
        None, True, 1, -(2**70), 1.5, 2j, "", "text", b"bytes", (), (1, "a", (b"b", None)), frozenset({1, ("a",)}),
        dt.date(2026, 1, 1), NAIVE, dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.time(1, 2),
        dt.datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")), dt.timedelta(1), Decimal("1.5"), uuid.UUID(int=5),
    ],
)  # fmt: skip
def test_what_never_changes_is_shared(value: Any) -> None:
    """One object for all callers."""
    assert immutable_bytes(value) is not None


@pytest.mark.parametrize(
    "value",
    [
        [], {}, set(), bytearray(), ([],), (1, (2, {})), frozenset({Text("a")}), Text("a"), Pair(1, 2), Colour.RED,
        dt.datetime(2026, 1, 1, tzinfo=Zone()), dt.time(1, tzinfo=Zone()), object(), lambda: 1, Exception("x"),
    ],
)  # fmt: skip
def test_what_may_change_is_not(value: Any) -> None:
    """Nor what holds it, nor a subclass: each caller gets a copy of his own."""
    assert immutable_bytes(value) is None


def test_a_nest_without_an_end_is_not_shared() -> None:
    """Deeper than Python can follow."""
    nest: Any = ()
    for _ in range(2 * sys.getrecursionlimit()):
        nest = (nest,)
    assert immutable_bytes(nest) is None


def test_what_is_inside_counts() -> None:
    """A tuple takes what its elements take, and room for itself."""
    text = "x" * 1000
    alone = immutable_bytes(text)
    assert alone is not None
    assert alone >= sys.getsizeof(text)
    assert immutable_bytes((text,)) == alone + allotted(sys.getsizeof((text,)))


@pytest.mark.parametrize(("size", "taken"), [(1, 16), (16, 16), (17, 32), (512, 512), (513, 528), (200_000, 200_704)])
def test_memory_comes_in_pieces(size: int, taken: int) -> None:
    """Sixteen bytes, and pages from 128 KiB on."""
    assert allotted(size) == taken


@pytest.mark.parametrize("value", [b"x" * 500, ("x" * 500,), ((b"x" * 500, True),)])
def test_a_key_is_as_large_as_what_is_in_it(value: Any) -> None:
    """Also where that stands behind its type."""
    key = typed((value,))
    assert key is not None
    assert 500 < near_key_bytes(key) < 1100
