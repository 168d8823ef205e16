"""Servers, worker processes and a folder of histories: where schedules are run."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from history.events import Event, load
from history.kinds import KINDS
from history.worker import Setup, exit_now
from support.memcached import Memcached, start_memcached

_SPAWN = multiprocessing.get_context("spawn")
_START_S, _CHUNK_S = 30.0, 120.0


class Arena:
    """A few servers and processes that live for many schedules. Schedule n of it has the seed ``seed + n``.

    ``schedules``: how many there will be at most. ``twin``: the broken build that the processes run, "" for ours.
    """

    def __init__(
        self,
        schedules: int,
        *,
        seed: int = 1,
        kinds: Sequence[str] = tuple(KINDS),
        twin: str = "",
        servers: int = 3,
        processes: int = 2,
        lanes: int = 4,
        cancels: float = 0.0,
    ) -> None:
        self._ports = servers
        self._setup = Setup(0, processes, lanes, (), Path(), tuple(kinds), seed, schedules, twin, cancels)
        self.servers: list[Memcached] = []
        self.processes: list[tuple[BaseProcess, Connection]] = []
        self._folder = Path()
        self._done = 0

    def __enter__(self) -> Arena:
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="history-"))
            for _ in range(self._ports):
                self.servers.append(start_memcached())
            addresses = tuple(server.name for server in self.servers)
            self._setup = self._setup._replace(addresses=addresses, folder=self._folder)
            for number in range(self._setup.processes):
                self.processes.append(self._start(number))
            for process in self.processes:
                _answer(process, _START_S)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and servers, and forget the histories."""
        for process, pipe in self.processes:
            process.kill()
            process.join()
            pipe.close()
        for server in self.servers:
            server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, count: int) -> list[Event]:
        """Run the next ``count`` schedules; the history of them."""
        chunk = range(self._done, self._done + count)
        self._done += count
        for path in self._logs():
            path.write_bytes(b"")
        for _, pipe in self.processes:
            pipe.send(chunk)
        for process in self.processes:
            _answer(process, _CHUNK_S)
        return load(self._logs())

    def _logs(self) -> list[Path]:
        return sorted(self._folder.glob("*.jsonl"))

    def _start(self, number: int) -> tuple[BaseProcess, Connection]:
        here, there = _SPAWN.Pipe()
        process = _SPAWN.Process(target=exit_now, args=(there, self._setup._replace(of=number)), daemon=True)
        process.start()
        there.close()
        return process, here


def _answer(process: tuple[BaseProcess, Connection], limit_s: float) -> None:
    """Wait for the process to be done. Raises ``RuntimeError`` where something went wrong in it."""
    _, pipe = process
    if not pipe.poll(limit_s):
        raise RuntimeError(f"a worker has not answered for {limit_s:.0f} s")
    try:
        told = pipe.recv()
    except EOFError as error:
        raise RuntimeError("a worker has died") from error
    if told not in ("ready", "done"):
        raise RuntimeError(f"a worker: {told}")
