"""Which server a key lives on: one table look-up, nearly even shares, and next to no key moved without need.

The look-up is ``table[crc32(key) & mask]``: 65 536 slots, each owned by one server. All the thought is in who owns a
slot.

**What is wanted.** When a server joins, only keys that go to it may move, and when one leaves, only its own (consistent
hashing: Karger et al., STOC 1997). Shares should follow the weights closely: the fullest server sets the size of all. A
ring of random points (ketama) leaves 12 to 17 % more than the mean on the fullest of ten, with 160 points each.

**Rendezvous.** Give every pair of slot and server a score that depends on nothing else, and the slot to the best
(Thaler & Ravishankar, IEEE/ACM Trans. Networking 6(1), 1998). A server that joins can only win slots, one that leaves
can only lose its own: movement is optimal, in any order of events. With arrival times distributed as Exp(weight) for
scores, the earliest wins, and P(win) = weight / sum of weights; a change of one weight moves slots only to or from that
server (Schindelhauer & Schomaker, SPAA 2005).

**Walks.** We draw the scores as Maglev does (Eisenbud et al., NSDI 2016, section 3.4): each server visits the slots in
an order of its own, a permutation, and a free slot falls to its first visitor. But Maglev lets a server that meets a
taken slot go on until it finds a free one. That balances perfectly, and moves more than need be. Here all walk by the
clock: the k-th visit of a server of weight w comes at time -ln(1 - (k + ½)/65536)/w, the (k + ½)/65536 quantile of
Exp(w), taken or not. So this is weighted rendezvous, only that each server's scores are an exact sample and not a
random one, which takes a third off the spread: the fullest of ten is 1.3 % over the mean, with random scores 2.0 %.

**Bounded loads.** A server takes no more than its fair share and 1.25 % (Mirrokni, Thorup & Zadimoghaddam, SODA 2018);
who visits a free slot with full hands walks on. Now the promise holds at every size of ring: at 1000 servers without
the bound, the fullest would be 29 % over. The price is that a few slots move without need when servers come and go,
since their owner was decided by somebody else's fullness. Measured: 0.02 % of the slots in a ring of ten, 0.15 % in one
of a hundred, 0.2 % in one of a thousand, hardly any in rings of up to five. The exact bound of a server is rounded by
its own hash, so that not all of them step down together when the mean passes a whole number.

**Speed.** Nobody needs many visits: about ln 65536 per slot in all, whatever the number of servers. And a walk is made
for all its steps at once in one Python integer of 32-bit lanes, where a product with a 16-bit number is one operation
at C speed. A ring of 10 is built in 25 ms and one of 1000 in 45 ms (docs/design/ring/ has the numbers, the dead ends
and the comparisons).

The owner of a slot depends only on the names, the weights' ratios and this file. **A change of any constant here moves
keys in every fleet that uses it**; tests/test_ring.py holds vectors.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, groupby
from typing import Final, TypeAlias
from zlib import crc32

from cachekit.errors import ConfigurationError
from cachekit.frozen import Frozen
from cachekit.servers import Server, unique_servers

SLOTS: Final = 1 << 16
SLACK: Final = 1 / 80
"""How much more than its fair share a server may own, as a fraction of that share."""
MAX_SERVERS: Final = SLOTS // 16
"""Beyond that, a server's share is so few slots that no fill can make them even."""

ring_hash = crc32
"""bytes -> 0 … 2**32 - 1. Of what was tried on families of real keys (sequential ids, dates, e-mail addresses, UUIDs,
words, digests) it spreads as evenly as BLAKE2b, in a quarter of the time. It is linear, so ``key`` and ``key + suffix``
fall into related slots; the owners of slots are not related, and that is what counts."""


