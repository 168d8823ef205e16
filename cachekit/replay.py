"""Invalidations that a server has not acknowledged: kept by server, and told it before anything else. Pure bookkeeping:
no I/O, no clock.

A server that could not be reached may come back with its old memory. Whatever this process invalidated meanwhile it
must not read there again; so the keys are *kept*, and as long as some are, nobody in this process asks that server
anything before it has acknowledged all of them (``roster.py``; ``sync/replaying.py`` and ``aio/replaying.py`` tell
them). To invalidate twice is harmless, so a key may be told by several threads, or after a restart that had emptied the
server anyhow.

- The latest invalidation of a key takes the place of the one before, except that a *soft* one (``expire``: others may
  be served the old value while somebody refreshes it) never takes the place of a hard one, after which nobody may.
- The record behind a group (a tag, a namespace, all entries of a function) is deleted, also where its bump was a soft
  one: how to bump it softly only its own server could have said.
- A queue has at most ``LIMIT`` keys. A full one lets go of its oldest, entries of functions first, and remembers when
  that was invalidated: it *overflowed*. Then every group that this cache knows is bumped on that server, and this
  process distrusts what was computed before that time. The records of those groups, and those over the entries that
  were let go of, are put into the queue at once, and so into the file that whoever comes next may find: he need not
  know these functions. When the server is to be told, those that have become known meanwhile are put in as well.

An item is gone from its queue once it is acknowledged, unless its key was invalidated again since it was sent: ``mark``
tells the two apart.
"""

# Annotations are not postponed here: a NamedTuple would compile each of them as text (docs/design/imports.md).

import itertools
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

from cachekit.meta import Reply, md
from cachekit.tombstones import is_gone, tombstone

LIMIT = 10_000
"""Most keys kept for one server: about 2 MB."""

LOT = 256
"""Most keys told at a time."""


class Kind(IntEnum):
    """What a key stands for, in the order in which a full queue lets go of them.

    ``ENTRY``: a cached function's, which tells when it was made. ``PLAIN``: a value of the direct verbs, which does
    not, so that nothing else makes it void. ``GROUP``: the record behind a tag, a namespace or a function.
    ``STAND_IN``: the same, in place of what the queue let go of; the limit does not count these, for they are no more
    than there are functions.
    """

    ENTRY = 0
    PLAIN = 1
    GROUP = 2
    STAND_IN = 3


class Item(NamedTuple):
    """One invalidation to tell. ``at``: seconds since 1970 at which it could not be. ``mark``: its own alone.
    ``group``: wire key of a record over an entry, whose bump voids it as well; b"" where none is known.
    """

    key: bytes
    soft: bool
    kind: int
    at: float
    mark: int
    group: bytes = b""


class Lot(NamedTuple):
    """Items that are told at a time, under one token, one reply each. False where there are none. ``watched``: hard
    ones have to show to whoever watches the server (``tombstones.py``). ``put``: what was put into the queue for it.
    """

    items: Sequence[Item]
    opaque: int
    watched: bool = False
    put: Sequence[Item] = ()

    def __bool__(self) -> bool:
        return bool(self.items)

    @property
    def expected(self) -> int:
        """How many replies there will be."""
        return len(self.items)

    def request(self) -> bytes:
        """The commands."""
        hard, soft = b"O%d" % self.opaque, b"I O%d" % self.opaque
        if self.watched:
            opaque = self.opaque
            return b"".join([md(i.key, soft) if i.soft else tombstone(i.key, opaque) for i in self.items])
        return b"".join([md(item.key, soft if item.soft else hard) for item in self.items])


class Overflow(NamedTuple):
    """Items were let go of, the last of which was ``at`` so many seconds since 1970."""

    at: float
    mark: int


class Change(NamedTuple):
    """What a call has changed in a queue: items put in and let go of, the overflow that this made."""

    put: Sequence[Item] = ()
    gone: Sequence[Item] = ()
    overflow: Overflow | None = None


class Queue:
    """What is kept for one server: items by kind and key. ``bumped``: its groups are among them since it overflowed.
    ``unsent``: stand-ins that were put in since anything was last sent, so that they stand for what was let go of now.
    ``scanned``: the cache was asked for its groups since then.
    """

    __slots__ = ("bumped", "items", "overflow", "scanned", "unsent")

    def __init__(self) -> None:
        self.items: tuple[dict[bytes, Item], ...] = tuple({} for _ in Kind)
        self.overflow: Overflow | None = None
        self.bumped = self.scanned = False
        self.unsent: set[bytes] = set()

    def __len__(self) -> int:
        return self.size + (self.overflow is not None)

    @property
    def size(self) -> int:
        """How many keys are kept."""
        return sum(map(len, self.items))

    def find(self, key: bytes) -> Item | None:
        """The item of ``key``."""
        return next((items[key] for items in self.items if key in items), None)

    def put(self, item: Item) -> None:
        """Put it in, behind all others, in place of that of the same key."""
        self.remove(item.key)
        self.items[item.kind][item.key] = item

    def remove(self, key: bytes) -> None:
        """Take the item of ``key`` out, if there is one."""
        for items in self.items:
            items.pop(key, None)

    def shrink(self, limit: int) -> list[Item]:
        """Take out the oldest items of the kinds that matter least, so that ``limit`` are left; those taken out."""
        gone: list[Item] = []
        counted = self.items[: Kind.STAND_IN]
        for _ in range(sum(map(len, counted)) - limit):
            items = next(items for items in counted if items)
            gone.append(items.pop(next(iter(items))))
        return gone

    def shrink_stand_ins(self, limit: int) -> list[Item]:
        """The same for stand-ins: a spool that many write may be full of them."""
        items = self.items[Kind.STAND_IN]
        return [items.pop(next(iter(items))) for _ in range(len(items) - limit)]

    def first(self, most: int) -> list[Item]:
        """The first items; groups before others, since each voids many entries."""
        return list(itertools.islice(itertools.chain(*[items.values() for items in reversed(self.items)]), most))


