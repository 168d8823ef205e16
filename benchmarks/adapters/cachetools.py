"""cachetools: in this process only, no server; there for the scale."""

from __future__ import annotations

from collections.abc import Sequence
from threading import RLock

from benchmarks.adapters.base import TTL_S, Adapter, Function, library

cachetools = library("cachetools")


class Cachetools(Adapter):
    name = "cachetools + lock (no server)"
    decorated_by_hand = False
    verbs = frozenset()

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        pass

    def decorate(self, function: Function) -> Function:
        decorated: Function = cachetools.cached(cachetools.TTLCache(10_000, TTL_S), lock=RLock())(function)
        return decorated


ADAPTERS = (Cachetools,)
