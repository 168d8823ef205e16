"""Flask-Caching's memoize on its Memcached backend (cachelib on pylibmc)."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.adapters.base import Adapter, Function, library

flask = library("flask")
flask_caching = library("flask_caching")


class FlaskCaching(Adapter):
    name = "Flask-Caching"
    decorated_by_hand = False
    thread_safe = False
    verbs = frozenset()

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        self.app = flask.Flask("benchmarks")
        config = {"CACHE_TYPE": "MemcachedCache", "CACHE_MEMCACHED_SERVERS": list(addresses)}
        self.cache = flask_caching.Cache(self.app, config={**config, "CACHE_DEFAULT_TIMEOUT": self.ttl_s})
        self.context = self.app.app_context()
        self.context.push()

    def decorate(self, function: Function) -> Function:
        decorated: Function = self.cache.memoize()(function)
        return decorated

    def close(self) -> None:
        self.context.pop()


ADAPTERS = (FlaskCaching,)
