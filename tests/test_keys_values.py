"""What single values become in a key: what must differ, what must be equal, what must be refused."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import functools
import io
import marshal
import math
import struct
import sys
import threading
import types
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import attrs
import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import key_samples, key_samples_extras

from cachekit.errors import UnkeyableError
from cachekit.keys import arrays, canonical, compile_keys, plain

T = TypeVar("T")
one = compile_keys(key_samples.one).make
NAMES = {**key_samples.NAMES, **key_samples_extras.NAMES}


def nested(depth: int, inner: object = 1) -> object:
    """Put a value into so many lists."""
    return functools.reduce(lambda value, _: [value], range(depth), inner)


# Strategies: plain values take the fast path, mixed ones the careful one.

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.binary(),
    st.complex_numbers(allow_nan=False), st.text(st.characters(codec=None)),
)  # fmt: skip
plains = st.recursive(scalars, lambda inner: st.lists(inner) | st.lists(inner).map(tuple), max_leaves=12)
hashables = st.one_of(scalars, st.decimals(allow_nan=False), st.fractions(), st.dates(), st.uuids(), st.tuples(scalars))
mixed = st.recursive(
    hashables,
    lambda inner: (
        st.lists(inner) | st.dictionaries(hashables, inner) | st.frozensets(hashables) | st.lists(inner).map(tuple)
    ),
    max_leaves=12,
)


def fingerprint(value: Any) -> Any:
    """Say by other means than the encoders what a value is: types, signs and order where they count."""
    if isinstance(value, (list, tuple)):
        return type(value), tuple(map(fingerprint, value))
    if isinstance(value, dict):
        return dict, frozenset((fingerprint(key), fingerprint(content)) for key, content in value.items())
    if isinstance(value, frozenset):
        return frozenset, frozenset(map(fingerprint, value))
    if isinstance(value, float):
        return float, value.hex()
    if isinstance(value, complex):
        return complex, value.real.hex(), value.imag.hex()
    return type(value), value.as_tuple() if isinstance(value, decimal.Decimal) else value


# Must differ, must be equal


def test_curated_values_all_differ() -> None:
    """R9: every value of the must-differ list has a key of its own."""
    values = [eval(text, dict(NAMES)) for text in key_samples.VALUES + key_samples_extras.VALUES]
    keys = collections.defaultdict(list)
    for text, value in zip(key_samples.VALUES + key_samples_extras.VALUES, values, strict=True):
        keys[one(value)].append(text)
    assert [same for same in keys.values() if len(same) > 1] == []
    assert len(keys) == len(values)


@pytest.mark.parametrize(("left", "right"), key_samples.EQUAL + key_samples_extras.EQUAL)
def test_curated_values_that_are_the_same(left: str, right: str) -> None:
    """Order of dicts and sets, the bits of a NaN, and fields that don't take part in comparison do not count."""
    assert one(eval(left, dict(NAMES))) == one(eval(right, dict(NAMES)))


@given(st.lists(mixed, min_size=2, max_size=2) | st.lists(plains, min_size=2, max_size=2))
def test_keys_are_equal_exactly_when_values_are(pair: list[Any]) -> None:
    """Equal keys, equal values of equal types; and the other way round."""
    left, right = pair
    assert (one(left) == one(right)) == (fingerprint(left) == fingerprint(right))


@given(mixed)
def test_a_copy_has_the_same_key(value: Any) -> None:
    """A key depends on content, never on object identity or on the order in which a set was filled."""

    def copy(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(copy, value))
        if isinstance(value, dict):
            return {copy(key): copy(content) for key, content in reversed(value.items())}
        if isinstance(value, frozenset):
            return frozenset(sorted(value, key=repr, reverse=True))
        return "".join(list(value)) if type(value) is str else value

    assert one(value) == one(copy(value))


# The two paths


@given(plains)
def test_marshal_writes_what_the_portable_writer_writes(value: Any) -> None:
    """Interpreters whose marshal differs use the portable writer, so both must agree to the byte."""
    assert marshal.dumps((value,), 2) == plain.portable_dumps((value,))


@given(plains, plains)
def test_object_identity_does_not_enter_the_fast_path(left: Any, right: Any) -> None:
    """Version 2 of marshal has no back references: one object met twice is written twice."""
    assert plain.dumps((left, left, right), 2) == plain.dumps((left, *marshal.loads(marshal.dumps((left, right)))), 2)


@given(mixed)
def test_plain_is_decided_by_types_alone(value: Any) -> None:
    """What holds anything but plain types at any depth is not plain; the check agrees with a naive one."""

    def naive(value: Any) -> bool:
        if type(value) in (list, tuple):
            return all(map(naive, value))
        return type(value) in (type(None), bool, int, float, complex, str, bytes)

    assert plain.is_plain((value,)) == naive(value)