class Replay:
    """The queues of one cache, by index of the server. Thread-safe.

    ``groups`` gives the wire keys of all groups that this cache knows. ``delivered`` counts invalidations that were
    told and acknowledged, ``dropped`` those that a full queue let go of.
    """

    def __init__(self, servers: int, limit: int = LIMIT, groups: Callable[[], Iterable[bytes]] = tuple) -> None:
        self.queues = [Queue() for _ in range(servers)]
        self.delivered = self.dropped = 0
        self.watched = False
        self._limit, self._groups = limit, groups
        self.forked()

    def forked(self) -> None:
        """This is a child process now: the items are the same, what is marked from now on is not."""
        self._lock = threading.RLock()  # a signal handler may come here while its thread is in here
        self._marks = itertools.count(random.getrandbits(62))
        self._opaques = itertools.count(random.getrandbits(30) + (1 << 50))  # no flow's token is as large
        self.telling = [threading.RLock() for _ in self.queues]
        """Held by the thread that tells a server; the others wait for it, so that not each of them tells all."""

    def keep(
        self,
        server: int,
        keys: Iterable[bytes],
        at: float,
        *,
        soft: bool = False,
        kind: int = Kind.ENTRY,
        group: bytes = b"",
    ) -> Change:
        """Keep invalidations of ``keys``, made ``at`` so many seconds since 1970. ``group``: a record over them all."""
        with self._lock:
            queue = self.queues[server]
            put: list[Item] = []
            for key in keys:
                known = queue.find(key)
                least = kind if known is None else max(kind, known.kind)
                softly = soft and least < Kind.GROUP and (known is None or known.soft)
                over = group or (b"" if known is None else known.group)
                item = Item(key, softly, least, at, next(self._marks), over)
                queue.put(item)
                put.append(item)
            return self._bounded(queue, put)

    def load(self, server: int, items: Iterable[Item], overflow: Overflow | None) -> Change:
        """Keep what another process had kept; what this one has kept itself is newer."""
        with self._lock:
            queue = self.queues[server]
            for item in items:
                if queue.find(item.key) is None:
                    queue.put(item)
            if overflow is not None:
                self._overflowed(queue, overflow)
            return self._bounded(queue, [])

    def everything(self, server: int) -> Change:
        """All that is kept for a server, as if it were put in just now."""
        with self._lock:
            queue = self.queues[server]
            return Change(queue.first(queue.size), (), queue.overflow)

    def _bounded(self, queue: Queue, put: list[Item]) -> Change:
        gone = queue.shrink(self._limit)
        if not gone:
            return Change(put)
        at = max(item.at for item in gone)
        self.dropped += len(gone)
        self._overflowed(queue, Overflow(at, next(self._marks)))
        put.extend(self._stand_in(queue, at, {item.group for item in gone if item.group}))
        gone.extend(queue.shrink_stand_ins(LIMIT))
        return Change(put, gone, queue.overflow)

    def _overflowed(self, queue: Queue, overflow: Overflow) -> None:
        if queue.overflow is None or queue.overflow.at <= overflow.at:
            queue.overflow = overflow
        queue.bumped = False  # also where the clock was put back

    def _stand_in(self, queue: Queue, at: float, groups: Iterable[bytes] = ()) -> list[Item]:
        """Have ``groups``, and those that this cache knows, bumped in place of what was let go of; what was put in."""
        known = queue.items[Kind.STAND_IN]
        if not queue.scanned:  # there may be many, and a full queue comes here each time; ``lot`` adds newer ones
            groups = {*groups, *self._groups()}
            queue.scanned = True
        missing = [key for key in groups if key not in known or key not in queue.unsent]
        put = [Item(key, False, Kind.STAND_IN, at, next(self._marks)) for key in missing]
        for item in put:
            queue.put(item)
        queue.unsent.update(missing)
        return put

    def lot(self, server: int, most: int = LOT) -> Lot:
        """The next items to tell a server; none: it has been told everything."""
        with self._lock:
            queue, put = self.queues[server], []
            if queue.overflow is not None and not queue.bumped:
                queue.bumped, queue.scanned = True, False
                put = self._stand_in(queue, queue.overflow.at)
            queue.unsent.clear()
            queue.scanned = False
            return Lot(queue.first(most), next(self._opaques), self.watched, put)

    def answered(
        self, server: int, items: Sequence[Item], replies: Sequence[Reply]
    ) -> tuple[Sequence[Item], Overflow | None]:
        """Take out those of ``items`` that were carried out, or found nothing to invalidate, as far as their keys were
        not invalidated again; returns those taken out, and the overflow where that is over with them: its groups were
        bumped.
        """
        done = [item for item, reply in zip(items, replies, strict=True) if is_gone(reply)]
        with self._lock:
            queue = self.queues[server]
            settled = [item for item in done if queue.find(item.key) == item]
            for item in settled:
                queue.remove(item.key)
            self.delivered += len(settled)
            overflow = queue.overflow
            if overflow is None or not queue.bumped or queue.size:
                return settled, None
            queue.overflow = None
            return settled, overflow
