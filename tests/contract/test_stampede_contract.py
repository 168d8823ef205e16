"""What holds while a function runs, whatever the servers are and whoever calls: one run, and invalidation wins."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
from support.slow import Slow, waiters_on
from support.targets import Make
from support.threads import Outcome, eventually

from cachekit import MISS, Cache

CALLERS = 12


@pytest.fixture
def cache(make: Make) -> Cache:
    """A cache in each shell, on each kind of servers."""
    return make()


# -- one run for all --------------------------------------------------------------------------------------------------


def test_callers_of_a_cold_key_share_one_run(cache: Cache) -> None:
    """One of them runs, the others get copies of the result, and everything is counted."""
    slow = Slow(cache)
    outcomes = [Outcome(slow.call, 1) for _ in range(CALLERS)]
    assert eventually(lambda: waiters_on(cache) == CALLERS - 1)
    slow.go_on.set()
    results = [outcome.result() for outcome in outcomes]
    assert results == [[0]] * CALLERS
    assert len({id(result) for result in results}) == CALLERS
    info = slow.call.info()
    assert (slow.runs, info.fills, info.waits, info.misses, info.hits) == (1, 1, CALLERS - 1, CALLERS, 0)
    assert len(cache._env.flights) == 0
    assert slow.call(1) == [0]


def test_callers_at_the_very_first_call_share_the_counts(cache: Cache) -> None:
    """However many callers are first, the function has one set of counters."""
    slow = Slow(cache)
    slow.go_on.set()
    barrier = threading.Barrier(CALLERS)

    def first(n: int) -> Any:
        barrier.wait(10)
        return slow.call(n)

    for outcome in [Outcome(first, n) for n in range(CALLERS)]:
        outcome.result()
    assert slow.call.info().fills == CALLERS
    assert len(cache.stats().functions) == 1


def test_waiters_share_the_exception(cache: Cache) -> None:
    """What the run raises is raised for everybody who waited for it in this process; then the next call runs."""
    slow = Slow(cache)
    slow.error = LookupError("gone")
    outcomes = [Outcome(slow.call, 1) for _ in range(4)]
    assert eventually(lambda: waiters_on(cache) == 3)
    slow.go_on.set()
    for outcome in outcomes:
        with pytest.raises(LookupError, match="gone"):
            outcome.result()
    assert slow.runs == 1
    slow.error = None
    assert slow.call(1) == [1]


def test_get_or_set_is_computed_once(cache: Cache) -> None:
    """The direct verb has the same single flight."""
    runs, go_on = [], threading.Event()

    def compute() -> list[int]:
        runs.append(1)
        assert go_on.wait(20)
        return [7]

    outcomes = [Outcome(cache.get_or_set, "k", compute) for _ in range(5)]
    assert eventually(lambda: waiters_on(cache) == 4)
    assert cache.get("k", MISS) is MISS
    go_on.set()
    assert [outcome.result() for outcome in outcomes] == [[7]] * 5
    assert len(runs) == 1


# -- invalidation against a fill --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["invalidate", "invalidate_all", "delete", "set"])
def test_what_was_computed_before_an_invalidation_is_never_served_after_it(cache: Cache, how: str) -> None:
    """The late store is dropped, and who calls after the invalidation gets a new run, even while the old one lasts."""
    slow = Slow(cache)
    old = Outcome(slow.call, 1)
    assert slow.started.wait(10)
    joined = Outcome(slow.call, 1)
    assert eventually(lambda: waiters_on(cache) == 1)
    if how == "invalidate":
        assert slow.call.invalidate(1)
    elif how == "invalidate_all":
        assert slow.call.invalidate_all()
    elif how == "delete":
        assert cache.delete(slow.call.key(1))
    else:
        assert cache.set(slow.call.key(1), "somebody's own")
    if how in ("invalidate", "delete"):
        late = Outcome(slow.call, 1)
        assert eventually(lambda: slow.runs == 2)
        slow.go_on.set()
        assert late.result() == [1]
    slow.go_on.set()
    assert old.result() == [0]
    assert joined.result() == [0]
    assert slow.call.peek(1) != [0]
    assert slow.call(1) == [1]
    assert slow.call.peek(1) == [1]


@pytest.mark.parametrize("how", ["invalidate", "invalidate_all"])
def test_an_invalidation_beats_a_refresh(cache: Cache, how: str) -> None:
    """Refresh stores nothing over an invalidation that came while it ran."""
    slow = Slow(cache)
    slow.go_on.set()
    assert slow.call(1) == [0]
    slow.go_on.clear()
    refreshing = Outcome(slow.call.refresh, 1)
    assert eventually(lambda: slow.runs == 2)
    assert slow.call.invalidate(1) if how == "invalidate" else slow.call.invalidate_all()
    slow.go_on.set()
    assert refreshing.result() == [1]
    assert slow.call.peek(1) is MISS
    assert slow.call(1) == [2]


def test_who_calls_after_invalidate_all_does_not_join_the_run_before_it(cache: Cache) -> None:
    """A run that began before invalidate_all is still under way: a later caller must not get its result."""
    slow = Slow(cache)
    old = Outcome(slow.call, 1)
    assert slow.started.wait(10)
    assert slow.call.invalidate_all()
    late = Outcome(slow.call, 1)
    eventually(lambda: slow.runs == 2, 0.5)
    slow.go_on.set()
    assert old.result() == [0]
    assert late.result() == [1]


def test_a_refresh_that_fails_beside_a_fill_leaves_the_lease(cache: Cache) -> None:
    """A refresh under somebody else's lease does not give that lease back."""
    slow = Slow(cache)
    filling = Outcome(slow.call, 1)
    assert slow.started.wait(10)
    broken = threading.Event()

    @cache(key="{n}")
    def other(n: int) -> int:
        if broken.is_set():
            raise OSError
        return n

    refreshing = Outcome(slow.call.refresh, 1)
    assert eventually(lambda: slow.runs == 2)
    slow.go_on.set()
    assert {filling.result()[0], refreshing.result()[0]} == {0, 1}
    assert slow.call.peek(1) in ([0], [1])


