"""cachekit itself, at its defaults: deadline, opaque and fork checks, generation and freshness verdict all on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from benchmarks.adapters.base import Adapter, Function, library
from benchmarks.fake import Hook

cachekit = library("cachekit")
if not hasattr(cachekit, "Cache"):
    raise ImportError("cachekit has no Cache yet")


class Cachekit(Adapter):
    name = "cachekit"
    decorated_by_hand = False
    options: ClassVar[Mapping[str, Any]] = {}
    """What the decorator is told beside the ttl."""

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        query = "" if timeout_s is None else f"?deadline={timeout_s * 1000:.0f}ms"
        self.cache = cache = cachekit.Cache(f"memcached://{','.join(addresses)}{query}", prefix="bench")
        self.get, self.set, self.delete = cache.get, cache.set, cache.delete
        self.get_many, self.set_many = cache.get_many, cache.set_many

    def set_for(self, key: str, value: bytes, ttl_s: int) -> Any:
        return self.cache.set(key, value, ttl=ttl_s)

    def decorate(self, function: Function) -> Function:
        decorated: Function = self.cache(ttl=self.ttl_s, **self.options)(function)
        return decorated

    def sockets(self) -> list[Hook]:
        """The idle connections of the fleet; `Connection` keeps its socket's bound methods in `_send` and `_recv`."""
        return [Hook(connection, "_send", "_recv") for row in self.cache._fleet.shelves.rows for connection in row]

    def close(self) -> None:
        self.cache.close()


class CachekitBackground(Cachekit):
    name = "cachekit, stale, background"
    options: ClassVar[Mapping[str, Any]] = {"stale": 10, "refresh": "background"}


class CachekitInline(Cachekit):
    name = "cachekit, stale, inline"
    options: ClassVar[Mapping[str, Any]] = {"stale": 10, "refresh": "inline"}


ADAPTERS = (Cachekit,)
VARIANTS = (CachekitBackground, CachekitInline)
