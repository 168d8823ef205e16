"""The event loops that use one cache: each has a fleet of its own, made when it first asks."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from contextlib import suppress

from cachekit.aio.fleet import AsyncFleet
from cachekit.roster import Roster


class Loops:
    """The fleets of one cache, by loop. Thread-safe: loops may run in several threads."""

    def __init__(self, roster: Roster) -> None:
        self.roster = roster
        self.fleets: dict[asyncio.AbstractEventLoop, AsyncFleet] = {}
        self._lock = threading.Lock()
        self._left_behind: list[object] = []
        _all.add(self)

    def here(self) -> AsyncFleet:
        """The fleet of the running loop. Raises ``RuntimeError`` where none runs."""
        loop = asyncio.get_running_loop()
        return self.fleets.get(loop) or self._first_time(loop)

    def _first_time(self, loop: asyncio.AbstractEventLoop) -> AsyncFleet:
        with self._lock:
            for known in [known for known in self.fleets if known.is_closed()]:
                del self.fleets[known]
            return self.fleets.setdefault(loop, AsyncFleet(self.roster))

    async def aclose(self) -> None:
        """Close what the running loop has open. Other loops close theirs."""
        fleet = self.fleets.get(asyncio.get_running_loop())
        if fleet is not None:
            await fleet.aclose()

    def abandon(self) -> None:
        """Have every loop cancel what goes on in its background; waits for nothing, and may be called outside them."""
        for loop, fleet in list(self.fleets.items()):
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(fleet.tasks.cancel_refreshes)

    def __del__(self) -> None:
        # The cache was dropped without ``aclose``; its loops would keep the connections as long as they run.
        for loop, fleet in self.fleets.items():
            with suppress(Exception):  # the loop is closed, or the interpreter is ending
                loop.call_soon_threadsafe(fleet.close_lines)

    def forked(self) -> None:
        """This is a child process now: the parent's loops don't run here, and their sockets are the parent's. They are
        kept as they are, since to clear them away would close them and say so to the parent's selector.
        """
        self._lock = threading.Lock()
        # The hit paths hold on to the dict itself.
        self._left_behind.append(dict(self.fleets))
        self.fleets.clear()


_all: weakref.WeakSet[Loops] = weakref.WeakSet()


def _after_fork() -> None:
    for loops in list(_all):
        loops.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
