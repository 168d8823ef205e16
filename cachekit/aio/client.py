"""The direct verbs as coroutines: what ``cache.aio`` has. Their stories are in ``flows/direct.py``."""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload
from zlib import crc32

from cachekit.aio.drive import run, run_here
from cachekit.direct import check_function, check_token
from cachekit.errors import CacheError, Unreachable
from cachekit.flows import direct as flows
from cachekit.flows.tell import Group, bump, namespace_of, tags_of
from cachekit.keys import wire_key
from cachekit.keys.tags import warn_of_templates
from cachekit.ops import Flow
from cachekit.types import MISS, UNSET

if TYPE_CHECKING:
    from cachekit.cache import Cache

T = TypeVar("T")


class AsyncVerbs:
    """The direct verbs of a cache for asyncio: the same names and promises as those of the cache itself.

    On trouble with a server a read gives its default and a write gives False; it is counted, and
    ``Cache(on_error="raise")`` raises it instead. A key is a ``str`` of printable ASCII without spaces; the cache's
    prefix is put before it, except before a ``Key``. ``ttl=`` is in seconds, or anything else that ``@cache(ttl=…)``
    takes; the cache's policy says the default. When awaited they raise ``RequestError`` (a ``ValueError``) for a key,
    token or number that Memcached would refuse, and ``ConfigurationError`` (a ``ValueError``) for a senseless ttl.

    >>> import asyncio
    >>> from cachekit import Cache
    >>> cache = Cache("memory:")
    >>> async def main() -> object:
    ...     await cache.aio.set("user:42", {"name": "Ada"}, ttl="5m")
    ...     return await cache.aio.get("user:42")
    >>> asyncio.run(main())
    {'name': 'Ada'}
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def _run(self, flow: Flow[T]) -> Coroutine[Any, Any, T]:
        """Drive ``flow``, which holds no lease, on the connections of the running loop."""
        return run_here(flow, self._cache._loops.here())

    # -- reading -----------------------------------------------------------------------------------------------------

    async def get(self, key: str, default: Any = None) -> Any:
        """The value under ``key``, else ``default``; pass ``MISS`` as the default to tell a stored None from
        nothing.
        """
        cache = self._cache
        wire = wire_key(cache._prefix, key)
        loops = cache._loops
        roster = loops.roster
        index = roster.ring.table[crc32(wire) & roster.ring.mask]
        fleet = loops.fleets.get(get_running_loop())
        if fleet is None or index in roster.suspects or (line := fleet.lines[index]) is None:
            return await self._run(flows.read_one(cache, key, default))
        try:
            stored = await line.get(wire)
            found = MISS if stored is None else cache._unpack(*stored, wire)
        except Unreachable:
            # The server may have closed the connection while that lay idle.
            return await self._run(flows.read_one(cache, key, default))
        except CacheError as error:
            return cache._trouble(index, error, default)
        return cache._counted(found, default)

    async def gets(self, key: str, default: Any = None) -> tuple[Any, int | None]:
        """The value under ``key`` and the token that ``cas`` takes; ``(default, None)`` where there is nothing."""
        return await self._run(flows.read_with_token(self._cache, key, default))

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those ``keys`` that have one. Every server is asked at once; a server in trouble costs its
        own keys only.
        """
        return await self._run(flows.read_many(self._cache, keys))

    # -- writing -----------------------------------------------------------------------------------------------------

    async def set(self, key: str, value: Any, ttl: Any = UNSET) -> bool:
        """Store ``value``; True when the server said that it is stored. A ttl of 0 stores nothing, and removes what
        was there.
        """
        return await self._run(flows.store(self._cache, key, value, ttl, b""))

    async def add(self, key: str, value: Any, ttl: Any = UNSET) -> bool:
        """Store ``value`` where nothing is stored; False where something is."""
        return await self._run(flows.store(self._cache, key, value, ttl, b" ME"))

    async def replace(self, key: str, value: Any, ttl: Any = UNSET) -> bool:
        """Store ``value`` where something is stored; False where nothing is."""
        return await self._run(flows.store(self._cache, key, value, ttl, b" MR"))

    async def cas(self, key: str, value: Any, token: int, ttl: Any = UNSET) -> bool:
        """Store ``value`` if nothing has changed since ``gets`` gave ``token``; else False."""
        check_token(token)
        return await self._run(flows.store(self._cache, key, value, ttl, b" C%d" % token))

    async def delete(self, key: str) -> bool:
        """Remove ``key``; True when something was there."""
        return await self._run(flows.remove(self._cache, key))

    async def touch(self, key: str, ttl: Any = UNSET) -> bool:
        """Give ``key`` a new ttl, counted from now; False where nothing is stored."""
        return await self._run(flows.touch(self._cache, key, ttl))

    async def incr(self, key: str, delta: int = 1, initial: int | None = None, ttl: Any = UNSET) -> int | None:
        """Add ``delta`` to a stored number on the server, and return the sum; it wraps at 2**64.

        Where nothing is stored: store ``initial`` for ``ttl`` and return it, or return None when no initial value is
        given.
        """
        return await self._run(flows.count(self._cache, key, delta, initial, ttl, b"MI"))

    async def decr(self, key: str, delta: int = 1, initial: int | None = None, ttl: Any = UNSET) -> int | None:
        """Subtract ``delta`` from a stored number on the server, not below 0, and return the difference; see
        ``incr``.
        """
        return await self._run(flows.count(self._cache, key, delta, initial, ttl, b"MD"))

    async def set_many(self, values: Mapping[str, Any], ttl: Any = UNSET) -> list[str]:
        """Store every value; returns the keys that were *not* stored, so an empty list is success. Asks all servers
        at once.
        """
        return await self._run(flows.store_many(self._cache, values, ttl))

    async def delete_many(self, keys: Iterable[str]) -> list[str]:
        """Remove ``keys``; returns those that no server acknowledged, so an empty list is success. Asks all servers
        at once.
        """
        return await self._run(flows.remove_many(self._cache, keys))

    @overload
    async def get_or_set(self, key: str, compute: Callable[[], Awaitable[T]], ttl: Any = ...) -> T: ...
    @overload
    async def get_or_set(self, key: str, compute: Callable[[], T], ttl: Any = ...) -> T: ...
    async def get_or_set(self, key: str, compute: Callable[[], Any], ttl: Any = UNSET) -> Any:
        """The value under ``key``; where there is none, the one that ``compute()`` returns or, a coroutine function,
        gives when it is awaited; that one is stored.

        However many tasks and processes ask at once, one of them runs ``compute`` and the others wait for it.
        """
        check_function(compute)
        flow = flows.get_or_set(self._cache, key, partial(_computed, compute), ttl)
        return await run(flow, self._cache._loops.here())

    # -- many entries at once ----------------------------------------------------------------------------------------

    async def invalidate_tags(self, *tags: str) -> bool:
        """Void every entry that bears one of ``tags``, and any fill of one under way. A tag is meant as it stands:
        ``*`` is no wildcard, and a template such as ``"user:{user_id}"``, which only decorators fill in, gives a
        ``UserWarning``.

        True once every server has acknowledged: from then no caller anywhere gets a value computed before. Raises
        ``ConfigurationError`` (a ``ValueError``) for a tag that is no text, or empty.
        """
        warn_of_templates(tags)
        return await self._bump(tags_of(self._cache._prefix, tags))

    async def expire_tags(self, *tags: str) -> bool:
        """Invalidate every entry that bears one of ``tags`` softly: for each, the next caller refreshes it, and the
        others are served the old value meanwhile, as long as it may be stale by its header.
        """
        warn_of_templates(tags)
        return await self._bump(tags_of(self._cache._prefix, tags), soft=True)

    async def invalidate_namespace(self, namespace: str) -> bool:
        """Void every entry of every function that is decorated with that namespace, or whose call came to it."""
        return await self._bump([namespace_of(self._cache._prefix, namespace)])

    async def expire_namespace(self, namespace: str) -> bool:
        """Invalidate every entry of the namespace softly; see ``expire_tags``."""
        return await self._bump([namespace_of(self._cache._prefix, namespace)], soft=True)

    async def _bump(self, groups: list[Group], *, soft: bool = False) -> bool:
        flow = bump(groups, self._cache._env, self._cache._tally, soft=soft)
        return await run(flow, self._cache._loops.here())


async def _computed(compute: Callable[[], Any]) -> Any:
    """What ``compute`` gives, be it a plain function or one to be awaited."""
    value = compute()
    return await value if isinstance(value, Awaitable) else value
