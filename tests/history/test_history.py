"""Histories of several processes on real servers: our own build keeps every promise, and each build with a guard taken
out is caught. The long run is ``make soak``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from history.arena import CALM, OUTAGES, STORM, Arena
from history.kinds import OUTER
from history.soak import soak
from history.twins import TWINS

SCHEDULES, STORM_SCHEDULES, WATCHED_SCHEDULES, TWIN_SCHEDULES, TWIN_ROUNDS = 350, 60, 80, 40, 8
SEED = 20261122
KEPT = Path("build/histories")
"""Where the histories of violations go."""


def test_no_promise_is_broken() -> None:
    """Reads, fills, invalidations and bumps of every kind, at random, in several processes: no violation."""
    with Arena(SCHEDULES, seed=SEED) as arena:
        outcome = soak(arena, SCHEDULES, KEPT)
    assert outcome.violations == []
    assert outcome.counts["reads returned"] > 20 * SCHEDULES
    assert outcome.counts["invalidations acknowledged"] > 3 * SCHEDULES
    assert outcome.counts["invalidations not acknowledged"] == 0


def test_no_promise_is_broken_by_watchers() -> None:
    """The same of near tiers whose processes watch the servers, and of the invalidations that they can see there."""
    kinds = [name for name in OUTER if name.startswith("near")]
    with Arena(WATCHED_SCHEDULES, seed=SEED, kinds=kinds, watch=True) as arena:
        outcome = soak(arena, WATCHED_SCHEDULES, KEPT)
    assert outcome.violations == []
    assert outcome.counts["invalidations acknowledged"] > 3 * WATCHED_SCHEDULES


def test_no_promise_is_broken_under_faults() -> None:
    """The same while servers are killed, stopped, emptied and cut off, wires are bad, calls are cancelled and
    interrupted, and workers fork.
    """
    with Arena(STORM_SCHEDULES, seed=SEED, disturbance=STORM._replace(kill_every_s=0.5)) as arena:
        outcome = soak(arena, STORM_SCHEDULES, KEPT)
    assert outcome.violations == []
    assert outcome.counts["worker killed"] > 0
    assert outcome.counts["reads cancelled"] > 0
    assert outcome.counts["reads interrupted"] > 0


@pytest.mark.parametrize("name", TWINS)
def test_a_broken_build_is_caught(name: str) -> None:
    """A build with one guard taken out breaks the promise that the guard is there for, and the checker sees it."""
    twin = TWINS[name]
    found: set[str] = set()
    disturbance = OUTAGES if twin.outages else CALM
    most = TWIN_ROUNDS * TWIN_SCHEDULES
    with Arena(most, seed=SEED, kinds=twin.kinds, twin=name, disturbance=disturbance) as arena:
        for _ in range(TWIN_ROUNDS):
            found |= {violation.rule for violation in soak(arena, TWIN_SCHEDULES).violations}
            if found & twin.rules:
                break
    assert found & twin.rules


def test_every_kind_is_used() -> None:
    """The schedules of the short run come to every kind of function."""
    assert 10 * len(OUTER) <= SCHEDULES
