"""The blocking drive: what passes through a flow comes out as it went in."""

from __future__ import annotations

import gc
import weakref

import pytest

from cachekit import Cache


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
