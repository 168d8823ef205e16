"""The verbs of the schedules: what each does to the cache, and which cells a writer raises before he invalidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from cachekit import MISS
from history.events import entry_of
from history.kinds import KINDS, Pair, Shape
from history.plan import Op


class Tell(NamedTuple):
    """An invalidation: ``method`` of the function or of the cache, and the cells it stands for, by templates.
    ``of``: entry, function, tags or namespace. ``inner``: of the function that the outer one calls.
    """

    method: str
    of: str
    cells: tuple[str, ...]
    soft: bool = False
    inner: bool = False


TELLS: Mapping[str, Tell] = {
    "invalidate": Tell("invalidate", "entry", ("k{key}",)),
    "all": Tell("invalidate_all", "function", ("f",)),
    "tag": Tell("invalidate_tags", "tags", ("t0",)),
    "row tags": Tell("invalidate_tags", "tags", ("r{key}",)),
    "namespace": Tell("invalidate_namespace", "namespace", ("ns",)),
    "named": Tell("invalidate_tags", "tags", ("d{key}",)),
    "inner": Tell("invalidate", "entry", ("i{key}",), inner=True),
    "inner all": Tell("invalidate_all", "function", ("g",), inner=True),
    "expire": Tell("expire", "entry", ("k{key}",), soft=True),
    "expire all": Tell("expire_all", "function", ("f",), soft=True),
    "expire tag": Tell("expire_tags", "tags", ("t0",), soft=True),
    "expire row tags": Tell("expire_tags", "tags", ("r{key}",), soft=True),
    "expire namespace": Tell("expire_namespace", "namespace", ("ns",), soft=True),
    "expire named": Tell("expire_tags", "tags", ("d{key}",), soft=True),
    "expire inner all": Tell("expire_all", "function", ("g",), soft=True, inner=True),
}


_RESTS = 400
"""Schedules between two that use the same tag: long enough for its record not to be young any more."""


def tag_of(schedule: int, cell: str) -> str:
    """The tag that stands for a cell. Those that are named in a run are in every other schedule old ones, that have
    been used before: for a record that is made now there are rules of its own.
    """
    old = cell.startswith("d") and schedule % 2
    return f"old-{schedule % _RESTS}-{cell}" if old else f"{schedule}-{cell}"


def cells_told(op: Op) -> list[str]:
    """The cells that a writer raises before he invalidates by this op; none: it is no invalidation."""
    tell = TELLS.get(op.verb)
    return list(dict.fromkeys(cell.format(key=key) for key in op.keys for cell in tell.cells)) if tell else []


def reached(op: Op, kind: str, schedule: int, cells: Mapping[str, int]) -> list[tuple[str, Mapping[str, int]]]:
    """What the invalidation was of: each entry with its own cell; or all ("") that rest on these cells."""
    tell = TELLS[op.verb]
    if tell.of != "entry":
        return [("", cells)]
    name, (cell,) = KINDS[kind].inner if tell.inner else kind, tell.cells
    own = {key: cell.format(key=key) for key in op.keys}
    return [(entry_of(name, schedule, key), {own[key]: cells[own[key]]}) for key in op.keys]


def start(op: Op, kind: str, schedule: int, pair: Pair, inner: Pair | None, *, aio: bool) -> Callable[[], Any]:
    """What begins the op: a call without arguments that gives its result, or a coroutine of that."""
    tell, name = TELLS.get(op.verb), kind
    if tell is not None and tell.inner and inner is not None:
        pair, name = inner, KINDS[kind].inner
    function: Any = pair.aio if aio else pair.sync
    cache: Any = pair.cache.aio if aio else pair.cache
    if tell is not None and tell.of == "function":
        return partial(getattr(function, tell.method))
    if tell is not None and tell.of == "tags":
        return partial(getattr(cache, tell.method), *[tag_of(schedule, cell) for cell in cells_told(op)])
    if tell is not None and tell.of == "namespace":
        return partial(getattr(cache, tell.method), f"space-{schedule}")
    batch, method = KINDS[name].shape is Shape.BATCH, op.verb if tell is None else tell.method
    verb = function if method == "call" or (batch and method == "many") else getattr(function, method)
    if batch:
        return partial(verb, list(op.keys), schedule)
    if method == "many":
        return lambda: function.many([function.bind(schedule, key) for key in op.keys])
    return partial(verb, schedule, op.keys[0])


def listed(op: Op, kind: str, result: Any) -> list[Any]:
    """The values in a result of a read, one for each key."""
    if KINDS[kind].shape is Shape.BATCH:
        return [result.get(key, MISS) for key in op.keys]
    found: list[Any] = result if op.verb == "many" else [result]
    return found
