"""A cache's first use and its end: what is made when it is asked for the first time, and closed at last."""

from __future__ import annotations

import functools
import os
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from cachekit.addresses import parse_target
from cachekit.codecs import Packer, Registry, resolve
from cachekit.env import Env, logger
from cachekit.expiry import Ttl, parse_ttl
from cachekit.hooks import Hooks
from cachekit.loading import load
from cachekit.off import Block
from cachekit.policy import DEFAULTS, Policy
from cachekit.recipe import Recipe
from cachekit.servers import Options, Target
from cachekit.sync.fleet import Fleet
from cachekit.types import UNSET

if TYPE_CHECKING:
    from cachekit.aio.loops import Loops
    from cachekit.function import Decorated
    from cachekit.testing.clock import ManualClock

MADE_AT_FIRST_USE = ("_fleet", "_env", "_packer", "_ttl", "_max_value_bytes", "_loops")

# What is loaded with them, so that nothing later has to import anything (docs/design/imports.md).
CALLS = (
    "cachekit.sync.reader",
    "cachekit.sync.pool",
    "cachekit.flows.tell",
    "cachekit.flows.look",
    "cachekit.flows.many",
    "cachekit.flows.direct",
    "cachekit.codecs.failure",
    "cachekit.methods",
)
SERVERS = ("cachekit.outbox", "cachekit.sync.replaying", "encodings.idna", "signal")
MEMORY = ("cachekit.embedded",)
LOOPS = ("cachekit.aio.loops", "cachekit.aio.reader", "cachekit.aio.client")
NEAR = ("cachekit.near.hub", "cachekit.flows.nearby", "cachekit.near_calls")
WATCH = ("cachekit.watch",)


class Lifecycle:
    """The part of a cache that begins and ends its use."""

    hooks: Hooks
    off: int
    """How many blocks of this process the cache is off in; one more where it is off everywhere. 0: no need to look."""
    _off_anyway: int
    _blocks: set[Block]
    _target: Target | None
    _policy: Policy
    _registry: Registry
    _recipes: list[Recipe]
    _functions: weakref.WeakSet[Decorated[..., Any]]
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
                load(*LOOPS)
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
        _load_for(target)
        load_near(chosen.near)
        self._packer = Packer(resolve(chosen.codec, returns=None, registry=self._registry))
        self._ttl = parse_ttl(chosen.ttl)
        self._max_value_bytes = target.options.max_value_bytes
        fleet = Fleet(target, self.hooks, clock=time.time if clock is None else clock.now)
        self._env = Env(fleet.names, self.hooks)
        fleet.on_fork, fleet.on_reconnect = self._env.forked, self._env.reconnected
        fleet.on_told = self._env.touched
        self._env.explicit, self._env.conditional = fleet.explicit, fleet.conditional
        self._env.private = fleet.embedded is not None
        self._env.watched = target.options.watch
        self._env.keep, self._env.distrust = fleet.keep, fleet.distrust
        recipes = self._recipes  # and not the cache itself, which its servers need not keep alive
        fleet.groups = functools.partial(_groups, recipes, self._functions)
        if clock is not None:
            self._env.leave_nothing_to_chance(clock.now, clock.monotonic)
        elif fleet.embedded is not None:
            logger.info(
                "cachekit: the embedded server of this process holds the cache; its invalidations stay in this process"
            )
        if self._spool is not None:
            fleet.open_spool(self._spool)
        self._fleet = fleet

    def _count(self, block: Block) -> None:
        """Have ``off`` tell that ``block`` goes on, or that it does no more."""
        with self._lock:
            (self._blocks.add if block.goes_on() else self._blocks.discard)(block)
            self.off = self._off_anyway + len(self._blocks)

    def _forked(self) -> None:
        """This is a child process now. A thread that exists no more may hold the lock, and be inside of blocks."""
        self._lock = threading.RLock()
        self._blocks = {block for block in self._blocks if block.goes_on_in_child()}
        self.off = self._off_anyway + len(self._blocks)


caches: weakref.WeakSet[Lifecycle] = weakref.WeakSet()


def _groups(recipes: list[Recipe], functions: weakref.WeakSet[Decorated[..., Any]]) -> set[bytes]:
    """The wire keys of the records of all functions of a cache and of their namespaces: of those that were used, also
    where they are gone, and of those that were not used yet.
    """
    groups = {group for recipe in list(recipes) for group in recipe.generations}
    while True:
        with suppress(RuntimeError):  # a function came or went meanwhile
            known = list(functions)
            break
    for function in known:
        with suppress(Exception):  # one that can't be told must not stop the others
            keys = function._keys
            groups.update((keys.generation, keys.namespace) if keys.namespace else (keys.generation,))
    return groups


def _after_fork() -> None:
    for cache in list(caches):
        cache._forked()


def _load_for(target: Target) -> None:
    """Load what calls, invalidations and failures may need on those servers."""
    load(*CALLS, *(MEMORY if target.scheme == "memory" else SERVERS))
    if len(target.servers) > 1:
        load("hashlib")
    if target.options.watch:
        load(*WATCH)


def load_near(near: Any) -> None:
    """Load what a function with ``near=`` needs, where it is not off."""
    if near is not UNSET and near is not None and near is not False:
        load(*NEAR)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
