"""How long the near tier holds, by a clock that the test moves; and the application's own, set apart."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cachekit import Cache, Near, Policy
from cachekit.testing import ManualClock, isolated, make_cache


class Numbered:
    """A cache by the test's clock, and a function whose result tells which of its runs made it. ``lose`` is what
    another process's invalidation does: this one does not hear of it.
    """

    def __init__(self, **options: Any) -> None:
        self.clock = ManualClock()
        self.cache = make_cache(self.clock)
        self.runs = 0
        takes_s = options.pop("takes_s", 0.0)

        @self.cache(**{"ttl": "1h", "near": "2s", **options})
        def numbered(n: int) -> int:
            self.runs += 1
            self.clock.advance(takes_s)
            return self.runs

        self.call = numbered

    def lose(self) -> None:
        """Take the entry away on the server."""
        embedded = self.cache._fleet.embedded
        assert embedded is not None
        assert embedded.handle(b"md %b\r\n" % self.call.key(1).encode()).startswith(b"HD")


def test_an_invalidation_elsewhere_is_seen_after_near_ttl_at_the_latest() -> None:
    """And not before: nobody tells."""
    near = Numbered()
    assert near.call(1) == 1
    near.lose()
    near.clock.advance(1.99)
    assert near.call(1) == 1
    near.clock.advance(0.01)
    assert near.call(1) == 2


def test_after_near_ttl_the_server_is_asked_and_the_next_period_begins() -> None:
    """Its entry is fresh still, so nothing runs."""
    near = Numbered()
    for _ in range(5):
        assert [near.call(1), near.call(1)] == [1, 1]
        near.clock.advance(2)
    assert (near.runs, near.call.info().near) == (1, 5)


def test_a_run_counts_from_the_beginning_of_the_call() -> None:
    """Its generations were read then: what was bumped during the run elsewhere must not be served for longer."""
    near = Numbered(takes_s=1.5)
    assert near.call(1) == 1
    near.clock.advance(0.4)
    assert (near.call(1), near.call.info().near) == (1, 1)
    near.clock.advance(0.2)
    assert (near.call(1), near.call.info().near) == (1, 1)


def test_a_run_longer_than_near_ttl_is_kept_by_who_reads_it_next() -> None:
    """It goes on the server first."""
    near = Numbered(takes_s=5)
    assert [near.call(1), near.call(1), near.call(1)] == [1, 1, 1]
    assert near.call.info().near == 1


def test_the_entrys_own_end_comes_first() -> None:
    """A value past its ttl is not served from here."""
    near = Numbered(ttl="1s", near="1h", policy=Policy(beta=0))
    assert [near.call(1), near.call(1)] == [1, 1]
    near.clock.advance(1)
    assert near.call(1) == 2


def test_near_hits_do_not_put_an_early_refresh_off() -> None:
    """The reader has drawn: when his draw says that it is due he asks, and refreshes it (here the draw is 1)."""
    near = Numbered(ttl="100s", near="1h", takes_s=10)
    assert near.call(1) == 1
    near.clock.advance(89)
    assert near.call(1) == 1
    near.clock.advance(1.5)
    assert near.call(1) == 2


def test_a_value_that_slides_is_asked_for_as_often_as_it_slides() -> None:
    """Else it would end although it is used all the time."""
    near = Numbered(ttl="10s", near="1h", policy=Policy(sliding=True))
    for _ in range(40):
        assert near.call(1) == 1
        near.clock.advance(1)
    assert near.call.info().near < 40


def test_isolated_sets_the_near_tier_apart_too() -> None:
    """Inside nothing is known of what was kept, and afterwards everything is as before."""
    cache = Cache("memory:", policy=Policy(near=Near("1h")))
    runs: list[int] = []

    @cache(ttl="1d")
    def square(n: int) -> int:
        runs.append(n)
        return n * n

    @cache(ttl="1d")
    async def asquare(n: int) -> int:
        runs.append(n)
        return n * n

    async def both() -> list[int]:
        return [square(3), await asquare(3)]

    for _ in range(3):
        assert asyncio.run(both()) == [9, 9]
    kept = type(square)
    with isolated(cache) as clock:
        assert [asyncio.run(both()), asyncio.run(both())] == [[9, 9]] * 2
        assert (len(runs), square.info().near, asquare.info().near) == (4, 1, 1)
        clock.advance("1h")
        assert asyncio.run(both()) == [9, 9]
        assert square.info().near == 1
        with isolated(cache):
            assert asyncio.run(both()) == [9, 9]
    assert type(square) is kept
    assert asyncio.run(both()) == [9, 9]
    assert (len(runs), square.info().near, asquare.info().near) == (6, 3, 3)


def test_a_policy_of_the_blocks_own_counts_there() -> None:
    """A cache that is configured anew inside, without a near tier, has none."""
    cache = Cache("memory:", policy=Policy(near="1h"))

    @cache
    def square(n: int) -> int:
        return n * n

    assert [square(3), square(3), square.info().near] == [9, 9, 1]
    with isolated(cache):
        cache.configure(policy=Policy())
        assert [square(3), square(3), square.info().near, square.info().hits] == [9, 9, 0, 1]
    assert [square(3), square.info().near] == [9, 2]


@pytest.mark.parametrize("verb", ["invalidate", "expire"])
def test_a_test_can_invalidate_and_see_it_at_once(verb: str) -> None:
    """On a clock that stands still too: what came first is told by numbers, and not by time."""
    near = Numbered()
    for run in range(1, 5):
        assert [near.call(1), near.call(1)] == [run, run]
        assert getattr(near.call, verb)(1)
