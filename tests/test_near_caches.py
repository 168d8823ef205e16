"""Several caches of one process on the same servers: what one of them invalidates, no near tier of another serves."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support.memcached import Memcached, start_memcached
from support.targets import own_prefix, url_of
from support.threads import eventually

from cachekit import Cache, env
from cachekit.env import Env
from cachekit.hooks import Hooks

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


class Shop:
    """One of several caches with the same servers and prefix, and a function under the same keys."""

    def __init__(self, url: str, prefix: str, source: dict[int, str], **options: Any) -> None:
        self.cache = Cache(url, prefix=prefix)

        @self.cache(ttl="1h", tags=["item:{item}"], namespace="fr", **options)
        def price(item: int) -> str:
            return source[item]

        self.price = price

    def commit(self) -> bool:
        """Invalidate in a transaction."""
        with self.cache.transaction() as block:
            self.cache.invalidate_tags("item:7")
        return bool(block.acknowledged)

    def written(self) -> bool:
        """Invalidate by a writer."""

        @self.cache.invalidates(self.price, args=lambda item: (item,))
        def write(item: int) -> bool:
            return True

        return write(7)

    def wait_for(self, verb: Callable[..., Any], *args: Any) -> Any:
        """Invalidate by a coroutine."""

        async def main() -> Any:
            async with self.cache:
                return await verb(*args)

        return asyncio.run(main())


VERBS: dict[str, Callable[[Shop], Any]] = {
    "invalidate": lambda shop: shop.price.invalidate(7),
    "expire": lambda shop: shop.price.expire(7),
    "refresh": lambda shop: shop.price.refresh(7),
    "invalidate_all": lambda shop: shop.price.invalidate_all(),
    "expire_all": lambda shop: shop.price.expire_all(),
    "invalidate_tags": lambda shop: shop.cache.invalidate_tags("item:7"),
    "expire_tags": lambda shop: shop.cache.expire_tags("item:7"),
    "invalidate_namespace": lambda shop: shop.cache.invalidate_namespace("fr"),
    "delete": lambda shop: shop.cache.delete(shop.price.key(7)),
    "delete_many": lambda shop: shop.cache.delete_many([shop.price.key(7)]) == [],
    "set": lambda shop: shop.cache.set(shop.price.key(7), "no entry"),
    "set_many": lambda shop: shop.cache.set_many({shop.price.key(7): "no entry"}) == [],
    "commit": Shop.commit,
    "writer": Shop.written,
    "aio.invalidate_tags": lambda shop: shop.wait_for(shop.cache.aio.invalidate_tags, "item:7"),
    "aio.delete": lambda shop: shop.wait_for(shop.cache.aio.delete, shop.price.key(7)),
}


@pytest.mark.parametrize("near", [None, "1h"])
@pytest.mark.parametrize("verb", VERBS)
def test_what_another_cache_invalidates_is_gone_at_once(server: Memcached, verb: str, near: str | None) -> None:
    """By whatever verb, and whether that cache has a near tier or none: it is this process that has invalidated."""
    url, prefix, source = f"{url_of(server)}?deadline=10s", own_prefix(), {7: "old"}
    ours, theirs = Shop(url, prefix, source, near="1h"), Shop(url, prefix, source, near=near)
    with ours.cache, theirs.cache:
        assert [ours.price(7), ours.price(7), theirs.price(7)] == ["old"] * 3
        assert ours.price.info().near == 1
        source[7] = "new"
        assert VERBS[verb](theirs)
        assert ours.price(7) == "new"


def test_what_is_told_late_is_gone_then() -> None:
    """This cache could ask the server and read the old value again, while the other one had not told it yet."""
    with start_memcached() as mortal:
        prefix, source = own_prefix(), {7: "old"}
        ours = Shop(f"{url_of(mortal)}?deadline=10s", prefix, source, near="1h")
        theirs = Shop(f"{url_of(mortal)}?deadline=10s", prefix, source)
        with ours.cache, theirs.cache:
            assert ours.price(7) == "old"
            theirs.cache._fleet.keep(0, [theirs.price.key(7).encode()], soft=False, kind=0)
            source[7] = "new"
            assert eventually(lambda: not theirs.cache.stats().replay)
            assert ours.price(7) == "new"


def test_a_memory_of_ones_own_is_left_alone() -> None:
    """No other cache can ask the embedded server, so nothing that another one invalidates is about it."""
    shops = [Shop("memory:", "shop", {7: "old"}, near="1h") for _ in range(2)]
    for shop in shops:
        assert [shop.price(7), shop.price(7)] == ["old", "old"]
    assert shops[0].price.invalidate(7)
    assert shops[1].price(7) == "old"
    assert shops[1].price.info().near == 2


def test_a_cache_that_is_gone_is_not_kept() -> None:
    """Nobody but its cache holds what keeps its near tiers."""
    surroundings = Env(("a:1",), Hooks())
    surroundings.near_tier("1s")
    assert surroundings.near in env._all_hubs()
    hub = weakref.ref(surroundings.near)
    assert hub in env._hubs
    del surroundings
    gc.collect()
    assert hub not in env._hubs
    assert hub() is None


def test_one_may_come_while_all_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread, a signal handler or the collector may change them in the middle of a look: it is taken again."""
    surroundings = Env(("a:1",), Hooks())
    surroundings.near_tier("1s")

    class Restless(set[Any]):
        turns = 0

        def __iter__(self) -> Any:
            Restless.turns += 1
            if Restless.turns == 1:
                raise RuntimeError("Set changed size during iteration")
            return super().__iter__()

    monkeypatch.setattr(env, "_hubs", Restless(env._hubs))
    assert surroundings.near in env._all_hubs()
    assert Restless.turns == 2


@needs_fork
def test_a_child_invalidates_for_its_caches(server: Memcached) -> None:
    """Also where another thread held the parent's near tier at the fork."""
    url, prefix, source = f"{url_of(server)}?deadline=10s", own_prefix(), {7: "old"}
    ours, theirs = Shop(url, prefix, source, near="1h"), Shop(url, prefix, source)
    with ours.cache, theirs.cache:
        assert [ours.price(7), theirs.price(7)] == ["old", "old"]
        hub = ours.cache._env.near
        assert hub is not None
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with hub._lock:
                held.set()
                done.wait(20)

        holder = threading.Thread(target=hold)
        holder.start()
        assert held.wait(20)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(20)
                first = ours.price(7)
                source[7] = "new"
                told = theirs.price.invalidate(7)
                code = 0 if (first, told, ours.price(7)) == ("old", True, "new") else 2
            finally:
                os._exit(code)
        done.set()
        holder.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert ours.price(7) == "old", "the parent is another process: near.ttl is its bound"
