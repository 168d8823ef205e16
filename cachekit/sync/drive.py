"""Runs the flows for threads: each op a flow yields is performed here, by blocking."""

from __future__ import annotations

import threading
import time
from typing import Any, TypeVar

from cachekit.errors import ServerError
from cachekit.flows.frames import FILLING
from cachekit.ops import Compute, Each, Exchange, Flow, Gather, Join, Op, Replies, Sleep, Spawn
from cachekit.sync.fleet import Fleet
from cachekit.sync.window import gather

R = TypeVar("R")


def run(flow: Flow[R], fleet: Fleet) -> R:
    """Drive ``flow`` to its end and return what it returns. An interrupt is thrown into the flow, which cleans up
    after itself.
    """
    outcome: Any = None
    error: BaseException | None = None
    thrown: list[BaseException] = []
    try:
        while True:
            if error is None:
                op = flow.send(outcome)
            else:
                thrown.append(error)
                error = None
                op = flow.throw(thrown[-1])
            try:
                outcome = perform(op, fleet)
            except BaseException as raised:  # noqa: BLE001
                error = raised
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    except RuntimeError as wrapped:
        # A generator turns a StopIteration that passes through it into this (PEP 479); the function's caller gets his
        # own.
        cause = wrapped.__cause__
        if isinstance(cause, StopIteration) and any(cause is each for each in thrown):
            raise cause from None
        raise
    finally:
        # An interrupt that came between two ops did not go through the flow, which may have a flight in the air.
        flow.close()
        thrown.clear()
        error = cause = None  # an exception that refers to this frame, which refers to it, waits for the collector


def perform(op: Op, fleet: Fleet) -> Any:
    """Do what ``op`` says and return its outcome."""
    if isinstance(op, Exchange):
        return fleet.exchange(op)
    if isinstance(op, Compute):
        token = FILLING.set((*FILLING.get(), op.frame))
        try:
            return op.call()
        finally:
            op.frame.notes.over = True
            FILLING.reset(token)
    return _OTHERS[type(op)](op, fleet)


def _gather(op: Gather, fleet: Fleet) -> list[Replies | ServerError]:
    return gather(op.exchanges, fleet)


def _sleep(op: Sleep, fleet: Fleet) -> None:
    time.sleep(op.seconds)


def _join(op: Join, fleet: Fleet) -> bool | None:
    # A signal handler that broke into this thread's own fill would wait for what can't go on before it returns.
    return None if op.flight.pilot == threading.get_ident() else op.flight.wait(op.timeout_s)


def _spawn(op: Spawn, fleet: Fleet) -> bool:
    def task() -> None:
        FILLING.set(())  # nothing outside waits for this run, so it is inside of nothing
        run(op.flow, fleet)

    return fleet.background().submit(task)


def _each(op: Each, fleet: Fleet) -> list[Any]:
    return [run(flow, fleet) for flow in op.flows]


_OTHERS: dict[type, Any] = {Gather: _gather, Sleep: _sleep, Join: _join, Spawn: _spawn, Each: _each}
