"""The checker is tested on histories written by hand: each rule finds what breaks it, and nothing in what keeps it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest

from history.checker import Terms, check
from history.events import Event, Read, Run, Told, Value, load, save

ENTRY = "plain:0:0"


def run(number: int, began: float, ended: float, *, of: int = 0, entry: str = ENTRY, k0: int = 0, f: int = 0) -> Run:
    """A run that read these versions."""
    return Run(0, of, entry, number, began, ended, {"k0": k0, "f": f})


def read(of: int, began: float, ended: float, what: Run, *, verb: str = "call", entry: str = "") -> Read:
    """A read that was given what that run had made."""
    value = Value(what.entry, what.run, what.cells)
    return Read(0, of, "thread 0", verb, entry or what.entry, began, ended, "returned", value)


def told(began: float, ended: float, version: int, *, of: int = 0, soft: bool = False, sure: bool = True) -> Told:
    """An invalidation of the entry, whose row had that version by then."""
    verb = "expire" if soft else "invalidate"
    return Told(0, of, "thread 0", verb, ENTRY, {"k0": version}, soft, began, ended, sure)


def rules(history: Iterable[Any], *, faults: bool = False, **terms: float) -> list[str]:
    """The rules that the history breaks, once each."""
    promised = {"plain": Terms(**terms)}  # type: ignore[arg-type]
    return sorted({violation.rule for violation in check(history, promised, faults=faults)})


OLD, NEW = run(1, 1.0, 2.0), run(2, 5.0, 6.0, of=1, k0=1)


def test_a_good_history_has_no_violations() -> None:
    """A fill, a hit, an invalidation, and a fill that sees what was written."""
    history = [
        OLD,
        read(0, 1, 2, OLD),
        read(1, 3, 3.1, OLD),
        told(4, 4.5, 1),
        NEW,
        read(1, 5, 6, NEW),
        read(0, 7, 8, NEW),
    ]
    assert rules(history) == []


def test_i1_another_entrys_value() -> None:
    """A value made for another entry is not this one's."""
    assert rules([OLD, read(0, 1, 2, OLD, entry="plain:0:1")]) == ["I1"]


@pytest.mark.parametrize(
    "made",
    [
        [],
        [run(1, 1.0, 2.0, k0=7)],
        [run(1, 1.0, 2.0, entry="plain:0:1")],
        [OLD._replace(outcome="raised")],
        [run(1, 1.0, 9.0)],
    ],
    ids=["no run", "other versions", "for another entry", "raised", "ended later"],
)
def test_i2_a_value_that_nobody_made(made: list[Run]) -> None:
    """What is given was returned by a run before."""
    assert rules([*made, read(0, 1, 3, OLD)]) == ["I2"]


def test_i3_older_than_an_acknowledged_invalidation() -> None:
    """A read that begins after the acknowledgement is given nothing older."""
    assert rules([OLD, told(3, 4, 1), read(1, 4.1, 4.2, OLD)]) == ["I3"]


@pytest.mark.parametrize(
    "history",
    [
        [OLD, told(3, 4, 1), read(1, 3.9, 4.2, OLD)],
        [OLD, told(3, 4, 1, sure=False), read(1, 4.1, 4.2, OLD)],
        [OLD, told(3, 4, 1)._replace(entry="plain:0:1"), read(1, 4.1, 4.2, OLD)],
    ],
    ids=["began before", "not acknowledged", "another entry's"],
)
def test_i3_promises_no_more(history: list[Event]) -> None:
    """Reads that began before, invalidations that nobody acknowledged, and other entries are no matter of I3."""
    assert rules(history) == []


def test_i3_of_a_group() -> None:
    """An invalidation of a group reaches each value that bears its cell, and no other."""
    group = told(3, 4, 1)._replace(entry="", cells={"f": 1}, verb="all")
    assert rules([OLD, group, read(1, 4.1, 4.2, OLD)]) == ["I3"]
    assert rules([OLD, group._replace(cells={"t0": 1}), read(1, 4.1, 4.2, OLD)]) == []


def test_i3_of_the_near_tier() -> None:
    """Other processes may be behind by near_s; the one that invalidated may not."""
    later = [read(1, 4.5, 4.6, OLD), read(1, 5.5, 5.6, OLD), read(0, 4.1, 4.2, OLD)]
    assert rules([OLD, told(3, 4, 1), later[0]], near_s=1.0) == []
    assert rules([OLD, told(3, 4, 1), later[1]], near_s=1.0) == ["I3"]
    assert rules([OLD, told(3, 4, 1), later[2]], near_s=1.0) == ["I3"]


def test_i3_under_faults_a_run_under_way_may_be_shared() -> None:
    """Who can't reach the server shares a run of his own process that began before; only under faults, and only while
    it is under way.
    """
    slow, over = run(1, 1.0, 5.0), told(3, 4, 1, of=1)
    shared = [slow, over, read(0, 4.1, 5.01, slow)]
    assert rules(shared, faults=True) == []
    assert rules(shared) == ["I3"]
    assert rules([slow, over, read(0, 5.5, 5.6, slow)], faults=True) == ["I3"]
    assert rules([slow, over, read(1, 4.1, 5.3, slow)], faults=True) == ["I3"]


