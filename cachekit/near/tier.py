"""The bounded store of near entries: S3-FIFO, whose small queue learns how long it should be.

"FIFO queues are all you need for cache eviction" (SOSP 2023): a new key comes into the small queue; who is asked for
again before its turn moves to the main queue, everybody else leaves early, so a scan passes through the small queue and
touches nothing else. Keys that left are remembered as ghosts; one that returns soon goes to the main queue at once. A
hit does nothing but count: no lock, no list to reorder.

Two things are ours, since the plain algorithm lost up to seven points to LRU where one working set follows another, and
to S3-FIFO itself up to nine when we took ARC's ways whole (docs/design/near/): a ghost of the small queue lets that
queue grow, up to half of the store, and a ghost of the main queue lets it shrink, without coming back to the main queue
for it; and a single second use promotes.

Sizes are what the process really takes: the values by ``sizes``, the nodes by measurement, the tables by asking them.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from cachekit.near.option import Near

if TYPE_CHECKING:
    from cachekit.tally import Tally

PACKED: Final = object()
"""Stands for the value of a node that holds a payload, to be unpacked anew for each caller."""

_PROMOTED_BY: Final = 1
_MOST_USES: Final = 2
_FIRST_SHARE: Final = 0.1
_LEAST_SHARE: Final = 0.05
_LARGEST_SHARE: Final = 0.5
_STEP: Final = 0.25
"""By how many entries at least the small queue grows or shrinks for each ghost that returns; by more, as in ARC, where
the ghosts of the other queue are many.
"""


class Node:
    """One entry of the near tier. A hit reads ``ends`` (monotonic seconds) and ``epoch``, counts ``hits``, and takes
    the ``value``, or unpacks ``packed`` (client flags, payload) where that is ``PACKED``.

    ``own_end``: monotonic seconds at which the entry itself ends, or is due. ``ticket``: the number of the call that
    brought it. ``groups``: the wire keys of the records over it; ``numbers``: their generations, where ``cas`` is not 0
    and its server is asked whether it has changed. ``alias``, ``aliases``: its key in the table of a generated call,
    and that table. ``tally``: who counts its ``hits``, of which ``counted`` were told already.
    """

    __slots__ = (
        "alias", "alias_bytes", "aliases", "cas", "counted", "created_s", "delta_us", "ends", "epoch", "groups", "hits",
        "key", "live", "main", "numbers", "own_end", "packed", "seen", "server", "size", "tally", "ticket", "value",
    )  # fmt: skip

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.value: Any = PACKED
        self.packed: tuple[int, bytes] | None = None
        self.ends = 0.0
        self.own_end = 0.0
        self.hits = self.seen = self.counted = 0
        self.epoch = self.ticket = 0
        self.server = self.cas = 0
        self.delta_us = 0
        self.created_s = 0.0
        self.groups: tuple[bytes, ...] = ()
        self.numbers: tuple[int, ...] = ()
        self.tally: Tally | None = None
        self.alias: Any = None
        self.aliases: dict[Any, Node] | None = None
        self.size = self.alias_bytes = 0
        self.main = False
        self.live = True


class Tier:
    """The near entries of all functions with one ``Near``. Not thread-safe but for look-ups: the hub has the lock.

    ``bytes``: what the entries take by themselves; ``used_bytes()``: that and the tables.
    """

    def __init__(self, near: Near) -> None:
        self.near = near
        self.ttl_s = near.ttl_s
        self.nodes: dict[bytes, Node] = {}
        self.tables: list[dict[Any, Node]] = []
        self.clear()

    def clear(self) -> None:
        """Forget everything, ghosts included."""
        self.nodes.clear()
        for table in self.tables:
            table.clear()
        self.small, self.main = _Queue(), _Queue()
        self.ghosts = _Ghosts()
        self.share = _FIRST_SHARE
        self.evicted = 0
        self._tables_bytes = sum([table.__sizeof__() for table in (self.nodes, *self.tables)])

    def new_table(self) -> dict[Any, Node]:
        """A table for keys of a caller's own making."""
        table: dict[Any, Node] = {}
        self.tables.append(table)
        self._tables_bytes += table.__sizeof__()
        return table

    def drop_table(self, table: dict[Any, Node]) -> None:
        """Its caller is gone."""
        self.tables = [each for each in self.tables if each is not table]
        self._tables_bytes -= table.__sizeof__()
        for node in table.values():
            self.resize(node, node.size - node.alias_bytes)
            node.alias, node.aliases, node.alias_bytes = None, None, 0
        table.clear()

    def used_bytes(self) -> int:
        """What all of this takes of the memory of the process."""
        # A table that is laid out anew leaves a hole where it was, which only something large can use again.
        return self.small.bytes + self.main.bytes + self._tables_bytes * 3 // 2 + self.ghosts.bytes

    # -- in ----------------------------------------------------------------------------------------------------------

    def insert(self, key: bytes, size: int) -> Node | None:
        """A node for ``key``, which has none; None: too large to be kept. The caller fills it in, and then calls
        ``shrink``.
        """
        if not self.fits(size):
            return None
        if len(self.nodes) >= self.ghosts.keys:
            self.ghosts = _Ghosts(2 * len(self.nodes))
        node = Node(key)
        node.main = self._returns(key)
        node.size = size
        (self.main if node.main else self.small).add(node)
        self._enter(self.nodes, key, node)
        return node

    def _enter(self, table: dict[Any, Node], key: Any, node: Node) -> None:
        before = table.__sizeof__()  # a table grows by leaps
        table[key] = node
        self._tables_bytes += table.__sizeof__() - before

    def _returns(self, key: bytes) -> bool:
        """Whether ``key`` belongs to the main queue, having left not long ago; learns from it."""
        kind = self.ghosts.take(key, len(self.nodes))
        if kind is None:
            return False
        small, main = self.ghosts.count[_FROM_SMALL] + 1, self.ghosts.count[_FROM_MAIN] + 1
        step = _STEP / max(8, len(self.nodes))
        if kind == _FROM_SMALL:
            self.share = min(_LARGEST_SHARE, self.share + step * max(1.0, main / small))
        elif kind == _FROM_MAIN:
            self.share = max(_LEAST_SHARE, self.share - step * max(1.0, small / main))
        return kind != _FROM_MAIN

    def resize(self, node: Node, size: int) -> None:
        """The size of ``node`` is another one now."""
        (self.main if node.main else self.small).bytes += size - node.size
        node.size = size

    def fits(self, size: int) -> bool:
        """Whether one entry may be so large: it must not drive out all others."""
        return size <= self.near.bytes >> 3

    def alias(self, node: Node, table: dict[Any, Node], key: Any, size: int) -> list[Node]:
        """Let ``node`` be found under ``key`` in ``table`` as well, which takes ``size`` bytes; the nodes that had to
        go for it.
        """
        if not node.live or node.aliases is not None or not self.fits(node.size + size):
            return []
        node.alias, node.aliases, node.alias_bytes = key, table, size
        self._enter(table, key, node)
        self.resize(node, node.size + size)
        return self.shrink()

    # -- out ---------------------------------------------------------------------------------------------------------

    def remove(self, node: Node) -> None:
        """Take ``node`` away before its turn. When it returns, it has not lost its place."""
        (self.main if node.main else self.small).forget(node)
        self._unlink(node)
        if node.main or node.hits > node.seen:
            self.ghosts.add(node.key, _DROPPED, len(self.nodes))

    def _unlink(self, node: Node) -> None:
        """Let nobody find ``node`` any more, nor serve it who has just found it."""
        node.ends, node.live = 0.0, False
        settle(node)
        if self.nodes.get(node.key) is node:
            del self.nodes[node.key]
        if node.aliases is not None:
            node.aliases.pop(node.alias, None)
        node.value, node.packed, node.aliases, node.alias, node.tally = PACKED, None, None, None, None

    def shrink(self) -> list[Node]:
        """Evict until the bounds hold; the nodes that went."""
        gone: list[Node] = []
        while self.nodes and (len(self.nodes) > self.near.entries or self.used_bytes() > self.near.bytes):
            node = self._evict_small() if self._small_is_long() else self._evict_main()
            if node is not None:
                self.evicted += 1
                gone.append(node)
        return gone

    def _small_is_long(self) -> bool:
        """Whether the small queue has its share, of entries or of bytes, whichever is shorter."""
        if not self.main.count:
            return True
        used = max(1, self.small.bytes + self.main.bytes)
        counted = self.small.count / len(self.nodes)
        return self.small.count > 0 and max(counted, self.small.bytes / used) >= self.share

    def _evict_small(self) -> Node | None:
        """Turn to the oldest of the small queue; None: it was promoted, and there is no room yet."""
        node = self.small.pop()
        if node is None:
            return None
        uses = node.hits - node.seen
        node.seen = node.hits
        if uses >= _PROMOTED_BY:
            node.main = True
            self.main.add(node)
            return None
        return self._gone(node, _FROM_SMALL)

    def _evict_main(self) -> Node | None:
        """Turn to the oldest of the main queue; None: it was used, and gets another turn."""
        node = self.main.pop()
        if node is None:
            return None
        uses = min(node.hits - node.seen, _MOST_USES)
        if uses > 0:
            node.seen = node.hits - (uses - 1)
            self.main.add(node)
            return None
        return self._gone(node, _FROM_MAIN)

    def _gone(self, node: Node, kind: int) -> Node:
        self.ghosts.add(node.key, kind, len(self.nodes))
        self._unlink(node)
        return node


