"""Calls of functions with a near tier: every shape of a signature, as any function; and what the call itself leaves."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import inspect
import json
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from cachekit import Cache, CachedFunction, Near, UnkeyableError
from cachekit.near_calls import typed

LONG = Near(ttl="1h")
runs: list[Any] = []


@pytest.fixture(name="cache")
def cache_fixture() -> Cache:
    """A cache in this process."""
    runs.clear()
    return Cache("memory:")


def plain(a: Any, b: Any = 2) -> Any:
    """Two arguments, given in any way."""
    runs.append((a, b))
    return (a, b)


def only_by_name(a: Any, *, b: Any = 2) -> Any:
    """One of them by name only."""
    runs.append((a, b))
    return (a, b)


def only_in_order(a: Any, b: Any = 2, /) -> Any:
    """Both in order only."""
    runs.append((a, b))
    return (a, b)


def various(*a: Any, **b: Any) -> Any:
    """As many as one likes."""
    runs.append((a, b))
    return (a, tuple(b.items()))


def nothing() -> Any:
    """None at all."""
    runs.append(())
    return "nothing"


def odd_names(_self: Any, _key: Any = 2, __node: Any = 3, found: Any = 4) -> Any:
    """Names that generated code might use itself."""
    runs.append((_self, _key, __node, found))
    return (_self, _key, __node, found)


def passed_on(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that can tell how its function was called."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return (len(args), sorted(kwargs), function(*args, **kwargs))

    return wrapper


CALLS: list[tuple[Callable[..., Any], list[tuple[tuple[Any, ...], dict[str, Any]]]]] = [
    (plain, [((1,), {}), ((1, 2), {}), ((1,), {"b": 2}), ((), {"b": 2, "a": 1})]),
    (only_by_name, [((1,), {}), ((1,), {"b": 2}), ((), {"a": 1})]),
    (only_in_order, [((1,), {}), ((1, 2), {})]),
    (nothing, [((), {})]),
    (odd_names, [((1,), {}), ((1, 2, 3), {}), ((1,), {"found": 4, "_key": 2})]),
    (various, [((1, 2), {"c": 3})]),
]


@pytest.mark.parametrize(("function", "calls"), CALLS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_way_to_write_a_call_is_the_same_call(cache: Cache, function: Any, calls: Any) -> None:
    """Positions, names, defaults: Python binds them, and one run serves them all."""
    cached = cache(near=LONG)(function)
    expected = function(*calls[0][0], **calls[0][1])
    runs.clear()
    for args, kwargs in calls * 3:
        assert cached(*args, **kwargs) == expected
    assert len(runs) == 1
    assert cached.info().near == 3 * len(calls) - 1


@pytest.mark.parametrize("call", [lambda f: f(), lambda f: f(1, 2, 3), lambda f: f(1, c=3), lambda f: f(1, a=1)])
def test_a_wrong_call_raises_what_the_function_raises(cache: Cache, call: Callable[[Any], Any]) -> None:
    """The same TypeError, at the first call and once the near tier is there."""
    cached = cache(near=LONG)(plain)
    for _ in range(2):
        with pytest.raises(TypeError, match=r"plain\(\)|__call__\(\)"):
            call(cached)
        cached(1)


def test_a_function_that_can_tell_how_it_was_called_is_called_so(cache: Cache) -> None:
    """Behind another decorator defaults are not passed on where the caller gave none."""
    cached = cache(near=LONG)(passed_on(plain))
    assert [cached(1), cached(1), cached(1, b=2)] == [(1, [], (1, 2))] * 3
    assert cached(5, b=6) == (1, ["b"], (5, 6))


def test_options_of_the_key_hold(cache: Cache) -> None:
    """ignore=, key= and namespace= say what counts here too."""
    ignoring = cache(near=LONG, ignore=("b",))(plain)
    assert [ignoring(1, 2), ignoring(1, 3), ignoring(1, [])] == [(1, 2)] * 3
    keyed = cache(near=LONG, key="k:{a}", version=2)(plain)
    assert [keyed(1, 2), keyed(1, 3)] == [(1, 2)] * 2
    space = ["one"]
    named = cache(near=LONG, namespace=lambda a: space[0], version=3)(plain)
    runs.clear()
    assert [named(1), named(1)] == [(1, 2)] * 2
    space[0] = "other"
    assert [named(1), len(runs)] == [(1, 2), 2]


def test_what_cannot_be_keyed_says_so(cache: Cache) -> None:
    """Also where the short way was taken before."""
    cached = cache(near=LONG)(plain)
    assert [cached(1), cached(1)] == [(1, 2)] * 2
    with pytest.raises(UnkeyableError, match="argument 'a'"):
        cached(object())


def test_the_function_stays_what_it_was(cache: Cache) -> None:
    """To isinstance, inspect, copy and repr, and to its verbs."""
    cached = cache(near=LONG)(only_by_name)
    before = (repr(cached), inspect.signature(cached), cached.__name__, cached.key(1))
    assert [cached(1), cached(1)] == [(1, 2)] * 2
    assert (repr(cached), inspect.signature(cached), cached.__name__, cached.key(1)) == before
    assert isinstance(cached, CachedFunction)
    assert type(cached).__name__ == "CachedFunction"
    assert cached.bind(1)() == (1, 2)
    assert cached.uncached is only_by_name


shared = Cache("memory:")


@shared(near=LONG)
def by_reference(n: int) -> int:
    """One that can be found by its name."""
    return n


def test_it_pickles_and_copies_by_reference() -> None:
    """As any function does."""
    assert by_reference(1) == by_reference(1) == 1
    assert pickle.loads(pickle.dumps(by_reference)) is by_reference
    assert copy.copy(by_reference) is by_reference


class Shop:
    """Methods of every kind."""

    cache = Cache("memory:")

    def __init__(self, name: str) -> None:
        self.name = name

    def __cache_key__(self) -> str:
        return self.name

    @cache(near=LONG)
    def price(self, item: int) -> str:
        """Of an object."""
        runs.append(item)
        return f"{self.name} {item}"

    @cache(near=LONG)
    @classmethod
    def made(cls, item: int) -> str:
        """Of the class."""
        return f"{cls.__name__} {item}"

    @cache(near=LONG)
    @staticmethod
    def fixed(item: int) -> str:
        """Of neither."""
        return f"fixed {item}"

    @cache(near=LONG)
    async def later(self, item: int) -> str:
        """Of an object, awaited."""
        return f"later {self.name} {item}"


def test_methods_have_it_too() -> None:
    """An object counts by what it is known by; each object its own."""
    runs.clear()
    shop: Any = Shop
    one, other, twin = shop("one"), shop("other"), shop("one")
    for _ in range(3):
        assert [one.price(1), other.price(1), twin.price(1)] == ["one 1", "other 1", "one 1"]
        assert [one.made(1), shop.made(1), one.fixed(1), shop.fixed(1)] == ["Shop 1"] * 2 + ["fixed 1"] * 2
        assert asyncio.run(_both(one, other)) == ["later one 1", "later other 1"]
    assert len(runs) == 2
    assert one.price.info().near == 7
    assert one.price.invalidate(1)
    assert [twin.price(1), len(runs)] == ["one 1", 3]


async def _both(one: Any, other: Any) -> list[str]:
    return [await one.later(1), await other.later(1)]


def test_a_coroutine_looks_when_it_is_awaited(cache: Cache) -> None:
    """Not when it is made: what is invalidated between the two is not served. It bears the function's name."""

    @cache(near=LONG)
    async def later(n: int) -> int:
        runs.append(n)
        return len(runs)

    async def main() -> list[int]:
        found = [await later(1), await later(1)]
        made: Any = later(1)
        assert (inspect.iscoroutine(made), made.__qualname__) == (True, later.__qualname__)
        await later.invalidate(1)
        with pytest.raises(UnkeyableError):
            made_of_nothing: Any = later
            made_of_nothing(object())
        return [*found, await made, await asyncio.create_task(later(1)), *await asyncio.gather(later(1), later(2))]

    assert inspect.iscoroutinefunction(later)
    assert asyncio.run(main()) == [1, 1, 2, 2, 2, 3]


