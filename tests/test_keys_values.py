"""What single values become in a key: what must differ, and what must be equal."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import functools
import sys
import types
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import key_samples, key_samples_extras
from vectors.key_strategies import mixed, plains

from cachekit.errors import UnkeyableError
from cachekit.keys import arrays
from cachekit.keys.compile import compile_keys

T = TypeVar("T")
one = compile_keys(key_samples.one).make
NAMES = {**key_samples.NAMES, **key_samples_extras.NAMES}


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


# Classes


class Loaded(str):
    pass


class Money(decimal.Decimal):
    pass


Twin = collections.namedtuple("Twin", "x")


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
    with pytest.raises(UnkeyableError, match="of type object"):
        one(Keyed(object()))
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
