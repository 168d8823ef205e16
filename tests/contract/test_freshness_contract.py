"""What holds of values that are due, whatever the servers are and whoever calls: stale ones, failures, what is stored.

Here values are due because they were expired by hand; what time does to them: tests/test_freshness.py.
"""

from __future__ import annotations

import contextvars
from typing import Any

import pytest
from support.slow import Source
from support.targets import Make
from support.threads import Outcome, eventually

from cachekit import MISS, Cache, Policy, current
from cachekit.hooks import Fill

REQUEST = contextvars.ContextVar("REQUEST", default="none")


@pytest.fixture
def cache(make: Make) -> Cache:
    """A cache in each shell, on each kind of servers."""
    return make()


# -- soft invalidation ------------------------------------------------------------------------------------------------


def test_expire_lets_one_refresh_while_the_others_are_served(cache: Cache) -> None:
    """expire: due at once, served meanwhile."""
    source = Source(cache, ttl=60, stale=30)
    assert source.call(1) == 0
    assert source.call.expire(1)
    source.shut()
    refreshing = Outcome(source.call, 1)
    assert eventually(lambda: source.runs == 2)
    assert [source.call(1) for _ in range(3)] == [0] * 3
    source.open.set()
    assert (refreshing.result(), source.call(1)) == (1, 1)


def test_expire_voids_the_run_under_way(cache: Cache) -> None:
    """What began before expire() may be older than what it was called for: it is not kept as fresh."""
    source = Source(cache, ttl=60)
    source.shut()
    filling = Outcome(source.call, 1)
    assert eventually(lambda: source.runs == 1)
    assert source.call.expire(1)
    source.open.set()
    assert filling.result() == 0
    assert source.call(1) == 1


def test_a_failed_refresh_does_not_undo_expire(cache: Cache) -> None:
    """The old value is put back to be served, and is due all the same."""
    source = Source(cache, ttl=60, throttle=0.05)
    assert source.call(1) == 0
    assert source.call.expire(1)
    source.error = LookupError("down")
    assert source.call(1) == 0
    source.error = None
    assert eventually(source.is_("stale"))
    assert source.call(1) == 2
    assert source.call(1) == 2


# -- in the background ------------------------------------------------------------------------------------------------


def due(cache: Cache, **policy: Any) -> Source:
    """A source whose value of 1 is due, and may be served on."""
    source = Source(cache, **{"ttl": 60, "stale": 30, **policy})
    assert source.call(1) == 0
    assert source.call.expire(1)
    return source


def test_in_the_background_nobody_waits(cache: Cache) -> None:
    """The caller who finds it due is served as well; the run has a copy of his context."""
    seen: list[str] = []
    cache.hooks.on_fill(lambda fill: seen.append(REQUEST.get()))
    source = due(cache, refresh="background")
    source.shut()
    token = REQUEST.set("mine")
    assert [source.call(1) for _ in range(5)] == [0] * 5
    assert eventually(lambda: source.runs == 2)
    REQUEST.reset(token)
    source.open.set()
    assert eventually(lambda: source.call.peek(1) == 1)
    assert seen == ["none", "mine"]
    assert source.runs == 2


def test_close_waits_for_the_background(cache: Cache) -> None:
    """What was begun is stored before the cache is closed."""
    source = due(cache, refresh="background")
    source.shut()
    assert source.call(1) == 0
    assert eventually(lambda: source.runs == 2)
    closing = Outcome(cache.close)
    source.open.set()
    closing.result()
    assert source.call.peek(1) == 1


def test_an_invalidation_beats_a_background_refresh(cache: Cache) -> None:
    """What began before the invalidation is not stored."""
    source = due(cache, refresh="background")
    source.shut()
    assert source.call(1) == 0
    assert eventually(lambda: source.runs == 2)
    assert source.call.invalidate(1)
    source.open.set()
    assert eventually(lambda: source.call.info().fills == 2)
    assert source.call.peek(1) is MISS


# -- errors, and runs that take long ----------------------------------------------------------------------------------


def test_the_old_value_is_served_where_the_function_fails(cache: Cache) -> None:
    """stale_if_error: the caller who refreshes gets the old value, and for a while nobody tries again."""
    fills: list[Fill] = []
    cache.hooks.on_fill(fills.append)
    source = due(cache, stale=0, stale_if_error=30, throttle=20)
    source.error = LookupError("the origin is down")
    assert source.call(1) == 0
    assert source.is_("throttled")()
    assert [source.call(1) for _ in range(3)] == [0] * 3
    assert source.runs == 2
    assert [fill.reason for fill in fills] == ["", "raised"]


