"""R4: a fork after connecting, also while another thread is reading; both sides go on with the same client."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from benchmarks import tally
from benchmarks.adapters import named
from benchmarks.adapters.base import Adapter
from benchmarks.report import Section
from benchmarks.servers import servers
from benchmarks.trial import side_by_side, synchronous, trial

FIGURES = ("R4",)
GETS = 1_500
READERS = 4
PARENT, CHILD = 0, 1


def sections(quick: bool) -> Iterator[Section]:
    limit_s = 8.0 if quick else 20.0
    for threads in (0, READERS):
        rows = side_by_side(partial(forked, threads=threads, limit_s=limit_s), synchronous())
        how = f"while {threads} threads read" if threads else "one thread"
        columns = ("contestant", "gets done", "wrong", "false misses", "errors", "hung")
        notes = (f"a side that has not made its gets after {limit_s:.0f} s counts as hung",)
        yield Section(
            "R4", f"fork, {how}, 2 × {GETS} gets", columns, tuple(rows), "0 wrong, 0 hung, 0 false misses", notes
        )


def forked(adapter: type[Adapter], threads: int, limit_s: float) -> tuple[str, ...]:
    if threads and not adapter.thread_safe:
        return ("– (its client is for one thread)", "–", "–", "–", "–")
    counts = tally.shared(2 + threads)
    with servers(3) as running:
        trial(child, adapter.name, [server.address for server in running], threads, counts, limit_s=limit_s)
    if not any(counts):
        raise RuntimeError("the child died before its first get")
    both = counts[: 2 * tally.FIELDS]
    done = tally.total(both, tally.DONE)
    hung = sum(counts[side * tally.FIELDS + tally.DONE] < GETS for side in (PARENT, CHILD))
    told = (
        done,
        tally.total(both, tally.WRONG),
        tally.total(both, tally.MISSED),
        tally.total(both, tally.ERRORS),
        hung,
    )
    return tuple(map(str, told))


def child(pipe: Connection, name: str, addresses: Sequence[str], threads: int, counts: Any) -> None:
    adapter = named(name)(addresses)
    keys = tally.keys_of(adapter)
    tally.fill(adapter, keys)
    stop = threading.Event()

    def reader(slot: int) -> None:
        while not stop.is_set():
            tally.read(adapter, keys, 10, counts, slot)

    for number in range(threads):
        threading.Thread(target=reader, args=(2 + number,), daemon=True).start()
    if threads:
        time.sleep(0.05)  # the readers are under way
    pid = os.fork()
    side = PARENT if pid else CHILD
    tally.read(adapter, keys, GETS, counts, side)
    if not pid:
        os._exit(0)
    stop.set()
    os.waitpid(pid, 0)