# -- results that can't be stored -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unencodable", "too large", "refused"])
def test_an_unstorable_result_is_returned(cache: Cache, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets it, one warning names the trouble, the old entry is gone, and the next ones run side by side."""
    slow = Slow(cache)
    slow.go_on.set()
    assert slow.call(1) == [0]
    results = {"unencodable": object(), "too large": os.urandom((1 << 20) + 1), "refused": os.urandom((1 << 20) - 100)}
    slow.result = results[kind]
    assert slow.call.refresh(1) is slow.result
    assert slow.call.peek(1) is MISS
    slow.go_on.clear()
    outcomes = [Outcome(slow.call, 1) for _ in range(3)]
    assert eventually(lambda: slow.runs == 5)
    slow.go_on.set()
    assert all(outcome.result() == slow.result for outcome in outcomes)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert slow.call.key(1) in warnings[0]
    assert slow.call.info().unstored == 4
    slow.result = [5]
    assert [slow.call(1), slow.call.peek(1)] == [[5], [5]]


def test_a_ttl_function_that_raises_costs_only_the_storing(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets his result, and one warning says why it was not stored."""

    @cache(ttl=lambda result: 1 / 0)
    def f() -> int:
        return 7

    assert [f(), f()] == [7, 7]
    assert f.info().unstored == 2
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


# -- recursion --------------------------------------------------------------------------------------------------------


def test_a_function_that_calls_itself_with_the_same_key(cache: Cache) -> None:
    """Inside its own fill a call of the same key runs the function; it does not wait for itself."""
    depth = []

    @cache(ignore=["level"])
    def f(n: int, level: int = 0) -> int:
        depth.append(level)
        return n if level == 3 else f(n, level + 1) + 1

    assert Outcome(f, 5).result() == 8
    assert depth == [0, 1, 2, 3]
    assert f(5) == 8


def test_a_recursive_function_fills_every_step(cache: Cache) -> None:
    """A function that calls itself with other keys caches each of them."""

    @cache
    def fibonacci(n: int) -> int:
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    assert Outcome(fibonacci, 20).result() == 6765
    assert fibonacci.info().fills == 21


def test_two_functions_that_call_each_other(cache: Cache) -> None:
    """A cycle of two cached functions ends."""

    @cache(ignore=["level"])
    def ping(n: int, level: int = 0) -> int:
        return n if level > 3 else pong(n, level + 1)

    @cache(ignore=["level"])
    def pong(n: int, level: int = 0) -> int:
        return n if level > 3 else ping(n, level + 1)

    assert Outcome(ping, 1).result() == 1
    assert Outcome(pong, 2).result() == 2
