"""python-memcached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.adapters.base import Adapter, library

memcache = library("memcache")


class PythonMemcached(Adapter):
    name = "python-memcached"

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        timeouts = {} if timeout_s is None else {"socket_timeout": timeout_s}
        self.client = client = memcache.Client(list(addresses), **timeouts)
        self.get, self.set, self.delete = client.get, client.set, client.delete
        self.get_many, self.set_many = client.get_multi, client.set_multi

    def set_for(self, key: str, value: bytes, ttl_s: int) -> Any:
        return self.client.set(key, value, time=ttl_s)

    def close(self) -> None:
        self.client.disconnect_all()


ADAPTERS = (PythonMemcached,)
