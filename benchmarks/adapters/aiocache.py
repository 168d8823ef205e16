"""aiocache's `cached` on its Memcached backend (aiomcache), with its default serialiser, JSON."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.adapters.base import AsyncAdapter, Function, awaitable, library, split_address

aiocache = library("aiocache")
library("aiomcache")


class Aiocache(AsyncAdapter):
    name = "aiocache (asyncio)"
    decorated_by_hand = False
    ring = False
    verbs = frozenset()

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        super().__init__(addresses)
        self.endpoint, self.port = split_address(addresses[0])

    def decorate(self, function: Function) -> Function:
        cached = aiocache.cached(ttl=self.ttl_s, cache=aiocache.Cache.MEMCACHED, endpoint=self.endpoint, port=self.port)
        decorated: Function = cached(awaitable(function))
        return decorated


ADAPTERS = (Aiocache,)
