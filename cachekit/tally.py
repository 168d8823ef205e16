"""What a cached function has done so far: plain counters, and the frozen picture of them that ``info()`` returns.

A count is one ``+= 1`` on the hot path, without a lock. Where threads run truly in parallel (a free-threaded build) two
of them may now and then count as one; nothing but the statistics depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cachekit.frozen import Frozen


class Info(Frozen):
    """The counts of one function, or of a cache's direct verbs, in this process since it started.

    ``hits``: calls served from a stored value. ``misses``: calls that found none that could be used. ``stale``: hits on
    a value past its ttl, or expired by hand. ``fills``: runs of the function. ``waits``: calls that waited for somebody
    else's run. ``errors``: exchanges with a server that failed, each hidden from the caller. ``unstored``: results that
    did not go into the cache. ``seconds_saved``: running time that hits did without, by the running time of the fill
    that made each value. ``near``: those of the hits that came from the memory of this process (``near=``).
    """

    hits: int
    misses: int
    stale: int
    fills: int
    waits: int
    errors: int
    unstored: int
    seconds_saved: float
    near: int = 0

    @property
    def hit_ratio(self) -> float:
        """Hits over all calls; 0.0 before the first call."""
        calls = self.hits + self.misses
        return self.hits / calls if calls else 0.0


COUNTS: Final = ("errors", "fills", "hits", "misses", "near", "saved_us", "stale", "unstored", "waits")
"""The counters of a ``Tally``."""


class Tally:
    """The live counters behind ``Info``."""

    __slots__ = (*COUNTS, "settle")

    def __init__(self) -> None:
        self.settle: Callable[[], None] | None = None
        """Brings in the hits that the near tier has counted by itself."""
        self.near = 0
        self.hits = 0
        self.misses = 0
        self.stale = 0
        self.fills = 0
        self.waits = 0
        self.errors = 0
        self.unstored = 0
        self.saved_us = 0

    def info(self) -> Info:
        """These counters as they stand now."""
        if self.settle is not None:
            self.settle()
        return Info(
            hits=self.hits,
            misses=self.misses,
            stale=self.stale,
            fills=self.fills,
            waits=self.waits,
            errors=self.errors,
            unstored=self.unstored,
            seconds_saved=self.saved_us / 1e6,
            near=self.near,
        )


def total(tallies: list[Tally]) -> Info:
    """The sum of several tallies."""
    whole = Tally()
    for tally in tallies:
        if tally.settle is not None:
            tally.settle()
        for name in COUNTS:
            setattr(whole, name, getattr(whole, name) + getattr(tally, name))
    return whole.info()


class Stats(Frozen):
    """What a cache has done in this process: counts by function and of the direct verbs, and which servers are up.

    ``embedded`` holds the embedded server's own counters, where the cache has one. ``replay``: how many invalidations
    wait for servers that have not acknowledged them, by server; ``replayed``: how many were delivered late;
    ``replay_dropped``: how many were given up because too many waited.
    """

    functions: dict[str, Info]
    direct: Info
    servers: dict[str, bool]
    embedded: dict[str, int] | None
    replay: dict[str, int]
    replayed: int = 0
    replay_dropped: int = 0