def settle(node: Node) -> None:
    """Hand the hits on ``node`` since the last time to the tally of its function."""
    hits, tally = node.hits, node.tally
    new, node.counted = hits - node.counted, hits
    if new and tally is not None:
        tally.hits += new
        tally.near += new
        tally.saved_us += new * node.delta_us


class _Queue:
    """First in, first out. Nodes that were taken away are passed over when their turn comes, or swept out before, where
    they are many.
    """

    __slots__ = ("bytes", "count", "nodes")

    def __init__(self) -> None:
        self.nodes: deque[Node] = deque()
        self.count = self.bytes = 0

    def add(self, node: Node) -> None:
        self.nodes.append(node)
        self.count += 1
        self.bytes += node.size

    def pop(self) -> Node | None:
        """The oldest one; None: there is none."""
        while self.nodes:
            node = self.nodes.popleft()
            if node.live:
                self.count -= 1
                self.bytes -= node.size
                return node
        return None

    def forget(self, node: Node) -> None:
        """``node``, which is in here, is taken away: the caller marks it so."""
        self.count -= 1
        self.bytes -= node.size
        node.live = False
        if len(self.nodes) > 2 * self.count + 64:
            self.nodes = deque([each for each in self.nodes if each.live])


_FROM_SMALL: Final = 0
_FROM_MAIN: Final = 1
_DROPPED: Final = 2
_LASTS: Final = (0.9, 0.5, 0.25)
"""For how many departures a ghost is remembered, by kind, as shares of the number of entries."""


