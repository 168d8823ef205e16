"""Which classes a codec may carry, and under which names.

A stored value names its class; this table, and nothing else, turns that name into a class again. It holds what the
application registered and what a function's return annotation names, so stored bytes can never bring in code that
their reader did not name first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from cachekit.errors import ConfigurationError

if TYPE_CHECKING:
    from cachekit.codecs.carrier import Carrier

T = TypeVar("T")


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
        # Here and not above: it loads ormsgpack and inspect, 8 ms, and most caches have nothing registered.
        from cachekit.codecs.classes import carrier_for  # noqa: PLC0415

        self._add(carrier_for(type, name, encode, decode))
        return type

    def _add(self, carrier: Carrier) -> None:
        """A class of the same module and name replaces its former self (a reload, a notebook cell run again)."""
        with self._lock:
            other = self._by_name.get(carrier.name)
            if other is not None and other.type_name != carrier.type_name:
                raise ConfigurationError(
                    f"{carrier.type_name} can't be registered as {carrier.name!r}: "
                    f"that is the name of {other.type_name}"
                )
            self._by_name[carrier.name] = carrier
            self.by_type[carrier.type] = carrier
            self.by_identity[carrier.identity] = carrier
