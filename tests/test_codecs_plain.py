"""Text, bytes, counters and JSON."""

from __future__ import annotations

import collections
import enum
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachekit.codecs.bytes import BytesCodec
from cachekit.codecs.int import IntCodec
from cachekit.codecs.json import JsonCodec
from cachekit.codecs.text import TextCodec
from cachekit.errors import DecodeError, UnencodableError


class Grade(enum.IntEnum):
    A = 1


class Name(str):
    __slots__ = ()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def same(a: object, b: object) -> bool:
    """Equal, and of the same exact types at every depth; -0.0 is not 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float) and isinstance(b, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return a == b


@given(st.text())
def test_text_is_its_utf8(value: str) -> None:
    """Text is stored as its own UTF-8, so that every other client can read it."""
    assert TextCodec().encode(value) == value.encode()
    assert TextCodec().decode(value.encode()) == value


@given(st.binary())
def test_bytes_are_themselves(value: bytes) -> None:
    """Bytes are stored as they are."""
    assert BytesCodec().encode(value) == value
    assert BytesCodec().decode(value) == value


@given(st.integers(0, 2**64 - 1), st.integers(0, 5))
def test_counters_are_digits(value: int, padding: int) -> None:
    """Counters are ASCII digits; the spaces that decr leaves behind a shorter number are read over (protocol.txt)."""
    assert IntCodec().encode(value) == str(value).encode()
    assert IntCodec().decode(str(value).encode() + b" " * padding) == value


@pytest.mark.parametrize(
    "payload", [b"", b" ", b"-1", b"+1", b"1_0", b"0x1", b"1 2", "٣".encode(), b"9" * 21, b"18446744073709551616"]
)
def test_not_a_counter(payload: bytes) -> None:
    """Only digits below 2**64 are a counter, whatever int() would make of the bytes."""
    with pytest.raises(DecodeError):
        IntCodec().decode(payload)


def test_not_text() -> None:
    """Bytes that are not UTF-8 are no text."""
    with pytest.raises(DecodeError):
        TextCodec().decode(b"\xff")


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (TextCodec(), b"x"),
        (TextCodec(), Name("x")),
        (TextCodec(), "\ud800"),
        (BytesCodec(), "x"),
        (BytesCodec(), bytearray(b"x")),
        (IntCodec(), True),
        (IntCodec(), Grade.A),
        (IntCodec(), -1),
        (IntCodec(), 2**64),
        (IntCodec(), 1.0),
    ],
)
def test_plain_formats_refuse_other_types(codec: TextCodec | BytesCodec | IntCodec, value: object) -> None:
    """A plain format carries one exact type; subclasses would come back as their base."""
    with pytest.raises(UnencodableError):
        codec.encode(value)


@given(json_values)
def test_json_gives_back_what_it_took(value: object) -> None:
    """What JSON carries comes back equal, with the same exact types."""
    assert same(JsonCodec().decode(JsonCodec().encode(value)), value)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ((1, 2), "$"),
        ({"a": [1, (2,)]}, "$['a'][1]"),
        ({1: 2}, "$"),
        ({"a": {None: 1}}, "$['a']"),
        ([math.nan], "$[0]"),
        (math.inf, "$"),
        (b"x", "$"),
        (Grade.A, "$"),
        (Name("x"), "$"),
        (2**64, "$"),
        (-(2**63) - 1, "$"),
        ({1}, "$"),
        (collections.OrderedDict(a=1), "$"),
    ],
)
def test_json_refuses_what_it_would_bend(value: object, path: str) -> None:
    """What JSON can't carry without loss is refused, with the path to it."""
    with pytest.raises(UnencodableError) as caught:
        JsonCodec().encode(value)
    assert f" at {path};" in str(caught.value)


def test_json_refuses_text_that_has_no_utf8() -> None:
    """A lone surrogate is refused, not replaced."""
    with pytest.raises(UnencodableError):
        JsonCodec().encode(["\ud800"])


def test_json_that_holds_itself() -> None:
    """A value that holds itself is refused, never a RecursionError."""
    value: list[object] = []
    value.append(value)
    with pytest.raises(UnencodableError):
        JsonCodec().encode(value)


@pytest.mark.parametrize("payload", [b"", b"{", b"NaN", b"[Infinity]", b"\xff", b"[" * 100_000, b"1 2"])
def test_not_json(payload: bytes) -> None:
    """What is not strict JSON is a DecodeError."""
    with pytest.raises(DecodeError):
        JsonCodec().decode(payload)
