"""R1, the part of asyncio: tasks cancelled at random moments between call and reply, and what is answered then.

A hundred workers on one loop get, set and call a decorated function. Some operations end early: their task is cancelled
after a few turns of the loop or after a tiny delay, or `asyncio.timeout` ends them. Each key has one writer, and its
value bears the key and a version, so an answer can be of another key or version (*wrong*), older than a write that was
acknowledged before the read began (*older*), or a miss of what is there (*false*).
"""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray
from typing import Any
from urllib.parse import unquote_to_bytes

from benchmarks.adapters import crowds, named
from benchmarks.adapters.base import AsyncAdapter
from benchmarks.faults_interrupt import connections
from benchmarks.report import Section
from benchmarks.servers import HOST, servers, stats
from benchmarks.trial import Running

FIGURES = ("R1-asyncio",)
WORKERS = 100
KEYS_A_WORKER = 4
SHARE = 0.42
"""Of the operations, how many are to be ended early; some have ended by then."""
FRESH = 0.05
"""Of the decorated calls, how many are the first of their arguments: a lease, a run, a store."""
TURNS = 4
DELAY_S = 0.0015
SETTLE_S = 0.5
OPERATIONS, QUICK_OPERATIONS, PEER_OPERATIONS = 1_000_000, 50_000, 20_000
DONE, CANCELLED, WRONG, OLDER, FALSE, ERRORS = COUNTS = range(6)

NOTES = (
    (
        f"{WORKERS} tasks on one loop; of the operations that were to end early a third each by task.cancel() after 0"
        f" to {TURNS} turns of the loop, by task.cancel() after up to {DELAY_S * 1e3:.1f} ms, by asyncio.timeout of as"
        " much; 'cancelled': those that did end so"
    ),
    (
        "half of them gets, a fifth sets, the others calls of a decorated function, one in twenty of which with"
        " arguments that nobody called it with (peers: only gets and sets)"
    ),
    (
        "'false misses': a key that is there, missed by a get that was not cancelled; or a run of the function for"
        " arguments whose result is stored, whoever called"
    ),
    (
        f"'leases left': more entries of no length at the server {SETTLE_S} s after the end than at the beginning;"
        " 'tasks left': on the loop, after the cache was closed; 'leaked': connections at the end beyond those at the"
        " beginning (a pool may have grown) / after closing"
    ),
)


