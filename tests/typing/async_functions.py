"""Types that survive the decorator on an ``async def``: functions, methods, batches, and their verbs.

Checked by mypy --strict and pyright (``make types``), never run; see ``functions.py``.
"""

# ruff: noqa: D102, D103
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, assert_type

from cachekit import (
    MISS,
    AsyncBatchFunction,
    AsyncCachedFunction,
    AsyncCall,
    Cache,
    CachedFunction,
    Explanation,
    Info,
    Key,
    Miss,
    Policy,
)

cache = Cache("memory:")


@cache
async def bare(user: int, *, month: str = "2026-11") -> list[str]:
    return [month] * user


@cache()
async def called(user: int, *, month: str = "2026-11") -> list[str]:
    return [month] * user


@cache(ttl="5m", key="{user}", ignore=("month",), codec="json", policy=Policy(group=True))
async def with_options(user: int, *, month: str = "2026-11") -> list[str]:
    return [month] * user


@cache
async def short(a: int) -> str:
    return str(a)


@cache
async def without_arguments() -> int:
    return 1


@cache(ttl="5m")
async def perhaps(n: int) -> str | None:
    return str(n) if n else None


@cache
def plain() -> str:
    return "no coroutine"


async def by_name(n: int) -> float:
    return n / 2


by_hand = cache(by_name)
by_hand_with_options = cache(ttl=60)(by_name)


async def every_form_keeps_the_signature() -> None:
    coming: Coroutine[Any, Any, str] = short(1)
    assert_type(await coming, str)
    assert_type(plain, CachedFunction[[], str])
    assert_type(await bare(1), list[str])
    assert_type(await bare(1, month="a"), list[str])
    assert_type(await called(1, month="a"), list[str])
    assert_type(await with_options(1, month="a"), list[str])
    assert_type(await without_arguments(), int)
    assert_type(await perhaps(1), str | None)
    assert_type(await by_hand(1), float)
    assert_type(await by_hand_with_options(1), float)
    assert_type(without_arguments, AsyncCachedFunction[[], int])
    assert_type(without_arguments.bind(), AsyncCall[int])


async def every_form_refuses_wrong_arguments() -> None:
    await bare("1")  # type: ignore[arg-type]
    await bare(1, month=2)  # type: ignore[arg-type]
    await bare(1, "2026-11")  # type: ignore[call-arg]
    await bare()  # type: ignore[call-arg]
    await bare(1, ttl=5)  # type: ignore[call-arg]
    await called("1")  # type: ignore[arg-type]
    await with_options("1")  # type: ignore[arg-type]
    await without_arguments(1)  # type: ignore[call-arg]
    await by_hand("1")  # type: ignore[arg-type]
    await by_hand_with_options("1")  # type: ignore[arg-type]


async def the_verbs_take_the_functions_arguments() -> None:
    assert_type(await bare.invalidate(1, month="a"), bool)
    assert_type(await bare.expire(1, month="a"), bool)
    assert_type(await bare.refresh(1, month="a"), list[str])
    assert_type(await bare.peek(1, month="a"), list[str] | Miss)
    assert_type(await bare.explain(1, month="a"), Explanation)
    assert_type(await bare.uncached(1, month="a"), list[str])
    assert_type(await bare.many([bare.bind(1), bare.bind(2, month="b")]), list[list[str]])
    assert_type(await bare.many(bare.bind(n) for n in range(3)), list[list[str]])
    assert_type(await bare.invalidate_all(), bool)
    assert_type(bare.key(1, month="a"), Key)
    assert_type(bare.bind(1, month="a"), AsyncCall[list[str]])
    assert_type(await bare.bind(1)(), list[str])
    assert_type(bare.bind(1).key, Key)
    assert_type(bare.info(), Info)


async def the_verbs_refuse_wrong_arguments() -> None:
    await bare.invalidate("1")  # type: ignore[arg-type]
    await bare.expire("1")  # type: ignore[arg-type]
    await bare.refresh("1")  # type: ignore[arg-type]
    await bare.peek("1")  # type: ignore[arg-type]
    await bare.explain("1")  # type: ignore[arg-type]
    await bare.uncached("1")  # type: ignore[arg-type]
    await bare.many([perhaps.bind(1)])  # type: ignore[list-item]
    await bare.many([1])  # type: ignore[list-item]
    await bare.invalidate_all(1)  # type: ignore[call-arg]
    bare.key("1")  # type: ignore[arg-type]
    bare.bind("1")  # type: ignore[arg-type]
    bare.bind()  # type: ignore[call-arg]


async def a_miss_is_told_apart() -> None:
    found = await bare.peek(1)
    if found is not MISS:
        assert_type(found, list[str])
    else:
        assert_type(found, Miss)


async def a_cached_function_is_a_callable() -> None:
    wants: Callable[[int], Awaitable[list[str]]] = bare
    assert_type(await wants(1), list[str])
    refuses: Callable[[str], Awaitable[list[str]]] = bare  # type: ignore[assignment]
    await refuses("1")
    blocking: Callable[[int], list[str]] = bare  # type: ignore[assignment]
    blocking(1)


