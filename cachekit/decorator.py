"""``@cache(…)`` with its options, waiting for the function: what is checked, once, at decoration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from cachekit.checks import contradiction
from cachekit.errors import ConfigurationError
from cachekit.function import CachedClassMethod, CachedFunction, CachedStaticMethod, TakesClass
from cachekit.policy import DEFAULTS, Policy

if TYPE_CHECKING:
    from cachekit.cache import Cache
    from cachekit.function import CachedClassFunction
    from cachekit.keys.compile import KeyMaker

P = ParamSpec("P")
R = TypeVar("R")

OPTIONS = ("ttl", "stale", "refresh", "key", "ignore", "namespace", "version", "codec", "cache_if", "policy")
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
        policy: Policy | None = None,
        **fields: Any,
    ) -> None:
        self._cache = cache
        self.policy = Policy(**fields).over(checked(policy))
        contradiction(self.policy, self.policy.over(cache._policy).over(DEFAULTS))
        self.keys: dict[str, Any] = {"key": key, "ignore": ignore, "namespace": namespace, "version": version}

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: staticmethod[P, R], /
    ) -> CachedStaticMethod[P, R]: ...
    @overload
    def __call__(self, function: classmethod[Any, P, R], /) -> CachedClassMethod[P, R]: ...
    @overload
    def __call__(self, function: TakesClass[P, R], /) -> CachedClassFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...
    def __call__(self, function: Any, /) -> Any:
        inner, keys = self.compiled(function)
        kind = CachedStaticMethod if isinstance(function, staticmethod) else CachedFunction
        cached: CachedFunction[..., Any] = kind(self._cache, inner, keys, self.policy)
        return CachedClassMethod(cached) if isinstance(function, classmethod) else cached

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
        if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
            raise ConfigurationError(f"{name} is async: this version of cachekit caches sync functions only")
        if inspect.isgeneratorfunction(inner):
            raise ConfigurationError(f"{name} is a generator: return a list, which can be stored")
        return inner, compile_keys(inner, prefix=self._cache.prefix, **self.keys)


def meant(option: str, known: tuple[str, ...] = OPTIONS) -> str:
    """What to write instead of an option that the decorator does not have, but those ``known``."""
    from difflib import get_close_matches  # noqa: PLC0415 - for this hint only, and slow to load

    if option in Policy._fields:
        return f"that is a policy's: policy=Policy({option}=…)"
    near = get_close_matches(option, known, n=1)
    return f"did you mean {near[0]}=?" if near else f"it takes {', '.join(known)}"


def checked(policy: Policy | None) -> Policy:
    """A policy, an empty one for None. Raises ``ConfigurationError`` for anything else."""
    if policy is None:
        return Policy()
    if not isinstance(policy, Policy):
        raise ConfigurationError(f"policy={policy!r}: a cachekit.Policy")
    return policy
