"""Caches with functions of each kind, for the tests of writers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cachekit import MISS, Cache
from cachekit.hooks import Invalidate


class Shop:
    """A cache, a database that is a dict, and what reads it."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.rows = {1: "old", 2: "old"}
        rows = self.rows
        self.told: list[Invalidate] = []
        cache.hooks.on_invalidate(self.told.append)

        @cache(ttl="1h", stale="1h", tags=["row:{number}"], namespace="shop")
        def row(number: int) -> str:
            return rows[number]

        @cache(ttl="1h", tags=["row:{number}"], namespace="shop")
        async def row_later(number: int) -> str:
            return rows[number]

        @cache.batch(ttl="1h")
        def many(numbers: list[int]) -> dict[int, str]:
            return {number: rows[number] for number in numbers}

        self.row, self.row_later, self.many = row, row_later, many


@dataclass(frozen=True)
class Account:
    """An object with an identity."""

    number: int


class Reports:
    """Cached functions of each kind, all filled by ``warm``."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.runs: list[str] = []
        runs = self.runs

        @cache(ttl="1h", tags=["user:{user_id}"], namespace="reports")
        def report(user_id: int, *, month: str = "may") -> str:
            runs.append("report")
            return f"{user_id} {month}"

        @cache(ttl="1h")
        def other(user_id: int) -> int:
            return user_id

        @cache(ttl="1h")
        async def later(user_id: int) -> int:
            return user_id

        @cache.batch(ttl="1h")
        def names(ids: list[int]) -> dict[int, str]:
            return {each: f"user {each}" for each in ids}

        self.report, self.other, self.later, self.names = report, other, later, names

    def warm(self) -> None:
        """Fill the entries of users 1 and 2."""
        for user_id in (1, 2):
            self.report(user_id)
            self.report(user_id, month="june")
            self.other(user_id)
            self.names([user_id])

    def left(self) -> set[str]:
        """Which entries there are."""
        found = {
            "report 1": self.report.peek(1),
            "june 1": self.report.peek(1, month="june"),
            "report 2": self.report.peek(2),
            "other 1": self.other.peek(1),
            "other 2": self.other.peek(2),
            "name 1": self.names.peek([1]) or MISS,
            "name 2": self.names.peek([2]) or MISS,
        }
        return {name for name, value in found.items() if value is not MISS}


ALL = {"report 1", "june 1", "report 2", "other 1", "other 2", "name 1", "name 2"}


def gone(shop: Reports, writer: Callable[..., Any], *args: Any, **kwargs: Any) -> set[str]:
    """What a call of the writer makes void."""
    writer(*args, **kwargs)
    return ALL - shop.left()


def write(user_id: int, amount: int = 0) -> None:
    """Writes."""
