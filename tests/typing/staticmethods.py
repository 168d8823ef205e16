"""A cached staticmethod that is reached through an instance keeps all its parameters.

Checked by pyright only. mypy takes the first parameter of anything with a ``__get__`` for ``self``: it drops a
``@staticmethod`` before it looks at the decorators, and does not compare a ParamSpec with the annotation of ``self``.
Under mypy, call it through the class; ``methods.py`` holds that.
"""

# ruff: noqa: D102
# pyright: reportUnnecessaryTypeIgnoreComment=true
# mypy: ignore-errors

from __future__ import annotations

from typing import assert_type

from cachekit import Cache, Key

cache = Cache("memory:")


class Shop:
    @cache
    @staticmethod
    def outer(item: int, *, currency: str = "EUR") -> str:
        return f"{item} {currency}"

    @staticmethod
    @cache
    def inner(item: int, *, currency: str = "EUR") -> str:
        return f"{item} {currency}"

    @staticmethod
    @cache(ttl=60)
    def with_options(item: int) -> str:
        return str(item)


shop = Shop()

assert_type(shop.outer(1, currency="CHF"), str)
assert_type(shop.inner(1, currency="CHF"), str)
assert_type(shop.with_options(1), str)
assert_type(shop.outer.key(1), Key)
assert_type(shop.inner.key(1), Key)
shop.outer("1")  # pyright: ignore[reportArgumentType]
shop.inner("1")  # pyright: ignore[reportArgumentType]
shop.outer.key("1")  # pyright: ignore[reportArgumentType]
shop.inner.key("1")  # pyright: ignore[reportArgumentType]
