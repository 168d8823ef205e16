"""What a soft bump of tags, namespaces and functions does, and what a hard one does to it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from support.reports import Reports
from support.targets import Make
from support.threads import Outcome, eventually

from cachekit import MISS, Cache, Policy


@pytest.fixture
def cache(make: Make) -> Cache:
    """A cache in each shell, on each kind of servers."""
    return make()


# -- soft --------------------------------------------------------------------------------------------------------------

SOFT: dict[str, Callable[[Any, Reports], bool]] = {
    "tag": lambda cache, _: cache.expire_tags("user:1"),
    "two tags": lambda cache, _: cache.expire_tags("user:1", "month:jan"),
    "namespace": lambda cache, _: cache.expire_namespace("fr"),
    "function": lambda _, reports: reports.call.expire_all(),
}
HARD: dict[str, Callable[[Any, Reports], bool]] = {
    "tag": lambda cache, _: cache.invalidate_tags("user:1"),
    "namespace": lambda cache, _: cache.invalidate_namespace("fr"),
    "function": lambda _, reports: reports.call.invalidate_all(),
}


@pytest.mark.parametrize("expire", SOFT.values(), ids=SOFT)
def test_after_a_soft_bump_one_refreshes_while_the_others_are_served(cache: Cache, expire: Any) -> None:
    """Each entry by itself; then it is as fresh as any."""
    reports = Reports(cache, ttl=60, stale=30, namespace="fr")
    assert reports.call(1) == "1 in jan, run 1"
    assert expire(cache, reports) is True
    assert reports.state() == "stale"
    assert reports.call.peek(1) == "1 in jan, run 1"
    reports.open.clear()
    refreshing = Outcome(reports.call, 1)
    assert eventually(lambda: len(reports.runs) == 2)
    assert [reports.call(1) for _ in range(3)] == ["1 in jan, run 1"] * 3
    reports.open.set()
    assert refreshing.result() == "1 in jan, run 2"
    assert reports.state() == "fresh"
    assert [reports.call(1) for _ in range(3)] == ["1 in jan, run 2"] * 3


@pytest.mark.parametrize("expire", SOFT.values(), ids=SOFT)
def test_in_the_background_nobody_waits(cache: Cache, expire: Any) -> None:
    """Who finds it is served as well."""
    reports = Reports(cache, ttl=60, stale=30, namespace="fr", refresh="background")
    reports.call(1), expire(cache, reports)
    reports.open.clear()
    assert [reports.call(1) for _ in range(3)] == ["1 in jan, run 1"] * 3
    reports.open.set()
    assert eventually(lambda: reports.call.peek(1) == "1 in jan, run 2")
    assert len(reports.runs) == 2


@pytest.mark.parametrize("void", HARD.values(), ids=HARD)
@pytest.mark.parametrize("expire", SOFT.values(), ids=SOFT)
def test_a_hard_bump_wins_over_soft_ones(cache: Cache, expire: Any, void: Any) -> None:
    """Before it, between them, after it."""
    for order in ((expire, void), (void, expire), (expire, void, expire)):
        reports = Reports(cache, ttl=60, stale=30, namespace="fr")
        reports.call(1)
        for bump in order:
            assert bump(cache, reports) is True
        assert reports.call.peek(1) is MISS
        assert reports.state() == "invalidated"
        assert reports.call(1) == "1 in jan, run 2"
        assert reports.call.invalidate(1)


@pytest.mark.parametrize("void", HARD.values(), ids=HARD)
def test_a_hard_bump_during_a_run_voids_what_it_stores(make: Make, target: str, void: Any) -> None:
    """Whoever runs, and whoever bumps: the caller gets his result, and nobody else ever does."""
    cache = make()
    other = make(prefix=cache.prefix) if target != "memory:" else cache
    for bumps in (cache, other):
        options: dict[str, Any] = {"ttl": 60, "namespace": "fr", "policy": Policy(stale=30, stale_if_error=30)}
        reports = Reports(cache, **options)
        there = reports if bumps is cache else Reports(bumps, **options)
        reports.call.invalidate(1)
        reports.open.clear()
        filling = Outcome(reports.call, 1)
        assert eventually(partial(operator.eq, reports.runs, [(1, "jan")]))
        assert void(bumps, there) is True
        reports.open.set()
        assert filling.result() == "1 in jan, run 1"
        assert reports.call.peek(1) is MISS
        assert there.call.peek(1) is MISS
        assert reports.call(1) == "1 in jan, run 2"


@pytest.mark.parametrize("void", HARD.values(), ids=HARD)
def test_a_hard_bump_under_a_refresh_takes_the_old_value_away(cache: Cache, void: Any) -> None:
    """Also where it was being served meanwhile; who comes then has a run of his own."""
    reports = Reports(cache, ttl=60, stale=30, namespace="fr")
    reports.call(1), cache.expire_tags("user:1")
    reports.open.clear()
    refreshing = Outcome(reports.call, 1)
    assert eventually(lambda: len(reports.runs) == 2)
    assert void(cache, reports) is True
    assert reports.call.peek(1) is MISS
    newcomer = Outcome(reports.call, 1)
    assert eventually(lambda: len(reports.runs) == 3)
    reports.open.set()
    assert (refreshing.result(), newcomer.result()) == ("1 in jan, run 2", "1 in jan, run 3")
    assert reports.call(1) == "1 in jan, run 3"


def test_a_soft_bump_where_the_function_fails(cache: Cache) -> None:
    """The old value serves for a while (stale_if_error), and is refreshed when the function works again."""
    reports = Reports(cache, ttl=60, policy=Policy(stale_if_error=30, throttle=0.05))
    reports.call(1), cache.expire_tags("user:1")
    reports.error = LookupError("down")
    assert reports.call(1) == "1 in jan, run 1"
    reports.error = None
    assert eventually(lambda: reports.call(1).endswith(str(len(reports.runs))))
    assert len(reports.runs) >= 3


def test_soft_bumps_again_and_again(cache: Cache) -> None:
    """Each asks for one refresh of each entry, whichever of its groups it is about."""
    reports = Reports(cache, ttl=60, stale=30, namespace="fr")
    reports.call(1)
    for number, expire in enumerate([*SOFT.values(), *SOFT.values()], 2):
        expire(cache, reports), expire(cache, reports)
        assert reports.state() == "stale"
        assert [reports.call(1) for _ in range(3)] == [f"1 in jan, run {number}"] * 3
