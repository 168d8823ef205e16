"""What keeps the near tiers of one cache true: it hears of every invalidation in this process, and says what goes in.

**Numbers.** Every request of a cache bears a token, and tokens rise. A call takes one before it sends anything, its
*ticket*; an invalidation takes one whenever it is heard of. So of two of these it is known which came first, and what a
call brings goes in only if nothing that it depends on (its key, the records over it, its server) was touched since its
ticket. Each touch is noted in a table of fixed size, by a hash: two keys in one place cost a reader another read now
and then, and never the truth.

**Groups.** To touch a record over many entries does not visit them. It moves the *epoch* on; an entry that is found
under another epoch than the one it was last looked at in is held against a second table first, once. In there are only
touches of records that entries here stand under, which are known by 16 more bits of their hash: otherwise one plain
key in 8192 would void a whole function, whenever it is written.

**Backwards.** Of two reads under way together the later sent one counts, also where what it brought has been evicted
meanwhile: an eviction is noted in the table as well.
"""

# Annotations are not postponed here: a NamedTuple would compile each of them as text (docs/design/imports.md).

import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from cachekit.near.option import Near
from cachekit.near.sizes import allotted, immutable_bytes, near_key_bytes
from cachekit.near.tier import PACKED, Node, Tier, settle

_PLACES: Final = 8192
_MASK: Final = _PLACES - 1
_SEVERAL: Final = 0xFFFF
"""Stands for the further bits where the records of several groups have one place."""

NODE_BYTES: Final = 390
"""What an entry takes besides its key, its value and its places in the tables: measured (docs/design/near/)."""

_WORTH_ASKING: Final = 1024
"""From this payload on it is cheaper to ask whether a value has changed than to have it sent again."""


class Ticket(NamedTuple):
    """The beginning of a call, before anything is sent: its number, and monotonic seconds."""

    number: int
    at: float


class Fresh(NamedTuple):
    """A value as it stands on its server now, and fresh.

    ``packed``: client flags and payload. ``left_s``: seconds until it ends or is due. ``cas``: 0 where it is not known.
    ``groups``, ``numbers``: the wire keys of the records over it, and the generations that it is valid
    under. ``value``: what the payload says, unpacked, or ``PACKED`` where nobody has looked.
    ``tally``: who counts its hits.
    """

    value: Any
    packed: tuple[int, bytes]
    left_s: float
    server: int
    cas: int
    groups: tuple[bytes, ...]
    numbers: tuple[int, ...]
    delta_us: int
    created_s: float
    tally: Any


