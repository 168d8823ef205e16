"""Faults are tried in a child process with a hard end, since a peer may hang for ever."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.adapters import load
from benchmarks.adapters.base import Adapter

SPAWN = multiprocessing.get_context("spawn")
SIDE_BY_SIDE = 5

Child = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Trial:
    """What a child told before it ended, or before its time was up (`hung`)."""

    told: Sequence[Any]
    hung: bool


class Running:
    """A child process that tells things through a pipe.

    Args:
        child: a module-level function; its first argument is the sending end of the pipe.
        arguments: the others; they have to pickle.
    """

    def __init__(self, child: Child, *arguments: object) -> None:
        self._receiver, sender = SPAWN.Pipe(duplex=False)
        self._process = SPAWN.Process(target=_entry, args=(sender, child, *arguments), daemon=True)
        self._process.start()
        sender.close()
        self.told: list[Any] = []
        self._open = True

    def listen(self, until: float) -> bool:
        """Collect what is told until that moment (monotonic seconds); False when the child has ended."""
        while self._open:
            left = until - time.monotonic()
            if left <= 0:
                return True
            try:
                if self._receiver.poll(left):
                    self.told.append(self._receiver.recv())
            except (EOFError, OSError):
                self._open = False
        return False

    def first(self, limit_s: float) -> Any:
        """The first thing told; TimeoutError when nothing comes."""
        deadline = time.monotonic() + limit_s
        while not self.told and time.monotonic() < deadline and self._open:
            self.listen(time.monotonic() + 0.05)
        if not self.told:
            raise TimeoutError("the child never became ready")
        return self.told[0]

    def end(self) -> None:
        """End the child and what it forked: it leads a session of its own."""
        if self._process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(Exception):
            self._process.kill()
        self._process.join()
        self._receiver.close()


def _entry(sender: Connection, child: Child, *arguments: object) -> None:
    os.setsid()
    logging.getLogger().addHandler(logging.NullHandler())
    child(sender, *arguments)
    sender.close()
    os._exit(0)  # a library's exit handlers may hang as well


def trial(child: Child, *arguments: object, limit_s: float) -> Trial:
    """Run a child to its end, or to its limit in seconds."""
    running = Running(child, *arguments)
    try:
        hung = running.listen(time.monotonic() + limit_s)
        return Trial(tuple(running.told), hung)
    finally:
        running.end()


def synchronous(verb: str = "get", *, ring: bool = True) -> list[type[Adapter]]:
    """The adapters that faults are tried on: every synchronous client library, none of the baselines."""
    found = [adapter for adapter in load()[0] if verb in adapter.verbs and not adapter.asynchronous]
    found = [adapter for adapter in found if adapter.ring or not ring]
    return [adapter for adapter in found if not adapter.name.startswith("raw")]


def side_by_side(
    work: Callable[[type[Adapter]], tuple[str, ...]], adapters: Sequence[type[Adapter]]
) -> list[tuple[str, ...]]:
    """One row per adapter: cachekit alone, then the peers a few at a time (they mostly wait)."""
    ours = [adapter for adapter in adapters if adapter.name == "cachekit"]
    peers = [adapter for adapter in adapters if adapter.name != "cachekit"]
    rows = [_row(work, adapter) for adapter in ours]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        rows += pool.map(lambda adapter: _row(work, adapter), peers)
    return rows


def _row(work: Callable[[type[Adapter]], tuple[str, ...]], adapter: type[Adapter]) -> tuple[str, ...]:
    try:
        return (adapter.name, *work(adapter))
    except Exception as error:
        return (adapter.name, " ".join(f"failed: {type(error).__name__}: {error}"[:120].split()))
