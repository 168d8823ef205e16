"""``@cache.invalidates(…)``: a writer that succeeds makes void what it says, and one that fails nothing."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from support.aio import Run, on_both_loops
from support.memcached import start_memcached
from support.targets import make_fixture, target_fixture, unix_server_fixture, url_of

from cachekit import MISS, Cache, ConfigurationError, Policy, UnkeyableError
from cachekit.testing import make_cache

__all__ = ["make_fixture", "target_fixture", "unix_server_fixture"]


@dataclass(frozen=True)
class Account:
    """An object with an identity."""

    number: int


class Shop:
    """Cached functions of each kind, all filled by ``warm``."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.runs: list[str] = []
        runs = self.runs

        @cache(ttl="1h", tags=["user:{user_id}"], namespace="reports")
        def report(user_id: int, *, month: str = "may") -> str:
            runs.append("report")
            return f"{user_id} {month}"

        @cache(ttl="1h")
        def other(user_id: int) -> int:
            return user_id

        @cache(ttl="1h")
        async def later(user_id: int) -> int:
            return user_id

        @cache.batch(ttl="1h")
        def names(ids: list[int]) -> dict[int, str]:
            return {each: f"user {each}" for each in ids}

        self.report, self.other, self.later, self.names = report, other, later, names

    def warm(self) -> None:
        """Fill the entries of users 1 and 2."""
        for user_id in (1, 2):
            self.report(user_id)
            self.report(user_id, month="june")
            self.other(user_id)
            self.names([user_id])

    def left(self) -> set[str]:
        """Which entries there are."""
        found = {
            "report 1": self.report.peek(1),
            "june 1": self.report.peek(1, month="june"),
            "report 2": self.report.peek(2),
            "other 1": self.other.peek(1),
            "other 2": self.other.peek(2),
            "name 1": self.names.peek([1]) or MISS,
            "name 2": self.names.peek([2]) or MISS,
        }
        return {name for name, value in found.items() if value is not MISS}


ALL = {"report 1", "june 1", "report 2", "other 1", "other 2", "name 1", "name 2"}


@pytest.fixture(name="shop")
def shop_fixture(make: Callable[..., Cache]) -> Shop:
    """A warm shop on each kind of server."""
    shop = Shop(make())
    shop.warm()
    return shop


@pytest.fixture(name="local")
def local_fixture() -> Shop:
    """A warm shop on an embedded server."""
    shop = Shop(make_cache())
    shop.warm()
    return shop


def gone(shop: Shop, writer: Callable[..., Any], *args: Any, **kwargs: Any) -> set[str]:
    """What a call of the writer makes void."""
    writer(*args, **kwargs)
    return ALL - shop.left()


def write(user_id: int, amount: int = 0) -> None:
    """Writes."""


# -- what is invalidated ----------------------------------------------------------------------------------------------


def test_without_args_every_entry_of_the_functions_is_void(shop: Shop) -> None:
    """Several functions may be named, a batch loader among them."""
    writer = shop.cache.invalidates(shop.report, shop.names)(write)
    assert gone(shop, writer, 1) == {"report 1", "june 1", "report 2", "name 1", "name 2"}


def test_args_say_which_entry(shop: Shop) -> None:
    """A tuple is positional arguments, for each of the functions that are named."""
    writer = shop.cache.invalidates(shop.report, shop.other, args=lambda user_id, **_: (user_id,))(write)
    assert gone(shop, writer, 1) == {"report 1", "other 1"}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (lambda shop: {"user_id": 1, "month": "june"}, {"june 1"}),
        (lambda shop: [(1,), {"user_id": 2}], {"report 1", "report 2"}),
        (lambda shop: shop.report.bind(1, month="june"), {"june 1"}),
        (lambda shop: [shop.report.bind(1), shop.other.bind(2)], {"report 1", "other 2"}),
        (lambda shop: [], set()),
    ],
    ids=["dict", "list", "call", "calls", "nothing"],
)
def test_what_args_may_return(local: Shop, said: Callable[[Shop], Any], expected: set[str]) -> None:
    """A dict is keywords, a call made by bind names its function itself, a list holds several."""
    writer = local.cache.invalidates(local.report, args=lambda **_: said(local))(write)
    assert gone(local, writer, 1) == expected


