"""``@cache(…)`` with its options, waiting for the function: what is checked, once, at decoration."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from cachekit.checks import contradiction
from cachekit.errors import ConfigurationError
from cachekit.function import CachedFunction, CachedStaticMethod
from cachekit.policy import DEFAULTS, Policy

if TYPE_CHECKING:
    from cachekit.async_function import (
        AsyncCachedClassFunction,
        AsyncCachedClassMethod,
        AsyncCachedFunction,
        AsyncCachedStaticMethod,
    )
    from cachekit.cache import Cache
    from cachekit.function import CachedClassFunction
    from cachekit.keys.compile import KeyMaker, Tags
    from cachekit.methods import CachedClassMethod, TakesClass, Unsaid

P = ParamSpec("P")
R = TypeVar("R")

OPTIONS = (
    "ttl", "stale", "refresh", "tags", "key", "ignore", "namespace", "version", "near", "codec", "cache_if", "policy"
)  # fmt: skip
"""What ``@cache`` takes; everything else is a ``Policy``'s."""


class Decorator:
    """``@cache(…)`` with its options, waiting for the function."""

    def __init__(
        self,
        cache: Cache,
        *,
        key: str | Callable[..., object] | None = None,
        ignore: Iterable[str] = (),
        namespace: str | Callable[..., str] | None = None,
        version: int | str | None = None,
        tags: Tags = (),
        policy: Policy | None = None,
        **fields: Any,
    ) -> None:
        self._cache = cache
        self.policy = Policy(**fields).over(checked(policy))
        contradiction(self.policy, self.policy.over(cache._policy).over(DEFAULTS))
        self.keys: dict[str, Any] = {
            "key": key, "ignore": ignore, "namespace": namespace, "version": version, "tags": tags
        }  # fmt: skip

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
    def __call__(self, function: Any, /) -> Any:
        inner, keys = self.compiled(function)
        plain: Any
        static: Any
        of_class: Any
        plain, static, of_class = CachedFunction, CachedStaticMethod, _class_method
        if is_async(inner):
            from cachekit import async_function as kinds  # noqa: PLC0415 - it brings asyncio

            plain, static = kinds.AsyncCachedFunction, kinds.AsyncCachedStaticMethod
            of_class = kinds.AsyncCachedClassMethod
        kind = static if isinstance(function, staticmethod) else plain
        cached = kind(self._cache, inner, keys, self.policy)
        return of_class(cached) if isinstance(function, classmethod) else cached

    def compiled(self, function: Any) -> tuple[Any, KeyMaker]:
        """The function itself and its key maker. Raises ``ConfigurationError`` for what can't be cached."""
        # Here and not above: they take 10 ms to load, as long as half of the rest.
        import inspect  # noqa: PLC0415

        from cachekit.keys.compile import compile_keys  # noqa: PLC0415

        inner = function.__func__ if isinstance(function, staticmethod | classmethod) else function
        if not callable(inner):
            hint = "" if isinstance(inner, type) else f"; options are given by name, such as ttl={inner!r:.40}"
            raise ConfigurationError(f"@cache decorates a function, not {type(inner).__name__}{hint}")
        name = getattr(inner, "__qualname__", type(inner).__name__)
        if _is_any(inner, inspect.isasyncgenfunction):
            raise ConfigurationError(
                f"{name} is an async generator: gather what it yields and return a list, which can be stored"
            )
        if _is_any(inner, inspect.isgeneratorfunction):
            raise ConfigurationError(f"{name} is a generator: return a list, which can be stored")
        return inner, compile_keys(inner, prefix=self._cache.prefix, **self.keys)


def is_async(function: Any) -> bool:
    """Whether a call of ``function`` is to be awaited: an ``async def``, a ``partial`` of one, or an object whose
    ``__call__`` is one.
    """
    import inspect  # noqa: PLC0415 - see ``compiled``

    return _is_any(function, inspect.iscoroutinefunction)


def _is_any(function: Any, kind: Callable[[Any], bool]) -> bool:
    """Whether ``function`` is of that kind, or what its call comes to is."""
    while isinstance(function, partial):
        function = function.func
    return kind(function) or (not isinstance(function, type) and kind(type(function).__call__))


def _class_method(cached: Any) -> Any:
    from cachekit.methods import CachedClassMethod  # noqa: PLC0415 - few programs have one (docs/design/imports.md)

    return CachedClassMethod(cached)


def meant(option: str, known: tuple[str, ...] = OPTIONS) -> str:
    """What to write instead of an option that the decorator does not have, but those ``known``."""
    from difflib import get_close_matches  # noqa: PLC0415 - for this hint only, and slow to load

    if option in Policy._fields:
        return f"that is a policy's: policy=Policy({option}=…)"
    near = get_close_matches(option, known, n=1)
    return f"did you mean {near[0]}=?" if near else f"it takes {', '.join(known)}"


def meant_for_cache(option: str) -> str:
    """Where an option belongs that ``Cache`` itself does not take."""
    from difflib import get_close_matches  # noqa: PLC0415 - as above

    from cachekit.addresses import QUERY  # noqa: PLC0415

    if option in OPTIONS:
        of_all = f", or for all functions: policy=Policy({option}=…)" if option in Policy._fields else ""
        return f"that is a function's: @cache({option}=…){of_all}"
    if option in Policy._fields:
        return f"that is a policy's: policy=Policy({option}=…)"
    if option in QUERY:
        return f"that stands in the URL: 'memcached://host?{option}=…'"
    known = ("url", "prefix", "policy", "on_error", "spool")
    near = get_close_matches(option, known, n=1)
    return f"did you mean {near[0]}=?" if near else f"it takes {', '.join(known)}"


def checked(policy: Policy | None) -> Policy:
    """A policy, an empty one for None. Raises ``ConfigurationError`` for anything else."""
    if policy is None:
        return Policy()
    if not isinstance(policy, Policy):
        raise ConfigurationError(f"policy={policy!r}: a cachekit.Policy")
    return policy