class Ring:
    """A fixed set of servers, and for every key the one that holds it.

    ``servers``: in any order, a repeated one counts once. The attribute of that name holds them in the order of their
    names, and ``table[ring_hash(key) & mask]`` is an index into it. Raises ConfigurationError when there is no server,
    or one server with two weights.
    """

    __slots__ = ("mask", "servers", "table")

    servers: tuple[Server, ...]
    table: Sequence[int]
    mask: int

    def __init__(self, servers: Iterable[Server]) -> None:
        self.servers = unique_servers(servers)
        if not 1 <= len(self.servers) <= MAX_SERVERS:
            raise ConfigurationError(f"a ring has 1 to {MAX_SERVERS} servers, not {len(self.servers)}")
        owners = _fill(self.servers) if len(self.servers) > 1 else [0]
        # A small int read from bytes is never allocated, and 64 KiB stay in the processor's cache.
        self.table = bytes(owners) if len(self.servers) <= 256 else array("H", owners)
        self.mask = len(self.table) - 1

    def hash(self, key: bytes) -> int:
        """The hash that places ``key``: 0 … 2**32 - 1."""
        return ring_hash(key)

    def index(self, key: bytes) -> int:
        """The place in ``servers`` of the one that holds ``key``, a wire key."""
        return self.table[ring_hash(key) & self.mask]

    def shares(self) -> Mapping[str, float]:
        """Each server's name with the fraction of all keys that falls to it; the fractions add up to 1."""
        owned = Counter(self.table)
        return {server.name: owned[index] / len(self.table) for index, server in enumerate(self.servers)}

    def __repr__(self) -> str:
        return f"<Ring {', '.join(server.name for server in self.servers)}>"


class _Walker(Frozen):
    """A server on its walk: at each step it visits the slot ``_scatter(step) * stride + start``, modulo SLOTS."""

    index: int
    weight: float
    stride: int
    start: int
    room: int


def _walkers(servers: Sequence[Server]) -> list[_Walker]:
    """Light ones first: their order decides who comes first at the same time."""
    from hashlib import shake_128  # noqa: PLC0415 - loads OpenSSL's, 2 ms, which a ring of one can do without

    total = math.fsum(server.weight for server in servers)  # exact, so independent of the order
    walkers = []
    for index, server in enumerate(servers):
        stride, start, rounding = struct.unpack("<III", shake_128(server.name.encode()).digest(12))
        fair = SLOTS * (server.weight / total)
        # At least the fair share rounded up, so that all of them together have room for every slot.
        room = max(math.ceil(fair), math.floor(fair * (1 + SLACK) + rounding / 2**32))
        walkers.append(_Walker(index, server.weight, stride % SLOTS | 1, start % SLOTS, room))
    return sorted(walkers, key=lambda walker: walker.weight)


def _fill(servers: Sequence[Server]) -> list[int]:
    """The owner of every slot: its first visitor who had room."""
    walkers = _walkers(servers)
    room = [walker.room for walker in sorted(walkers, key=lambda walker: walker.index)]
    total_room, total_weight = sum(room), math.fsum(walker.weight for walker in walkers)
    owners: list[int | None] = [None] * SLOTS
    unowned, end = SLOTS, 0.0
    # In stretches of time, so that full servers drop out. Where they are cut changes no owner, only the work.
    while unowned * len(walkers) > _FEW:
        begin, end = end, end * 1.1 + 1.4 / total_weight
        _claim(_walk(walkers, begin, end), owners, room)
        unowned = SLOTS - total_room + sum(room)
        walkers = [walker for walker in walkers if room[walker.index]]
    _claim(_late(walkers, [slot for slot, owner in enumerate(owners) if owner is None]), owners, room)
    return owners  # type: ignore[return-value]  # no None is left


_FEW: Final = SLOTS // 4
"""So few pairs of a slot without owner and a server with room are settled by asking when they meet, not by walking on:
most of a walk would only meet taken slots."""

_Visits: TypeAlias = Iterable[tuple[int, int]]
"""Slot and visitor, in the order of time."""


def _claim(visits: _Visits, owners: list[int | None], room: list[int]) -> None:
    for slot, visitor in visits:
        if owners[slot] is None and room[visitor]:
            owners[slot] = visitor
            room[visitor] -= 1


