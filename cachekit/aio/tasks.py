"""The tasks that the shell begins by itself in one event loop: held until they are done, and ended in good order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")

BACKGROUND = 64
"""Most refreshes in the background at the same time, of one cache in one loop."""


async def unharmed(future: asyncio.Future[T]) -> T:
    """Wait for ``future``, and leave it alone when the wait is cancelled.

    ``asyncio.shield`` does that as well, but from Python 3.14 on it reports what fails after its caller has gone.
    """
    if not future.done():
        waiter: asyncio.Future[None] = future.get_loop().create_future()

        def wake(_: object) -> None:
            if not waiter.done():
                waiter.set_result(None)

        future.add_done_callback(wake)
        try:
            await waiter
        finally:
            future.remove_done_callback(wake)
    try:
        return future.result()
    finally:
        del future  # an exception in it refers to this frame, which refers to it


class Tasks:
    """The tasks of one cache in one loop. A loop itself keeps only weak references to them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.all: set[asyncio.Task[Any]] = set()
        self.alone: set[asyncio.Task[Any]] = set()
        """Those that nobody waits for."""
        self._refreshes: set[asyncio.Task[Any]] = set()

    def hold(self, work: Coroutine[Any, Any, Any], context: Context | None = None) -> asyncio.Task[Any]:
        """A task for ``work``, in a copy of the current context, or in the one given."""
        task = self.loop.create_task(work, context=context)
        self.all.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        for tasks in (self.all, self.alone, self._refreshes):
            tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever is interested has heard of it

    def refresh(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> asyncio.Task[Any] | None:
        """Have a refresh go on in the background; None where there is no room for one more."""
        if len(self._refreshes) >= BACKGROUND:
            return None
        task = self.hold(work())
        self._refreshes.add(task)
        self.alone.add(task)
        return task

    def cancel_refreshes(self) -> None:
        """Cancel every refresh in the background; each gives its claim back."""
        for task in list(self._refreshes):
            task.cancel()

    async def drain(self, timeout_s: float) -> None:
        """Wait so long for the tasks that nobody waits for, also those that begin meanwhile; then cancel the rest."""
        until = self.loop.time() + timeout_s
        while (going := but_this(self.alone)) and self.loop.time() < until:
            await asyncio.wait(going, timeout=until - self.loop.time())
        for task in but_this(self.alone):
            task.cancel()

    async def end(self, tasks: set[asyncio.Task[Any]], timeout_s: float) -> None:
        """Wait so long for ``tasks``, one of these sets, to get empty."""
        until = self.loop.time() + timeout_s
        while (going := but_this(tasks)) and self.loop.time() < until:
            await asyncio.wait(going, timeout=until - self.loop.time())


def but_this(tasks: set[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    """The tasks, as far as they are not the current one, which can't wait for itself."""
    return [task for task in tasks if task is not asyncio.current_task()]
