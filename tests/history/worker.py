"""One process of a history: threads and tasks that work through schedules, lane beside lane.

In each lane one thread conducts: it waits until the conductors of the other processes have come to the same schedule,
lets a second thread and some tasks begin, does its own part, and when all have done theirs everybody reads every entry
once more.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import mmap
import os
import pkgutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import cachekit
from cachekit import Cache
from history.events import Log
from history.kinds import KEYS, KINDS, Pair, decorated
from history.plan import Op, Plan, Troubles, plan
from history.source import Source
from history.steps import Body, Hand, die_with_parent
from history.twins import break_guard

THREADS, TASKS = 2, 2
PARTICIPANTS = THREADS + TASKS
_SETTLE_S = 0.002
_PHASES = 2
_CALM_DEADLINE_S = 20
"""Where nothing is disturbed, a slow machine is no fault."""

_OPTIONAL = ("cachekit.__main__", "cachekit.cli", "cachekit.integrations", "cachekit.testing", "cachekit.web")
_PATIENT_S, _HURRIED_S = 3.0, 0.3


class Setup(NamedTuple):
    """What a worker is told at its start. ``of``: its number, which no other process ever has; ``place``: that among
    the ``processes``, which it takes over from a killed one. ``seed``: that of schedule 0; each next has one that is
    ``step`` more. ``twin``: the guard that is to be taken out, "" for none. ``troubles``: its own. ``hurried``: whether
    something goes wrong, so that nobody waits for long. ``watch``: whether the caches watch the servers.
    """

    of: int
    place: int
    processes: int
    lanes: int
    addresses: Sequence[str]
    folder: Path
    kinds: Sequence[str]
    seed: int
    step: int
    schedules: int
    twin: str = ""
    troubles: Troubles = Troubles()
    hurried: bool = False
    watch: bool = False


class Task(NamedTuple):
    """What a worker is to do: to work through these schedules; or (``again``) only to read every entry of theirs once,
    long before or after.
    """

    schedules: range
    again: bool = False


def work(pipe: Connection, setup: Setup) -> None:
    """Do the tasks that come through the pipe, for ever. Answers each with "done" or with what went wrong."""
    with Worker(setup) as worker:
        pipe.send("ready")
        while True:
            task: Task = pipe.recv()
            try:
                (worker.read_again if task.again else worker.run)(task.schedules)
                worker.settle()
                pipe.send("done")
            except Exception as error:
                pipe.send(f"{type(error).__name__}: {error}")


class Worker:
    """The process: its cache, its event loop, and what its lanes need."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        break_guard(setup.twin)
        self.log = Log(setup.folder / f"{setup.of}.jsonl")
        self.source = Source(setup.folder / "source", setup.schedules)
        self.gates = Gates(setup)
        options = [f"deadline={_CALM_DEADLINE_S}"] * (not setup.hurried) + ["watch=yes"] * setup.watch
        self.cache = Cache(f"memcached://{','.join(setup.addresses)}?{'&'.join(options)}", prefix="history")
        lanes = range(setup.lanes)
        body = Body(setup.of, self.source, self.log, self.inner)
        names = {*setup.kinds, *(kind.inner for kind in map(KINDS.__getitem__, setup.kinds) if kind.inner)}
        self.functions = {(name, lane): decorated(self.cache, name, lane, body) for name in names for lane in lanes}
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        gc.freeze()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self.cache.aclose(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        self.cache.close()

    def inner(self, kind: str, schedule: int) -> Pair:
        """The function of that kind for the lane of a schedule."""
        return self.functions[kind, schedule % self.setup.lanes]

    def run(self, schedules: range) -> None:
        """All lanes at once; raises the first exception of one."""
        lanes = self.setup.lanes
        with ThreadPoolExecutor(lanes) as threads:
            shares = [
                [number for number in schedules if number % lanes == lane and not self.gates.passed(lane, number)]
                for lane in range(lanes)
            ]
            others = [threads.submit(self._lane, lane, shares[lane]) for lane in range(1, lanes)]
            self._lane(0, shares[0])  # here, since signals come to the main thread only
            for done in others:
                done.result()

    def settle(self) -> None:
        """Wait for what goes on in the background: a refresh that the last reads began belongs to the same history."""
        asyncio.run_coroutine_threadsafe(self.cache.aclose(), self.loop).result()

    def read_again(self, schedules: range) -> None:
        """Read every entry of those schedules."""
        for number in schedules:
            Schedule(self, number % self.setup.lanes, number).read_again()

    def _lane(self, lane: int, schedules: list[int]) -> None:
        with ThreadPoolExecutor(THREADS - 1) as helpers:
            for number in schedules:
                Schedule(self, lane, number).conduct(helpers)


class Schedule:
    """One schedule, as one process takes part in it."""

    def __init__(self, worker: Worker, lane: int, number: int) -> None:
        setup = worker.setup
        self._worker, self._lane, self._number = worker, lane, number
        everybody = plan(setup.seed + setup.step * number, PARTICIPANTS * setup.processes, setup.kinds, setup.troubles)
        mine = everybody.ops[PARTICIPANTS * setup.place : PARTICIPANTS * (setup.place + 1)]
        self._plan = Plan(everybody.kind, mine)
        self._pair = worker.inner(self._plan.kind, number)

    def conduct(self, helpers: ThreadPoolExecutor) -> None:
        """The whole of it."""
        gates = self._worker.gates
        gates.wait(self._lane, _PHASES * self._number)
        self._all(helpers, self._plan.ops)
        gates.wait(self._lane, _PHASES * self._number + 1)
        time.sleep(_SETTLE_S)  # for what goes on in the background
        last = [Op(0.0, "call", (key,)) for key in range(KEYS)]
        self._all(helpers, [last if number in (0, THREADS) else () for number in range(PARTICIPANTS)])
        gates.leave(self._lane, _PHASES * (self._number + 1))

    def read_again(self) -> None:
        """What stands there now."""
        self._thread(0, [Op(0.0, "call", (key,)) for key in range(KEYS)])

    def _all(self, helpers: ThreadPoolExecutor, ops: Sequence[Sequence[Op]]) -> None:
        """Everybody's ops, side by side."""
        going: list[Future[Any]] = [
            asyncio.run_coroutine_threadsafe(self._task(number, ops[number]), self._worker.loop)
            for number in range(THREADS, PARTICIPANTS)
            if ops[number]
        ]
        going += [helpers.submit(self._thread, number, ops[number]) for number in range(1, THREADS) if ops[number]]
        self._thread(0, ops[0])
        for each in going:
            each.result()

    def _thread(self, number: int, ops: Sequence[Op]) -> None:
        hand = self._hand(f"thread {number}")
        hand.interruptible = self._lane == 0 and number == 0
        for op in ops:
            hand.do(op, self._plan.kind, self._number, self._pair)

    async def _task(self, number: int, ops: Sequence[Op]) -> None:
        hand = self._hand(f"task {number}")
        for op in ops:
            await hand.do_async(op, self._plan.kind, self._number, self._pair)

    def _hand(self, name: str) -> Hand:
        return Hand(self._worker.setup.of, name, self._worker.source, self._worker.log, self._worker.inner)


class Gates:
    """Where the conductors of a lane wait for one another: each says in his own place how far he is. Each schedule is
    two phases; a process that takes a killed one's place goes on where that was.
    """

    def __init__(self, setup: Setup) -> None:
        with open(setup.folder / "gates", "a+b") as file:
            file.truncate(8 * setup.processes * setup.lanes)
            self._phases = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
        self._processes, self._lanes, self._place = setup.processes, setup.lanes, setup.place
        self._limit_s = _HURRIED_S if setup.hurried else _PATIENT_S

    def wait(self, lane: int, phase: int) -> None:
        """Be ready for ``phase``, and wait until the others are, but not for ever: one may have been killed."""
        self.leave(lane, phase + 1)
        limit, pause_s = time.monotonic() + self._limit_s, 0.0002
        others = [each * self._lanes + lane for each in range(self._processes)]
        while any(self._phases[place] <= phase for place in others) and time.monotonic() < limit:
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.002)

    def leave(self, lane: int, phases: int) -> None:
        """So many phases were begun."""
        self._phases[self._place * self._lanes + lane] = phases

    def passed(self, lane: int, schedule: int) -> bool:
        """Whether this place has begun that schedule already."""
        return self._phases[self._place * self._lanes + lane] > _PHASES * schedule


def enter(pipe: Connection, setup: Setup) -> None:
    """A worker's process. It ends when its parent does, and exit handlers of libraries have no part in a history."""
    logging.getLogger("cachekit").addHandler(logging.NullHandler())  # what fails is in the history
    die_with_parent()
    load_all()
    try:
        work(pipe, setup)
    finally:
        os._exit(0)


def load_all() -> None:
    """Load what cachekit loads at first need: a child that is forked while another thread does would wait for that
    thread, which it does not have.
    """
    for module in pkgutil.walk_packages(cachekit.__path__, "cachekit."):
        if not module.name.startswith(_OPTIONAL):
            importlib.import_module(module.name)
