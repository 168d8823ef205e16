"""How a participant does what his plan says, and writes down what came of it: for threads and for tasks."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from cachekit import MISS, current
from history.events import Log, Read, Run, Told, Value, entry_of
from history.kinds import KINDS, Kind, Pair, Shape
from history.plan import Op
from history.source import Source
from history.verbs import TELLS, cells_told, listed, reached, start, tag_of

_CHILD_S = 15.0
_PAUSES_S = (0.0, 0.0, 0.0002, 0.001, 0.003)


class SourceDown(OSError):
    """The cached function could not read its source."""


class Interrupted(BaseException):
    """A signal came while the cache was asked, as Ctrl-C would."""


@contextmanager
def interrupts(after_s: float | None) -> Iterator[None]:
    """Inside, ``Interrupted`` is raised after so many seconds; None: never. In the main thread only."""
    if after_s is None:
        yield
        return
    armed = True

    def interrupt(*_: object) -> None:
        if armed:
            raise Interrupted

    signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, after_s + 1e-5)
        yield
        armed = False
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def die_with_parent() -> None:
    """Have the kernel end this process when its parent has ended, however that did (Linux: prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _wait_for(child: int) -> None:
    """Wait for a forked child to end. Raises ``RuntimeError`` where it hangs."""
    limit = time.monotonic() + _CHILD_S
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > limit:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise RuntimeError("a forked child hangs")
        time.sleep(0.001)


class Pause(NamedTuple):
    """What a body wants: to do nothing for so many seconds."""

    seconds: float


class Inner(NamedTuple):
    """What a body wants: the value of another cached function for this key."""

    kind: str
    schedule: int
    key: int


class Body:
    """What the cached functions of one process do: they take their time, read versions, and write down that they ran.
    ``of``: the process's number. ``inner`` finds a function that others call.
    """

    def __init__(self, of: int, source: Source, log: Log, inner: Callable[[str, int], Pair]) -> None:
        self._of, self._source, self._log, self.inner = of, source, log, inner
        self._pid, self._numbers = os.getpid(), itertools.count(1)
        self._dice = random.Random(of)

    def run(self, kind: str, schedule: int, keys: list[int]) -> list[Any]:
        """The body of a plain function."""
        story, result = self._story(kind, schedule, keys), None
        try:
            while True:
                step = story.send(result)
                if isinstance(step, Pause):
                    _sleep(step.seconds)
                    result = None
                else:
                    result = self._asked(step, self.inner(step.kind, step.schedule).sync)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    async def run_async(self, kind: str, schedule: int, keys: list[int]) -> list[Any]:
        """The body of an ``async def``."""
        story, result = self._story(kind, schedule, keys), None
        try:
            while True:
                step = story.send(result)
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    result = None
                else:
                    result = await self._asked(step, self.inner(step.kind, step.schedule).aio)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def _asked(self, step: Inner, function: Any) -> Any:
        if KINDS[step.kind].shape is Shape.BATCH:
            return function([step.key], step.schedule)
        return function(step.schedule, step.key)

    def _story(self, name: str, schedule: int, keys: list[int]) -> Generator[Pause | Inner, Any, list[Any]]:
        """The run; returns a value for each key, as plain data."""
        kind, began, cells = KINDS[name], time.monotonic(), []
        yield Pause(self._dice.choice(_PAUSES_S))
        for key in keys:
            cells.append(own := self._read(kind, schedule, key))
            if kind.inner:
                asked = time.monotonic()
                found = yield Inner(kind.inner, schedule, key)
                value = Value(*(found[key] if KINDS[kind.inner].shape is Shape.BATCH else found)[:3])
                entry = entry_of(kind.inner, schedule, key)
                self._log.write(
                    Read(schedule, self._who(), "run", "nested", entry, asked, time.monotonic(), "returned", value)
                )
                own.update(value.cells)
        yield Pause(self._dice.choice(_PAUSES_S))
        return self._ended(name, schedule, dict(zip(keys, cells, strict=True)), began)

    def _read(self, kind: Kind, schedule: int, key: int) -> dict[str, int]:
        cells = {cell: self._source.read(schedule, cell) for cell in kind.reads_of(key)}
        if kind.names:
            cell = f"d{sum(cells.values()) % 3}"  # what it names depends on what it has read
            current().tag(tag_of(schedule, cell))
            cells[cell] = self._source.read(schedule, cell)
        return cells

    def _ended(self, kind: str, schedule: int, cells: Mapping[int, dict[str, int]], began: float) -> list[Any]:
        number = os.getpid() << 32 | next(self._numbers)
        raised = self._dice.random() < KINDS[kind].fails
        outcome, ended = "raised" if raised else "returned", time.monotonic()
        entries = {key: entry_of(kind, schedule, key) for key in cells}
        self._log.write(
            *(Run(schedule, self._who(), entries[key], number, began, ended, cells[key], outcome) for key in cells)
        )
        if raised:
            raise SourceDown("the source is down, as planned")
        padding = "x" * KINDS[kind].padding
        return [[entries[key], number, cells[key], padding] for key in cells]

    def _who(self) -> int:
        """The process's number; a forked child's is that of the system."""
        return self._of if os.getpid() == self._pid else os.getpid()


def _sleep(seconds: float) -> None:
    if seconds:
        time.sleep(seconds)


class Hand:
    """Does the ops of one participant in one schedule. ``by``: his name, a thread's or a task's."""

    def __init__(self, of: int, by: str, source: Source, log: Log, inner: Callable[[str, int], Pair]) -> None:
        self._of, self._by, self._source, self._log, self._inner = of, by, source, log, inner
        self.interruptible = False
        """Whether he is the main thread, which gets the signals."""

    def do(self, op: Op, kind: str, schedule: int, pair: Pair) -> None:
        """In a thread."""
        _sleep(op.pause_s)
        if not op.forked:
            self._do(op, kind, schedule, pair)
            return
        child = os.fork()
        if child:
            _wait_for(child)
            return
        die_with_parent()
        self._of, self._by = os.getpid(), "child"  # nobody else has that number: those of workers are small
        try:
            self._do(op, kind, schedule, pair)
        finally:
            os._exit(0)

    def _do(self, op: Op, kind: str, schedule: int, pair: Pair) -> None:
        cells = self._write(op, kind, schedule)
        begin, began = start(op, kind, schedule, pair, self._nested(kind, schedule), aio=False), time.monotonic()
        outcome, result = "returned", None
        try:
            with interrupts(op.cancel_s if self.interruptible and self._by != "child" else None):
                result = begin()
        except Interrupted:
            outcome = "interrupted"
        except SourceDown:
            outcome = "raised"
        self._note(op, kind, schedule, cells, began, outcome, result)

    async def do_async(self, op: Op, kind: str, schedule: int, pair: Pair) -> None:
        """In a task."""
        await asyncio.sleep(op.pause_s)
        cells = self._write(op, kind, schedule)
        begin, began = start(op, kind, schedule, pair, self._nested(kind, schedule), aio=True), time.monotonic()
        outcome, result = "returned", None
        try:
            if op.cancel_s is None:
                result = await begin()
            else:
                result = await asyncio.wait_for(begin(), op.cancel_s)
        except TimeoutError:
            outcome = "cancelled"
        except SourceDown:
            outcome = "raised"
        self._note(op, kind, schedule, cells, began, outcome, result)

    def _nested(self, kind: str, schedule: int) -> Pair | None:
        name = KINDS[kind].inner
        return self._inner(name, schedule) if name else None

    def _write(self, op: Op, kind: str, schedule: int) -> dict[str, int]:
        """A writer's part: new versions, before he tells the cache of them."""
        return {cell: self._source.raise_(schedule, cell) for cell in cells_told(op)}

    def _note(
        self, op: Op, kind: str, schedule: int, cells: Mapping[str, int], began: float, outcome: str, result: Any
    ) -> None:
        ended, returned = time.monotonic(), outcome == "returned"
        entries = [entry_of(kind, schedule, key) for key in op.keys]
        if cells:
            soft, sure = TELLS[op.verb].soft, returned and result is True
            told = [
                Told(schedule, self._of, self._by, op.verb, entry, its, soft, began, ended, sure, outcome)
                for entry, its in reached(op, kind, schedule, cells)
            ]
            self._log.write(*told)
            return
        reads = []
        given = listed(op, kind, result) if returned else [None] * len(entries)
        for entry, value in zip(entries, given, strict=True):
            how, it = ("miss", None) if value is MISS else (outcome, None if value is None else Value(*value[:3]))
            reads.append(Read(schedule, self._of, self._by, op.verb, entry, began, ended, how, it))
        self._log.write(*reads)
