"""``@cache.invalidates(…)``: writers and cached functions of every kind."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Coroutine
from typing import Any

import pytest
from support.aio import Run, on_both_loops
from support.gathers import no_blocking
from support.shops import ALL, Reports, gone, write
from support.targets import url_of

from cachekit import MISS, Cache
from cachekit.testing import make_cache


@pytest.fixture(name="local")
def local_fixture() -> Reports:
    """A warm shop on an embedded server."""
    shop = Reports(make_cache())
    shop.warm()
    return shop


# -- async ------------------------------------------------------------------------------------------------------------


@on_both_loops
def test_async_writers_await_it(run: Run[None], server: Any) -> None:
    """An async writer voids entries of sync and of async functions, and blocks no loop."""

    async def main() -> None:
        async with Cache(url_of(server) + "?deadline=5s", prefix=f"writers{id(run)}") as cache:
            shop = Reports(cache)
            await asyncio.to_thread(shop.warm)
            await shop.later(1)

            @cache.invalidates(shop.other, shop.later, args=lambda user_id: (user_id,), tags=["user:{user_id}"])
            async def writer(user_id: int) -> int:
                assert await shop.later.peek(1) == 1
                return user_id + 1

            @cache.invalidates(shop.later)
            async def fails() -> None:
                raise LookupError

            no_blocking(cache)
            assert await writer(1) == 2
            for name in ("exchange", "take", "connect"):
                delattr(cache._fleet, name)
            assert await asyncio.to_thread(shop.left) == ALL - {"other 1", "report 1", "june 1"}
            assert await shop.later.peek(1) is MISS
            await shop.later(1)
            with pytest.raises(LookupError):
                await fails()
            assert await shop.later.peek(1) == 1
            assert inspect.iscoroutinefunction(writer)

    run(main())


@on_both_loops
def test_a_cancelled_writer_may_have_written(run: Run[None]) -> None:
    """The entries are void, and the task is cancelled."""

    async def main() -> None:
        shop = Reports(make_cache())
        shop.warm()
        begun = asyncio.Event()

        @shop.cache.invalidates(shop.report)
        async def writer() -> None:
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(writer())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert shop.left() == ALL - {"report 1", "june 1", "report 2"}
        await shop.cache.aclose()

    run(main())


def test_a_sync_writer_voids_an_async_functions_entries(server: Any) -> None:
    """Where no loop runs."""
    cache = Cache(url_of(server) + "?deadline=5s", prefix="sync-writer")
    shop = Reports(cache)

    async def look(fill: bool) -> Any:
        try:
            return await (shop.later(1) if fill else shop.later.peek(1))
        finally:
            await cache.aclose()

    assert asyncio.run(look(fill=True)) == 1
    cache.invalidates(shop.later, args=lambda user_id, **_: (user_id,))(write)(1)
    assert asyncio.run(look(fill=False)) is MISS
    asyncio.run(look(fill=True))
    cache.invalidates(shop.later)(write)(1)
    assert asyncio.run(look(fill=False)) is MISS
    cache.close()


def test_a_function_that_returns_a_coroutine_is_waited_for(local: Reports) -> None:
    """It has not written yet when it returns."""

    async def work(user_id: int) -> int:
        assert await asyncio.to_thread(local.left) == ALL
        return user_id

    def writer(user_id: int) -> Coroutine[Any, Any, int]:
        return work(user_id)

    async def main() -> int:
        result = await local.cache.invalidates(local.report)(writer)(1)
        await local.cache.aclose()
        return result

    assert asyncio.run(main()) == 1
    assert local.left() == ALL - {"report 1", "june 1", "report 2"}


# -- methods, and being a function ------------------------------------------------------------------------------------


class Ledger:
    """A class with readers and writers of each kind."""

    cache = make_cache(prefix="ledger")

    def __init__(self, number: int) -> None:
        self.number = number

    def __cache_key__(self) -> int:
        return self.number

    @cache
    def balance(self, currency: str = "EUR") -> str:
        """What is there."""
        return f"{self.number} {currency}"

    @cache
    @classmethod
    def total(cls, year: int) -> int:
        """Of all of them."""
        return year

    @cache.batch
    def rates(self, codes: list[str]) -> dict[str, int]:
        """By code."""
        return dict.fromkeys(codes, self.number)

    @cache.invalidates(balance, args=lambda self, **_: (self,))
    def deposit(self, amount: int) -> int:
        """Add some."""
        return amount

    @cache.invalidates(total, args=lambda cls, year: (cls, year))
    @classmethod
    def close(cls, year: int) -> str:
        """End a year."""
        return cls.__name__

    @staticmethod
    @cache.invalidates(balance)
    def reset() -> str:
        """Begin anew."""
        return "reset"

    @cache.invalidates(balance)
    @staticmethod
    def reset_outside(n: int) -> int:
        """Begin anew."""
        return n


def test_methods_write_and_are_written_about() -> None:
    """A method voids its own object's entry; class methods and static methods work in either order."""
    one, two = Ledger(1), Ledger(2)
    one.balance(), two.balance(), Ledger.total(2026), Ledger.total(2025)
    assert one.deposit(5) == 5
    assert (one.balance.peek(), two.balance.peek()) == (MISS, "2 EUR")
    assert Ledger.close(2026) == "Ledger"
    assert (Ledger.total.peek(2026), Ledger.total.peek(2025)) == (MISS, 2025)
    assert (Ledger.reset(), two.balance.peek()) == ("reset", MISS)
    two.balance()
    assert (one.reset_outside(3), two.balance.peek()) == (3, MISS)


def test_bound_methods_and_bound_loaders_are_targets() -> None:
    """Of one object: its arguments come without it."""
    one, two = Ledger(1), Ledger(2)
    one.balance(), two.balance(), one.rates(["EUR"]), two.rates(["EUR"]), Ledger.total(2026)
    write_one: Any = Ledger.cache.invalidates(one.balance, args=lambda: ())(lambda: None)
    write_one()
    assert (one.balance.peek(), two.balance.peek()) == (MISS, "2 EUR")
    Ledger.cache.invalidates(one.rates, args=lambda: (["EUR"],))(lambda: None)()
    assert (one.rates.peek(["EUR"]), two.rates.peek(["EUR"])) == ({}, {"EUR": 2})
    Ledger.cache.invalidates(Ledger.total, args=lambda: (2026,))(lambda: None)()
    assert Ledger.total.peek(2026) is MISS


def test_a_writer_stays_what_it_was_to_its_tools(local: Reports) -> None:
    """Name, docstring, signature and result are the writer's own."""
    writer = local.cache.invalidates(local.report)(write)
    assert (writer.__name__, writer.__doc__, writer.__wrapped__) == ("write", "Writes.", write)  # type: ignore[attr-defined]
    assert inspect.signature(writer) == inspect.signature(write)
    with pytest.raises(TypeError, match="user_id"):
        writer()  # type: ignore[call-arg]
    assert local.left() == ALL


def test_partials_are_writers(local: Reports) -> None:
    """Their arguments are those that are left to give."""
    writer = local.cache.invalidates(local.other, args=lambda amount: (amount,))(functools.partial(write, 1))
    assert gone(local, writer, 2) == {"other 2"}
