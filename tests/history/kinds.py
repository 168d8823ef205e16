"""The kinds of cached functions that the schedules use, and what may be done with each.

A function of every kind takes (schedule, key) and returns a ``Value``. It is decorated twice under one name, as a
plain function and as an ``async def``, so that threads and tasks share its entries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from history.checker import Terms
from history.source import CELLS

from cachekit import Cache, Policy

KEYS = 3
LONG_S, SHORT_S, STALE_S = 60.0, 0.004, 20.0
_OWN = ("k{key}", "f")
_READS = ("call", "call", "call", "call", "call", "call", "many", "many", "peek", "refresh")
_TELLS = ("invalidate", "invalidate", "all", "expire")


class Kind(NamedTuple):
    """``policy``: what it is decorated with. ``cells``: what a run reads, by templates. ``reads`` and ``tells``: the
    verbs, as often as they are to be used. ``fails``: how often a run raises. ``batch``: whether it is a loader.
    """

    policy: Mapping[str, Any]
    cells: tuple[str, ...] = _OWN
    reads: tuple[str, ...] = _READS
    tells: tuple[str, ...] = _TELLS
    terms: Terms = Terms()
    fails: float = 0.0
    batch: bool = False
    options: Mapping[str, Any] = {}

    def reads_of(self, key: int) -> list[str]:
        """The cells that a run for this key reads."""
        return [cell.format(key=key) for cell in self.cells]


_SERVED_STALE = Terms(serves_s=SHORT_S + STALE_S, bounded=False)

KINDS: Mapping[str, Kind] = {
    "plain": Kind({"ttl": LONG_S}),
    "expiring": Kind({"ttl": SHORT_S}, terms=Terms(bounded=False)),
    "stale": Kind({"ttl": SHORT_S, "stale": STALE_S}, terms=_SERVED_STALE),
    "background": Kind({"ttl": SHORT_S, "stale": STALE_S, "refresh": "background"}, terms=_SERVED_STALE),
    "hurried": Kind({"ttl": SHORT_S, "stale": STALE_S, "soft_timeout": 0.0005}, terms=_SERVED_STALE),
    "sliding": Kind({"ttl": 0.5, "sliding": True}, terms=Terms(bounded=False)),
    "failing": Kind(
        {"ttl": SHORT_S, "stale_if_error": STALE_S, "throttle": 0.002}, terms=Terms(bounded=False), fails=0.3
    ),
    "batch": Kind({"ttl": LONG_S}, batch=True),
    "lasting": Kind({"ttl": LONG_S, "stale": STALE_S}),
}

TERMS: Mapping[str, Terms] = {name: kind.terms for name, kind in KINDS.items()}

assert all(cell in CELLS for kind in KINDS.values() for key in range(KEYS) for cell in kind.reads_of(key))


class Runner(Protocol):
    """What runs the body of a cached function, and writes it down."""

    def run(self, kind: str, schedule: int, keys: list[int]) -> list[Any]: ...

    async def run_async(self, kind: str, schedule: int, keys: list[int]) -> list[Any]: ...


class Pair(NamedTuple):
    """A cached function, for threads and for tasks. ``invalidate_all`` belongs to one lane of schedules, so each lane
    has its own.
    """

    sync: Any
    aio: Any


def decorated(cache: Cache, name: str, lane: int, runner: Runner) -> Pair:
    """The function of that kind for one lane."""
    kind = KINDS[name]
    plain, coroutine = _loaders(name, runner) if kind.batch else _functions(name, runner)
    for function in (plain, coroutine):
        function.__name__ = function.__qualname__ = f"{name}_{lane}"
    wrap: Any = (cache.batch if kind.batch else cache)(policy=Policy(**kind.policy), **kind.options)
    return Pair(wrap(plain), wrap(coroutine))


def _functions(name: str, runner: Runner) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def plain(schedule: int, key: int) -> Any:
        return runner.run(name, schedule, [key])[0]

    async def coroutine(schedule: int, key: int) -> Any:
        return (await runner.run_async(name, schedule, [key]))[0]

    return plain, coroutine


def _loaders(name: str, runner: Runner) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def plain(keys: list[int], schedule: int) -> dict[int, Any]:
        return dict(zip(keys, runner.run(name, schedule, keys), strict=True))

    async def coroutine(keys: list[int], schedule: int) -> dict[int, Any]:
        return dict(zip(keys, await runner.run_async(name, schedule, keys), strict=True))

    return plain, coroutine
