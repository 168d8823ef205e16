"""``cache.transaction()``: what is invalidated inside goes out when it has succeeded, and not before."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.aio import Run, on_both_loops
from support.memcached import start_memcached
from support.targets import make_fixture, target_fixture, unix_server_fixture, url_of
from support.threads import Outcome

from cachekit import MISS, Cache, ConfigurationError
from cachekit.hooks import Invalidate
from cachekit.testing import make_cache

__all__ = ["make_fixture", "target_fixture", "unix_server_fixture"]


class Shop:
    """A cache, a database that is a dict, and what reads it."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.rows = {1: "old", 2: "old"}
        rows = self.rows
        self.told: list[Invalidate] = []
        cache.hooks.on_invalidate(self.told.append)

        @cache(ttl="1h", stale="1h", tags=["row:{number}"], namespace="shop")
        def row(number: int) -> str:
            return rows[number]

        @cache(ttl="1h", tags=["row:{number}"], namespace="shop")
        async def row_later(number: int) -> str:
            return rows[number]

        @cache.batch(ttl="1h")
        def many(numbers: list[int]) -> dict[int, str]:
            return {number: rows[number] for number in numbers}

        self.row, self.row_later, self.many = row, row_later, many


@pytest.fixture(name="shop")
def shop_fixture(make: Callable[..., Cache]) -> Shop:
    """A shop on each kind of server."""
    return Shop(make())


@pytest.fixture(name="local")
def local_fixture() -> Shop:
    """A shop on an embedded server."""
    return Shop(make_cache())


VERBS: list[Callable[[Shop], bool]] = [
    lambda shop: shop.row.invalidate(1),
    lambda shop: shop.row.invalidate_all(),
    lambda shop: shop.cache.invalidate_tags("row:1"),
    lambda shop: shop.cache.invalidate_namespace("shop"),
]
SOFT: list[Callable[[Shop], bool]] = [
    lambda shop: shop.row.expire(1),
    lambda shop: shop.row.expire_all(),
    lambda shop: shop.cache.expire_tags("row:1"),
]


# -- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_an_invalidation_is_sent_at_the_end(shop: Shop, verb: Callable[[Shop], bool]) -> None:
    """Inside a verb returns False and nothing is gone; after the block it is."""
    assert shop.row(1) == "old"
    with shop.cache.transaction() as block:
        shop.rows[1] = "new"
        assert verb(shop) is False
        assert shop.row.peek(1) == "old"
        assert block.acknowledged is None
    assert block.acknowledged is True
    assert shop.row.peek(1) is MISS
    assert shop.row(1) == "new"


@pytest.mark.parametrize("verb", SOFT)
def test_a_soft_invalidation_is_sent_softly(shop: Shop, verb: Callable[[Shop], bool]) -> None:
    """After the block the old value may be served while one caller refreshes it."""
    shop.row(1)
    with shop.cache.transaction():
        assert verb(shop) is False
        assert shop.row.explain(1).state == "fresh"
    assert shop.row.peek(1) == "old"
    shop.rows[1] = "new"
    assert shop.row(1) == "new"


@pytest.mark.parametrize("verb", VERBS + SOFT)
def test_an_exception_drops_them(local: Shop, verb: Callable[[Shop], bool]) -> None:
    """What was not written has not changed: nothing is sent, and the exception passes."""
    local.row(1)
    with pytest.raises(LookupError, match="no stock"), local.cache.transaction() as block:
        verb(local)
        raise LookupError("no stock")
    assert block.acknowledged is None
    assert local.told == []
    assert local.row.explain(1).state == "fresh"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_an_interruption_sends_them(local: Shop, interruption: type[BaseException]) -> None:
    """Nobody knows whether the database has committed: one run too many is better than an old value."""
    local.row(1)
    with pytest.raises(interruption), local.cache.transaction():
        local.row.invalidate(1)
        raise interruption
    assert local.row.peek(1) is MISS


