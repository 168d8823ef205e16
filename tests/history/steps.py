"""How a participant does what his plan says, and writes down what came of it: for threads and for tasks."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from history.events import Log, Read, Run, Told, Value
from history.kinds import KINDS, Kind, Pair
from history.plan import Op
from history.source import Source

from cachekit import MISS

_PAUSES_S = (0.0, 0.0, 0.0002, 0.001, 0.003)


class SourceDown(OSError):
    """The cached function could not read its source."""


def entry_of(kind: str, schedule: int, key: int) -> str:
    """The name of an entry in histories."""
    return f"{kind}:{schedule}:{key}"


class Body:
    """What the cached functions of one process do: they take their time, read versions, and write down that they ran.
    ``of``: the process's number.
    """

    def __init__(self, of: int, source: Source, log: Log) -> None:
        self._of, self._source, self._log = of, source, log
        self._numbers = itertools.count(1)
        self._dice = random.Random(of)

    def run(self, kind: str, schedule: int, keys: list[int]) -> list[Any]:
        """The body of a plain function."""
        began, pauses = time.monotonic(), self._pauses()
        _sleep(pauses[0])
        cells = self._read(KINDS[kind], schedule, keys)
        _sleep(pauses[1])
        return self._ended(kind, schedule, dict(zip(keys, cells, strict=True)), began)

    async def run_async(self, kind: str, schedule: int, keys: list[int]) -> list[Any]:
        """The body of an ``async def``."""
        began, pauses = time.monotonic(), self._pauses()
        await asyncio.sleep(pauses[0])
        cells = self._read(KINDS[kind], schedule, keys)
        await asyncio.sleep(pauses[1])
        return self._ended(kind, schedule, dict(zip(keys, cells, strict=True)), began)

    def _pauses(self) -> list[float]:
        return [self._dice.choice(_PAUSES_S) for _ in range(2)]

    def _read(self, kind: Kind, schedule: int, keys: list[int]) -> list[dict[str, int]]:
        return [{cell: self._source.read(schedule, cell) for cell in kind.reads_of(key)} for key in keys]

    def _ended(self, kind: str, schedule: int, cells: Mapping[int, dict[str, int]], began: float) -> list[Any]:
        number = os.getpid() << 32 | next(self._numbers)
        raised = self._dice.random() < KINDS[kind].fails
        outcome, ended = "raised" if raised else "returned", time.monotonic()
        entries = {key: entry_of(kind, schedule, key) for key in cells}
        self._log.write(
            *(Run(schedule, self._of, entries[key], number, began, ended, cells[key], outcome) for key in cells)
        )
        if raised:
            raise SourceDown("the source is down, as planned")
        return [[entries[key], number, cells[key]] for key in cells]


def _sleep(seconds: float) -> None:
    if seconds:
        time.sleep(seconds)


class Hand:
    """Does the ops of one participant in one schedule. ``by``: his name, a thread's or a task's."""

    def __init__(self, of: int, by: str, source: Source, log: Log) -> None:
        self._of, self._by, self._source, self._log = of, by, source, log

    def do(self, op: Op, kind: str, schedule: int, pair: Pair) -> None:
        """In a thread."""
        _sleep(op.pause_s)
        cells = self._write(op, kind, schedule)
        start, began = _start(op, schedule, pair.sync, KINDS[kind].batch), time.monotonic()
        outcome, result = "returned", None
        try:
            result = start()
        except SourceDown:
            outcome = "raised"
        self._note(op, kind, schedule, cells, began, outcome, result)

    async def do_async(self, op: Op, kind: str, schedule: int, pair: Pair) -> None:
        """In a task."""
        await asyncio.sleep(op.pause_s)
        cells = self._write(op, kind, schedule)
        start, began = _start(op, schedule, pair.aio, KINDS[kind].batch), time.monotonic()
        outcome, result = "returned", None
        try:
            if op.cancel_s is None:
                result = await start()
            else:
                result = await asyncio.wait_for(start(), op.cancel_s)
        except TimeoutError:
            outcome = "cancelled"
        except SourceDown:
            outcome = "raised"
        self._note(op, kind, schedule, cells, began, outcome, result)

    def _write(self, op: Op, kind: str, schedule: int) -> dict[str, int]:
        """A writer's part: new versions, before he tells the cache of them."""
        return {cell: self._source.raise_(schedule, cell) for cell in _cells_told(op)}

    def _note(
        self, op: Op, kind: str, schedule: int, cells: Mapping[str, int], began: float, outcome: str, result: Any
    ) -> None:
        ended, returned = time.monotonic(), outcome == "returned"
        entries = [entry_of(kind, schedule, key) for key in op.keys]
        if cells:
            soft, sure = op.verb.startswith("expire"), returned and result is True
            reached = [("", cells)]
            if op.verb in _OF_ENTRIES:
                reached = [(entry, {f"k{key}": cells[f"k{key}"]}) for entry, key in zip(entries, op.keys, strict=True)]
            told = [
                Told(schedule, self._of, self._by, op.verb, entry, its, soft, began, ended, sure)
                for entry, its in reached
            ]
            self._log.write(*told)
            return
        reads = []
        given = _listed(op, KINDS[kind].batch, result) if returned else [None] * len(entries)
        for entry, value in zip(entries, given, strict=True):
            how, it = ("miss", None) if value is MISS else (outcome, None if value is None else Value(*value))
            reads.append(Read(schedule, self._of, self._by, op.verb, entry, began, ended, how, it))
        self._log.write(*reads)


_OF_ENTRIES = ("invalidate", "expire")


def _cells_told(op: Op) -> list[str]:
    """The cells that a writer raises before he invalidates by this verb; none: it is no invalidation."""
    if op.verb in _OF_ENTRIES:
        return [f"k{key}" for key in op.keys]
    return {"all": ["f"], "expire_all": ["f"]}.get(op.verb, [])


def _start(op: Op, schedule: int, function: Any, batch: bool) -> Callable[[], Any]:
    """What begins the op: a call without arguments that gives its result, or a coroutine of that."""
    verb: Callable[..., Any]
    if op.verb in ("all", "expire_all"):
        verb = function.invalidate_all if op.verb == "all" else function.expire_all
        return verb
    if batch:
        verb = function if op.verb in ("call", "many") else getattr(function, op.verb)
        return partial(verb, list(op.keys), schedule)
    if op.verb == "many":
        return lambda: function.many([function.bind(schedule, key) for key in op.keys])
    verb = function if op.verb == "call" else getattr(function, op.verb)
    return partial(verb, schedule, op.keys[0])


def _listed(op: Op, batch: bool, result: Any) -> list[Any]:
    """The values in a result, one for each key."""
    if batch:
        return [result.get(key, MISS) for key in op.keys]
    found: list[Any] = result if op.verb == "many" else [result]
    return found
