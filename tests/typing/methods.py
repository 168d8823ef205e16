"""Types that survive the decorator: methods, and classmethods and staticmethods in either order.

Checked by mypy --strict and pyright (``make types``), never run; see ``functions.py``.
"""

# ruff: noqa: D102, D103
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_type

from cachekit import Cache, Call, Info, Key, Miss

cache = Cache("memory:")


@dataclass(frozen=True)
class Shop:
    name: str

    @cache
    def price(self, item: int, *, currency: str = "EUR") -> str:
        return f"{item} {currency} at {self.name}"

    @cache(ttl="5m")
    def stock(self, item: int, *, size: str = "M") -> list[int]:
        return [item, len(size)]

    @cache
    def address(self) -> bytes:
        return self.name.encode()

    @cache
    @classmethod
    def outer_class(cls, item: int, *, currency: str = "EUR") -> str:
        return f"{item} {currency}"

    @classmethod
    @cache
    def inner_class(cls, item: int, *, currency: str = "EUR") -> str:
        return f"{item} {currency}"

    @cache(ttl=60)
    @classmethod
    def outer_class_with_options(cls, item: int) -> str:
        return str(item)

    @classmethod
    @cache(ttl=60)
    def inner_class_with_options(cls, item: int) -> str:
        return str(item)

    @cache
    @staticmethod
    def outer_static(item: int, *, currency: str = "EUR") -> str:
        return f"{item} {currency}"

    @staticmethod
    @cache
    def inner_static(item: int, *, currency: str = "EUR") -> str:
        return f"{item} {currency}"

    @cache(ttl=60)
    @staticmethod
    def outer_static_with_options(item: int) -> str:
        return str(item)

    @staticmethod
    @cache(ttl=60)
    def inner_static_with_options(item: int) -> str:
        return str(item)


class Branch(Shop):
    pass


shop = Shop("corner")


def methods_lose_self_and_nothing_else() -> None:
    assert_type(shop.price(1, currency="CHF"), str)
    assert_type(shop.stock(1, size="L"), list[int])
    assert_type(shop.address(), bytes)
    assert_type(Shop.price(shop, 1, currency="CHF"), str)
    assert_type(Shop.price.key(shop, 1), Key)
    assert_type(Shop.price.invalidate(shop, 1), bool)
    assert_type(Branch("b").price(1), str)
    shop.price("1")  # type: ignore[arg-type]
    shop.price(1, currency=2)  # type: ignore[arg-type]
    shop.price(1, "CHF")  # type: ignore[call-arg]
    shop.price()  # type: ignore[call-arg]
    shop.price(shop, 1)  # type: ignore[call-arg, arg-type]
    shop.stock("1")  # type: ignore[arg-type]
    shop.address(1)  # type: ignore[call-arg]
    Shop.price(1)  # type: ignore[call-arg, arg-type]
    Shop.price("shop", 1)  # type: ignore[arg-type]


def the_verbs_of_methods() -> None:
    assert_type(shop.price.invalidate(1, currency="CHF"), bool)
    assert_type(shop.price.refresh(1), str)
    assert_type(shop.price.peek(1), str | Miss)
    assert_type(shop.price.key(1), Key)
    assert_type(shop.price.bind(1), Call[str])
    assert_type(shop.price.many([shop.price.bind(1)]), list[str])
    assert_type(shop.price.uncached(1), str)
    assert_type(shop.price.info(), Info)
    assert_type(shop.price.invalidate_all(), bool)
    shop.price.invalidate("1")  # type: ignore[arg-type]
    shop.price.refresh("1")  # type: ignore[arg-type]
    shop.price.peek("1")  # type: ignore[arg-type]
    shop.price.key("1")  # type: ignore[arg-type]
    shop.price.bind("1")  # type: ignore[arg-type]
    shop.price.uncached("1")  # type: ignore[arg-type]
    shop.price.many([shop.stock.bind(1)])  # type: ignore[list-item]


def classmethods_in_either_order() -> None:
    assert_type(Shop.outer_class(1, currency="CHF"), str)
    assert_type(shop.outer_class(1, currency="CHF"), str)
    assert_type(Branch.outer_class(1), str)
    assert_type(Shop.inner_class(1, currency="CHF"), str)
    assert_type(shop.inner_class(1, currency="CHF"), str)
    assert_type(Branch.inner_class(1), str)
    assert_type(Shop.outer_class_with_options(1), str)
    assert_type(Shop.inner_class_with_options(1), str)
    assert_type(Shop.outer_class.key(1), Key)
    assert_type(Shop.inner_class.key(1), Key)
    assert_type(Shop.outer_class.many([Shop.outer_class.bind(1)]), list[str])
    assert_type(Shop.inner_class.peek(1), str | Miss)
    Shop.outer_class("1")  # type: ignore[arg-type]
    Shop.inner_class("1")  # type: ignore[arg-type]
    shop.outer_class(1, currency=2)  # type: ignore[arg-type]
    shop.inner_class(1, currency=2)  # type: ignore[arg-type]
    Shop.outer_class_with_options("1")  # type: ignore[arg-type]
    Shop.inner_class_with_options("1")  # type: ignore[arg-type]
    Shop.outer_class.key("1")  # type: ignore[arg-type]
    Shop.inner_class.key("1")  # type: ignore[arg-type]


def staticmethods_in_either_order() -> None:
    assert_type(Shop.outer_static(1, currency="CHF"), str)
    assert_type(Shop.inner_static(1, currency="CHF"), str)
    assert_type(Shop.outer_static_with_options(1), str)
    assert_type(Shop.inner_static_with_options(1), str)
    assert_type(Shop.outer_static.key(1), Key)
    assert_type(Shop.inner_static.key(1), Key)
    assert_type(Shop.outer_static.invalidate(1), bool)
    Shop.outer_static("1")  # type: ignore[arg-type]
    Shop.inner_static("1")  # type: ignore[arg-type]
    Shop.outer_static.key("1")  # type: ignore[arg-type]
    Shop.inner_static.key("1")  # type: ignore[arg-type]