def test_a_soft_timeout_serves_stale_and_lets_the_run_go_on(cache: Cache) -> None:
    """With a stale value in hand nobody waits longer than that; the new value comes when it is done."""
    source = due(cache, soft_timeout=0.05)
    source.shut()
    assert source.call(1) == 0
    assert source.runs == 2
    source.open.set()
    assert eventually(lambda: source.call.peek(1) == 1)


class NotFound(LookupError):
    """An answer, and no accident."""

    def __init__(self, what: str, *, code: int) -> None:
        super().__init__(what)
        self.code = code


def test_failures_that_are_answers_are_cached(cache: Cache) -> None:
    """errors=: the same type with the same data is raised again, and the function does not run."""
    runs: list[int] = []

    @cache(policy=Policy(errors=(LookupError,), error_ttl=30))
    def find(n: int) -> int:
        runs.append(n)
        raise NotFound(f"no {n}", code=404)

    for _ in range(3):
        with pytest.raises(NotFound, match="no 7") as caught:
            find(7)
        assert caught.value.code == 404
    assert runs == [7]
    assert find.info().hits == 2
    assert find.explain(7).format == "failure, enveloped"
    with pytest.raises(NotFound):
        find.peek(7)
    assert cache.get(find.key(7), "nothing") == "nothing"


# -- results that are not stored, or differently ----------------------------------------------------------------------


def test_cache_if_decides_what_is_stored(cache: Cache) -> None:
    """A result that its predicate refuses is returned, and the next caller runs again."""
    runs: list[int] = []

    @cache(cache_if=lambda result: result % 2 == 0)
    def number(n: int) -> int:
        runs.append(n)
        return n

    assert [number(2), number(2), number(3), number(3)] == [2, 2, 3, 3]
    assert runs == [2, 3, 3]


def test_a_predicate_that_raises_costs_only_the_storing(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets his result, and one warning says why it was not stored."""

    def broken(result: int) -> bool:
        raise ZeroDivisionError

    @cache(cache_if=broken)
    def number(n: int) -> int:
        return n

    assert [number(1), number(1)] == [1, 1]
    assert len([r for r in caplog.records if "cache_if raised: ZeroDivisionError" in r.getMessage()]) == 1


def test_do_not_store(cache: Cache) -> None:
    """The running function may say that this result is not to be kept."""
    runs: list[int] = []

    @cache
    def number(n: int) -> int:
        runs.append(n)
        if len(runs) < 3:
            current().do_not_store()
        return n

    assert [number(1) for _ in range(5)] == [1] * 5
    assert runs == [1, 1, 1]


def test_the_function_sets_its_own_ttl(cache: Cache) -> None:
    """current().ttl stands above the decorator's."""

    @cache(ttl=60)
    def number(n: int) -> int:
        current().ttl = "2h"
        return n

    number(1)
    assert number.explain(1).ttl_s == 7200


def test_not_modified_keeps_the_old_value_with_a_new_freshness(cache: Cache) -> None:
    """The source says that nothing has changed: the old value holds on, and is fresh again."""
    seen: list[Any] = []

    @cache(ttl=60)
    def page(n: int) -> dict[str, int]:
        seen.append(current().previous)
        if current().previous is not MISS:
            return current().not_modified()  # type: ignore[no-any-return]
        return {"etag": n}

    assert page(1) == {"etag": 1}
    created = page.explain(1).age_s
    assert created is not None
    assert page.expire(1)
    assert page(1) == {"etag": 1}
    assert page(1) == {"etag": 1}
    assert seen == [MISS, {"etag": 1}]
    assert page.explain(1).state == "fresh"


def test_not_modified_without_an_old_value_says_so(cache: Cache) -> None:
    """There is nothing to keep: a programmer's error."""

    @cache
    def page(n: int) -> Any:
        return current().not_modified()

    with pytest.raises(LookupError, match="no previous value"):
        page(1)


def test_ttl_zero_runs_and_stores_nothing(cache: Cache) -> None:
    """ttl=0 asks nobody, and callers run side by side."""
    source = Source(cache, ttl=0)
    source.shut()
    callers = [Outcome(source.call, 1) for _ in range(3)]
    assert eventually(lambda: source.runs == 3)
    source.open.set()
    assert sorted(caller.result() for caller in callers) == [0, 1, 2]
    assert source.call.peek(1) is MISS
    assert source.call.info().unstored == 3
