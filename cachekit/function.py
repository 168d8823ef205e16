"""A decorated function: what a caller calls, and the verbs that stand on it.

``CachedFunction`` is an object of its own and not a closure, so that it can carry the verbs with the function's own
signature, be bound like a method, and pickle by reference. A hit is one call of the key maker and one of the reader.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from cachekit.codecs.envelope import FOREVER
from cachekit.codecs.flags import describe
from cachekit.env import Job
from cachekit.errors import ConfigurationError, ServerError
from cachekit.frozen import Frozen
from cachekit.hooks import Invalidate
from cachekit.meta import md
from cachekit.ops import Exchange, Replies
from cachekit.policy import Policy, Verdict
from cachekit.recipe import Recipe
from cachekit.sync.drive import run
from cachekit.sync.look import Sight, Stored, stored
from cachekit.sync.window import gather
from cachekit.tally import Info
from cachekit.types import MISS, Key, Miss

if TYPE_CHECKING:
    from cachekit.cache import Cache
    from cachekit.keys.compile import KeyMaker
    from cachekit.sync.reader import Reader

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")


class Call(Frozen, Generic[R]):
    """One call of a cached function, with its arguments bound but not yet made; ``function.bind(…)`` makes one."""

    function: CachedFunction[..., R]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = MappingProxyType({})

    @property
    def key(self) -> Key:
        """The key of this call's entry."""
        return self.function.key(*self.args, **self.kwargs)

    def __call__(self) -> R:
        return self.function(*self.args, **self.kwargs)


class Explanation(Frozen):
    """Where an entry is and what is the matter with it.

    ``state``: fresh, stale (it may be served while somebody refreshes it), throttled (stale, and a refresh has just
    failed), expired, pass (the last result could not be stored), invalidated, ahead (computed under a newer generation
    than was read just now), garbage, absent, being filled, or unreachable; a soft invalidation does not show.

    ``age_s``, ``ttl_s`` and ``stale_s`` (after its ttl, errors included) are in seconds; ``ttl_s`` is None for an entry
    that lives for ever, and where there is none. ``size_bytes`` counts the stored value with its header, ``format``
    says how it is written, ``fill_s`` for how many seconds the function ran for it.
    """

    key: Key
    server: str
    state: str
    age_s: float | None = None
    ttl_s: float | None = None
    size_bytes: int | None = None
    format: str | None = None
    fill_s: float | None = None
    stale_s: float | None = None


