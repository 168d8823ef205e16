"""Carriers derived from a class's own kind: Enum, NamedTuple, dataclass, attrs (msgspec and pydantic: ``models``).

Instances are rebuilt field by field, without running ``__init__``: the object is as it was, also where ``__init__``
would compute, validate or count. What such a rebuild would lose (an attribute that is no field, a base class with a
value of its own) is refused when the value is stored.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import sys
from collections.abc import Callable
from functools import cached_property
from types import MemberDescriptorType
from typing import Any, Final, TypeVar, cast

from cachekit.codecs.carrier import Carrier, full_name, identity, wire_name
from cachekit.codecs.models import derive_msgspec, derive_pydantic
from cachekit.codecs.scalars import CARRIED_TYPES
from cachekit.errors import ConfigurationError, DecodeError, UnencodableError

T = TypeVar("T")

MAX_NAME_BYTES: Final = 1000

_set: Callable[[object, str, object], None] = object.__setattr__


def carrier_for(
    cls: type[T], name: str | None, encode: Callable[[T], object] | None, decode: Callable[[Any], T] | None
) -> Carrier:
    """The carrier that ``Registry.register`` is asked for. Raises ConfigurationError."""
    if not isinstance(cls, type):
        raise ConfigurationError(f"register() takes a class, not {type(cls).__name__}")
    if cls in CARRIED_TYPES:
        raise ConfigurationError(f"{full_name(cls)} is carried already; only other classes can be registered")
    wire = wire_name(cls) if name is None else name
    if not 0 < len(wire.encode()) <= MAX_NAME_BYTES or "#" in wire:
        raise ConfigurationError(f"a registered name has 1 to {MAX_NAME_BYTES} bytes and no '#': {wire!r}")
    if (encode is None) != (decode is None):
        raise ConfigurationError(f"{full_name(cls)}: give both encode= and decode=, or neither")
    if encode is None or decode is None:
        return derive(cls, wire)
    return Carrier(cls, identity(wire), encode, cast("Callable[[Any], object]", decode))


def derive(cls: type, name: str) -> Carrier:
    """A carrier for a class of a known kind. Raises ConfigurationError for any other."""
    for attempt in (_derive_enum, _derive_namedtuple, derive_pydantic, derive_msgspec, _derive_fields):
        carrier = attempt(cls, name)
        if carrier is not None:
            return carrier
    raise ConfigurationError(
        f"{full_name(cls)} is no Enum, dataclass, NamedTuple, attrs, msgspec or pydantic class, or has state beside "
        "its fields: register it with encode= and decode="
    )


def _derive_enum(cls: type, name: str) -> Carrier | None:
    if not issubclass(cls, enum.Enum):
        return None
    if issubclass(cls, enum.Flag):
        return _derive_flag(cls, name)
    members = cls.__members__

    def encode(value: enum.Enum) -> object:
        if members.get(value._name_) is not value:
            raise UnencodableError(f"{value!r} is no member of its class", type_name=cls.__qualname__)
        return value._name_

    return Carrier(cls, identity(name), encode, lambda member: members[member])


def _derive_flag(cls: type[enum.Flag], name: str) -> Carrier:
    def decode(number: object) -> object:
        if type(number) is not int:
            raise DecodeError(f"a stored {cls.__qualname__} is no number")
        return cls(number)

    return Carrier(cls, identity(name), lambda value: value._value_, decode)


def _derive_namedtuple(cls: type, name: str) -> Carrier | None:
    fields = getattr(cls, "_fields", None)
    if not issubclass(cls, tuple) or not isinstance(fields, tuple):
        return None
    count = len(fields)
    own_class = cast("type[tuple[object, ...]]", cls)

    def encode(value: tuple[object, ...]) -> object:
        if tuple.__len__(value) != count or getattr(value, "__dict__", None):
            raise UnencodableError(f"a {cls.__qualname__} with state beside its fields", type_name=cls.__qualname__)
        return list(tuple.__iter__(value))

    def decode(parts: Any) -> object:
        expect_parts(cls, parts, count)
        return tuple.__new__(own_class, parts)

    return Carrier(cls, identity(name, fields), encode, decode, fields)


def _derive_fields(cls: type, name: str) -> Carrier | None:
    """Dataclasses and attrs classes: objects whose whole state is their fields."""
    fields = _field_names(cls)
    if fields is None or not _rebuildable(cls, fields):
        return None
    count = len(fields)
    extra_slots = tuple(slot for slot in _slots(cls) if slot not in fields)
    blank: Callable[[type], object] = object.__new__

    def encode(value: object) -> object:
        check_state(value, fields, extra_slots)
        try:
            return [getattr(value, field) for field in fields]
        except AttributeError as error:
            raise UnencodableError(
                f"a {cls.__qualname__} without a field: {error}", type_name=cls.__qualname__
            ) from None

    def decode(parts: Any) -> object:
        expect_parts(cls, parts, count)
        value = blank(cls)
        for field, part in zip(fields, parts, strict=True):
            _set(value, field, part)
        return value

    return Carrier(cls, identity(name, fields), encode, decode, fields)


def _field_names(cls: type) -> tuple[str, ...] | None:
    if "__dataclass_fields__" in cls.__dict__:
        return tuple(field.name for field in dataclasses.fields(cls))
    if "__attrs_attrs__" in cls.__dict__ and "attr" in sys.modules:
        return tuple(attribute.name for attribute in cls.__dict__["__attrs_attrs__"])
    return None


def _rebuildable(cls: type, fields: tuple[str, ...]) -> bool:
    """Whether plain attribute access reads and restores every field, and nothing else makes up an instance."""
    if inspect.getattr_static(cls, "__getattribute__") is not object.__dict__["__getattribute__"]:
        return False
    if hasattr(cls, "__del__"):  # owns something; and a blank instance must not run it
        return False
    for field in fields:
        found = inspect.getattr_static(cls, field, None)
        if hasattr(type(found), "__set__") and not isinstance(found, MemberDescriptorType):
            return False
    try:
        object.__new__(cls)  # refuses classes built on list, str, BaseException …, and abstract ones
    except TypeError:
        return False
    return True


def _slots(cls: type) -> list[str]:
    found = []
    for base in cls.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            mangled = slot.startswith("__") and not slot.endswith("__")
            found.append(f"_{base.__name__.lstrip('_')}{slot}" if mangled else slot)
    return [slot for slot in found if slot not in ("__dict__", "__weakref__")]


def check_state(value: object, fields: tuple[str, ...], extra_slots: tuple[str, ...] = ()) -> None:
    """Refuse an object that holds more than its fields; a cached_property's value may go, it comes back by itself."""
    state = getattr(value, "__dict__", None)
    beside = [name for name in extra_slots if hasattr(value, name)]
    if state:
        cls = type(value)
        beside += [
            name
            for name in state
            if name not in fields and not isinstance(inspect.getattr_static(cls, name, None), cached_property)
        ]
    if beside:
        kind = type(value).__qualname__
        raise UnencodableError(f"a {kind} with state beside its fields: {', '.join(beside)}", type_name=kind)


def expect_parts(cls: type, parts: object, count: int) -> None:
    """Refuse stored parts that are not a list of the expected length."""
    if type(parts) is not list or len(parts) != count:
        raise DecodeError(f"a stored {cls.__qualname__} has not its {count} fields")
