"""What the code that runs now is inside of: the fills around it, and what it says of its own result."""

# Annotations are not postponed here: a NamedTuple would compile each of them as text (docs/design/imports.md).

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

from cachekit.flights import Flight, Flights
from cachekit.types import MISS, UNSET


class Notes:
    """What a running function says of its result, by ``cachekit.current()``; and the value that it would replace.

    ``ttl``: a parsed ttl in place of its policy's. ``store``: whether the result may be stored. ``kept``: the previous
    value, which holds on under a new freshness. ``look``: opens the previous value, a 1-tuple or None. ``over``: the
    function has ended; a task or a thread of its making, in a copy of its context, is inside of nothing any more.
    """

    # Defaults stand on the class: every run makes one of these, and few functions say anything.
    ttl: Any = UNSET
    store = True
    kept: tuple[Any] | None = None
    look: Callable[[], tuple[Any] | None] | None = None
    over = False

    @property
    def previous(self) -> Any:
        """A copy of the value that stands there while the function runs; ``MISS`` where there is none."""
        found = self.look() if self.look is not None else None
        return MISS if found is None else found[0]


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
