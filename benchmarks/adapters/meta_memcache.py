"""meta-memcache: Python with a parser in Rust, meta protocol, a pool per server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.adapters.base import TTL_S, Adapter, library, split_address

meta_memcache = library("meta_memcache")


class MetaMemcache(Adapter):
    name = "meta-memcache"
    verbs = frozenset({"get", "set", "delete", "get_many"})

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        timeouts = {} if timeout_s is None else {"connection_timeout": timeout_s, "recv_timeout": timeout_s}
        self.client = client = meta_memcache.CacheClient.cache_client_from_servers(
            servers=[meta_memcache.ServerAddress(*split_address(address)) for address in addresses],
            connection_pool_factory_fn=meta_memcache.connection_pool_factory_builder(**timeouts),
        )
        self.get, self.delete, self.get_many = client.get, client.delete, client.multi_get
        put = client.set
        self.set = lambda key, value: put(key, value, TTL_S)  # its set wants a lifetime

    def set_for(self, key: str, value: bytes, ttl_s: int) -> Any:
        return self.client.set(key, value, ttl=ttl_s)


ADAPTERS = (MetaMemcache,)
