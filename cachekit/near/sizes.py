"""What an entry takes of the memory of the process, and which values may be handed to many callers as they are."""

from __future__ import annotations

import datetime as dt
import sys
import types
from typing import Any, Final
from zoneinfo import ZoneInfo

_SHARED: Final = frozenset({bool, types.NoneType, type(Ellipsis)})
_ATOMS: Final = frozenset({int, str, bytes, float, complex, dt.date, dt.timedelta})
_ZONED: Final = frozenset({dt.datetime, dt.time})
_ZONES: Final = frozenset({types.NoneType, dt.timezone, ZoneInfo})
_NESTS: Final = frozenset({tuple, frozenset})
_ELSEWHERE: Final = {"decimal": "Decimal", "uuid": "UUID"}
"""Classes whose modules are not loaded for this: nobody has such a value without them."""

_HEAP_FROM: Final = 512
"""Up to here the interpreter has size classes of its own; what is larger is the C library's."""
_PAGE: Final = 4096
_MAPPED_FROM: Final = 128 << 10


def immutable_bytes(value: Any) -> int | None:
    """How much memory ``value`` takes, in bytes; None where it is not of exactly immutable types, all the way down.

    A subclass may have a state of its own, so only the classes themselves count.
    """
    kind = type(value)
    if kind in _SHARED:
        return 0
    if kind in _ATOMS:
        return allotted(sys.getsizeof(value))
    if kind in _NESTS:
        return _nest_bytes(value)
    if kind in _ZONED:
        return allotted(sys.getsizeof(value)) if type(value.tzinfo) in _ZONES else None
    name = _ELSEWHERE.get(kind.__module__)
    if name is not None and getattr(sys.modules.get(kind.__module__), name, None) is kind:
        return allotted(sys.getsizeof(value)) + 64  # a UUID holds an int
    return None


def _nest_bytes(nest: Any) -> int | None:
    whole = allotted(sys.getsizeof(nest)) if nest else 0
    try:
        for each in nest:
            size = immutable_bytes(each)
            if size is None:
                return None
            whole += size
    except RecursionError:
        return None
    return whole


def near_key_bytes(key: tuple[Any, ...]) -> int:
    """How much memory a key of a caller's own making takes, in which what has equals of other types stands behind its
    type (near_calls.py).
    """
    size = allotted(56 + 8 * len(key))
    for each in key:
        if type(each) is not tuple:
            size += immutable_bytes(each) or 0
        else:
            kind, value = each
            size += 80 + (near_key_bytes(value) if kind is tuple else immutable_bytes(value) or 0)
    return size


def allotted(size: int) -> int:
    """The memory that an object of ``size`` bytes really takes."""
    if size <= _HEAP_FROM:
        return (size + 15) & ~15
    if size < _MAPPED_FROM:
        return (size + 8 + 15) & ~15
    return (size + 16 + _PAGE - 1) & -_PAGE
