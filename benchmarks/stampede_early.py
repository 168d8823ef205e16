"""Early refresh with a claim, against early refresh alone: how often a value is computed in a lifetime of its own.

XFetch lets every reader draw for himself whether the value is due. While the first one computes, the others go on
drawing, and some of them compute it too; the claim leaves that to one.
"""

from __future__ import annotations

import itertools
import math
import pickle
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import quantiles
from typing import Any, NamedTuple

from benchmarks.adapters import named
from benchmarks.adapters.base import Function
from benchmarks.herd import Herd, Serve, await_moment, soon
from benchmarks.report import Section
from benchmarks.servers import MemcachedProcess, servers

FIGURES = ("early",)
PROCESSES, THREADS = 5, 10
KEYS = 10
PER_SECOND = 100
OURS, CONTROL = "cachekit", "XFetch by hand, no claim (control)"

NOTES = (
    (
        f"{PROCESSES} processes × {THREADS} threads for each contestant; {KEYS} keys, each asked for {PER_SECOND} times"
        " a second in all, at random moments; both contestants at the same time, each on a server of its own"
    ),
    (
        "recomputes per ttl of one key: its runs after the first, over the time from the first run's start to the last"
        " one's, in ttls; median and quartiles over the keys"
    ),
    (
        "'waited': calls that took more than half of the function's time and did not run it themselves:"
        " they came after the end of the value while a refresh that was begun late went on; by hand they run it as well"
    ),
)


class Setting(NamedTuple):
    """A load: the lifetime and the function's time in seconds, and for how many lifetimes it lasts."""

    ttl_s: int
    function_s: float
    ttls: int


class Told(NamedTuple):
    """What one process did: calls, calls that waited, and (key, start in monotonic seconds) of each run."""

    calls: int
    waited: int
    runs: Sequence[tuple[int, float]]


def sections(quick: bool) -> Iterator[Section]:
    settings = (Setting(20, 0.5, 3 if quick else 10), Setting(2, 0.05, 10 if quick else 30))
    columns = (
        "contestant", "recomputes per ttl", "quartiles", "most", "runs", "calls", "waited", "latest / earliest refresh",
    )  # fmt: skip
    for setting in settings:
        rows = [(name, *row(told, setting)) for name, told in loads(setting).items()]
        millis = setting.function_s * 1000
        title = f"early refresh, ttl {setting.ttl_s} s, function {millis:.0f} ms, {setting.ttls} ttls"
        yield Section("early", title, columns, tuple(rows), "≤ 1.3 recomputes per ttl", NOTES)


def loads(setting: Setting) -> dict[str, list[Told]]:
    """Both contestants under that load, at the same time."""
    with ExitStack() as stack:
        running: Sequence[MemcachedProcess] = stack.enter_context(servers(2))
        herds = {
            name: stack.enter_context(Herd(PROCESSES, member, name, server.address, setting))
            for name, server in zip((OURS, CONTROL), running, strict=True)
        }
        began = soon() + 2 * setting.function_s + 0.5
        end = began + setting.ttls * setting.ttl_s
        for herd in herds.values():
            herd.tell((began, end))
        return {name: herd.hear(end - time.monotonic() + 60.0) for name, herd in herds.items()}


def row(told: Sequence[Told], setting: Setting) -> tuple[str, ...]:
    starts: dict[int, list[float]] = defaultdict(list)
    for each in told:
        for key, start in each.runs:
            starts[key].append(start)
    rates, between = [], []
    for each_key in starts.values():
        each_key.sort()
        later = len(each_key) - 1
        rates.append(later * setting.ttl_s / (each_key[-1] - each_key[0]) if later else 0.0)
        between += [after - before for before, after in itertools.pairwise(each_key)]
    low, median, high = quantiles(rates, n=4)
    calls, waited = sum(each.calls for each in told), sum(each.waited for each in told)
    # Runs that began soon after another are no refresh of what that one made, but beside it.
    real = [gap - setting.function_s for gap in between if gap > setting.ttl_s / 2] or [0.0]
    return (
        f"{median:.2f}",
        f"{low:.2f}–{high:.2f}",
        f"{max(rates):.2f}",
        str(sum(map(len, starts.values()))),
        str(calls),
        str(waited),
        f"at an age of {max(real):.1f} s / {min(real):.1f} s",
    )


def member(number: int, name: str, address: str, setting: Setting) -> Serve:
    runs: list[tuple[int, float]] = []
    ran = threading.local()

    def report(key: int) -> list[float]:
        runs.append((key, time.monotonic()))
        ran.here = True
        time.sleep(setting.function_s)
        return [key]

    report.__qualname__ = "report"
    decorated = by_hand(address, report, setting.ttl_s) if name == CONTROL else ours(address, report, setting.ttl_s)

    def worker(dice: random.Random, end: float) -> tuple[int, int]:
        calls = waited = 0
        due = time.monotonic()
        while True:
            due = max(due, time.monotonic()) + dice.expovariate(KEYS * PER_SECOND / (PROCESSES * THREADS))
            if due >= end:
                return calls, waited
            await_moment(due)
            start, ran.here = time.monotonic(), False
            decorated(dice.randrange(KEYS))
            calls += 1
            waited += not ran.here and time.monotonic() - start > setting.function_s / 2

    def serve(message: tuple[float, float]) -> Told:
        began, end = message
        with ThreadPoolExecutor(THREADS) as crew:
            if number == 0:  # the cold fills, so that nobody else's run is in the way
                list(crew.map(decorated, range(KEYS)))
            await_moment(began)
            counts = list(crew.map(lambda slot: worker(random.Random(f"{number} {slot}"), end), range(THREADS)))
        return Told(sum(calls for calls, _ in counts), sum(waited for _, waited in counts), runs)

    return serve


def ours(address: str, function: Function, ttl_s: int) -> Function:
    return named("cachekit").with_ttl(ttl_s)([address]).decorate(function)


def by_hand(address: str, function: Function, ttl_s: int) -> Function:
    """XFetch as its paper has it (PVLDB 8(8), 2015, β = 1) on get and set."""
    client: Any = named("pymemcache PooledClient")([address])

    def wrapper(key: int) -> Any:
        stored = client.get(str(key))
        if stored is not None:
            value, delta_s, ends = pickle.loads(stored)
            if time.time() - delta_s * math.log(1.0 - random.random()) < ends:
                return value
        return store(key)

    def store(key: int) -> Any:
        start = time.time()
        value = function(key)
        now = time.time()
        client.set_for(str(key), pickle.dumps((value, now - start, now + ttl_s)), ttl_s + 1)
        return value

    made: Callable[[int], Any] = wrapper
    return made
