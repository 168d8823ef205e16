"""A decorated function: what a caller calls, and the verbs that stand on it.

``CachedFunction`` is an object of its own and not a closure, so that it can carry the verbs with the function's own
signature, be bound like a method, and pickle by reference. A hit is one call of the key maker and one of the reader.

``Decorated`` is what it shares with the cached ``async def`` of ``async_function.py``. Every verb of more than one step
is a flow, which the one drives by blocking and the other by awaiting.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from cachekit.env import Job
from cachekit.errors import ConfigurationError
from cachekit.flows.frames import passed_by
from cachekit.frozen import Frozen
from cachekit.policy import Policy
from cachekit.recipe import Recipe
from cachekit.sync.drive import run
from cachekit.tally import Info
from cachekit.types import MISS, Key, Miss

if TYPE_CHECKING:
    from cachekit.cache import Cache
    from cachekit.flows.look import Explanation
    from cachekit.flows.tell import Request
    from cachekit.keys.compile import KeyMaker
    from cachekit.methods import BoundFunction
    from cachekit.sync.reader import Reader

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")


class Call(Frozen, Generic[R]):
    """One call of a cached function, with its arguments bound but not yet made; ``function.bind(…)`` makes one."""

    function: Decorated[..., R]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = MappingProxyType({})

    @property
    def key(self) -> Key:
        """The key of this call's entry."""
        return self.function.key(*self.args, **self.kwargs)

    def __call__(self) -> R:
        return self.function(*self.args, **self.kwargs)


@functools.cache
def _bound() -> type[BoundFunction[Any, Any]]:
    from cachekit.methods import BoundFunction  # noqa: PLC0415 - few programs have methods (docs/design/imports.md)

    return BoundFunction


