"""No call leaves reference cycles behind. What they hold would wait for the collector; and a hundred thousand calls a
second make it look through everything that a program has loaded, for a third of a second in each process of a fleet.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from support.memcached import Memcached
from support.targets import own_prefix, url_of

from cachekit import Cache, Policy

CALLS = 20


async def garbage_of(call: Callable[[int], Awaitable[object]]) -> int:
    """How many objects ``CALLS`` calls leave to the collector, once all that they began has ended."""
    await call(0)
    await asyncio.sleep(0.05)
    gc.collect()
    gc.disable()
    try:
        for n in range(1, CALLS + 1):
            await call(n)
        await asyncio.sleep(0.05)  # background runs end, and timers of the loop
        return gc.collect()
    finally:
        gc.enable()


def the_calls(cache: Cache) -> dict[str, Callable[[int], Awaitable[object]]]:
    """Each way that a call may take."""

    @cache(stale=60, refresh="background")
    async def square(n: int) -> int:
        return n * n

    @cache
    async def fails(n: int) -> int:
        raise LookupError(n)

    async def failing(n: int) -> None:
        with suppress(LookupError):
            await fails(n)

    async def due(n: int) -> None:
        await square.expire(0)
        await square(0)

    async def cancelled(n: int) -> None:
        task = asyncio.create_task(square(1000 + n))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def crowd(n: int) -> list[int]:
        return await asyncio.gather(*(square(2000 + n) for _ in range(4)))

    return {
        "miss": lambda n: square(3000 + n),
        "hit": lambda n: square(0),
        "due": due,
        "failing": failing,
        "cancelled": cancelled,
        "crowd": crowd,
        "many": lambda n: square.many([square.bind(4000 + 2 * n), square.bind(4001 + 2 * n)]),
        "invalidate": lambda n: square.invalidate(n),
        "peek": lambda n: square.peek(n),
        "get": lambda n: cache.aio.get("k"),
        "set": lambda n: cache.aio.set("k", n),
        "get_many": lambda n: cache.aio.get_many(["k", "l"]),
    }


@pytest.mark.parametrize("place", ["embedded", "memcached"])
@pytest.mark.parametrize("kind", list(the_calls(Cache("memory:"))))
def test_a_call_leaves_nothing_to_the_collector(place: str, kind: str, server: Memcached) -> None:
    """Whatever it was: it is cleared away when it has ended."""
    url = "memory:" if place == "embedded" else f"{url_of(server)}?deadline=5s"

    async def main() -> int:
        async with Cache(url, prefix=own_prefix(), policy=Policy(lease=60)) as cache:
            calls: Any = the_calls(cache)
            await calls["hit"](0)
            return await garbage_of(calls[kind])

    assert asyncio.run(main()) < CALLS, "less than one object a call"
