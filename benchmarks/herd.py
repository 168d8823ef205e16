"""Many processes that do the same thing at the same moment: the ground of the stampede figures.

They are forked from a server process that has imported every adapter and opened nothing, since sixteen interpreters
that import sixteen libraries each would take most of a minute.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Self

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["benchmarks.adapters.all"])
READY_LIMIT_S = 60.0
SOON_S = 0.1

Serve = Callable[[Any], Any]
Member = Callable[..., Serve]


class Failed(NamedTuple):
    """What a process answers in place of an answer that it could not give."""

    reason: str


class Herd:
    """Processes that answer messages, all at once.

    Args:
        size: how many.
        member: a module-level function, called in each process with its number and `arguments`; it returns the
            function that answers messages.
        arguments: the others; they have to pickle.

    Raises `RuntimeError` when a process could not begin.
    """

    def __init__(self, size: int, member: Member, *arguments: object) -> None:
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for number in range(size):
            ours, theirs = FORKS.Pipe()
            process = FORKS.Process(target=_entry, args=(theirs, member, number, *arguments), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        try:
            if None in self.hear(READY_LIMIT_S):
                raise RuntimeError("a process of the herd never became ready")
        except BaseException:
            self.end()
            raise

    def tell(self, message: Any) -> None:
        """Give every process something to answer; the dead don't mind."""
        for pipe in self._pipes:
            with suppress(BrokenPipeError, ConnectionError):
                pipe.send(message)

    def hear(self, limit_s: float) -> list[Any]:
        """The answers in the order of the processes; None: none came in time, or the process has died.

        Raises `RuntimeError` for what failed in a process.
        """
        until = time.monotonic() + limit_s
        answers: list[Any] = [None] * len(self._pipes)
        open_ = {pipe: number for number, pipe in enumerate(self._pipes)}
        while open_ and (left := until - time.monotonic()) > 0:
            ready: list[Any] = wait(list(open_), left)
            for pipe in ready:
                number = open_.pop(pipe)
                with suppress(EOFError, ConnectionError):
                    answers[number] = pipe.recv()
        failures = [answer.reason for answer in answers if isinstance(answer, Failed)]
        if failures:
            raise RuntimeError(failures[0])
        return answers

    def ask(self, message: Any, limit_s: float) -> list[Any]:
        """`tell` and `hear`; raises `TimeoutError` when a process does not answer."""
        self.tell(message)
        answers = self.hear(limit_s)
        if None in answers:
            raise TimeoutError(f"{answers.count(None)} of {len(answers)} processes hang, or have died")
        return answers

    def kill(self, number: int) -> None:
        """End that process as a crash would."""
        self._processes[number].kill()

    def end(self) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            with suppress(Exception):
                process.kill()
            process.join()
            pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()


def soon() -> float:
    """A moment (monotonic seconds, the same clock in every process) that all processes can be told of before."""
    return time.monotonic() + SOON_S


def await_moment(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def _entry(pipe: Connection, member: Member, number: int, *arguments: object) -> None:
    logging.getLogger().addHandler(logging.NullHandler())  # a peer's complaints are counted, not printed
    try:
        serve = member(number, *arguments)
        pipe.send(True)
        while True:
            pipe.send(serve(pipe.recv()))
    except (EOFError, ConnectionError):
        pass
    except BaseException as error:
        with suppress(Exception):
            pipe.send(Failed(" ".join(f"{type(error).__name__}: {error}".split())[:120]))
    os._exit(0)  # a library's exit handlers may hang


def quantile(sorted_values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies; they are sorted, and not empty."""
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]