def test_an_empty_block_sends_nothing(local: Shop) -> None:
    """Nothing collected, nothing sent."""
    with local.cache.transaction() as block:
        assert local.row(1) == "old"
    assert block.acknowledged is None
    assert local.row.info().fills == 1


def test_batches_are_put_off(local: Shop) -> None:
    """Each id of a batch loader is collected."""
    local.many([1, 2])
    with local.cache.transaction():
        assert local.many.invalidate([1, 2]) is False
        assert local.many.peek([1, 2]) == {1: "old", 2: "old"}
    assert local.many.peek([1, 2]) == {}


def test_each_is_sent_once_and_hard_beats_soft(local: Shop) -> None:
    """The latest of two that are alike counts, but what was to be void is not softened."""
    with local.cache.transaction():
        local.row.invalidate(1)
        local.row.expire(1)
        local.cache.expire_tags("row:2")
        local.cache.invalidate_tags("row:2")
        local.cache.invalidate_tags("row:2", "row:3")
    assert [(each.name, each.soft) for each in local.told] == [("", False), ("row:2", False), ("row:3", False)]


def test_all_go_out_in_one_window(servers3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries, functions, tags and namespaces of one transaction are one window over all servers."""
    from cachekit.sync import drive

    shop = Shop(Cache(url_of(*servers3) + "?deadline=5s", prefix="window"))
    shop.row(1)
    windows: list[list[int]] = []
    gather = drive.gather

    def counted(exchanges: Any, fleet: Any) -> Any:
        windows.append([each.server for each in exchanges])
        return gather(exchanges, fleet)

    with shop.cache.transaction() as block:
        for number in range(100):
            shop.row.invalidate(number)
        shop.row.invalidate_all()
        shop.cache.invalidate_tags("row:1", "row:2")
        shop.cache.invalidate_namespace("shop")
        monkeypatch.setattr(drive, "gather", counted)
    assert block.acknowledged is True
    assert len(windows) == 1
    assert sorted(windows[0]) == [0, 1, 2]
    assert shop.row.peek(1) is MISS
    shop.cache.close()


def test_more_than_a_batch_goes_out_in_bounded_windows(server: Any) -> None:
    """A thousand entries and a soft bump beside them all arrive."""
    shop = Shop(Cache(url_of(server) + "?deadline=5s", prefix="thousand"))
    for number in range(2, 1000):
        shop.rows[number] = "old"
    shop.row.many([shop.row.bind(number) for number in range(1, 1000)])
    with shop.cache.transaction() as block:
        shop.cache.expire_tags("row:5")
        for number in range(10, 1000):
            shop.row.invalidate(number)
    assert block.acknowledged is True
    assert shop.row.peek(1) == "old"
    assert [shop.row.peek(number) for number in range(10, 1000)] == [MISS] * 990
    assert shop.row.explain(5).state != "fresh"
    shop.cache.close()


def test_what_cannot_be_delivered_is_told_and_raises_nothing() -> None:
    """A server that is gone: the block ends as ever, unacknowledged; the hooks have heard of it."""
    with start_memcached() as server:
        shop = Shop(Cache(url_of(server), prefix="gone"))
        shop.row(1)
        troubles: list[Any] = []
        shop.cache.hooks.on_trouble(troubles.append)
        with shop.cache.transaction() as block:
            shop.row.invalidate(1)
            shop.cache.invalidate_tags("row:1")
            server.kill()
        assert block.acknowledged is False
        assert [each.acknowledged for each in shop.told] == [False, False]
        assert len(troubles) == 1
        shop.cache.close()


# -- blocks in blocks -------------------------------------------------------------------------------------------------


def test_an_inner_block_joins_the_outer(local: Shop) -> None:
    """What the inner one collected is sent with the outer one's."""
    local.row.many([local.row.bind(1), local.row.bind(2)])
    with local.cache.transaction():
        local.row.invalidate(1)
        with local.cache.transaction() as inner:
            local.row.invalidate(2)
        assert local.told == []
        assert inner.acknowledged is None
    assert len(local.told) == 2


def test_an_inner_block_that_fails_drops_its_own(local: Shop) -> None:
    """The outer one's are sent all the same."""
    with local.cache.transaction():
        local.cache.invalidate_tags("row:1")
        with pytest.raises(LookupError), local.cache.transaction():
            local.cache.invalidate_tags("row:2")
            raise LookupError
    assert [each.name for each in local.told] == ["row:1"]


def test_an_outer_block_that_fails_drops_all(local: Shop) -> None:
    """An inner block's success counts only with the outer one's."""
    with pytest.raises(LookupError), local.cache.transaction():
        with local.cache.transaction():
            local.cache.invalidate_tags("row:2")
        raise LookupError
    assert local.told == []


def test_two_caches_are_apart(local: Shop) -> None:
    """A transaction is one cache's: another's invalidations go out at once."""
    other = Shop(make_cache())
    with local.cache.transaction(), other.cache.transaction():
        local.cache.invalidate_tags("a")
        other.cache.invalidate_tags("b")
        assert local.told == other.told == []
    with local.cache.transaction():
        assert other.cache.invalidate_tags("c") is True
    assert [each.name for each in local.told] == ["a"]
    assert [each.name for each in other.told] == ["b", "c"]


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


# -- on_commit --------------------------------------------------------------------------------------------------------


def test_on_commit_is_given_the_sending(local: Shop) -> None:
    """Nothing is sent before it is called; then everything is, once."""
    later: list[Callable[[], bool]] = []
    with local.cache.transaction(on_commit=later.append) as block:
        local.cache.invalidate_tags("row:1")
    assert local.told == []
    assert [send() for send in later] == [True]
    assert [each.name for each in local.told] == ["row:1"]
    assert block.acknowledged is True
    later[0]()
    assert len(local.told) == 1


def test_on_commit_is_not_asked_for_nothing(local: Shop) -> None:
    """Neither after a failure nor where nothing was collected."""
    later: list[Callable[[], bool]] = []
    with local.cache.transaction(on_commit=later.append):
        pass
    with pytest.raises(LookupError), local.cache.transaction(on_commit=later.append):
        local.cache.invalidate_tags("row:1")
        raise LookupError
    assert later == []


def test_on_commit_inside_a_block_waits_for_both(local: Shop) -> None:
    """An inner block's sending hands over to the outer block where that goes on."""
    later: list[Callable[[], bool]] = []
    with local.cache.transaction():
        with local.cache.transaction(on_commit=later.append):
            local.cache.invalidate_tags("row:1")
        later.pop()()
        assert local.told == []
    assert [each.name for each in local.told] == ["row:1"]


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


# -- as a decorator, and bad use --------------------------------------------------------------------------------------


def test_a_decorated_function_has_a_block_for_each_call(local: Shop) -> None:
    """Every call of it is a transaction; a coroutine function stays one."""

    @local.cache.transaction()
    def write(tag: str, *, fail: bool = False) -> str:
        """Writes."""
        local.cache.invalidate_tags(tag)
        if fail:
            raise LookupError
        assert all(each.name != tag for each in local.told)
        return tag

    @local.cache.transaction()
    async def write_later(tag: str) -> str:
        assert await local.cache.aio.invalidate_tags(tag) is False
        return tag

    assert (write("a"), write("b"), asyncio.run(write_later("c"))) == ("a", "b", "c")
    with pytest.raises(LookupError):
        write("d", fail=True)
    assert [each.name for each in local.told] == ["a", "b", "c"]
    assert (write.__doc__, asyncio.iscoroutinefunction(write_later)) == ("Writes.", True)


def test_a_block_is_begun_once(local: Shop) -> None:
    """Using it again is a mistake that is named, not a transaction that collects into another's."""
    block = local.cache.transaction()
    with block, pytest.raises(ConfigurationError, match="begun once"), block:
        pass
    with pytest.raises(ConfigurationError, match="not begun"):
        local.cache.transaction().__exit__(None, None, None)
    with pytest.raises(ConfigurationError, match="on_commit=3"):
        local.cache.transaction(on_commit=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="go above it"):
        local.cache.transaction()(staticmethod(len))
