"""A stampede to be watched: many threads, in one process or in several, ask for one cold value at the same moment."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

from cachekit.cache import Cache

RUN_S = 0.3
"""How long the function takes, in seconds."""

_PATIENCE_S = 30.0


class Crowd(NamedTuple):
    """How many callers there were, how often the function ran for them, and how many seconds the slowest waited."""

    callers: int
    runs: int
    slowest_s: float


def in_this_process(cache: Cache, token: str, threads: int) -> Crowd:
    """Let ``threads`` threads call at once. ``token``: makes the key one that is cold."""
    runs: list[int] = []
    waits: list[float] = []
    start = threading.Barrier(threads)

    @cache(ttl="10m", namespace=token)
    def slow(n: int) -> int:
        runs.append(n)
        time.sleep(RUN_S)
        return n

    def caller() -> None:
        start.wait(_PATIENCE_S)
        began = time.perf_counter()
        slow(1)
        waits.append(time.perf_counter() - began)

    crowd = [threading.Thread(target=caller) for _ in range(threads)]
    for each in crowd:
        each.start()
    for each in crowd:
        each.join()
    return Crowd(len(waits), len(runs), max(waits, default=0.0))


def across_processes(url: str, prefix: str, token: str, processes: int, threads: int) -> Crowd:
    """The same from several new processes, which start together."""
    context = multiprocessing.get_context("spawn")  # a fork would inherit whatever threads the caller has
    gate = context.Barrier(processes)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_enter, initargs=(gate,)) as pool:
        tasks = [pool.submit(_one_process, url, prefix, token, threads) for _ in range(processes)]
        crowds = [task.result() for task in tasks]
    return Crowd(
        sum(crowd.callers for crowd in crowds),
        sum(crowd.runs for crowd in crowds),
        max(crowd.slowest_s for crowd in crowds),
    )


_gate: Any = None


def _enter(gate: Any) -> None:
    global _gate  # noqa: PLW0603 - a barrier reaches a pool's worker only while it is started
    _gate = gate


def _one_process(url: str, prefix: str, token: str, threads: int) -> Crowd:
    with Cache(url, prefix=prefix) as cache:
        cache.get("connect")  # importing and connecting is no part of the race
        _gate.wait(_PATIENCE_S)
        return in_this_process(cache, token, threads)
