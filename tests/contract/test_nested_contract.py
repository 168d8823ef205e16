"""Cached functions that call cached functions: what voids the inner entry voids the outer one, whatever the servers are
and whoever calls.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.targets import Make
from support.threads import Outcome

from cachekit import MISS, Cache, Policy, current

Inside = Callable[[], Any]


@pytest.fixture
def cache(make: Make) -> Cache:
    """A cache in each shell, on each kind of servers."""
    return make()


class Pair:
    """``outer`` calls ``inner``, both of them entry by entry; each value tells the runs that made it."""

    def __init__(
        self, cache: Cache, *, inner: dict[str, Any] | None = None, outer: dict[str, Any] | None = None
    ) -> None:
        self.inner_runs = self.outer_runs = 0
        self.during: Inside = lambda: None

        @cache(**{"ttl": 60, "tags": ["n:{n}"], "namespace": "inner", **(inner or {})})
        def inside(n: int) -> str:
            self.inner_runs += 1
            return f"i{self.inner_runs}"

        @cache(**{"ttl": 60, **(outer or {})})
        def outside(n: int) -> str:
            self.outer_runs += 1
            mine, got = self.outer_runs, self.read(n)
            self.during()
            return f"o{mine}({got})"

        self.inner, self.outer = inside, outside
        self.read: Callable[[int], Any] = inside


VOIDING = {
    "the tag": lambda cache, pair: cache.invalidate_tags("n:1"),
    "the function": lambda cache, pair: pair.inner.invalidate_all(),
    "the namespace": lambda cache, pair: cache.invalidate_namespace("inner"),
}


@pytest.mark.parametrize("what", VOIDING)
def test_what_voids_the_inner_entry_voids_the_outer_one(cache: Cache, what: str) -> None:
    """Whether the inner value was computed for the outer one or was there before."""
    pair = Pair(cache)
    assert pair.outer(1) == pair.outer(1) == "o1(i1)"
    assert VOIDING[what](cache, pair)
    assert pair.outer.peek(1) is MISS
    assert pair.outer(1) == pair.outer(1) == "o2(i2)"
    assert pair.outer.invalidate(1)
    assert pair.outer(1) == "o3(i2)"
    assert VOIDING[what](cache, pair)
    assert pair.outer(1) == pair.outer(1) == "o4(i3)"


@pytest.mark.parametrize("tags", [(), ("t",)], ids=["plain", "tagged"])
def test_a_plain_hit_inside_is_heard(cache: Cache, tags: tuple[str, ...]) -> None:
    """The quick way of a hit is for calls that nobody listens to; the outer function, deep in a run, does."""
    runs: list[int] = []

    @cache(ttl=60, tags=tags)
    def inner() -> int:
        runs.append(1)
        return len(runs)

    @cache(ttl=60)
    def outer() -> int:
        return int(inner()) + 10

    assert [inner(), inner()] == [1, 1]
    assert [outer(), outer()] == [11, 11]
    assert inner.invalidate_all()
    assert [outer(), outer()] == [12, 12]


def test_what_voids_something_else_leaves_it(cache: Cache) -> None:
    """Another tag, and the inner entry alone: its arguments say nothing to the outer function."""
    pair = Pair(cache)
    pair.outer(1)
    assert cache.invalidate_tags("n:2")
    assert pair.inner.invalidate(1)
    assert pair.outer(1) == "o1(i1)"


@pytest.mark.parametrize(
    "way",
    ["many", "refresh", "peek", "batch", "ttl 0", "no group", "raised", "caught in a batch", "background"],
)
def test_whichever_way_the_inner_value_came(cache: Cache, way: str) -> None:
    """Every verb that gives a value inside of a run tells the run what that stands under."""
    options: dict[str, dict[str, Any]] = {
        "ttl 0": {"ttl": 0},
        "no group": {"policy": Policy(group=False)},
        "background": {"policy": Policy(stale=60, refresh="background")},
    }
    inner = options.get(way, {})
    pair = Pair(cache, inner=inner)

    @cache.batch(ttl=60, tags=["n:{ids}"])
    def batch(ids: list[int]) -> dict[int, str]:
        if way == "caught in a batch":
            raise LookupError
        return dict.fromkeys(ids, "b")

    @cache(ttl=60, tags=["n:{n}"])
    def fails(n: int) -> str:
        raise LookupError

    def caught(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except LookupError:
            return "caught"

    pair.read = {
        "many": lambda n: pair.inner.many([pair.inner.bind(n), pair.inner.bind(7)])[0],
        "refresh": pair.inner.refresh,
        "peek": lambda n: pair.inner(n) and pair.inner.peek(n),
        "batch": lambda n: batch([n, 7])[n],
        "raised": lambda n: caught(lambda: fails(n)),
        "caught in a batch": lambda n: caught(lambda: batch([n])),
    }.get(way, pair.inner)
    first = pair.outer(1)
    if way == "many":
        pair.inner(1)
        assert pair.outer.refresh(1)
        first = pair.outer(1)
    assert pair.outer(1) == first
    runs = pair.outer_runs
    assert cache.invalidate_tags("n:1")
    pair.outer(1)
    assert pair.outer_runs == runs + 1
    pair.outer(1)
    assert pair.outer_runs == runs + 1


def test_any_depth(cache: Cache) -> None:
    """Four levels, and a tag that the innermost names while it runs."""
    runs: list[int] = []

    @cache(ttl=60)
    def level(n: int) -> int:
        if n:
            return int(level(n - 1))
        current().tag("deep")
        runs.append(n)
        return len(runs)

    for _ in range(8):
        level(3)
    settled = len(runs)
    assert level(3) == settled
    assert cache.invalidate_tags("deep")
    assert level(3) > settled
    settled = level(3)
    assert level(3) == settled


def test_a_soft_bump_inside_makes_the_outer_entry_due(cache: Cache) -> None:
    """One caller refreshes it, and so the inner one."""
    policy = {"policy": Policy(stale=60)}
    pair = Pair(cache, inner=policy, outer=policy)
    pair.outer(1)
    assert pair.inner.expire_all()
    assert pair.outer(1) == pair.outer(1) == "o2(i2)"
    assert cache.expire_tags("n:1")
    assert pair.outer(1) == pair.outer(1) == "o3(i3)"


def test_an_invalidation_between_the_inner_read_and_the_outer_store_wins(cache: Cache) -> None:
    """The outer result is returned, and found void by the next reader."""
    pair = Pair(cache)
    pair.during = lambda: cache.invalidate_tags("n:1")
    assert pair.outer(1) == "o1(i1)"
    pair.during = lambda: None
    assert pair.outer(1) == pair.outer(1) == "o2(i2)"


def test_who_comes_after_an_invalidation_does_not_get_a_run_from_before_it(cache: Cache) -> None:
    """Though it goes on still, and its lease stands."""
    pair, started, go_on = Pair(cache), threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        assert go_on.wait(20)

    pair.during = hold
    old = Outcome(pair.outer, 1)
    assert started.wait(20)
    assert cache.invalidate_tags("n:1")
    pair.during = lambda: None
    late = Outcome(pair.outer, 1)
    go_on.set()
    assert old.result() == "o1(i1)"
    assert "(i2)" in late.result()
    assert "(i2)" in pair.outer(1)


def test_who_does_not_inherit_is_not_voided(cache: Cache) -> None:
    """Policy(inherit=False): the way out, with what it gives up."""
    pair = Pair(cache, outer={"policy": Policy(inherit=False)})
    pair.outer(1)
    assert cache.invalidate_tags("n:1")
    assert pair.outer(1) == "o1(i1)"
    assert pair.inner(1) == "i2"
    assert pair.outer.invalidate(1)
    assert pair.outer(1) == "o2(i2)"


def test_another_prefix_on_the_same_servers_is_reached(make: Make, target: str, caplog: Any) -> None:
    """The record's name says whose it is. In memory each cache has a server of its own, which no other can ask: there
    the outer result is not stored, and that is said once.
    """
    cache, other = make(), make()
    pair, mine = Pair(other), Pair(cache)
    mine.read = pair.inner
    with caplog.at_level(logging.WARNING, "cachekit"):
        values = [mine.outer(1) for _ in range(4)]
    if target == "memory:":
        assert mine.outer_runs == 4
        assert ["inherit=False" in record.message for record in caplog.records] == [True]
        return
    # The first may come before this cache has connections that are older than what the other one has read.
    assert values[1:] == [values[1]] * 3
    assert other.invalidate_tags("n:1")
    assert mine.outer(1).endswith("(i2)")


def test_a_plain_value_inside_lets_what_is_inside_of_it_through(cache: Cache) -> None:
    """get_or_set has no header for marks; what was computed for the outer run voids the outer entry."""
    pair = Pair(cache)
    pair.read = lambda n: cache.get_or_set(f"plain{n}", lambda: pair.inner(n))
    assert pair.outer(1) == pair.outer(1) == "o1(i1)"
    assert cache.invalidate_tags("n:1")
    assert pair.outer(1) == "o2(i1)", "the plain value itself stands until it ends: nothing stands over it"


def test_a_cycle_is_voided_by_what_is_in_it(cache: Cache) -> None:
    """``ping`` calls ``pong``, which calls ``ping``: the entry of ``pong`` stands under what ``ping`` does."""
    runs = {"ping": 0, "pong": 0}

    @cache(ttl=60, tags=["ping"])
    def ping(depth: int = 0) -> str:
        runs["ping"] += 1
        return f"ping{runs['ping']}" + (f"({pong()})" if runs["ping"] % 2 else "")

    @cache(ttl=60)
    def pong() -> str:
        runs["pong"] += 1
        return f"pong{runs['pong']}({ping()})"

    assert ping() == ping() == "ping1(pong1(ping2))"
    assert pong() == "pong1(ping2)"
    assert cache.invalidate_tags("ping")
    assert pong() != "pong1(ping2)"


def test_recursion_over_other_entries(cache: Cache) -> None:
    """Each stands under the function itself, wherever it is kept."""
    runs: list[int] = []

    @cache(ttl=60)
    def sum_to(n: int) -> int:
        runs.append(n)
        return n + int(sum_to(n - 1)) if n else 0

    assert sum_to(12) == sum_to(12) == 78
    assert len(runs) == 13
    assert sum_to.invalidate_all()
    assert sum_to(12) == 78
    assert len(runs) == 26


def test_a_failure_inside_that_is_cached_counts(cache: Cache) -> None:
    """Found again, it tells the outer run what it stands under, as a value does."""
    people: list[str] = []

    @cache(tags=["people"], policy=Policy(ttl=60, errors=(LookupError,), error_ttl=60))
    def person() -> str:
        if not people:
            raise LookupError
        return people[0]

    @cache(ttl=60)
    def greeting() -> str:
        try:
            return f"Hello {person()}"
        except LookupError:
            return "Nobody"

    with pytest.raises(LookupError):
        person()
    assert greeting() == greeting() == "Nobody"
    people.append("Ada")
    assert greeting() == "Nobody"
    assert cache.invalidate_tags("people")
    assert greeting() == greeting() == "Hello Ada"