@dataclass(frozen=True)
class Shop:
    name: str

    @cache
    async def price(self, item: int, *, currency: str = "EUR") -> str:
        return f"{item} {currency} at {self.name}"

    @cache(ttl="5m")
    async def stock(self, item: int) -> list[int]:
        return [item]

    @cache
    @classmethod
    async def outer_class(cls, item: int) -> str:
        return str(item)

    @classmethod
    @cache
    async def inner_class(cls, item: int) -> str:
        return str(item)

    @cache(ttl=60)
    @classmethod
    async def outer_class_with_options(cls, item: int) -> str:
        return str(item)

    @classmethod
    @cache(ttl=60)
    async def inner_class_with_options(cls, item: int) -> str:
        return str(item)

    @cache
    @staticmethod
    async def outer_static(item: int) -> str:
        return str(item)

    @staticmethod
    @cache
    async def inner_static(item: int) -> str:
        return str(item)

    @cache.batch
    async def prices(self, skus: list[str], *, currency: str = "EUR") -> dict[str, float]:
        return dict.fromkeys(skus, 1.5)


async def methods(shop: Shop) -> None:
    assert_type(await shop.price(1, currency="CHF"), str)
    assert_type(await Shop.price(shop, 1), str)
    assert_type(await shop.stock(1), list[int])
    assert_type(await shop.price.peek(1), str | Miss)
    assert_type(await shop.price.refresh(1), str)
    assert_type(await shop.price.invalidate(1, currency="CHF"), bool)
    assert_type(await shop.price.expire(1), bool)
    assert_type(await shop.price.explain(1), Explanation)
    assert_type(await shop.price.many([shop.price.bind(1)]), list[str])
    assert_type(await shop.price.invalidate_all(), bool)
    assert_type(await shop.price.uncached(1), str)
    assert_type(shop.price.bind(1), AsyncCall[str])
    assert_type(shop.price.key(1), Key)
    assert_type(shop.price.info(), Info)
    await shop.price("1")  # type: ignore[arg-type]
    await shop.price()  # type: ignore[call-arg]
    await shop.price.peek("1")  # type: ignore[arg-type]
    await shop.price.invalidate("1")  # type: ignore[arg-type]
    await shop.price.many([shop.stock.bind(1)])  # type: ignore[list-item]


async def classmethods_and_staticmethods_in_either_order(shop: Shop) -> None:
    assert_type(await Shop.outer_class(1), str)
    assert_type(await shop.outer_class(1), str)
    assert_type(await Shop.inner_class(1), str)
    assert_type(await shop.inner_class(1), str)
    assert_type(await Shop.outer_class_with_options(1), str)
    assert_type(await Shop.inner_class_with_options(1), str)
    assert_type(await Shop.outer_class.peek(1), str | Miss)
    assert_type(await Shop.inner_class.invalidate(1), bool)
    assert_type(await Shop.outer_static(1), str)
    assert_type(await Shop.inner_static(1), str)
    assert_type(await Shop.outer_static.refresh(1), str)
    assert_type(await Shop.inner_static.peek(1), str | Miss)
    await Shop.outer_class("1")  # type: ignore[arg-type]
    await Shop.inner_class("1")  # type: ignore[arg-type]
    await Shop.outer_static("1")  # type: ignore[arg-type]
    await Shop.inner_static("1")  # type: ignore[arg-type]


@cache.batch
async def users(ids: list[int]) -> dict[int, str]:
    return dict.fromkeys(ids, "name")


@cache.batch(ttl="5m", absent_ttl=10)
async def stocks(skus: Iterable[str], shop: str, *, day: int = 0) -> Mapping[str, float]:
    return dict.fromkeys(skus, 1.5)


async def batches(shop: Shop) -> None:
    assert_type(users, AsyncBatchFunction[int, str, []])
    coming: Coroutine[Any, Any, dict[int, str]] = users([1, 2])
    assert_type(await coming, dict[int, str])
    assert_type(await users({1, 2}), dict[int, str])
    assert_type(await stocks(["a"], "corner", day=3), dict[str, float])
    assert_type(await users.list([1, 2]), list[str | None])
    assert_type(await users.list([1], default=0), list[str | int])
    assert_type(await users.refresh([1]), dict[int, str])
    assert_type(await users.peek([1]), dict[int, str])
    assert_type(await users.invalidate([1]), bool)
    assert_type(await users.expire([1]), bool)
    assert_type(await users.explain(1), Explanation)
    assert_type(await users.invalidate_all(), bool)
    assert_type(await users.uncached([1]), Mapping[int, str])
    assert_type(users.key(1), Key)
    assert_type(users.info(), Info)
    assert_type(await shop.prices(["a"], currency="CHF"), dict[str, float])
    assert_type(await shop.prices.list(["a"]), list[float | None])
    await users(["1"])  # type: ignore[list-item]
    await users(1)  # type: ignore[arg-type]
    await stocks(["a"])  # type: ignore[call-arg]
    await stocks.invalidate(["a"], 1)  # type: ignore[arg-type]
    await users.explain("a")  # type: ignore[arg-type]
    await shop.prices([1])  # type: ignore[list-item]


def what_is_no_loader_is_refused() -> None:
    async def one(user: int) -> str:
        return str(user)

    async def lists(ids: list[int]) -> list[str]:
        return [str(each) for each in ids]

    cache.batch(one)  # type: ignore[arg-type]
    cache.batch(lists)  # type: ignore[arg-type]


async def several_at_once() -> None:
    """Calls of different functions keep their own types beside one another."""

    @cache
    async def number(n: int) -> int:
        return n

    @cache
    async def text(n: int) -> str:
        return str(n)

    assert_type(await asyncio.gather(number(1), text(2)), tuple[int, str])
    assert_type(await cache.aio.get_or_set("k", lambda: number(1)), int)
    assert_type(await number.bind(1), int)
    assert_type(await number.bind(1)(), int)
