"""``@cache.batch``: servers that fail, ids of every kind, options, methods.

What calls and verbs promise on every server and in every shell: tests/contract/test_batch_contract.py.
"""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
from support.memcached import start_memcached

from cachekit import Cache, ConfigurationError, Policy, UnkeyableError
from cachekit.batch import BatchFunction


def loader(cache: Cache, **options: Any) -> tuple[Any, list[list[int]]]:
    """A batch loader of squares that knows numbers below 100, and the lists that it was called with."""
    runs: list[list[int]] = []

    @cache.batch(**options)
    def squares(ids: list[int], plus: int = 0) -> dict[int, int]:
        runs.append(ids)
        return {n: n * n + plus for n in ids if n < 100}

    return squares, runs


# -- servers that fail ------------------------------------------------------------------------------------------------


def test_a_dead_server_costs_its_own_ids_only() -> None:
    """They are loaded at every call, the others are hits."""
    with start_memcached() as one, start_memcached() as two:
        cache = Cache(f"memcached://{one.name},{two.name}?deadline=5s", prefix="dead")
        squares, runs = loader(cache)
        ids = list(range(40))
        expected = {n: n * n for n in ids}
        assert squares(ids) == expected
        theirs = [n for n in ids if cache.server_of(squares.key(n)) == two.name]
        assert 0 < len(theirs) < 40
        two.stop()
        assert squares(ids) == squares(ids) == expected
        assert runs == [ids, theirs, theirs]
        assert squares.invalidate(theirs) is False
        assert squares.invalidate([n for n in ids if n not in theirs]) is True
        cache.close()


def test_connections_that_lay_idle_and_were_closed_are_replaced() -> None:
    """A server that was restarted is asked again, and nothing is stored under a lease from before."""
    with start_memcached() as server:
        cache = Cache(f"memcached://{server.name}?deadline=5s", prefix="idle")
        squares, runs = loader(cache)
        squares([1, 2])
        server.restart()
        assert squares([1, 2]) == squares([1, 2]) == {1: 1, 2: 4}
        assert len(runs) == 2
        assert squares.info().errors == 0
        cache.close()


# -- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", ["abc", b"abc", bytearray(b"abc")])
def test_a_lone_text_is_no_collection_of_ids(ids: Any) -> None:
    """It would ask for its characters."""
    squares, runs = loader(Cache("memory:"))
    for verb in (squares, squares.list, squares.peek, squares.invalidate, squares.expire, squares.refresh):
        with pytest.raises(TypeError, match=r"write squares\(\[id\]\)"):
            verb(ids)
    assert runs == []


def test_a_lone_number_is_no_collection_of_ids() -> None:
    """The error says what to write."""
    squares, _ = loader(Cache("memory:"))
    with pytest.raises(TypeError, match=r"squares\(\) takes an iterable of ids; for one id alone"):
        squares(5)


def test_any_iterable_of_ids_will_do() -> None:
    """It is gone through once; the loader always gets a list of its own."""
    squares, runs = loader(Cache("memory:"))
    ids = [1, 2]
    assert squares(iter(ids)) == squares({1: "a", 2: "b"}) == squares(n for n in ids) == {1: 1, 2: 4}
    assert runs == [[1, 2]]
    runs[0].clear()
    assert squares([1, 2, 3]) == {1: 1, 2: 4, 3: 9}


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 1.0), (0, False), ((1,), (True,))])
def test_equal_ids_of_different_types_can_not_be_told_apart_in_a_dict(one: Any, other: Any) -> None:
    """They are different entries, so a batch of both is refused, and batches of one each never mix."""
    cache = Cache("memory:")

    @cache.batch
    def kinds(ids: list[Any]) -> dict[Any, str]:
        return {each: repr(each) for each in ids}

    with pytest.raises(TypeError, match="two equal ids .* that are different entries"):
        kinds([one, other])
    assert kinds([one]) == {one: repr(one)}
    assert kinds([other]) == {other: repr(other)}


def test_different_ids_of_one_entry_share_it() -> None:
    """Where ``key=`` says that they are the same: one is asked for, and each gets the value."""
    cache, runs = Cache("memory:"), []

    @cache.batch(key=lambda names: names.lower())
    def sizes(names: list[str]) -> dict[str, int]:
        runs.append(names)
        return {name: len(name) for name in names}

    assert sizes(["Ada", "ADA", "Bo"]) == {"Ada": 3, "ADA": 3, "Bo": 2}
    assert sizes.list(["bo", "ada", "BO"]) == [2, 3, 2]
    assert runs == [["Ada", "Bo"]]


def test_an_id_that_can_not_be_keyed_is_refused() -> None:
    """With the parameter's name, before anything is asked."""
    squares, runs = loader(Cache("memory:"))
    with pytest.raises(UnkeyableError, match="'ids'"):
        squares([1, object()])
    assert runs == []


