"""The default codec is lossless or refuses; it never runs what stored bytes name."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import ipaddress
import math
import pathlib
import pickle
import struct
import sys
import threading
import uuid
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from enum import IntEnum, StrEnum
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import ormsgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cachekit.codecs import nesting, scalars
from cachekit.codecs.data import DataCodec
from cachekit.errors import DecodeError, UnencodableError

ZONES = ["Europe/Paris", "America/New_York", "Asia/Kolkata", "UTC", "Australia/Lord_Howe"]
zones = st.one_of(
    st.none(),
    st.just(dt.UTC),
    st.sampled_from(ZONES).map(ZoneInfo),
    st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)).map(dt.timezone),
    st.builds(
        dt.timezone, st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)), st.text("ABCä+", min_size=1)
    ),
)
clean_text = st.text(st.characters(exclude_categories=["Cs"]))
hashable_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.sampled_from([0, 1, -1, 2**63, 2**64, 2**64 - 1, -(2**63), -(2**63) - 1]),
    st.floats(allow_nan=False),
    clean_text,
    st.binary(),
    st.complex_numbers(allow_nan=False),
    st.builds(lambda at, fold: at.replace(fold=fold), st.datetimes(timezones=zones), st.integers(0, 1)),
    st.dates(),
    st.builds(lambda at, fold: at.replace(fold=fold), st.times(timezones=zones), st.integers(0, 1)),
    st.timedeltas(),
    zones,
    st.decimals(allow_nan=False),
    st.fractions(),
    st.uuids(),
    st.builds(range, st.integers(-9, 9), st.integers(-(2**70), 2**70), st.integers(1, 9)),
    st.ip_addresses(),
    st.sampled_from([pathlib.PurePosixPath("/a/ž"), pathlib.PureWindowsPath("c:\\x"), pathlib.Path("rel/\udcff")]),
    st.sampled_from([ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_interface("::1/64")]),
)
hashables = st.recursive(
    hashable_leaves,
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4),
    max_leaves=6,
)


def _grow(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    dicts = st.dictionaries(hashables, inner, max_size=4)
    lists = st.lists(inner, max_size=4)
    return st.one_of(
        lists,
        lists.map(tuple),
        dicts,
        st.dictionaries(clean_text, inner, max_size=4),
        st.sets(hashables, max_size=4),
        dicts.map(OrderedDict),
        st.builds(defaultdict, st.sampled_from([None, list, int, dict]), dicts),
        st.builds(deque, lists, st.none() | st.integers(0, 9)),
        st.builds(Counter, st.dictionaries(hashables, st.integers(), max_size=4)),
    )


values = st.recursive(
    hashables | st.binary().map(bytearray) | st.just(math.nan) | st.just(Decimal("NaN")), _grow, max_leaves=20
)


def same(a: Any, b: Any) -> bool:
    """Equal, with the same exact types at every depth, in the same order; NaN is itself and -0.0 is not 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack(">d", a) == struct.pack(">d", b)
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, Decimal):
        return str(a) == str(b)
    if isinstance(a, dt.datetime | dt.time):
        return a.replace(tzinfo=None) == b.replace(tzinfo=None) and a.fold == b.fold and same(a.tzinfo, b.tzinfo)
    if isinstance(a, dt.tzinfo):
        return str(a) == str(b) and repr(a) == repr(b) and a == b
    if isinstance(a, dict):
        extra = getattr(a, "default_factory", None) is getattr(b, "default_factory", None)
        return extra and same(list(a.items()), list(b.items()))
    if isinstance(a, deque) and a.maxlen != b.maxlen:
        return False
    if isinstance(a, list | tuple | deque):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, set | frozenset):
        return a == b and sorted(map(described, a)) == sorted(map(described, b))
    return bool(a == b)


def described(value: object) -> str:
    """Type and text of an element of a set, at every depth."""
    if isinstance(value, tuple | frozenset):
        parts = [described(part) for part in value]
        return f"{type(value)} {parts if isinstance(value, tuple) else sorted(parts)}"
    return f"{type(value)} {value!r}"


def _carried(value: object) -> object:
    codec = DataCodec()
    return codec.decode(codec.encode(value))


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(values)
def test_lossless(value: object) -> None:
    """What comes back is equal and has the same exact types at every depth."""
    assert same(_carried(value), value)