def test_calls_need_no_function_named(local: Shop) -> None:
    """What bind() made says whose it is."""
    writer = local.cache.invalidates(args=lambda user_id: local.other.bind(user_id))(write)
    assert gone(local, writer, 2) == {"other 2"}


def test_a_batch_loader_takes_ids(local: Shop) -> None:
    """As its own ``invalidate`` does."""
    writer = local.cache.invalidates(local.names, args=lambda user_id: ([user_id],))(write)
    assert gone(local, writer, 1) == {"name 1"}


def test_tags_and_namespaces(shop: Shop) -> None:
    """Templates are filled in as those of ``@cache`` are."""
    assert gone(shop, shop.cache.invalidates(tags=["user:{user_id}"])(write), 1) == {"report 1", "june 1"}
    shop.warm()
    assert gone(shop, shop.cache.invalidates(tags="user:2")(write), 1) == {"report 2"}
    shop.warm()
    assert gone(shop, shop.cache.invalidates(tags=lambda amount, **_: [f"user:{amount}"])(write), 1, 2) == {"report 2"}
    shop.warm()
    by_name = shop.cache.invalidates(namespace="re{kind}s")(lambda kind: None)
    assert gone(shop, by_name, "port") == {"report 1", "june 1", "report 2"}


def test_a_template_reaches_into_arguments(local: Shop) -> None:
    """Attributes and indexes, of defaults as well."""

    @local.cache.invalidates(tags=["user:{account.number}", "user:{more[id]}"])
    def save(more: dict[str, int], account: Account = Account(2)) -> None:
        """Saves."""

    assert gone(local, save, {"id": 1}) == {"report 1", "june 1", "report 2"}


def test_the_result_may_say(local: Shop) -> None:
    """A writer that finds out the id only by writing: ``result``, in functions and in templates."""
    made = local.cache.invalidates(local.other, args=lambda result: (result.number,), tags=["user:{result.number}"])(
        lambda name: Account(2)
    )
    assert gone(local, made, "Ada") == {"other 2", "report 2"}


def test_a_writers_own_result_comes_first(local: Shop) -> None:
    """An argument that is called result is what the writer was given."""

    @local.cache.invalidates(local.other, args=lambda result, **_: (result,))
    def store(result: int) -> int:
        return 2

    assert gone(local, store, 1) == {"other 1"}


def test_arguments_are_looked_at_after_the_writer(local: Shop) -> None:
    """An object that gets its id by being saved has it by then."""

    class Row:
        id: int | None = None

    @local.cache.invalidates(tags=["user:{row.id}"])
    def save(row: Row) -> None:
        row.id = 1

    assert gone(local, save, Row()) == {"report 1", "june 1"}


def test_a_callable_may_take_the_arguments_as_the_writer_does(local: Shop) -> None:
    """Its parameters need not bear the writer's names."""
    writer = local.cache.invalidates(local.other, args=lambda one, amount: (one,))(write)
    assert gone(local, writer, 1) == {"other 1"}


# -- when -------------------------------------------------------------------------------------------------------------


def test_a_writer_that_raises_invalidates_nothing(local: Shop) -> None:
    """What was not written has not changed."""

    @local.cache.invalidates(local.report, tags=["user:1"])
    def fails() -> None:
        raise LookupError("no stock")

    with pytest.raises(LookupError, match="no stock"):
        fails()
    assert local.left() == ALL


def test_the_entries_stand_until_the_writer_has_returned(local: Shop) -> None:
    """Invalidated before, they would be filled again with what is about to be replaced."""
    seen: list[set[str]] = []
    writer = local.cache.invalidates(local.report)(lambda: seen.append(local.left()))
    assert gone(local, writer) == {"report 1", "june 1", "report 2"}
    assert seen == [ALL]


def test_a_transaction_puts_it_off(local: Shop) -> None:
    """A writer inside ``cache.transaction()`` is sent with that, or dropped with it."""
    writer = local.cache.invalidates(local.other, args=lambda user_id, **_: (user_id,), tags=["user:{user_id}"])(write)
    with local.cache.transaction():
        writer(1)
        assert local.left() == ALL
    assert local.left() == ALL - {"other 1", "report 1", "june 1"}
    with pytest.raises(LookupError), local.cache.transaction():
        writer(2)
        raise LookupError
    assert local.left() == ALL - {"other 1", "report 1", "june 1"}


