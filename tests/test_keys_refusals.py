"""Values that have no identity, and so no key."""

from __future__ import annotations

import collections
import datetime as dt
import io
import math
import struct
import sys
import threading
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import attrs
import msgspec
import numpy as np
import pytest
from vectors import key_samples

from cachekit.errors import UnkeyableError
from cachekit.keys.compile import compile_keys

T = TypeVar("T")
one = compile_keys(key_samples.one).make


class Plain:
    """No identity."""

    def method(self) -> None:
        """Belong to an object."""


class Slotted(str):
    __slots__ = ("extra",)


class Loaded(str):
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


def test_local_classes_are_told_to_move() -> None:
    """The error for a class made inside a function says what to do about it."""
    with pytest.raises(UnkeyableError, match="move it to the top of its module"):
        one(_local_class())
