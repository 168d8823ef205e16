"""A cached ``async def``: every verb is a coroutine, and to its tools it is a coroutine function still."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
import threading
import typing
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any
from unittest import mock

import pytest
from support.memcached import start_memcached
from support.targets import Make, make_fixture, target_fixture, unix_server_fixture, url_of

from cachekit import (
    MISS,
    AsyncBatchFunction,
    AsyncCachedFunction,
    AsyncCall,
    Cache,
    ConfigurationError,
    Policy,
    UnkeyableError,
)
from cachekit.hooks import Invalidate
from cachekit.testing import isolated

__all__ = ["make_fixture", "target_fixture", "unix_server_fixture"]

shared = Cache("memory:", prefix="shared")


@shared(ttl=60)
async def documented(a: int, b: str = "x", *rest: int, c: float = 1.5, **more: str) -> list[int]:
    """What it does."""
    return [a, *rest]


class Shop:
    """Methods in every order of the decorators."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __cache_key__(self) -> str:
        return self.name

    @shared
    async def method(self, n: int) -> str:
        """Bound to an object."""
        return f"{self.name}{n}"

    @shared
    @classmethod
    async def outside_class(cls, n: int) -> str:
        return f"{cls.__name__}{n}"

    @shared
    @staticmethod
    async def outside_static(n: int) -> str:
        return f"static{n}"

    @staticmethod
    @shared
    async def inside_static(n: int) -> str:
        return f"inside{n}"

    @classmethod
    @shared
    async def inside_class(cls, n: int) -> str:
        return f"{cls.__name__}{n}"

    @shared.batch
    async def prices(self, skus: list[str]) -> dict[str, str]:
        return {sku: f"{self.name} {sku}" for sku in skus if sku != "none"}


class Branch(Shop):
    pass


@shared.batch
async def names(ids: list[int]) -> dict[int, str]:
    """Of users."""
    return {each: f"user {each}" for each in ids}


def cached(cache: Cache, **options: Any) -> tuple[Any, list[int]]:
    """A cached coroutine function of one number, and the list of the numbers it ran for."""
    runs: list[int] = []

    @cache(**options)
    async def square(n: int, *, plus: int = 0) -> int:
        runs.append(n)
        await asyncio.sleep(0)
        return n * n + plus

    return square, runs


def loading(cache: Cache, **options: Any) -> tuple[Any, list[list[int]]]:
    """A cached async loader that knows the ids below 100, and the list of what it was asked for."""
    runs: list[list[int]] = []

    @cache.batch(**options)
    async def load(ids: list[int]) -> dict[int, str]:
        runs.append(ids)
        await asyncio.sleep(0)
        return {each: f"user {each}" for each in ids if each < 100}

    return load, runs


Story = Callable[[Cache], Coroutine[Any, Any, None]]


def tell(story: Story, cache: Cache) -> None:
    """Run ``story`` in an event loop, and close there what it has opened."""

    async def whole() -> None:
        async with cache:
            await story(cache)

    asyncio.run(whole())


# -- on every kind of server ------------------------------------------------------------------------------------------


def test_a_call_runs_once_and_is_served_from_then_on(make: Make) -> None:
    """The same call shares one entry, another has its own; the counts are those of a sync function."""

    async def story(cache: Cache) -> None:
        square, runs = cached(cache)
        assert isinstance(square, AsyncCachedFunction)
        assert [await square(3), await square(n=3), await square(4)] == [9, 9, 16]
        assert runs == [3, 4]
        info = square.info()
        assert (info.hits, info.misses, info.fills, info.errors) == (1, 2, 2, 0)

    tell(story, make())


def test_every_verb_is_awaited(make: Make) -> None:
    """invalidate, expire, refresh, peek, explain and invalidate_all do what they do for a sync function."""

    async def story(cache: Cache) -> None:
        square, runs = cached(cache, stale="1h")
        assert await square.peek(3) is MISS
        assert (await square.explain(3)).state == "absent"
        await square(3)
        assert await square.peek(3) == 9
        seen = await square.explain(3)
        assert (seen.state, seen.ttl_s, seen.key) == ("fresh", 300.0, square.key(3))
        assert await square.refresh(3) == 9
        assert runs == [3, 3]
        assert await square.invalidate(3) is True
        assert await square.peek(3) is MISS
        assert await square(3) == 9
        assert await square.expire(3) is True
        assert await square(3) == 9
        assert runs == [3, 3, 3, 3]
        assert await square.invalidate_all() is True
        assert await square.peek(3) is MISS
        assert await square.uncached(3) == 9

    tell(story, make())