@given(plains)
def test_the_two_paths_never_meet(value: Any) -> None:
    """A plain value's bytes under the fast path are hashed under another person= than under the careful one."""
    fast = one(value)
    digester = one.__globals__["_slow"].__self__
    state = digester.careful_state.copy()
    state.update(plain.dumps((value,), 2))
    assert digester.plain_state.digest() != digester.careful_state.digest()
    assert fast[-24:] != canonical_key(state.digest())
    state = digester.plain_state.copy()
    state.update(canonical.encode(value))
    assert fast[-24:] != canonical_key(state.digest())


def canonical_key(digest: bytes) -> bytes:
    """Write a digest as keys do."""
    from cachekit.keys.compile import _base64

    return _base64(digest)


@pytest.mark.parametrize("value", [math.nan, complex(math.nan, 0), complex(0, math.nan), [1, [math.nan]], (math.nan,)])
def test_nan_is_not_plain(value: object) -> None:
    """The bits of a NaN differ between machines, so the careful encoder makes all of them one."""
    other = struct.unpack(">d", bytes.fromhex("fff8000000000001"))[0]
    assert not plain.is_plain((value,))
    assert one(math.nan) == one(other) == one(-math.nan)
    assert one([other]) == one([math.nan]) != one(math.nan)


def test_unplain_interpreters_get_the_portable_writer() -> None:
    """An interpreter is trusted by what its marshal writes, not by its name."""
    assert plain.dumps is marshal.dumps
    assert plain.choose_dumps(lambda value, version: b"other") is plain.portable_dumps
    assert plain.choose_dumps(lambda value, version: marshal.dumps(value, 4)) is plain.portable_dumps

    def fails(value: object, version: int) -> bytes:
        raise ValueError("unmarshallable object")

    assert plain.choose_dumps(fails) is plain.portable_dumps
    with pytest.raises(ValueError, match="unmarshallable"):
        plain.portable_dumps({1})


# Depth


@pytest.mark.parametrize("depth", [31, 32, 33, 62, 63])
def test_deep_values_have_keys(depth: int) -> None:
    """Nesting up to 64 levels is keyed, across the border between the paths."""
    assert one(nested(depth)) == one(nested(depth)) != one(nested(depth + 1 if depth < 63 else 30))


def _cycle() -> list[Any]:
    items: list[Any] = [1]
    items.extend([items, items])
    return items


def _dict_cycle() -> dict[str, Any]:
    items: dict[str, Any] = {}
    items["a"] = [items, items]
    return items


@pytest.mark.parametrize("make", [lambda: nested(64), lambda: nested(100_000), _cycle, _dict_cycle])
def test_bottomless_values_are_refused(make: Callable[[], object]) -> None:
    """Too deep, or within itself: an error at once, not a crash, a hang or a RecursionError."""
    with pytest.raises(UnkeyableError, match="deeper than 64 levels, or contains itself"):
        one(make())


# Refusals


class Plain:
    """No identity."""

    def method(self) -> None:
        """Belong to an object."""


class Slotted(str):
    __slots__ = ("extra",)


class Loaded(str):
    pass


class Money(decimal.Decimal):
    pass


@dataclass(eq=False)
class ByIdentity:
    x: int


@dataclass
class Grown:
    x: int


@dataclass
class Listed(list[int]):
    x: int


class Undecorated(Grown):
    """Adds state that the fields do not show."""

    def __init__(self) -> None:
        super().__init__(1)
        self.y = 2


@dataclass
class WithSlot(Grown):
    __slots__ = ("hidden",)


@attrs.define(eq=False)
class AttrsByIdentity:
    x: int


class StructByIdentity(msgspec.Struct, eq=False):
    x: int


Twin = collections.namedtuple("Twin", "x")
Other: Any = collections.namedtuple("Twin", "y")  # type: ignore[name-match]


def _loaded() -> Loaded:
    value = Loaded("a")
    value.extra = 1  # type: ignore[attr-defined]
    return value


def _local_class() -> type:
    class Local:
        pass

    return Local


def _lacking() -> Grown:
    value = Grown(1)
    del value.x
    return value


