"""A function of which nobody says what it returns is not taken for an async one.

Checked by pyright only: where several overloads match since a type is Any, mypy answers with Any.
"""

# ruff: noqa: D102, D103
# pyright: reportUnnecessaryTypeIgnoreComment=true
# mypy: ignore-errors

from __future__ import annotations

from typing import Any, assert_type

from cachekit import AsyncCachedFunction, BatchFunction, Cache, CachedFunction

cache = Cache("memory:")


@cache
def anything() -> Any:
    return 1


@cache(ttl="5m")
def with_options() -> Any:
    return 1


@cache
async def awaited() -> Any:
    return 1


@cache.batch
def rows(ids: list[int]) -> Any:
    return {}


class Shop:
    @cache
    @staticmethod
    def static(item: int) -> Any:
        return item

    @cache
    @classmethod
    def of_class(cls, item: int) -> Any:
        return item


assert_type(anything, CachedFunction[[], Any])
assert_type(with_options, CachedFunction[[], Any])
assert_type(awaited, AsyncCachedFunction[[], Any])
assert_type(rows, BatchFunction[int, Any, []])
assert_type(Shop.static.invalidate(1), bool)
assert_type(Shop().of_class.invalidate(1), bool)
Shop.static("1")  # pyright: ignore[reportArgumentType]
Shop.of_class("1")  # pyright: ignore[reportArgumentType]
