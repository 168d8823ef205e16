"""Containers that MessagePack has no type for: an ext value each, with a list of the parts inside."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from fractions import Fraction
from itertools import chain
from typing import Any, Final

from cachekit.codecs import scalars
from cachekit.errors import DecodeError, UnencodableError

_FACTORIES: Final[dict[str, Callable[[], Any] | None]] = {
    "None": None, "list": list, "dict": dict, "set": set, "int": int, "float": float, "str": str, "tuple": tuple,
    "bool": bool, "bytes": bytes, "frozenset": frozenset,
}  # fmt: skip
_FACTORY_NAMES: Final = {factory: name for name, factory in _FACTORIES.items()}
_MAX_FRACTION_BITS: Final = 1 << 14  # reducing a fraction takes time that grows with the square of this


def pairs(value: dict[Any, Any]) -> list[Any]:
    """key, value, key, value …"""
    return list(chain.from_iterable(value.items()))


def _dict(parts: list[Any]) -> dict[Any, Any]:
    halves = iter(parts)
    return dict(zip(halves, halves, strict=True))


def _from_default_dict(value: defaultdict[Any, Any]) -> list[Any]:
    name = _FACTORY_NAMES.get(value.default_factory)
    if name is None:
        raise UnencodableError("a defaultdict whose factory is not one of the builtin types", type_name="defaultdict")
    return [name, *pairs(value)]


def _default_dict(parts: list[Any]) -> defaultdict[Any, Any]:
    return defaultdict(_FACTORIES[parts[0]], _dict(parts[1:]))


def _counter(parts: list[Any]) -> Counter[Any]:
    counter: Counter[Any] = Counter()
    dict.update(counter, _dict(parts))
    return counter


def _from_fraction(value: Fraction) -> list[Any]:
    parts = [value.numerator, value.denominator]
    if max(part.bit_length() for part in parts) > _MAX_FRACTION_BITS:
        raise UnencodableError(f"a Fraction with more than {_MAX_FRACTION_BITS} bits", type_name="Fraction")
    return parts


def _fraction(parts: list[Any]) -> Fraction:
    numerator, denominator = _ints(parts, 2)
    if max(numerator.bit_length(), denominator.bit_length()) > _MAX_FRACTION_BITS:
        raise DecodeError("a stored Fraction is too long")
    return Fraction(numerator, denominator)


def _ints(parts: list[Any], count: int) -> list[int]:
    if len(parts) != count or any(type(part) is not int for part in parts):
        raise DecodeError(f"expected {count} integers")
    return parts


def _deque(parts: list[Any]) -> deque[Any]:
    return deque(parts[1:], parts[0])


BUILD: Final[dict[int, Callable[[list[Any]], object]]] = {
    scalars.TUPLE: tuple, scalars.SET: set, scalars.FROZENSET: frozenset, scalars.MAP: _dict,
    scalars.ORDERED_DICT: lambda parts: OrderedDict(_dict(parts)), scalars.DEFAULT_DICT: _default_dict,
    scalars.COUNTER: _counter, scalars.DEQUE: _deque, scalars.RANGE: lambda parts: range(*_ints(parts, 3)),
    scalars.FRACTION: _fraction,
}  # fmt: skip
"""Ext type -> what builds the container from its list of parts."""

TAKE_APART: Final[dict[type, tuple[int, Callable[[Any], list[Any]]]]] = {
    tuple: (scalars.TUPLE, list), set: (scalars.SET, list), frozenset: (scalars.FROZENSET, list),
    OrderedDict: (scalars.ORDERED_DICT, pairs), defaultdict: (scalars.DEFAULT_DICT, _from_default_dict),
    Counter: (scalars.COUNTER, pairs), deque: (scalars.DEQUE, lambda value: [value.maxlen, *value]),
    range: (scalars.RANGE, lambda value: [value.start, value.stop, value.step]),
    Fraction: (scalars.FRACTION, _from_fraction),
}  # fmt: skip
"""Exact type -> its ext type, and what gives the list of its parts."""
