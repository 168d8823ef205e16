"""cachekit's coroutines, at its defaults, on the default loop and on uvloop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from benchmarks.adapters.base import AsyncAdapter, Function, awaitable, library

cachekit = library("cachekit")
library("cachekit.aio.client")
uvloop = library("uvloop")


class CachekitAio(AsyncAdapter):
    name = "cachekit (asyncio)"
    decorated_by_hand = False
    options: ClassVar[Mapping[str, Any]] = {}
    """What the decorator is told beside the ttl."""

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        super().__init__(addresses)
        query = "" if timeout_s is None else f"?deadline={timeout_s * 1000:.0f}ms"
        self.cache = cachekit.Cache(f"memcached://{','.join(addresses)}{query}", prefix="bench")
        verbs = self.cache.aio
        self.get, self.set, self.delete = verbs.get, verbs.set, verbs.delete
        self.get_many, self.set_many = verbs.get_many, verbs.set_many

    def set_for(self, key: str, value: bytes, ttl_s: int) -> Any:
        return self.cache.aio.set(key, value, ttl=ttl_s)

    def decorate(self, function: Function) -> Function:
        decorated: Function = self.cache(ttl=self.ttl_s, **self.options)(awaitable(function))
        return decorated

    def close(self) -> None:
        self.wait(self.cache.aclose())
        super().close()


class CachekitUvloop(CachekitAio):
    name = "cachekit (uvloop)"
    new_loop = uvloop.new_event_loop


class CachekitAioBackground(CachekitAio):
    name = "cachekit, stale, background (asyncio)"
    options: ClassVar[Mapping[str, Any]] = {"stale": 10, "refresh": "background"}


class CachekitAioInline(CachekitAio):
    name = "cachekit, stale, inline (asyncio)"
    options: ClassVar[Mapping[str, Any]] = {"stale": 10, "refresh": "inline"}


ADAPTERS = ()
CROWDS = (CachekitAio, CachekitUvloop, CachekitAioBackground, CachekitAioInline)
