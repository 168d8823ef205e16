"""Reads a history and says where it breaks a promise. Pure: events in, violations out.

====  ==================================================================================================================
I1    The value belongs to the entry that was asked for.
I2    The value was made: a run of the function returned it, for this entry, with these versions, before the read ended.
I3    A read that begins after an acknowledged hard invalidation is given nothing older than it. Where there is a near
      tier, that is said of reads that begin ``near_s`` after it; in the process that invalidated, at once. Under faults
      a process that can't reach the server may share a run that is under way in it: that much, and no more, is older.
I3r   The same of an invalidation that returned and was not acknowledged, and of reads in the process that tried it: it
      is told again before the server is asked anything else. One that was cancelled or interrupted promises nothing.
I3s   A read that begins after an acknowledged soft invalidation is given what is older only while that may be stale by
      its header, and only if a run for its successor has begun since the invalidation was sent, or is under way. (Not
      of ``peek``.)
I4    Nobody goes backwards: what one process has been given of another's run stood in the cache, and whoever begins to
      read after that is given nothing older. Near tier: nothing that is older by more than ``near_s``.
I5    Runs are bounded: one for the entry, one for each invalidation that reached it, for each ``refresh`` of it, for
      each run that raised and for each caller that was interrupted. Under faults: not more runs than calls, those
      inside of a caller that was interrupted among them.
====  ==================================================================================================================

"Older" is said cell by cell. An invalidation raised its cells to some versions before it was sent; a value is older
than it if the value's version of one of those cells is lower. A write without an invalidation promises nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from history.events import Cells, Event, Read, Run, Told, Value, kind_of

SERVER_CLOCK_S = 1.1
"""Memcached's clock ticks in whole seconds; by so much an age may be off."""

SUCCESSOR_S = 3.0
"""Seconds after a read was served something old in which the run for its successor must have begun."""

LANDING_S = 0.25
"""Seconds after the end of a run in which it is stored, and its waiters may still join it."""


class Terms(NamedTuple):
    """What a kind of function promises.

    ``near_s``: for how long the near tier may be behind. ``serves_s``: for how long after its run a value may be served
    at most, stale or not. ``bounded``: whether its runs are: nothing ends by itself while a history lasts.
    """

    near_s: float = 0.0
    serves_s: float = math.inf
    bounded: bool = True


class Violation(NamedTuple):
    """A promise that was broken: which rule, in which schedule, in words, and the events that show it."""

    rule: str
    schedule: int
    what: str
    events: tuple[Event, ...]


def check(history: Iterable[Event], terms: Mapping[str, Terms], *, faults: bool = False) -> list[Violation]:
    """The violations in a history.

    Args:
        history: the events of all processes, in any order.
        terms: what each kind of function promises; a kind that is not there promises the most.
        faults: whether servers and processes were disturbed; then successors may not run, and more runs may be needed.
    """
    schedules: dict[int, list[Event]] = defaultdict(list)
    for event in history:
        schedules[event.schedule].append(event)
    found: list[Violation] = []
    for number in sorted(schedules):
        found += _Schedule(number, schedules[number], terms, faults).violations()
    return found