def test_a_function_that_nobody_has_any_more_leaves_nothing(cache: Cache) -> None:
    """Its class and its table go with it; what was kept is evicted in its turn."""

    def made() -> weakref.ref[Any]:
        cached = cache(near=LONG)(plain)
        for n in range(50):
            assert cached(n) == cached(n) == cached(n)
        tier = cached._ready().near
        assert tier is not None
        assert len(tier.tables) == 1
        return weakref.ref(cached)

    gone = made()
    gc.collect()
    assert gone() is None
    (tier,) = cache._env.near.tiers.values()  # type: ignore[union-attr]
    assert cache(near=LONG)(nothing)() == "nothing"
    assert [len(table) for table in tier.tables] == [0]
    assert len(tier.nodes) == 51


@pytest.mark.parametrize("big", [False, True])
def test_a_near_value_is_what_a_read_would_have_brought(cache: Cache, big: bool) -> None:
    """A codec of somebody's that gives a list for a tuple; so does the near tier, from the start."""
    cached = cache(near=LONG, codec=Lossy())(never_changes)
    first: Any = cached(big)
    near: list[Any] = [cached(big), cached(big)]
    cache._env.near.touch_all()  # type: ignore[union-attr]
    assert [*near, cached(big)] == [list(first)] * 3
    assert cached.info().near == 2


