"""The careful encoder: any value with an identity, as canonical, typed, length-prefixed bytes.

Every value becomes one record: a tag byte, the length of the content, the content. A record says by itself where it
ends, so records in a row can't be read in two ways, and two values get the same bytes only if they have the same type
and the same content. Sets and dicts are sorted by their encoded members. The rule in doubt: **differ**. A needless miss
costs a run of the function, a collision returns somebody else's data.

    -0.0 and 0.0 differ (1/x tells them apart) · every NaN is the same NaN · 1, 1.0 and True differ, also inside others
"""

from __future__ import annotations

import functools
import struct
import sys
import types
import typing
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from cachekit.errors import UnkeyableError
from cachekit.keys import arrays, records, values
from cachekit.keys.forms import Encode, Encoder, leaf, own_state, record, refuse, text
from cachekit.keys.naming import named

MAX_DEPTH: Final = 64


class Walk:
    """One walk over one value. Called with a value it returns the value's record; nested values come back to it."""

    __slots__ = ("depth",)

    def __init__(self) -> None:
        self.depth = 0

    def __call__(self, value: object) -> bytes:
        if self.depth >= MAX_DEPTH:
            raise UnkeyableError(
                f"is nested deeper than {MAX_DEPTH} levels, or contains itself", type_name=type(value).__qualname__
            )
        self.depth += 1
        cls = type(value)
        encoded = (_EXACT.get(cls) or _RESOLVED.get(cls) or _resolve(cls))(value, self)
        self.depth -= 1
        return encoded


def encode(value: object) -> bytes:
    """Return the canonical bytes of one value. Raises ``UnkeyableError`` for what has no identity."""
    return Walk()(value)


# Plain types. The methods of the base type are called, so that a subclass can't misreport its value.


def _none(value: None, inner: Encode) -> bytes:
    return record(b"N")


def _bool(value: bool, inner: Encode) -> bytes:
    return leaf(b"B", b"1" if value else b"0")


