"""``cache.transaction()``: which threads and tasks are inside, and what they read there."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.aio import Run, on_both_loops
from support.shops import Shop
from support.targets import make_fixture, target_fixture, unix_server_fixture, url_of
from support.threads import Outcome

from cachekit import MISS, Cache
from cachekit.flows.collect import Collection, Mark
from cachekit.testing import make_cache

__all__ = ["make_fixture", "target_fixture", "unix_server_fixture"]


@pytest.fixture(name="shop")
def shop_fixture(make: Callable[..., Cache]) -> Shop:
    """A shop on each kind of server."""
    return Shop(make())


@pytest.fixture(name="local")
def local_fixture() -> Shop:
    """A shop on an embedded server."""
    return Shop(make_cache())


# -- who is inside ----------------------------------------------------------------------------------------------------


def test_other_threads_are_outside(local: Shop) -> None:
    """What another thread invalidates meanwhile goes out at once."""
    with local.cache.transaction():
        assert Outcome(local.cache.invalidate_tags, "row:1").result() is True
        assert len(local.told) == 1


def test_a_copied_context_is_inside_until_the_end(local: Shop) -> None:
    """A thread in a copy of the context belongs to the block; when that has ended, it sends at once."""
    ended = threading.Event()

    def work() -> tuple[bool, bool]:
        first = local.cache.invalidate_tags("row:1")
        collected.set()
        ended.wait(20)
        return first, local.cache.invalidate_tags("row:2")

    collected = threading.Event()
    with local.cache.transaction():
        working = Outcome(contextvars.copy_context().run, work)
        assert collected.wait(20)
        assert local.told == []
    ended.set()
    assert working.result() == (False, True)
    assert [each.name for each in local.told] == ["row:1", "row:2"]


def test_a_block_of_its_own_goes_on_where_an_inner_one_has_ended(local: Shop) -> None:
    """A task of an inner block that has ended belongs to the outer one still."""
    with local.cache.transaction():
        with local.cache.transaction():
            inside = contextvars.copy_context()
        assert inside.run(local.cache.invalidate_tags, "row:1") is False
    assert [each.name for each in local.told] == ["row:1"]


def test_a_block_may_end_in_another_context(local: Shop) -> None:
    """As fixtures and dependencies of frameworks do, that begin and end it in contexts of their own."""
    block = local.cache.transaction()
    begun = contextvars.copy_context()
    begun.run(block.__enter__)
    begun.run(local.cache.invalidate_tags, "row:1")
    block.__exit__(None, None, None)
    assert [each.name for each in local.told] == ["row:1"]
    assert begun.run(local.cache.invalidate_tags, "row:1") is True


# -- what its own code reads ------------------------------------------------------------------------------------------


def test_the_writer_reads_what_it_wrote(shop: Shop) -> None:
    """From the first invalidation on, cached functions run, and what they return is stored for nobody."""
    shop.row.many([shop.row.bind(1), shop.row.bind(2)])
    with shop.cache.transaction():
        assert shop.row(1) == "old"
        shop.rows[1] = shop.rows[2] = "mine"
        shop.row.invalidate(1)
        assert (shop.row(1), shop.row(2), shop.many([2])) == ("mine", "mine", {2: "mine"})
        assert shop.row.refresh(2) == "mine"
        assert shop.cache.is_disabled()
    assert shop.row.peek(2) == "old"
    assert shop.many.peek([2]) == {}
    assert not shop.cache.is_disabled()
    assert shop.cache.off == 0


def test_what_is_not_committed_is_stored_for_nobody(local: Shop) -> None:
    """A rolled-back transaction leaves nothing in the cache of what it saw."""
    with pytest.raises(LookupError), local.cache.transaction():
        local.rows[1] = "mine"
        local.cache.invalidate_tags("row:2")
        assert local.row(1) == "mine"
        local.rows[1] = "old"
        raise LookupError
    assert local.row.peek(1) is MISS
    assert local.cache.off == 0


def test_others_are_served_meanwhile(local: Shop) -> None:
    """Another thread is served what is stored: nothing is committed yet."""
    local.row(1)
    with local.cache.transaction():
        local.rows[1] = "mine"
        local.row.invalidate(1)
        assert Outcome(local.row, 1).result() == "old"
        assert local.row(1) == "mine"


def test_a_failed_inner_block_gives_the_cache_back(local: Shop) -> None:
    """Its changes are undone, so what is stored holds for the outer one, which has none."""
    local.row(1)
    with local.cache.transaction():
        with pytest.raises(LookupError), local.cache.transaction():
            local.row.invalidate(1)
            raise LookupError
        hits = local.row.info().hits
        assert local.row(1) == "old"
        assert local.row.info().hits == hits + 1
        with local.cache.transaction():
            local.row.invalidate(1)
        assert local.cache.is_disabled()
    assert local.cache.off == 0


def test_a_signal_handler_may_invalidate(local: Shop) -> None:
    """It may come while its thread is collecting something else."""
    told: list[bool] = []

    def interrupted() -> None:
        if not told:
            told.append(False)
            told.append(collection.add(b"second", mark))

    collection = Collection(local.cache._env, interrupted)
    mark = Mark(False, lambda env: iter(()))  # type: ignore[arg-type, return-value]
    adding = Outcome(collection.add, b"first", mark)
    assert adding.result() is True
    assert (told, set(collection.end())) == ([False, True], {b"first", b"second"})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_is_outside(server: Any) -> None:
    """Nobody would send what it has collected in its copy of the block, whether or not it begins another one there."""
    with Cache(f"{url_of(server)}?deadline=20s", prefix="forked_transaction") as cache:
        shop = Shop(cache)
        assert [shop.row(1), shop.row(2)] == ["old", "old"]
        with cache.transaction():
            pid = os.fork()
            if not pid:
                told = cache.invalidate_tags("row:1")
                with cache.transaction() as block:
                    cache.invalidate_tags("row:2")
                os._exit(0 if told is True and block.acknowledged is True else 1)
            assert os.waitpid(pid, 0)[1] == 0
        assert [shop.row.peek(1), shop.row.peek(2)] == [MISS, MISS]


# -- asyncio ----------------------------------------------------------------------------------------------------------


@on_both_loops
def test_async_verbs_are_put_off(run: Run[None], server: Any) -> None:
    """``async with`` collects coroutines' invalidations and those of blocking verbs, and awaits the sending."""

    async def main() -> None:
        async with Cache(url_of(server) + "?deadline=5s", prefix=f"async{id(run)}") as cache:
            shop = Shop(cache)
            assert await shop.row_later(1) == "old"
            async with cache.transaction() as block:
                shop.rows[1] = "new"
                assert await shop.row_later.invalidate(1) is False
                assert await cache.aio.invalidate_tags("row:2") is False
                assert await shop.row_later.invalidate_all() is False
                assert await shop.row_later.peek(1) == "old"
                assert await shop.row_later(1) == "new"
            assert block.acknowledged is True
            assert await shop.row_later.peek(1) is MISS
            assert len(shop.told) == 3
            with pytest.raises(LookupError):
                async with cache.transaction():
                    await cache.aio.invalidate_tags("row:2")
                    raise LookupError
            assert len(shop.told) == 3

    run(main())


