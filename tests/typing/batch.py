"""Types that survive ``@cache.batch``: ids, values, and the further parameters.

Checked by mypy --strict and pyright (``make types``), never run; see ``functions.py``.
"""

# ruff: noqa: D102, D103
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_type

from cachekit import Cache, Explanation, Info, Key, Policy

cache = Cache("memory:")


@dataclass(frozen=True)
class User:
    name: str


@cache.batch
def users(ids: list[int]) -> dict[int, User]:
    return {each: User(str(each)) for each in ids}


@cache.batch()
def called(ids: Iterable[int]) -> Mapping[int, User]:
    return {each: User(str(each)) for each in ids}


@cache.batch(ttl="5m", absent_ttl=10, stale="1h", key="{ids}", codec="json", policy=Policy(group=True))
def with_options(ids: Sequence[str]) -> dict[str, float]:
    return dict.fromkeys(ids, 1.5)


@cache.batch
def prices(skus: list[str], currency: str, *, day: int = 0) -> dict[str, float]:
    return dict.fromkeys(skus, 1.5)


def a_call_gives_a_dict() -> None:
    assert_type(users([1, 2]), dict[int, User])
    assert_type(users({1, 2}), dict[int, User])
    assert_type(users(each for each in [1, 2]), dict[int, User])
    assert_type(called([1]), dict[int, User])
    assert_type(with_options(["a"]), dict[str, float])
    assert_type(prices(["a"], "EUR", day=3), dict[str, float])
    users(["1"])  # type: ignore[list-item]
    users(1)  # type: ignore[arg-type]
    prices(["a"])  # type: ignore[call-arg]
    prices(["a"], 1)  # type: ignore[arg-type]


def a_row_is_a_list() -> None:
    assert_type(users.list([1, 2]), list[User | None])
    assert_type(prices.list(["a"], "EUR"), list[float | None])
    assert_type(users.list([1], default=0), list[User | int])


def verbs_take_the_same() -> None:
    assert_type(users.key(1), Key)
    assert_type(users.explain(1), Explanation)
    assert_type(users.invalidate([1]), bool)
    assert_type(users.expire([1]), bool)
    assert_type(users.refresh([1]), dict[int, User])
    assert_type(users.peek([1]), dict[int, User])
    assert_type(users.invalidate_all(), bool)
    assert_type(users.info(), Info)
    assert_type(users.uncached([1]), Mapping[int, User])
    prices.invalidate(["a"], 1)  # type: ignore[arg-type]
    prices.key("a")  # type: ignore[call-arg]
    users.key("a")  # type: ignore[arg-type]


@dataclass(frozen=True)
class Shop:
    name: str

    @cache.batch
    def prices(self, skus: list[str], *, currency: str = "EUR") -> dict[str, float]:
        return dict.fromkeys(skus, 1.5)

    @cache.batch(ttl=60)
    def stock(self, skus: Iterable[str]) -> dict[str, int]:
        return dict.fromkeys(skus, 1)

    @staticmethod
    @cache.batch
    def rates(currencies: list[str]) -> dict[str, float]:
        return dict.fromkeys(currencies, 1.5)


def methods(shop: Shop) -> None:
    assert_type(shop.prices(["a"], currency="CHF"), dict[str, float])
    assert_type(shop.stock(["a"]), dict[str, int])
    assert_type(shop.prices.list(["a"]), list[float | None])
    assert_type(shop.prices.invalidate(["a"], currency="CHF"), bool)
    assert_type(Shop.prices.invalidate_all(), bool)
    assert_type(Shop.rates(["EUR"]), dict[str, float])
    shop.prices([1])  # type: ignore[list-item]


def what_is_no_loader_is_refused() -> None:
    def one(user: int) -> str:
        return str(user)

    def lists(ids: list[int]) -> list[str]:
        return [str(each) for each in ids]

    cache.batch(one)  # type: ignore[arg-type]
    cache.batch(lists)  # type: ignore[arg-type]
    cache.batch(soft="1s")  # type: ignore[call-overload]


def unannotated(value: Any) -> None:
    assert_type(cache.batch(ttl=5)(users.uncached)([1]), dict[int, User])
