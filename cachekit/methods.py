"""Methods: what a cached function becomes when it is bound to an object or a class.

All of it leans on the function's own verbs, so that nothing here knows how those come about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar

from cachekit.tally import Info
from cachekit.types import Key, Miss

if TYPE_CHECKING:
    from cachekit.flows.look import Explanation
    from cachekit.function import CachedFunction, Call, Decorated  # noqa: F401 - named by texts below

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
F = TypeVar("F", bound="Decorated[..., Any]")


class TakesClass(Protocol[Q, R_co]):
    """A function whose first parameter is a class named ``cls``. For type checkers only: both take a ``@classmethod``
    off a decorated function before they look at its other decorators, so that this is all that is left to see.
    """

    def __call__(self, /, cls: type[Any], *args: Q.args, **kwargs: Q.kwargs) -> R_co: ...


class Unsaid:
    """What no function returns, so that a checker takes only one for it of which it does not know what it returns
    (``-> Any``): that is no coroutine function, since of those it knows.
    """


class Bound(Generic[F, P, R]):
    """A decorated method of one object (or class): what does not depend on whether it is async. ``F``: the function
    that it is bound to, ``R``: what a call returns.
    """

    def __init__(self, function: F, owner: Any) -> None:
        self.__func__ = function
        self.__self__ = owner
        self.__wrapped__: Callable[P, R] = MethodType(function.uncached, owner)
        self.__name__: str = function.__name__
        self.__doc__ = function.__doc__

    def __getattr__(self, name: str) -> Any:
        # What tools ask of a function: a bound method has all of it.
        if name in ("__qualname__", "__annotations__", "__globals__"):
            return getattr(self.__func__, name)
        raise AttributeError(name)

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> Key:
        """See ``CachedFunction.key``."""
        return self.__func__.key(self.__self__, *args, **kwargs)

    def info(self) -> Info:
        """See ``CachedFunction.info``; all objects share one."""
        return self.__func__.info()

    @property
    def uncached(self) -> Callable[P, R]:
        """The method itself."""
        return self.__wrapped__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bound) and other.__func__ is self.__func__ and other.__self__ == self.__self__

    def __hash__(self) -> int:
        return hash((id(self.__func__), self.__self__))

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.__self__, self.__name__)

    def __repr__(self) -> str:
        return f"<bound {self.__func__!r} of {type(self.__self__).__name__}>"


class OfClass(Generic[F]):
    """A decorated ``classmethod``: bound to the class, from the class and from its instances alike."""

    def __init__(self, function: F) -> None:
        self.__func__ = function
        self.__wrapped__ = function.uncached
        self.__doc__ = function.__doc__


class BoundFunction(Bound["CachedFunction[..., R]", P, R], Generic[P, R]):
    """A cached method of one object (or class): the function's verbs, with that object put first."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.__func__(self.__self__, *args, **kwargs)

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

    def expire_all(self) -> bool:
        """Expire every entry of the function, those of all other objects included."""
        return self.__func__.expire_all()


class CachedClassMethod(OfClass["CachedFunction[..., R]"], Generic[P, R]):
    """A cached ``classmethod``."""

    def __get__(self, instance: Any, owner: type | None = None, /) -> BoundFunction[P, R]:
        return BoundFunction(self.__func__, owner if owner is not None else type(instance))