def _walk(walkers: Sequence[_Walker], begin: float, end: float) -> _Visits:
    """All visits in a stretch of time. Servers of equal weight walk abreast, so only unequal ones need sorting."""
    rows: list[tuple[int, ...]] = []
    visitors: list[tuple[int, ...]] = []
    times: list[float] = []
    for weight, group in groupby(walkers, key=lambda walker: walker.weight):
        abreast = list(group)
        first, last = _steps_before(begin * weight), _steps_before(end * weight)
        if first < last:
            rows.extend(_rows(abreast, first, last))
            visitors.extend([tuple(walker.index for walker in abreast)] * (last - first))
            times.extend(_times(range(first, last), weight))
    if len({walker.weight for walker in walkers}) > 1:
        order = sorted(range(len(times)), key=times.__getitem__)
        rows, visitors = [rows[i] for i in order], [visitors[i] for i in order]
    return zip(chain.from_iterable(rows), chain.from_iterable(visitors), strict=True)


def _late(walkers: Sequence[_Walker], slots: Sequence[int]) -> _Visits:
    """When each of these servers visits each of these slots, in that order."""
    lanes = _Lanes(len(slots))
    packed = lanes.pack(slots)
    times: list[float] = []
    for walker in walkers:
        there = (packed + lanes.ones * (SLOTS - walker.start) & lanes.low) * pow(walker.stride, -1, SLOTS) & lanes.low
        times.extend(_times(lanes.unpack(_gather(there, lanes)), walker.weight))
    order = sorted(range(len(times)), key=times.__getitem__)
    return [(slots[i % len(slots)], walkers[i // len(slots)].index) for i in order]


def _steps_before(time: float) -> int:
    """How many steps a server of weight 1 has made by then."""
    return round(SLOTS * -math.expm1(-time))


def _times(steps: Iterable[int], weight: float) -> list[float]:
    """When a server of that weight makes each of these steps."""
    log1p = math.log1p
    return [log1p((step + 0.5) / -SLOTS) / -weight for step in steps]


class _Lanes:
    """So many 16-bit numbers side by side in one long integer, in lanes of 32 bits so that a product has room."""

    __slots__ = ("count", "low", "ones")

    def __init__(self, count: int) -> None:
        self.count = count
        self.ones = int.from_bytes(b"\1\0\0\0" * count, "little")
        self.low = self.ones * (SLOTS - 1)

    def pack(self, numbers: Iterable[int]) -> int:
        return int.from_bytes(struct.pack(f"<{self.count}I", *numbers), "little")

    def unpack(self, lanes: int) -> tuple[int, ...]:
        return struct.unpack(f"<{self.count}I", lanes.to_bytes(4 * self.count, "little"))


def _rows(walkers: Sequence[_Walker], first: int, last: int) -> Iterable[tuple[int, ...]]:
    """For each step from ``first`` to before ``last``, the slots that these servers visit in it."""
    lanes = _Lanes(last - first)
    order = _scatter(lanes.pack(range(first, last)), lanes)
    slots = (lanes.unpack(order * walker.stride + lanes.ones * walker.start & lanes.low) for walker in walkers)
    return zip(*slots, strict=True)


_MIXING: Final = ((8, 0x88B5), (7, 0xDB2D), (9, 0xA2C5), (8, 1))
"""Xor-shifts and odd factors, each a permutation of the 16-bit numbers."""


def _scatter(lanes_in: int, lanes: _Lanes) -> int:
    """A fixed permutation, the same for all servers.

    Without it, servers with strides in a simple ratio would follow each other: the worst of 250 fleets of ten had a
    server 7.2 % over the mean, with it 2.9 % (before the bound on loads).
    """
    x = lanes_in
    for shift, factor in _MIXING:
        x = (x ^ (x >> shift & lanes.low)) * factor & lanes.low
    return x


def _gather(lanes_in: int, lanes: _Lanes) -> int:
    """``_scatter`` undone."""
    x = lanes_in
    for shift, factor in reversed(_MIXING):
        y = x = x * pow(factor, -1, SLOTS) & lanes.low
        for _ in range(15 // shift):  # undoing a xor-shift brings back `shift` more right bits each time
            x = y ^ (x >> shift & lanes.low)
    return x
