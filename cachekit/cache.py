"""``Cache``: what a user holds. It makes cached functions, and has the direct verbs.

A ``Cache`` is cheap to make and touches nothing until it is used: an application can decorate its functions at import
and say later, once, where the servers are.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, Literal, Never, ParamSpec, TypeVar, overload

from cachekit import off
from cachekit.addresses import parse_target
from cachekit.codecs import Packer, Registry, resolve, returns_of
from cachekit.decorator import OPTIONS, Decorator, checked, meant, meant_for_cache
from cachekit.errors import ConfigurationError
from cachekit.expiry import SpanLike, TtlLike, parse_span, parse_ttl
from cachekit.function import CachedFunction, CachedStaticMethod, Decorated
from cachekit.hooks import Hooks
from cachekit.keys import check_prefix, wire_key
from cachekit.lifecycle import Lifecycle, caches, load_near
from cachekit.policy import DEFAULTS, Policy, terms_of
from cachekit.recipe import Recipe
from cachekit.servers import Server, Target
from cachekit.sync.client import Verbs
from cachekit.tally import Stats, Tally, total
from cachekit.types import Unset
from cachekit.writers import Writers

if TYPE_CHECKING:
    from cachekit.aio.client import AsyncVerbs
    from cachekit.aio.loops import Loops
    from cachekit.async_batch import AsyncBatchFunction, AsyncBatchMethod
    from cachekit.async_function import (
        AsyncCachedClassFunction,
        AsyncCachedClassMethod,
        AsyncCachedFunction,
        AsyncCachedStaticMethod,
    )
    from cachekit.batch import BatchDecorator, BatchFunction, BatchMethod
    from cachekit.function import CachedClassFunction
    from cachekit.keys.compile import KeyMaker, Tags
    from cachekit.methods import CachedClassMethod, TakesClass, Unsaid
    from cachekit.near.option import Near
    from cachekit.testing.clock import ManualClock

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class Cache(Verbs, Writers, Lifecycle):
    """A cache on a ring of Memcached servers, or on the embedded server of this process.

    Args:
        url: ``"memcached://host[:port[:weight]],…"``, ``"memcached+tls://…"``, ``"unix:///path"``, ``"memory:"``, or a
            list of servers. None: the environment's ``CACHEKIT_URL`` at first use, else the embedded server.
        prefix: stands before every key, and separates applications that share servers.
        policy: what functions of this cache fall back on.
        spool: the path of a file in which invalidations are kept that could not be delivered, so that they outlive this
            process; several processes may share it. None: they are kept in memory.
        on_error: ``"degrade"``: direct verbs give their default on trouble; ``"raise"``: they raise it. Cached
            functions never do.

    One cache serves threads and any number of event loops: blocking verbs stand on the cache, the same names as
    coroutines on ``cache.aio``, and a decorated ``async def`` stays one.

    Raises ``ConfigurationError`` (a ``ValueError``). Never connects.

    >>> from cachekit import Cache
    >>> cache = Cache("memory:", prefix="shop")
    >>> @cache(ttl="5m")
    ... def price(item: int, *, currency: str = "EUR") -> str:
    ...     return f"{item * 3} {currency}"
    >>> price(7), price(7, currency="EUR"), price.info().hits
    ('21 EUR', '21 EUR', 1)
    >>> price.invalidate(7)
    True
    """

    _loops: Loops

    def __init__(
        self,
        url: str | Iterable[str | Server] | None = None,
        *,
        prefix: str = "",
        policy: Policy | None = None,
        on_error: Literal["degrade", "raise"] = "degrade",
        spool: str | os.PathLike[str] | None = None,
        **unknown: Never,
    ) -> None:
        for option in unknown:
            raise ConfigurationError(f"Cache takes no {option}=; {meant_for_cache(option)}")
        if on_error not in ("degrade", "raise"):
            raise ConfigurationError(f"on_error={on_error!r}: 'degrade' or 'raise'")
        check_prefix(prefix)
        self.prefix = prefix
        self.hooks = Hooks()
        self.off = self._off_anyway = 0
        self._blocks = set()
        self._prefix = prefix.encode()
        self._raises = on_error == "raise"
        self._target: Target | None = parse_target(url) if url is not None else None
        self._policy = checked(policy)
        self._spool = _path(spool)
        self._registry = Registry()
        self._tally = Tally()
        self._recipes: list[Recipe] = []
        self._functions: weakref.WeakSet[Decorated[..., Any]] = weakref.WeakSet()
        self._clock: ManualClock | None = None  # set by cachekit.testing alone
        self._lock = threading.RLock()
        caches.add(self)
        if os.environ.get("CACHEKIT_DISABLE", "") not in ("", "0"):
            self.off = self._off_anyway = 1

    @functools.cached_property
    def aio(self) -> AsyncVerbs:
        """The direct verbs as coroutines: ``await cache.aio.get("greeting")``."""
        from cachekit.aio.client import AsyncVerbs  # noqa: PLC0415 - threads need no asyncio

        return AsyncVerbs(self)

    def configure(
        self,
        url: str | Iterable[str | Server] | None = None,
        *,
        policy: Policy | None = None,
        spool: str | os.PathLike[str] | None = None,
    ) -> None:
        """Say where the servers are, what policy holds, and where the spool is, before the first use: for application
        factories.

        To say the same again is harmless, so a factory may run twice in one process. Raises ``ConfigurationError`` when
        the cache is in use already and this would change it.
        """
        target = self._target if url is None else parse_target(url)
        chosen = self._policy if policy is None else checked(policy)
        path = self._spool if spool is None else _path(spool)
        with self._lock:
            if "_fleet" in self.__dict__ and (target, chosen, path) != (self._target, self._policy, self._spool):
                raise ConfigurationError(
                    "configure() comes too late: this cache has been used; call it before the first use"
                )
            self._target, self._policy, self._spool = target, chosen, path

    def register(
        self,
        type: type[T],  # noqa: A002
        *,
        name: str | None = None,
        encode: Callable[[T], object] | None = None,
        decode: Callable[[Any], T] | None = None,
    ) -> type[T]:
        """Let values of exactly this class be stored by this cache. Returns the class.

        Args:
            type: the class. Without ``encode`` and ``decode`` it must be an Enum, dataclass, NamedTuple, attrs, msgspec
                or pydantic class.
            name: what stands for the class in stored values, for all processes and releases; module and qualified name
                by default.
            encode: gives plain data for an instance.
            decode: makes an equal instance of that data again.

        Raises ``ConfigurationError`` for half a pair, a name that another class has, or what can't be carried.
        """
        return self._registry.register(type, name=name, encode=encode, decode=decode)

    # -- the decorator -----------------------------------------------------------------------------------------------

    @overload
    def __call__(self, function: staticmethod[P, Unsaid], /) -> CachedStaticMethod[P, Any]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: classmethod[Any, P, Unsaid], /) -> CachedClassMethod[P, Any]: ...
    @overload
    def __call__(self, function: TakesClass[P, Unsaid], /) -> CachedClassFunction[P, Any]: ...
    @overload
    def __call__(self, function: Callable[P, Unsaid], /) -> CachedFunction[P, Any]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: staticmethod[P, Coroutine[Any, Any, R]], /) -> AsyncCachedStaticMethod[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: classmethod[Any, P, Coroutine[Any, Any, R]], /) -> AsyncCachedClassMethod[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: TakesClass[P, Coroutine[Any, Any, R]], /) -> AsyncCachedClassFunction[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncCachedFunction[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: staticmethod[P, R], /) -> CachedStaticMethod[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: classmethod[Any, P, R], /) -> CachedClassMethod[P, R]: ...
    @overload
    def __call__(self, function: TakesClass[P, R], /) -> CachedClassFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...
    @overload
    def __call__(
        self,
        function: None = None,
        /,
        *,
        ttl: TtlLike | Unset = ...,
        stale: SpanLike | Unset = ...,
        refresh: Literal["inline", "background"] | Unset = ...,
        key: str | Callable[..., object] | None = ...,
        ignore: Iterable[str] = ...,
        namespace: str | Callable[..., str] | None = ...,
        tags: Tags = ...,
        version: int | str | None = ...,
        near: Near | SpanLike | Unset | None = ...,
        codec: Any = ...,
        cache_if: Callable[[Any], object] | Unset | None = ...,
        policy: Policy | None = ...,
    ) -> Decorator: ...
    def __call__(self, function: Any = None, /, **options: Any) -> Any:
        """Decorate a function: ``@cache``, ``@cache()`` or ``@cache(ttl="5m", …)``.

        Args:
            ttl: how long a result is fresh, 300 s by default; see ``Policy``.
            stale: how long after that it may still be served while one caller refreshes it, 0 by default.
            refresh: ``"inline"``, the default: that caller runs the function himself; ``"background"``: a thread, or a
                task for an ``async def``.
            key: what tells two calls apart instead of all arguments: a template ``"user:{user_id}"`` or a callable of
                the arguments.
            ignore: names of arguments that make no difference.
            namespace: text, or a callable of the arguments, that stands before the function in the key;
                ``invalidate_namespace`` voids all of it.
            tags: what entries bear, such as ``["user:{user_id}"]``, or a callable of the arguments that returns tags;
                ``invalidate_tags("user:42")`` voids every entry that bears one.
            version: a number or text to change when the result's meaning changes; ``"source"``: a fingerprint of the
                source.
            near: how long a result may be served from the memory of this process, off by default: a span, or a ``Near``
                with bounds.
            codec: how values are written, by name or as a codec.
            cache_if: a predicate on the result; false: it is returned and not stored.
            policy: a ``Policy`` for what is not said here.

        An ``async def`` stays one, and its verbs are coroutines. Raises ``ConfigurationError`` (a ``ValueError``) for
        options that can't mean anything, and for generators.
        """
        unknown = [name for name in options if name not in OPTIONS]
        if unknown:
            raise ConfigurationError(f"@cache takes no {unknown[0]}=; {meant(unknown[0])}")
        decorator = Decorator(self, **options)
        return decorator if function is None else decorator(function)

    @overload
    def batch(self, loader: Callable[Concatenate[list[K], P], Unsaid], /) -> BatchFunction[K, Any, P]: ...  # type: ignore[overload-overlap]
    @overload
    def batch(self, loader: Callable[Concatenate[T, list[K], P], Unsaid], /) -> BatchMethod[K, Any, P]: ...
    @overload
    def batch(  # type: ignore[overload-overlap]
        self, loader: Callable[Concatenate[list[K], P], Coroutine[Any, Any, Mapping[K, V]]], /
    ) -> AsyncBatchFunction[K, V, P]: ...
    @overload
    def batch(
        self, loader: Callable[Concatenate[T, list[K], P], Coroutine[Any, Any, Mapping[K, V]]], /
    ) -> AsyncBatchMethod[K, V, P]: ...
    @overload
    def batch(self, loader: Callable[Concatenate[list[K], P], Mapping[K, V]], /) -> BatchFunction[K, V, P]: ...  # type: ignore[overload-overlap]
    @overload
    def batch(self, loader: Callable[Concatenate[T, list[K], P], Mapping[K, V]], /) -> BatchMethod[K, V, P]: ...
    @overload
    def batch(
        self,
        loader: None = None,
        /,
        *,
        ttl: TtlLike | Unset = ...,
        absent_ttl: TtlLike | Unset = ...,
        stale: SpanLike | Unset = ...,
        refresh: Literal["inline", "background"] | Unset = ...,
        key: str | Callable[..., object] | None = ...,
        ignore: Iterable[str] = ...,
        namespace: str | Callable[..., str] | None = ...,
        tags: Tags = ...,
        version: int | str | None = ...,
        near: Near | SpanLike | Unset | None = ...,
        codec: Any = ...,
        cache_if: Callable[[Any], object] | Unset | None = ...,
        policy: Policy | None = ...,
    ) -> BatchDecorator: ...
    def batch(self, loader: Any = None, /, **options: Any) -> Any:
        """Decorate a loader of many: its first parameter takes a list of ids, and it returns a mapping from id to
        value. Each id has an entry of its own; the loader is called once with those that are missing.

        The options are those of ``@cache``, each about one id; ``absent_ttl``: how long it is remembered that an id,
        left out of the mapping, does not exist; the ttl by default, 300 s where that is a function of the value.

        Raises ``ConfigurationError`` for options that can't mean anything, a policy's ``errors`` among them, and for a
        loader without a parameter for the ids.

        >>> from cachekit import Cache
        >>> cache = Cache("memory:")
        >>> @cache.batch(ttl="5m")
        ... def names(ids: list[int]) -> dict[int, str]:
        ...     return {each: f"user {each}" for each in ids if each < 100}
        >>> names([3, 1, 3, 999]), names.list([1, 999])
        ({3: 'user 3', 1: 'user 1'}, ['user 1', None])
        """
        from cachekit.batch import BatchDecorator  # noqa: PLC0415 - few programs load in batches

        decorator = BatchDecorator(self, **options)
        return decorator if loader is None else decorator(loader)

    def _adopt(self, function: Decorated[..., Any]) -> None:
        """Know ``function`` as one of this cache's, for as long as somebody has it."""
        load_near(function._policy.near)
        with self._lock:
            self._functions.add(function)

    def _recipe(self, function: Callable[..., Any], keys: KeyMaker, policy: Policy) -> Recipe:
        """How the entries of ``function`` are kept, now that the cache is configured."""
        chosen: Any = policy.over(self._policy).over(DEFAULTS)
        recipe = Recipe(
            name=keys.name,
            packer=Packer(resolve(chosen.codec, returns=returns_of(function), registry=self._registry)),
            ttl=parse_ttl(chosen.ttl),
            jitter=chosen.jitter,
            lease_s=parse_span("lease", chosen.lease),
            terms=terms_of(chosen),
            generations=((keys.namespace,) if keys.namespace else ()) + ((keys.generation,) if chosen.group else ()),
            grouped=chosen.group,
            max_value_bytes=self._max_value_bytes,
        )
        recipe.near = self._env.near_tier(chosen.near)
        if recipe.near is not None and self._env.near is not None:
            recipe.tally.settle = functools.partial(self._env.near.settle, recipe.near)
            if self._env.watched and self._env.near.watch is None:
                from cachekit.watch import watch_for  # noqa: PLC0415 - few rings are watched

                self._env.near.watch = watch_for(self._env.near, self._fleet, self._prefix)
        recipe.prefix = self._prefix
        self._recipes.append(recipe)
        return recipe

    # -- off switches, statistics, the end ---------------------------------------------------------------------------

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, cached functions just run, and store nothing: in this thread or task only. Direct verbs are not
        touched.

        A cached function that goes into such a block and calls cached ones there can't be told what they stand under:
        its own result is returned and not stored, unless it has ``Policy(inherit=False)``.
        """
        block = off.Block(self)
        self._count(block)
        try:
            off.enter(block)
            yield
        finally:
            off.leave(block)
            self._count(block)

    def is_disabled(self) -> bool:
        """Whether cached functions just run here: inside ``disabled()``, under ``CACHEKIT_DISABLE=1``, or in a
        transaction with something to invalidate.
        """
        if not self.off:
            return False
        # A test that gave the cache a clock wants it to work, whatever holds for the rest of the run.
        everywhere = self._clock is None and os.environ.get("CACHEKIT_DISABLE", "") not in ("", "0")
        return everywhere or off.is_inside(self)

    def stats(self) -> Stats:
        """The counts of this process, and which servers are up."""
        fleet = self._fleet
        tallies: dict[str, list[Tally]] = {}
        for recipe in list(self._recipes):  # functions of one name share a line: closures, or a reloaded module
            tallies.setdefault(recipe.name, []).append(recipe.tally)
        functions = {name: total(of_one_name) for name, of_one_name in tallies.items()}
        servers = {name: health.up for name, health in zip(fleet.names, fleet.health, strict=True)}
        embedded = fleet.embedded.stats() if fleet.embedded is not None else None
        waiting, delivered, dropped = fleet.kept()
        return Stats(functions, self._tally.info(), servers, embedded, waiting, delivered, dropped)

    def server_of(self, key: str) -> str:
        """The name of the server that holds ``key``, as every cache with the same servers finds it. Asks nobody.

        As in the direct verbs, the prefix is put before a ``str`` but not before a ``Key``. Raises ``RequestError``.
        """
        fleet = self._fleet
        return fleet.names[fleet.ring.index(wire_key(self._prefix, key))]

    def __repr__(self) -> str:
        fleet = self.__dict__.get("_fleet")
        where = ", ".join(fleet.names) if fleet is not None else "not used yet"
        return f"<Cache {self.prefix!r} on {where}>" if self.prefix else f"<Cache on {where}>"


def _path(spool: str | os.PathLike[str] | None) -> str | None:
    """Where a spool is. Raises ``ConfigurationError`` for what is no path."""
    path = os.fspath(spool) if isinstance(spool, str | os.PathLike) else spool
    if path is not None and not (isinstance(path, str) and path):
        raise ConfigurationError(f"spool={spool!r:.60}: the path of a file")
    if path == ":memory:":
        raise ConfigurationError("spool=':memory:': name a file, or leave it out; without one they are kept in memory")
    if path and os.path.isdir(path):
        raise ConfigurationError(f"spool={path!r:.200} is a directory; name a file in it")
    return path and os.path.abspath(path)
