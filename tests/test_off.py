"""The off switch where a process forks inside of a block: whose block it is, and what the child makes of it."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.shops import Shop
from support.threads import Outcome

from cachekit import Cache
from cachekit.testing import make_cache
from cachekit.transaction import Around

if not hasattr(os, "fork"):
    pytest.skip("there is no fork here", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture(name="shop")
def shop_fixture() -> Shop:
    """A shop on an embedded server, with a value stored."""
    shop = Shop(make_cache())
    shop.row(1)
    return shop


def holds_in_child(true: Callable[[], Any]) -> bool:
    """Whether ``true`` says so in a child that is forked here."""
    pid = os.fork()
    if not pid:
        try:
            os._exit(0 if true() else 1)
        finally:
            os._exit(2)
    return os.waitpid(pid, 0)[1] == 0


def works(shop: Shop) -> bool:
    """Whether the cache is on here: nothing counts as off, and a stored value is a hit."""
    hits = shop.row.info().hits
    shop.row(2), shop.row(2)
    return not shop.cache.off and not shop.cache.is_disabled() and shop.row.info().hits == hits + 1


def test_a_transaction_is_its_parents(shop: Shop) -> None:
    """A child that was forked after the first invalidation is outside, in every thread of its own."""
    with shop.cache.transaction():
        shop.row.invalidate(1)
        inside = contextvars.copy_context()
        assert shop.cache.is_disabled()
        assert holds_in_child(lambda: works(shop))
        assert holds_in_child(lambda: Outcome(inside.run, works, shop).result())
        assert shop.cache.is_disabled()
    assert works(shop)


def test_a_child_invalidates_though_a_thread_was_collecting(shop: Shop) -> None:
    """Who held the transaction's lock at the fork does not exist in the child, which has nothing to collect."""
    held, done = threading.Event(), threading.Event()
    with shop.cache.transaction() as block:
        collection = block._collection
        assert collection is not None

        def hold() -> None:
            with collection._lock:
                held.set()
                done.wait(20)

        holder = Outcome(hold)
        assert held.wait(20)
        pid = os.fork()
        if not pid:
            try:
                signal.alarm(20)
                os._exit(0 if shop.row.invalidate(1) and not collection.end() else 1)
            finally:
                os._exit(2)
        done.set()
        holder.result()
        assert os.waitpid(pid, 0)[1] == 0


def test_a_child_that_leaves_the_block_is_as_before(shop: Shop) -> None:
    """It may go on behind the block, and raise out of it; a transaction of its own works as any."""

    def goes_on() -> bool:
        with shop.cache.transaction() as block:
            shop.row.invalidate(2)
            inside = shop.cache.off == 1 and shop.cache.is_disabled()
        return inside and block.acknowledged is True and works(shop)

    pid = None
    try:
        with shop.cache.transaction():
            shop.row.invalidate(1)
            pid = os.fork()
            if not pid:
                assert goes_on()
                raise LookupError
    except LookupError:
        os._exit(0 if goes_on() else 1)
    finally:
        if pid == 0:
            os._exit(2)
    assert pid is not None
    assert os.waitpid(pid, 0)[1] == 0
    assert works(shop)


def test_a_switch_may_be_thrown_again_in_the_child(shop: Shop) -> None:
    """Who runs around the cache for a database session does so in the process where that has changed something."""

    def switched() -> bool:
        around.switch(False)
        before = shop.cache.off
        around.enter()
        around.switch(True)
        inside = (shop.cache.off, shop.cache.is_disabled())
        around.leave()
        return (before, *inside) == (0, 1, True) and works(shop)

    around = Around(shop.cache)
    around.enter()
    around.switch(True)
    assert holds_in_child(switched)
    assert (shop.cache.off, shop.cache.is_disabled()) == (1, True)
    around.leave()
    assert works(shop)


def test_disabled_goes_on_in_the_child(shop: Shop) -> None:
    """The child that goes on inside is inside still, and outside when it has left."""
    cache = shop.cache
    pid = None
    try:
        with cache.disabled():
            with cache.disabled():
                pid = os.fork()
                fine = cache.is_disabled() and cache.off == 2
            fine = fine and cache.is_disabled() and cache.off == 1
        fine = fine and works(shop)
        if not pid:
            os._exit(0 if fine else 1)
    finally:
        if pid == 0:
            os._exit(2)
    assert fine
    assert pid is not None
    assert os.waitpid(pid, 0)[1] == 0


def test_a_copied_context_takes_disabled_into_the_child(shop: Shop) -> None:
    """A thread in a copy of the context forks: its child is inside as it was itself."""
    with shop.cache.disabled():
        inside = contextvars.copy_context()
        assert Outcome(inside.run, holds_in_child, lambda: shop.cache.off == 1 and shop.cache.is_disabled()).result()


def test_blocks_of_other_threads_end_with_them(shop: Shop) -> None:
    """They exist no more in the child, and would never count themselves out."""
    entered, over = threading.Event(), threading.Event()

    def elsewhere() -> None:
        with shop.cache.disabled():
            entered.set()
            over.wait(20)

    working = Outcome(elsewhere)
    assert entered.wait(20)
    assert shop.cache.off == 1
    assert holds_in_child(lambda: works(shop))
    over.set()
    working.result()
    assert works(shop)


def test_off_everywhere_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """``CACHEKIT_DISABLE=1`` holds in children, too, whatever blocks there are."""
    monkeypatch.setenv("CACHEKIT_DISABLE", "1")
    cache = Cache("memory:")
    with cache.disabled():
        assert holds_in_child(lambda: cache.off == 2 and cache.is_disabled())
    assert holds_in_child(lambda: cache.off == 1 and cache.is_disabled())


def test_a_task_that_waits_inside_goes_on_so() -> None:
    """Other tasks of the loop may fork: in the child, the one that is inside of a block leaves it as in the parent."""
    cache = Cache("memory:")

    async def main() -> list[Any]:
        entered, go = asyncio.Event(), asyncio.Event()

        async def inside() -> Any:
            with cache.disabled():
                entered.set()
                await go.wait()
                return cache.is_disabled(), cache.off

        task = asyncio.create_task(inside())
        await entered.wait()
        counted = cache._blocks
        cache._forked()  # as the hook has it in the child; a loop itself can't go on there
        assert cache._blocks == counted
        go.set()
        return [cache.is_disabled(), await task, cache.off]

    assert asyncio.run(main()) == [False, (True, 1), 0]
