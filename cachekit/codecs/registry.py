"""Which classes a codec may carry, and under which names.

A stored value names its class; this table, and nothing else, turns that name into a class again. It holds what the
application registered and what a function's return annotation names, so stored bytes can never bring in code that
their reader did not name first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar, cast

from cachekit.codecs.annotations import Returns, classes_in
from cachekit.codecs.carrier import Carrier, full_name, identity, wire_name
from cachekit.codecs.classes import derive
from cachekit.codecs.scalars import CARRIED_TYPES
from cachekit.errors import ConfigurationError

T = TypeVar("T")

MAX_NAME_BYTES: Final = 1000


class Registry:
    """Classes that the application registered. One per ``Cache``; safe to use from several threads."""

    def __init__(self) -> None:
        self.by_type: dict[type, Carrier] = {}
        self.by_identity: dict[bytes, Carrier] = {}
        self._by_name: dict[str, Carrier] = {}
        self._lock = threading.Lock()

    def register(
        self,
        type: type[T],  # noqa: A002 - the public word
        *,
        name: str | None = None,
        encode: Callable[[T], object] | None = None,
        decode: Callable[[Any], T] | None = None,
    ) -> type[T]:
        """Let values of exactly this class be stored. Gives the class back, so it also serves as a decorator.

        type: the class. Without encode and decode it must be an Enum, dataclass, NamedTuple, attrs, msgspec or
        pydantic class.
        name: what stands for the class in stored values, for all processes and versions; default: module and
        qualified name.
        encode: instance -> data that the default codec carries. decode: that data -> an equal instance of the same
        class.
        Raises ConfigurationError for half a pair, a name that another class has, or a class that can't be carried.
        """
        if type in CARRIED_TYPES:
            raise ConfigurationError(f"{full_name(type)} is carried already; only other classes can be registered")
        wire = wire_name(type) if name is None else name
        if not 0 < len(wire.encode()) <= MAX_NAME_BYTES or "#" in wire:
            raise ConfigurationError(f"a registered name has 1 to {MAX_NAME_BYTES} bytes and no '#': {wire!r}")
        if (encode is None) != (decode is None):
            raise ConfigurationError(f"{full_name(type)}: give both encode= and decode=, or neither")
        if encode is None or decode is None:
            self._add(derive(type, wire))
        else:
            self._add(Carrier(type, identity(wire), encode, cast("Callable[[Any], object]", decode)))
        return type

    def _add(self, carrier: Carrier) -> None:
        """A class of the same module and name replaces its former self (a reload, a notebook cell run again)."""
        with self._lock:
            other = self._by_name.get(carrier.name)
            if other is not None and full_name(other.type) != full_name(carrier.type):
                raise ConfigurationError(
                    f"{full_name(carrier.type)} can't be registered as {carrier.name!r}: "
                    f"that is the name of {full_name(other.type)}"
                )
            self._by_name[carrier.name] = carrier
            self.by_type[carrier.type] = carrier
            self.by_identity[carrier.identity] = carrier


class Known:
    """The classes that one function's values may have: the registry's, and those its return annotation names.

    The annotation is walked when a class first turns up that the registry does not know, so forward references have
    had time to be defined.
    """

    def __init__(self, registry: Registry, returns: object = None) -> None:
        self._registry = registry
        self._returns = returns if isinstance(returns, Returns) else Returns(returns)
        self._by_type: dict[type, Carrier] = {}
        self._by_identity: dict[bytes, Carrier] = {}
        self._complete = False

    def by_type(self, cls: type) -> Carrier | None:
        """The carrier for instances of exactly this class, or None."""
        found = self._registry.by_type.get(cls) or self._by_type.get(cls)
        if found is None and not self._complete:
            self._walk()
            found = self._by_type.get(cls)
        return found

    def by_identity(self, wire: bytes) -> Carrier | None:
        """The carrier that a stored value names, or None."""
        found = self._registry.by_identity.get(wire) or self._by_identity.get(wire)
        if found is None and not self._complete:
            self._walk()
            found = self._by_identity.get(wire)
        return found

    def _walk(self) -> None:
        classes, complete = classes_in(self._returns)
        carriers = list(_derivable(classes))
        self._by_identity = {carrier.identity: carrier for carrier in carriers}
        self._by_type = {carrier.type: carrier for carrier in carriers}
        self._complete = complete


def _derivable(classes: Iterable[type]) -> Iterable[Carrier]:
    """Two classes of one name (made in a function twice) can't be told apart in stored bytes: neither is carried."""
    found: dict[bytes, Carrier] = {}
    clashing: set[bytes] = set()
    for cls in classes:
        try:
            carrier = derive(cls, wire_name(cls))
        except ConfigurationError:
            continue
        if found.setdefault(carrier.identity, carrier).type is not cls:
            clashing.add(carrier.identity)
    return [carrier for wire, carrier in found.items() if wire not in clashing]