class _Ghosts:
    """The keys that left lately, as fingerprints in a table for each kind: eight bytes a key, and a few get lost.

    ``keys``: for how many entries it is made. ``count``: about how many ghosts there are of each kind.
    ``bytes``: what the tables take.
    """

    __slots__ = ("_turns", "bytes", "count", "keys", "tables")

    def __init__(self, keys: int = 64) -> None:
        self.keys = max(64, keys)
        # One kind leaves faster than the other: in one table it would wipe the other's ghosts out.
        sizes = [1 << max(6, int(2 * share * self.keys).bit_length()) for share in _LASTS]
        self.tables = [array("Q", bytes(8 * size)) for size in sizes]
        self._turns = [1, 1, 1]
        self.count = [0, 0, 0]
        self.bytes = sum([table.__sizeof__() for table in self.tables])

    def add(self, key: bytes, kind: int, entries: int) -> None:
        """``key`` has left now, of so many."""
        turn = self._turns[kind] = self._turns[kind] + 1 & 0xFFFFFFFF
        self.count[kind] = min(self.count[kind] + 1, int(_LASTS[kind] * entries))
        table, mark = self.tables[kind], hash(key)
        one = mark & len(table) - 1
        other = one ^ 1
        ago_one, ago_other = turn - table[one] & 0xFFFFFFFF, turn - table[other] & 0xFFFFFFFF
        table[one if ago_one >= ago_other else other] = (mark >> 31 & 0xFFFFFFFF) << 32 | turn

    def take(self, key: bytes, entries: int) -> int | None:
        """How ``key`` left, if that was not long ago; and forget it."""
        mark = hash(key)
        for kind, table in enumerate(self.tables):
            one = mark & len(table) - 1
            for place in (one, one ^ 1):
                found = table[place]
                if found and found >> 32 == mark >> 31 & 0xFFFFFFFF:
                    table[place] = 0
                    ago = self._turns[kind] - found & 0xFFFFFFFF
                    if ago <= _LASTS[kind] * entries:
                        self.count[kind] = max(0, self.count[kind] - 1)
                        return kind
        return None
