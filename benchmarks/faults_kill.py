"""R3: one of three servers is killed under load, and comes back empty three seconds later."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.adapters.base import Adapter
from benchmarks.paced import load
from benchmarks.report import Section
from benchmarks.servers import servers
from benchmarks.trial import Running, side_by_side, synchronous

FIGURES = ("R3",)
PER_SECOND = 200
BEFORE_S, AWAY_S, BACK_LIMIT_S = 1.0, 3.0, 4.0


def sections(quick: bool) -> Iterator[Section]:
    rows = side_by_side(killed, synchronous())
    columns = ("contestant", "calls", "errors", "wrong", "longest", "used again after")
    goal = "0 errors, longest call ≤ 300 ms, used again ≤ 2 s after"
    title = f"one of 3 servers killed, back after {AWAY_S:.0f} s, {PER_SECOND} calls/s"
    yield Section("R3", title, columns, tuple(rows), goal, ("libraries at their defaults; one caller",))


def killed(adapter: type[Adapter]) -> tuple[str, ...]:
    with servers(3) as running:

        def hurt(child: Running) -> None:
            child.listen(time.monotonic() + BEFORE_S)
            running[1].kill()
            child.listen(time.monotonic() + AWAY_S)
            running[1].start()

        result = load(adapter.name, running, PER_SECOND, hurt, BACK_LIMIT_S)
    counts = (len(result.calls), result.errors(), result.wrong())
    return (*map(str, counts), result.longest(), result.back(BACK_LIMIT_S))
