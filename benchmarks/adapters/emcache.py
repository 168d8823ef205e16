"""emcache: asyncio, with a parser in Cython; it has no decorator and no bulk set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from benchmarks.adapters.base import AsyncAdapter, library, split_address

emcache = library("emcache")


class Emcache(AsyncAdapter):
    name = "emcache (asyncio)"
    verbs = frozenset({"get", "set", "delete", "get_many"})
    decorates = False
    bytes_keys = True
    batching: ClassVar[bool] = False

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        super().__init__(addresses)
        nodes = [emcache.MemcachedHostAddress(*split_address(address)) for address in addresses]
        timeouts = {} if timeout_s is None else {"timeout": timeout_s, "connection_timeout": timeout_s}
        self.client: Any = self.wait(emcache.create_client(nodes, autobatching=self.batching, **timeouts))
        self.get, self.set, self.delete = self.client.get, self.client.set, self.client.delete
        self.get_many = self.client.get_many

    def result(self, answer: Any) -> Any:
        """A get answers an Item; a bulk get a dict."""
        found = super().result(answer)
        return getattr(found, "value", found)

    def close(self) -> None:
        self.wait(self.client.close())
        super().close()


class EmcacheBatching(Emcache):
    """The same, with the gets of one loop turn sent as one command."""

    name = "emcache, autobatching (asyncio)"
    batching = True


ADAPTERS = (Emcache,)
CROWDS = (Emcache, EmcacheBatching)
