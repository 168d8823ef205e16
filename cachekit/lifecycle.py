"""A cache's first use and its end: what is made when it is asked for the first time, and closed at last."""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Self

from cachekit.addresses import parse_target
from cachekit.codecs import Packer, Registry, resolve
from cachekit.env import Env, logger
from cachekit.expiry import Ttl, parse_ttl
from cachekit.hooks import Hooks
from cachekit.policy import DEFAULTS, Policy
from cachekit.recipe import Recipe
from cachekit.servers import Options, Target
from cachekit.sync.fleet import Fleet

if TYPE_CHECKING:
    from cachekit.aio.loops import Loops
    from cachekit.testing.clock import ManualClock

MADE_AT_FIRST_USE = ("_fleet", "_env", "_packer", "_ttl", "_max_value_bytes", "_loops")


class Lifecycle:
    """The part of a cache that begins and ends its use."""

    hooks: Hooks
    _target: Target | None
    _policy: Policy
    _registry: Registry
    _recipes: list[Recipe]
    _clock: ManualClock | None
    _spool: str | None
    _lock: threading.RLock
    _fleet: Fleet
    _env: Env
    _loops: Loops
    _packer: Packer
    _ttl: Ttl
    _max_value_bytes: int

    def close(self) -> None:
        """Wait up to 5 s for refreshes in the background, and close this thread's connections. Idempotent; a later use
        opens connections again.
        """
        fleet = self.__dict__.get("_fleet")
        if fleet is not None:
            self._env.close()
            fleet.close()

    async def aclose(self) -> None:
        """Wait up to 5 s for refreshes in the background, of this event loop and of threads, and for runs that their
        callers have left; cancel what is not done by then in this loop, and close the connections of this loop and this
        thread. Idempotent; a later use, and calls that go on, open connections again.
        """
        if "_loops" in self.__dict__:
            await self._loops.aclose()
        fleet = self.__dict__.get("_fleet")
        if fleet is not None:
            if fleet.works_in_background():
                from asyncio import to_thread  # noqa: PLC0415 - it is there already, where a coroutine runs

                await to_thread(fleet.drain)
            self._env.close()
            fleet.close(drained=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __getattr__(self, name: str) -> Any:
        # Asked only for what is not there yet: the first use makes it, and every later one finds it at no cost.
        if name not in MADE_AT_FIRST_USE:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with self._lock:
            if "_fleet" not in self.__dict__:
                self._begin()
            if name == "_loops" and name not in self.__dict__:
                from cachekit.aio.loops import Loops  # noqa: PLC0415 - as above

                self._loops = Loops(self._fleet)
            return self.__dict__[name]

    def _begin(self) -> None:
        clock, target = self._clock, self._target
        if clock is not None:
            target = Target("memory", options=target.options if target is not None else Options())
        elif target is None:
            target = parse_target(os.environ.get("CACHEKIT_URL") or None)
        chosen: Any = self._policy.over(DEFAULTS)
        self._packer = Packer(resolve(chosen.codec, returns=None, registry=self._registry))
        self._ttl = parse_ttl(chosen.ttl)
        self._max_value_bytes = target.options.max_value_bytes
        fleet = Fleet(target, self.hooks, clock=time.time if clock is None else clock.now)
        self._env = Env(fleet.names, self.hooks)
        fleet.on_fork, fleet.on_reconnect = self._env.forked, self._env.reconnected
        self._env.explicit, self._env.conditional = fleet.explicit, fleet.conditional
        self._env.private = fleet.embedded is not None
        self._env.watched = target.options.watch
        self._env.keep, self._env.distrust = fleet.keep, fleet.distrust
        recipes = self._recipes  # and not the cache itself, which its servers need not keep alive
        fleet.groups = lambda: {group for recipe in list(recipes) for group in recipe.generations}
        if clock is not None:
            self._env.leave_nothing_to_chance(clock.now, clock.monotonic)
        elif fleet.embedded is not None:
            logger.info(
                "cachekit: the embedded server of this process holds the cache; its invalidations stay in this process"
            )
        if self._spool is not None:
            fleet.open_spool(self._spool)
        self._fleet = fleet


caches: weakref.WeakSet[Lifecycle] = weakref.WeakSet()


def _after_fork() -> None:
    """A thread that exists no more may have held a lock; the child gets new ones."""
    for cache in list(caches):
        cache._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