def sections(quick: bool, *, ops: int | None = None) -> Iterator[Section]:
    ours = ops or (QUICK_OPERATIONS if quick else OPERATIONS)
    peers = min(ours, PEER_OPERATIONS // 4 if quick else PEER_OPERATIONS)
    rows = []
    for name in contestants():
        try:
            rows.append((name, *cancelled(name, ours if name.startswith("cachekit") else peers)))
        except Exception as error:
            rows.append((name, " ".join(f"failed: {type(error).__name__}: {error}".split())[:160]))
    columns = (
        "contestant", "operations", "cancelled", "wrong", "older", "false misses", "errors", "leaked", "leases left",
        "tasks left", "µs an operation", "hung",
    )  # fmt: skip
    goal = "0 wrong, 0 older; false misses ≤ 1 % of the cancelled; 0 leaked; 0 leases left"
    yield Section("R1-asyncio", "asyncio: operations cancelled at random", columns, tuple(rows), goal, NOTES)


def contestants() -> list[str]:
    found = [kind.name for kind in crowds() if not kind.name.startswith("raw") and "stale" not in kind.name]
    return sorted(found, key=lambda name: not name.startswith("cachekit"))


def cancelled(name: str, operations: int) -> tuple[str, ...]:
    counts = RawArray("q", len(COUNTS))
    with servers(1) as (server,):
        running = Running(child, name, server.address, operations, counts)
        try:
            hung = running.listen(time.monotonic() + 20.0 + operations * 0.0005)
            told = dict(running.told)
        finally:
            running.end()
    if not hung and "closed" not in told:
        raise RuntimeError(told.get("failed", f"the child died after {counts[DONE]} operations"))
    leaked = f"{told['end'] - told['begin']} / {told['closed']}" if "closed" in told else "–"
    share = f"{counts[CANCELLED]} ({counts[CANCELLED] / max(1, counts[DONE]):.0%})"
    seen = (counts[WRONG], counts[OLDER], counts[FALSE], counts[ERRORS])
    micros = f"{told['took_s'] / operations * 1e6:.0f}" if "took_s" in told else "–"
    left = str(told["stubs"] - told["no stubs"]) if "stubs" in told else "–"
    after = (leaked, left, str(told.get("tasks", "–")), micros, "yes" if hung else "no")
    return (str(counts[DONE]), share, *map(str, seen), *after)


def child(pipe: Connection, name: str, address: str, operations: int, counts: Any) -> None:
    try:
        kind = named(name)
        assert issubclass(kind, AsyncAdapter)
        adapter = kind([address])
        port = int(address.rpartition(":")[2])
        crew = Crew(adapter, operations, counts)
        adapter.wait(crew.prepare())
        pipe.send(("no stubs", empty_entries(port)))  # a generation has no length either
        pipe.send(("begin", connections(port)))
        start = time.monotonic()
        adapter.wait(crew.work())
        pipe.send(("took_s", time.monotonic() - start))
        adapter.wait(asyncio.sleep(SETTLE_S))
        gc.collect()
        pipe.send(("end", connections(port)))
        pipe.send(("stubs", empty_entries(port)))
        adapter.close()
        pipe.send(("tasks", len(asyncio.all_tasks(adapter.loop))))
        gc.collect()
        time.sleep(SETTLE_S)
        pipe.send(("closed", connections(port)))
    except BaseException as error:
        pipe.send(("failed", f"{type(error).__name__}: {error}"))


class Crew:
    """The workers, what they know to be stored, and what they see."""

    def __init__(self, adapter: AsyncAdapter, operations: int, counts: Any) -> None:
        self.adapter, self.operations, self.counts = adapter, operations, counts
        self.keys = [adapter.key(f"cancel:{number}") for number in range(WORKERS * KEYS_A_WORKER)]
        self.begun = [0] * len(self.keys)
        """The highest version of each key that a set was begun with; its worker alone writes it."""
        self.stored = [0] * len(self.keys)
        """The highest that was acknowledged."""
        self.tickets = count()
        self.fresh = count(1_000_000)
        self.stable = False
        self.dice = random.Random(1)
        self.decorated = self._decorated() if adapter.decorates else None

    def _decorated(self) -> Callable[[int], Awaitable[Any]]:
        async def numbered(number: int) -> list[int]:
            if self.stable and number < len(self.keys):
                self.counts[FALSE] += 1
            await asyncio.sleep(self.dice.choice((0.0, 0.0005)))
            return [number, number * 7]

        numbered.__qualname__ = "numbered"
        decorated: Callable[[int], Awaitable[Any]] = self.adapter.decorate(numbered)
        return decorated

    async def prepare(self) -> None:
        for number, key in enumerate(self.keys):
            await self.adapter.set(key, value_of(number, 0))
            if self.decorated is not None:
                await self.decorated(number)
        self.stable = True

    async def work(self) -> None:
        await asyncio.gather(*[self._worker(number) for number in range(WORKERS)])

    async def _worker(self, worker: int) -> None:
        dice, counts = random.Random(worker), self.counts
        while next(self.tickets) < self.operations:
            operation = self._operation(worker, dice)
            try:
                if dice.random() < SHARE:
                    await self._cut_short(operation, dice)
                else:
                    await operation
            except (asyncio.CancelledError, TimeoutError):
                counts[CANCELLED] += 1
            except Exception:
                counts[ERRORS] += 1
            counts[DONE] += 1

    def _operation(self, worker: int, dice: random.Random) -> Any:
        chance = dice.random()
        if chance < 0.2:
            return self._set(worker * KEYS_A_WORKER + dice.randrange(KEYS_A_WORKER))
        if chance < 0.7 or self.decorated is None:
            return self._get(dice.randrange(len(self.keys)))
        if dice.random() < FRESH:
            return self._call(next(self.fresh))
        return self._call(dice.randrange(len(self.keys)))

    async def _cut_short(self, operation: Any, dice: random.Random) -> None:
        """Three ways to end an operation early."""
        way = dice.randrange(3)
        if way == 0:
            async with asyncio.timeout(dice.uniform(0, DELAY_S)):
                await operation
            return
        loop = self.adapter.loop
        task = loop.create_task(operation)
        if way == 1:
            loop.call_later(dice.uniform(0, DELAY_S), task.cancel)
        else:
            cancel_after(loop, task, dice.randint(0, TURNS))
        await task

    async def _set(self, number: int) -> None:
        self.begun[number] += 1
        version = self.begun[number]
        stored = await self.adapter.set(self.keys[number], value_of(number, version))
        if stored is not False:
            self.stored[number] = max(version, self.stored[number])

    async def _get(self, number: int) -> None:
        floor = self.stored[number]
        got = await self.adapter.get(self.keys[number])
        got = getattr(got, "value", got)  # emcache answers an item
        if got is None:
            self.counts[FALSE] += 1
            return
        with suppress(ValueError, TypeError):
            of, version, tail = (int(part) for part in bytes(got).split())
            if of == tail == number and version <= self.begun[number]:
                self.counts[OLDER] += version < floor
                return
        self.counts[WRONG] += 1

    async def _call(self, number: int) -> None:
        assert self.decorated is not None
        if list(await self.decorated(number)) != [number, number * 7]:
            self.counts[WRONG] += 1


def cancel_after(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], turns: int) -> None:
    """Cancel a task after that many turns of its loop."""
    if turns:
        loop.call_soon(cancel_after, loop, task, turns - 1)
    else:
        task.cancel()


def value_of(number: int, version: int) -> bytes:
    return b"%d %d %d" % (number, version, number)


def empty_entries(port: int) -> int:
    """How many entries of a server have no length: the stubs of leases that nobody has filled or released."""
    with socket.create_connection((HOST, port), timeout=10.0) as connection, connection.makefile("rwb") as stream:
        stream.write(b"lru_crawler metadump hash\r\n")
        stream.flush()
        keys = []
        while (line := stream.readline()) not in (b"END\r\n", b""):
            keys.append(line.split(b" ", 1)[0].removeprefix(b"key="))
        empty = 0
        for key in keys:
            stream.write(b"get %b\r\n" % unquote_to_bytes(key))
            stream.flush()
            while (line := stream.readline()) not in (b"END\r\n", b""):
                empty += line.startswith(b"VALUE ") and line.endswith(b" 0\r\n")
    assert int(stats(port)["curr_items"]) >= empty
    return empty