CURATED: list[object] = [
    (1, [2, (3,)]), {1, 2}, frozenset({1}), [bytearray(b"x"), b"x"], {"a": bytearray(b"x")}, {(1, 2): {3: (4,)}},
    {"b": 1, "a": 2},
    {1: "int", 1.5: "float", "1": "str", b"1": "bytes", None: 0}, {True: 1}, [1, 1.0, True], -0.0,
    math.inf, -math.inf, math.nan, {"n": math.nan}, complex(-0.0, math.nan), 2**64, -(2**63) - 1, 10**5000,
    Decimal("1.00E+5"), Decimal("-0"), Decimal("sNaN12"), Decimal("Infinity"),
    Fraction(-1, 3), uuid.uuid1(), uuid.uuid4(),
    dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris")), dt.datetime(1, 1, 1),  # noqa: DTZ001
    dt.datetime.max,  # noqa: DTZ901
    dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3, microseconds=1), "X")),
    dt.time(23, 59, 59, 999999),
    dt.timedelta.min,
    dt.timedelta.max, dt.date.min, range(0, 2**70, 3), deque([1, (2,)], 5), "", b"", (), [], {}, set(),
    frozenset(), bytearray(), "\x00", "\U0010ffff", {"": ()}, [[], [[]]], defaultdict(list, {"a": [1]}),
    Counter("abca"),
    OrderedDict([(1, 2), ("a", (3,))]), {"x": {"y": {1: {"z": {2}}}}}, [{}, {"a": (1,)}, {2: 3}], None, [None],
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(CURATED)))
def test_curated(index: int) -> None:
    """The values that serialisers usually bend, one by one."""
    value = CURATED[index]
    assert same(_carried(value), value)


def test_two_nan_keys_stay_two() -> None:
    """Keys that are equal to nothing are kept apart."""
    assert len(_carried({float("nan"): 1, float("nan"): 2})) == 2  # type: ignore[arg-type]


class Loud(str):
    __slots__ = ()


class Grade(IntEnum):
    A = 1


class Word(StrEnum):
    A = "a"


class Rows(list[int]):
    pass


class Map(dict[str, int]):
    pass


class Pair(tuple[int, int]):
    __slots__ = ()


class Zone(dt.tzinfo):
    def utcoffset(self, at: dt.datetime | None) -> dt.timedelta:
        """None."""
        return dt.timedelta(0)

    dst = utcoffset

    def tzname(self, at: dt.datetime | None) -> str:
        """A letter."""
        return "Z"


class Stamp(dt.datetime):
    pass


UNNAMED_ZONE = struct.pack(">4s16x6llbb4s", b"TZif", 0, 0, 0, 0, 1, 4, 0, 0, 0, b"UTC")
"""A time zone file (RFC 8536) of one type, UTC."""

BENT: list[tuple[object, str]] = [
    (Loud("x"), "$"), (Grade.A, "$"), ({"a": [Word.A]}, "$['a'][0]"), (Rows([1]), "$"), ([Map(a=1)], "$[0]"),
    ((1, Pair((1, 2))), "$[1]"), ({Loud("k"): 1}, "$.key(Loud)"), ({1: {Word.A: 1}}, "$[1].key(Word)"),
    ([dt.datetime(2026, 1, 1, tzinfo=Zone())], "$[0]"), (Stamp(2026, 1, 1, tzinfo=dt.UTC), "$"),
    (np.float64(1.0), "$"), (np.int64(1), "$"),
    (np.zeros(2), "$"), (memoryview(b"x"), "$"), ([{"m": memoryview(b"x")}], "$[0]['m']"), (ormsgpack.Ext(1, b""), "$"),
    (ormsgpack.Fragment(b"\xc0"), "$"), (object(), "$"), ([print], "$[0]"), (ChainMap(), "$"), (int, "$"), (..., "$"),
    ("\ud800", "$"), ({"\udfff": 1}, "$.key('\\udfff')"), (["ok", {"a": "x\ud800"}], "$[1]['a']"),
    (ValueError("x"), "$"),
    (defaultdict(lambda: 1), "$"), (ZoneInfo.from_file(io.BytesIO(UNNAMED_ZONE)), "$"),
    (Fraction(1, 2**20_000), "$"), ({"a": {"b": (1, {2: object()})}}, "$['a']['b'][1][2]"), (iter([]), "$"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "path"), BENT, ids=lambda part: type(part).__name__)
