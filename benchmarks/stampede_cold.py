"""P9: sixteen processes want the same key, which nobody has computed yet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.sharedctypes import RawArray
from statistics import median
from typing import Any, NamedTuple

from benchmarks.adapters import load, named, variants
from benchmarks.adapters.base import Adapter, AsyncAdapter, Function
from benchmarks.herd import Herd, Serve, await_moment, soon
from benchmarks.report import Section
from benchmarks.servers import servers

FIGURES = ("P9",)
PROCESSES = 16
TASKS = 4
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
    (
        f"asyncio: {TASKS} tasks in each process call the same function, and it awaits asyncio.sleep; a process's time"
        " is that of its slowest task"
    ),
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
            rows.append((title(name), *summary(cold(name, keys))))
        except Exception as error:
            rows.append((title(name), f"failed: {type(error).__name__}: {error}"))
    columns = ("contestant", "keys", "runs a key", "most runs", "slowest caller, median of keys", "worst of keys")
    yield Section("P9", f"{PROCESSES} processes on one cold key", columns, tuple(rows), GOAL, NOTES)


def contestants() -> list[str]:
    """cachekit, the peers with a lease or a lock, then the peers' plain decorators."""
    kinds: list[type[Adapter]] = [adapter for adapter in load()[0] if adapter.decorates]
    plain = [kind.name for kind in kinds if not kind.name.startswith(("raw", "cachekit", "cachetools"))]
    leased = [kind.name for kind in variants() if not kind.name.startswith("cachekit")]
    return ["cachekit", "cachekit (asyncio)", "cachekit (uvloop)", *leased, *plain]


def title(name: str) -> str:
    """Every adapter with coroutines has its loop in its name."""
    return f"{name}, {TASKS} tasks each" if name.endswith(("(asyncio)", "(uvloop)")) else name


def protected(name: str) -> bool:
    return name.startswith("cachekit") or name in [kind.name for kind in variants()]


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

    async def report_async(key: int) -> list[int]:
        if key >= 0:
            runs[number] += 1
            await asyncio.sleep(FUNCTION_S)
        return [key]

    report.__qualname__ = report_async.__qualname__ = "report"
    decorated = adapter.decorate(report_async if adapter.asynchronous else report)
    adapter.result(decorated(WARM - number))
    call = tasks(adapter, decorated) if isinstance(adapter, AsyncAdapter) else one(decorated)

    def serve(message: tuple[int, float]) -> float:
        key, moment = message
        await_moment(moment)
        return call(key)

    return serve


def one(decorated: Function) -> Callable[[int], float]:
    """One call, and the seconds it takes."""

    def call(key: int) -> float:
        start = time.monotonic()
        result = decorated(key)
        took = time.monotonic() - start
        return right(result, key, took)

    return call


def tasks(adapter: AsyncAdapter, decorated: Function) -> Callable[[int], float]:
    """Calls of several tasks at once, and the seconds that the slowest takes."""

    async def task(key: int) -> float:
        start = time.monotonic()
        result = await decorated(key)
        took = time.monotonic() - start
        return right(result, key, took)

    async def together(key: int) -> float:
        return max(await asyncio.gather(*[task(key) for _ in range(TASKS)]))

    return lambda key: float(adapter.wait(together(key)))


def right(result: object, key: int, took_s: float) -> float:
    if result != [key]:
        raise RuntimeError(f"another result than the function's: {result!r}")
    return took_s


def summary(rounds: Sequence[Round]) -> tuple[str, ...]:
    slowest = [max(each.took_s) * 1000 for each in rounds]
    runs = [each.runs for each in rounds]
    times = (f"{median(slowest):.0f} ms", f"{max(slowest):.0f} ms")
    return (str(len(rounds)), f"{median(runs):.0f}", str(max(runs)), *times)
