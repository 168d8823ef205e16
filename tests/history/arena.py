"""Servers, worker processes and a folder of histories: where schedules are run."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from support.memcached import Memcached, start_memcached

from history.events import Event, load
from history.faults import FAULTS, Faults, Wires
from history.kinds import OUTER
from history.plan import Troubles
from history.worker import Setup, Task, enter

_SPAWN = multiprocessing.get_context("spawn")
_START_S, _CHUNK_S, _LOOK_S, _RECOVERY_S = 30.0, 300.0, 0.02, 2.5


class Disturbance(NamedTuple):
    """What goes wrong in an arena. ``faults``: those of the servers and of the wires to them; ``kill_every_s``: a
    worker is killed and another takes its place; 0: none is; ``troubles``: the workers' own.
    """

    faults: tuple[str, ...] = ()
    kill_every_s: float = 0.0
    troubles: Troubles = Troubles()


CALM = Disturbance()
STORM = Disturbance(FAULTS, 4.0, Troubles(cancels=0.1, forks=0.002))
OUTAGES = Disturbance(("cut_off",))


class Arena:
    """A few servers and processes that live for many schedules. Schedule n of it has the seed ``seed + step * n``.

    ``schedules``: how many there will be at most. ``twin``: the broken build that the processes run, "" for ours.
    ``watch``: whether they watch the servers.
    """

    def __init__(
        self,
        schedules: int,
        *,
        seed: int = 1,
        step: int = 1,
        kinds: Sequence[str] = OUTER,
        twin: str = "",
        servers: int = 3,
        processes: int = 2,
        lanes: int = 4,
        disturbance: Disturbance = CALM,
        watch: bool = False,
    ) -> None:
        self.seed, self.disturbance = seed, disturbance
        self.counts: Counter[str] = Counter()
        self.servers: list[Memcached] = []
        self._count = servers
        troubles = disturbance.troubles
        hurried = disturbance != CALM
        self._setup = Setup(
            0, 0, processes, lanes, (), Path(), tuple(kinds), seed, step, schedules, twin, troubles, hurried, watch
        )
        self._workers: list[Worker] = []
        self._numbers = itertools.count()
        self._dice = random.Random(seed)
        self._wires: Wires | None = None
        self._folder = Path()
        self._done = 0

    def __enter__(self) -> Arena:
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="history-"))
            for _ in range(self._count):
                self.servers.append(start_memcached())
            addresses = [server.name for server in self.servers]
            if self.disturbance.faults:
                self._wires = Wires([server.port for server in self.servers[1:]])
                addresses[1:] = [f"127.0.0.1:{port}" for port in self._wires.ports]
            self._setup = self._setup._replace(addresses=tuple(addresses), folder=self._folder)
            self._workers = [self._start(place) for place in range(self._setup.processes)]
            for worker in self._workers:
                worker.answer(_START_S)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and servers, and forget the histories."""
        for worker in self._workers:
            worker.kill()
        if self._wires is not None:
            self._wires.close()
        for server in self.servers:
            server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, count: int) -> list[Event]:
        """Run the next ``count`` schedules; the history of them."""
        chunk = range(self._done, self._done + count)
        self._done += count
        for path in self._logs():
            path.write_bytes(b"")
        faults = None
        if self._wires is not None:
            # Half of the entries are there before, so that outages find something to keep.
            self._do(Task(range(chunk.start, chunk.stop, 2), again=True))
            faults = Faults(self.seed + chunk.start, self.disturbance.faults, self.servers, self._wires)
        try:
            self._do(Task(chunk), self.disturbance.kill_every_s)
        finally:
            if faults is not None:
                faults.stop()
                self.counts.update(faults.counts)
        if faults is not None:
            time.sleep(_RECOVERY_S)  # until every process has found every server again
            self._do(Task(chunk, again=True))
        return load(self._logs())

    def _do(self, task: Task, every_s: float = 0.0) -> None:
        """Have all workers do the task; every so many seconds one is killed meanwhile, 0: none is."""
        for worker in self._workers:
            worker.tell(task)
        limit = time.monotonic() + _CHUNK_S
        kill_at = time.monotonic() + every_s if every_s else math.inf
        waiting = list(range(len(self._workers)))
        while waiting:
            if time.monotonic() > limit:
                raise RuntimeError(f"a worker has not answered for {_CHUNK_S:.0f} s")
            if time.monotonic() > kill_at:
                kill_at = time.monotonic() + every_s * self._dice.uniform(0.5, 1.5)
                self._replace(self._dice.choice(waiting), task)
            waiting = [place for place in waiting if not self._workers[place].has_answered()]

    def _replace(self, place: int, task: Task) -> None:
        self._workers[place].kill()
        self.counts["worker killed"] += 1
        self._workers[place] = self._start(place)
        self._workers[place].answer(_START_S)
        self._workers[place].tell(task)

    def _logs(self) -> list[Path]:
        return sorted(self._folder.glob("*.jsonl"))

    def _start(self, place: int) -> Worker:
        return Worker(self._setup._replace(of=next(self._numbers), place=place))


class Worker:
    """A worker's process, from outside."""

    def __init__(self, setup: Setup) -> None:
        self._pipe, there = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=enter, args=(there, setup), daemon=True)
        self._process.start()
        there.close()

    def tell(self, task: Task) -> None:
        """Let it do this."""
        self._pipe.send(task)

    def has_answered(self) -> bool:
        """Whether it is done, after a short wait."""
        if not self._pipe.poll(_LOOK_S):
            return False
        self.answer(_LOOK_S)
        return True

    def answer(self, limit_s: float) -> None:
        """Wait for it to be done. Raises ``RuntimeError`` where something went wrong in it."""
        if not self._pipe.poll(limit_s):
            raise RuntimeError(f"a worker has not answered for {limit_s:.0f} s")
        try:
            told = self._pipe.recv()
        except EOFError as error:
            raise RuntimeError("a worker has died") from error
        if told not in ("ready", "done"):
            raise RuntimeError(f"a worker: {told}")

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.join()
        self._pipe.close()
