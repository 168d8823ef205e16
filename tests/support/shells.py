"""One contract for threads and for event loops: tests call plainly, and a facade has it done in a loop.

A test is written with blocking calls. With the shell ``threads`` it has a ``Cache`` in its hands, as it is. With
``asyncio`` and ``uvloop`` it has a facade of one: an event loop runs in a thread of its own, and every verb is awaited
there while the test's thread waits. What the test decorates becomes an ``async def``, whose body runs in one more
thread, so that it may wait for what another thread of the test does. The context of who calls goes along all the way,
so ``cache.disabled()`` and ``cachekit.current()`` mean what they mean without the facade.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import pytest

from cachekit import Cache
from cachekit.sync.client import Verbs
from cachekit.sync.groups import GroupVerbs

THREADS, ASYNCIO, UVLOOP = "threads", "asyncio", "uvloop"
LOOPS = (ASYNCIO, *([UVLOOP] if sys.platform != "win32" else []))
SHELLS = (THREADS, *LOOPS)

LIMIT_S = 60.0
"""Seconds after which a call that has not come back is taken for a deadlock."""


def only(*shells: str, reason: str) -> pytest.MarkDecorator:
    """Mark a test whose promise exists in these shells alone: ``reason`` is the difference, as the docs name it."""
    return pytest.mark.only(*shells, reason=reason)


class Shell:
    """Threads: a cache is used as it is."""

    name = THREADS

    def around(self, cache: Cache) -> Cache:
        """The cache as a test is to use it."""
        return cache

    def close(self) -> None:
        """Nothing runs here."""


class LoopShell(Shell):
    """An event loop in a thread of its own, from the first call on until ``close``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loop = _new_loop(name)
        self._complaints: list[dict[str, Any]] = []
        # Bodies of tests may all wait for one another; the default of a small machine has six threads.
        self.loop.set_default_executor(ThreadPoolExecutor(64, "body"))
        self.loop.set_exception_handler(lambda _, context: self._complaints.append(context))
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def around(self, cache: Cache) -> Cache:
        return cast("Cache", CacheFacade(self, cache))

    def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``function`` in the loop, await what it gives if that is to be awaited, and wait for it here."""
        if threading.current_thread() is self._thread:
            raise RuntimeError(f"{function!r} is called where the event loop runs; it would wait for itself")

        async def main() -> Any:
            given = function(*args, **kwargs)
            return await given if inspect.isawaitable(given) else given

        outcome: Future[Any] = Future()
        self.loop.call_soon_threadsafe(self._start, main(), outcome, context=contextvars.copy_context())
        try:
            return outcome.result(LIMIT_S)
        finally:
            del outcome  # it may hold an exception that holds this frame

    def _start(self, work: Coroutine[Any, Any, Any], outcome: Future[Any]) -> None:
        """Begin ``work`` in the context of who calls: a task copies the one that it is made in."""

        def ended(task: asyncio.Task[Any]) -> None:
            if task.cancelled():
                outcome.set_exception(asyncio.CancelledError())
            elif (error := task.exception()) is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(task.result())

        self.loop.create_task(work).add_done_callback(ended)

    def close(self) -> None:
        """End the loop. Fails if anything still ran, or if the loop had something to complain of."""
        try:
            left = self.call(self._others)
            self.call(self.loop.shutdown_asyncgens)
            self.call(self.loop.shutdown_default_executor)
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(LIMIT_S)
            self.loop.close()
        assert left == [], "aclose() left tasks running"
        assert self._complaints == []

    async def _others(self) -> list[str]:
        """The tasks that still run, this one apart."""
        return [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]


def _new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == UVLOOP:
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def shell_named(name: str) -> Shell:
    """A new shell of that name."""
    return Shell() if name == THREADS else LoopShell(name)


# -- what stands for the objects of cachekit --------------------------------------------------------------------------


class Facade:
    """Stands for ``real`` and has its coroutines run by the loop; everything else is the real one's, its class too."""

    shell: LoopShell
    real: Any

    def __init__(self, shell: LoopShell, real: Any) -> None:
        self.__dict__.update(shell=shell, real=real)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self.real)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.real, name)
        return self._blocking(found) if inspect.iscoroutinefunction(found) else found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.real, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.shell.call(self.real, *args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return bool(self.real == (other.real if isinstance(other, Facade) else other))

    def __hash__(self) -> int:
        return hash(self.real)

    def __repr__(self) -> str:
        return repr(self.real)

    def _blocking(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self.shell.call(function, *args, **kwargs)

        return call


class CacheFacade(Facade):
    """A ``Cache`` whose verbs are those of ``cache.aio``, and which makes coroutine functions of what it decorates."""

    def __getattr__(self, name: str) -> Any:
        return self._blocking(getattr(self.real.aio, name)) if name in VERBS else getattr(self.real, name)

    def get_or_set(self, key: Any, compute: Any, *ttl: Any, **options: Any) -> Any:
        """The direct verb, given a coroutine function."""
        return self.shell.call(self.real.aio.get_or_set, key, async_of(compute), *ttl, **options)

    def __call__(self, function: Any = None, /, **options: Any) -> Any:
        return self._decorated(self.real, function, options)

    def batch(self, loader: Any = None, /, **options: Any) -> Any:
        """``@cache.batch``."""
        return self._decorated(self.real.batch, loader, options)

    def _decorated(self, decorate: Callable[..., Any], function: Any, options: dict[str, Any]) -> Any:
        if function is not None:
            return FunctionFacade(self.shell, decorate(async_of(function), **options))
        decorator = decorate(**options)
        return lambda function: FunctionFacade(self.shell, decorator(async_of(function)))

    def close(self) -> None:
        """``await cache.aclose()``."""
        self.shell.call(self.real.aclose)

    def __enter__(self) -> CacheFacade:
        assert self.shell.call(self.real.__aenter__) is self.real
        return self

    def __exit__(self, *exc: object) -> None:
        self.shell.call(self.real.__aexit__, *exc)


class FunctionFacade(Facade):
    """A decorated coroutine function, one bound to an object, or a batch loader."""

    def __init__(self, shell: LoopShell, real: Any) -> None:
        super().__init__(shell, real)
        assert type(real).__name__.startswith("Async"), f"{real!r} is none of asyncio's"
        names = ("__module__", "__name__", "__qualname__", "__doc__")
        self.__dict__.update({name: getattr(real, name) for name in names if hasattr(real, name)})

    def bind(self, /, *args: Any, **kwargs: Any) -> Facade:
        """A call that blocks."""
        return Facade(self.shell, self.real.bind(*args, **kwargs))

    def many(self, calls: Iterable[Any]) -> Any:
        """The verb, given the real calls."""
        real = (call.real if isinstance(call, Facade) else call for call in calls)
        return self.shell.call(self.real.many, real)

    def __get__(self, instance: Any, owner: type | None = None, /) -> Any:
        bound = self.real.__get__(instance, owner)
        return self if bound is self.real else FunctionFacade(self.shell, bound)

    def __reduce__(self) -> Any:
        return self.real.__reduce__()


VERBS = frozenset(name for kind in (Verbs, GroupVerbs) for name in vars(kind) if not name.startswith("_"))
"""The verbs of a cache that has no event loop: the direct ones, and those about tags and namespaces."""


def async_of(function: Any) -> Any:
    """A coroutine function that does what ``function`` does, in a thread; what is no plain function as it is."""
    if isinstance(function, staticmethod | classmethod):
        return type(function)(async_of(function.__func__))
    if isinstance(function, functools.partial):
        return functools.partial(async_of(function.func), *function.args, **function.keywords)
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if not inspect.isfunction(function) or any(kind(function) for kind in kinds):
        return function

    @functools.wraps(function)
    async def in_a_thread(*args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(function, *args, **kwargs)

    return in_a_thread
