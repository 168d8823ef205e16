"""Runs the flows for threads: each op a flow yields is performed here, by blocking."""

from __future__ import annotations

import threading
import time
from typing import Any, TypeVar

from cachekit.errors import ServerError
from cachekit.flows import FILLING
from cachekit.ops import Compute, Exchange, Flow, Gather, Join, Replies, Sleep
from cachekit.sync.fleet import Fleet
from cachekit.sync.window import gather

R = TypeVar("R")


def run(flow: Flow[R], fleet: Fleet) -> R:
    """Drive ``flow`` to its end and return what it returns. An interrupt is thrown into the flow, which cleans up
    after itself.
    """
    outcome: Any = None
    error: BaseException | None = None
    try:
        while True:
            op = flow.send(outcome) if error is None else flow.throw(error)
            outcome = error = None
            try:
                outcome = _PERFORM[type(op)](op, fleet)
            except BaseException as raised:  # noqa: BLE001
                error = raised
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def _exchange(op: Exchange, fleet: Fleet) -> Replies:
    return fleet.exchange(op)


def _gather(op: Gather, fleet: Fleet) -> list[Replies | ServerError]:
    return gather(op.exchanges, fleet)


def _compute(op: Compute, fleet: Fleet) -> Any:
    token = FILLING.set((*FILLING.get(), op.frame))
    try:
        return op.call()
    finally:
        FILLING.reset(token)


def _sleep(op: Sleep, fleet: Fleet) -> None:
    time.sleep(op.seconds)


def _join(op: Join, fleet: Fleet) -> bool | None:
    # A signal handler that broke into this thread's own fill would wait for what can't go on before it returns.
    return None if op.flight.pilot == threading.get_ident() else op.flight.wait(op.timeout_s)


_PERFORM: dict[type, Any] = {Exchange: _exchange, Gather: _gather, Compute: _compute, Sleep: _sleep, Join: _join}
