"""aiomcache: asyncio, a pool of two connections, one request at a time on each; no ring, no decorator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.adapters.base import AsyncAdapter, library, split_address

aiomcache = library("aiomcache")


class Aiomcache(AsyncAdapter):
    name = "aiomcache (asyncio)"
    verbs = frozenset({"get", "set", "delete"})
    decorates = False
    ring = False
    bytes_keys = True

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        super().__init__(addresses)
        self.client: Any = aiomcache.Client(*split_address(addresses[0]))
        self.get, self.set, self.delete = self.client.get, self.client.set, self.client.delete

    def close(self) -> None:
        self.wait(self.client.close())
        super().close()


ADAPTERS = ()
CROWDS = (Aiomcache,)
