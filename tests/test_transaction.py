"""``cache.transaction()``: what is invalidated inside goes out when it has succeeded, and not before."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

import pytest
from support.gathers import count_windows
from support.memcached import start_memcached
from support.shops import Shop
from support.targets import make_fixture, target_fixture, unix_server_fixture, url_of

from cachekit import MISS, Cache, ConfigurationError
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
        local.cache.expire_tags("row:2", "row:4")
        local.cache.invalidate_tags("row:2", "row:3")
        local.cache.expire_tags("row:3")
    told = sorted((each.name, each.soft) for each in local.told)
    assert told == [("", False), ("row:2", False), ("row:3", False), ("row:4", True)]


def test_all_go_out_in_one_window(servers3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries, functions, tags and namespaces of one transaction are one window over all servers."""
    shop = Shop(Cache(url_of(*servers3) + "?deadline=5s", prefix="window"))
    shop.row(1)
    with shop.cache.transaction() as block:
        for number in range(100):
            shop.row.invalidate(number)
        shop.row.invalidate_all()
        shop.cache.invalidate_tags("row:1", "row:2")
        shop.cache.invalidate_namespace("shop")
        windows = count_windows(monkeypatch)
    assert block.acknowledged is True
    assert [sorted(window) for window in windows] == [[0, 1, 2]]
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


def test_one_caches_transaction_switches_off_no_other(local: Shop) -> None:
    """Also where that is off elsewhere."""
    other = make_cache()
    elsewhere = contextvars.Context()
    block = other.disabled()
    elsewhere.run(block.__enter__)
    with local.cache.transaction():
        local.cache.invalidate_tags("a")
        assert local.cache.is_disabled()
        assert not other.is_disabled()
    elsewhere.run(block.__exit__, None, None, None)
    assert (other.off, local.cache.off) == (0, 0)


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


def test_on_commit_of_a_plain_block_is_a_plain_function(local: Shop) -> None:
    """Nobody would await a coroutine function there, and nothing would be sent."""

    async def later(send: Callable[[], Any]) -> None:
        await send()

    with pytest.raises(ConfigurationError, match="only `async with` awaits"), local.cache.transaction(on_commit=later):
        raise AssertionError("never")


def test_on_commit_inside_a_block_waits_for_both(local: Shop) -> None:
    """An inner block's sending hands over to the outer block where that goes on."""
    later: list[Callable[[], bool]] = []
    with local.cache.transaction():
        with local.cache.transaction(on_commit=later.append):
            local.cache.invalidate_tags("row:1")
        later.pop()()
        assert local.told == []
    assert [each.name for each in local.told] == ["row:1"]


def test_on_commit_looks_further_out_where_the_block_around_has_ended(local: Shop) -> None:
    """To the next that goes on."""
    later: list[Callable[[], bool]] = []
    with local.cache.transaction():
        with local.cache.transaction(), local.cache.transaction(on_commit=later.append):
            local.cache.invalidate_tags("row:1")
        contextvars.Context().run(later.pop())
        assert local.told == []
    assert [each.name for each in local.told] == ["row:1"]


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
    with pytest.raises(ConfigurationError, match=r"write @cache.transaction\(\), with parentheses"):
        local.cache.transaction(len)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="go above it"):
        local.cache.transaction()(staticmethod(len))


def test_a_block_shows_how_far_it_is(local: Shop) -> None:
    """In a debugger or a log: whose it is, and what has become of it."""
    block = local.cache.transaction()
    assert repr(block) == f"<Transaction of {local.cache!r}: not begun>"
    with block:
        local.cache.invalidate_tags("row:1", "row:2")
        assert repr(block).endswith(": 2 collected>")
    assert repr(block).endswith(": sent and acknowledged>")
    block.acknowledged = False
    assert repr(block).endswith(": sent, not acknowledged by every server>")
    with local.cache.transaction() as empty:
        pass
    assert repr(empty).endswith(": ended, nothing sent>")
