"""Why a value can't be stored: which part of it, of which type, and what to do. Runs only after encoding has failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from cachekit.codecs import nesting, scalars
from cachekit.codecs.carrier import full_name
from cachekit.codecs.containers import TAKE_APART
from cachekit.codecs.known import Known
from cachekit.errors import UnencodableError

_MAX_STEPS: Final = 100_000
_MAX_DEPTH: Final = nesting.MAX_LISTS + nesting.MAX_NESTED


class _Spot(NamedTuple):
    path: str
    value: object
    around: tuple[int, ...]  # ids of what holds it


def explain(value: object, known: Known, error: Exception) -> UnencodableError:
    """The error to raise for a value that could not be encoded.

    value: what was to be stored. known: the classes its codec knows. error: what encoding raised, for the case that
    nothing better is found.
    """
    todo = [_Spot("$", value, ())]
    for _ in range(_MAX_STEPS):
        if not todo:
            break
        spot = todo.pop()
        reason = _reason(spot, known)
        if reason is not None:
            kind = type(spot.value)
            short = spot.path if len(spot.path) <= 200 else spot.path[:100] + "…" + spot.path[-99:]
            return UnencodableError(
                f"can't store the {full_name(kind)} at {short}: {reason}", type_name=full_name(kind)
            )
        todo.extend(reversed(list(_parts(spot, known))))
    kind = type(value)
    return UnencodableError(f"can't store this {full_name(kind)}: {error}", type_name=full_name(kind))


def _reason(spot: _Spot, known: Known) -> str | None:
    """What is wrong with this part itself, or None."""
    value, kind = spot.value, type(spot.value)
    if kind is str:
        return _text_reason(value)
    if id(value) in spot.around:
        return "it holds itself"
    if len(spot.around) > _MAX_DEPTH:
        return f"it is nested deeper than {nesting.MAX_LISTS} lists and dicts, or {nesting.MAX_NESTED} of other kinds"
    try:
        if kind in scalars.ENCODERS and kind is not int:
            scalars.ENCODERS[kind](value)
        elif kind in TAKE_APART:
            TAKE_APART[kind][1](value)
        elif kind not in scalars.CARRIED_TYPES:
            return _class_reason(value, kind, known)
    except Exception as error:  # noqa: BLE001 - a registered encode= may raise anything
        return str(error)
    return None


def _text_reason(value: Any) -> str | None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"text with a surrogate at index {error.start} has no UTF-8 form"
    return None


def _class_reason(value: object, kind: type, known: Known) -> str | None:
    carrier = known.by_type(kind)
    if carrier is None and kind.__name__ == "coroutine":
        return "a coroutine is no value: await it first"
    if carrier is None:
        return (
            "this class is neither in the function's return annotation nor registered, or can't be rebuilt without "
            "loss; "
            f"cache.register({kind.__name__}, encode=…, decode=…) teaches the cache to carry it"
        )
    carrier.encode(value)
    return None


def _parts(spot: _Spot, known: Known) -> Iterator[_Spot]:
    """The parts of a part, each with its path."""
    value: Any = spot.value
    kind = type(value)
    around = (*spot.around, id(value))
    named: Iterable[tuple[str, object]] = ()
    if kind is list:
        named = ((f"[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, dict) and kind in scalars.CARRIED_TYPES:
        named = (
            pair for key, item in value.items() for pair in ((f".key({_short(key)})", key), (f"[{_short(key)}]", item))
        )
    elif kind in TAKE_APART:
        named = ((f"[{index}]", item) for index, item in enumerate(TAKE_APART[kind][1](value)))
    elif kind not in scalars.CARRIED_TYPES and (carrier := known.by_type(kind)) is not None:
        parts = carrier.encode(value)
        if carrier.fields and isinstance(parts, list):
            named = ((f".{field}", part) for field, part in zip(carrier.fields, parts, strict=False))
        else:
            named = ((".encode()", parts),)
    for name, item in named:
        yield _Spot(spot.path + name, item, around)


def _short(key: object) -> str:
    """A key as a path shows it; values never appear in messages, so keys of other types are named by type."""
    if type(key) is str:
        return repr(key[:40])
    return repr(key) if type(key) is int and key.bit_length() <= 64 else type(key).__name__
