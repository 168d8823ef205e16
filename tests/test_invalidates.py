"""``@cache.invalidates(…)``: a writer that succeeds makes void what it says, and one that fails nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.gathers import count_windows
from support.memcached import start_memcached
from support.shops import ALL, Account, Reports, gone, write
from support.targets import make_fixture, target_fixture, unix_server_fixture, url_of

from cachekit import MISS, Cache, ConfigurationError, Policy, UnkeyableError
from cachekit.testing import make_cache

__all__ = ["make_fixture", "target_fixture", "unix_server_fixture"]


@pytest.fixture(name="shop")
def shop_fixture(make: Callable[..., Cache]) -> Reports:
    """A warm shop on each kind of server."""
    shop = Reports(make())
    shop.warm()
    return shop


@pytest.fixture(name="local")
def local_fixture() -> Reports:
    """A warm shop on an embedded server."""
    shop = Reports(make_cache())
    shop.warm()
    return shop


# -- what is invalidated ----------------------------------------------------------------------------------------------


def test_without_args_every_entry_of_the_functions_is_void(shop: Reports) -> None:
    """Several functions may be named, a batch loader among them."""
    writer = shop.cache.invalidates(shop.report, shop.names)(write)
    assert gone(shop, writer, 1) == {"report 1", "june 1", "report 2", "name 1", "name 2"}


def test_args_say_which_entry(shop: Reports) -> None:
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
def test_what_args_may_return(local: Reports, said: Callable[[Reports], Any], expected: set[str]) -> None:
    """A dict is keywords, a call made by bind names its function itself, a list holds several."""
    writer = local.cache.invalidates(local.report, args=lambda **_: said(local))(write)
    assert gone(local, writer, 1) == expected


def test_calls_need_no_function_named(local: Reports) -> None:
    """What bind() made says whose it is."""
    writer = local.cache.invalidates(args=lambda user_id: local.other.bind(user_id))(write)
    assert gone(local, writer, 2) == {"other 2"}


def test_a_batch_loader_takes_ids(local: Reports) -> None:
    """As its own ``invalidate`` does."""
    writer = local.cache.invalidates(local.names, args=lambda user_id: ([user_id],))(write)
    assert gone(local, writer, 1) == {"name 1"}


def test_tags_and_namespaces(shop: Reports) -> None:
    """Templates are filled in as those of ``@cache`` are."""
    assert gone(shop, shop.cache.invalidates(tags=["user:{user_id}"])(write), 1) == {"report 1", "june 1"}
    shop.warm()
    assert gone(shop, shop.cache.invalidates(tags="user:2")(write), 1) == {"report 2"}
    shop.warm()
    assert gone(shop, shop.cache.invalidates(tags=lambda amount, **_: [f"user:{amount}"])(write), 1, 2) == {"report 2"}
    shop.warm()
    by_name = shop.cache.invalidates(namespace="re{kind}s")(lambda kind: None)
    assert gone(shop, by_name, "port") == {"report 1", "june 1", "report 2"}


def test_a_template_reaches_into_arguments(local: Reports) -> None:
    """Attributes and indexes, of defaults as well."""

    second = Account(2)

    @local.cache.invalidates(tags=["user:{account.number}", "user:{more[id]}"])
    def save(more: dict[str, int], account: Account = second) -> None:
        """Saves."""

    assert gone(local, save, {"id": 1}) == {"report 1", "june 1", "report 2"}


def test_the_result_may_say(local: Reports) -> None:
    """A writer that finds out the id only by writing: ``result``, in functions and in templates."""
    made = local.cache.invalidates(local.other, args=lambda result: (result.number,), tags=["user:{result.number}"])(
        lambda name: Account(2)
    )
    assert gone(local, made, "Ada") == {"other 2", "report 2"}


def test_a_writers_own_result_comes_first(local: Reports) -> None:
    """An argument that is called result is what the writer was given."""

    @local.cache.invalidates(local.other, args=lambda result, **_: (result,))
    def store(result: int) -> int:
        return 2

    assert gone(local, store, 1) == {"other 1"}


def test_arguments_are_looked_at_after_the_writer(local: Reports) -> None:
    """An object that gets its id by being saved has it by then."""

    class Row:
        id: int | None = None

    @local.cache.invalidates(tags=["user:{row.id}"])
    def save(row: Row) -> None:
        row.id = 1

    assert gone(local, save, Row()) == {"report 1", "june 1"}


def test_a_callable_may_take_the_arguments_as_the_writer_does(local: Reports) -> None:
    """Its parameters need not bear the writer's names."""
    writer = local.cache.invalidates(local.other, args=lambda one, amount: (one,))(write)
    assert gone(local, writer, 1) == {"other 1"}


# -- when -------------------------------------------------------------------------------------------------------------


def test_a_writer_that_raises_invalidates_nothing(local: Reports) -> None:
    """What was not written has not changed."""

    @local.cache.invalidates(local.report, tags=["user:1"])
    def fails() -> None:
        raise LookupError("no stock")

    with pytest.raises(LookupError, match="no stock"):
        fails()
    assert local.left() == ALL


