"""Carriers for msgspec and pydantic classes.

Both libraries are looked up, never imported: who has such a class has its library.
"""

from __future__ import annotations

import inspect
import sys
from functools import cached_property
from typing import Any

from cachekit.codecs.carrier import Carrier, identity
from cachekit.errors import DecodeError, UnencodableError


def derive_msgspec(cls: type, name: str) -> Carrier | None:
    """A carrier for a ``msgspec.Struct``; fields that ``__post_init__`` may have changed are set once more."""
    msgspec: Any = sys.modules.get("msgspec")
    if msgspec is None or not issubclass(cls, msgspec.Struct):
        return None
    fields: tuple[str, ...] = cls.__struct_fields__  # type: ignore[attr-defined]
    force = msgspec.structs.force_setattr
    has_post_init = hasattr(cls, "__post_init__")
    make: Any = cls

    def encode(value: object) -> object:
        if getattr(value, "__dict__", None):
            raise UnencodableError(f"a {cls.__qualname__} with state beside its fields", type_name=cls.__qualname__)
        return [getattr(value, field) for field in fields]

    def decode(parts: Any) -> object:
        if type(parts) is not list or len(parts) != len(fields):
            raise DecodeError(f"a stored {cls.__qualname__} has not its {len(fields)} fields")
        value = make(**dict(zip(fields, parts, strict=True)))
        if has_post_init:
            for field, part in zip(fields, parts, strict=True):
                force(value, field, part)
        return value

    return Carrier(cls, identity(name, fields), encode, decode, fields)


def derive_pydantic(cls: type, name: str) -> Carrier | None:
    """A carrier for a pydantic 2 model: its four pieces of state as they are, without validating them again."""
    pydantic: Any = sys.modules.get("pydantic")
    if pydantic is None or not issubclass(cls, getattr(pydantic, "BaseModel", ())):
        return None
    fields: tuple[str, ...] = tuple(cls.__pydantic_fields__)  # type: ignore[attr-defined]
    private: tuple[str, ...] = tuple(cls.__private_attributes__)  # type: ignore[attr-defined]

    def encode(value: Any) -> object:
        state = {key: item for key, item in value.__dict__.items() if not _is_cached_property(cls, key)}
        if tuple(state) != fields and set(state) != set(fields):
            raise UnencodableError(f"a {cls.__qualname__} without all of its fields", type_name=cls.__qualname__)
        kept = getattr(value, "__pydantic_private__", None)
        if kept is not None:
            kept = {key: item for key, item in kept.items() if item is not _undefined()}
        return [state, value.__pydantic_extra__, sorted(value.__pydantic_fields_set__), kept]

    def decode(parts: Any) -> object:
        state, extra, fields_set, kept = parts
        if set(state) != set(fields) or (kept is not None and not set(kept) <= set(private)):
            raise DecodeError(f"a stored {cls.__qualname__} has not its fields")
        value = object.__new__(cls)
        object.__setattr__(value, "__dict__", state)
        object.__setattr__(value, "__pydantic_extra__", extra)
        object.__setattr__(value, "__pydantic_fields_set__", set(fields_set))
        object.__setattr__(value, "__pydantic_private__", kept)
        return value

    return Carrier(cls, identity(name, fields), encode, decode, ("fields", "extra", "fields_set", "private"))


def _is_cached_property(cls: type, name: str) -> bool:
    return isinstance(inspect.getattr_static(cls, name, None), cached_property)


def _undefined() -> object:
    core: Any = sys.modules["pydantic_core"]
    return core.PydanticUndefined
