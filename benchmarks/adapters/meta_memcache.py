"""meta-memcache: Python with a parser in Rust, meta protocol, a pool per server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from benchmarks.adapters.base import TTL_S, Adapter, Function, library, split_address
from benchmarks.raw import decorated_key

meta_memcache = library("meta_memcache")
configuration = library("meta_memcache.configuration")


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


class MetaMemcacheLease(MetaMemcache):
    """A decorator by hand on its `get_or_lease_cas`, which takes a lease on a miss and blocks who did not get it."""

    name = "meta-memcache, lease"
    lease: ClassVar[Any] = configuration.LeasePolicy()
    recache: ClassVar[Any] = None
    kept_longer_s: ClassVar[int] = 0

    def decorate(self, function: Function) -> Function:
        client, ttl_s = self.client, self.ttl_s + self.kept_longer_s

        def wrapper(*args: object, **kwargs: object) -> Any:
            key = decorated_key(args, kwargs).decode()
            found, cas = client.get_or_lease_cas(key, lease_policy=self.lease, recache_policy=self.recache)
            if found is not None:
                return found
            result = function(*args, **kwargs)
            client.set(key, result, ttl=ttl_s, cas_token=cas)
            return result

        return wrapper


class MetaMemcacheTuned(MetaMemcacheLease):
    """The same, asking again every 10 ms for ten seconds, and with one caller refreshing before the end.

    An item with two seconds left is found due, so it is kept for two more than its lifetime: then it is refreshed at
    about that age, as far as the server's clock tells.
    """

    name = "meta-memcache, lease tuned"
    lease: ClassVar[Any] = configuration.LeasePolicy(10, 1000, 0.010, 1.1, 0.010)
    recache: ClassVar[Any] = configuration.RecachePolicy(2)
    kept_longer_s: ClassVar[int] = 2


ADAPTERS = (MetaMemcache,)
VARIANTS = (MetaMemcacheLease, MetaMemcacheTuned)
