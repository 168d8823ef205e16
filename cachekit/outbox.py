"""What a cache still has to tell its servers: the queues (``replay.py``), the file that keeps them (``spool.py``), and
whoever is told about it. Made when the first invalidation could not be delivered, or where a spool is given.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from cachekit.errors import Refused
from cachekit.hooks import Hooks, Replayed
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
        self.names, self.hooks, self.groups, self.distrust = names, hooks, groups, distrust
        self.replay = Replay(len(names))
        self.queues = self.replay.queues
        self.spool: Spool | None = None
        self._now = now
        self._told = [0] * len(names)
        self._unsaved: set[int] = set()

    def keep(self, server: int, keys: Iterable[bytes], *, soft: bool, kind: int) -> Change:
        """Keep invalidations that the server has not acknowledged; to be passed to ``save``."""
        first = not self.queues[server]
        change = self.replay.keep(server, keys, self._now(), soft=soft, kind=kind)
        if first and change.put:
            logger.info("invalidations for memcached server %s are kept until it answers", self.names[server])
        if change.overflow is not None:
            self._distrust(server, change.overflow.at, len(change.gone))
        return change

    def _distrust(self, server: int, at: float, gone: int) -> None:
        if server not in self.distrust:
            logger.warning(
                "too many invalidations wait for memcached server %s: the oldest are given up, and what was computed"
                " before is computed again",
                self.names[server],
            )
        self.distrust[server] = max(self.distrust.get(server, 0.0), at + MARGIN_S)

    def save(self, server: int, change: Change) -> None:
        """Have it on disk, where there is a spool, before anybody is told that it was not delivered."""
        if self.spool is None or not (change.put or change.overflow):
            return
        if server in self._unsaved:  # what could not be written before goes with it
            change = change._replace(put=self.queues[server].first(1 << 30))
        (self._unsaved.discard if self.spool.save(self.names[server], change) else self._unsaved.add)(server)

    def load(self) -> list[int]:
        """Take over what the spool has for these servers; returns the indexes of those that something waits for."""
        assert self.spool is not None
        for name, (items, overflow) in self.spool.load(self.names).items():
            server = self.names.index(name)
            change = self.replay.load(server, items, overflow)
            if overflow is not None:
                self._distrust(server, overflow.at, 0)
            if change.overflow is not None:
                self._distrust(server, change.overflow.at, len(change.gone))
                self.save(server, change)
        return [server for server, queue in enumerate(self.queues) if queue]

    def lot(self, server: int) -> Lot:
        """What to tell a server next; perhaps nothing."""
        return self.replay.lot(server, self.groups)

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
            logger.info("memcached server %s was told %d invalidations that were kept", self.names[server], told)
            if self.hooks.on_replay.listeners:
                self.hooks.on_replay.emit(Replayed(self.names[server], told))

    def waiting(self) -> dict[str, int]:
        """How many invalidations wait, by name of the server; those for which none do are left out."""
        return {name: len(queue) for name, queue in zip(self.names, self.queues, strict=True) if queue}
