"""What the code that runs now is inside of: the fills around it, and what it says of its own result."""

# Annotations are not postponed here: a NamedTuple would compile each of them as text (docs/design/imports.md).

import os
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

from cachekit.flights import Flight, Flights
from cachekit.types import MISS, UNSET


class Stood(NamedTuple):
    """A generation that a cached call inside of a run stood under: of which server, of which record, and its number.
    ``boot``: as in ``Mark``, where it is known already.
    """

    server: str
    key: bytes
    number: int
    boot: bytes = b""


class Notes:
    """What a running function says of its result, by ``cachekit.current()``; and the value that it would replace.

    ``ttl``: a parsed ttl in place of its policy's. ``store``: whether the result may be stored. ``kept``: the previous
    value, which holds on under a new freshness. ``look``: opens the previous value, a 1-tuple or None. ``over``: the
    function has ended; a task or a thread of its making, in a copy of its context, is inside of nothing any more.

    ``tags``: those that it has named. ``inherited``: what the cached calls inside of it stood under, with the monotonic
    seconds before that was asked for. ``unsure``: why that is not known of one of them, "" where it is. ``hears``:
    whether it takes notice of them at all (``Policy(inherit=…)``). ``under``: the generations that the run itself
    stands under, and the monotonic seconds before they were asked for; None where it stands under none.
    """

    # Defaults stand on the class: every run makes one of these, and few functions say anything.
    ttl: Any = UNSET
    store = True
    kept: tuple[Any] | None = None
    look: Callable[[], tuple[Any] | None] | None = None
    over = False
    tags: tuple[str, ...] = ()
    inherited: dict[Stood, float] | None = None
    unsure = ""
    hears = True
    under: tuple[tuple[int, ...], float] | None = None

    @property
    def previous(self) -> Any:
        """A copy of the value that stands there while the function runs; ``MISS`` where there is none."""
        found = self.look() if self.look is not None else None
        return MISS if found is None else found[0]

    @property
    def said(self) -> bool:
        """Whether the result stands under more than what is asked for with every read."""
        return bool(self.tags or self.inherited or self.unsure)

    def name(self, tags: tuple[str, ...]) -> None:
        """Let the result bear these tags, too. Threads of the function's own may come here at once."""
        with _LOCK:
            self.tags = tuple(dict.fromkeys((*self.tags, *tags)))

    def inherit(self, stood: Stood, since: float) -> None:
        """A cached call inside stood under that. Of a record that was bumped meanwhile both numbers are kept: which of
        them is the older one does not show where clients give the numbers, by their clocks.
        """
        with _LOCK:
            if self.inherited is None:
                self.inherited = {}
            self.inherited[stood] = min(since, self.inherited.get(stood, since))

    def heard(self) -> list[tuple[Stood, float]]:
        """What was inherited so far; a thread that the function has left behind may still add to it."""
        with _LOCK:
            return list((self.inherited or {}).items())

    def take(self, other: "Notes") -> None:
        """Say the same as ``other``."""
        self.ttl, self.store, self.tags = other.ttl, other.store, other.tags
        self.inherited, self.unsure = other.inherited, other.unsure


_LOCK = threading.RLock()
"""Over what several threads of one run say at once. A signal handler may come here while its thread is in here."""


def _after_fork() -> None:
    global _LOCK  # noqa: PLW0603 - a thread that exists no more may hold the old one
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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

    def fills(self, key: bytes) -> bool:
        """Whether it is for the entry of ``key``, perhaps among others."""
        return self.key == key or key in self.more


FILLING: ContextVar[tuple[Filling, ...]] = ContextVar("cachekit_filling", default=())
"""The fills around the current code, outermost first: a fill that calls itself must not wait for itself."""


def around() -> list[Filling]:
    """The fills that the current code is inside of, outermost first, and that go on still."""
    return [frame for frame in FILLING.get() if not frame.notes.over]


def passed_by(name: str) -> None:
    """A cached call of ``name`` just runs here, with its cache off. The run around it, if it is inside of one that goes
    on, can't be told what that stands under.
    """
    outer = around()
    if outer and outer[-1].notes.hears:
        notes = outer[-1].notes
        notes.unsure = notes.unsure or f"around: {name} ran around the cache inside of it"