# -- the loader -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [None, [1, 4], {1, 2}, "text"])
def test_a_loader_that_returns_no_mapping_is_told_so(found: Any) -> None:
    """An error that says what is wanted, and nothing stored."""
    cache = Cache("memory:")

    @cache.batch
    def wrong(ids: list[int]) -> Any:
        return found

    with pytest.raises(TypeError, match=r"wrong\(\) is to return a mapping .* it returned a "):
        wrong([1, 2])
    assert wrong.peek([1, 2]) == {}


def test_a_mapping_of_any_kind_will_do_and_more_than_was_asked_for_is_ignored() -> None:
    """There was no lease on the rest before the run."""
    cache = Cache("memory:")

    @cache.batch
    def generous(ids: Iterable[int]) -> Mapping[int, int]:
        return MappingProxyType({n: n for n in range(10)})

    assert generous([2, 50]) == {2: 2}
    assert generous.peek(range(10)) == {2: 2}


def test_each_value_has_its_own_ttl() -> None:
    """A ttl that is a function sees each value; absent ids have ``absent_ttl``."""
    cache = Cache("memory:")
    squares, _ = loader(cache, ttl=lambda square: 10 + square, absent_ttl="20s")
    squares([1, 3, 900])
    assert [squares.explain(n).ttl_s for n in (1, 3, 900)] == [11, 19, 20]
    fixed, _ = loader(cache, ttl=30, namespace="fixed")
    fixed([1, 900])
    assert [fixed.explain(n).ttl_s for n in (1, 900)] == [30, 30]


def test_stored_values_are_lossless() -> None:
    """Classes in the annotation come back as themselves."""
    cache = Cache("memory:")

    @cache.batch
    def points(ids: list[int]) -> dict[int, Point]:
        return {n: Point(n, (n,)) for n in ids}

    assert points([1]) == points([1]) == {1: Point(1, (1,))}
    assert points.info().hits == 1


@dataclass(frozen=True)
class Point:
    x: int
    tags: tuple[int, ...]


def test_disabled_the_loader_just_runs() -> None:
    """With each id once, and nothing is stored."""
    cache = Cache("memory:")
    squares, runs = loader(cache)
    with cache.disabled():
        assert squares([2, 2, 900]) == {2: 4}
        assert squares.list([2, 900, 2]) == [4, None, 4]
        assert squares.refresh([2]) == {2: 4}
    assert runs == [[2, 900], [2, 900], [2]]
    assert squares.peek([2]) == {}


def test_a_failure_does_not_wait_for_the_collector() -> None:
    """What an exception refers to is let go of as soon as the caller has done with it."""
    cache = Cache("memory:")
    kept: list[weakref.ref[Any]] = []

    class Large(list[int]):
        pass

    @cache.batch
    def failing(ids: list[int]) -> dict[int, int]:
        large = Large(ids)
        kept.append(weakref.ref(large))
        raise LookupError(len(large))

    gc.collect()
    gc.disable()
    try:
        with pytest.raises(LookupError):
            failing([1, 2, 3])
        assert kept[0]() is None
    finally:
        gc.enable()


# -- decoration -------------------------------------------------------------------------------------------------------


def test_options_are_the_decorators() -> None:
    """Bare, called, and with options; what is unknown is named, with what was meant."""
    cache = Cache("memory:")
    assert isinstance(cache.batch(_numbers), BatchFunction)
    assert isinstance(cache.batch()(_numbers), BatchFunction)
    decorated = cache.batch(ttl=5, stale=5, key="{ids}", version=2, codec="json", policy=Policy(group=False))(_numbers)
    assert decorated([1]) == {1: 1}
    with pytest.raises(ConfigurationError, match="@cache.batch takes no tll=; did you mean ttl="):
        cache.batch(tll=5)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match=r"policy=Policy\(jitter=…\)"):
        cache.batch(jitter=0.1)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="group=False"):
        decorated.invalidate_all()


def _numbers(ids: list[int]) -> dict[int, int]:
    return {n: n for n in ids}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"policy": Policy(errors=(LookupError,))}, "no answer about one id"),
        ({"absent_ttl": lambda value: 5}, "there is none"),
        ({"absent_ttl": "soon"}, "soon"),
        ({"ttl": 0, "stale": 5}, "nothing is stored"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], why: str) -> None:
    """At decoration."""
    with pytest.raises(ConfigurationError, match=why):
        Cache("memory:").batch(**options)


def test_a_caches_policy_for_errors_is_not_about_batches() -> None:
    """It speaks for functions in general; a loader's failure is stored for no id."""
    cache, runs = Cache("memory:", policy=Policy(errors=(LookupError,))), []

    @cache.batch
    def failing(ids: list[int]) -> dict[int, int]:
        runs.append(ids)
        raise LookupError

    for _ in range(2):
        with pytest.raises(LookupError):
            failing([1])
    assert len(runs) == 2


def test_what_takes_no_ids_is_no_loader() -> None:
    """Nor is what is no plain function."""
    cache = Cache("memory:")

    def nothing() -> dict[int, int]:
        return {}

    def named(*, ids: list[int]) -> dict[int, int]:
        return {}

    class Odd:
        def method(self) -> dict[int, int]:
            return {}

    async def later() -> dict[int, int]:
        return {}

    odd: list[Any] = [nothing, named, Odd.method, later]
    for wrong in odd:
        with pytest.raises(ConfigurationError, match="takes no ids"):
            cache.batch(wrong)


