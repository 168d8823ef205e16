"""R2: one of three servers is stopped (SIGSTOP): it still accepts connections and never answers."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.adapters.base import Adapter
from benchmarks.paced import load
from benchmarks.report import Section
from benchmarks.servers import servers
from benchmarks.trial import Running, side_by_side, synchronous

FIGURES = ("R2",)
PER_SECOND = 100
BACK_LIMIT_S = 4.0


def sections(quick: bool) -> Iterator[Section]:
    seconds = 4 if quick else 12
    rows = side_by_side(lambda adapter: stopped(adapter, seconds), synchronous())
    columns = (
        "contestant",
        "calls over 100 ms",
        f"done of {seconds * PER_SECOND}",
        "errors",
        "wrong",
        "longest",
        "used again after",
    )
    goal = f"≤ 3 calls over 100 ms, ≥ {1150 * seconds // 12} done, 0 errors, used again ≤ 2 s after"
    title = f"one of 3 servers stopped for {seconds} s, {PER_SECOND} calls/s"
    notes = ("libraries at their defaults; one caller; a call that is late is made as soon as the one before returns",)
    yield Section("R2", title, columns, tuple(rows), goal, notes)


def stopped(adapter: type[Adapter], seconds: float) -> tuple[str, ...]:
    with servers(3) as running:

        def hurt(child: Running) -> None:
            running[1].stop()
            try:
                child.listen(time.monotonic() + seconds)
            finally:
                running[1].resume()

        result = load(adapter.name, running, PER_SECOND, hurt, BACK_LIMIT_S)
    done = sum(call.outcome == "ok" for call in result.within(0, seconds))
    counts = (result.slow(), done, result.errors(), result.wrong())
    return (*map(str, counts), result.longest(), result.back(BACK_LIMIT_S))
