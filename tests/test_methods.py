"""A cached function is still a function to its tools, and a method to its class."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from cachekit import MISS, Cache, UnkeyableError

# -- being a function -------------------------------------------------------------------------------------------------

shared = Cache("memory:", prefix="shared")


@shared(ttl=60)
def documented(a: int, b: str = "x", *rest: int, c: float = 1.5, **more: str) -> list[int]:
    """What it does."""
    return [a, *rest]


class Shop:
    """Methods in every order of the decorators."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __cache_key__(self) -> str:
        return self.name

    @shared
    def method(self, n: int) -> str:
        """Bound to an object."""
        return f"{self.name}{n}"

    @shared
    @classmethod
    def outside_class(cls, n: int) -> str:
        """The decorator outside."""
        return f"{cls.__name__}{n}"

    @shared
    @staticmethod
    def outside_static(n: int) -> str:
        """The decorator outside."""
        return f"static{n}"

    @staticmethod
    @shared
    def inside_static(n: int) -> str:
        """The decorator inside."""
        return f"inside{n}"

    @classmethod
    @shared
    def inside_class(cls, n: int) -> str:
        """The decorator inside."""
        return f"{cls.__name__}{n}"


class Branch(Shop):
    pass


def test_a_cached_function_stays_a_function_to_its_tools() -> None:
    """Name, doc, module, signature and annotations are the function's."""
    assert documented.__name__ == "documented"
    assert documented.__doc__ == "What it does."
    assert documented.__module__ == __name__
    assert str(inspect.signature(documented)) == str(inspect.signature(documented.uncached))
    assert inspect.signature(Shop("a").method).parameters.keys() == {"n"}
    assert callable(documented)
    assert "documented" in repr(documented)
    assert inspect.unwrap(documented) is documented.uncached


def test_it_pickles_and_copies_by_reference() -> None:
    """Functions, methods and calls go through pickle and copy as references, as plain functions do."""
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(documented, protocol)) is documented
        assert pickle.loads(pickle.dumps(Shop.method, protocol)) is Shop.method
        assert pickle.loads(pickle.dumps(Shop.outside_static, protocol)) is Shop.outside_static
        assert pickle.loads(pickle.dumps(Branch.outside_class, protocol))(1) == "Branch1"
        assert pickle.loads(pickle.dumps(Shop("b").method, protocol))(1) == "b1"
        assert pickle.loads(pickle.dumps(documented.bind(1), protocol))() == [1]
    assert copy.copy(documented) is documented
    assert copy.deepcopy({"f": documented})["f"] is documented
    assert copy.deepcopy(Shop("c").method)(2) == "c2"


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
        (lambda: Branch("a").inside_static, "inside1"),
    ],
)
def test_methods_have_every_verb(get: Callable[[], Any], result: str) -> None:
    """Methods, class methods and static methods, from class and instance: the verbs stand on them all alike."""
    method = get()
    method.invalidate(1)
    assert method.peek(1) is MISS
    before = method.info().hits
    assert [method(1), get()(1), method(n=1)] == [result] * 3
    assert method.info().hits == before + 2
    assert method.peek(1) == result
    assert method.explain(1).state == "fresh"
    assert method.refresh(1) == result
    assert method.uncached(1) == result
    assert method.many([method.bind(1), method.bind(n=2)]) == [result, result[:-1] + "2"]
    assert method.key(1) == get().key(1) != method.key(2)
    assert method.invalidate(1)
    assert method.peek(1) is MISS
    method(1)
    assert method.invalidate_all()
    assert method.peek(1) is MISS


def test_classmethod_around_the_cached_function() -> None:
    """@classmethod outside of @cache: calls are cached, a class apart from its subclass."""
    assert [Shop.inside_class(1), Shop.inside_class(1), Branch.inside_class(1)] == ["Shop1", "Shop1", "Branch1"]
    assert Shop("a").inside_class(1) == "Shop1"


def test_objects_of_one_class_are_told_apart() -> None:
    """Two objects share an entry if and only if their __cache_key__ is the same."""
    assert Shop("x").method.key(1) == Shop("x").method.key(1)
    assert Shop("x").method.key(1) != Shop("y").method.key(1)
    assert Shop("x").method == Shop("x").method or Shop("x").method.key(1) == Shop("x").method.key(1)
    with pytest.raises(UnkeyableError, match="self"):
        _without_identity().method(1)


def _without_identity() -> Any:
    class Anonymous:
        @shared
        def method(self, n: int) -> int:
            return n

    return Anonymous()
