"""Cached calls that just run inside another one's run, their cache being off: nothing tells what those stand under, so
the outer result is not stored.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from support.shells import THREADS, only
from support.targets import Make

from cachekit import MISS, Cache, Policy


@pytest.fixture
def cache(make: Make) -> Cache:
    """A cache in each shell, on each kind of servers."""
    return make()


def disabled(cache: Cache) -> AbstractContextManager[Any]:
    """A block in which the cache is off."""
    return cache.disabled()


class Pair:
    """``outer`` calls ``inner`` in what ``block`` gives, in the way of ``how``; ``fills`` are the outer one's."""

    def __init__(self, cache: Cache, how: str = "a call", *, near: Any = None, **outer: Any) -> None:
        self.runs, self.block = 0, Pair.nothing
        self.fills: list[Any] = []

        @cache(ttl=60, near=near)
        def inner(n: int) -> int:
            return n

        @cache(ttl=60)
        def whole(*numbers: int) -> int:
            return numbers[0]

        @cache.batch(ttl=60)
        def loader(ids: list[int]) -> dict[int, int]:
            return {each: each for each in ids}

        ways: dict[str, Callable[[int], Any]] = {
            "a call": inner,
            "a near call": inner,
            "other arguments": lambda n: inner(float(n)),  # type: ignore[arg-type]
            "any arguments": whole,
            "a refresh": inner.refresh,
            "many": lambda n: inner.many([inner.bind(n)]),
            "a batch": lambda n: loader([n]),
            "a list": lambda n: loader.list([n]),
        }

        @cache(ttl=60, **outer)
        def outside(n: int) -> int:
            self.runs += 1
            with self.block(cache):
                ways[how](n)
            return n

        cache.hooks.on_fill(lambda fill: self.fills.append(fill) if fill.function.endswith("outside") else None)
        self.outer, self.inner = outside, inner

    @staticmethod
    def nothing(cache: Cache) -> AbstractContextManager[Any]:
        """A block that changes nothing."""
        return nullcontext()


WAYS = ["a call", "a near call", "other arguments", "any arguments", "a refresh", "many", "a batch", "a list"]


@pytest.mark.parametrize("how", WAYS)
def test_what_ran_around_the_cache_makes_the_outer_result_unstorable(cache: Cache, how: str) -> None:
    """The outer entry would outlive an invalidation of the inner one; the hook says why there is none."""
    pair = Pair(cache, how, near="10s" if how == "a near call" else None)
    pair.block = disabled
    assert [pair.outer(1), pair.outer(1)] == [1, 1]
    assert pair.runs == 2
    assert pair.outer.peek(1) is MISS
    assert [fill.stored for fill in pair.fills] == [False, False]
    assert pair.fills[0].reason.startswith("around: ")
    assert "ran around the cache inside" in pair.fills[0].reason
    pair.block = Pair.nothing
    assert [pair.outer(1), pair.outer(1)] == [1, 1]
    assert pair.runs == 3


@only(THREADS, reason="a block of a transaction inside of a run is `async with` for a coroutine function")
def test_after_the_first_invalidation_of_a_transaction(cache: Cache) -> None:
    """From then on calls run around the cache; before they don't."""
    pair = Pair(cache)
    pair.block = lambda cache: cache.transaction()
    assert [pair.outer(1), pair.outer(1)] == [1, 1]
    assert pair.runs == 1

    def changing(cache: Cache) -> AbstractContextManager[Any]:
        block = cache.transaction()

        class Around:
            def __enter__(self) -> None:
                block.__enter__()
                cache.invalidate_tags("something")

            def __exit__(self, *exc: Any) -> None:
                block.__exit__(*exc)

        return Around()

    pair.block = changing
    assert [pair.outer(2), pair.outer(2)] == [2, 2]
    assert pair.runs == 3


def test_who_gives_nesting_up_is_stored_all_the_same(cache: Cache) -> None:
    """``Policy(inherit=False)``: it lives until its own end, whatever becomes of the calls inside."""
    pair = Pair(cache, policy=Policy(inherit=False))
    pair.block = disabled
    assert [pair.outer(1), pair.outer(1)] == [1, 1]
    assert pair.runs == 1


def test_a_batch_hears_of_it_too(cache: Cache) -> None:
    """All that one run of a loader brings stands under what was called inside."""
    pair = Pair(cache)
    runs: list[list[int]] = []

    @cache.batch(ttl=60)
    def loading(ids: list[int]) -> dict[int, int]:
        runs.append(ids)
        with pair.block(cache):
            return {each: pair.inner(each) for each in ids}

    pair.block = disabled
    assert [loading([1, 2]), loading([1, 2])] == [{1: 1, 2: 2}] * 2
    assert runs == [[1, 2], [1, 2]]


def test_a_block_around_both_changes_nothing(cache: Cache) -> None:
    """Nothing is stored there, and afterwards all is as before."""
    pair = Pair(cache)
    with cache.disabled():
        assert [pair.outer(1), pair.outer(1)] == [1, 1]
    assert (pair.runs, pair.fills) == (2, [])
    assert [pair.outer(1), pair.outer(1)] == [1, 1]
    assert pair.runs == 3
