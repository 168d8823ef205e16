"""R16: histories of several processes under invalidations of every kind, checked (docs/design/history)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

from benchmarks.report import Section
from benchmarks.startup import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from history.arena import CALM, OUTAGES, STORM, Arena
from history.kinds import OUTER
from history.soak import Outcome, soak
from history.twins import TWINS

FIGURES = ("R16",)
SEED = 1
KEPT = ROOT / "build" / "histories"
"""Where histories go that violate something."""

CALM_SCHEDULES, STORM_SCHEDULES, OUTAGE_SCHEDULES, QUICK = 10_000, 1_500, 500, 20
TWIN_SCHEDULES = 200

NOTES = (
    (
        "a schedule: two processes, each with two threads and two tasks, work on up to three entries of one function on"
        " three servers, with two to six calls or invalidations each, and read everything once more at the end"
    ),
    (
        f"{len(OUTER)} kinds of functions in turn: fresh, stale, background, sliding, failing, batch, tagged, in a"
        " namespace, naming tags in the run, nested, near"
    ),
    (
        "rules: the value belongs to the key; it was written; nothing older than an acknowledged invalidation; nobody"
        " goes backwards; runs are bounded"
    ),
    (
        "storm: servers are killed, stopped, emptied and cut off, wires delay, split and cut, calls are cancelled and"
        " interrupted, workers fork and are killed; outages: servers are cut off, and come back with their old memory"
    ),
    "second table: builds with one guard taken out must each break a rule that the guard is there for",
)


def sections(quick: bool) -> Iterator[Section]:
    share = QUICK if quick else 1
    columns = ("what goes on", "schedules", "reads", "runs", "acknowledged", "not acknowledged", "violations")
    parts = (
        ("no faults", CALM, CALM_SCHEDULES), ("storm", STORM, STORM_SCHEDULES), ("outages", OUTAGES, OUTAGE_SCHEDULES)
    )  # fmt: skip
    rows = []
    for name, disturbance, schedules in parts:
        with Arena(schedules // share, seed=SEED, disturbance=disturbance) as arena:
            rows.append((name, *_figures(soak(arena, schedules // share, KEPT / name.replace(" ", "-")))))
    title = f"histories checked, {CALM_SCHEDULES // share} schedules without faults"
    yield Section("R16", title, columns, tuple(rows), "0 violations", NOTES)
    twins = [_twin(name) for name in TWINS]
    yield Section("R16", "broken builds", ("taken out", "schedules", "rules broken"), tuple(twins), "every one caught")


def _figures(outcome: Outcome) -> tuple[str, ...]:
    counts = outcome.counts
    reads = sum(count for name, count in counts.items() if name.startswith("reads"))
    told = (counts["invalidations acknowledged"], counts["invalidations not acknowledged"])
    rules = Counter(violation.rule for violation in outcome.violations)
    broken = ", ".join(f"{rule}: {count}" for rule, count in sorted(rules.items())) or "0"
    return (*map(str, (outcome.schedules, reads, counts["runs"], *told)), broken)


def _twin(name: str) -> tuple[str, ...]:
    twin = TWINS[name]
    disturbance = OUTAGES if twin.outages else CALM
    with Arena(TWIN_SCHEDULES, seed=SEED, kinds=twin.kinds, twin=name, disturbance=disturbance) as arena:
        outcome = soak(arena, TWIN_SCHEDULES)
    rules = sorted({violation.rule for violation in outcome.violations})
    return name, str(TWIN_SCHEDULES), ", ".join(rules) or "none: not caught"