class Hub:
    """The near tiers of one cache. Thread-safe.

    ``epoch``: an entry whose own is another one must be looked at by ``holds`` before it is served.
    """

    __slots__ = (
        "__weakref__", "_floor", "_forgotten", "_group_places", "_grouped", "_lock", "_places", "_servers", "_tokens",
        "epoch", "monotonic", "tiers", "watch",
    )  # fmt: skip

    def __init__(self, tokens: Iterator[int], monotonic: Callable[[], float]) -> None:
        self._tokens = tokens
        self.monotonic = monotonic
        self.watch: Any = None
        """Who hears of other processes' changes (watch/registry.py), on a watched ring."""
        self.tiers: dict[Near, Tier] = {}
        self._places = array("Q", bytes(8 * _PLACES))
        self._group_places = array("Q", bytes(8 * _PLACES))
        self._grouped = array("H", bytes(2 * _PLACES))
        self._servers: dict[int, int] = {}
        self._forgotten: deque[tuple[Tier, dict[Any, Node]]] = deque()
        self._floor = self.epoch = next(tokens)
        self._lock = threading.RLock()  # a signal handler may come here while its thread is in here

    def tier(self, near: Near) -> Tier:
        """The store of those who are given ``near``."""
        with self._lock:
            tier = self.tiers.get(near)
            if tier is None:
                tier = self.tiers[near] = Tier(near)
            return tier

    def table(self, tier: Tier) -> dict[Any, Node]:
        """A table of ``tier``'s for keys of a caller's own making."""
        with self._lock:
            return tier.new_table()

    def drop_table(self, tier: Tier, table: dict[Any, Node]) -> None:
        """The caller is gone: its keys lead nowhere. Told by the collector, which may come in the middle of a change
        here, so it is done with the next one.
        """
        self._forgotten.append((tier, table))

    def ticket(self) -> Ticket:
        """To be taken before anything is sent."""
        if self.watch is not None and not self.watch.joined:
            self.watch.ensure()  # the first time, after a fork, and after ``close``
        return Ticket(next(self._tokens), self.monotonic())

    # -- look-up -----------------------------------------------------------------------------------------------------

    def find(self, tier: Tier, key: bytes) -> Node | None:
        """The entry of ``key`` where there is one that holds, in time or past it (``ends``)."""
        node = tier.nodes.get(key)
        return node if node is not None and (node.epoch == self.epoch or self.holds(tier, node)) else None

    def holds(self, tier: Tier, node: Node) -> bool:
        """Whether nothing that ``node`` depends on was touched since its ticket; else it is dropped."""
        epoch = self.epoch  # before the looks: a touch after this line moves it on once more
        if self._touched_since(node.ticket, node.server, node.groups, self._group_places):
            with self._lock:
                if node.live:
                    tier.remove(node)
            return False
        node.epoch = epoch
        return node.live

    def _touched_since(self, number: int, server: int, keys: tuple[bytes, ...], places: "array[int]") -> bool:
        if self._floor > number or self._servers.get(server, 0) > number:
            return True
        for key in keys:  # noqa: SIM110 - a generator takes as long as all the rest
            if places[hash(key) & _MASK] > number:
                return True
        return False

    def alias(self, tier: Tier, node: Node, table: dict[Any, Node], key: tuple[Any, ...]) -> None:
        """Let ``node`` be found under ``key`` in a caller's ``table``, too."""
        size = near_key_bytes(key)
        if size <= _WORTH_ASKING:
            with self._lock:
                self._note(tier.alias(node, table, key, size))

    # -- in ----------------------------------------------------------------------------------------------------------

    def put(self, tier: Tier, key: bytes, ticket: Ticket, fresh: Fresh, *, stored: bool = False) -> bool:
        """Keep what a call brought, and whether it is kept: not where it was touched since the call began, or a call
        sent later has brought another one.

        ``stored``: it was stored just now, so whatever was read before, by calls under way as well, is older.
        """
        now = self.monotonic()
        own_end = now + fresh.left_s
        ends = min(ticket.at + tier.ttl_s, own_end)
        value, size = self._weighed(key, fresh)
        with self._lock:
            while self._forgotten:
                of, table = self._forgotten.popleft()
                of.drop_table(table)
            node, number = tier.nodes.get(key), ticket.number
            if node is not None and node.ticket > number and not stored:
                return False
            late = ends <= now or self._touched_since(number, fresh.server, (key, *fresh.groups), self._places)
            if stored:
                number = self._places[hash(key) & _MASK] = next(self._tokens)
            if node is not None and late:
                tier.remove(node)
            node = None if late else self._placed(tier, node, key, size)
            if node is None:
                return False
            self._fill_in(node, fresh, number, value)
            node.own_end, node.epoch = own_end, self.epoch
            node.ends = ends  # last: who looks meanwhile finds nothing, and not half of it
            self._note(tier.shrink())
            return node.live

    def _weighed(self, key: bytes, fresh: Fresh) -> tuple[Any, int]:
        """The value to share, or ``PACKED``; and what its entry takes in all."""
        of_value = None if fresh.value is PACKED else immutable_bytes(fresh.value)
        shared = of_value is not None
        if of_value is None:
            of_value = allotted(33 + len(fresh.packed[1])) + 64
        size = NODE_BYTES + allotted(33 + len(key)) + of_value
        if len(fresh.groups) > 1:  # one alone is its function's, and there once
            size += sum([allotted(33 + len(group)) for group in fresh.groups]) + 16 * len(fresh.groups) + 64
        return (fresh.value if shared else PACKED), size

    def _placed(self, tier: Tier, node: Node | None, key: bytes, size: int) -> Node | None:
        """The node to fill in: the one that was there, with its place in the queue, or a new one."""
        if node is None:
            return tier.insert(key, size)
        node.ends = 0.0
        settle(node)
        size += node.alias_bytes
        if not tier.fits(size):
            tier.remove(node)
            return None
        tier.resize(node, size)
        return node

    def _fill_in(self, node: Node, fresh: Fresh, number: int, value: Any) -> None:
        asks = fresh.cas and len(fresh.packed[1]) >= _WORTH_ASKING
        node.packed = fresh.packed if value is PACKED else None
        node.value = value
        node.ticket, node.server, node.groups = number, fresh.server, fresh.groups
        node.cas, node.numbers = (fresh.cas, fresh.numbers) if asks else (0, ())
        node.delta_us, node.created_s, node.tally = fresh.delta_us, fresh.created_s, fresh.tally
        for group in fresh.groups:
            place, bits, known = hash(group) & _MASK, _bits(group), self._grouped[hash(group) & _MASK]
            self._grouped[place] = bits if known in (0, bits) else _SEVERAL

    def prolong(self, tier: Tier, node: Node, ticket: Ticket) -> bool:
        """The server says that the value of ``node`` is what stands there still: keep it for another ttl. False where
        it was touched since the call began.
        """
        with self._lock:
            keys = (node.key, *node.groups)
            if not node.live or self._touched_since(ticket.number, node.server, keys, self._places):
                return False
            if node.ticket < ticket.number:
                node.ticket, node.epoch = ticket.number, self.epoch
                node.ends = min(ticket.at + tier.ttl_s, node.own_end)
            return True

    # -- out ---------------------------------------------------------------------------------------------------------

    def touch(self, key: bytes) -> None:
        """An invalidation of ``key``, an entry's or a record's, is under way or was heard of."""
        with self._lock:
            number, place = next(self._tokens), hash(key) & _MASK
            self._places[place] = number
            known = self._grouped[place]
            for tier in self.tiers.values():
                node = tier.nodes.get(key)
                if node is not None:
                    tier.remove(node)
            if known and (known == _SEVERAL or known == _bits(key)):
                self._group_places[place] = number
                self.epoch = number  # last: who sees it finds the rest done

    def touch_server(self, index: int) -> None:
        """What was heard of that server is not the whole truth any more: a reconnect, a gap."""
        with self._lock:
            self._servers[index] = number = next(self._tokens)
            self.epoch = number

    def touch_all(self) -> None:
        """Nothing that is kept here holds any more."""
        with self._lock:
            self._floor = number = next(self._tokens)
            self.epoch = number

    def _note(self, gone: list[Node]) -> None:
        """Nothing that was sent before what these brought may take their place."""
        for node in gone:
            place = hash(node.key) & _MASK
            self._places[place] = max(self._places[place], node.ticket)

    def forked(self) -> None:
        """This is a child process now: it begins with nothing, and nobody holds the lock."""
        self._lock = threading.RLock()
        for tier in self.tiers.values():
            tier.clear()
        self.touch_all()

    # -- counts ------------------------------------------------------------------------------------------------------

    def settle(self, tier: Tier) -> None:
        """Hand the hits that were counted in the entries to those who count calls."""
        with self._lock:
            for node in tier.nodes.values():
                settle(node)


def _bits(key: bytes) -> int:
    """Of the hash what does not say the place; never 0, and never ``_SEVERAL``."""
    return (hash(key) >> 13) % (_SEVERAL - 1) + 1