def test_many_reads_in_one_window_and_runs_side_by_side(make: Make) -> None:
    """What many gives is in the order of its calls; the misses run at the same time, each key once."""

    async def story(cache: Cache) -> None:
        together = asyncio.Barrier(3)

        @cache
        async def double(n: int) -> int:
            await together.wait()
            return 2 * n

        calls = [double.bind(n) for n in (3, 1, 2, 3)]
        assert await asyncio.wait_for(double.many(calls), 20) == [6, 2, 4, 6]
        assert await double.many(iter(calls)) == [6, 2, 4, 6]
        assert double.info().hits == 3
        assert await double.many([]) == []

    tell(story, make())


def test_a_batch_loads_once_what_is_missing(make: Make) -> None:
    """One run of the loader for all that is missing; what it leaves out is remembered as absent."""

    async def story(cache: Cache) -> None:
        load, runs = loading(cache)
        assert isinstance(load, AsyncBatchFunction)
        assert await load([3, 1, 3, 999]) == {3: "user 3", 1: "user 1"}
        assert await load.list([1, 999, 2]) == ["user 1", None, "user 2"]
        assert await load.list([999], default=0) == [0]
        assert runs == [[3, 1, 999], [2]]
        assert await load.peek([1, 2, 4]) == {1: "user 1", 2: "user 2"}
        assert (await load.explain(1)).state == "fresh"
        assert await load.invalidate([1, 2]) is True
        assert await load.peek([1, 2, 3]) == {3: "user 3"}
        assert await load.refresh([1, 3]) == {1: "user 1", 3: "user 3"}
        assert await load.expire([1]) is True
        assert await load([1, 3]) == {1: "user 1", 3: "user 3"}
        assert runs[2:] == [[1, 3], [1]]
        assert await load.invalidate_all() is True
        assert await load.peek([1, 3]) == {}
        assert await load([]) == {}
        assert await load.invalidate([]) is True

    tell(story, make())


def test_many_entries_are_looked_at_in_lots(make: Make) -> None:
    """A peek of more ids than one request takes finds all of them, on whichever server."""

    async def story(cache: Cache) -> None:
        @cache.batch
        async def load(ids: list[int]) -> dict[int, int]:
            return {each: -each for each in ids}

        ids = list(range(700))
        whole = {each: -each for each in ids}
        assert await load(ids) == whole
        assert await load.peek(ids) == whole

    tell(story, make())


# -- trouble ----------------------------------------------------------------------------------------------------------


def test_hooks_hear_of_invalidations_and_a_dead_server_acknowledges_none() -> None:
    """True only where every server concerned has said so; the hook is told the same."""

    async def story(cache: Cache) -> None:
        heard: list[Invalidate] = []
        cache.hooks.on_invalidate(heard.append)
        square, _ = cached(cache)
        load, _ = loading(cache)
        await square(3)
        assert await square.invalidate(3)
        running.stop()
        assert await square.invalidate(3) is False
        assert await square.invalidate_all() is False
        assert await load.invalidate([1]) is False
        assert await square.peek(3) is MISS
        assert (await square.explain(3)).state == "unreachable"
        assert await square(3) == 9
        assert [each.acknowledged for each in heard] == [True, False, False, False]
        assert [each.key for each in heard][:2] == [square.key(3)] * 2
        assert square.info().errors >= 3

    with start_memcached() as running:
        tell(story, Cache(url_of(running), prefix="dead"))


def test_what_the_function_raises_reaches_its_caller() -> None:
    """The function's own exception, from a call, from refresh and from many; nothing is stored."""

    async def story(cache: Cache) -> None:
        @cache
        async def fails(n: int) -> int:
            raise KeyError(n)

        with pytest.raises(KeyError):
            await fails(1)
        with pytest.raises(KeyError):
            await fails.refresh(1)
        with pytest.raises(KeyError):
            await fails.many([fails.bind(1)])
        assert await fails.peek(1) is MISS

    tell(story, Cache("memory:"))


def test_a_stored_failure_is_raised_by_peek() -> None:
    """Where the policy stores failures, a call and peek raise what is stored."""

    async def story(cache: Cache) -> None:
        runs = []

        @cache(policy=Policy(errors=(LookupError,)))
        async def fails() -> int:
            runs.append(1)
            raise LookupError("gone")

        for verb in (fails, fails, fails.peek):
            with pytest.raises(LookupError, match="gone"):
                await verb()
        assert runs == [1]

    tell(story, Cache("memory:"))