@on_both_loops
def test_tasks_are_inside_until_the_end(run: Run[None]) -> None:
    """A task begun inside belongs to the block until that ends; one begun before does not."""

    async def main() -> None:
        shop = Shop(make_cache())
        go, ended = asyncio.Event(), asyncio.Event()

        async def other() -> bool:
            await go.wait()
            return await shop.cache.aio.invalidate_tags("before")

        async def child() -> tuple[bool, bool]:
            first = await shop.cache.aio.invalidate_tags("inside")
            go.set()
            await ended.wait()
            return first, await shop.cache.aio.invalidate_tags("after")

        before = asyncio.create_task(other())
        async with shop.cache.transaction():
            inside = asyncio.create_task(child())
            assert await before is True
            assert [each.name for each in shop.told] == ["before"]
        ended.set()
        assert await inside == (False, True)
        assert [each.name for each in shop.told] == ["before", "inside", "after"]
        await shop.cache.aclose()

    run(main())


@on_both_loops
def test_a_cancelled_task_sends_what_it_has_collected(run: Run[None]) -> None:
    """The commit may have happened, so it is sent; and the task is cancelled."""

    async def main() -> None:
        shop = Shop(make_cache())
        collected = asyncio.Event()

        async def work() -> None:
            async with shop.cache.transaction():
                await shop.cache.aio.invalidate_tags("row:1")
                collected.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await collected.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [each.name for each in shop.told] == ["row:1"]
        await shop.cache.aclose()

    run(main())


@on_both_loops
def test_on_commit_may_be_awaited(run: Run[None]) -> None:
    """In ``async with`` it is given a coroutine function, and may be one itself."""

    async def main() -> None:
        shop = Shop(make_cache())

        async def commit(send: Callable[[], Any]) -> None:
            assert shop.told == []
            assert await send() is True

        async with shop.cache.transaction(on_commit=commit):
            await shop.cache.aio.invalidate_tags("row:1")
        assert [each.name for each in shop.told] == ["row:1"]
        await shop.cache.aclose()

    run(main())