class CachedFunction(Generic[P, R]):
    """A function whose results are kept; made by ``@cache``. Calling it returns the stored result or runs the
    function.
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
        if self._cache.off and self._cache.is_disabled():
            return self._function(*args, **kwargs)
        return self._read(self._make(*args, **kwargs), self._function, args, kwargs)  # type: ignore[no-any-return]

    # -- one entry ---------------------------------------------------------------------------------------------------

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> Key:
        """The key of this call's entry, exactly as it is on the wire. Raises ``UnkeyableError``."""
        return Key(self._make(*args, **kwargs).decode())

    def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Remove this call's entry, and void any fill of it under way.

        True once its server has acknowledged: from then no caller anywhere gets a value computed before. False: the
        server could not be asked, and the entry may still be served until its ttl ends.
        """
        return self._void(self._make(*args, **kwargs), lambda key, opaque, _: md(key, b"O%d" % opaque))

    def expire(self, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Invalidate this call's entry softly: the next caller refreshes it, and the others are served the old value
        meanwhile, as long as it may be stale by its header.

        True once its server has acknowledged. A fill under way is voided: what it stores would be older.
        """
        recipe = self._ready()
        return self._void(self._make(*args, **kwargs), recipe.expire_request)

    def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function now, store what it returns, and return it. An invalidation during the run still wins."""
        if self._cache.is_disabled():
            return self._function(*args, **kwargs)
        from cachekit.flows.fill import refresh  # noqa: PLC0415 - see _first_read

        job = self._job(self._make(*args, **kwargs), args, kwargs)
        return run(refresh(job, self._cache._env), self._cache._fleet)  # type: ignore[no-any-return]

    def peek(self, /, *args: P.args, **kwargs: P.kwargs) -> R | Miss:
        """What is stored and may be served, fresh or stale, else ``MISS``. Never runs the function or takes a lease.

        Raises the failure where one is stored (``Policy(errors=…)``).
        """
        key = self._make(*args, **kwargs)
        found = self._stored([key], stale=True).get(key)
        return MISS if found is None else found.get()

    def explain(self, /, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Where this call's entry is, how old, how large, and why it would or would not be served. Changes nothing."""
        key = self._make(*args, **kwargs)
        cache, recipe = self._cache, self._ready()
        where = (Key(key.decode()), cache._fleet.names[cache._fleet.ring.index(key)])
        sight = Sight([key], recipe, cache._fleet)
        if sight.errors:
            return Explanation(*where, "unreachable")
        if key not in sight.found:
            return Explanation(*where, "absent")
        reply, judgement = sight.found[key], sight.judge(key, cache._env.now())
        if judgement.header is None:
            return Explanation(*where, judgement.verdict.value, size_bytes=len(reply.value or b""))
        header = judgement.header
        stale = judgement.verdict is Verdict.DUE and judgement.servable()
        return Explanation(
            *where,
            "stale" if stale else judgement.verdict.value,
            age_s=judgement.age_ms / 1000,
            ttl_s=None if header.ttl_ms == FOREVER else header.ttl_ms / 1000,
            stale_s=(header.stale_ms + header.stale_if_error_ms) / 1000,
            size_bytes=len(reply.value or b""),
            format=describe(reply.client_flags or 0, (reply.value or b"")[judgement.payload_at :]),
            fill_s=header.delta_us / 1e6,
        )

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
        wanted = list(calls)
        if any(getattr(call, "function", None) is not self for call in wanted):
            raise ConfigurationError(f"{self._keys.name}.many() takes calls made by its own bind() only")
        keys = [self._make(*call.args, **call.kwargs) for call in wanted]
        if self._cache.is_disabled():
            return [call() for call in wanted]
        if not wanted or self._ready().ttl == 0:
            return [call() for call in wanted]
        from cachekit.flows.many import many  # noqa: PLC0415 - see _first_read

        jobs = {key: self._job(key, call.args, call.kwargs) for key, call in zip(keys, wanted, strict=True)}
        values = run(many(list(jobs.values()), self._cache._env), self._cache._fleet)
        found = dict(zip(jobs, values, strict=True))
        return [found[key] for key in keys]

    def invalidate_all(self) -> bool:
        """Void every entry of this function, on every server, at a cost that does not depend on how many there are.

        True once every server has acknowledged; False: at least one could not be asked. Raises ``ConfigurationError``
        where the policy says ``group=False``.
        """
        recipe, cache = self._ready(), self._cache
        if not recipe.generations:
            raise ConfigurationError(
                f"{self._keys.name}: invalidate_all() needs a generation; take group=False out of its policy"
            )
        generation = recipe.generations[0]
        asks = []
        for index in range(len(cache._fleet.servers)):
            opaque = cache._env.opaque()
            asks.append(Exchange(index, md(generation, b"O%d" % opaque), 1, opaque, retry=True))
        outcomes = gather(asks, cache._fleet)
        acknowledged = all(isinstance(o, Replies) and o.replies[0].code in ("HD", "NF") for o in outcomes)
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, ServerError):
                cache._env.trouble(Job(recipe, generation, index, self._function), outcome)
        cache._env.flights.forget()
        self._tell(generation.decode(), acknowledged)
        return acknowledged

    def info(self) -> Info:
        """What this function's calls came to in this process: hits, misses, fills, waits, errors, seconds saved."""
        return self._ready().tally.info()

    @property
    def uncached(self) -> Callable[P, R]:
        """The function itself."""
        return self._function

    # -- being a function --------------------------------------------------------------------------------------------

    @overload
    def __get__(self, instance: None, owner: type, /) -> CachedFunction[P, R]: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[S, Q], R], instance: S, owner: type | None = None, /
    ) -> BoundFunction[Q, R]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> CachedFunction[P, R]: ...
    def __get__(self, instance: Any, owner: type | None = None, /) -> Any:
        return self if instance is None else BoundFunction(self, instance)

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

    def _first_read(self, key: bytes, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        # What only a call needs is loaded by the first one, and not by who imports cachekit (docs/design/imports.md).
        from cachekit.sync.reader import reader  # noqa: PLC0415

        with self._cache._lock:  # cachekit.testing may be putting another server under it
            self._read = reader(self._ready(), self._cache._fleet, self._cache._env)
        return self._read(key, function, args, kwargs)

    def _job(self, key: bytes, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Job:
        compute = functools.partial(self._function, *args, **kwargs)
        return Job(self._ready(), key, self._cache._fleet.ring.index(key), compute)

    def _void(self, key: bytes, request: Callable[[bytes, int, int], bytes]) -> bool:
        """Send an invalidation of one key; whether its server has acknowledged. ``request`` makes it of the key, the
        token, and a CAS number or 0.
        """
        cache = self._cache
        index, opaque = cache._fleet.ring.index(key), cache._env.opaque()
        acknowledged = False
        try:
            replies = cache._fleet.exchange(
                Exchange(index, request(key, opaque, cache._env.number(index)), 1, opaque, retry=True)
            )
            acknowledged = replies.replies[0].code in ("HD", "NF")
        except ServerError as error:
            cache._env.trouble(Job(self._ready(), key, index, self._function), error)
        cache._env.flights.forget(key)
        self._tell(key.decode(), acknowledged)
        return acknowledged

    def _stored(self, keys: list[bytes], *, stale: bool = False) -> dict[bytes, Stored]:
        return stored(keys, self._ready(), self._cache._fleet, self._cache._env, stale=stale)

    def _tell(self, key: str, acknowledged: bool) -> None:
        hooks = self._cache.hooks
        if hooks.on_invalidate:
            hooks.on_invalidate.emit(Invalidate(self._keys.name, key, acknowledged))


class CachedStaticMethod(CachedFunction[P, R]):
    """A cached ``staticmethod``: bound to nothing."""

    def __get__(self, instance: Any, owner: type | None = None, /) -> Any:
        return self


class TakesClass(Protocol[Q, R_co]):
    """A function whose first parameter is a class named ``cls``. For type checkers only: both take a ``@classmethod``
    off a decorated function before they look at its other decorators, so that this is all that is left to see.
    """

    def __call__(self, /, cls: type[Any], *args: Q.args, **kwargs: Q.kwargs) -> R_co: ...


if TYPE_CHECKING:

    class CachedClassFunction(CachedFunction[Concatenate[Any, Q], R]):
        """What a checker takes a cached ``TakesClass`` for."""

        def __get__(self, instance: Any, owner: type | None = None, /) -> BoundFunction[Q, R]: ...  # type: ignore[override]


class CachedClassMethod(Generic[P, R]):
    """A cached ``classmethod``: bound to the class, from the class and from its instances alike."""

    def __init__(self, function: CachedFunction[..., R]) -> None:
        self.__func__ = function
        self.__wrapped__ = function.uncached
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type | None = None, /) -> BoundFunction[P, R]:
        return BoundFunction(self.__func__, owner if owner is not None else type(instance))


class BoundFunction(Generic[P, R]):
    """A cached method of one object (or class): the function's verbs, with that object put first."""

    def __init__(self, function: CachedFunction[..., R], owner: Any) -> None:
        self.__func__ = function
        self.__self__ = owner
        self.__wrapped__ = functools.partial(function.uncached, owner)
        self.__name__: str = function.__name__
        self.__doc__ = function.__doc__

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.__func__(self.__self__, *args, **kwargs)

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> Key:
        """See ``CachedFunction.key``."""
        return self.__func__.key(self.__self__, *args, **kwargs)

    def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """See ``CachedFunction.invalidate``."""
        return self.__func__.invalidate(self.__self__, *args, **kwargs)

    def expire(self, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """See ``CachedFunction.expire``."""
        return self.__func__.expire(self.__self__, *args, **kwargs)

    def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """See ``CachedFunction.refresh``."""
        return self.__func__.refresh(self.__self__, *args, **kwargs)

    def peek(self, /, *args: P.args, **kwargs: P.kwargs) -> R | Miss:
        """See ``CachedFunction.peek``."""
        return self.__func__.peek(self.__self__, *args, **kwargs)

    def explain(self, /, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """See ``CachedFunction.explain``."""
        return self.__func__.explain(self.__self__, *args, **kwargs)

    def bind(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """See ``CachedFunction.bind``."""
        return self.__func__.bind(self.__self__, *args, **kwargs)

    def many(self, calls: Iterable[Call[R]]) -> list[R]:
        """See ``CachedFunction.many``."""
        return self.__func__.many(calls)

    def invalidate_all(self) -> bool:
        """Void every entry of the function, those of all other objects included."""
        return self.__func__.invalidate_all()

    def info(self) -> Info:
        """See ``CachedFunction.info``; all objects share one."""
        return self.__func__.info()

    @property
    def uncached(self) -> Callable[P, R]:
        """The method itself."""
        return self.__wrapped__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BoundFunction) and other.__func__ is self.__func__ and other.__self__ == self.__self__

    def __hash__(self) -> int:
        return hash((id(self.__func__), self.__self__))

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.__self__, self.__name__)

    def __repr__(self) -> str:
        return f"<bound {self.__func__!r} of {type(self.__self__).__name__}>"
