"""P9: sixteen processes want the same key, which nobody has computed yet."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from multiprocessing.sharedctypes import RawArray
from statistics import median
from typing import Any, NamedTuple

from benchmarks.adapters import load, named, variants
from benchmarks.adapters.base import Adapter
from benchmarks.herd import Herd, Serve, await_moment, soon
from benchmarks.report import Section
from benchmarks.servers import servers

FIGURES = ("P9",)
PROCESSES = 16
FUNCTION_S = 0.300
LIMIT_S = 30.0
WARM = -1

GOAL = "1 run, slowest caller ≤ 320 ms"
NOTES = (
    f"the function sleeps {FUNCTION_S * 1000:.0f} ms; the processes have connected, and call at the same moment",
    (
        "one cold key after the other; a caller's time is that of his own call; all processes share this machine's"
        " cores, with the server"
    ),
    "plain decorators of libraries without a lease or lock run once in each process",
)


class Round(NamedTuple):
    """One cold key: how often the function ran, and the seconds of each caller."""

    runs: int
    took_s: Sequence[float]


def sections(quick: bool) -> Iterator[Section]:
    rows = []
    for name in contestants():
        keys = (5 if quick else 20) if protected(name) else (1 if quick else 5)
        try:
            rows.append((name, *summary(cold(name, keys))))
        except Exception as error:
            rows.append((name, f"failed: {type(error).__name__}: {error}"))
    columns = ("contestant", "keys", "runs a key", "most runs", "slowest caller, median of keys", "worst of keys")
    yield Section("P9", f"{PROCESSES} processes on one cold key", columns, tuple(rows), GOAL, NOTES)


def contestants() -> list[str]:
    """cachekit, the peers with a lease or a lock, then the peers' plain decorators."""
    kinds: list[type[Adapter]] = [adapter for adapter in load()[0] if adapter.decorates]
    plain = [kind.name for kind in kinds if not kind.name.startswith(("raw", "cachekit", "cachetools"))]
    leased = [kind.name for kind in variants() if not kind.name.startswith("cachekit")]
    return ["cachekit", *leased, *plain]


def protected(name: str) -> bool:
    return name == "cachekit" or name in [kind.name for kind in variants()]


def cold(name: str, keys: int) -> list[Round]:
    """What that many cold keys came to, one after the other."""
    runs = RawArray("q", PROCESSES)
    rounds = []
    with servers(1) as (server,), Herd(PROCESSES, member, name, server.address, runs) as herd:
        for key in range(keys):
            before = sum(runs)
            took = herd.ask((key, soon()), LIMIT_S)
            rounds.append(Round(sum(runs) - before, took))
    return rounds


def member(number: int, name: str, address: str, runs: Any) -> Serve:
    adapter = named(name)([address])

    def report(key: int) -> list[int]:
        if key >= 0:
            runs[number] += 1
            time.sleep(FUNCTION_S)
        return [key]

    report.__qualname__ = "report"
    decorated = adapter.decorate(report)
    adapter.result(decorated(WARM - number))

    def serve(message: tuple[int, float]) -> float:
        key, moment = message
        await_moment(moment)
        start = time.monotonic()
        result = adapter.result(decorated(key))
        took = time.monotonic() - start
        if list(result) != [key]:
            raise RuntimeError(f"another result than the function's: {result!r}")
        return took

    return serve


def summary(rounds: Sequence[Round]) -> tuple[str, ...]:
    slowest = [max(each.took_s) * 1000 for each in rounds]
    runs = [each.runs for each in rounds]
    times = (f"{median(slowest):.0f} ms", f"{max(slowest):.0f} ms")
    return (str(len(rounds)), f"{median(runs):.0f}", str(max(runs)), *times)
