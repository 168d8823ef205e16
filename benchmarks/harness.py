"""Interleaved rounds: A B C A B C …, and the ratio of each to a baseline, round by round.

An absolute time says more about the machine than about the code, so a result is a ratio: in each round every contestant
runs a few samples right after the one before; a round's figure is the median of its samples; a ratio is taken inside
one round, and the result is the median of the rounds' ratios. What disturbs the machine for longer than a round
disturbs
both sides of a ratio. The garbage collector runs before each round and is off inside the samples, for everyone alike.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Contestant:
    """One side of a race.

    `run` is one sample: it makes `calls` calls. `before` prepares a sample and isn't timed.
    """

    name: str
    run: Callable[[], object]
    calls: int
    before: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True)
class Ratio:
    """A contestant over a baseline: the per-round ratios' median and quartiles, and that of the fastest samples."""

    median: float
    low: float
    high: float
    fastest: float


@dataclass(frozen=True, slots=True)
class Race:
    """What a race measured: per contestant and round, the seconds per call of each sample."""

    times: Mapping[str, Sequence[Sequence[float]]]
    failed: Mapping[str, str] = field(default_factory=dict[str, str])

    def rounds(self, name: str) -> list[float]:
        """Seconds per call, one figure a round: the median of its samples."""
        return [statistics.median(samples) for samples in self.times[name]]

    def median_us(self, name: str) -> float:
        return statistics.median(self.rounds(name)) * 1e6

    def minimum_us(self, name: str) -> float:
        return min(min(samples) for samples in self.times[name]) * 1e6

    def ratio(self, name: str, baseline: str) -> Ratio:
        ratios = [mine / theirs for mine, theirs in zip(self.rounds(name), self.rounds(baseline), strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else (ratios * 3)
        return Ratio(statistics.median(ratios), low, high, self.minimum_us(name) / self.minimum_us(baseline))


def race(contestants: Sequence[Contestant], *, rounds: int, samples: int, clock: Clock = time.perf_counter) -> Race:
    """Run the contestants in interleaved rounds.

    Args:
        contestants: one that raises in its warm-up is left out, and named in `failed`.
        rounds: how many times everybody runs.
        samples: how many samples each takes in a round.
        clock: seconds; `time.thread_time` measures CPU instead of the time on the wall.
    """
    failed: dict[str, str] = {}
    fit = [contestant for contestant in contestants if _warmed_up(contestant, failed)]
    times: dict[str, list[list[float]]] = {contestant.name: [] for contestant in fit}
    for _ in range(rounds):
        with _collector_off():
            for contestant in fit:
                times[contestant.name].append(_samples(contestant, samples, clock))
    return Race(times, failed)


def _warmed_up(contestant: Contestant, failed: dict[str, str]) -> bool:
    try:
        _samples(contestant, 2, time.perf_counter)
    except Exception as error:
        failed[contestant.name] = f"{type(error).__name__}: {error}"[:120]
        return False
    return True


def _samples(contestant: Contestant, count: int, clock: Clock) -> list[float]:
    run, before, calls = contestant.run, contestant.before, contestant.calls
    taken: list[float] = []
    for _ in range(count):
        if before is not None:
            before()
        start = clock()
        run()
        taken.append((clock() - start) / calls)
    return taken


@contextmanager
def _collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def on_one_core(pids: Sequence[int]) -> Iterator[None]:
    """Put this thread and the servers on one core for the length of a with block (Linux; elsewhere nothing happens).

    On a small virtual machine, waking a core that sleeps costs several times the work of a request, and hides what the
    clients cost. On one core a round trip is two context switches, so a ratio shows more of the client's own work: it
    is the
    stricter measure.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    core = {max(before)}
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), core)
    os.sched_setaffinity(0, core)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