class _Schedule:
    """One schedule's events, by what the rules ask for."""

    def __init__(self, number: int, events: list[Event], terms: Mapping[str, Terms], faults: bool) -> None:
        self.number, self.faults = number, faults
        self._terms = terms
        self.runs: dict[tuple[int, str], Run] = {}
        self.by_entry: dict[str, list[Run]] = defaultdict(list)
        self.reads: list[Read] = []
        self.told: list[Told] = []
        for event in sorted(events, key=lambda event: event.ended):
            if isinstance(event, Run):
                self.runs[event.run, event.entry] = event
                self.by_entry[event.entry].append(event)
            elif isinstance(event, Read):
                self.reads.append(event)
            else:
                self.told.append(event)
        self.given = [(read, read.value) for read in self.reads if read.value is not None]

    def violations(self) -> list[Violation]:
        found: list[Violation] = []
        for read, value in self.given:
            found += self._right(read, value)
            for told in self.told:
                if (
                    (told.acknowledged or self._replayed(told, read))
                    and _reaches(told, read.entry, value.cells)
                    and older(value.cells, told.cells)
                ):
                    found += self._stale(read, value, told)
        return found + self._backwards() + self._too_many_runs()

    def _replayed(self, told: Told, read: Read) -> bool:
        """Whether the reader's own process is to tell it before it asks the server anything (I3r)."""
        return told.of == read.of and not told.soft and told.outcome == "returned"

    def terms(self, entry: str) -> Terms:
        return self._terms.get(kind_of(entry), Terms())

    def _violation(self, rule: str, what: str, *events: Event | None) -> list[Violation]:
        return [Violation(rule, self.number, what, tuple(event for event in events if event is not None))]

    def _right(self, read: Read, value: Value) -> list[Violation]:
        """I1 and I2."""
        if value.entry != read.entry:
            return self._violation("I1", f"{read.entry} was asked for, {value.entry} was given", read)
        run = self.runs.get((value.run, value.entry))
        if run is None or run.outcome != "returned" or run.cells != value.cells:
            return self._violation("I2", f"no run has returned {value}", read, run)
        if run.ended > read.ended:
            return self._violation("I2", f"{value} was given before its run had ended", read, run)
        return []

    def _stale(self, read: Read, value: Value, told: Told) -> list[Violation]:
        """I3 and I3s, of a value that is older than an acknowledged invalidation that reaches it."""
        terms, run = self.terms(read.entry), self.runs.get((value.run, value.entry))
        after = read.began - told.ended
        if after <= (0.0 if read.of == told.of else terms.near_s):
            return []
        other = told.of != read.of
        if self.faults and other and run is not None and run.of == read.of and read.began <= run.ended + LANDING_S:
            return []  # joined a run without a lease, in a process that could not reach the server
        if not told.soft:
            rule = "I3" if told.acknowledged else "I3r"
            return self._violation(
                rule, f"{after * 1000:.1f} ms after {told.verb}: {dict(value.cells)}", told, read, run
            )
        if run is not None and read.began > run.ended + terms.serves_s + terms.near_s + SERVER_CLOCK_S:
            return self._violation("I3s", f"served {read.began - run.ended:.1f} s after it was made", told, read, run)
        if self.faults or read.verb == "peek" or after <= terms.near_s:
            return []
        if any(_refreshes(each, told, read, run) for each in self.by_entry[read.entry]):
            return []
        return self._violation("I3s", f"served old after {told.verb}, and nobody refreshes", told, read, run)

    def _backwards(self) -> list[Violation]:
        """I4."""
        stood: dict[str, list[tuple[float, Read, Value]]] = defaultdict(list)
        for read, value in self.given:
            run = self.runs.get((value.run, value.entry))
            if run is not None and run.of != read.of:  # no flight crosses processes: it came out of the cache
                stood[read.entry].append((read.ended + self.terms(read.entry).near_s, read, value))
        found: list[Violation] = []
        for read, value in self.given:
            for since, other, newer in stood.get(read.entry, ()):
                if since < read.began and older(value.cells, newer.cells):
                    what = f"{dict(value.cells)} is given after {dict(newer.cells)} was"
                    found += self._violation("I4", what, other, read, self.runs.get((value.run, value.entry)))
                    break
        return found

    def _too_many_runs(self) -> list[Violation]:
        """I5."""
        found: list[Violation] = []
        for entry, runs in self.by_entry.items():
            calls = [read for read in self.reads if read.entry == entry]
            if self.faults:
                lost = sum(run.of not in {call.of for call in calls} for run in runs)  # of a process that was killed
                bound = len(calls) + lost + self._cut_short(entry) + 1
            elif self.terms(entry).bounded:
                cells = {cell for run in runs for cell in run.cells}
                bound = 1 + sum(_reaches(told, entry, cells) for told in self.told)
                bound += sum(call.verb == "refresh" or call.outcome in ("cancelled", "interrupted") for call in calls)
                bound += sum(run.outcome == "raised" for run in runs)
            else:
                continue
            if len(runs) > bound:
                found += self._violation("I5", f"{len(runs)} runs for {entry}, where {bound} are allowed", *runs)
        return found

    def _cut_short(self, entry: str) -> int:
        """How many runs for the entry began inside of another entry's call that was cancelled or interrupted, and of
        none that was written down: the call of this entry was cut short with the one around it.
        """
        ended = [read for read in self.reads if read.entry == entry]
        cut = [read for read in self.reads if read.entry != entry and read.outcome in ("cancelled", "interrupted")]
        runs = self.by_entry[entry]
        return sum(
            any(_holds(read, run) for read in cut) and not any(_holds(read, run) for read in ended) for run in runs
        )


def _holds(read: Read, run: Run) -> bool:
    """Whether the run began while that call went on, in the same process."""
    return read.of == run.of and read.began <= run.began <= read.ended


def _refreshes(run: Run, told: Told, read: Read, given: Run | None) -> bool:
    """Whether the run is for a successor of what ``read`` was given, the result of ``given``: begun since the
    invalidation, or later than that result and under way still.
    """
    if run.began >= told.began:
        return run.began <= read.ended + SUCCESSOR_S
    return given is not None and run.began >= given.ended and run.ended + LANDING_S >= read.began


def older(cells: Cells, than: Cells) -> bool:
    """Whether one of the cells that both have has a lower version in the first."""
    return any(cells.get(cell, version) < version for cell, version in than.items())


def _reaches(told: Told, entry: str, cells: Iterable[str]) -> bool:
    return told.entry == entry if told.entry else any(cell in told.cells for cell in cells)