def _int(value: int, inner: Encode) -> bytes:
    return leaf(b"i", int.to_bytes(value, int.bit_length(value) // 8 + 1, "big", signed=True))


def _float(value: float, inner: Encode) -> bytes:
    return leaf(b"f", _double(float.__float__(value)))


def _complex(value: complex, inner: Encode) -> bytes:
    exact = complex.__complex__(value)
    return leaf(b"c", _double(exact.real) + _double(exact.imag))


def _double(value: float) -> bytes:
    return struct.pack(">d", value) if value == value else b"NaN"


def _str(value: str, inner: Encode) -> bytes:
    return text(value)


def _bytes(value: bytes, inner: Encode) -> bytes:
    return leaf(b"b", bytes(memoryview(value)))


def _bytearray(value: bytearray, inner: Encode) -> bytes:
    return leaf(b"a", bytes(memoryview(value)))


def _memoryview(value: memoryview, inner: Encode) -> bytes:
    return record(b"v", text(value.format), inner(value.shape), leaf(b"b", value.tobytes()))


# Containers.


def _tuple(value: tuple[object, ...], inner: Encode) -> bytes:
    return record(b"t", *map(inner, tuple.__iter__(value)))


def _list(value: list[object], inner: Encode) -> bytes:
    return record(b"l", *map(inner, list.__iter__(value)))


def _set(value: set[object], inner: Encode) -> bytes:
    return record(b"s", *sorted(map(inner, set.__iter__(value))))


def _frozenset(value: frozenset[object], inner: Encode) -> bytes:
    return record(b"z", *sorted(map(inner, frozenset.__iter__(value))))


def _dict(value: dict[object, object], inner: Encode) -> bytes:
    pairs = sorted((inner(key), inner(content)) for key, content in dict.items(value))
    return record(b"d", *(part for pair in pairs for part in pair))


def _ordered_dict(value: OrderedDict[object, object], inner: Encode) -> bytes:
    return record(b"o", *(inner(part) for pair in OrderedDict.items(value) for part in pair))


def _defaultdict(value: defaultdict[object, object], inner: Encode) -> bytes:
    return record(b"y", inner(value.default_factory), _dict(value, inner))


def _mapping_proxy(value: types.MappingProxyType[object, object], inner: Encode) -> bytes:
    return record(b"m", inner(dict(value)))


def _deque(value: deque[object], inner: Encode) -> bytes:
    return record(b"q", inner(value.maxlen), *map(inner, deque.__iter__(value)))


def _range(value: range, inner: Encode) -> bytes:
    return record(b"r", inner(value.start), inner(value.stop), inner(value.step))


def _slice(value: slice, inner: Encode) -> bytes:
    return record(b":", inner(value.start), inner(value.stop), inner(value.step))


def _singleton(value: object, inner: Encode) -> bytes:
    return record(b".", text(repr(value)))


# Code: named, never looked into.


def _class(value: type, inner: Encode) -> bytes:
    return class_record(value)


def class_record(cls: type) -> bytes:
    """Name a class by module and qualified name; a parametrised pydantic model by its origin and arguments."""
    if cls is types.NoneType:
        return record(b"C", text("builtins"), text("NoneType"))
    generic = getattr(cls, "__pydantic_generic_metadata__", None)
    if generic and generic["origin"] is not None:
        return record(b"G", class_record(generic["origin"]), encode(tuple(generic["args"])))
    module, qualname = named(cls)
    return record(b"C", text(module), text(qualname))


def _function(value: Any, inner: Encode) -> bytes:
    module, qualname = named(value)
    return record(b"F", text(module), text(qualname))


def _builtin_function(value: Any, inner: Encode) -> bytes:
    if not isinstance(value.__self__, types.ModuleType):
        raise refuse(value, "is a method of an object")
    return _function(value, inner)


def _method(value: types.MethodType, inner: Encode) -> bytes:
    return record(b"M", inner(value.__self__), text(value.__func__.__qualname__))


def _partial(value: functools.partial[object], inner: Encode) -> bytes:
    return record(b"P", inner(value.func), inner(value.args), inner(value.keywords))


def _generic(value: Any, inner: Encode) -> bytes:
    origin = typing.get_origin(value)
    if origin is None:
        raise refuse(value, "has no identity")
    return record(b"G", _origin_record(origin), inner(typing.get_args(value)))


def _origin_record(origin: Any) -> bytes:
    """Name what was parametrised. Some of typing's forms are classes in one version and not in another."""
    if origin is types.UnionType or origin is typing.Union:
        return text("Union")
    if origin.__module__ == "typing":
        return text(f"typing.{getattr(origin, '__name__', None) or origin._name}")
    return class_record(origin)


_EXACT: Final[dict[type, Encoder]] = {
    type(None): _none,
    bool: _bool,
    int: _int,
    float: _float,
    complex: _complex,
    str: _str,
    bytes: _bytes,
    bytearray: _bytearray,
    memoryview: _memoryview,
    tuple: _tuple,
    list: _list,
    set: _set,
    frozenset: _frozenset,
    dict: _dict,
    OrderedDict: _ordered_dict,
    defaultdict: _defaultdict,
    deque: _deque,
    range: _range,
    slice: _slice,
    type(...): _singleton,
    type(NotImplemented): _singleton,
    type: _class,
    types.MappingProxyType: _mapping_proxy,
    types.FunctionType: _function,
    types.BuiltinFunctionType: _builtin_function,
    types.MethodType: _method,
    types.GenericAlias: _generic,
    types.UnionType: _generic,
    functools.partial: _partial,
    **values.BUILT_IN,
}
_RESOLVED: Final[WeakKeyDictionary[type, Encoder]] = WeakKeyDictionary()


def _resolve(cls: type) -> Encoder:
    """Find the encoder for a type met for the first time, and remember it for as long as the type lives."""
    encoder = (
        _own_encoder(cls)
        or (_class if issubclass(cls, type) else None)
        or values.enum_encoder(cls, class_record)
        or records.encoder(cls, class_record)
        or arrays.encoder(cls)
        or values.encoder(cls)
        or (_generic if cls.__module__ == "typing" and sys.modules["typing"] is typing else None)
        or _subclass_encoder(cls)
    )
    if encoder is None:
        raise UnkeyableError("has no stable identity", type_name=cls.__qualname__)
    _RESOLVED[cls] = encoder
    return encoder


def _own_encoder(cls: type) -> Encoder | None:
    """``__cache_key__`` goes before everything else: it is what the author of the class said."""
    method: Callable[[Any], object] | None = getattr(cls, "__cache_key__", None)
    if method is None:
        return None
    head = class_record(cls)
    return lambda value, inner: record(b"K", head, inner(type(value).__cache_key__(value)))


def _subclass_encoder(cls: type) -> Encoder | None:
    """A subclass of a supported type is its class plus its value, unless it has state that the value does not show."""
    for base in cls.__mro__[1:]:
        encoder = _EXACT.get(base) or values.encoder(base)
        if encoder is not None:
            return _with_class(class_record(cls), encoder, base)
    return None


def _with_class(head: bytes, encoder: Encoder, base: type) -> Encoder:
    def encode_subclass(value: object, inner: Encode) -> bytes:
        state = own_state(value, base)
        if state:
            raise refuse(value, f"is a {base.__name__} with state of its own ({state})")
        return record(b"S", head, encoder(value, inner))

    return encode_subclass