def test_a_server_that_is_gone_costs_the_writer_nothing() -> None:
    """Its result is returned; the hooks hear that nothing was acknowledged."""
    with start_memcached() as server, Cache(url_of(server)) as cache:
        shop = Shop(cache)
        shop.warm()
        told: list[Any] = []
        cache.hooks.on_invalidate(told.append)
        writer = cache.invalidates(shop.other, args=lambda n: (n,), tags=["user:{n}"])(lambda n: n + 1)
        server.kill()
        assert writer(1) == 2
        assert [each.acknowledged for each in told] == [False, False]


def test_all_of_one_call_goes_out_in_one_window(servers3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries, functions and tags together."""
    from cachekit.sync import drive

    windows: list[int] = []
    gather = drive.gather
    with Cache(url_of(*servers3) + "?deadline=5s", prefix="writers") as cache:
        shop = Shop(cache)
        shop.warm()
        asked = [shop.other.bind(number) for number in range(50)]
        writer = cache.invalidates(shop.names, args=lambda **_: [([1, 2],), *asked], tags=["user:{user_id}"])(write)
        monkeypatch.setattr(drive, "gather", lambda ops, fleet: windows.append(len(ops)) or gather(ops, fleet))
        writer(1)
        assert windows == [3]
        monkeypatch.undo()
        assert shop.left() == {"report 2"}


# -- async ------------------------------------------------------------------------------------------------------------


@on_both_loops
def test_async_writers_await_it(run: Run[None], server: Any) -> None:
    """An async writer voids entries of sync and of async functions, and blocks no loop."""

    async def main() -> None:
        async with Cache(url_of(server) + "?deadline=5s", prefix=f"writers{id(run)}") as cache:
            shop = Shop(cache)
            await asyncio.to_thread(shop.warm)
            await shop.later(1)

            @cache.invalidates(shop.other, shop.later, args=lambda user_id: (user_id,), tags=["user:{user_id}"])
            async def writer(user_id: int) -> int:
                assert await shop.later.peek(1) == 1
                return user_id + 1

            @cache.invalidates(shop.later)
            async def fails() -> None:
                raise LookupError

            def blocked(*_: Any) -> Any:
                raise AssertionError("the blocking shell was used in a loop")

            fleet, cache._fleet.exchange = cache._fleet, blocked  # type: ignore[method-assign]
            assert await writer(1) == 2
            del fleet.__dict__["exchange"]
            assert await asyncio.to_thread(shop.left) == ALL - {"other 1", "report 1", "june 1"}
            assert await shop.later.peek(1) is MISS
            await shop.later(1)
            with pytest.raises(LookupError):
                await fails()
            assert await shop.later.peek(1) == 1
            assert inspect.iscoroutinefunction(writer)

    run(main())


def test_a_sync_writer_voids_an_async_functions_entries(server: Any) -> None:
    """Where no loop runs."""
    cache = Cache(url_of(server) + "?deadline=5s", prefix="sync-writer")
    shop = Shop(cache)

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


def test_a_function_that_returns_a_coroutine_is_waited_for(local: Shop) -> None:
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
        return f"{self.number} {currency}"

    @cache
    @classmethod
    def total(cls, year: int) -> int:
        return year

    @cache.batch
    def rates(self, codes: list[str]) -> dict[str, int]:
        return dict.fromkeys(codes, self.number)

    @cache.invalidates(balance, args=lambda self, **_: (self,))
    def deposit(self, amount: int) -> int:
        """Add some."""
        return amount

    @cache.invalidates(total, args=lambda cls, year: (cls, year))
    @classmethod
    def close(cls, year: int) -> str:
        return cls.__name__

    @staticmethod
    @cache.invalidates(balance)
    def reset() -> str:
        return "reset"

    @cache.invalidates(balance)
    @staticmethod
    def reset_outside(n: int) -> int:
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
    write_one = Ledger.cache.invalidates(one.balance, args=lambda: ())(lambda: None)
    write_one()
    assert (one.balance.peek(), two.balance.peek()) == (MISS, "2 EUR")
    Ledger.cache.invalidates(one.rates, args=lambda: (["EUR"],))(lambda: None)()
    assert (one.rates.peek(["EUR"]), two.rates.peek(["EUR"])) == ({}, {"EUR": 2})
    Ledger.cache.invalidates(Ledger.total, args=lambda: (2026,))(lambda: None)()
    assert Ledger.total.peek(2026) is MISS


def test_a_writer_stays_what_it_was_to_its_tools(local: Shop) -> None:
    """Name, docstring, signature and result are the writer's own."""
    writer = local.cache.invalidates(local.report)(write)
    assert (writer.__name__, writer.__doc__, writer.__wrapped__) == ("write", "Writes.", write)  # type: ignore[attr-defined]
    assert inspect.signature(writer) == inspect.signature(write)
    with pytest.raises(TypeError, match="user_id"):
        writer()  # type: ignore[call-arg]
    assert local.left() == ALL


def test_partials_are_writers(local: Shop) -> None:
    """Their arguments are those that are left to give."""
    writer = local.cache.invalidates(local.other, args=lambda amount: (amount,))(functools.partial(write, 1))
    assert gone(local, writer, 2) == {"other 2"}


# -- bad use ----------------------------------------------------------------------------------------------------------


def generator() -> Iterator[int]:
    """Writes as it goes."""
    yield 1


@pytest.mark.parametrize(
    ("decorate", "message"),
    [
        (lambda shop: shop.cache.invalidates(), "says nothing to invalidate"),
        (lambda shop: shop.cache.invalidates(write), "takes functions decorated with @cache, not write"),
        (lambda shop: shop.cache.invalidates("user:1"), "tags="),
        (lambda shop: shop.cache.invalidates(Shop(make_cache()).report), "another Cache"),
        (lambda shop: shop.cache.invalidates(shop.report, args=(1,)), "args=\\(1,\\): a function"),
        (
            lambda shop: shop.cache.invalidates(shop.report, args=lambda nobody, other, third: ())(write),
            "args= can't be",
        ),
        (lambda shop: shop.cache.invalidates(tags=["user:{nobody}"])(write), "begins with no argument"),
        (lambda shop: shop.cache.invalidates(tags=[""]), "empty"),
        (lambda shop: shop.cache.invalidates(tags=[3]), "a tag is text"),
        (lambda shop: shop.cache.invalidates(tags=lambda a, b, c: [])(write), "tags= can't be"),
        (lambda shop: shop.cache.invalidates(namespace=3), "namespace=3"),
        (lambda shop: shop.cache.invalidates(shop.report)(generator), "generator is a generator: nobody knows when"),
        (lambda shop: shop.cache.invalidates(shop.report)(shop.other), "a cached function, which runs only where"),
        (lambda shop: shop.cache.invalidates(shop.report)(3), "decorates a function that writes"),
    ],
)
def test_what_can_mean_nothing_is_an_error_at_decoration(
    local: Shop, decorate: Callable[[Shop], Any], message: str
) -> None:
    """With a text that says what to do."""
    with pytest.raises(ConfigurationError, match=message):
        decorate(local)


def test_a_function_without_a_generation_needs_args(local: Shop) -> None:
    """``group=False`` has nothing that would void all its entries at once."""

    @local.cache(policy=Policy(group=False))
    def single(n: int) -> int:
        return n

    with pytest.raises(ConfigurationError, match="group=False"):
        local.cache.invalidates(single)
    single(1)
    local.cache.invalidates(single, args=lambda: (1,))(lambda: None)()
    assert single.peek(1) is MISS


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"args": lambda **_: None}, ConfigurationError, "returned a NoneType"),
        ({"args": lambda **_: (object(),)}, UnkeyableError, "can't be keyed"),
        ({"args": lambda **_: (1, 2, 3)}, TypeError, "positional"),
        ({"tags": lambda **_: [""]}, ConfigurationError, "empty"),
        ({"tags": ["user:{amount}"]}, ConfigurationError, "has no text of its own"),
    ],
)
def test_a_programmers_error_reaches_the_caller(
    local: Shop, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """It is no trouble of the cache's, and must not pass for an invalidation."""
    writer = local.cache.invalidates(local.report, **options)(write)
    with pytest.raises(error, match=message):
        writer(1, object())  # type: ignore[arg-type]


def test_arguments_without_a_function_are_refused(local: Shop) -> None:
    """Nobody knows whose they are."""
    writer = local.cache.invalidates(args=lambda user_id, **_: (user_id,))(write)
    with pytest.raises(ConfigurationError, match="no cached function is named"):
        writer(1)
