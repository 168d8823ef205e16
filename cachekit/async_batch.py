"""``@cache.batch`` on an ``async def``: what ``batch.py`` is to a plain loader, with every verb a coroutine."""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from cachekit.aio.drive import run, run_here
from cachekit.async_function import pose
from cachekit.batch import Asked, Binds, Loader, OneId, Story
from cachekit.flows.batch import batch, refresh_all, tell_all
from cachekit.flows.frames import passed_by
from cachekit.flows.look import Explanation, explain, stored
from cachekit.flows.tell import Request, removal, tell_every_server

P = ParamSpec("P")
K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")


async def _compute(asked: Asked, positions: list[int]) -> list[Any]:
    """Run the loader for the ids at ``positions``."""
    ids = [asked.ids[position] for position in positions]
    return asked.checked(ids, await asked.load(ids.copy()))


class AsyncBatchFunction(Loader[K, V, P]):
    """An async loader whose results are kept one by one; made by ``@cache.batch``. Awaiting a call with ids gives a
    dict of the values that exist, stored or loaded, in the order in which the ids were first given.

    Ids may be anything that can be keyed and hashed. Ids that are equal but of different types, such as 1 and True, are
    different entries, and a dict can't hold both: a call with both raises ``TypeError``.

    Raises what the loader raises, ``TypeError`` where that returns no mapping and for ids that can't be hashed, and
    ``UnkeyableError``.
    """

    def __init__(self, one: OneId, binds: Binds, owner: tuple[Any, ...] = ()) -> None:
        super().__init__(one, binds, owner)
        pose(self, one.uncached)

    if TYPE_CHECKING:

        async def __call__(self, ids: Iterable[K], /, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]: ...

    else:

        def __call__(self, ids, /, *args, **kwargs):
            return self._found(self._asked(ids, args, kwargs), batch)

    # -- the entries of some ids -------------------------------------------------------------------------------------

    async def explain(self, id: K, /, *args: P.args, **kwargs: P.kwargs) -> Explanation:  # noqa: A002
        """Where one id's entry is, how old, how large, and why it would or would not be served. Changes nothing."""
        cache = self._one._cache
        return await run_here(explain(self._entry(id, args, kwargs), cache._env), cache._loops.here())

    async def invalidate(self, ids: Iterable[K], /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Remove the entries of ``ids``, in one window over the servers, and void any fill of them under way.

        True once every server concerned has acknowledged: from then no caller anywhere gets a value computed before.
        """
        return await self._tell(self._asked(ids, args, kwargs), removal)

    async def expire(self, ids: Iterable[K], /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Invalidate the entries of ``ids`` softly: the next caller refreshes them, the others are served the old
        values meanwhile, as long as they may be stale. True once every server concerned has acknowledged.
        """
        return await self._tell(self._asked(ids, args, kwargs), self._one._ready().expire_request)

    async def refresh(self, ids: Iterable[K], /, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """Run the loader now for all of ``ids``, store what it returns, and return it. An invalidation during the run
        still wins.
        """
        return await self._found(self._asked(ids, args, kwargs), refresh_all)

    async def peek(self, ids: Iterable[K], /, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """What is stored of ``ids`` and may be served, fresh or stale. Never runs the loader or takes a lease."""
        asked = self._asked(ids, args, kwargs)
        cache, fleet = self._one._cache, self._one._cache._loops.here()
        return asked.standing(await run_here(stored(self._entries(asked, fleet.roster.ring.index), cache._env), fleet))

    # -- all of them -------------------------------------------------------------------------------------------------

    async def invalidate_all(self) -> bool:
        """Void every entry of this loader, on every server, at a cost that does not depend on how many there are.

        True once every server has acknowledged. Raises ``ConfigurationError`` where the policy says ``group=False``.
        """
        cache = self._one._cache
        return await run(tell_every_server(self._one._grouped(), cache._env), cache._loops.here())

    async def expire_all(self) -> bool:
        """Invalidate every entry of this loader softly: the next caller refreshes each, the others are served the old
        values meanwhile, as long as they may be stale. True once every server has acknowledged.

        Raises ``ConfigurationError`` where the policy says ``group=False``.
        """
        cache = self._one._cache
        return await run(tell_every_server(self._one._grouped(), cache._env, soft=True), cache._loops.here())

    @property
    def uncached(self) -> Callable[Concatenate[builtins.list[K], P], Coroutine[Any, Any, Mapping[K, V]]]:
        """The loader itself."""
        return self.__wrapped__

    # -- how ---------------------------------------------------------------------------------------------------------

    async def _found(self, asked: Asked, story: Story) -> dict[K, V]:
        return asked.found(await self._values(asked, story))

    async def _values(self, asked: Asked, story: Story) -> builtins.list[Any]:
        """The values of ``asked.ids``, by ``story``."""
        cache = self._one._cache
        if not asked.keys:
            return []
        if cache.off and cache.is_disabled():
            passed_by(self._one._keys.name)
            return await _compute(asked, builtins.list(range(len(asked.ids))))
        fleet = cache._loops.here()  # one for all of it: cachekit.testing may put another in its place
        compute: Any = functools.partial(_compute, asked)  # the driver of asyncio awaits what it gives
        return await run(story(self._entries(asked, fleet.roster.ring.index), cache._env, compute), fleet)

    async def _tell(self, asked: Asked, request: Request) -> bool:
        """Send an invalidation of each key; whether all were acknowledged."""
        if not asked.keys:
            return True
        cache, fleet = self._one._cache, self._one._cache._loops.here()
        return all(await run(tell_all(self._entries(asked, fleet.roster.ring.index), cache._env, request), fleet))

    # Last, since below it ``list`` is this.

    @overload
    async def list(self, ids: Iterable[K], /, *args: P.args, **kwargs: P.kwargs) -> builtins.list[V | None]: ...
    @overload
    async def list(self: AsyncBatchFunction[K, V, []], ids: Iterable[K], /, *, default: D) -> builtins.list[V | D]: ...
    async def list(self, ids: Iterable[Any], /, *args: Any, **kwargs: Any) -> Any:
        """The values in the order of ``ids``, as many as those, duplicates included; ``default`` (None) where an id
        does not exist. A loader that has a parameter ``default`` of its own is given it instead.
        """
        default = self._default(kwargs)
        asked = self._asked(ids, args, kwargs)
        return asked.row(await self._values(asked, batch), default)


if TYPE_CHECKING:

    class AsyncBatchMethod(AsyncBatchFunction[K, V, P]):
        """What a checker takes a batch loader for whose first parameter is ``self`` or ``cls``."""

        def __get__(self, instance: Any, owner: type | None = None, /) -> AsyncBatchFunction[K, V, P]: ...  # type: ignore[override]
