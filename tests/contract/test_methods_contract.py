"""What cached methods promise, whatever the servers are and whoever calls."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from support.targets import Make

from cachekit import MISS, Cache, UnkeyableError


@pytest.fixture
def cache(make: Make) -> Cache:
    """A cache in each shell, on each kind of servers."""
    return make()


@pytest.fixture
def shop(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A class with methods of every kind, in every order of the decorators; and its subclass ``Branch``."""

    class Shop:
        __qualname__ = "Shop"  # what has no name of its own, as this would not inside a function, can't be keyed

        def __init__(self, name: str) -> None:
            self.name = name

        def __cache_key__(self) -> str:
            return self.name

        @cache
        def method(self, n: int) -> str:
            return f"{self.name}{n}"

        @cache
        @classmethod
        def outside_class(cls, n: int) -> str:
            return f"{cls.__name__}{n}"

        @cache
        @staticmethod
        def outside_static(n: int) -> str:
            return f"static{n}"

        @staticmethod
        @cache
        def inside_static(n: int) -> str:
            return f"inside{n}"

        @cache.batch
        def prices(self, ids: list[int], currency: str = "EUR") -> dict[int, str]:
            return {each: f"{each} {currency} at {self.name}" for each in ids}

    class Branch(Shop):
        __qualname__ = "Branch"

    for made in (Shop, Branch):
        monkeypatch.setattr(sys.modules[__name__], made.__name__, made, raising=False)
    return Shop


@pytest.mark.parametrize(
    ("name", "result"),
    [("method", "a1"), ("outside_class", "Shop1"), ("outside_static", "static1"), ("inside_static", "inside1")],
)
def test_methods_have_every_verb(shop: Any, name: str, result: str) -> None:
    """Methods, class methods and static methods: the verbs stand on them all alike."""
    method = getattr(shop("a"), name)
    assert method.peek(1) is MISS
    assert [method(1), method(1), method(n=1)] == [result] * 3
    assert method.info().hits == 2
    assert method.peek(1) == result
    assert method.explain(1).state == "fresh"
    assert method.refresh(1) == result
    assert method.uncached(1) == result
    assert method.many([method.bind(1), method.bind(n=2)]) == [result, result[:-1] + "2"]
    assert method.key(1) != method.key(2)
    assert method.expire(1)
    assert method.invalidate(1)
    assert method.peek(1) is MISS
    method(1)
    assert method.invalidate_all()
    assert method.peek(1) is MISS


def test_from_the_class_and_from_an_object(shop: Any) -> None:
    """A class method and a static method are the same from both; a subclass has entries of its own."""
    branch: Any = shop.__subclasses__()[-1]
    for place in (shop, shop("a")):
        assert (place.outside_class(1), place.outside_static(1)) == ("Shop1", "static1")
        assert place.inside_static(1) == "inside1"
    assert shop.outside_class.info().fills == 1
    assert [branch.outside_class(1), branch("b").outside_class(1)] == ["Branch1", "Branch1"]
    assert branch("b").method(1) == "b1"
    assert shop.outside_class.info().fills == 2


def test_objects_of_one_identity_share(shop: Any, cache: Cache) -> None:
    """Two objects share an entry if and only if their __cache_key__ is the same; one without is refused."""
    one, same, other = shop("one"), shop("one"), shop("other")
    assert [one.method(1), same.method(1), other.method(1), shop.method(one, 1)] == ["one1", "one1", "other1", "one1"]
    assert (one.method.info().fills, one.method.info().hits) == (2, 2)
    assert one.method.key(1) == same.method.key(1) != other.method.key(1)
    assert one.method == one.method != other.method

    class Anonymous:
        @cache
        def method(self, n: int) -> int:
            return n

    with pytest.raises(UnkeyableError, match="self"):
        Anonymous().method(1)


def test_a_batch_may_be_a_method(shop: Any) -> None:
    """The object is a part of each key, and the verbs know it."""
    one, same, other = shop("one"), shop("one"), shop("other")
    assert one.prices([1, 2]) == {1: "1 EUR at one", 2: "2 EUR at one"}
    assert other.prices([1]) == {1: "1 EUR at other"}
    assert same.prices.peek([1, 2, 3]) == one.prices([1, 2])
    assert one.prices.key(1) == shop.prices.key(same, 1) != other.prices.key(1)
    assert one.prices.list([2, 1], "EUR") == ["2 EUR at one", "1 EUR at one"]
    assert one.prices.invalidate([1])
    assert (same.prices.peek([1]), other.prices.peek([1])) == ({}, {1: "1 EUR at other"})
    assert one.prices.uncached([7]) == {7: "7 EUR at one"}
    assert shop.prices.invalidate_all()
    assert (one.prices.peek([2]), other.prices.peek([1])) == ({}, {})
