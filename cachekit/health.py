"""Which servers may be asked, and when a silent one is tried again. Pure bookkeeping: no I/O, no clock, takes ``now``.

A server is *up* until it proves otherwise. A refused connect proves it at once; a lost or silent connection proves it
the second time in a row, since one lost reply may be one lost packet. A server marked *down* is not asked by callers at
all (mcrouter calls this TKO): they fail at once, and a probe that rides on nobody's time asks it instead, first after
about a second, then about once a second, with jitter so that a fleet does not probe in step. One good answer makes it
up again, so recovery is used within two seconds.
"""

from __future__ import annotations

from collections.abc import Callable

STRIKES = 2
"""Failures in a row after which a server that still accepts connections is marked down."""

PROBE_S = 1.0
"""Mean pause between probes of a server that is down, in seconds."""


class Health:
    """The state of one server.

    ``strikes`` counts failures in a row, ``down_since`` and ``probe_at`` are monotonic seconds.
    """

    __slots__ = ("down_since", "probe_at", "strikes")

    def __init__(self) -> None:
        self.strikes = 0
        self.down_since: float | None = None
        self.probe_at = 0.0

    @property
    def up(self) -> bool:
        return self.down_since is None

    def succeeded(self) -> bool:
        """A full reply came. Returns True when that brought the server back up."""
        came_back = self.down_since is not None
        self.strikes = 0
        self.down_since = None
        return came_back

    def failed(self, now: float, random: Callable[[], float], *, refused: bool = False) -> bool:
        """A connect, send or reply failed. Returns True when that marked the server down."""
        self.strikes += 1
        if self.down_since is not None:
            self.probe_at = now + _pause(random)
            return False
        if not refused and self.strikes < STRIKES:
            return False
        self.down_since = now
        self.probe_at = now + _pause(random)
        return True

    def look_soon(self, now: float, random: Callable[[], float]) -> None:
        """There is something to be told from now on, so it is to be probed also where it is up."""
        if self.down_since is None:
            self.probe_at = now + _pause(random)

    def probe_due_in(self, now: float) -> float:
        """Seconds until the next probe; 0.0 when it is due."""
        return max(0.0, self.probe_at - now)


def _pause(random: Callable[[], float]) -> float:
    return PROBE_S * (0.8 + 0.4 * random())
