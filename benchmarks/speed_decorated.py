"""P4, P6 and P7: a decorated function against the raw decorator (repr and BLAKE2b for the key, pickle)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import count, islice

from benchmarks.adapters.base import Adapter, Function
from benchmarks.entrants import decorating, entrants
from benchmarks.harness import Contestant, Race, on_one_core, race
from benchmarks.report import Section, ratio_section
from benchmarks.servers import MemcachedProcess, servers
from benchmarks.speed_direct import FREE_CORES, ONE_CORE

FIGURES = ("P4", "P6", "P7")
USERS = 50
THREADS = 8
CALLS_A_THREAD = 100
CREW_LIMIT_S = 30.0
MONTH = "2026-11"


def report(user_id: int, part: str, *, month: str) -> dict[str, object]:
    """The cached function: three arguments, a dict of ten fields."""
    return {
        "user_id": user_id,
        "part": part,
        "month": month,
        "name": "Ada Lovelace",
        "visits": 1815,
        "score": 0.75,
        "active": True,
        "note": None,
        "tags": ["engine", "notes", "table"],
        "address": "12 St James's Square, London",
    }


def sections(quick: bool) -> Iterator[Section]:
    with servers(1) as one:
        rounds = 7 if quick else 25
        result = run(one, hits, rounds=rounds, one_core=True)
        yield ratio_section("P4", "decorated hit, dict of 10 fields", result, ["raw"], goal="≤ 1.20", notes=(ONE_CORE,))
        result = run(one, misses, rounds=rounds, one_core=True)
        notes = ("raw: a get that misses, the function, a set; the key and pickle are in it", ONE_CORE)
        yield ratio_section("P6", "decorated miss", result, ["raw"], goal="≤ 1.25", notes=notes)
        yield threads(one, quick)


def threads(running: Sequence[MemcachedProcess], quick: bool) -> Section:
    crews: list[Crew] = []
    result = run(running, threaded_hits(running, crews), rounds=7 if quick else 21, samples=1, one_core=False)
    for crew in crews:
        crew.dismiss()
    rows: list[tuple[str, ...]] = []
    for name in sorted(result.times, key=result.median_us):
        ratio = result.ratio("raw", name)  # throughput is the inverse of time
        rows.append(
            (name, f"{ratio.median:.2f}", f"{ratio.low:.2f}–{ratio.high:.2f}", f"{1e6 / result.median_us(name):.0f}")
        )
    rows += [(name, "–", "–", f"failed: {error}") for name, error in result.failed.items()]
    columns = ("contestant", "throughput over raw", "quartiles", "calls/s here")
    notes = ("raw and what is not thread-safe keep a client for each thread; asyncio peers are left out", FREE_CORES)
    return Section("P7", f"{THREADS} threads, decorated hits", columns, tuple(rows), "≥ 0.9", notes)


def run(
    running: Sequence[MemcachedProcess],
    build: Callable[[Adapter], Contestant | None],
    *,
    rounds: int,
    samples: int = 4,
    one_core: bool,
) -> Race:
    place = on_one_core([server.pid for server in running]) if one_core else nullcontext()
    classes = [adapter for adapter in decorating() if adapter.name != "raw ring"]
    with place, entrants(running, classes) as entered:
        contestants: list[Contestant] = []
        for adapter in entered.adapters:
            try:
                contestant = build(adapter)
            except Exception as error:
                entered.failed[adapter.name] = f"{type(error).__name__}: {error}"[:120]
            else:
                contestants += [contestant] if contestant else []
        result = race(contestants, rounds=rounds, samples=samples)
    return Race(result.times, {**entered.failed, **result.failed})


def hits(adapter: Adapter) -> Contestant:
    """Every call is a hit: checked by counting the runs of the function."""
    function, runs = counted()
    decorated = adapter.decorate(function)
    sample = adapter.calls(decorated, range(1, USERS + 1))
    sample()
    before = len(runs)
    sample()
    if len(runs) != before:
        raise RuntimeError(f"{len(runs) - before} of {USERS} calls were no hits")
    if adapter.result(decorated(1, adapter.part, month=MONTH)) != report(1, adapter.part, month=MONTH):
        raise RuntimeError("another result than the function's")
    return Contestant(display(adapter), sample, USERS)


def misses(adapter: Adapter) -> Contestant:
    """Every call is a miss: a user_id that nobody had before."""
    function, runs = counted()
    decorated = adapter.decorate(function)
    fresh = count(1_000_000)
    run_some = adapter.calls

    def sample() -> None:
        run_some(decorated, islice(fresh, USERS))()

    sample()
    if len(runs) != USERS:
        raise RuntimeError(f"the function ran {len(runs)} times for {USERS} misses")
    runs.stop()
    return Contestant(display(adapter), sample, USERS)


def threaded_hits(running: Sequence[MemcachedProcess], crews: list[Crew]) -> Callable[[Adapter], Contestant | None]:
    """A contestant whose sample is a round of calls in every thread of its crew at once."""
    addresses = [server.address for server in running]

    def build(adapter: Adapter) -> Contestant | None:
        if adapter.asynchronous:
            return None
        decorated = adapter.decorate(report)
        adapter.calls(decorated, range(1, USERS + 1))()
        per_thread = type(adapter)
        make = (lambda: decorated) if adapter.thread_safe else (lambda: per_thread(addresses).decorate(report))
        crews.append(Crew(make, adapter.part))
        return Contestant(display(adapter), crews[-1].sample, CALLS_A_THREAD * THREADS)

    return build


class Crew:
    """Threads that stay: many libraries keep a connection per thread, and connecting is not what P7 is about."""

    def __init__(self, make: Callable[[], Function], part: str) -> None:
        self._make, self._part = make, part
        self._error: Exception | None = None
        self._gate = threading.Barrier(THREADS + 1, timeout=CREW_LIMIT_S)
        for _ in range(THREADS):
            threading.Thread(target=self._work, daemon=True).start()

    def sample(self) -> None:
        try:
            self._gate.wait()
            self._gate.wait()
        except threading.BrokenBarrierError:
            raise self._error or TimeoutError(f"the threads did not end within {CREW_LIMIT_S:.0f} s") from None

    def dismiss(self) -> None:
        self._gate.abort()

    def _work(self) -> None:
        try:
            decorated, part = self._make(), self._part
            while True:
                self._gate.wait()
                for call in range(CALLS_A_THREAD):
                    decorated(1 + call % USERS, part, month=MONTH)
                self._gate.wait()
        except threading.BrokenBarrierError:
            return
        except Exception as error:  # the sample fails, and the contestant is named as failed
            self._error = error
            self._gate.abort()


class Runs(list[int]):
    """The runs of a function, until nobody counts any more."""

    counting = True

    def stop(self) -> None:
        self.counting = False


def counted() -> tuple[Function, Runs]:
    runs = Runs()

    def report_counted(user_id: int, part: str, *, month: str) -> dict[str, object]:
        if runs.counting:
            runs.append(user_id)
        return report(user_id, part, month=month)

    report_counted.__qualname__ = "report"
    return report_counted, runs


def display(adapter: Adapter) -> str:
    return f"by hand on {adapter.name}" if adapter.decorated_by_hand else adapter.name