def test_an_interrupted_writer_may_have_written(local: Reports) -> None:
    """Ctrl-C tells nothing of what the database did: void is the safe side. What only the result would tell stays."""

    @local.cache.invalidates(local.other, args=lambda user_id: (user_id,), tags=["user:{user_id}"])
    def interrupted(user_id: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(1)
    assert local.left() == ALL - {"other 1", "report 1", "june 1"}
    unknown: Any = local.cache.invalidates(tags=["user:{result}"])(interrupted.__wrapped__)  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        unknown(2)
    assert local.left() == ALL - {"other 1", "report 1", "june 1"}


def test_the_entries_stand_until_the_writer_has_returned(local: Reports) -> None:
    """Invalidated before, they would be filled again with what is about to be replaced."""
    seen: list[set[str]] = []
    writer = local.cache.invalidates(local.report)(lambda: seen.append(local.left()))
    assert gone(local, writer) == {"report 1", "june 1", "report 2"}
    assert seen == [ALL]


def test_a_transaction_puts_it_off(local: Reports) -> None:
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
        shop = Reports(cache)
        shop.warm()
        told: list[Any] = []
        cache.hooks.on_invalidate(told.append)
        writer: Any = cache.invalidates(shop.other, args=lambda n: (n,), tags=["user:{n}"])(lambda n: n + 1)
        server.kill()
        assert writer(1) == 2
        assert [each.acknowledged for each in told] == [False, False]


def test_all_of_one_call_goes_out_in_one_window(servers3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries, functions and tags together."""
    with Cache(url_of(*servers3) + "?deadline=5s", prefix="writers") as cache:
        shop = Reports(cache)
        shop.warm()
        asked = [shop.other.bind(number) for number in range(50)]
        writer = cache.invalidates(shop.names, args=lambda **_: [([1, 2],), *asked], tags=["user:{user_id}"])(write)
        windows = count_windows(monkeypatch)
        writer(1)
        assert [sorted(window) for window in windows] == [[0, 1, 2]]
        assert shop.left() == {"report 2"}


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
        (lambda shop: shop.cache.invalidates(Reports(make_cache()).report), "another Cache"),
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
        (lambda shop: shop.cache.invalidates(shop.report)(functools.partial(generator)), "is a generator"),
        (lambda shop: shop.cache.invalidates(shop.report)(shop.other), "a cached function, which runs only where"),
        (lambda shop: shop.cache.invalidates(shop.report)(3), "decorates a function that writes"),
    ],
)
def test_what_can_mean_nothing_is_an_error_at_decoration(
    local: Reports, decorate: Callable[[Reports], Any], message: str
) -> None:
    """With a text that says what to do."""
    with pytest.raises(ConfigurationError, match=message):
        decorate(local)


def test_a_function_without_a_generation_needs_args(local: Reports) -> None:
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
        ({"args": lambda **_: None}, ConfigurationError, "it returned NoneType$"),
        ({"args": lambda **_: (object(),)}, UnkeyableError, "can't be keyed"),
        ({"args": lambda **_: (1, 2, 3)}, TypeError, "positional"),
        ({"tags": lambda **_: [""]}, ConfigurationError, "empty"),
        ({"tags": ["user:{amount}"]}, ConfigurationError, "has no text of its own"),
    ],
)
def test_a_programmers_error_reaches_the_caller(
    local: Reports, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """It is no trouble of the cache's, and must not pass for an invalidation."""
    writer = local.cache.invalidates(local.report, **options)(write)
    with pytest.raises(error, match=message):
        writer(1, object())  # type: ignore[arg-type]


def test_arguments_without_a_function_are_refused(local: Reports) -> None:
    """Nobody knows whose they are."""
    writer = local.cache.invalidates(args=lambda user_id, **_: (user_id,))(write)
    with pytest.raises(ConfigurationError, match="no cached function is named"):
        writer(1)


def test_one_tag_need_be_no_list(local: Reports) -> None:
    """From a callable too, as in ``@cache``: a text alone means that text, and not its letters."""
    cache = local.cache

    @cache(tags=["page"])
    def page() -> str:
        return "page"

    page()

    @cache.invalidates(tags=lambda **_: "page")
    def write_it() -> None:
        return

    write_it()
    assert page.peek() is MISS


@pytest.mark.parametrize("option", ["tags", "namespace"])
def test_a_template_that_does_not_fit_an_argument_is_named(local: Reports, option: str) -> None:
    """With the writer, the field and the argument; Python's own error is the cause."""
    options: dict[str, Any] = {option: "user:{user.id}"}

    @local.cache.invalidates(**options)
    def write_it(user: object) -> None:
        return

    with pytest.raises(ConfigurationError) as raised:
        write_it(7)
    assert str(raised.value) == (
        f"{write_it.__qualname__}(): {{user.id}} in {option}='user:{{user.id}}' can't be taken of the argument 'user', "
        "here of type int: AttributeError: 'int' object has no attribute 'id'"
    )
