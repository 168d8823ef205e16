"""``@cache.batch``: a loader of many, each of whose results has an entry of its own.

The user writes what fetches many things at once, a query with ``IN`` say; each id has its entry, and a call asks the
loader for those only that are missing.
"""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, NamedTuple, ParamSpec, Self, TypeVar, overload

from cachekit.decorator import OPTIONS, Decorator, is_async, meant
from cachekit.env import Env, Job
from cachekit.errors import ConfigurationError
from cachekit.expiry import Ttl, TtlLike, parse_ttl
from cachekit.flows.batch import NOTHING, LoaderRecipe, batch, refresh_all, tell_all
from cachekit.flows.frames import passed_by
from cachekit.flows.look import Explanation, Stored, explain, stored
from cachekit.flows.refresh import copied
from cachekit.flows.tell import Request, removal, tell_every_server
from cachekit.flows.together import ComputeAll
from cachekit.function import Decorated
from cachekit.methods import Unsaid
from cachekit.ops import Flow
from cachekit.policy import LIBRARY
from cachekit.recipe import Recipe
from cachekit.sync.drive import run
from cachekit.tally import Info
from cachekit.types import UNSET, Key, Unset

if TYPE_CHECKING:
    from cachekit.async_batch import AsyncBatchFunction, AsyncBatchMethod
    from cachekit.cache import Cache

P = ParamSpec("P")
K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")
S = TypeVar("S")

_BATCH_OPTIONS = (*OPTIONS, "absent_ttl")
Binds = Literal["instance", "class", "nothing"]
Story = Callable[[builtins.list[Job], Env, ComputeAll], Flow[builtins.list[Any]]]


class OneId(Decorated[..., Any]):
    """The loader as a function of one id: its keys, and its recipe."""

    absent_ttl: Any = UNSET

    def _ready(self) -> Recipe:
        recipe = self._recipe
        if recipe is None:
            with self._cache._lock:
                recipe = self._recipe
                if recipe is None:
                    base = self._cache._recipe(self._function, self._keys, self._policy)
                    recipe = self._recipe = LoaderRecipe(base, self._absent_ttl(base.ttl))
        return recipe

    def _absent_ttl(self, ttl: Ttl) -> Ttl:
        if self.absent_ttl is not UNSET:
            return parse_ttl(self.absent_ttl)
        return parse_ttl(LIBRARY["ttl"]) if callable(ttl) else ttl


class Asked(NamedTuple):
    """What one call asks for. ``ids`` and ``keys`` hold each entry once, in the order of the asking; ``places`` says
    where each id that was given is found among them, ``given`` all that were given; ``tags`` holds what each bears.
    """

    given: list[Any]
    places: dict[Any, int]
    ids: list[Any]
    keys: list[bytes]
    load: Callable[[list[Any]], Any]
    name: str
    tags: list[tuple[bytes, ...]]

    def compute(self, positions: list[int]) -> list[Any]:
        """Run the loader for the ids at ``positions``."""
        ids = [self.ids[position] for position in positions]
        return self.checked(ids, self.load(ids.copy()))

    def checked(self, ids: list[Any], found: Any) -> list[Any]:
        """The values of ``ids`` in what the loader ``found``."""
        if not isinstance(found, Mapping):
            raise TypeError(
                f"{self.name}() is to return a mapping that gives the value of each id, such as {{id: value}}, "
                f"and leaves out the ids that don't exist; it returned a {type(found).__qualname__}"
            )
        return [found.get(each, NOTHING) for each in ids]

    def found(self, values: list[Any]) -> dict[Any, Any]:
        """The ids as given, each once, with those ``values`` that there are."""
        return {each: values[at] for each, at in self.places.items() if values[at] is not NOTHING}

    def row(self, values: list[Any], default: Any) -> list[Any]:
        """The values in the order of the ids as given; ``default`` for those that don't exist."""
        found = [values[self.places[each]] for each in self.given]
        return [default if value is NOTHING else value for value in found]

    def standing(self, entries: dict[bytes, Stored]) -> dict[Any, Any]:
        """The ids as given, each once, with what is stored of them."""
        return self.found([entries[key].get() if key in entries else NOTHING for key in self.keys])