def test_a_parameter_of_the_loaders_own_is_never_taken_away() -> None:
    """``default`` goes to a loader that has one."""
    cache = Cache("memory:")

    @cache.batch
    def filled(ids: list[int], default: str) -> dict[int, str]:
        return {n: default for n in ids if n > 0}

    assert filled.list([1, -1], default="x") == ["x", None]


shared = Cache("memory:", prefix="batches")


@shared.batch(ttl=60)
def documented(ids: list[int], *, currency: str = "EUR") -> dict[int, str]:
    """What it does."""
    return {n: f"{n} {currency}" for n in ids}


@dataclass(frozen=True)
class Shop:
    """Loaders in every place that a class has for them."""

    name: str

    @shared.batch
    def prices(self, ids: list[int], currency: str = "EUR") -> dict[int, str]:
        """Bound to an object."""
        return {n: f"{n} {currency} at {self.name}" for n in ids}

    @shared.batch
    @classmethod
    def of_class(cls, ids: list[int]) -> dict[int, str]:
        """The decorator outside."""
        return {n: f"{n} of {cls.__name__}" for n in ids}

    @shared.batch
    @staticmethod
    def outside_static(ids: list[int]) -> dict[int, str]:
        """The decorator outside."""
        return {n: f"static {n}" for n in ids}

    @staticmethod
    @shared.batch
    def inside_static(ids: list[int]) -> dict[int, str]:
        """The decorator inside."""
        return {n: f"inside {n}" for n in ids}


def test_a_batch_is_still_a_function_to_its_tools() -> None:
    """Name, docstring, signature and module survive; it pickles and copies by reference."""
    assert (documented.__name__, documented.__doc__) == ("documented", "What it does.")
    assert documented.__module__ == __name__
    assert inspect.signature(documented) == inspect.signature(documented.uncached)
    assert pickle.loads(pickle.dumps(documented)) is documented
    assert copy.deepcopy(documented) is documented
    assert "documented(ids" in repr(documented)
    assert documented.uncached([1], currency="CHF") == {1: "1 CHF"}


def test_methods_are_bound_to_their_object() -> None:
    """The object is a part of each key, and the verbs know it; two objects of one identity share."""
    one, same, other = Shop("one"), Shop("one"), Shop("other")
    assert one.prices([1, 2]) == {1: "1 EUR at one", 2: "2 EUR at one"}
    assert other.prices([1]) == {1: "1 EUR at other"}
    assert same.prices.peek([1, 2, 3]) == one.prices([1, 2])
    assert one.prices.key(1) == Shop.prices.key(same, 1) != other.prices.key(1)  # type: ignore[arg-type]
    assert one.prices.list([2, 1], "EUR") == ["2 EUR at one", "1 EUR at one"]
    assert Shop.prices(one, [1]) == {1: "1 EUR at one"}  # type: ignore[arg-type]
    assert one.prices.invalidate([1])
    assert (same.prices.peek([1]), other.prices.peek([1])) == ({}, {1: "1 EUR at other"})
    assert one.prices == same.prices != other.prices != 5
    assert hash(one.prices) == hash(same.prices)
    assert one.prices.uncached([7]) == {7: "7 EUR at one"}
    assert Shop.prices.invalidate_all()
    assert pickle.loads(pickle.dumps(one.prices)) == one.prices
    assert "bound to a Shop" in repr(one.prices)


def test_classmethods_and_staticmethods() -> None:
    """Reached through the class and through an object alike."""
    for place in (Shop, Shop("one")):
        assert place.of_class([1]) == {1: "1 of Shop"}
        assert place.outside_static([1]) == {1: "static 1"}
        assert place.inside_static([1]) == {1: "inside 1"}
        assert place.of_class.peek([1]) == {1: "1 of Shop"}


@pytest.mark.parametrize("options", [{"ignore": ["ids"]}, {"key": "price:{currency}"}])
def test_a_key_without_the_id_is_refused(options: dict[str, Any]) -> None:
    """All ids would share one entry, and each would be given another's value."""

    def prices(ids: list[int], currency: str = "EUR") -> dict[int, str]:
        return {each: f"{each} {currency}" for each in ids}

    with pytest.raises(ConfigurationError, match="all ids would share one entry"):
        Cache("memory:").batch(**options)(prices)
    assert Cache("memory:").batch(key="price:{ids}:{currency}")(prices)([1, 2]) == {1: "1 EUR", 2: "2 EUR"}


def test_an_id_that_cannot_be_hashed_says_so() -> None:
    """A dict is returned, so ids must be hashable."""

    @Cache("memory:").batch
    def load(ids: list[Any]) -> dict[Any, int]:
        return {}

    with pytest.raises(TypeError, match=r"load\(\) was given an id that can't be hashed \(list\)"):
        load([[1]])