def test_i3r_ones_own_invalidation_is_replayed() -> None:
    """What this process has invalidated without an answer is not given to its own readers; others may read it."""
    lost = told(3, 4, 1, sure=False)
    assert rules([OLD, lost, read(0, 4.1, 4.2, OLD)]) == ["I3r"]
    assert rules([OLD, lost, read(1, 4.1, 4.2, OLD)]) == []
    assert rules([OLD, lost._replace(outcome="cancelled"), read(0, 4.1, 4.2, OLD)]) == []
    assert rules([run(1, 1.0, 5.0), lost, read(0, 4.1, 5.2, run(1, 1.0, 5.0))], faults=True) == ["I3r"]


def test_i3s_somebody_refreshes() -> None:
    """After a soft invalidation the old value is served while a run for its successor is under way, not without."""
    soft = told(3, 4, 1, soft=True)
    assert rules([OLD, soft, read(1, 4.1, 4.2, OLD)]) == ["I3s"]
    assert rules([OLD, soft, read(1, 4.1, 4.2, OLD), NEW]) == []
    assert rules([OLD, soft, read(1, 4.1, 4.2, OLD), run(2, 9.0, 9.5, of=1, k0=1)]) == ["I3s"]
    assert rules([OLD, soft, read(1, 4.1, 4.2, OLD), run(2, 2.5, 4.5, of=1)], bounded=False) == []
    assert rules([OLD, soft, read(1, 4.1, 4.2, OLD), run(2, 2.5, 3.5, of=1)], bounded=False) == ["I3s"]
    late = run(1, 1.0, 2.95)
    assert rules([late, told(3, 3.05, 1, soft=True), read(1, 3.1, 3.2, late)]) == ["I3s"]
    assert rules([OLD, soft, read(1, 4.1, 4.2, OLD, verb="peek")]) == []
    assert rules([OLD, soft, read(1, 4.1, 4.2, OLD)], faults=True) == []


def test_i3s_no_longer_than_it_may_be_stale() -> None:
    """After a soft invalidation the old value is served only for as long as its header says."""
    history = [OLD, told(3, 4, 1, soft=True), NEW, read(0, 5.5, 5.6, OLD)]
    assert rules(history, serves_s=3.0) == []
    assert rules(history, serves_s=2.0) == ["I3s"]


def test_i4_backwards() -> None:
    """What was in the cache once is the oldest that anybody who begins later is given."""
    history = [OLD, NEW, read(0, 7, 8, NEW), read(0, 8.1, 8.2, OLD)]
    assert rules(history, bounded=False) == ["I4"]
    assert rules([OLD, NEW, read(0, 7, 8, NEW), read(0, 7.9, 8.2, OLD)], bounded=False) == []
    assert rules(history, near_s=1.0, bounded=False) == []


def test_i4_of_ones_own_run_promises_nothing() -> None:
    """What a process was given of its own run may never have been stored."""
    assert rules([OLD, NEW, read(1, 5, 6, NEW), read(1, 8.1, 8.2, OLD)], bounded=False) == []


def test_i5_runs_are_bounded() -> None:
    """One run for the entry, and one more for each invalidation, refresh, failure and interrupted caller."""
    twice = [OLD, run(2, 3.0, 4.0)]
    assert rules(twice) == ["I5"]
    assert rules(twice, bounded=False) == []
    assert rules([*twice, told(2.5, 2.6, 1, sure=False)]) == []
    assert rules([*twice, read(0, 3, 4, twice[1], verb="refresh")]) == []
    assert rules([OLD, twice[1]._replace(outcome="raised")]) == []
    assert rules([*twice, Read(0, 0, "task 2", "call", ENTRY, 1.0, 2.0, "cancelled")]) == []


def test_i5_under_faults_a_call_runs_once() -> None:
    """Where servers and processes are disturbed, no call makes more than one run."""
    calls = [read(0, 1, 2, OLD)]
    assert rules([OLD, run(2, 3.0, 4.0), *calls], faults=True) == []
    assert rules([OLD, run(2, 3.0, 4.0), run(3, 4.0, 4.5), *calls], faults=True) == ["I5"]


def test_i5_under_faults_a_call_inside_of_a_cancelled_one_counts() -> None:
    """An inner call's run is written down, and the call is not where its caller was cancelled."""
    calls = [read(0, 1, 2, OLD), Read(0, 0, "task 2", "call", "outer:0:0", 4.0, 4.5, "cancelled")]
    runs = [OLD, run(2, 3.0, 4.0), run(3, 4.0, 4.5)]
    assert rules([*runs, *calls], faults=True) == []
    assert rules([*runs, run(4, 5.0, 5.5), *calls], faults=True) == ["I5"]
    elsewhere = [OLD, run(2, 3.0, 3.5), run(3, 3.5, 3.9), *calls]
    assert rules(elsewhere, faults=True) == ["I5"], "no run began inside of the cancelled call"


def test_schedules_do_not_mix() -> None:
    """What one schedule invalidates says nothing of another's entries."""
    other = told(3, 4, 1)._replace(schedule=1)
    assert rules([OLD, other, read(1, 4.1, 4.2, OLD)]) == []


def test_a_history_survives_the_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is written down is read back the same, in the order of the events' ends."""
    path = tmp_path_factory.mktemp("history") / "1.jsonl"
    history: list[Event] = [
        OLD,
        read(0, 1, 2.5, OLD),
        told(3, 4, 1),
        Read(0, 1, "task 2", "peek", ENTRY, 4.0, 4.5, "miss"),
    ]
    save(path, reversed(history))
    assert load([path]) == history
    assert math.isinf(Terms().serves_s)
