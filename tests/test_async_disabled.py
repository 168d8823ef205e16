"""``disabled()`` and tasks: it holds in the tasks that are begun inside, until its end."""

from __future__ import annotations

import asyncio
import logging

import pytest

from cachekit import Cache


def test_a_task_that_outlives_the_block_is_cached_again() -> None:
    """Also while somebody else is inside a block of his own."""

    async def main() -> None:
        cache, inside, go_on = Cache("memory:"), list[bool](), asyncio.Event()

        async def begun_inside() -> None:
            inside.append(cache.is_disabled())
            await go_on.wait()
            inside.append(cache.is_disabled())

        async def somebody_else() -> None:
            with cache.disabled():
                go_on.set()
                await task

        with cache.disabled():
            task = asyncio.create_task(begun_inside())
            await asyncio.sleep(0)
        await asyncio.create_task(somebody_else())
        assert inside == [True, False]

    asyncio.run(main())


def test_a_coroutine_as_a_result_is_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    """A plain function that returns a coroutine can't be cached; the warning says what can."""
    cache = Cache("memory:")

    async def compute() -> int:
        return 42

    with caplog.at_level(logging.WARNING, "cachekit"):
        assert asyncio.run(cache.get_or_set("k", compute)) == 42
    assert "await cache.aio.get_or_set()" in caplog.text
