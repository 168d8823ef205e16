"""P12: how evenly a ring of ten spreads keys, how many an eleventh server moves, how fast it looks up and is built.

``python -m benchmarks.ring_quality`` prints the tables alone; it needs no server, only pymemcache as a peer.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from statistics import fmean, median
from typing import Protocol

from pymemcache.client.murmur3 import murmur3_32

from benchmarks.ketama import Ketama
from benchmarks.report import Section
from cachekit.addresses import parse_target
from cachekit.ring import Ring, ring_hash
from cachekit.servers import Server

FIGURES = ("P12",)
SERVERS = 10
Lookup = Callable[[bytes], int]


class Placement(Protocol):
    def index(self, key: bytes) -> int: ...


class Rendezvous:
    """pymemcache's HashClient: the server with the highest murmur3 of its name and the key."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.nodes = [(f"{server.host}:{server.port}", index) for index, server in enumerate(servers)]

    def index(self, key: bytes) -> int:
        text = key.decode()
        return max((murmur3_32(f"{name}-{text}"), name, index) for name, index in self.nodes)[2]


@dataclass(frozen=True, slots=True)
class Contestant:
    name: str
    make: Callable[[Sequence[Server]], Placement]
    share: int = 1  # the slow one looks up so many times fewer keys, and places 10 000


CONTESTANTS = (
    Contestant("cachekit", Ring),
    Contestant("ketama-160", Ketama),
    Contestant("pymemcache (murmur3 rendezvous)", Rendezvous, share=100),
)


def fleets(count: int) -> list[tuple[Server, ...]]:
    """Rings of eleven under the names that people use: addresses, ports, names."""
    spellings: tuple[Callable[[int, int], str], ...] = (
        lambda fleet, i: f"10.{fleet}.0.{i + 1}",
        lambda fleet, i: f"cache{i + 1:02}.fleet{fleet}.example.com",
        lambda fleet, i: f"127.0.0.1:{11211 + 100 * fleet + i}",
    )
    return [
        parse_target([spellings[fleet % 3](fleet, i) for i in range(SERVERS + 1)]).servers for fleet in range(count)
    ]


def real_keys(count: int) -> list[bytes]:
    """A third each: sequential ids, page numbers, and digests as the decorator makes them."""
    families: tuple[Callable[[int], bytes], ...] = (
        lambda i: b"user:%d" % i,
        lambda i: b"shop:page:%d:%d" % divmod(i, 100),
        lambda i: b"shop:report:" + blake2b(b"%d" % i, digest_size=12).hexdigest().encode(),
    )
    return [families[i % 3](i) for i in range(count)]


def spread_and_movement(contestant: Contestant, fleet: Sequence[Server], keys: Sequence[bytes]) -> tuple[float, float]:
    """Fullest server over the mean in a ring of ten, and the percentage of keys that an eleventh moves."""
    joined = fleet[(len(fleet) * 7) // 11]  # any of them; its place in the order must not matter
    ten = [server for server in fleet if server is not joined]
    before, after = contestant.make(ten), contestant.make(fleet)
    counts: Counter[int] = Counter()
    moved = 0
    for key in keys:
        index = before.index(key)
        counts[index] += 1
        moved += ten[index] is not fleet[after.index(key)]
    return max(counts.values()) / len(keys) * SERVERS, 100 * moved / len(keys)


def ordered(fleet: Sequence[Server]) -> tuple[Server, ...]:
    return tuple(sorted(fleet, key=lambda server: server.name))


def quality(quick: bool) -> Section:
    count, lists = (50_000, 3) if quick else (1_000_000, 6)
    keys = real_keys(count)
    rows = []
    for contestant in CONTESTANTS:
        sample = keys[:: 1 if contestant.share == 1 else len(keys) // 10_000]
        chosen = fleets(lists if contestant.share == 1 else 1)
        results = [spread_and_movement(contestant, ordered(fleet), sample) for fleet in chosen]
        spreads, moves = [r[0] for r in results], [r[1] for r in results]
        rows.append(
            (
                contestant.name,
                f"{fmean(spreads):.3f}",
                f"{max(spreads):.3f}",
                f"{fmean(moves):.2f} %",
                f"{max(moves):.2f} %",
                f"{len(sample):,} keys × {len(chosen)}".replace(",", " "),
            )
        )
    columns = ("contestant", "fullest / mean", "worst fleet", "moved by an 11th", "worst fleet", "sample × fleets")
    note = "A sample has noise of its own: random placement of 1 000 000, 50 000, 10 000 keys gives 1.005, 1.02, 1.05."
    return Section(
        "P12", "spread and movement, ten servers", columns, tuple(rows), "≤ 1.03; ≤ 9.3 % (ideal 9.09 %)", (note,)
    )


def lookups(quick: bool) -> Section:
    """Interleaved rounds, the median of each round's ratio to ketama."""
    fleet = fleets(1)[0][:SERVERS]
    keys = real_keys(20_000)
    ring = Ring(fleet)
    table, mask = ring.table, ring.mask
    tried: list[tuple[str, Lookup, int]] = [(c.name, c.make(fleet).index, c.share) for c in CONTESTANTS]
    tried.insert(1, ("cachekit, as inlined on the hit path", lambda key: table[ring_hash(key) & mask], 1))
    costs: dict[str, list[float]] = {name: [] for name, _, _ in tried}
    for _ in range(5 if quick else 15):
        for name, lookup, share in tried:
            sample = keys[::share]
            begin = time.perf_counter()
            for key in sample:
                lookup(key)
            costs[name].append((time.perf_counter() - begin) / len(sample))
    rows = []
    for name, _, _ in tried:
        pairs = zip(costs["ketama-160"], costs[name], strict=True)
        speed = median(base / cost for base, cost in pairs)
        times = f"{speed:.2f}×" if speed >= 0.1 else f"1/{1 / speed:.0f}×"
        rows.append((name, times, f"{1e6 * median(costs[name]):.2f}"))
    return Section("P12", "look-ups, ten servers", ("contestant", "over ketama-160", "µs here"), tuple(rows), "≥ 3×")


def builds(quick: bool) -> Section:
    rows = []
    sizes: list[tuple[str, list[str]]] = [
        (f"{n} servers", [f"10.0.{i // 250}.{i % 250}" for i in range(n)]) for n in (3, 10, 100, 1000)
    ]
    sizes.append(("10 servers, weights 1 and 2", [f"10.0.0.{i}:11211:{i % 2 + 1}" for i in range(10)]))
    sizes.append(("10 servers, ten different weights", [f"10.0.0.{i}:11211:{i + 1}" for i in range(10)]))
    for label, addresses in sizes:
        servers = parse_target(addresses).servers
        row = [label]
        for make in (Ring, Ketama):
            times = []
            for _ in range(3 if quick else 9):
                begin = time.process_time()
                make(servers)
                times.append(1000 * (time.process_time() - begin))
            row += [f"{median(times):.1f}"]
        total = sum(server.weight for server in servers)
        shares = Ring(servers).shares()
        fullest = max(shares[server.name] * total / server.weight for server in servers)
        rows.append((*row, f"{fullest:.3f}"))
    columns = ("ring", "cachekit, CPU ms", "ketama-160, CPU ms", "cachekit: fullest / fair share of the slots")
    return Section("P12", "building the table", columns, tuple(rows), "≤ 50 ms for 10 servers")


def sections(quick: bool) -> Iterator[Section]:
    yield quality(quick)
    yield lookups(quick)
    yield builds(quick)


if __name__ == "__main__":
    for section in sections("--quick" in sys.argv):
        print(section.markdown())