UNKEYABLE: dict[str, Callable[[], object]] = {
    "object": object,
    "instance": Plain,
    "generator": lambda: (x for x in [1]),
    "iterator": lambda: iter([]),
    "dict view": lambda: {}.keys(),
    "file": io.StringIO,
    "lock": threading.Lock,
    "module": lambda: math,
    "exception": lambda: ValueError("a"),
    "lambda": lambda: lambda: None,
    "local class": _local_class,
    "instance of a local class": lambda: _local_class()(),
    "method of an object": lambda: [].append,
    "method without self's identity": lambda: Plain().method,
    "defaultdict of a lambda": lambda: collections.defaultdict(lambda: 1),
    "subclass with slots": lambda: Slotted("a"),
    "subclass with attributes": _loaded,
    "subclass in C": lambda: sys.version_info,
    "name of another class": lambda: Other(1),
    "eq=False dataclass": lambda: ByIdentity(1),
    "eq=False attrs": lambda: AttrsByIdentity(1),
    "eq=False struct": lambda: StructByIdentity(1),
    "dataclass with attributes": Undecorated,
    "dataclass with slots": lambda: WithSlot(1),
    "dataclass that is a list": lambda: Listed(1),
    "dataclass that lacks a field": _lacking,
    "own time zone": lambda: dt.datetime(
        2026,
        1,
        1,
        tzinfo=_Zone(),  # type: ignore[abstract]
    ),
    "zone from a file": lambda: zoneinfo.ZoneInfo.from_file(io.BytesIO(_ZONE_FILE)),
    "function without a module": lambda: eval("lambda: None", {}),
    "type variable": lambda: T,
    "object array": lambda: np.array([object()]),
    "object field": lambda: np.zeros(1, dtype=[("a", "O")]),
    "long double": lambda: np.longdouble(1),
    "masked array": lambda: np.ma.array([1, 2], mask=[False, True]),
    "matrix": lambda: np.array([1]).view(_Array),
    "structured dtype": lambda: np.dtype([("a", "i4")]),
    "random generator": lambda: np.random.default_rng(1),
}


# One type of local time, "UTC", in the format of RFC 8536, version 1.
_ZONE_FILE: bytes = b"TZif" + bytes(16) + struct.pack(">6l", 0, 0, 0, 0, 1, 4) + bytes(6) + b"UTC\0"


class _Array(np.ndarray[Any, Any]):
    """May hold anything beside its content."""


class _Zone(dt.tzinfo):
    """A zone without a name."""


@pytest.mark.parametrize("make", UNKEYABLE.values(), ids=UNKEYABLE)
def test_values_without_identity_are_refused(make: Callable[[], object]) -> None:
    """Nothing is keyed by its address, by half of its state, or by a name that leads elsewhere."""
    for value in (make(), [make()], {"a": (make(),)}):
        with pytest.raises(UnkeyableError, match="__cache_key__") as caught:
            one(value)
        assert "0x" not in str(caught.value)


# Classes


def test_subclasses_without_state_are_class_plus_value() -> None:
    """A subclass of a supported type is told apart from its base and from other subclasses."""
    assert len({one(Loaded("a")), one(key_samples.Name("a")), one("a")}) == 3
    assert one(Loaded("a")) == one(Loaded("a")) != one(Loaded("b"))
    assert one(Money("1.0")) == one(Money("1.0")) != one(Money("1.00"))
    assert one(Twin(1)) == one(Twin(1)) != one((1,))


