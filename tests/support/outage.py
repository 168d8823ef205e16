"""One cache, and every way to read it: for tests of what may be read when a server comes back with its old memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.memcached import Memcached, start_memcached
from support.shells import ASYNCIO, LoopShell
from support.targets import own_prefix, url_of

from cachekit import Cache
from cachekit.roster import Roster

OLD, NEW = 1, 2
DEADLINE_S = 0.5


class World:
    """A cache on servers that can be stopped; what its functions return is ``version``. ``old`` is in the cache when a
    world is ``warm``: under every key, and read over every connection that a reader uses.
    """

    def __init__(self, *servers: Memcached, **options: Any) -> None:
        self.version = OLD
        self.cache = cache = Cache(f"{url_of(*servers)}?deadline=500ms", prefix=own_prefix(), **options)
        self.loops = [LoopShell(ASYNCIO), LoopShell(ASYNCIO)]
        self.thread = ThreadPoolExecutor(1, "reader")

        @cache(ttl=600, tags=["tag"], namespace="space")
        def function(n: int) -> int:
            return self.version

        @cache(ttl=600)
        def simple(n: int) -> int:
            return self.version

        @cache(ttl=600)
        async def coroutine(n: int) -> int:
            return self.version

        @cache.batch(ttl=600)
        def loader(ids: list[int]) -> dict[int, int]:
            return dict.fromkeys(ids, self.version)

        self.function, self.simple, self.coroutine, self.loader = function, simple, coroutine, loader

    @property
    def fleet(self) -> Any:
        """The servers as threads see them."""
        return self.cache._fleet

    def inside(self, verb: Callable[..., Any], *args: Any, loop: int = 0) -> Any:
        """What a coroutine function gives in a loop of this world."""
        return self.loops[loop].call(verb, *args)

    def warm(self, *keys: int) -> None:
        """Store the old value everywhere, and have every reader read it."""
        self.cache.set_many({f"k{n}": self.version for n in keys})
        for read in READERS.values():
            for n in keys:
                assert read(self, n) == OLD

    def close(self) -> None:
        """End everything that runs."""
        self.thread.submit(self.fleet.drop, 0).result()
        self.thread.shutdown()
        for loop in self.loops:
            loop.call(self.cache.aclose)
            loop.close()
        self.cache.close()


READERS: dict[str, Callable[[World, int], Any]] = {
    "call": lambda world, n: world.simple(n),
    "call under tags": lambda world, n: world.function(n),
    "call in another thread": lambda world, n: world.thread.submit(world.simple, n).result(),
    "peek": lambda world, n: world.simple.peek(n) if world.version == OLD else world.simple.peek(n) or NEW,
    "many": lambda world, n: world.simple.many([world.simple.bind(n)])[0],
    "batch": lambda world, n: world.loader([n])[n],
    "await": lambda world, n: world.inside(world.coroutine, n),
    "await in another loop": lambda world, n: world.inside(world.coroutine, n, loop=1),
    "await many": lambda world, n: world.inside(world.coroutine.many, [world.coroutine.bind(n)])[0],
    "await peek": lambda world, n: world.inside(world.coroutine.peek, n) or NEW,
    "get": lambda world, n: world.cache.get(f"k{n}", NEW),
    "get in another thread": lambda world, n: world.thread.submit(world.cache.get, f"k{n}", NEW).result(),
    "gets": lambda world, n: world.cache.gets(f"k{n}", NEW)[0],
    "get_many": lambda world, n: world.cache.get_many([f"k{n}"]).get(f"k{n}", NEW),
    "get_or_set": lambda world, n: world.cache.get_or_set(f"k{n}", lambda: world.version),
    "await get": lambda world, n: world.inside(world.cache.aio.get, f"k{n}", NEW),
    "await get in another loop": lambda world, n: world.inside(world.cache.aio.get, f"k{n}", NEW, loop=1),
    "await gets": lambda world, n: world.inside(world.cache.aio.gets, f"k{n}", NEW)[0],
    "await get_many": lambda world, n: world.inside(world.cache.aio.get_many, [f"k{n}"]).get(f"k{n}", NEW),
}
"""Every way to a value: what it gives for ``n``, where nothing is stored the new value."""

VERBS: dict[str, Callable[[World, int], Any]] = {
    "call": lambda world, n: world.simple.invalidate(n),
    "call under tags": lambda world, n: world.function.invalidate(n),
    "batch": lambda world, n: world.loader.invalidate([n]),
    "await": lambda world, n: world.inside(world.coroutine.invalidate, n),
    "get": lambda world, n: world.cache.delete(f"k{n}"),
    "await get": lambda world, n: world.inside(world.cache.aio.delete, f"k{n}"),
}
"""The verb that voids what a reader reads."""

_VERB_OF = {
    "call in another thread": "call",
    "peek": "call",
    "many": "call",
    "await in another loop": "await",
    "await many": "await",
    "await peek": "await",
    "await gets": "await get",
    "await get_many": "await get",
    "await get in another loop": "await get",
}


def invalidate(world: World, reader: str, n: int) -> Any:
    """Void what ``reader`` reads for ``n``."""
    return VERBS[_VERB_OF.get(reader, reader if reader in VERBS else "get")](world, n)


@pytest.fixture(name="mortal")
def mortal_fixture() -> Iterator[Memcached]:
    """A server of the test's own, to stop and kill."""
    with start_memcached() as server:
        yield server


@pytest.fixture(name="world")
def world_fixture(mortal: Memcached) -> Iterator[World]:
    """A world on one server."""
    world = World(mortal)
    yield world
    mortal.resume()
    world.close()


@pytest.fixture(name="unprobed")
def unprobed_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is told but by those who ask."""
    monkeypatch.setattr(Roster, "_watch", lambda self: None)
