"""Events for whoever wants to watch a cache: metrics, tracing, tests. Free when nobody listens.

A listener is a plain callable that takes one frozen event. It runs in the caller's thread, so it should be quick; what
it raises is logged once and dropped, since watching a cache must never break it. Events never carry arguments or
values.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from cachekit.frozen import Frozen

E = TypeVar("E")
logger = logging.getLogger("cachekit")


class Hit(Frozen):
    """A stored value was served. ``age_s``: its age in seconds. ``stale``: past its ttl, or expired by hand.
    ``near``: it came from the memory of this process.
    """

    function: str
    key: str
    server: str
    age_s: float
    stale: bool = False
    near: bool = False


class Miss(Frozen):
    """Nothing usable was stored.

    ``reason``: absent, early or expired (this caller refreshed it), expired by hand (by ``expire``), invalidated,
    ahead, garbage, being filled, pass (the last result could not be stored), ttl 0, no lease, no CAS, or no answer.
    """

    function: str
    key: str
    server: str
    reason: str


class Wait(Frozen):
    """A caller waited ``seconds`` for a value that another one computed."""

    function: str
    key: str
    seconds: float


class Fill(Frozen):
    """The function ran for ``seconds``. ``stored`` says whether the result went in.

    ``reason``: why it did not, else empty. It begins with unencodable, too large, refused, no ttl, ttl 0, cache_if,
    do_not_store, superseded, no lease, lost (the store was not answered), young tag, nested, other cache, too many
    groups, or raised (the function did).
    """

    function: str
    key: str
    seconds: float
    stored: bool
    reason: str


class Invalidate(Frozen):
    """An invalidation. ``acknowledged``: every server concerned said so.

    ``kind``: entry, function (its every entry), tag or namespace. ``function`` is empty for the last two, ``key`` that
    of the record behind them, and ``name`` their own. ``soft``: the old values may be served while they are refreshed.
    """

    function: str
    key: str
    acknowledged: bool
    kind: str = "entry"
    name: str = ""
    soft: bool = False


class Trouble(Frozen):
    """A server failed, refused or made no sense; the caller did not notice."""

    server: str
    error: Exception


class ServerState(Frozen):
    """A server was marked down (``up`` False) or came back (``up`` True)."""

    server: str
    up: bool


class Replayed(Frozen):
    """A server was told so many ``invalidations`` that it had not acknowledged when they were made: before anything
    else, since it may have come back with its old memory.
    """

    server: str
    invalidations: int


class Event(Generic[E]):
    """The listeners of one kind of event. Calling it with a function adds that function; it serves as a decorator."""

    __slots__ = ("_broken", "listeners")

    def __init__(self) -> None:
        self.listeners: tuple[Callable[[E], Any], ...] = ()
        self._broken: list[Callable[[E], Any]] = []

    def __bool__(self) -> bool:
        return bool(self.listeners)

    def __call__(self, listener: Callable[[E], Any]) -> Callable[[E], Any]:
        self.listeners = (*self.listeners, listener)
        return listener

    def remove(self, listener: Callable[[E], Any]) -> None:
        """Take ``listener`` away; nothing happens when it is not there."""
        # By equality: a bound method is a new object at every look.
        self.listeners = tuple(known for known in self.listeners if known != listener)

    def emit(self, event: E) -> None:
        """Tell every listener, in the order of their coming; what one of them raises stays here."""
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:
                if listener not in self._broken:
                    self._broken.append(listener)
                    logger.warning("a cachekit hook raised; its further errors are not logged", exc_info=True)


class Hooks:
    """Every event of one cache: ``cache.hooks.on_hit(listener)`` adds a listener, also as a decorator.

    >>> from cachekit import Cache
    >>> cache = Cache("memory:")
    >>> seen = []
    >>> listener = cache.hooks.on_fill(seen.append)
    >>> @cache
    ... def square(n: int) -> int:
    ...     return n * n
    >>> square(3), square(3), len(seen)
    (9, 9, 1)
    """

    __slots__ = ("on_fill", "on_hit", "on_invalidate", "on_miss", "on_replay", "on_server", "on_trouble", "on_wait")

    def __init__(self) -> None:
        self.on_hit: Event[Hit] = Event()
        self.on_miss: Event[Miss] = Event()
        self.on_wait: Event[Wait] = Event()
        self.on_fill: Event[Fill] = Event()
        self.on_invalidate: Event[Invalidate] = Event()
        self.on_trouble: Event[Trouble] = Event()
        self.on_server: Event[ServerState] = Event()
        self.on_replay: Event[Replayed] = Event()
