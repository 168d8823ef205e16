"""``make soak``: thousands of schedules, checked; prints seed, counts and violations, and keeps what shows them.

``make soak ARGS="--schedules 500 --storm 0"``. A violation's schedule is run again, many times, by its seed:
``ARGS="--seed S --same --schedules 200 --storm 0"``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from history.arena import CALM, OUTAGES, STORM, Arena
from history.checker import Violation, check
from history.events import Event, Read, Run, save
from history.kinds import OUTER, TERMS
from history.twins import TWINS

_CHUNK = 200


class Outcome(NamedTuple):
    """What came of many schedules: how often events of each kind, violations, and the seconds that it took."""

    schedules: int
    counts: Counter[str]
    violations: list[Violation]
    seconds: float


def soak(arena: Arena, schedules: int, keep: Path | None = None) -> Outcome:
    """Run so many schedules in the arena, and check them, some hundreds at a time.

    ``keep``: a folder for the histories of schedules that violate something, one file each.
    """
    counts: Counter[str] = Counter()
    violations: list[Violation] = []
    began = time.monotonic()
    for first in range(0, schedules, _CHUNK):
        history = arena.run(min(_CHUNK, schedules - first))
        counts.update(_counted(history))
        found = check(history, TERMS, faults=arena.disturbance != CALM)
        violations += found
        if keep is not None and found:
            _keep(keep, arena.seed, history, found)
    counts.update(arena.counts)
    return Outcome(schedules, counts, violations, time.monotonic() - began)


def _counted(history: Sequence[Event]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for event in history:
        if isinstance(event, Read):
            counts[f"reads {event.outcome}"] += 1
        elif isinstance(event, Run):
            counts["runs"] += 1
        else:
            counts[f"invalidations {'acknowledged' if event.acknowledged else 'not acknowledged'}"] += 1
    return counts


def _keep(folder: Path, seed: int, history: Sequence[Event], found: Sequence[Violation]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in sorted({violation.schedule for violation in found}):
        save(folder / f"{seed + number}.jsonl", [event for event in history if event.schedule == number])
        lines = [f"{each.rule}: {each.what}\n    " + "\n    ".join(map(str, each.events)) for each in found
                 if each.schedule == number]  # fmt: skip
        (folder / f"{seed + number}.txt").write_text("\n".join(lines) + "\n")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where something was violated."""
    parser = argparse.ArgumentParser(prog="make soak", description="Histories of many processes, checked.")
    parser.add_argument("--schedules", type=int, default=10_000, help="how many without faults")
    parser.add_argument("--storm", type=int, default=2_000, help="how many while everything is disturbed")
    parser.add_argument("--outages", type=int, default=1_000, help="how many while servers are cut off now and then")
    parser.add_argument("--seed", type=int, default=0, help="that of the first schedule; by the clock if not given")
    parser.add_argument("--same", action="store_true", help="every schedule is the one of the seed")
    parser.add_argument("--kinds", default=",".join(OUTER), help="kinds of functions; they are part of the seed")
    parser.add_argument("--twin", default="", choices=["", *TWINS], help="a build with that guard taken out")
    parser.add_argument("--watch", action="store_true", help="caches watch the servers")
    parser.add_argument("--keep", type=Path, default=Path("build/histories"), help="where violations' histories go")
    options = parser.parse_args(arguments)
    seed, violations = options.seed or int(time.time()), 0
    parts = ((options.schedules, CALM, "calm"), (options.storm, STORM, "storm"), (options.outages, OUTAGES, "outages"))
    for schedules, disturbance, name in parts:
        if not schedules:
            continue
        _say(f"{name}: seed {seed}, {schedules} schedules")
        kinds, step = options.kinds.split(","), 0 if options.same else 1
        with Arena(
            schedules,
            seed=seed,
            step=step,
            kinds=kinds,
            twin=options.twin,
            disturbance=disturbance,
            watch=options.watch,
        ) as arena:
            outcome = soak(arena, schedules, options.keep / name)
        _tell(outcome, seed)
        violations += len(outcome.violations)
    if violations:
        _say(f"histories: {options.keep}/")
    return 1 if violations else 0


def _tell(outcome: Outcome, seed: int) -> None:
    for name, count in sorted(outcome.counts.items()):
        _say(f"    {name}: {count}")
    _say(f"    {outcome.seconds:.0f} s, {len(outcome.violations)} violations")
    for rule, count in sorted(Counter(each.rule for each in outcome.violations).items()):
        _say(f"        {rule}: {count}")
    for each in outcome.violations[:5]:
        _say(f"        seed {seed + each.schedule}: {each.rule}: {each.what}")


if __name__ == "__main__":
    sys.exit(main())
