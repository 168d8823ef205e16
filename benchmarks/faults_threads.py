"""R5: sixteen threads on one client."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from benchmarks import tally
from benchmarks.adapters import named
from benchmarks.adapters.base import Adapter
from benchmarks.report import Section
from benchmarks.servers import servers
from benchmarks.trial import side_by_side, synchronous, trial

FIGURES = ("R5",)
THREADS = 16


def sections(quick: bool) -> Iterator[Section]:
    calls = 1_000 if quick else 10_000
    limit_s = 8.0 if quick else 60.0
    rows = side_by_side(lambda adapter: crowded(adapter, calls, limit_s), synchronous())
    columns = ("contestant", f"done of {THREADS * calls}", "wrong", "false misses", "errors", "threads not at the end")
    notes = (
        f"three servers; nine gets to one set; limit {limit_s:.0f} s",
        "pylibmc and pymemcache's Client are made for one thread each, and are not tried",
    )
    yield Section(
        "R5", f"{THREADS} threads × {calls} calls on one client", columns, tuple(rows), "0 wrong, 0 hung", notes
    )


def crowded(adapter: type[Adapter], calls: int, limit_s: float) -> tuple[str, ...]:
    if not adapter.thread_safe:
        return ("–",) * 5
    counts = tally.shared(THREADS)
    with servers(3) as running:
        trial(child, adapter.name, [server.address for server in running], calls, counts, limit_s=limit_s)
    if not any(counts):
        raise RuntimeError("the child died before its first call")
    unfinished = sum(counts[slot * tally.FIELDS + tally.DONE] < calls for slot in range(THREADS))
    told = [tally.total(counts, field) for field in (tally.DONE, tally.WRONG, tally.MISSED, tally.ERRORS)]
    return tuple(map(str, (*told, unfinished)))


def child(pipe: Connection, name: str, addresses: Sequence[str], calls: int, counts: Any) -> None:
    adapter = named(name)(addresses)
    keys = tally.keys_of(adapter)
    tally.fill(adapter, keys)

    def work(slot: int) -> None:
        for turn in range(calls // 10):
            number = (turn + slot) % len(keys)
            row = slot * tally.FIELDS
            try:
                adapter.set(keys[number], tally.value_of(number))
            except Exception:
                counts[row + tally.ERRORS] += 1
            counts[row + tally.DONE] += 1
            tally.read(adapter, keys, 9, counts, slot)

    crowd = [threading.Thread(target=work, args=(slot,), daemon=True) for slot in range(THREADS)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
