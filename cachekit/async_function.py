"""A cached ``async def``: what ``function.py`` is to a plain one, with every verb a coroutine.

A call is no coroutine function itself: it makes the key and returns the coroutine of the reader, so that arguments that
don't fit, or can't be keyed, raise where the call stands, as with any ``async def``. To its tools it is one all the
same: ``inspect.iscoroutinefunction`` asks the flags of the ``__code__`` of whatever looks like a function.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from types import CodeType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from cachekit.aio.drive import run, run_here
from cachekit.env import Env, Job
from cachekit.flows.alone import run_uncached
from cachekit.flows.fill import refresh
from cachekit.flows.look import Explanation, explain, stored
from cachekit.flows.many import many
from cachekit.flows.tell import Request, removal, tell, tell_every_server
from cachekit.function import Call, Decorated
from cachekit.methods import Bound, OfClass
from cachekit.ops import Each, Flow
from cachekit.policy import Policy
from cachekit.types import MISS, Miss

if TYPE_CHECKING:
    from cachekit.cache import Cache
    from cachekit.keys.compile import KeyMaker

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")


class AsyncCall(Call[Coroutine[Any, Any, R]], Generic[R]):
    """One call of a cached ``async def``, with its arguments bound but not yet made: ``await call()`` makes it."""

    def __await__(self) -> Generator[Any, None, R]:
        # Kind to who forgets the parentheses: it can mean nothing else.
        return self().__await__()

    if TYPE_CHECKING:

        async def __call__(self) -> R: ...


class AsyncCachedFunction(Decorated[P, Coroutine[Any, Any, R]], Generic[P, R]):
    """An ``async def`` whose results are kept; made by ``@cache``. Awaiting a call gives the stored result or runs the
    function, in the running event loop.

    Raises what the function raises; and where the call stands, before the await, ``TypeError`` for arguments that don't
    fit and ``UnkeyableError`` for those that can't be keyed. Verbs raise these when they are awaited.
    """

    __code__: CodeType
    __defaults__: tuple[Any, ...] | None
    __kwdefaults__: dict[str, Any] | None

    def __init__(
        self, cache: Cache, function: Callable[..., Coroutine[Any, Any, R]], keys: KeyMaker, policy: Policy
    ) -> None:
        super().__init__(cache, function, keys, policy)
        pose(self, function)

    if TYPE_CHECKING:  # to mypy the Any of a spelled-out Coroutine[Any, …] is ambiguous in ``asyncio.gather``

        async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    else:

        def __call__(self, /, *args, **kwargs):
            if self._cache.off and self._cache.is_disabled():
                return self._bare()(*args, **kwargs)
            return self._read(self._make(*args, **kwargs), self._function, args, kwargs)

    # -- one entry ---------------------------------------------------------------------------------------------------

    async def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Remove this call's entry, and void any fill of it under way.

        True once its server has acknowledged: from then no caller anywhere gets a value computed before. False: the
        server could not be asked, and the entry may still be served until its ttl ends.
        """
        return await self._tell(args, kwargs, removal)

    async def expire(self, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Invalidate this call's entry softly: the next caller refreshes it, and the others are served the old value
        meanwhile, as long as it may be stale by its header.

        True once its server has acknowledged. A fill under way is voided: what it stores would be older.
        """
        return await self._tell(args, kwargs, self._ready().expire_request)

    async def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function now, store what it returns, and return it. An invalidation during the run still wins."""
        if self._cache.is_disabled():
            return await self._bare()(*args, **kwargs)
        job = self._job(self._make(*args, **kwargs), args, kwargs)
        return await self._drive(refresh(job, self._cache._env))

    async def peek(self, /, *args: P.args, **kwargs: P.kwargs) -> R | Miss:
        """What is stored and may be served, fresh or stale, else ``MISS``. Never runs the function or takes a lease.

        Raises the failure where one is stored (``Policy(errors=…)``).
        """
        job = self._entry(args, kwargs)
        found = (await run_here(stored([job], self._cache._env), self._cache._loops.here())).get(job.key)
        return MISS if found is None else found.get()

    async def explain(self, /, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Where this call's entry is, how old, how large, and why it would or would not be served. Changes nothing."""
        job = self._entry(args, kwargs)
        return await run_here(explain(job, self._cache._env), self._cache._loops.here())

    # -- many entries ------------------------------------------------------------------------------------------------

    def bind(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncCall[R]:
        """This call, to be awaited later or by ``many``. Raises ``TypeError`` now for arguments that don't fit."""
        self._keys.bind(*args, **kwargs)
        return AsyncCall(self, args, kwargs)

    async def many(self, calls: Iterable[AsyncCall[R]]) -> list[R]:
        """The results of many calls, in their order: one window of reads over all servers, then one run for each
        miss, side by side.

        Raises ``ConfigurationError`` for anything but calls that this function's ``bind`` made, and what the function
        raises: the runs that go on are cancelled then.
        """
        wanted = self._own(calls)
        if not wanted or self._cache.is_disabled():
            return list(await asyncio.gather(*(call() for call in wanted)))
        keys = self._keys_of(wanted)
        if self._ready().ttl == 0:
            runs = [self._job(key, call.args, call.kwargs) for key, call in zip(keys, wanted, strict=True)]
            return await self._drive(_side_by_side(runs, self._cache._env))
        jobs = self._jobs(wanted, keys)
        values = await self._drive(many(list(jobs.values()), self._cache._env))
        found = dict(zip(jobs, values, strict=True))
        return [found[key] for key in keys]

    async def invalidate_all(self) -> bool:
        """Void every entry of this function, on every server, at a cost that does not depend on how many there are.

        True once every server has acknowledged; False: at least one could not be asked. Raises ``ConfigurationError``
        where the policy says ``group=False``.
        """
        return await self._drive(tell_every_server(self._grouped(), self._cache._env))

    async def expire_all(self) -> bool:
        """Invalidate every entry of this function softly: for each, the next caller refreshes it, and the others are
        served the old value meanwhile, as long as it may be stale by its header. In two windows over the servers.

        True once every server has acknowledged. Raises ``ConfigurationError`` as ``invalidate_all`` does.
        """
        return await self._drive(tell_every_server(self._grouped(), self._cache._env, soft=True))

    # -- being a method ----------------------------------------------------------------------------------------------

    @overload
    def __get__(self, instance: None, owner: type, /) -> AsyncCachedFunction[P, R]: ...
    @overload
    def __get__(
        self: AsyncCachedFunction[Concatenate[S, Q], R], instance: S, owner: type | None = None, /
    ) -> AsyncBoundFunction[Q, R]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> AsyncCachedFunction[P, R]: ...
    def __get__(self, instance: Any, owner: type | None = None, /) -> Any:
        return self if instance is None else AsyncBoundFunction(self, instance)

    # -- how ---------------------------------------------------------------------------------------------------------

    def _first_read(self, key: bytes, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        # What only a call needs is loaded by the first one, and not by who decorates (docs/design/imports.md).
        from cachekit.aio.reader import reader  # noqa: PLC0415

        with self._cache._lock:  # cachekit.testing may be putting another server under it
            read = reader(self._ready(), self._cache._loops, self._cache._env, self.__qualname__, self._keys.tags)
            self._read = self._by_near(read, self._drive)
        return self._read(key, function, args, kwargs)

    async def _tell(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], request: Request) -> bool:
        return await self._drive(tell(self._entry(args, kwargs), self._cache._env, request))

    async def _drive(self, flow: Flow[T]) -> T:
        return await run(flow, self._cache._loops.here())


def _side_by_side(jobs: list[Job], env: Env) -> Flow[list[Any]]:
    """Runs of which nothing is stored."""
    return (yield Each([run_uncached(job, env) for job in jobs]))  # type: ignore[no-any-return]


def pose(decorated: Any, function: Any) -> None:
    """Let ``decorated`` look like a coroutine function to its tools, as ``function`` does. A ``partial`` has no code to
    show, nor has an object that is called; they borrow some.
    """
    code = getattr(function, "__code__", None)
    own = isinstance(code, CodeType) and code.co_flags & inspect.CO_COROUTINE
    decorated.__code__ = code if own else _some_coroutine.__code__
    decorated.__defaults__ = getattr(function, "__defaults__", None) if own else None
    decorated.__kwdefaults__ = getattr(function, "__kwdefaults__", None) if own else None


async def _some_coroutine(*args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError


class AsyncCachedStaticMethod(AsyncCachedFunction[P, R]):
    """A cached ``staticmethod`` that is async: bound to nothing."""

    def __get__(self, instance: Any, owner: type | None = None, /) -> Any:
        return self


if TYPE_CHECKING:

    class AsyncCachedClassFunction(AsyncCachedFunction[Concatenate[Any, Q], R]):
        """What a checker takes a cached ``TakesClass`` for that is async."""

        def __get__(  # type: ignore[override]
            self, instance: Any, owner: type | None = None, /
        ) -> AsyncBoundFunction[Q, R]: ...


class AsyncBoundFunction(Bound["AsyncCachedFunction[..., R]", P, Coroutine[Any, Any, R]], Generic[P, R]):
    """A cached async method of one object (or class): the function's verbs, with that object put first."""

    if TYPE_CHECKING:

        async def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    else:

        def __call__(self, /, *args, **kwargs):
            return self.__func__(self.__self__, *args, **kwargs)

    async def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """See ``AsyncCachedFunction.invalidate``."""
        return await self.__func__.invalidate(self.__self__, *args, **kwargs)

    async def expire(self, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """See ``AsyncCachedFunction.expire``."""
        return await self.__func__.expire(self.__self__, *args, **kwargs)

    async def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """See ``AsyncCachedFunction.refresh``."""
        return await self.__func__.refresh(self.__self__, *args, **kwargs)

    async def peek(self, /, *args: P.args, **kwargs: P.kwargs) -> R | Miss:
        """See ``AsyncCachedFunction.peek``."""
        return await self.__func__.peek(self.__self__, *args, **kwargs)

    async def explain(self, /, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """See ``AsyncCachedFunction.explain``."""
        return await self.__func__.explain(self.__self__, *args, **kwargs)

    def bind(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncCall[R]:
        """See ``AsyncCachedFunction.bind``."""
        return self.__func__.bind(self.__self__, *args, **kwargs)

    async def many(self, calls: Iterable[AsyncCall[R]]) -> list[R]:
        """See ``AsyncCachedFunction.many``."""
        return await self.__func__.many(calls)

    async def invalidate_all(self) -> bool:
        """Void every entry of the function, those of all other objects included."""
        return await self.__func__.invalidate_all()

    async def expire_all(self) -> bool:
        """Expire every entry of the function, those of all other objects included."""
        return await self.__func__.expire_all()

    def __get__(self, instance: Any, owner: type | None = None, /) -> AsyncBoundFunction[P, R]:
        # As bound methods have it: ``inspect.isroutine`` looks for it, and web frameworks for that.
        return self

    @property
    def __code__(self) -> CodeType:
        return self.__func__.__code__

    @property
    def __defaults__(self) -> tuple[Any, ...] | None:
        return self.__func__.__defaults__

    @property
    def __kwdefaults__(self) -> dict[str, Any] | None:
        return self.__func__.__kwdefaults__


class AsyncCachedClassMethod(OfClass["AsyncCachedFunction[..., R]"], Generic[P, R]):
    """A cached ``classmethod`` that is async."""

    def __get__(self, instance: Any, owner: type | None = None, /) -> AsyncBoundFunction[P, R]:
        return AsyncBoundFunction(self.__func__, owner if owner is not None else type(instance))
