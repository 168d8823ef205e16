"""Django's cache backends on pylibmc and on pymemcache; it has no function decorator, so the key is made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from benchmarks.adapters.base import Adapter, Function, library
from benchmarks.raw import decorated_key

settings = library("django.conf").settings
if not settings.configured:
    settings.configure()
memcached = library("django.core.cache.backends.memcached")

ABSENT = object()


class _Django(Adapter):
    thread_safe = False  # Django hands out one backend a thread
    decorated_by_hand = False
    verbs = frozenset()
    backend: ClassVar[str]

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        self.client: Any = getattr(memcached, self.backend)(list(addresses), {"TIMEOUT": self.ttl_s})

    def set_for(self, key: str, value: bytes, ttl_s: int) -> Any:
        return self.client.set(key, value, timeout=ttl_s)

    def decorate(self, function: Function) -> Function:
        get, put = self.client.get, self.client.set

        def wrapper(*args: object, **kwargs: object) -> Any:
            key = decorated_key(args, kwargs).decode()
            found = get(key, ABSENT)
            if found is not ABSENT:
                return found
            result = function(*args, **kwargs)
            put(key, result)
            return result

        return wrapper

    def close(self) -> None:
        self.client.close()


class DjangoPylibmc(_Django):
    name = "Django + pylibmc"
    backend = "PyLibMCCache"


class DjangoPymemcache(_Django):
    name = "Django + pymemcache"
    backend = "PyMemcacheCache"


ADAPTERS = (DjangoPylibmc, DjangoPymemcache)
