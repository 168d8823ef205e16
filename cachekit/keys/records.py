"""Records: dataclasses, attrs classes, msgspec structs and pydantic models, as class plus named fields.

The fields that count are those that the class itself compares by. A class that compares by identity has no value that
could be keyed, and an attribute outside the fields is state that the fields do not show: both are refused.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from cachekit.errors import UnkeyableError
from cachekit.keys.forms import (
    ClassRecord,
    Encode,
    Encoder,
    extra_attributes,
    record,
    refuse,
    slots,
    text,
    written_in_c,
)


def encoder(cls: type, class_record: ClassRecord) -> Encoder | None:
    """Return the encoder for a record class of any of the four makes, or None."""
    if _is_kind(cls, "pydantic", "BaseModel") or _is_kind(cls, "pydantic.v1", "BaseModel"):
        return _model(class_record(cls))
    if _is_kind(cls, "msgspec", "Struct"):
        names = tuple(cls.__struct_fields__)  # type: ignore[attr-defined]
        return _struct(cls, class_record(cls), names, by_value=cls.__struct_config__.eq)  # type: ignore[attr-defined]
    if hasattr(cls, "__dataclass_fields__"):
        fields = dataclasses.fields(cls)
        return _python(cls, class_record(cls), {field.name: bool(field.compare) for field in fields})
    attributes = getattr(cls, "__attrs_attrs__", None)
    if attributes is not None:
        return _python(cls, class_record(cls), {attribute.name: bool(attribute.eq) for attribute in attributes})
    return None


def _is_kind(cls: type, module: str, name: str) -> bool:
    base = getattr(sys.modules.get(module), name, None)
    return isinstance(base, type) and issubclass(cls, base)


def _python(cls: type, head: bytes, fields: dict[str, bool]) -> Encoder:
    """Encode a dataclass or attrs class. ``fields`` says of every field whether it takes part in comparison."""
    if written_in_c(cls):
        raise UnkeyableError(f"also is a {written_in_c(cls)}, whose content is no field", type_name=cls.__qualname__)
    hidden = slots(cls) - fields.keys()
    if hidden:
        raise UnkeyableError(f"has slots that are no fields ({', '.join(sorted(hidden))})", type_name=cls.__qualname__)
    compared = tuple(name for name, counts in fields.items() if counts)
    return _struct(cls, head, compared, by_value=_compares_by_value(cls), known=frozenset(fields))


def _compares_by_value(cls: Any) -> bool:
    return cls.__eq__ is not object.__eq__


def _struct(
    cls: type, head: bytes, names: tuple[str, ...], *, by_value: bool, known: frozenset[str] = frozenset()
) -> Encoder:
    if not by_value:
        raise UnkeyableError("compares by identity (eq=False)", type_name=cls.__qualname__)
    labels = tuple((name, text(name)) for name in names)

    def encode_record(value: Any, inner: Encode) -> bytes:
        extra = extra_attributes(value, known)
        if extra:
            raise refuse(value, f"has attributes that are no fields ({', '.join(extra)})")
        try:
            return record(
                b"R", head, *(part for name, label in labels for part in (label, inner(getattr(value, name))))
            )
        except AttributeError as error:
            raise refuse(value, f"lacks a field ({error.name})") from error

    return encode_record


def _model(head: bytes) -> Encoder:
    """Encode a pydantic model: fields, extras, private ones, and which fields were set (dumps may depend on it)."""

    def encode_model(value: Any, inner: Encode) -> bytes:
        given = getattr(value, "__pydantic_fields_set__", None) or getattr(value, "__fields_set__", None) or ()
        extra = getattr(value, "__pydantic_extra__", None)
        private = getattr(value, "__pydantic_private__", None)
        fields = {name: vars(value)[name] for name in extra_attributes(value, frozenset())}
        return record(b"R", head, inner(fields), inner(extra), inner(private), inner(set(given)))

    return encode_model
