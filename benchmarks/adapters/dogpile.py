"""dogpile.cache on pylibmc and on pymemcache; a key mangler is needed as soon as a key holds a space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from benchmarks.adapters.base import Adapter, Function, library
from benchmarks.adapters.pymemcache import hook_of
from benchmarks.fake import Hook

dogpile = library("dogpile.cache")
util = library("dogpile.cache.util")


class _Dogpile(Adapter):
    decorated_by_hand = False
    verbs = frozenset()
    backend: ClassVar[str]
    arguments: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        region: Any = dogpile.make_region(
            function_key_generator=util.kwarg_function_key_generator, key_mangler=util.sha1_mangle_key
        )
        arguments = {"url": list(addresses), **self.arguments}
        self.region = region.configure(self.backend, expiration_time=self.ttl_s, arguments=arguments)

    def decorate(self, function: Function) -> Function:
        decorated: Function = self.region.cache_on_arguments()(function)
        return decorated


class DogpilePylibmc(_Dogpile):
    name = "dogpile.cache + pylibmc"
    backend = "dogpile.cache.pylibmc"

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        library("pylibmc")
        super().__init__(addresses)


class DogpilePymemcache(_Dogpile):
    name = "dogpile.cache + pymemcache"
    backend = "dogpile.cache.pymemcache"

    def sockets(self) -> list[Hook]:
        return [hook_of(client) for client in self.region.backend.client.clients.values()]


LOCKED: Mapping[str, Any] = {"distributed_lock": True}


class DogpilePylibmcLocked(DogpilePylibmc):
    name = "dogpile.cache + pylibmc, distributed_lock"
    arguments = LOCKED


class DogpilePymemcacheLocked(DogpilePymemcache):
    name = "dogpile.cache + pymemcache, distributed_lock"
    arguments = LOCKED


ADAPTERS = (DogpilePylibmc, DogpilePymemcache)
VARIANTS = (DogpilePylibmcLocked, DogpilePymemcacheLocked)