def test_a_loader_that_returns_no_mapping_is_told_so() -> None:
    """TypeError, as from a sync loader."""

    async def story(cache: Cache) -> None:
        @cache.batch
        async def wrong(ids: list[int]) -> Any:
            return ids

        with pytest.raises(TypeError, match="is to return a mapping"):
            await wrong([1])

    tell(story, Cache("memory:"))


# -- where errors are raised ------------------------------------------------------------------------------------------


def test_arguments_raise_where_the_call_stands() -> None:
    """Arguments that don't fit or can't be keyed raise at the call, as with any coroutine function."""
    square, runs = cached(Cache("memory:"))
    load, _ = loading(Cache("memory:"))
    calls: list[Callable[[], Any]] = [
        lambda: square(),
        lambda: square(object()),
        lambda: square.bind(),
        lambda: load(5),
        lambda: load([[]]),
        lambda: square.key(object()),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()
    assert issubclass(UnkeyableError, TypeError)
    assert runs == []


def test_many_takes_its_own_calls_only() -> None:
    """Calls of another function, and anything else, are refused."""

    async def story(cache: Cache) -> None:
        square, _ = cached(cache)
        other, _ = cached(cache)
        for wrong in ([other.bind(1)], [1]):
            with pytest.raises(ConfigurationError, match="its own bind"):
                await square.many(wrong)

    tell(story, Cache("memory:"))


def test_invalidate_all_needs_a_generation() -> None:
    """With group=False it raises and names the option."""

    async def story(cache: Cache) -> None:
        square, _ = cached(cache, policy=Policy(group=False))
        load, _ = loading(cache, policy=Policy(group=False))
        for each in (square, load):
            with pytest.raises(ConfigurationError, match="group=False"):
                await each.invalidate_all()

    tell(story, Cache("memory:"))


# -- without storing --------------------------------------------------------------------------------------------------


def test_disabled_functions_just_run() -> None:
    """Inside disabled() calls, refresh, many and batches run and store nothing."""

    async def story(cache: Cache) -> None:
        square, runs = cached(cache)
        load, loads = loading(cache)
        with cache.disabled():
            assert [await square(3), await square.refresh(3)] == [9, 9]
            assert await square.many([square.bind(3)]) == [9]
            assert await load([1, 999]) == await load.refresh([1]) == {1: "user 1"}
        assert runs == [3] * 3
        assert loads == [[1, 999], [1]]
        assert await square.peek(3) is MISS

    tell(story, Cache("memory:"))


def test_a_ttl_of_0_stores_nothing() -> None:
    """Every call runs, those of many as often as they are given, and side by side."""

    async def story(cache: Cache) -> None:
        together = asyncio.Barrier(3)

        @cache(ttl=0)
        async def double(n: int) -> int:
            await together.wait()
            return 2 * n

        assert await asyncio.wait_for(double.many([double.bind(n) for n in (1, 1, 2)]), 20) == [2, 2, 4]
        assert double.info().fills == 3
        assert await double.peek(1) is MISS

    tell(story, Cache("memory:"))


# -- loops ------------------------------------------------------------------------------------------------------------


def test_one_function_serves_loops_in_several_threads() -> None:
    """Each loop has connections of its own; what one has stored, the others are served."""
    with start_memcached() as running:
        cache = Cache(url_of(running), prefix="loops")
        square, runs = cached(cache)
        found: list[int] = []

        async def story() -> None:
            async with cache:
                found.append(await square(3))

        asyncio.run(story())
        threads = [threading.Thread(target=lambda: asyncio.run(story())) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert found == [9] * 4
        assert runs == [3]


def test_isolated_sets_async_functions_apart() -> None:
    """Inside they go by another server and clock, afterwards by their own again."""
    cache = Cache("memory:")
    square, runs = cached(cache, ttl="5m")
    load, loads = loading(cache, ttl="5m")

    async def story() -> None:
        await square(3)
        await load([1])

    asyncio.run(story())
    with isolated(cache) as clock:
        asyncio.run(story())
        clock.advance("6m")
        asyncio.run(story())
    asyncio.run(story())
    assert runs == [3] * 3
    assert loads == [[1]] * 3
    assert square.info().hits == 1


def test_ids_are_taken_at_the_call() -> None:
    """The ids of a batch are taken when it is called, not when it is awaited."""

    async def story(cache: Cache) -> None:
        load, runs = loading(cache)
        ids = [1]
        coming = load(ids)
        ids.append(2)
        assert await coming == {1: "user 1"}
        assert runs == [[1]]

    tell(story, Cache("memory:"))


# -- being a coroutine function ---------------------------------------------------------------------------------------


def every_kind() -> Iterator[Any]:
    """What can be made of a coroutine function by decorating it."""
    yield documented
    yield Shop.method
    yield Shop("a").method
    yield Shop.outside_class
    yield Branch("b").outside_class
    yield Shop.inside_class
    yield Shop.outside_static
    yield Shop("a").inside_static
    yield names
    yield Shop("a").prices
    yield functools.partial(documented, 1)


@pytest.mark.parametrize("function", list(every_kind()), ids=repr)
def test_tools_take_it_for_a_coroutine_function(function: Any) -> None:
    """inspect, asyncio and what frameworks ask (isroutine) tell what they would of the function itself."""
    assert inspect.iscoroutinefunction(function)
    assert asyncio.iscoroutinefunction(function)
    assert not inspect.isasyncgenfunction(function)
    assert not inspect.isgeneratorfunction(function)
    assert isinstance(function, functools.partial) or inspect.isroutine(function)


def test_it_stays_a_function_to_its_tools() -> None:
    """Name, doc, module, signature and annotations are the function's; the verbs that need no server stay plain."""
    assert documented.__name__ == "documented"
    assert documented.__doc__ == "What it does."
    assert documented.__module__ == __name__
    assert str(inspect.signature(documented)) == str(inspect.signature(documented.uncached))
    assert inspect.getfullargspec(documented) == inspect.getfullargspec(documented.uncached)
    assert inspect.signature(Shop("a").method).parameters.keys() == {"n"}
    assert inspect.unwrap(documented) is documented.uncached
    assert "documented" in repr(documented)
    assert documented.info().errors == 0
    bound = documented.bind(1)
    assert isinstance(bound, AsyncCall)
    assert bound.key == documented.key(1)
    assert asyncio.run(_awaited(bound)) == [1]

    @functools.wraps(documented)
    def wrapped(*args: Any) -> Any:
        return documented(*args)

    assert inspect.signature(wrapped) == inspect.signature(documented)


async def _awaited(call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return await call()


def test_it_pickles_and_copies_by_reference() -> None:
    """Functions, methods, batches and calls go through pickle and copy as references, as plain functions do."""
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        for each in (documented, Shop.method, Shop.outside_static, names, Shop.prices):
            assert pickle.loads(pickle.dumps(each, protocol)) is each
        for bound in (Branch.outside_class, Shop("b").method):
            assert pickle.loads(pickle.dumps(bound, protocol)).key(1) == bound.key(1)
        assert pickle.loads(pickle.dumps(documented.bind(1), protocol)) == documented.bind(1)
    assert copy.copy(documented) is documented
    assert copy.deepcopy({"f": documented})["f"] is documented


@pytest.mark.parametrize(
    ("get", "result"),
    [
        (lambda: Shop("a").method, "a1"),
        (lambda: Branch("b").method, "b1"),
        (lambda: Shop.outside_class, "Shop1"),
        (lambda: Shop("a").outside_class, "Shop1"),
        (lambda: Branch.outside_class, "Branch1"),
        (lambda: Shop.outside_static, "static1"),
        (lambda: Shop("a").outside_static, "static1"),
        (lambda: Shop.inside_static, "inside1"),
    ],
)
def test_methods_have_every_verb(get: Callable[[], Any], result: str) -> None:
    """Methods, class methods and static methods, from class and instance: the verbs stand on them all alike."""

    async def story(_: Cache) -> None:
        method = get()
        assert await method.invalidate(1)
        assert await method.peek(1) is MISS
        before = method.info().hits
        assert [await method(1), await get()(1), await method(n=1)] == [result] * 3
        assert method.info().hits == before + 2
        assert await method.peek(1) == result
        assert (await method.explain(1)).state == "fresh"
        assert await method.refresh(1) == result
        assert await method.uncached(1) == result
        assert await method.many([method.bind(1), method.bind(n=2)]) == [result, result[:-1] + "2"]
        assert method.key(1) == get().key(1) != method.key(2)
        assert await method.expire(1)
        assert await method(1) == result
        assert await method.invalidate_all()
        assert await method.peek(1) is MISS

    tell(story, shared)


def test_classmethod_around_the_cached_function() -> None:
    """@classmethod outside of @cache: calls are cached, a class apart from its subclass."""

    async def story(_: Cache) -> None:
        before = Shop.inside_class.info().hits
        found = [await Shop.inside_class(1), await Shop.inside_class(1), await Branch.inside_class(1)]
        assert found == ["Shop1", "Shop1", "Branch1"]
        assert Shop.inside_class.info().hits == before + 1

    tell(story, shared)


def test_a_batch_may_be_a_method() -> None:
    """From an object, and from the class with the object given."""

    async def story(_: Cache) -> None:
        shop = Shop("corner")
        assert await shop.prices(["a", "none"]) == {"a": "corner a"}
        unbound: Any = Shop.prices
        assert await unbound(shop, ["a"]) == {"a": "corner a"}
        assert await shop.prices.list(["none", "a"]) == [None, "corner a"]
        assert (await shop.prices.explain("a")).state == "fresh"
        assert await shop.prices.invalidate(["a"])
        assert await shop.prices.peek(["a"]) == {}

    tell(story, shared)


# -- what is async ----------------------------------------------------------------------------------------------------


async def _scaled(factor: int, n: int) -> int:
    return factor * n


class Scaling:
    """An object that is called like a coroutine function."""

    def __init__(self) -> None:
        self.__qualname__ = "Scaling"

    async def __call__(self, n: int) -> int:
        return 3 * n


def _partial() -> Any:
    partial = functools.partial(_scaled, 3)
    partial.__module__, partial.__qualname__ = __name__, "_partial"  # type: ignore[attr-defined]
    return partial


@pytest.mark.parametrize("make_function", [_partial, Scaling])
def test_partials_and_objects_are_async_as_what_they_call(make_function: Callable[[], Any]) -> None:
    """A partial of an ``async def`` and an object with an async ``__call__``, where they have a name."""

    async def story(cache: Cache) -> None:
        function = cache(make_function())
        assert isinstance(function, AsyncCachedFunction)
        assert inspect.iscoroutinefunction(function)
        assert [await function(2), await function(2)] == [6, 6]
        assert function.info().hits == 1

    tell(story, Cache("memory:"))


def test_async_generators_are_refused() -> None:
    """What they yield can't be stored; the message says what to return."""
    cache = Cache("memory:")

    async def numbers() -> AsyncIterator[int]:
        yield 1

    class Numbers:
        async def __call__(self) -> AsyncIterator[int]:
            yield 1

    refused: list[Any] = [numbers, Numbers(), functools.partial(numbers)]
    for wrong in refused:
        with pytest.raises(ConfigurationError, match="async generator: gather what it yields and return a list"):
            cache(wrong)
        with pytest.raises(ConfigurationError, match="async generator"):
            cache.batch(wrong)


def test_a_forgotten_await_names_the_function() -> None:
    """The warning of Python speaks of the user's function, at its first call and later, and so does a task."""
    cache = Cache("memory:")

    @cache
    async def report(n: int) -> int:
        return n

    async def main() -> None:
        for _ in range(2):
            report(1).close()
            assert "report" in repr(report(1))
            assert await report.bind(1) == await report.bind(1)() == 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        asyncio.run(main())


def test_what_is_no_function_is_told_at_once() -> None:
    """``get_or_set`` is given a function, not what it returns."""
    cache = Cache("memory:")
    with pytest.raises(TypeError, match="takes a function"):
        asyncio.run(cache.aio.get_or_set("k", 5))  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="takes a function"):
        cache.get_or_set("k", 5)  # type: ignore[arg-type]


def test_a_bound_method_is_a_function_to_its_tools() -> None:
    """Type hints, the qualified name and the unwrapped function can be asked of it."""
    cache = Cache("memory:")

    class Shop:
        @cache(ignore=("self",))
        async def price(self, item: int) -> float:
            return item * 1.5

        @cache(ignore=("self",))
        def weight(self, item: int) -> float:
            return item * 0.5

    for method in (Shop().price, Shop().weight):
        assert typing.get_type_hints(method) == {"item": int, "return": float}
        assert method.__qualname__.endswith(f"Shop.{method.__name__}")
        assert inspect.unwrap(method).__globals__ is globals()


def test_a_mock_of_a_cache_has_its_coroutines() -> None:
    """``cache.aio`` can be seen on the class."""
    assert mock.Mock(spec=Cache).aio is not None
    assert "coroutines" in (Cache.aio.__doc__ or "")
