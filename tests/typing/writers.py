"""Types of writers: what ``invalidates`` and ``transaction`` decorate stays what it was.

Checked as functions.py is.
"""

# ruff: noqa: D103
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, assert_type

from sqlalchemy.orm import Session, sessionmaker

from cachekit import Cache
from cachekit.integrations.django import transaction
from cachekit.integrations.sqlalchemy import invalidate_on_commit

cache = Cache("memory:")


@cache
def report(user_id: int) -> str:
    return str(user_id)


@cache
async def later(user_id: int) -> str:
    return str(user_id)


@cache.batch
def names(ids: list[int]) -> dict[int, str]:
    return dict.fromkeys(ids, "")


@cache.invalidates(report, later, names, args=lambda user_id, **_: (user_id,), tags=["user:{user_id}"])
def rename(user_id: int, *, name: str = "") -> list[str]:
    return [name] * user_id


@cache.invalidates(tags=lambda user_id: [f"user:{user_id}"], namespace="reports")
async def rename_later(user_id: int) -> bytes:
    return b"" * user_id


class Ledger:
    """Writers that are methods."""

    @cache.invalidates(report)
    def deposit(self, amount: int) -> float:
        """Writes."""
        return amount / 2

    @classmethod
    @cache.invalidates(report)
    def close(cls, year: int) -> int:
        """Writes."""
        return year

    @staticmethod
    @cache.invalidates(report)
    def reset(year: int) -> str:
        """Writes."""
        return str(year)


@cache.transaction()
def together(n: int) -> float:
    return n / 2


@transaction(cache, using="default")
def view(request: str) -> bytes:
    return request.encode()


def check_writers() -> None:
    assert_type(rename(1, name="Ada"), list[str])
    rename("1")  # type: ignore[arg-type]
    rename(1, "Ada")  # type: ignore[call-arg]
    assert_type(Ledger().deposit(1), float)
    assert_type(Ledger.close(2026), int)
    assert_type(Ledger.reset(2026), str)
    assert_type(together(3), float)
    assert_type(view("x"), bytes)
    together("3")  # type: ignore[arg-type]


async def check_async() -> None:
    assert_type(await rename_later(1), bytes)
    keep: Callable[[int], Coroutine[Any, Any, bytes]] = rename_later
    assert_type(await keep(1), bytes)
    async with cache.transaction() as block:
        assert_type(block.acknowledged, bool | None)


def check_blocks() -> None:
    with cache.transaction(on_commit=lambda send: send()) as block:
        assert_type(block.acknowledged, bool | None)
    cache.invalidates(report, args=(1,))  # type: ignore[arg-type]
    cache.invalidates(report, tag="x")  # type: ignore[call-arg]
    cache.transaction(report)  # type: ignore[arg-type]


def check_sessions() -> None:
    assert_type(invalidate_on_commit(sessionmaker(), cache), sessionmaker[Session])
    invalidate_on_commit(sessionmaker(), cache, tags=["user"])  # type: ignore[arg-type]
