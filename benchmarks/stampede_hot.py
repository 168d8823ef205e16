"""P10: sixteen processes call for a hot key without a pause, and it ends once a second."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from multiprocessing.sharedctypes import RawArray
from typing import Any, NamedTuple

from benchmarks import stampede_cold
from benchmarks.adapters import named
from benchmarks.herd import Herd, Serve, await_moment, soon
from benchmarks.report import Section
from benchmarks.servers import servers

FIGURES = ("P10",)
PROCESSES = 16
TTL_S = 1
FUNCTION_S = 0.050
SLOW_S = 0.100
WAITED_S = FUNCTION_S / 2
CONTROL = "raw"
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
        title = "control: raw, a value that never ends" if name == CONTROL else name
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
    peers = [name for name in stampede_cold.contestants() if not name.startswith("cachekit")]
    if quick:
        peers = [name for name in peers if stampede_cold.protected(name) or name in QUICK_PEERS]
    return [*ours, CONTROL, *peers]


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
        "–" if name == CONTROL else f"{max(each.oldest_s for each in told):.2f} s",
    )


def member(number: int, name: str, address: str, runs: Any) -> Serve:
    kind = named(name)
    adapter = (kind if name == CONTROL else kind.with_ttl(TTL_S))([address])

    def report(key: int) -> list[float]:
        if not key:
            runs[number] += 1
            time.sleep(FUNCTION_S)
        return [time.monotonic()]

    report.__qualname__ = "report"
    decorated: Any = adapter.decorate(report)
    adapter.result(decorated(1 + number))  # connects
    waits = (lambda: decorated.info().waits) if name.startswith("cachekit") else (lambda: None)

    def serve(message: tuple[float, float]) -> Told:
        clock, result = time.monotonic, adapter.result
        began, seconds = message
        await_moment(began)
        made: float = result(decorated(0))[0]
        before = waits()
        calls, oldest, end = 1, 0.0, began + seconds
        cold, slow = made - began, [(0.0, clock() - began)]
        slowest = (0.0, 0.0)
        while (start := clock()) < end:
            made = result(decorated(0))[0]
            now = clock()
            calls += 1
            took = now - start
            if took > WAITED_S:
                slow.append((start - began, took))
            elif took > slowest[1] and start - began > cold:
                slowest = (start - began, took)
            oldest = max(oldest, now - made)
        waited = None if before is None else waits() - before
        return Told(calls, [*slow, slowest], cold, oldest, waited)

    return serve