class Lossy:
    """Plain JSON."""

    name, format = "lossy", 9

    def encode(self, value: Any) -> bytes:
        """A tuple becomes a list."""
        return json.dumps(value).encode()

    def decode(self, payload: bytes) -> Any:
        """And stays one."""
        return json.loads(payload)


def never_changes(big: bool) -> tuple[Any, ...]:
    """A result of immutable things."""
    return ("x" * 2_000 if big else "x", 1, None)


def test_the_table_knows_types_and_signs() -> None:
    """What is equal in Python and not on the wire; what it can't tell apart goes by the wire key."""
    plain_ones = [1, True, 1.0, 0.0, -0.0, b"1", "1", None, ()]
    values = [*plain_ones, *[(each,) for each in plain_ones], *[((each,), 2) for each in plain_ones]]
    values += [(1, 2), (True, 2), (1, 2.0), ((int, 1),), (tuple, ()), (bool, True)]
    keys = [typed((value,)) for value in values]
    assert keys[-3:] == [None] * 3, "a class is none of these, so nobody can pass for one that was wrapped"
    assert None not in keys[:-3]
    assert len(set(keys[:-3])) == len(keys) - 3
    odd = [float("nan"), [], 1j, object(), ([],), (float("nan"),), Pair(1, 2), (Pair(1, 2),), tuple(range(99))]
    assert [typed((value,)) for value in odd] == [None] * len(odd)


class Pair(NamedTuple):
    """Equal to a plain tuple, and another key on the wire."""

    one: int
    two: int


@pytest.mark.parametrize("deep", [5, 100_000])
def test_what_is_nested_deeply_goes_by_its_wire_key(deep: int) -> None:
    """However deep: the looking itself has a bound."""
    value: tuple[Any, ...] = ()
    for _ in range(deep):
        value = (value,)
    assert typed((value,)) is None


def test_a_tuple_of_plain_things_is_found_without_a_wire_key(cache: Cache) -> None:
    """So it takes one microsecond, in place of two and a half; and types are kept apart all the way down."""

    @cache(near=LONG)
    def shown(a: Any) -> str:
        runs.append(a)
        return repr(a)

    pairs: list[Any] = [(1, "a"), (True, "a"), (1.0, "a"), (1, ("a",)), (1, (b"a",)), Pair(1, 2), (1, 2)]
    for _ in range(3):
        assert [shown(pair) for pair in pairs] == [repr(pair) for pair in pairs]
    assert (len(runs), shown.info().near) == (7, 14)
    tier = shown._ready().near
    assert tier is not None
    assert len(tier.tables[0]) == 6, "all but the NamedTuple"


def test_a_coroutine_function_finds_such_tuples_too(cache: Cache) -> None:
    """By the same table; and what can't be keyed raises where the call stands."""

    @cache(near=LONG)
    async def shown(a: Any) -> str:
        runs.append(a)
        return repr(a)

    async def main() -> list[str]:
        return [await shown(pair) for pair in [(1, 2), (True, 2), 1.0, 1] * 3]

    assert asyncio.run(main()) == ["(1, 2)", "(True, 2)", "1.0", "1"] * 3
    assert (len(runs), shown.info().near) == (4, 8)
    with pytest.raises(UnkeyableError):
        shown((object(),))  # type: ignore[unused-coroutine]


def test_an_argument_too_long_to_keep_is_found_by_its_wire_key(cache: Cache) -> None:
    """Its text would take more than what it stands for."""
    cached = cache(near=LONG)(plain)
    text = "x" * 5_000
    assert [cached(text)[1] for _ in range(4)] == [2] * 4
    assert (len(runs), cached.info().near) == (1, 3)
    tier = cached._ready().near
    assert tier is not None
    assert tier.tables == [{}]


def test_nothing_of_it_is_loaded_without_need() -> None:
    """A program without near= never loads it."""
    code = (
        "import sys, cachekit; c = cachekit.Cache('memory:')\n"
        "@c\ndef f(n): return n\nf(1); f(1); f.invalidate(1)\n"
        "assert not [name for name in sys.modules if 'near' in name], sys.modules\n"
        "cachekit.Near(ttl=1)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
