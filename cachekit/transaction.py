"""``cache.transaction()``: invalidations that wait for the end of a database's transaction.

An invalidation that is sent before the commit is of no use: a reader may come in between, read what was there before,
and store it. So what is invalidated inside the block is collected (flows/collect.py), and sent when the block has
ended well. Where it ends by an exception, what was to be invalidated has not changed, and nothing is sent.

From the first invalidation on, the code inside runs around the cache: its own reads would otherwise be served what it
has just replaced, and what they compute from data that is not committed would be stored for everybody.

A child that is forked inside is outside: the database's transaction is its parent's, and so is the block. It
invalidates at once, and is served what is stored.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from cachekit import off
from cachekit.decorator import is_async
from cachekit.errors import ConfigurationError
from cachekit.flows import collect
from cachekit.flows.abreast import tell_abreast
from cachekit.flows.collect import Collection, Mark
from cachekit.loading import load
from cachekit.ops import Flow
from cachekit.sync.drive import run

if TYPE_CHECKING:
    from cachekit.cache import Cache

F = TypeVar("F", bound=Callable[..., Any])
OnCommit = Callable[[Callable[[], Any]], Any]
"""Takes what sends the invalidations, to be called at the commit."""


class Around:
    """Code that may run around ``cache``: while it is switched on, cached functions just run and store nothing, in the
    context that it was entered in and in copies of that; in the process that switched it on, and no child of it.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._block = off.Block(cache, over=True)

    def enter(self) -> None:
        """From here on, in this context, the switch counts."""
        off.enter(self._block)

    def switch_on(self) -> None:
        """Run around the cache."""
        self.switch(True)

    def switch(self, on: bool) -> None:
        """Run around the cache, or not."""
        block = self._block
        with self._cache._lock:
            if block.goes_on() is not on:
                block.over, block.pid = not on, os.getpid()
                self._cache._count(block)

    def leave(self) -> None:
        """Switched off for good."""
        self.switch(False)
        off.leave(self._block)


class Transaction:
    """One block of ``cache.transaction()``, for ``with`` and ``async with``; as a decorator it puts each call of the
    function into a block of its own.

    ``acknowledged``: None while nothing has been sent; then whether every server concerned has acknowledged.
    """

    def __init__(self, cache: Cache, on_commit: OnCommit | None = None) -> None:
        if on_commit is not None and not callable(on_commit):
            raise ConfigurationError(f"on_commit={on_commit!r:.60}: a function that is given the sending to call later")
        self.acknowledged: bool | None = None
        self._cache = cache
        self._on_commit = on_commit
        self._collection: Collection | None = None
        self._around = Around(cache)

    # -- for threads -------------------------------------------------------------------------------------------------

    def __enter__(self) -> Transaction:
        if self._on_commit is not None and is_async(self._on_commit):
            raise ConfigurationError("on_commit= is a coroutine function, which only `async with` awaits")
        self._begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        marks = self._end(kind)
        if not marks:
            return
        sending = _Sending(self, marks)
        if self._on_commit is not None:
            self._on_commit(sending)
        else:
            sending()

    # -- for asyncio -------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Transaction:
        load("cachekit.aio.drive")  # and not by the commit (docs/design/imports.md)
        self._begin()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        marks = self._end(kind)
        if not marks:
            return
        sending = _AsyncSending(self, marks)
        if self._on_commit is None:
            await sending()
            return
        given = self._on_commit(sending)
        if hasattr(given, "__await__"):
            await given

    # -- as a decorator ----------------------------------------------------------------------------------------------

    def __call__(self, function: F) -> F:
        """``function``, with each of its calls in a transaction of its own."""
        if not callable(function) or isinstance(function, staticmethod | classmethod):
            raise ConfigurationError("a transaction decorates a function; @staticmethod and @classmethod go above it")
        return self._decorated(function, is_async(function))  # type: ignore[return-value]

    def _decorated(self, function: Callable[..., Any], asynchronous: bool) -> Callable[..., Any]:
        if asynchronous:

            @functools.wraps(function)
            async def later(*args: Any, **kwargs: Any) -> Any:
                async with self._another():
                    return await function(*args, **kwargs)

            return later

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self._another():
                return function(*args, **kwargs)

        return wrapper

    def _another(self) -> Transaction:
        return type(self)(self._cache, self._on_commit)

    def __repr__(self) -> str:
        return f"<Transaction of {self._cache!r}: {self._state()}>"

    def _state(self) -> str:
        if self._collection is None:
            return "not begun"
        if self.acknowledged is not None:
            return "sent and acknowledged" if self.acknowledged else "sent, not acknowledged by every server"
        return f"{len(self._collection.marks)} collected" if self._collection.goes_on() else "ended, nothing sent"

    # -- how ---------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._collection is not None:
            raise ConfigurationError("a transaction is begun once; make another with cache.transaction()")
        self._collection = Collection(self._cache._env, self._around.switch_on)
        collect.begin(self._collection)
        self._around.enter()

    def _end(self, kind: type[BaseException] | None) -> dict[bytes, Mark]:
        """What is to be sent. An interruption (a cancelled task, Ctrl-C) tells nothing of what the database did, and
        an invalidation too many costs a run only: so it is no reason to drop them.
        """
        if self._collection is None:
            raise ConfigurationError("this transaction was not begun")
        marks = self._collection.end()
        collect.leave()
        self._around.leave()
        return {} if kind is not None and issubclass(kind, Exception) else marks


class _Sending:
    """What sends the invalidations of a transaction, once. It gives them to the transaction around that one instead,
    where that goes on still.
    """

    def __init__(self, transaction: Transaction, marks: dict[bytes, Mark]) -> None:
        self._transaction, self._marks = transaction, marks

    def __call__(self) -> bool:
        """Whether every server concerned has acknowledged; True where nothing is left to send."""
        flow = self._flow()
        return True if flow is None else self._noted(run(flow, self._transaction._cache._fleet))

    def _flow(self) -> Flow[bool] | None:
        marks, self._marks = self._marks, {}
        collection = self._transaction._collection
        if not marks or collection is None or collection.hand_over(marks):
            return None
        return tell_abreast([mark.tell for mark in marks.values()], collection.env)

    def _noted(self, acknowledged: bool) -> bool:
        self._transaction.acknowledged = acknowledged
        return acknowledged


class _AsyncSending(_Sending):
    """The same as a coroutine function."""

    async def __call__(self) -> bool:  # type: ignore[override]
        flow = self._flow()
        if flow is None:
            return True
        from cachekit.aio.drive import run as drive  # noqa: PLC0415 - it brings asyncio

        return self._noted(await drive(flow, self._transaction._cache._loops.here()))
