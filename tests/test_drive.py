"""The blocking drive: what passes through a flow comes out as it went in."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any

import pytest
from support.threads import LIMIT_S, Outcome, eventually

from cachekit import Cache, Policy, Unreachable
from cachekit.addresses import parse_target
from cachekit.flights import Flights
from cachekit.flows.frames import FILLING, Filling, Notes, around
from cachekit.hooks import Hooks
from cachekit.ops import Compute, Exchange, Flow, Spawn
from cachekit.sync.drive import run
from cachekit.sync.fleet import Fleet


def frame() -> Filling:
    """What a run is inside of."""
    return Filling(Flights(), b"key", 0.0, Notes())


def test_what_outlives_a_run_is_inside_of_nothing() -> None:
    """A copy of its context lives on in a task or a timer; nobody waits for that run any more."""
    fleet = Fleet(parse_target("memory:"), Hooks())
    copies: list[Any] = []

    def inside() -> int:
        copies.append(copy_context())
        return len(around())

    def flow() -> Flow[Any]:
        return (yield Compute(inside, frame()))

    assert run(flow(), fleet) == 1
    assert copies[0].run(around) == []


@pytest.mark.parametrize("kind", [StopIteration, RuntimeError, GeneratorExit, KeyboardInterrupt, SystemExit])
def test_what_the_function_raises_is_what_its_caller_gets(kind: type[BaseException]) -> None:
    """The flows are generators, and generators change a StopIteration that passes through them (PEP 479)."""
    raised = kind("its own")

    @Cache("memory:")
    def function() -> None:
        raise raised

    with pytest.raises(kind) as caught:
        function()
    assert caught.value is raised


def test_a_stop_iteration_comes_through_where_giving_back_fails() -> None:
    """The lease could not be given back; the function's exception is still the caller's."""
    raised = StopIteration("its own")
    fleet: Any = Fleet(parse_target("memory:"), Hooks())
    fleet.exchange = _unreachable

    def flow() -> Flow[Any]:
        try:
            return (yield Compute(_raise(raised), frame()))
        except BaseException:
            with contextlib.suppress(Unreachable):
                yield Exchange(0, b"md k\r\n", 1, 1)
            raise

    with pytest.raises(StopIteration) as caught:
        run(flow(), fleet)
    assert caught.value is raised


def test_an_interrupt_between_two_ops_leaves_no_flow_behind() -> None:
    """The traceback may be kept for long, and with it the flow; its flight must end now."""
    fleet: Any = Fleet(parse_target("memory:"), Hooks())
    closed: list[bool] = []

    class Interrupting:
        """A flow whose caller is interrupted after its first step."""

        def send(self, _: Any) -> Any:
            raise KeyboardInterrupt

        def close(self) -> None:
            closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(), fleet)  # type: ignore[arg-type]
    assert closed == [True]


def _unreachable(op: Exchange) -> Any:
    raise Unreachable("down")


def _raise(error: BaseException) -> Callable[[], Any]:
    def compute() -> Any:
        raise error

    return compute


def test_an_exception_is_freed_without_the_collector() -> None:
    """No frame of ours keeps an exception, and what its traceback holds, alive."""

    class Held(Exception):
        """Can be referred to weakly."""

    held: list[weakref.ref[Held]] = []

    @Cache("memory:")
    def function() -> None:
        error = Held()
        held.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    function_once = function
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(Held):
            function_once()
        assert held[0]() is None
    finally:
        gc.enable()


def test_what_is_spawned_runs_in_a_copy_of_the_context_and_inside_of_nothing() -> None:
    """Nothing outside waits for it, so a call in it of what surrounds it must not be taken for a recursion."""
    fleet = Fleet(parse_target("memory:"), Hooks())
    place: ContextVar[str] = ContextVar("place")
    seen: list[Any] = []

    def behind() -> Flow[None]:
        yield Compute(lambda: seen.append((place.get(), FILLING.get(), threading.current_thread().name)), frame())

    def spawning() -> Flow[Any]:
        return (yield Spawn(behind()))

    place.set("here")
    token = FILLING.set((frame(),))
    try:
        assert run(spawning(), fleet) is True
    finally:
        FILLING.reset(token)
    fleet.close()
    assert [(where, len(inside)) for where, inside, _ in seen] == [("here", 1)]
    assert seen[0][2].startswith("cachekit-refresh-")


def test_a_full_pool_is_told_to_the_flow() -> None:
    """The flow then runs the function itself."""
    fleet = Fleet(parse_target("memory:"), Hooks())
    fleet.background().drain()

    def spawning() -> Flow[Any]:
        return (yield Spawn(iter(())))

    assert run(spawning(), fleet) is False
    fleet.close()


def test_closing_waits_for_what_was_spawned() -> None:
    """And afterwards the cache can be used again, with another pool."""
    cache = Cache("memory:", policy=Policy(refresh="background", ttl=60, stale=60))
    gate, runs = threading.Event(), list[int]()

    @cache
    def function() -> int:
        runs.append(1)
        assert len(runs) == 1 or gate.wait(LIMIT_S)
        return len(runs)

    assert function() == 1
    function.expire()
    assert function() == 1
    assert eventually(lambda: len(runs) == 2)
    closing = Outcome(cache.close)
    gate.set()
    closing.result()
    assert function() == 2
    function.expire()
    assert function() == 2
    cache.close()
    assert function() == 3
