"""P10: sixteen processes call for a hot key without a pause, and it ends once a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.sharedctypes import RawArray
from typing import Any, NamedTuple

from benchmarks import stampede_cold
from benchmarks.adapters import named
from benchmarks.adapters.base import AsyncAdapter, Function
from benchmarks.herd import Herd, Serve, await_moment, soon
from benchmarks.report import Section
from benchmarks.servers import servers

FIGURES = ("P10",)
PROCESSES = 16
TTL_S = 1
FUNCTION_S = 0.050
SLOW_S = 0.100
WAITED_S = FUNCTION_S / 2
CONTROL, CONTROL_AIO = "raw", "raw (asyncio)"
QUICK_PEERS = ("pylibmc", "dogpile.cache + pylibmc")

NOTES = (
    f"the function sleeps {FUNCTION_S * 1000:.0f} ms; the cold fill at the beginning is one of the runs",
    (
        f"'waited': calls over {WAITED_S * 1000:.0f} ms that began after the cold fill; where a caller refreshes the"
        " value himself (inline) he is one of them; 'waits': what `info()` counts, after the cold fill"
    ),
    (
        "control: the raw decorator on a value that does not end, so its slow calls are the machine's own: seventeen"
        " processes share its cores"
    ),
    "plain cachekit has no stale: one caller refreshes early (β = 1), and whoever comes after the end waits",
    (
        "meta-memcache tuned: kept for 3 s, one caller refreshes when less than 2 s are left (the server's clock ticks"
        " in whole seconds)"
    ),
    (
        f"asyncio: {stampede_cold.TASKS} tasks in each process call without a pause; the function awaits asyncio.sleep;"
        " compare it with its own control, since a call waits for the other tasks of its loop as well"
    ),
)


class Told(NamedTuple):
    """What one process saw; seconds. ``slow``: start (since the beginning) and length of each call that was not quick.
    ``cold_s``: when its first value was made.
    """

    calls: int
    slow: Sequence[tuple[float, float]]
    cold_s: float
    oldest_s: float
    waits: int | None


def sections(quick: bool) -> Iterator[Section]:
    seconds = 3 if quick else 6
    rows = []
    for name in contestants(quick):
        shown = stampede_cold.title(name)
        title = f"control: {shown}, a value that never ends" if name in (CONTROL, CONTROL_AIO) else shown
        try:
            rows.append((title, *hot(name, seconds)))
        except Exception as error:
            rows.append((title, f"failed: {type(error).__name__}: {error}"))
    columns = (
        "contestant", "runs", "calls", f"over {SLOW_S * 1000:.0f} ms", "waited", "waits", "slowest after the cold fill",
        "oldest value served",
    )  # fmt: skip
    goal = f"with stale and background: ≤ {seconds // TTL_S} runs, 0 calls over 100 ms, 0 waited"
    title = f"hot key, ttl {TTL_S} s, {PROCESSES} processes, {seconds} s"
    yield Section("P10", title, columns, tuple(rows), goal, NOTES)


def contestants(quick: bool) -> list[str]:
    ours = ["cachekit, stale, background", "cachekit, stale, inline", "cachekit"]
    ours += ["cachekit, stale, background (asyncio)", "cachekit, stale, inline (asyncio)", "cachekit (asyncio)"]
    peers = [name for name in stampede_cold.contestants() if not name.startswith("cachekit")]
    if quick:
        peers = [name for name in peers if stampede_cold.protected(name) or name in QUICK_PEERS]
    return [*ours, CONTROL, CONTROL_AIO, *peers]


def hot(name: str, seconds: float) -> tuple[str, ...]:
    runs = RawArray("q", PROCESSES)
    with servers(1) as (server,), Herd(PROCESSES, member, name, server.address, runs) as herd:
        told: list[Told] = herd.ask((soon(), seconds), seconds + 30.0)
        ran = sum(runs)
    slow = [call for each in told for call in each.slow]
    later = [took for each in told for start, took in each.slow if start > each.cold_s]
    waits = [each.waits for each in told if each.waits is not None]
    return (
        str(ran),
        str(sum(each.calls for each in told)),
        str(sum(took > SLOW_S for _, took in slow)),
        str(sum(took > WAITED_S for took in later)),
        str(sum(waits)) if waits else "–",
        f"{max(later, default=0.0) * 1000:.0f} ms",
        "–" if name in (CONTROL, CONTROL_AIO) else f"{max(each.oldest_s for each in told):.2f} s",
    )


class Watch:
    """What one process sees, call by call."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.calls, self.oldest_s, self.cold_s = 0, 0.0, 0.0
        self.slow: list[tuple[float, float]] = []
        self.slowest = (0.0, 0.0)

    def first(self, made: float) -> None:
        """The cold fill."""
        self.calls += 1
        self.cold_s = max(self.cold_s, made - self.began)
        self.slow.append((0.0, time.monotonic() - self.began))

    def note(self, start: float, made: float) -> None:
        """A call that began at ``start`` and answered what was made at ``made``."""
        now = time.monotonic()
        self.calls += 1
        took = now - start
        if took > WAITED_S:
            self.slow.append((start - self.began, took))
        elif took > self.slowest[1] and start - self.began > self.cold_s:
            self.slowest = (start - self.began, took)
        self.oldest_s = max(self.oldest_s, now - made)

    def told(self, waited: int | None) -> Told:
        return Told(self.calls, [*self.slow, self.slowest], self.cold_s, self.oldest_s, waited)


