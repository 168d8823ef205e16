"""P8: a hundred tasks on one event loop, against a raw pipelined connection and a decorator on it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.adapters import crowds, load
from benchmarks.adapters.base import Adapter, AsyncAdapter
from benchmarks.entrants import entrants
from benchmarks.harness import Contestant, Race, on_one_core, race
from benchmarks.report import Section, ratio_section
from benchmarks.servers import MemcachedProcess, servers
from benchmarks.speed_decorated import MONTH, counted, display, report
from benchmarks.speed_direct import ONE_CORE, SMALL, check

FIGURES = ("P8",)
TASKS, EACH = 100, 20
HANG_S = 30.0
STEP = 7  # no two tasks want the same key in the same turn
BASELINES = ("raw (asyncio)", "raw (uvloop)")
CROWD = (
    f"{TASKS} tasks at the same time, {EACH} calls each, in the same turn each of another key; the raw connection"
    " writes once per loop turn"
)
LOOPS = "what is not on uvloop is on asyncio's default loop; compare each with the raw one on its own loop"

Builder = Callable[[AsyncAdapter], Contestant]


def sections(quick: bool) -> Iterator[Section]:
    rounds = 7 if quick else 25
    with servers(1) as one:
        result = run(one, hits, [kind for kind in contestants() if kind.decorates], rounds)
        notes = ("aiocache serialises with JSON, its default", CROWD, LOOPS, ONE_CORE)
        title = f"asyncio, {TASKS} tasks, decorated hits, dict of 10 fields"
        yield ratio_section("P8", title, result, present(result), goal="≤ 1.5", notes=notes)
        result = run(one, gets, [kind for kind in contestants() if "get" in kind.verbs], rounds)
        title = f"asyncio, {TASKS} tasks, plain gets, {SMALL} B"
        yield ratio_section("P8", title, result, present(result), goal="≤ 1.4", notes=(CROWD, LOOPS, ONE_CORE))


def contestants() -> list[type[Adapter]]:
    """The raw connections, cachekit and the peers with coroutines, once each."""
    return list(dict.fromkeys([*crowds(), *(kind for kind in load()[0] if kind.asynchronous)]))


def present(result: Race) -> list[str]:
    return [name for name in BASELINES if name in result.times]


def run(running: Sequence[MemcachedProcess], build: Builder, kinds: Sequence[type[Adapter]], rounds: int) -> Race:
    fit = [kind for kind in kinds if "stale" not in kind.name]
    with on_one_core([server.pid for server in running]), entrants(running, fit) as entered:
        built: list[Contestant] = []
        for adapter in entered.adapters:
            assert isinstance(adapter, AsyncAdapter)
            try:
                built.append(build(adapter))
            except Exception as error:
                entered.failed[adapter.name] = f"{type(error).__name__}: {error}"[:120]
        result = race(built, rounds=rounds, samples=3)
    return Race(result.times, {**entered.failed, **result.failed})


def shares(things: Sequence[Any]) -> list[list[Any]]:
    """What each task asks for, one after the other."""
    return [[things[(task + turn * STEP) % len(things)] for turn in range(EACH)] for task in range(TASKS)]


def hits(adapter: AsyncAdapter) -> Contestant:
    """Every call is a hit: checked by counting the runs of the function."""
    plain, runs = counted()

    async def function(user_id: int, part: str, *, month: str) -> dict[str, object]:
        return dict(plain(user_id, part, month=month))

    function.__qualname__ = "report_async"
    decorated, part = adapter.decorate(function), adapter.part

    async def task(users: Sequence[int]) -> None:
        for user in users:
            await decorated(user, part, month=MONTH)

    sample = crowd(adapter, task, range(1, TASKS + 1))
    sample()
    before = len(runs)
    sample()
    if len(runs) != before:
        raise RuntimeError(f"{len(runs) - before} of {TASKS * EACH} calls were no hits")
    if adapter.result(decorated(1, part, month=MONTH)) != report(1, part, month=MONTH):
        raise RuntimeError("another result than the function's")
    return Contestant(display(adapter), sample, TASKS * EACH)


def gets(adapter: AsyncAdapter) -> Contestant:
    value = os.urandom(SMALL)
    keys = [adapter.key(f"{adapter.name.translate(BARE)}:{number}") for number in range(TASKS)]
    adapter.sets(keys, value)()
    check(adapter, keys[0], value)
    get = adapter.get

    async def task(share: Sequence[Any]) -> None:
        for key in share:
            await get(key)

    return Contestant(adapter.name, crowd(adapter, task, keys), TASKS * EACH)


BARE = str.maketrans(dict.fromkeys(" ,()", "-"))


def crowd(adapter: AsyncAdapter, task: Callable[[Any], Any], things: Sequence[Any]) -> Callable[[], object]:
    """A sample: all tasks at once, each with its share of the things to ask for."""
    parts = shares(things)

    async def together() -> None:
        async with asyncio.timeout(HANG_S):
            await asyncio.gather(*[task(part) for part in parts])

    return lambda: adapter.wait(together())
