"""What a cache still has to tell its servers: the queues (``replay.py``), the file that keeps them (``spool.py``), and
whoever is told about it. Made when the first invalidation could not be delivered, or where a spool is given.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from cachekit.errors import Refused, Unreachable
from cachekit.hooks import Hooks, Replayed, Trouble
from cachekit.meta import Reply
from cachekit.replay import Change, Item, Lot, Replay
from cachekit.tombstones import is_gone

if TYPE_CHECKING:
    from cachekit.spool import Spool

logger = logging.getLogger("cachekit")

MARGIN_S = 1.0
"""Seconds by which the clocks of the machines that fill may differ: so much more is distrusted."""


class Outbox:
    """The undelivered invalidations of one cache. Thread-safe.

    ``groups`` gives the wire keys of the groups that the cache knows. ``distrust``: seconds since 1970, by index of the
    server; entries created before can't be trusted by this process.
    """

    def __init__(
        self,
        names: Sequence[str],
        hooks: Hooks,
        groups: Callable[[], Iterable[bytes]],
        distrust: dict[int, float],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.names, self.hooks, self.distrust = names, hooks, distrust
        self.replay = Replay(len(names), groups=groups)
        self.queues = self.replay.queues
        self.spool: Spool | None = None
        self._now = now
        self._told = [0] * len(names)
        self._unsaved: set[int] = set()
        self._full: set[int] = set()

    def keep(self, server: int, keys: Iterable[bytes], *, soft: bool, kind: int, group: bytes = b"") -> Change:
        """Keep invalidations that the server has not acknowledged; to be passed to ``save``."""
        queue = self.queues[server]
        first, full = not queue, queue.overflow is not None
        change = self.replay.keep(server, keys, self._now(), soft=soft, kind=kind, group=group)
        if first and change.put:
            logger.info("invalidations for memcached server %s are kept until it answers", self.names[server])
        self._note_overflow(server, change, full)
        return change

    def _note_overflow(self, server: int, change: Change, full: bool) -> None:
        """Say that items were let go of, once until the server has been told; ``full``: some were before."""
        if change.overflow is None:
            return
        self._distrust(server, change.overflow.at)
        if not full:
            logger.warning(
                "too many invalidations wait for memcached server %s: the oldest are given up. Instead, every function"
                " that this process knows is told there to compute anew; functions that only other processes know may"
                " serve old values from there until these end",
                self.names[server],
            )
            self._full.add(server)

    def _distrust(self, server: int, at: float) -> None:
        self.distrust[server] = max(self.distrust.get(server, 0.0), min(at, self._now()) + MARGIN_S)

    def save(self, server: int, change: Change) -> None:
        """Have it on disk, where there is a spool, before anybody is told that it was not delivered; and have hooks
        told that the queue is full.
        """
        self._write(server, change)
        if server in self._full:
            self._full.discard(server)
            if self.hooks.on_trouble.listeners:
                why = f"too many invalidations wait for {self.names[server]}: the oldest are given up"
                error = Unreachable(why, server=self.names[server])
                self.hooks.on_trouble.emit(Trouble(self.names[server], error))

    def _write(self, server: int, change: Change) -> None:
        if self.spool is None or not (change.put or change.overflow):
            return
        saved = False
        try:
            if server in self._unsaved:  # what could not be written before goes with it
                self._unsaved.discard(server)  # and not afterwards: another thread's may have failed meanwhile
                change = self.replay.everything(server)._replace(gone=change.gone)
            saved = self.spool.save(self.names[server], change)
        finally:
            if not saved:
                self._unsaved.add(server)

    def open_spool(self, path: str) -> list[int]:
        """Keep them in the file at ``path`` as well, and take over what it has for these servers; returns the indexes
        of those that something waits for.
        """
        from cachekit.spool import Spool  # noqa: PLC0415 - few programs have one

        self.spool = Spool(path, kept=partial(_everything, self.names, self.replay))
        for name, (items, overflow) in self.spool.load(self.names).items():
            server = self.names.index(name)
            change = self.replay.load(server, items, overflow)
            if overflow is not None:
                self._distrust(server, overflow.at)
            self._note_overflow(server, change, overflow is not None)
            self._write(server, change)
        return [server for server, queue in enumerate(self.queues) if queue]

    def lot(self, server: int) -> Lot:
        """What to tell a server next; perhaps nothing."""
        lot = self.replay.lot(server)
        self._write(server, Change(lot.put))
        return lot

    def settle(self, server: int, items: Sequence[Item], replies: Sequence[Reply]) -> bool:
        """The server has answered; whether that was all for now. Raises ``Refused`` where it did not carry out all."""
        settled, overflow = self.replay.answered(server, items, replies)
        self._told[server] += len(settled)
        if self.spool is not None:
            self.spool.drop(self.names[server], settled, overflow)
        for reply in replies:
            if not is_gone(reply):
                why = f"{self.names[server]} refused an invalidation: {reply.error or reply.code}"
                raise Refused(why, server=self.names[server])
        return not self.queues[server]

    def report(self, server: int) -> None:
        """Say that the server has been told everything."""
        told, self._told[server] = self._told[server], 0
        if told:
            what = "1 invalidation that was" if told == 1 else f"{told} invalidations that were"
            logger.info("memcached server %s was told %s kept", self.names[server], what)
            if self.hooks.on_replay.listeners:
                self.hooks.on_replay.emit(Replayed(self.names[server], told))

    def waiting(self) -> dict[str, int]:
        """How many invalidations wait, by name of the server; those for which none do are left out."""
        # An overflow alone, which a process that has died has left, is one: there is something to be told.
        return {name: queue.size or 1 for name, queue in zip(self.names, self.queues, strict=True) if queue}


def _everything(names: Sequence[str], replay: Replay) -> Iterator[tuple[str, Change]]:
    """All that is kept, by name of the server. Not the outbox's own: the spool need not keep that alive."""
    for server, name in enumerate(names):
        yield name, replay.everything(server)
