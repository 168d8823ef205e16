"""R8: six processes with twenty threads each want a cold key; then again, and the one that computes it is killed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from multiprocessing.sharedctypes import RawArray
from typing import Any, NamedTuple

from benchmarks.adapters import named
from benchmarks.adapters.base import library
from benchmarks.herd import Herd, Serve, await_moment, soon
from benchmarks.report import Section
from benchmarks.servers import servers

FIGURES = ("R8",)
PROCESSES, THREADS = 6, 20
FUNCTION_S = 0.300
KILLED_AFTER_S = 0.150
SLOTS = 2 * THREADS  # for the runs of one process
LEASE_S, DEFAULT_LEASE_S = 2, 10
PEERS_AT_ONCE = 3
PEERS = (
    "dogpile.cache + pylibmc",
    "dogpile.cache + pymemcache",
    "dogpile.cache + pylibmc, distributed_lock",
    "dogpile.cache + pymemcache, distributed_lock",
    "meta-memcache, lease tuned",
)
NOTES = (
    (
        f"the function sleeps {FUNCTION_S * 1000:.0f} ms; the process whose run began first is killed (SIGKILL)"
        f" {KILLED_AFTER_S * 1000:.0f} ms after that began; the runs of its heirs are counted with it"
    ),
    "'served': calls (with the winner killed: of the processes that live) that gave the value within the lease and 3 s",
    (
        f"peers at {DEFAULT_LEASE_S} s, the ttl of meta-memcache's lease here; dogpile's lock has no end unless it is"
        " given a lock_timeout"
    ),
)


class Seen(NamedTuple):
    """One cold key: the starts of the function's runs (monotonic seconds), when the winner was killed (0.0: he was
    not), and how many calls were served, of how many, the last one when.
    """

    starts: Sequence[float]
    killed: float
    served: int
    calls: int
    last: float


def sections(quick: bool) -> Iterator[Section]:
    rows = [row("cachekit", lease_s) for lease_s in ((LEASE_S,) if quick else (LEASE_S, DEFAULT_LEASE_S))]
    with ThreadPoolExecutor(PEERS_AT_ONCE) as pool:  # they mostly wait
        rows += pool.map(row, PEERS, [DEFAULT_LEASE_S] * len(PEERS))
    columns = (
        "contestant", "runs", "served", "winner killed: runs", "next winner after", "served of the living",
        "last one after",
    )  # fmt: skip
    goal = "1 run; winner killed: 2 runs, the next winner after a lease at most, everybody served"
    yield Section("R8", f"{PROCESSES} processes × {THREADS} threads on a cold key", columns, tuple(rows), goal, NOTES)


def row(name: str, lease_s: int) -> tuple[str, ...]:
    title = f"{name}, lease {lease_s} s" if name == "cachekit" else name
    try:
        return (title, *tried(name, lease_s))
    except Exception as error:
        return (title, f"failed: {type(error).__name__}: {error}")


def tried(name: str, lease_s: int) -> tuple[str, ...]:
    calm, struck = cold(name, lease_s, kill=False), cold(name, lease_s, kill=True)
    heirs = [start - struck.killed for start in struck.starts if start > struck.killed]
    return (
        str(len(calm.starts)),
        f"{calm.served} of {calm.calls}",
        str(len(struck.starts)),
        f"{min(heirs):.2f} s" if heirs else "–",
        f"{struck.served} of {struck.calls}",
        f"{struck.last - struck.killed:.2f} s" if struck.last else "–",
    )


def cold(name: str, lease_s: int, *, kill: bool) -> Seen:
    """One cold key, with or without the death of the winner."""
    starts = RawArray("d", PROCESSES * SLOTS)
    limit_s = lease_s + 3.0
    with servers(1) as (server,), Herd(PROCESSES, member, name, server.address, lease_s, starts) as herd:
        moment, killed = soon(), 0.0
        herd.tell((moment, limit_s))
        if kill:
            while not any(starts) and time.monotonic() < moment + limit_s:
                time.sleep(0.001)
            first = min(start for start in starts if start)
            await_moment(first + KILLED_AFTER_S)
            herd.kill(list(starts).index(first) // SLOTS)
            killed = time.monotonic()
        answers = herd.hear(limit_s + 10.0)
    living = [answer for answer in answers if answer is not None]
    ends = [end for answer in living for end in answer]
    return Seen([start for start in starts if start], killed, len(ends), len(living) * THREADS, max(ends, default=0.0))


def member(number: int, name: str, address: str, lease_s: int, starts: Any) -> Serve:
    adapter: Any = named(name)([address])
    slots = count(number * SLOTS)

    def report(key: int) -> list[int]:
        if key == 0:
            starts[next(slots)] = time.monotonic()
            time.sleep(FUNCTION_S)
        return [key]

    report.__qualname__ = "report"
    if name == "cachekit":
        decorated = adapter.cache(policy=library("cachekit").Policy(ttl=60, lease=lease_s))(report)
    else:
        decorated = adapter.decorate(report)
    decorated(1 + number)  # connects

    def call(moment: float, ends: list[float]) -> None:
        await_moment(moment)
        if list(decorated(0)) == [0]:
            ends.append(time.monotonic())

    def serve(message: tuple[float, float]) -> list[float]:
        moment, limit_s = message
        ends: list[float] = []
        crowd = [threading.Thread(target=call, args=(moment, ends), daemon=True) for _ in range(THREADS)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join(max(0.0, moment + limit_s - time.monotonic()))
        return list(ends)

    return serve