def test_refused_with_type_and_path(value: object, path: str) -> None:
    """What would come back as something else is refused; the error names the type and the path to it."""
    with pytest.raises(UnencodableError) as caught:
        DataCodec().encode(value)
    assert f" at {path}: " in str(caught.value)
    assert caught.value.type_name


def test_the_way_out_is_named() -> None:
    """Who meets a class that can't be carried reads what to do."""
    with pytest.raises(UnencodableError, match=r"cache\.register\(Loud, encode=…, decode=…\)"):
        DataCodec().encode([Loud("x")])


def _self_holding() -> list[object]:
    a: list[object] = []
    a.append(a)
    b: dict[str, object] = {}
    b["x"] = [b]
    c: dict[int, object] = {}
    c[1] = c
    d: list[object] = []
    d.append((d,))
    e: deque[object] = deque()
    e.append([e])
    return [a, b, c, d, e]


@pytest.mark.parametrize("index", range(5))
def test_a_value_that_holds_itself(index: int) -> None:
    """Refused in words, never a RecursionError."""
    with pytest.raises(UnencodableError, match="holds itself"):
        DataCodec().encode(_self_holding()[index])


def _nest(wrap: Callable[[object], object], depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = wrap(value)
    return value


WRAPS: list[tuple[Callable[[object], object], int]] = [
    (lambda inner: [inner], nesting.MAX_LISTS),
    (lambda inner: {"k": inner}, nesting.MAX_LISTS),
    (lambda inner: (inner,), nesting.MAX_NESTED),
    (lambda inner: {1: inner}, nesting.MAX_NESTED),
    (lambda inner: [(inner, inner if type(inner) is int else 2)], nesting.MAX_NESTED),
    (lambda inner: ([[inner]],), 40),
]


@pytest.mark.parametrize("index", range(len(WRAPS)))
def test_depth(index: int) -> None:
    """As deep as the documented limits comes back, also on a small stack; deeper is refused, never a crash."""
    wrap, limit = WRAPS[index]
    value = _nest(wrap, limit)
    outcome: list[object] = []
    before = threading.stack_size(1 << 20)
    thread = threading.Thread(target=lambda: outcome.append(_carried(value)))
    thread.start()
    thread.join()
    threading.stack_size(before)
    assert outcome == [value]
    for depth in (300, 5_000):
        with pytest.raises(UnencodableError):
            DataCodec().encode(_nest(wrap, depth))


def test_wide_and_deep() -> None:
    """Values with many parts at every level are read: where the quick bound is too strict, the real depth decides."""
    value: object = 1
    for level in range(12):
        value = (level, [[number] for number in range(2000)], value)
    assert _carried(value) == value


def test_the_same_list_many_times() -> None:
    """A value that holds the same lists over and over would unfold without end: refused in bounded time and memory."""
    value: list[object] = ["x"]
    for _ in range(60):
        value = [value, value]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cachekit.codecs.data._MAX_CONTAINERS", 10_000)
        with pytest.raises(UnencodableError):
            DataCodec().encode(value)


def _ext(tag: int, payload: bytes) -> bytes:
    return ormsgpack.packb(ormsgpack.Ext(tag, payload))


HOSTILE = {
    "lists": b"\x91" * 100_000 + b"\xc0",
    "dicts": b"\x81\xa1k" * 100_000 + b"\xc0",
    "cut": b"\xdd\xff\xff\xff\xff",
    "long text": b"\xdb\xff\xff\xff\xff",
    "int keys": b"\x81\x01\x02",
    "tag": _ext(99, b""),
    "negative tag": b"\xd6\xff\x00\x00\x00\x00",
    "tuple of text": _ext(scalars.TUPLE, b"\xa3abc"),
    "set of lists": _ext(scalars.SET, b"\x91\x90"),
    "odd map": _ext(scalars.MAP, b"\x91\x01"),
    "map of lists": _ext(scalars.MAP, b"\x92\x90\x01"),
    "datetime": _ext(scalars.DATETIME, b"\x00" * 12),
    "short datetime": _ext(scalars.DATETIME, b"\x00"),
    "zone path": _ext(scalars.ZONE, b"Z../../etc/passwd"),
    "zone folder": _ext(scalars.ZONE, b"ZEurope"),
    "zone kind": _ext(scalars.ZONE, b"?"),
    "decimal": _ext(scalars.DECIMAL, b"one"),
    "uuid": _ext(scalars.UUID_, b"x"),
    "uuid safety": _ext(scalars.UUID_, b"x" * 16 + b"\x07"),
    "path": _ext(scalars.PATH, b"\x09/a"),
    "ip": _ext(scalars.IP, b"\x00999"),
    "factory": _ext(scalars.DEFAULT_DICT, ormsgpack.packb(["os.system"])),
    "range": _ext(scalars.RANGE, ormsgpack.packb([1, 2, 0])),
    "range of text": _ext(scalars.RANGE, ormsgpack.packb(["1", "2", "3"])),
    "fraction": _ext(scalars.FRACTION, ormsgpack.packb([1, 0])),
    "class": _ext(scalars.CLASS, b"\x00\x09os:system\x91\xa2id"),
    "class name": _ext(scalars.CLASS, b"\xff\xffx"),
    "class without anything": _ext(scalars.CLASS, b""),
    "pickle": pickle.dumps(print),
    "json": b'{"a": 1}',
    "text": b"<html>",
    "nothing": b"",
    "null and more": b"\xc0\xc0",
    "deque": _ext(scalars.DEQUE, ormsgpack.packb([-1, 2])),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_payloads(name: str) -> None:
    """Bytes that no writer made are a DecodeError, whatever the decoders inside raise."""
    with pytest.raises(DecodeError):
        DataCodec().decode(HOSTILE[name])


@pytest.mark.parametrize("lists", [0, 1, 30, 1000])
def test_hostile_nesting(lists: int) -> None:
    """Ext values in ext values, with lists between them, end in a DecodeError before the machine's stack does."""
    payload = b"\xc0"
    for _ in range(3000 // (lists + 1) + 100):
        payload = _ext(scalars.TUPLE, b"\x91" + b"\x91" * lists + payload)
    with pytest.raises(DecodeError, match="deep"):
        DataCodec().decode(payload)


def test_reason_survives_the_c_library() -> None:
    """The library replaces what a hook raises; the DecodeError still says why, and forgets it afterwards."""
    with pytest.raises(DecodeError, match="os:system"):
        DataCodec().decode(b"\x91" + HOSTILE["class"])
    with pytest.raises(DecodeError, match="unexpected end"):
        DataCodec().decode(b"\x92\x01")


def test_nothing_is_imported_by_stored_bytes() -> None:
    """A name in stored bytes is looked up in a table and nowhere else: the module it names is not even imported."""
    assert "this" not in sys.modules
    with pytest.raises(DecodeError):
        DataCodec().decode(_ext(scalars.CLASS, b"\x00\x06this:s\x90"))
    assert "this" not in sys.modules


@given(st.recursive(st.integers() | clean_text | st.binary(), lambda inner: st.lists(inner), max_leaves=30))
def test_depth_of(value: object) -> None:
    """The walk that counts depth agrees with the value."""

    def depth(part: object) -> int:
        return 1 + max(map(depth, part)) if isinstance(part, list) and part else 0

    packed = ormsgpack.packb(
        value, default=lambda big: ormsgpack.Ext(6, b"\x91" * 300), option=ormsgpack.OPT_PASSTHROUGH_BIG_INT
    )
    assert nesting.depth_of(packed, 1000) == depth(value)


@given(st.binary(max_size=300))
def test_garbage(payload: bytes) -> None:
    """Any bytes at all are a value or a DecodeError, and the walk that counts depth ends on them."""
    assert nesting.depth_of(payload, 50) <= 51
    with contextlib.suppress(DecodeError):
        DataCodec().decode(payload)


def test_threads_share_a_codec() -> None:
    """Failures in one thread are not told to another."""
    codec = DataCodec()
    wrong: list[object] = []

    def run(name: bytes) -> None:
        for _ in range(300):
            try:
                codec.decode(_ext(scalars.CLASS, b"\x00\x03" + name + b"\x90"))
            except DecodeError as error:
                if name.decode() not in str(error):
                    wrong.append(str(error))

    threads = [threading.Thread(target=run, args=(name,)) for name in (b"aaa", b"bbb", b"ccc")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
