"""The blocking drive: what passes through a flow comes out as it went in."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from cachekit import Cache, Unreachable
from cachekit.addresses import parse_target
from cachekit.hooks import Hooks
from cachekit.ops import Compute, Exchange, Flow
from cachekit.sync.drive import run
from cachekit.sync.fleet import Fleet


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
            return (yield Compute(_raise(raised), None))
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
