"""Which classes the values of one function may have, and the names that stand for them."""

from __future__ import annotations

from collections.abc import Iterable

from cachekit.codecs.annotations import Returns, classes_in
from cachekit.codecs.carrier import Carrier, wire_name
from cachekit.codecs.classes import derive
from cachekit.codecs.registry import Registry
from cachekit.errors import ConfigurationError


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
