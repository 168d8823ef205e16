"""The few forms that every encoder is written in: records, refusals, and the question after hidden state."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

from cachekit.errors import UnkeyableError

Encode: TypeAlias = Callable[[object], bytes]
"""Encodes one nested value; keeps count of the depth."""
Encoder: TypeAlias = Callable[[Any, Encode], bytes]
"""Encodes a value of one type, with the help of an ``Encode`` for what is inside."""
ClassRecord: TypeAlias = Callable[[type], bytes]

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, as opposed to written in C
_BOOKKEEPING = frozenset({"__dict__", "__weakref__", "__orig_class__", "_attrs_cached_hash"})


def leaf(tag: bytes, content: bytes) -> bytes:
    """Write content that is not made of records under a one-byte tag and its length in 8 bytes."""
    return tag + len(content).to_bytes(8, "big") + content


def record(tag: bytes, *parts: bytes) -> bytes:
    """Join parts, each of which says where it ends, under a one-byte tag and their length in 8 bytes."""
    content = b"".join(parts)
    return tag + len(content).to_bytes(8, "big") + content


def text(value: str) -> bytes:
    """Write a string as UTF-8; lone surrogates pass, and no normal form is applied: NFC and NFD text differ."""
    return leaf(b"u", str.encode(value, "utf-8", "surrogatepass"))


def refuse(value: object, why: str) -> UnkeyableError:
    """Say why a value has no key; the caller adds which argument it was and what can be done."""
    return UnkeyableError(why, type_name=type(value).__qualname__)


def _below(cls: type, until: type) -> tuple[type, ...]:
    return cls.__mro__[: cls.__mro__.index(until)]


def written_in_c(cls: type, until: type = object) -> str | None:
    """Name a class between ``cls`` and ``until`` that is written in C and may hold state that Python can't list."""
    return next((base.__qualname__ for base in _below(cls, until) if not base.__flags__ & _HEAP_TYPE), None)


def slots(cls: type, until: type = object) -> set[str]:
    """Return the names in ``__slots__`` of a class and its bases, up to ``until``."""
    found: set[str] = set()
    for base in _below(cls, until):
        own = base.__dict__.get("__slots__", ())
        found.update([own] if isinstance(own, str) else own)
    return found - _BOOKKEEPING


def extra_attributes(value: object, fields: frozenset[str] | set[str]) -> list[str]:
    """Return the names in the instance's ``__dict__`` that are neither fields nor results of ``cached_property``."""
    extra = set(getattr(value, "__dict__", ())) - fields - _BOOKKEEPING
    cls = type(value)
    return sorted(name for name in extra if not isinstance(getattr(cls, name, None), functools.cached_property))


def own_state(value: object, base: type) -> str | None:
    """Say what state an instance of a subclass of ``base`` has beside its value, if any."""
    cls = type(value)
    hidden = written_in_c(cls, base)
    added = sorted(slots(cls, base) - slots(base))
    return hidden or ", ".join(added or extra_attributes(value, set())) or None
