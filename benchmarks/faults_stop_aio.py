"""R2, the part of asyncio: twenty callers at once want keys of a server that is stopped (SIGSTOP)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.adapters import crowds, named
from benchmarks.adapters.base import AsyncAdapter
from benchmarks.report import Section
from benchmarks.servers import servers, stats
from benchmarks.trial import Running

FIGURES = ("R2-asyncio",)
CALLERS = 20
KEYS = 240
VICTIM = 1
STEADY_S = 0.005
"""Between two calls of keys of the other servers."""
BACK_LIMIT_S = 4.0
MOMENT_S = 0.05
GETS, DECORATED = "gets", "decorated calls"

NOTES = (
    (
        f"{CALLERS} tasks at once, each with another key of the stopped server: the slowest of them, and all together;"
        " then the same again at once ('next')"
    ),
    (
        f"'other servers': one more task calls keys of theirs every {STEADY_S * 1e3:.0f} ms meanwhile; beside it the"
        " slowest of as long a time before the stop"
    ),
    "'used again': from SIGCONT to the first value that comes from the server; libraries at their defaults",
)

Call = Callable[[int], Awaitable[bool]]
"""Takes a number; answers whether its value came from the server."""


def sections(quick: bool) -> Iterator[Section]:
    rows = []
    for name in contestants():
        for what in (GETS, DECORATED) if named(name).decorates else (GETS,):
            try:
                rows.append((name, what, *stopped(name, what, 2.0 if quick else 6.0)))
            except Exception as error:
                rows.append((name, what, " ".join(f"failed: {type(error).__name__}: {error}".split())[:160]))
    columns = (
        "contestant", "what", f"slowest of {CALLERS}", "all together", "next: slowest", "calls over 100 ms later",
        "other servers: slowest", "before", "errors", "used again after",
    )  # fmt: skip
    goal = "slowest ≤ 250 ms (the deadline), all together ≤ 300 ms, next ≤ 10 ms, 0 errors, used again ≤ 2 s after"
    title = f"asyncio: one of 3 servers stopped, {CALLERS} callers in parallel"
    yield Section("R2-asyncio", title, columns, tuple(rows), goal, NOTES)


def contestants() -> list[str]:
    kinds = [kind for kind in crowds() if kind.ring and "stale" not in kind.name]
    return sorted((kind.name for kind in kinds), key=lambda name: not name.startswith("cachekit"))


def stopped(name: str, what: str, seconds: float) -> tuple[str, ...]:
    with servers(3) as running:
        addresses, victim = [server.address for server in running], running[VICTIM]
        child = Running(callers, name, what, addresses, victim.pid, seconds)
        try:
            hung = child.listen(time.monotonic() + seconds + BACK_LIMIT_S + 25.0)
        finally:
            victim.resume()
            child.end()
    if hung or not child.told:
        return ("hung" if hung else "failed: the child died",)
    if isinstance(child.told[0], str):
        raise RuntimeError(child.told[0])
    told: Told = child.told[0]
    back = f"not within {BACK_LIMIT_S:.0f} s" if told.back_s is None else f"{told.back_s:.2f} s"
    times = (told.first.slowest_s, told.first.all_s, told.next.slowest_s, told.others_s, told.before_s)
    first, together, following, others, before = (f"{each * 1000:.0f} ms" for each in times)
    return (first, together, following, str(told.later_slow), others, before, str(told.errors), back)


@dataclass(slots=True)
class Wave:
    """Callers at once: seconds of the slowest, and of all together."""

    slowest_s: float
    all_s: float


@dataclass(slots=True)
class Told:
    first: Wave
    next: Wave
    later_slow: int
    others_s: float
    before_s: float
    back_s: float | None
    errors: int


@dataclass(slots=True)
class Scene:
    """The calls, and which numbers' keys are the victim's."""

    call: Call
    victims: Sequence[int]
    others: Sequence[int]
    took_s: list[float] = field(default_factory=list[float])
    errors: int = 0

    async def timed(self, number: int) -> float:
        start = time.monotonic()
        try:
            await self.call(number)
        except Exception:
            self.errors += 1
        return time.monotonic() - start

    async def wave(self, numbers: Sequence[int]) -> Wave:
        start = time.monotonic()
        took = await asyncio.gather(*[self.timed(number) for number in numbers])
        return Wave(max(took), time.monotonic() - start)

    async def steadily(self) -> None:
        """Call keys of the other servers until somebody cancels this."""
        turn = 0
        while True:
            self.took_s.append(await self.timed(self.others[turn % len(self.others)]))
            turn += 1
            await asyncio.sleep(STEADY_S)


def callers(pipe: Connection, name: str, what: str, addresses: Sequence[str], pid: int, seconds: float) -> None:
    try:
        kind = named(name)
        assert issubclass(kind, AsyncAdapter)
        adapter = kind(addresses)
        pipe.send(adapter.wait(played(adapter, what, addresses, pid, seconds)))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


async def played(adapter: AsyncAdapter, what: str, addresses: Sequence[str], pid: int, seconds: float) -> Told:
    call = await (getting if what == GETS else calling)(adapter)
    owners = [await owner(call, number, addresses) for number in range(KEYS)]
    scene = Scene(
        call,
        [number for number in range(KEYS) if owners[number] == VICTIM],
        [number for number in range(KEYS) if owners[number] != VICTIM],
    )
    if len(scene.victims) < 2 * CALLERS:
        raise RuntimeError(f"only {len(scene.victims)} keys are the victim's")
    steady = asyncio.create_task(scene.steadily())
    await asyncio.sleep(seconds / 2)
    before_s = max(scene.took_s)
    scene.took_s.clear()
    scene.errors = 0
    os.kill(pid, signal.SIGSTOP)
    first = await scene.wave(scene.victims[:CALLERS])
    following = await scene.wave(scene.victims[CALLERS : 2 * CALLERS])
    later_slow, until, turn = 0, time.monotonic() + seconds, 0
    while time.monotonic() < until:
        later_slow += await scene.timed(scene.victims[turn % len(scene.victims)]) > 0.1
        turn += 1
        await asyncio.sleep(2 * STEADY_S)
    os.kill(pid, signal.SIGCONT)
    back_s = await used_again(scene)
    steady.cancel()
    return Told(first, following, later_slow, max(scene.took_s), before_s, back_s, scene.errors)


async def used_again(scene: Scene) -> float | None:
    """Seconds until a value comes from the victim; None when none comes in time."""
    start = time.monotonic()
    turn = 0
    while (passed := time.monotonic() - start) < BACK_LIMIT_S:
        try:
            if await scene.call(scene.victims[turn % len(scene.victims)]):
                return passed
        except Exception:
            scene.errors += 1
        turn += 1
        await asyncio.sleep(MOMENT_S / 5)
    return None


async def getting(adapter: AsyncAdapter) -> Call:
    keys = [adapter.key(f"stop:{number}") for number in range(KEYS)]
    for key in keys:
        await adapter.set(key, b"value")

    async def call(number: int) -> bool:
        return await adapter.get(keys[number]) is not None

    return call


async def calling(adapter: AsyncAdapter) -> Call:
    runs: list[int] = []

    async def numbered(number: int) -> list[int]:
        runs.append(number)
        return [number]

    numbered.__qualname__ = "numbered"
    decorated: Any = adapter.decorate(numbered)

    async def call(number: int) -> bool:
        before = runs.count(number)
        if await decorated(number) != [number]:
            raise RuntimeError("another result than the function's")
        return runs.count(number) == before

    for number in range(KEYS):
        await call(number)
    return call


async def owner(call: Call, number: int, addresses: Sequence[str]) -> int:
    """Which server counts a hit more after a call of this number."""
    before = [hits(address) for address in addresses]
    if not await call(number):
        raise RuntimeError("a value that was just stored is not there")
    grown = [after - then for after, then in zip(map(hits, addresses), before, strict=True)]
    return grown.index(max(grown))


def hits(address: str) -> int:
    return int(stats(int(address.rpartition(":")[2]))["get_hits"])