class Liar(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1

    def to_bytes(self, *args: Any, **kwargs: Any) -> bytes:  # noqa: D102
        return b"lie"

    def bit_length(self) -> int:  # noqa: D102
        return 0


class LiarList(list[int]):
    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_subclasses_cannot_misreport_their_value() -> None:
    """The base type's own methods read the value."""
    assert one(Liar(1)) != one(Liar(2))
    assert one(LiarList([1])) != one(LiarList([2]))


@dataclass
class Box(Generic[T]):
    content: T
    seen: int = field(default=0, compare=False)

    @functools.cached_property
    def size(self) -> int:
        """Cost something."""
        return 1


def test_records_key_by_what_they_compare_by() -> None:
    """Fields with compare=False, cached properties and type parameters are no part of a dataclass's value."""
    box = Box[int](1)
    before = one(box)
    assert box.size == 1
    box.seen = 5
    assert one(box) == before == one(Box(1)) != one(Box("1"))


class Model(pydantic.BaseModel, Generic[T]):
    model_config = pydantic.ConfigDict(extra="allow")
    x: T
    _secret: int = pydantic.PrivateAttr(default=1)

    @functools.cached_property
    def double(self) -> int:
        """Cost something."""
        return 2


IntModel = Model[int]


def test_pydantic_models_key_by_all_that_they_hold() -> None:
    """Fields, extras, private attributes, parameters and which fields were set count; cached properties don't."""
    model = IntModel(x=1)
    assert model.double == 2
    assert one(model) == one(IntModel(x=1))
    private = IntModel(x=1)
    private._secret = 2
    others = [IntModel(x=2), IntModel.model_validate({"x": 1, "y": 2}), private, Model[str](x="1"), Model[float](x=1)]
    assert len({one(model), *map(one, others)}) == 6


class Keyed:
    def __init__(self, key: object) -> None:
        self.key = key

    def __cache_key__(self) -> object:
        return self.key


class KeyedString(str):
    def __cache_key__(self) -> object:
        return self.lower()


def test_cache_key_goes_before_everything() -> None:
    """__cache_key__ says what an object is known by; the class is part of it, the object's other state is not."""
    assert one(Keyed(1)) == one(Keyed(1)) != one(1)
    assert one(Keyed((1, {"a"}))) != one(Keyed([1, {"a"}]))
    assert one(KeyedString("A")) == one(KeyedString("a"))
    with pytest.raises(UnkeyableError, match="of type Plain"):
        one(Keyed(Plain()))
    loop = Keyed(None)
    loop.key = loop
    with pytest.raises(UnkeyableError, match="contains itself"):
        one(loop)


def test_a_name_must_lead_back_to_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two classes under one name would share entries."""
    module = types.ModuleType("somewhere")
    monkeypatch.setitem(sys.modules, "somewhere", module)
    first, second = (type("Thing", (), {"__module__": "somewhere"}) for _ in range(2))
    module.Thing = first  # type: ignore[attr-defined]
    assert one(first)
    with pytest.raises(UnkeyableError, match="leads to something else"):
        one(second)


# Dates and numbers


@given(st.datetimes(timezones=st.none() | st.timezones()), st.sampled_from([0, 1]))
def test_datetimes_differ_by_fold_zone_and_every_field(moment: dt.datetime, fold: int) -> None:
    """Equal instants in different zones differ, and so do the two passes of a repeated hour."""
    moment = moment.replace(fold=fold)
    changed = [moment.replace(fold=1 - fold), moment.replace(tzinfo=dt.timezone(dt.timedelta(minutes=7)))]
    changed.append(moment.replace(microsecond=(moment.microsecond + 1) % 1_000_000))
    assert one(moment) == one(moment.replace())
    assert len({one(moment), *map(one, changed)}) == 4


def test_decimal_context_does_not_matter() -> None:
    """The key of a Decimal does not depend on the context of the thread."""
    key = one(decimal.Decimal("1E+5"))
    with decimal.localcontext(capitals=0, prec=1):
        assert one(decimal.Decimal("1E+5")) == key


def test_huge_integers_have_keys() -> None:
    """Python refuses to print integers of more than 4300 digits; they are keyed by their bytes."""
    assert one(10**10_000) != one(10**10_000 + 1)
    assert one({10**10_000}) != one({10**10_000 + 1})


# NumPy


def test_numpy_is_looked_up_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without NumPy in the process no value can be an array."""
    assert arrays.encoder(np.ndarray) is not None
    monkeypatch.delitem(sys.modules, "numpy")
    assert arrays.encoder(np.ndarray) is None


@given(st.integers(0, 3), st.sampled_from(["i1", "<i4", ">i4", "f4", "f8", "c16", "?", "S3", "U2", "M8[s]"]))
def test_arrays_differ_by_dtype_and_shape_not_by_layout(rows: int, dtype: str) -> None:
    """Content is what counts: any strides of the same array are one key."""
    array = np.arange(rows * 2).astype(dtype).reshape(rows, 2)
    assert one(array) == one(np.asfortranarray(array)) == one(np.repeat(array, 2, axis=1)[:, ::2])
    assert len({one(array), one(array.reshape(2, rows, 1)), one(array.tolist())}) == 3
    if rows > 1:
        assert one(array) != one(array[::-1])


def test_padding_of_structured_arrays_does_not_count() -> None:
    """Bytes between the fields are whatever was in memory."""
    dtype = np.dtype([("a", "i1"), ("b", "i8")], align=True)
    arrays = [np.frombuffer(bytearray(fill * dtype.itemsize), dtype=dtype) for fill in (b"\x00", b"\xff")]
    for array in arrays:
        array["a"], array["b"] = 1, 2
    assert arrays[0].tobytes() != arrays[1].tobytes()
    assert one(arrays[0]) == one(arrays[1])


def test_nan_in_arrays_is_one_nan() -> None:
    """As for floats: the bits of a NaN differ between machines. The caller's array is not touched."""
    bits = np.array([0x7FF8000000000000, 0xFFF8000000000001], dtype="u8").view("f8")
    before = bits.tobytes()
    assert one(bits[:1]) == one(bits[1:])
    assert bits.tobytes() == before
