"""What the code that runs now is inside of: the fills around it, and what it says of its own result."""

# Annotations are not postponed here: a NamedTuple would compile each of them as text (docs/design/imports.md).

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

from cachekit.flights import Flight, Flights
from cachekit.types import MISS, UNSET


class Stood(NamedTuple):
    """The generation that a cached call inside of a run stood under. ``since``: monotonic seconds before it was asked
    for. ``boot``: as in ``Mark``, where it is known already.
    """

    number: int
    since: float
    boot: bytes = b""


class Notes:
    """What a running function says of its result, by ``cachekit.current()``; and the value that it would replace.

    ``ttl``: a parsed ttl in place of its policy's. ``store``: whether the result may be stored. ``kept``: the previous
    value, which holds on under a new freshness. ``look``: opens the previous value, a 1-tuple or None. ``over``: the
    function has ended; a task or a thread of its making, in a copy of its context, is inside of nothing any more.
    ``tags``: those that it has named. ``inherited``: what the cached calls inside of it stood under, by server's name
    and record. ``unsure``: the name of one of those that it can't be told of.
    """

    # Defaults stand on the class: every run makes one of these, and few functions say anything.
    ttl: Any = UNSET
    store = True
    kept: tuple[Any] | None = None
    look: Callable[[], tuple[Any] | None] | None = None
    over = False
    tags: tuple[str, ...] = ()
    inherited: dict[tuple[str, bytes], Stood] | None = None
    unsure = ""

    @property
    def previous(self) -> Any:
        """A copy of the value that stands there while the function runs; ``MISS`` where there is none."""
        found = self.look() if self.look is not None else None
        return MISS if found is None else found[0]

    @property
    def said(self) -> bool:
        """Whether the result stands under more than what is asked for with every read."""
        return bool(self.tags or self.inherited or self.unsure)

    def inherit(self, server: str, key: bytes, stood: Stood) -> None:
        """A cached call inside stood under that. Two calls that stood under different numbers show that it was bumped
        during the run: then the result stands under none that will ever be.
        """
        if self.inherited is None:
            self.inherited = {}
        known = self.inherited.get((server, key))
        if known is not None:
            # Not the lower of them: numbers that clients choose go by their clocks.
            number = known.number if known.number == stood.number else 0
            since = min(known.since, stood.since)
            stood = Stood(number, since, known.boot or stood.boot)
        self.inherited[server, key] = stood

    def take(self, other: "Notes") -> None:
        """Say the same as ``other``."""
        self.ttl, self.store, self.tags = other.ttl, other.store, other.tags
        self.inherited, self.unsure = other.inherited, other.unsure


class Filling(NamedTuple):
    """A fill that the current context is inside of. ``ends``: monotonic seconds at which its lease may be taken
    over. ``flight``: None for a run without one. ``more``, ``wings``: the keys and flights of a run that fills many.
    """

    flights: Flights
    key: bytes
    ends: float
    notes: Notes
    flight: Flight | None = None
    more: frozenset[bytes] = frozenset()
    wings: tuple[Flight, ...] = ()


FILLING: ContextVar[tuple[Filling, ...]] = ContextVar("cachekit_filling", default=())
"""The fills around the current code, outermost first: a fill that calls itself must not wait for itself."""


def around() -> list[Filling]:
    """The fills that the current code is inside of, outermost first, and that go on still."""
    return [frame for frame in FILLING.get() if not frame.notes.over]