class Decorated(Generic[P, R]):
    """A function whose results are kept: what does not depend on whether it is async. ``R``: what a call returns, of an
    ``async def`` the coroutine.
    """

    def __init__(self, cache: Cache, function: Callable[..., R], keys: KeyMaker, policy: Policy) -> None:
        functools.update_wrapper(self, function)
        self.__name__: str = getattr(function, "__name__", type(function).__name__)
        self.__qualname__: str = getattr(function, "__qualname__", self.__name__)
        self._cache = cache
        self._function = function
        self._keys = keys
        self._make = keys.make
        self._policy = policy
        self._recipe: Recipe | None = None
        self._read: Reader = self._first_read
        cache._adopt(self)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        raise NotImplementedError

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> Key:
        """The key of this call's entry, exactly as it is on the wire. Raises ``UnkeyableError``."""
        return Key(self._make(*args, **kwargs).decode())

    def info(self) -> Info:
        """What this function's calls came to in this process: hits, misses, fills, waits, errors, seconds saved."""
        return self._ready().tally.info()

    @property
    def uncached(self) -> Callable[P, R]:
        """The function itself."""
        return self._function

    # -- being a function --------------------------------------------------------------------------------------------

    def __reduce__(self) -> str:
        return self.__qualname__

    def __repr__(self) -> str:
        return f"<cached {self._keys.name}{self._keys.signature}>"

    # -- how ---------------------------------------------------------------------------------------------------------

    def _ready(self) -> Recipe:
        """The recipe, made at first use, when the cache is configured."""
        recipe = self._recipe
        if recipe is None:
            with self._cache._lock:  # two of them would share out the counts between them
                recipe = self._recipe = self._recipe or self._cache._recipe(self._function, self._keys, self._policy)
        return recipe  # cachekit.testing may have taken it away again

    def _bare(self) -> Callable[..., R]:
        """The function itself, to be called just now, while the cache is off."""
        passed_by(self._keys.name)
        return self._function

    def _first_read(self, key: bytes, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        raise NotImplementedError

    def _entry(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Job:
        """The entry of a call, for flows that don't run the function."""
        return self._job(self._make(*args, **kwargs), args, kwargs)

    def _job(self, key: bytes, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Job:
        compute = functools.partial(self._function, *args, **kwargs)
        bears = self._keys.tags
        tags = bears(*args, **kwargs) if bears is not None else ()
        recipe, near = self._ready(), self._cache._env.near
        ticket = near.ticket() if near is not None and recipe.near is not None else None
        return Job(recipe, key, self._cache._fleet.ring.index(key), compute, tags, ticket)

    def _by_near(self, read: Reader, drive: Callable[[Any], Any]) -> Reader:
        """``read``, or where the function has a near tier what looks there first. ``drive`` takes flows to values."""
        recipe, near = self._ready(), self._cache._env.near
        if near is None or recipe.near is None or recipe.ttl == 0:
            return read
        from cachekit.near_calls import install  # noqa: PLC0415 - few functions have one (docs/design/imports.md)

        return install(self, near, recipe.near, read, drive)

    def _own(self, calls: Iterable[Call[Any]]) -> list[Call[Any]]:
        """The calls for ``many``. Raises ``ConfigurationError`` for those of others."""
        wanted = list(calls)
        if any(getattr(call, "function", None) is not self for call in wanted):
            raise ConfigurationError(f"{self._keys.name}.many() takes calls made by its own bind() only")
        return wanted

    def _keys_of(self, calls: list[Call[Any]]) -> list[bytes]:
        return [self._make(*call.args, **call.kwargs) for call in calls]

    def _jobs(self, wanted: list[Call[Any]], keys: list[bytes]) -> dict[bytes, Job]:
        """What ``many`` is to do, each key once."""
        return {key: self._job(key, call.args, call.kwargs) for key, call in zip(keys, wanted, strict=True)}

    def _grouped(self) -> Recipe:
        """The recipe, which has a generation. Raises ``ConfigurationError``."""
        recipe = self._ready()
        if not recipe.grouped:
            raise ConfigurationError(
                f"{self._keys.name}: invalidate_all() and expire_all() need a generation; "
                "take group=False out of its policy"
            )
        return recipe


class CachedFunction(Decorated[P, R]):
    """A function whose results are kept; made by ``@cache``. Calling it returns the stored result or runs the
    function.
    """

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._cache.off and self._cache.is_disabled():
            return self._bare()(*args, **kwargs)
        return self._read(self._make(*args, **kwargs), self._function, args, kwargs)  # type: ignore[no-any-return]

    # -- one entry ---------------------------------------------------------------------------------------------------

    def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Remove this call's entry, and void any fill of it under way.

        True once its server has acknowledged: from then no caller anywhere gets a value computed before. False: the
        server could not be asked, and the entry may still be served until its ttl ends.
        """
        from cachekit.flows.tell import removal  # noqa: PLC0415 - see _first_read

        return self._tell(args, kwargs, removal)

    def expire(self, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Invalidate this call's entry softly: the next caller refreshes it, and the others are served the old value
        meanwhile, as long as it may be stale by its header.

        True once its server has acknowledged. A fill under way is voided: what it stores would be older.
        """
        return self._tell(args, kwargs, self._ready().expire_request)

    def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function now, store what it returns, and return it. An invalidation during the run still wins."""
        if self._cache.is_disabled():
            return self._bare()(*args, **kwargs)
        from cachekit.flows.fill import refresh  # noqa: PLC0415 - see _first_read

        job = self._job(self._make(*args, **kwargs), args, kwargs)
        return run(refresh(job, self._cache._env), self._cache._fleet)  # type: ignore[no-any-return]

    def peek(self, /, *args: P.args, **kwargs: P.kwargs) -> R | Miss:
        """What is stored and may be served, fresh or stale, else ``MISS``. Never runs the function or takes a lease.

        Raises the failure where one is stored (``Policy(errors=…)``).
        """
        job = self._entry(args, kwargs)
        from cachekit.flows.look import stored  # noqa: PLC0415 - see _first_read

        found = run(stored([job], self._cache._env), self._cache._fleet).get(job.key)
        return MISS if found is None else found.get()

    def explain(self, /, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Where this call's entry is, how old, how large, and why it would or would not be served. Changes nothing."""
        job = self._entry(args, kwargs)
        from cachekit.flows.look import explain  # noqa: PLC0415 - see _first_read

        return run(explain(job, self._cache._env), self._cache._fleet)

    # -- many entries ------------------------------------------------------------------------------------------------

    def bind(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """This call, to be made later or by ``many``. Raises ``TypeError`` now for arguments that don't fit."""
        self._keys.bind(*args, **kwargs)
        return Call(self, args, kwargs)

    def many(self, calls: Iterable[Call[R]]) -> list[R]:
        """The results of many calls, in their order: one window of reads over all servers, then one run for each
        miss.

        Raises ``ConfigurationError`` for anything but calls that this function's ``bind`` made, and what the function
        raises.
        """
        wanted = self._own(calls)
        if not wanted or self._cache.is_disabled() or self._ready().ttl == 0:
            return [call() for call in wanted]
        keys = self._keys_of(wanted)
        from cachekit.flows.many import many  # noqa: PLC0415 - see _first_read

        jobs = self._jobs(wanted, keys)
        values = run(many(list(jobs.values()), self._cache._env), self._cache._fleet)
        found = dict(zip(jobs, values, strict=True))
        return [found[key] for key in keys]

    def invalidate_all(self) -> bool:
        """Void every entry of this function, on every server, at a cost that does not depend on how many there are.

        True once every server has acknowledged; False: at least one could not be asked. Raises ``ConfigurationError``
        where the policy says ``group=False``.
        """
        return self._tell_all(soft=False)

    def expire_all(self) -> bool:
        """Invalidate every entry of this function softly: for each, the next caller refreshes it, and the others are
        served the old value meanwhile, as long as it may be stale by its header. In two windows over the servers.

        True once every server has acknowledged. Raises ``ConfigurationError`` as ``invalidate_all`` does.
        """
        return self._tell_all(soft=True)

    # -- being a method ----------------------------------------------------------------------------------------------

    @overload
    def __get__(self, instance: None, owner: type, /) -> CachedFunction[P, R]: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[S, Q], R], instance: S, owner: type | None = None, /
    ) -> BoundFunction[Q, R]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> CachedFunction[P, R]: ...
    def __get__(self, instance: Any, owner: type | None = None, /) -> Any:
        return self if instance is None else _bound()(self, instance)

    # -- how ---------------------------------------------------------------------------------------------------------

    def _first_read(self, key: bytes, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        # What only a call needs is loaded by the first one, and not by who imports cachekit (docs/design/imports.md).
        from cachekit.sync.reader import reader  # noqa: PLC0415

        with self._cache._lock:  # cachekit.testing may be putting another server under it
            read = reader(self._ready(), self._cache._fleet, self._cache._env, self._keys.tags)
            self._read = self._by_near(read, lambda flow: run(flow, self._cache._fleet))
        return self._read(key, function, args, kwargs)

    def _tell(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], request: Request) -> bool:
        from cachekit.flows.tell import tell  # noqa: PLC0415 - see _first_read

        return run(tell(self._entry(args, kwargs), self._cache._env, request), self._cache._fleet)

    def _tell_all(self, *, soft: bool) -> bool:
        from cachekit.flows.tell import tell_every_server  # noqa: PLC0415 - see _first_read

        return run(tell_every_server(self._grouped(), self._cache._env, soft=soft), self._cache._fleet)


class CachedStaticMethod(CachedFunction[P, R]):
    """A cached ``staticmethod``: bound to nothing."""

    def __get__(self, instance: Any, owner: type | None = None, /) -> Any:
        return self


if TYPE_CHECKING:

    class CachedClassFunction(CachedFunction[Concatenate[Any, Q], R]):
        """What a checker takes a cached ``TakesClass`` for."""

        def __get__(self, instance: Any, owner: type | None = None, /) -> BoundFunction[Q, R]: ...  # type: ignore[override]