def member(number: int, name: str, address: str, runs: Any) -> Serve:
    kind = named(name)
    adapter = (kind if name in (CONTROL, CONTROL_AIO) else kind.with_ttl(TTL_S))([address])

    def report(key: int) -> list[float]:
        if not key:
            runs[number] += 1
            time.sleep(FUNCTION_S)
        return [time.monotonic()]

    async def report_async(key: int) -> list[float]:
        if not key:
            runs[number] += 1
            await asyncio.sleep(FUNCTION_S)
        return [time.monotonic()]

    report.__qualname__ = report_async.__qualname__ = "report"
    decorated: Any = adapter.decorate(report_async if adapter.asynchronous else report)
    adapter.result(decorated(1 + number))  # connects
    waits: Waits = (lambda: decorated.info().waits) if name.startswith("cachekit") else (lambda: None)
    load = of_tasks(adapter, decorated) if isinstance(adapter, AsyncAdapter) else of_one(decorated)

    def serve(message: tuple[float, float]) -> Told:
        began, seconds = message
        await_moment(began)
        watch = Watch(began)
        before = load(watch, began + seconds, waits)
        return watch.told(None if before is None else waits() - before)

    return serve


Waits = Callable[[], Any]
Work = Callable[[Watch, float, Waits], int | None]
"""Calls until a moment (monotonic seconds); returns the count of waits just after the cold fill."""


def of_one(decorated: Function) -> Work:
    def work(watch: Watch, end: float, waits: Waits) -> int | None:
        watch.first(decorated(0)[0])
        before: int | None = waits()
        start = time.monotonic()
        while start < end:
            watch.note(start, decorated(0)[0])
            start = time.monotonic()
        return before

    return work


def of_tasks(adapter: AsyncAdapter, decorated: Function) -> Work:
    async def task(watch: Watch, end: float) -> None:
        start = time.monotonic()
        while start < end:
            watch.note(start, (await decorated(0))[0])
            start = time.monotonic()

    async def together(watch: Watch, end: float, waits: Waits) -> int | None:
        tasks = range(stampede_cold.TASKS)
        for (made,) in await asyncio.gather(*[decorated(0) for _ in tasks]):
            watch.first(made)
        before: int | None = waits()
        await asyncio.gather(*[task(watch, end) for _ in tasks])
        return before

    def work(watch: Watch, end: float, waits: Waits) -> int | None:
        before: int | None = adapter.wait(together(watch, end, waits))
        return before

    return work
