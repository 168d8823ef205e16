"""The fast and the careful way to encode: which values go which way, and that they never meet."""

from __future__ import annotations

import functools
import marshal
import math
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from vectors import key_samples
from vectors.key_strategies import mixed, plains

from cachekit.errors import UnkeyableError
from cachekit.keys import canonical, plain
from cachekit.keys.compile import compile_keys

one = compile_keys(key_samples.one).make


def nested(depth: int, inner: object = 1) -> object:
    """Put a value into so many lists."""
    return functools.reduce(lambda value, _: [value], range(depth), inner)


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
