"""The kinds of cached functions that the schedules use, and what may be done with each.

A function of every kind takes (schedule, key) and returns a ``Value``. It is decorated twice under one name, as a
plain function and as an ``async def``, so that threads and tasks share its entries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple, Protocol

from cachekit import Cache, Policy
from history.checker import Terms
from history.source import CELLS

KEYS = 3
LONG_S, SHORT_S, STALE_S, NEAR_S = 60.0, 0.004, 20.0, 0.006
_OWN = ("k{key}", "f")
_TAGGED = (*_OWN, "t0", "r{key}")
_READS = ("call", "call", "call", "call", "call", "call", "many", "many", "peek", "refresh")
_TELLS = ("invalidate", "invalidate", "all", "expire")
_TELLS_TAGGED = ("invalidate", "all", "tag", "tag", "row tags", "row tags")
_SOFT = ("expire", "expire all", "expire all", "invalidate", "all")
_SOFT_TAGGED = (*_TELLS_TAGGED, "expire all", "expire tag", "expire tag", "expire row tags", "expire row tags")
_NAMED = ("invalidate", "all", "named", "named", "named", "expire named")
_NESTED = (
    "invalidate",
    "all",
    "inner",
    "inner all",
    "inner all",
    "tag",
    "tag",
    "row tags",
    "expire tag",
    "expire inner all",
)
_NESTED_NAMED = (*_NESTED, "named", "named", "expire named")
_NESTED_UNGROUPED = ("invalidate", "tag", "row tags", "expire tag")
_SPACED = ("namespace", "namespace", "expire namespace", "all", "invalidate")


class Shape(Enum):
    """How a cached function is written."""

    PLAIN = "plain"
    BATCH = "batch"


class Kind(NamedTuple):
    """``policy``, ``options``: what it is decorated with. ``cells``: what a run reads, by templates. ``reads`` and
    ``tells``: the verbs, as often as they are to be used. ``fails``: how often a run raises. ``names``: whether a run
    names a tag, by what it has read, and then reads its cell too. ``inner``: the kind of function that a run calls.
    ``padding``: bytes that a value has beside what is said of it.
    """

    policy: Mapping[str, Any]
    cells: tuple[str, ...] = _OWN
    reads: tuple[str, ...] = _READS
    tells: tuple[str, ...] = _TELLS
    terms: Terms = Terms()
    fails: float = 0.0
    shape: Shape = Shape.PLAIN
    options: Mapping[str, Any] = {}
    names: bool = False
    inner: str = ""
    padding: int = 0

    def reads_of(self, key: int) -> list[str]:
        """The cells that a run for this key reads."""
        return [cell.format(key=key) for cell in self.cells]


def _space(schedule: int) -> str:
    return f"space-{schedule}"


_LOOSE = Terms(bounded=False)
_SERVED_STALE = Terms(serves_s=SHORT_S + STALE_S, bounded=False)
_SERVED_LONG = Terms(serves_s=LONG_S + STALE_S)
_SERVED_LONG_LOOSE = _SERVED_LONG._replace(bounded=False)
_INNER = ("i{key}", "g", "t0", "r{key}")
_TAGS = {"tags": ["{schedule}-t0", "{schedule}-r{key}"]}
_BATCH_TAGS = {"tags": ["{schedule}-t0", "{schedule}-r{keys}"]}
_BRIEF = {"ttl": SHORT_S, "stale": STALE_S}
_UNGROUPED = {"ttl": LONG_S, "group": False}
_NEAR = {"ttl": LONG_S, "near": NEAR_S}
_BEHIND_NEAR = Terms(near_s=NEAR_S)
_BEHIND = {**_BRIEF, "refresh": "background"}
_LASTING = {"ttl": LONG_S, "stale": STALE_S}

KINDS: Mapping[str, Kind] = {
    "plain": Kind({"ttl": LONG_S}),
    "expiring": Kind({"ttl": SHORT_S}, terms=_LOOSE),
    "stale": Kind(_BRIEF, tells=(*_TELLS, *_SOFT), terms=_SERVED_STALE),
    "background": Kind(_BEHIND, tells=(*_TELLS, *_SOFT), terms=_SERVED_STALE),
    "hurried": Kind({**_BRIEF, "soft_timeout": 0.0005}, tells=(*_TELLS, *_SOFT), terms=_SERVED_STALE),
    "sliding": Kind({"ttl": 0.5, "sliding": True}, terms=_LOOSE),
    "failing": Kind({"ttl": SHORT_S, "stale_if_error": STALE_S, "throttle": 0.002}, terms=_LOOSE, fails=0.3),
    "batch": Kind({"ttl": LONG_S}, shape=Shape.BATCH),
    "lasting": Kind(_LASTING, tells=_SOFT, terms=_SERVED_LONG),
    "tagged": Kind({"ttl": LONG_S}, _TAGGED, tells=_TELLS_TAGGED, options=_TAGS),
    "kept": Kind({"ttl": LONG_S}, _TAGGED, tells=("invalidate", "row tags", "tag"), options=_TAGS),
    "tagged lasting": Kind(_LASTING, _TAGGED, tells=_SOFT_TAGGED, terms=_SERVED_LONG, options=_TAGS),
    "tagged background": Kind(_BEHIND, _TAGGED, tells=_SOFT_TAGGED, terms=_SERVED_STALE, options=_TAGS),
    "tagged batch": Kind(_LASTING, _TAGGED, _READS, _SOFT_TAGGED, _SERVED_LONG, shape=Shape.BATCH, options=_BATCH_TAGS),
    "spaced": Kind(_LASTING, (*_OWN, "ns"), tells=_SPACED, terms=_SERVED_LONG, options={"namespace": _space}),
    "named": Kind(_LASTING, tells=_NAMED, terms=_SERVED_LONG_LOOSE, names=True),
    "named batch": Kind(_LASTING, tells=_NAMED, terms=_SERVED_LONG_LOOSE, names=True, shape=Shape.BATCH),
    "nested": Kind(_LASTING, tells=_NESTED, terms=_SERVED_LONG_LOOSE, inner="inner"),
    "nested stale": Kind(_BRIEF, tells=_NESTED, terms=_SERVED_STALE, inner="inner"),
    "nested batch": Kind({"ttl": LONG_S}, tells=_NESTED, terms=_LOOSE, inner="inner batch"),
    "nested named": Kind({"ttl": LONG_S}, tells=_NESTED_NAMED, terms=_LOOSE, inner="inner named"),
    "batch nested": Kind({"ttl": LONG_S}, tells=_NESTED, terms=_LOOSE, inner="inner", shape=Shape.BATCH),
    "ungrouped": Kind(_UNGROUPED, ("k{key}",), tells=("invalidate", "invalidate", "expire")),
    "ungrouped tagged": Kind(
        _UNGROUPED, ("k{key}", "t0", "r{key}"), tells=("invalidate", "tag", "row tags"), options=_TAGS
    ),
    "nested ungrouped": Kind(_UNGROUPED, ("k{key}",), tells=_NESTED_UNGROUPED, terms=_LOOSE, inner="inner ungrouped"),
    "named and tagged": Kind(
        _LASTING, _TAGGED, tells=(*_SOFT_TAGGED, *_NAMED), terms=_SERVED_LONG_LOOSE, options=_TAGS, names=True
    ),
    "inner ungrouped": Kind(_UNGROUPED, ("i{key}", "t0", "r{key}"), terms=_LOOSE, options=_TAGS),
    "near": Kind(_NEAR, _TAGGED, tells=_TELLS_TAGGED, terms=_BEHIND_NEAR, options=_TAGS),
    "near lasting": Kind(
        {**_LASTING, "near": NEAR_S},
        _TAGGED,
        tells=_SOFT_TAGGED,
        terms=_BEHIND_NEAR._replace(bounded=False),
        options=_TAGS,
    ),
    "near brief": Kind(
        {**_BRIEF, "near": NEAR_S}, tells=(*_TELLS, *_SOFT), terms=_SERVED_STALE._replace(near_s=NEAR_S)
    ),
    "near batch": Kind(_NEAR, _TAGGED, _READS, _TELLS_TAGGED, _BEHIND_NEAR, shape=Shape.BATCH, options=_BATCH_TAGS),
    "near named": Kind(_NEAR, tells=_NAMED, terms=_BEHIND_NEAR._replace(bounded=False), names=True),
    "near nested": Kind(_NEAR, tells=_NESTED, terms=_BEHIND_NEAR._replace(bounded=False), inner="inner"),
    "near nested near": Kind(_NEAR, tells=_NESTED, terms=Terms(near_s=2 * NEAR_S, bounded=False), inner="inner near"),
    "near large": Kind(_NEAR, _TAGGED, tells=_TELLS_TAGGED, terms=_BEHIND_NEAR, options=_TAGS, padding=2000),
    "inner near": Kind(_NEAR, _INNER, terms=_BEHIND_NEAR._replace(bounded=False), options=_TAGS),
    "inner": Kind(_LASTING, _INNER, terms=_SERVED_LONG_LOOSE, options=_TAGS),
    "inner batch": Kind({"ttl": LONG_S}, _INNER, terms=_LOOSE, options=_BATCH_TAGS, shape=Shape.BATCH),
    "inner named": Kind({"ttl": LONG_S}, _INNER, terms=_LOOSE, options=_TAGS, names=True),
}
OUTER = tuple(name for name in KINDS if not name.startswith("inner"))
"""The kinds that schedules are about."""

TERMS: Mapping[str, Terms] = {name: kind.terms for name, kind in KINDS.items()}

assert all(cell in CELLS for kind in KINDS.values() for key in range(KEYS) for cell in kind.reads_of(key))


class Runner(Protocol):
    """What runs the body of a cached function, and writes it down."""

    def run(self, kind: str, schedule: int, keys: list[int]) -> list[Any]:
        """For a plain function."""

    async def run_async(self, kind: str, schedule: int, keys: list[int]) -> list[Any]:
        """For an ``async def``."""


class Pair(NamedTuple):
    """A cached function, for threads and for tasks, and its cache. ``invalidate_all`` belongs to one lane of schedules,
    so each lane has its own.
    """

    sync: Any
    aio: Any
    cache: Cache


def decorated(cache: Cache, name: str, lane: int, runner: Runner) -> Pair:
    """The function of that kind for one lane."""
    kind = KINDS[name]
    batch = kind.shape is Shape.BATCH
    plain, coroutine = _loaders(name, runner) if batch else _functions(name, runner)
    for function in (plain, coroutine):
        function.__name__ = function.__qualname__ = f"{name.replace(' ', '_')}_{lane}"
    wrap: Any = (cache.batch if batch else cache)(policy=Policy(**kind.policy), **kind.options)
    return Pair(wrap(plain), wrap(coroutine), cache)


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