class Loader(Generic[K, V, P]):
    """A loader whose results are kept one by one: what does not depend on whether it is async."""

    def __init__(self, one: OneId, binds: Binds, owner: tuple[Any, ...] = ()) -> None:
        loader: Callable[..., Any] = one.uncached
        functools.update_wrapper(self, loader)
        self.__name__: str = getattr(loader, "__name__", type(loader).__name__)
        self.__qualname__: str = getattr(loader, "__qualname__", self.__name__)
        if owner:
            self.__wrapped__ = functools.partial(loader, *owner)
        self._one = one
        self._binds: Binds = binds
        self._owner = owner

    def __call__(self, ids: Iterable[K], /, *args: P.args, **kwargs: P.kwargs) -> Any:
        raise NotImplementedError

    def key(self, id: K, /, *args: P.args, **kwargs: P.kwargs) -> Key:  # noqa: A002
        """The key of one id's entry, exactly as it is on the wire. Raises ``UnkeyableError``."""
        return self._one.key(*self._owner, id, *args, **kwargs)

    def info(self) -> Info:
        """What the calls came to in this process. Each id is one hit or one miss; each run of the loader is one fill.
        A call's hits save the running time of one run.
        """
        return self._one.info()

    # -- being a function --------------------------------------------------------------------------------------------

    def __get__(self, instance: Any, owner: type | None = None, /) -> Self:
        if self._owner or self._binds == "nothing" or (instance is None and self._binds == "instance"):
            return self
        if self._binds == "class":
            instance = owner if owner is not None else type(instance)
        return type(self)(self._one, self._binds, (instance,))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Loader) or not self._owner:
            return self is other
        return self._one is other._one and self._owner == other._owner

    def __hash__(self) -> int:
        return hash((id(self._one), *self._owner)) if self._owner else id(self)

    def __reduce__(self) -> Any:
        return (getattr, (self._owner[0], self.__name__)) if self._owner else self.__qualname__

    def __repr__(self) -> str:
        bound = f"<bound to a {type(self._owner[0]).__name__}: " if self._owner else "<"
        return f"{bound}batches of {self._one._keys.name}{self._one._keys.signature}>"

    # -- how ---------------------------------------------------------------------------------------------------------

    def _asked(self, ids: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Asked:
        """The ids of a call, each once, and their keys."""
        owner = self._owner
        if not owner and args and names_owner(self._one):  # Shop.prices(shop, ids)
            owner, ids, args = (ids,), args[0], args[1:]
        name = self._one.__name__
        if isinstance(ids, str | bytes | bytearray) or not isinstance(ids, Iterable):
            raise TypeError(f"{name}() takes an iterable of ids; for one id alone, write {name}([id])")
        terms = self._one._ready().terms
        if terms.background or terms.soft_timeout_s is not None:  # the caller goes on while the loader runs
            args, kwargs = copied(args), copied(dict(kwargs))
        asked = Asked([], {}, [], [], lambda ids: self._one.uncached(*owner, ids, *args, **kwargs), name, [])
        make, bears, by_key = self._one._make, self._one._keys.tags, dict[bytes, int]()
        for each in ids:
            asked.given.append(each)
            key = make(*owner, each, *args, **kwargs)
            try:
                at = asked.places.get(each)
            except TypeError as error:
                raise TypeError(f"{name}() was given an id that can't be hashed ({type(each).__qualname__})") from error
            if at is not None and asked.keys[at] != key:
                kinds = f"{type(asked.ids[at]).__qualname__} and {type(each).__qualname__}"
                raise TypeError(f"{name}() was asked for two equal ids ({kinds}) that are different entries; ask twice")
            if key not in by_key:
                by_key[key] = len(asked.keys)
                asked.ids.append(each)
                asked.keys.append(key)
                asked.tags.append(bears(*owner, each, *args, **kwargs) if bears is not None else ())
            asked.places.setdefault(each, by_key[key])
        return asked

    def _entries(self, asked: Asked, index: Callable[[bytes], int]) -> list[Job]:
        """The entries that are asked for; ``index`` finds the server of a key."""
        recipe, load = self._one._ready(), functools.partial(asked.load, [])
        near = self._one._cache._env.near
        ticket = near.ticket() if near is not None and recipe.near is not None else None
        pairs = zip(asked.keys, asked.tags, strict=True)
        return [Job(recipe, key, index(key), load, tags, ticket) for key, tags in pairs]

    def _entry(self, id: K, args: Any, kwargs: Any) -> Job:  # noqa: A002
        return self._one._entry((*self._owner, id, *args), kwargs)

    def _default(self, kwargs: dict[str, Any]) -> Any:
        """``default=`` of ``list``, taken out of the arguments; a loader that has one itself keeps it."""
        return None if takes_default(self._one) else kwargs.pop("default", None)


class BatchFunction(Loader[K, V, P]):
    """A loader whose results are kept one by one; made by ``@cache.batch``. Calling it with ids returns a dict of the
    values that exist, stored or loaded, in the order in which the ids were first given.

    Ids may be anything that can be keyed and hashed. Ids that are equal but of different types, such as 1 and True, are
    different entries, and a dict can't hold both: a call with both raises ``TypeError``.

    Raises what the loader raises, ``TypeError`` where that returns no mapping and for ids that can't be hashed, and
    ``UnkeyableError``.
    """

    def __call__(self, ids: Iterable[K], /, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        asked = self._asked(ids, args, kwargs)
        return asked.found(self._values(asked, batch))

    # -- the entries of some ids -------------------------------------------------------------------------------------

    def explain(self, id: K, /, *args: P.args, **kwargs: P.kwargs) -> Explanation:  # noqa: A002
        """Where one id's entry is, how old, how large, and why it would or would not be served. Changes nothing."""
        return run(explain(self._entry(id, args, kwargs), self._one._cache._env), self._one._cache._fleet)

    def invalidate(self, ids: Iterable[K], /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Remove the entries of ``ids``, in one window over the servers, and void any fill of them under way.

        True once every server concerned has acknowledged: from then no caller anywhere gets a value computed before.
        """
        return self._tell(self._asked(ids, args, kwargs), removal)

    def expire(self, ids: Iterable[K], /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Invalidate the entries of ``ids`` softly: the next caller refreshes them, the others are served the old
        values meanwhile, as long as they may be stale. True once every server concerned has acknowledged.
        """
        return self._tell(self._asked(ids, args, kwargs), self._one._ready().expire_request)

    def refresh(self, ids: Iterable[K], /, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """Run the loader now for all of ``ids``, store what it returns, and return it. An invalidation during the run
        still wins.
        """
        asked = self._asked(ids, args, kwargs)
        return asked.found(self._values(asked, refresh_all))

    def peek(self, ids: Iterable[K], /, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """What is stored of ``ids`` and may be served, fresh or stale. Never runs the loader or takes a lease."""
        asked = self._asked(ids, args, kwargs)
        cache, fleet = self._one._cache, self._one._cache._fleet
        return asked.standing(run(stored(self._entries(asked, fleet.ring.index), cache._env), fleet))

    # -- all of them -------------------------------------------------------------------------------------------------

    def invalidate_all(self) -> bool:
        """Void every entry of this loader, on every server, at a cost that does not depend on how many there are.

        True once every server has acknowledged. Raises ``ConfigurationError`` where the policy says ``group=False``.
        """
        cache = self._one._cache
        return run(tell_every_server(self._one._grouped(), cache._env), cache._fleet)

    def expire_all(self) -> bool:
        """Invalidate every entry of this loader softly: the next caller refreshes each, the others are served the old
        values meanwhile, as long as they may be stale. True once every server has acknowledged.

        Raises ``ConfigurationError`` where the policy says ``group=False``.
        """
        cache = self._one._cache
        return run(tell_every_server(self._one._grouped(), cache._env, soft=True), cache._fleet)

    @property
    def uncached(self) -> Callable[Concatenate[builtins.list[K], P], Mapping[K, V]]:
        """The loader itself."""
        return self.__wrapped__

    # -- how ---------------------------------------------------------------------------------------------------------

    def _values(self, asked: Asked, story: Story) -> builtins.list[Any]:
        """The values of ``asked.ids``, by ``story``."""
        cache = self._one._cache
        if not asked.keys:
            return []
        if cache.off and cache.is_disabled():
            passed_by(self._one._keys.name)
            return asked.compute(builtins.list(range(len(asked.ids))))
        fleet = cache._fleet  # one for all of it: cachekit.testing may put another in its place
        return run(story(self._entries(asked, fleet.ring.index), cache._env, asked.compute), fleet)

    def _tell(self, asked: Asked, request: Request) -> bool:
        """Send an invalidation of each key; whether all were acknowledged."""
        if not asked.keys:
            return True
        cache, fleet = self._one._cache, self._one._cache._fleet
        return all(run(tell_all(self._entries(asked, fleet.ring.index), cache._env, request), fleet))

    # Last, since below it ``list`` is this.

    @overload
    def list(self, ids: Iterable[K], /, *args: P.args, **kwargs: P.kwargs) -> builtins.list[V | None]: ...
    @overload
    def list(self: BatchFunction[K, V, []], ids: Iterable[K], /, *, default: D) -> builtins.list[V | D]: ...
    def list(self, ids: Iterable[Any], /, *args: Any, **kwargs: Any) -> Any:
        """The values in the order of ``ids``, as many as those, duplicates included; ``default`` (None) where an id
        does not exist. A loader that has a parameter ``default`` of its own is given it instead.
        """
        default = self._default(kwargs)
        asked = self._asked(ids, args, kwargs)
        return asked.row(self._values(asked, batch), default)


if TYPE_CHECKING:

    class BatchMethod(BatchFunction[K, V, P]):
        """What a checker takes a batch loader for whose first parameter is ``self`` or ``cls``."""

        def __get__(self, instance: Any, owner: type | None = None, /) -> BatchFunction[K, V, P]: ...  # type: ignore[override]


class BatchDecorator:
    """``@cache.batch(…)`` with its options, waiting for the loader."""

    def __init__(self, cache: Cache, *, absent_ttl: TtlLike | Unset = UNSET, **options: Any) -> None:
        unknown = [name for name in options if name not in _BATCH_OPTIONS]
        if unknown:
            raise ConfigurationError(f"@cache.batch takes no {unknown[0]}=; {meant(unknown[0], _BATCH_OPTIONS)}")
        self._cache = cache
        self._decorator = Decorator(cache, **options)
        if absent_ttl is not UNSET and callable(parse_ttl(absent_ttl)):
            raise ConfigurationError("absent_ttl= can't be a function of the value: there is none")
        self._absent_ttl = absent_ttl
        if self._decorator.policy.errors not in (UNSET, ()):
            raise ConfigurationError(
                f"errors={self._decorator.policy.errors!r} means nothing for a batch: a loader's failure is no answer "
                "about one id. Leave an id out of the result to say that it does not exist"
            )

    @overload
    def __call__(self, loader: Callable[Concatenate[list[K], P], Unsaid], /) -> BatchFunction[K, Any, P]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, loader: Callable[Concatenate[S, list[K], P], Unsaid], /) -> BatchMethod[K, Any, P]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, loader: Callable[Concatenate[list[K], P], Coroutine[Any, Any, Mapping[K, V]]], /
    ) -> AsyncBatchFunction[K, V, P]: ...
    @overload
    def __call__(
        self, loader: Callable[Concatenate[S, list[K], P], Coroutine[Any, Any, Mapping[K, V]]], /
    ) -> AsyncBatchMethod[K, V, P]: ...
    @overload
    def __call__(self, loader: Callable[Concatenate[list[K], P], Mapping[K, V]], /) -> BatchFunction[K, V, P]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, loader: Callable[Concatenate[S, list[K], P], Mapping[K, V]], /) -> BatchMethod[K, V, P]: ...
    def __call__(self, loader: Any, /) -> Any:
        inner, keys = self._decorator.compiled(loader)
        one = OneId(self._cache, inner, keys, self._decorator.policy)
        one.absent_ttl = self._absent_ttl
        binds: Binds = (
            "nothing"
            if isinstance(loader, staticmethod)
            else "class"
            if isinstance(loader, classmethod)
            else "instance"
        )
        positional = [p for p in keys.signature.parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
        if len(positional) < (2 if binds == "class" or names_owner(one) else 1):
            raise ConfigurationError(
                f"{keys.name}{keys.signature} takes no ids: they come first, as in def load(ids: list[int])"
            )
        self._check_keys(keys.name, positional[1 if binds == "class" or names_owner(one) else 0].name)
        if is_async(inner):
            from cachekit.async_batch import AsyncBatchFunction  # noqa: PLC0415 - it brings asyncio

            return AsyncBatchFunction(one, binds)
        return BatchFunction(one, binds)

    def _check_keys(self, name: str, ids: str) -> None:
        """Each id has an entry of its own only if the key says which it is."""
        template, ignored = self._decorator.keys["key"], self._decorator.keys["ignore"]
        if ids in tuple(ignored) or (isinstance(template, str) and f"{{{ids}" not in template):
            raise ConfigurationError(
                f"{name}: all ids would share one entry; the key must hold {{{ids}}}: "
                "take it out of ignore=, put it into key="
            )


def names_owner(one: OneId) -> bool:
    """Whether the loader is a method, by the name of its first parameter."""
    return one._keys.parameters[:1] in (("self",), ("cls",))


def takes_default(one: OneId) -> bool:
    """Whether the loader itself takes an argument ``default``."""
    parameters = one._keys.signature.parameters
    return "default" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
