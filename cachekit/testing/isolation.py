"""Caches for tests: new ones, and the application's own, set apart for a while.

A cache makes what it works with at its first use: the connections, the clocks, and for each function how its entries
are read. To set a cache apart is to put all that aside, so that its next use in the test is its first one, on the
embedded server and the test's clock. The hit path never looks whether that is so.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from cachekit.cache import Cache
from cachekit.errors import ConfigurationError
from cachekit.function import Decorated
from cachekit.hooks import Hooks
from cachekit.lifecycle import MADE_AT_FIRST_USE
from cachekit.policy import Policy
from cachekit.recipe import Recipe
from cachekit.sync.reader import Reader
from cachekit.tally import Tally
from cachekit.testing.clock import ManualClock

_OF_THE_CACHE: Final = ("_target", "_policy", "_spool", "_tally", "_recipes", "_clock")


def make_cache(clock: ManualClock | None = None, *, prefix: str = "", policy: Policy | None = None) -> Cache:
    """A new cache on an embedded server of its own, with nothing left to time or chance.

    Args:
        clock: what the cache and its server go by; by default one that nobody moves.
        prefix: as ``Cache`` takes it.
        policy: as ``Cache`` takes it.

    A reader refreshes early exactly when ``age + β·δ ≥ ttl``, with δ the time by which the function moved the clock,
    and ``jitter`` takes half of its share off every ttl. ``CACHEKIT_DISABLE`` is not looked at. Raises
    ``ConfigurationError``.
    """
    moved_by = _checked(clock)
    cache = Cache("memory:", prefix=prefix, policy=policy)
    cache._clock = moved_by
    return cache


@contextmanager
def isolated(cache: Cache, clock: ManualClock | None = None) -> Iterator[ManualClock]:
    """Inside, ``cache`` and all its functions work on an empty embedded server and on ``clock``, which is yielded.

    It does not matter where the cache keeps its values otherwise, nor whether it has been used. Inside it counts from
    zero, and may be configured anew. At the end everything is as before: connections, counts, configuration, listeners.
    That holds for the whole process, not for one thread only. Blocks may be nested.

    Args:
        cache: the one that your application made.
        clock: by default a new one.

    Raises ``ConfigurationError`` for what is neither. At the end it waits up to 5 s for background refreshes in
    threads; those of event loops, which it can't wait for, are cancelled.

    >>> from cachekit import Cache
    >>> from cachekit.testing import isolated
    >>> cache = Cache("memcached://cache.example.com")
    >>> @cache(ttl="5m")
    ... def square(n: int) -> int:
    ...     return n * n
    >>> with isolated(cache) as clock:
    ...     first = square(3)
    ...     clock.advance("4m")
    ...     first == square(3), square.info().hits
    (True, 1)
    """
    if not isinstance(cache, Cache):
        raise ConfigurationError(f"isolated() takes a Cache, not {type(cache).__name__}")
    moved_by = _checked(clock)
    layer = _enter(cache, moved_by)
    try:
        yield moved_by
    finally:
        try:
            _close(cache, layer)
        finally:
            _leave(cache, layer)


def _checked(clock: object) -> ManualClock:
    if clock is None:
        return ManualClock()
    if not isinstance(clock, ManualClock):
        raise ConfigurationError(f"clock={clock!r}: a cachekit.testing.ManualClock")
    return clock


class _State(NamedTuple):
    """All that a cache knows by its use, and that its functions know by theirs."""

    cache: dict[str, Any]
    listeners: dict[str, tuple[Any, ...]]
    functions: list[tuple[Decorated[..., Any], Recipe | None, Reader, type[Any]]]


class _Layer:
    """An open block of ``isolated``: ``before`` is what to put in place at its end."""

    def __init__(self, before: _State) -> None:
        self.before = before


_layers: weakref.WeakKeyDictionary[Cache, list[_Layer]] = weakref.WeakKeyDictionary()
"""The open blocks of each cache, outermost first."""


def _enter(cache: Cache, clock: ManualClock) -> _Layer:
    with cache._lock:
        layer = _Layer(_state_of(cache))
        fresh = {**layer.before.cache, "_tally": Tally(), "_recipes": [], "_clock": clock}
        for name in MADE_AT_FIRST_USE:
            fresh.pop(name, None)
        _layers.setdefault(cache, []).append(layer)
        _put_in_place(cache, _State(fresh, layer.before.listeners, []))
    return layer


def _close(cache: Cache, layer: _Layer) -> None:
    """End what runs in the background of this block. Not under the cache's lock, which those runs may need."""
    layers = _layers[cache]
    at = layers.index(layer) + 1
    own = cache.__dict__ if at == len(layers) else layers[at].before.cache
    if "_loops" in own:
        own["_loops"].abandon()
    if "_fleet" in own:
        own["_fleet"].close()


def _leave(cache: Cache, layer: _Layer) -> None:
    with cache._lock:
        layers = _layers[cache]
        at = layers.index(layer)
        del layers[at]
        if at == len(layers):
            _put_in_place(cache, layer.before)
        else:
            # Another thread's block was begun inside this one and goes on: at its end this one's beginning returns.
            layers[at].before = layer.before


def _state_of(cache: Cache) -> _State:
    there = cache.__dict__
    return _State(
        {name: there[name] for name in (*_OF_THE_CACHE, *MADE_AT_FIRST_USE) if name in there},
        {name: getattr(cache.hooks, name).listeners for name in Hooks.__slots__},
        [(function, function._recipe, function._read, type(function)) for function in cache._functions],
    )


def _put_in_place(cache: Cache, state: _State) -> None:
    """Have the cache as ``state`` tells, and every function that it does not know as if it had not been called yet."""
    for function in cache._functions:
        function._recipe, function._read = None, function._first_read
        kind = type(function)
        function.__class__ = kind.__dict__.get("_plain_class", kind)  # what looks into the near tier is one of its own
    for function, recipe, read, kind in state.functions:
        function._recipe, function._read, function.__class__ = recipe, read, kind
    for name in MADE_AT_FIRST_USE:
        cache.__dict__.pop(name, None)
    cache.__dict__.update(state.cache)
    for name, listeners in state.listeners.items():
        getattr(cache.hooks, name).listeners = listeners
