"""The default codec: MessagePack with ext types, data only, and lossless.

What comes back has the same exact types at every depth, or the value is refused when it is stored. Decoding builds
data, and instances of classes that this process named beforehand (``registry``); it imports nothing and calls nothing
that stored bytes name.

Speed comes from leaving the work to C. ``ormsgpack`` writes dicts, lists, text, bytes and numbers by itself and calls
back for the rest, with its pass-through options also for what it would bend: tuples, subclasses, datetimes, enums,
dataclasses. Three things it would bend or refuse without asking: bytearray (written as bytes), its own Ext and
Fragment (written raw), and keys that are no text. So lists and dicts are looked through once before, by the types in
them. Reading has no such pass: one C call, and a call back for each ext value.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import chain
from typing import Any, Final

from ormsgpack import (
    OPT_PASSTHROUGH_BIG_INT,
    OPT_PASSTHROUGH_DATACLASS,
    OPT_PASSTHROUGH_DATETIME,
    OPT_PASSTHROUGH_ENUM,
    OPT_PASSTHROUGH_SUBCLASS,
    OPT_PASSTHROUGH_TUPLE,
    OPT_PASSTHROUGH_UUID,
    Ext,
    Fragment,
    packb,
    unpackb,
)

from cachekit.codecs import flags, nesting, scalars
from cachekit.codecs.containers import BUILD, TAKE_APART, pairs
from cachekit.codecs.explain import explain
from cachekit.codecs.known import Known
from cachekit.codecs.registry import Registry
from cachekit.errors import DecodeError, UnencodableError

_OPTIONS: Final = (
    OPT_PASSTHROUGH_BIG_INT | OPT_PASSTHROUGH_DATACLASS | OPT_PASSTHROUGH_DATETIME | OPT_PASSTHROUGH_ENUM
    | OPT_PASSTHROUGH_SUBCLASS | OPT_PASSTHROUGH_TUPLE | OPT_PASSTHROUGH_UUID
)  # fmt: skip

_FLAT: Final = scalars.NATIVE | scalars.ENCODERS.keys()
_STR: Final = frozenset({str})
_DICT: Final = frozenset({dict})
_LOOK_INTO: Final = frozenset({dict, list, bytearray, memoryview, Ext, Fragment})
_MAX_CONTAINERS: Final = 8 << 20
"""Each takes a byte at least; it also ends the walk through a value that holds the same lists over and over."""

_SINGLE: Final = frozenset([*range(0x81), 0x90, 0xA0, 0xC0, 0xC2, 0xC3, *range(0xE0, 0x100)])
"""First bytes that are whole values. The C library stops there and ignores the rest: text, JSON or a pickle would read
as some small number or an empty dict."""

_last_trouble: Final = threading.local()
"""Why a hook failed: the C library replaces whatever a hook raises by an error that says only that it failed."""


def _leaf(value: Any) -> Ext:
    return scalars.ENCODERS[type(value)](value)


def _pack_flat(value: Any) -> bytes | None:
    """A dict, or a list of dicts, that hold single values only: looked through without a Python step per element.

    None for all other values; keys that are no text end here too, since the C library refuses them.
    """
    kind = type(value)
    if kind is dict:
        items = value.values()
    elif kind is list and _DICT.issuperset(map(type, value)):
        items = chain.from_iterable(map(dict.values, value))
    else:
        return None
    if not _FLAT.issuperset(map(type, items)):
        return None
    try:
        return packb(value, default=_leaf, option=_OPTIONS)
    except TypeError:
        return None


class DataCodec:
    """Carries everything in ``scalars.CARRIED_TYPES``, and the classes that it knows."""

    name: str = "data"
    format: int = flags.DATA
    plain: bool = True

    def __init__(self, registry: Registry | None = None, returns: object = None) -> None:
        self.known = Known(registry if registry is not None else Registry(), returns)
        self._hook = self._hook_for(nesting.BUDGET, exact=False)

    def encode(self, value: object) -> bytes:
        """MessagePack bytes. Raises UnencodableError that names the type, its path in the value, and the way out."""
        try:
            return _pack_flat(value) or _Encoding(self.known).pack(value, 0, 0)
        except (TypeError, ValueError, RecursionError) as error:
            raise explain(value, self.known, error) from error

    def decode(self, payload: bytes) -> object:
        """The value. Raises DecodeError for garbage, a class that is not known here, or too deep a nest."""
        try:
            value = unpackb(payload, ext_hook=self._hook)
        except Exception as error:  # noqa: BLE001 - hostile bytes end as one error
            value = self._second_look(payload, _trouble_of(error))
        if payload[0] in _SINGLE and len(payload) != 1:
            raise DecodeError("stored bytes go on after a value that is a single byte")
        return value

    def _second_look(self, payload: bytes, trouble: DecodeError) -> object:
        """Only what seemed too deep is read again, by its real depth."""
        if not isinstance(trouble, nesting.TooDeep):
            raise trouble
        try:
            return unpackb(payload, ext_hook=self._hook_for(nesting.BUDGET, exact=True))
        except Exception as error:
            raise _trouble_of(error) from error

    def _hook_for(self, budget: int, *, exact: bool) -> Callable[[int, bytes], object]:
        decoders = scalars.DECODERS

        def hook(tag: int, data: bytes) -> object:
            try:
                leaf = decoders.get(tag)
                return self._nested(tag, data, budget, exact) if leaf is None else leaf(data)
            except Exception as error:
                _last_trouble.__dict__.setdefault("error", error)
                raise

        return hook

    def _nested(self, tag: int, data: bytes, budget: int, exact: bool) -> object:
        """An ext value whose payload is MessagePack again."""
        if tag == scalars.CLASS:
            return self._instance(data, budget, exact)
        build = BUILD.get(tag)
        if build is None:
            raise DecodeError(f"ext type {tag} is not known")
        left = nesting.charge(data, budget, exact=exact)
        parts = unpackb(data, ext_hook=self._hook_for(left, exact=exact))
        if type(parts) is not list:
            raise DecodeError(f"ext type {tag} holds no list")
        return build(parts)

    def _instance(self, data: bytes, budget: int, exact: bool) -> object:
        start = 2 + int.from_bytes(data[:2], "big")
        carrier = self.known.by_identity(data[2:start])
        if carrier is None:
            name = data[2:start].decode("utf-8", "replace")
            raise DecodeError(
                f"a stored value names the class {name}, which is not known here (or has other fields now)"
            )
        payload = data[start:]
        left = nesting.charge(payload, budget, exact=exact)
        value = carrier.decode(unpackb(payload, ext_hook=self._hook_for(left, exact=exact)))
        if type(value) is not carrier.type:
            raise DecodeError(f"decode= of {carrier.name} gave a {type(value).__name__}")
        return value


class _Encoding:
    """One run of the encoder over a value that is more than a flat dict."""

    __slots__ = ("_containers", "_deepest", "_known")

    def __init__(self, known: Known) -> None:
        self._known = known
        self._containers = 0
        self._deepest = 0

    def pack(self, value: object, lists: int, nested: int) -> bytes:
        """MessagePack of a value that has ``lists`` lists and dicts and ``nested`` ext values around it."""
        outer, self._deepest = self._deepest, lists
        lowered = self._lower(value, lists, nested)
        deepest, self._deepest = self._deepest, outer
        return packb(lowered, default=lambda part: self._ext(part, deepest, nested), option=_OPTIONS)

    def _lower(self, value: Any, lists: int, nested: int) -> object:
        """The value with bytearrays and dicts of other keys replaced by ext values; the C library does the rest."""
        kind = type(value)
        if kind is dict:
            if not _STR.issuperset(map(type, value)):
                return Ext(scalars.MAP, self.pack(pairs(value), lists + 1, nested + 1))
            items = value.values()
        elif kind is list:
            items = value
        elif kind is bytearray:
            return Ext(scalars.BYTEARRAY, bytes(value))
        elif kind in _LOOK_INTO:
            raise UnencodableError("no stable form", type_name=kind.__name__)
        else:
            return value
        self._count(lists, nested)
        if _LOOK_INTO.isdisjoint(map(type, items)):
            return value
        if kind is list:
            return [self._lower(item, lists + 1, nested) if type(item) in _LOOK_INTO else item for item in value]
        return {
            key: self._lower(item, lists + 1, nested) if type(item) in _LOOK_INTO else item
            for key, item in value.items()
        }

    def _count(self, lists: int, nested: int) -> None:
        self._containers += 1
        self._deepest = max(self._deepest, lists)
        if lists >= nesting.MAX_LISTS or nested > nesting.MAX_NESTED or self._containers > _MAX_CONTAINERS:
            raise UnencodableError("nested too deep, or too many parts")

    def _ext(self, value: Any, lists: int, nested: int) -> Ext:
        """What the C library asks for: a value that MessagePack has no type for."""
        kind = type(value)
        leaf = scalars.ENCODERS.get(kind)
        if leaf is not None:
            return leaf(value)
        self._count(lists, nested + 1)
        take_apart = TAKE_APART.get(kind)
        if take_apart is not None:
            tag, parts = take_apart
            return Ext(tag, self.pack(parts(value), lists + 1, nested + 1))
        carrier = self._known.by_type(kind)
        if carrier is None:
            raise UnencodableError("not a known class", type_name=kind.__name__)
        name = carrier.identity
        return Ext(
            scalars.CLASS, len(name).to_bytes(2, "big") + name + self.pack(carrier.encode(value), lists + 1, nested + 1)
        )


def _trouble_of(error: Exception) -> DecodeError:
    """A DecodeError that says why, for whatever a decoder raised."""
    cause: Exception = _last_trouble.__dict__.pop("error", error)
    if isinstance(cause, DecodeError):
        return cause
    trouble = DecodeError(f"stored bytes are no value: {type(cause).__name__}: {cause}")
    trouble.__cause__ = cause
    return trouble
