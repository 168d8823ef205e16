"""Who owns a slot: the fills that were tried, with their spread, movement and building time, as Markdown.

Run from the root of the repository: ``python docs/design/ring/fills.py`` (two minutes; ``--quick``: fifteen seconds).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from hashlib import shake_128
from math import log
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from cachekit import ring
from cachekit.addresses import parse_target
from cachekit.servers import Server

QUICK = "--quick" in sys.argv
Fill = Callable[[Sequence[Server]], Sequence[int]]


def fleet(number: int, size: int) -> tuple[Server, ...]:
    spellings: tuple[Callable[[int], str], ...] = (
        lambda i: f"10.{number}.{i // 250}.{i % 250 + 1}",
        lambda i: f"cache{i + 1:03}.fleet{number}.example.com",
        lambda i: f"127.0.0.{number}:{11211 + i}",
    )
    return parse_target([spellings[number % 3](i) for i in range(size)]).servers


def rendezvous_naive(slots: int) -> Fill:
    """The design's starting point: for each slot, the server with the earliest Exp(weight) out of a hash."""

    def fill(servers: Sequence[Server]) -> Sequence[int]:
        digests = [memoryview(shake_128(s.name.encode()).digest(4 * slots)).cast("I") for s in servers]
        scores = [[-log((x + 0.5) / 2**32) / s.weight for x in d] for d, s in zip(digests, servers, strict=True)]
        return [min(range(len(servers)), key=lambda i: scores[i][slot]) for slot in range(slots)]

    return fill


def rendezvous_in_c(slots: int) -> Fill:
    """The same with equal weights only: 24 random bits and the server's number in one word, then map(min, …)."""

    def fill(servers: Sequence[Server]) -> Sequence[int]:
        columns = []
        for index, server in enumerate(servers):
            digest = shake_128(server.name.encode()).digest(3 * slots)
            words = bytearray(bytes([index, 0, 0, 0]) * slots)
            for byte in range(3):
                words[byte + 1 :: 4] = digest[byte * slots : (byte + 1) * slots]
            columns.append(memoryview(words).cast("I"))
        return [word & 255 for word in map(min, *columns)]

    return fill


def maglev(servers: Sequence[Server]) -> Sequence[int]:
    """Maglev's own fill (NSDI 2016, section 3.4): by turns, each server takes the next free slot of its permutation."""
    slots = 65537
    walks = []
    for server in servers:
        digest = shake_128(server.name.encode()).digest(16)
        walks.append(
            (int.from_bytes(digest[:8], "little") % slots, int.from_bytes(digest[8:], "little") % (slots - 1) + 1)
        )
    owners = [-1] * slots
    at = [start for start, _ in walks]
    taken = 0
    while True:
        for index, (_, skip) in enumerate(walks):
            slot = at[index]
            while owners[slot] >= 0:
                slot = (slot + skip) % slots
            owners[slot] = index
            at[index] = slot
            taken += 1
            if taken == slots:
                return owners


def walks(slack: float, *, scattered: bool = True) -> Fill:
    """cachekit's ring with another slack, or without the permutation that hides the strides."""

    def fill(servers: Sequence[Server]) -> Sequence[int]:
        kept = ring.SLACK, ring._MIXING
        ring.SLACK, ring._MIXING = slack, kept[1] if scattered else ()  # type: ignore[misc, assignment]
        try:
            return ring.Ring(servers).table
        finally:
            ring.SLACK, ring._MIXING = kept  # type: ignore[misc]

    return fill


def measure(label: str, fill: Fill, size: int, fleets: int) -> None:
    spreads, moves, needless, times = [], [], [], []
    for number in range(fleets):
        servers = fleet(number, size + 1)
        joined = size * 7 // 11
        fewer = [server for index, server in enumerate(servers) if index != joined]
        begin = time.process_time()
        before = fill(fewer)
        times.append(1000 * (time.process_time() - begin))
        after = fill(servers)
        counts = [0] * size
        for index in before:
            counts[index] += 1
        changes = [new for old, new in zip(before, after, strict=True) if new != old + (old >= joined)]
        spreads.append(max(counts) * size / len(before))
        moves.append(100 * len(changes) / len(before))
        needless.append(100 * sum(new != joined for new in changes) / len(before))
    print(
        f"| {label} | {fmean(spreads):.3f} | {max(spreads):.3f} | {fmean(moves):.2f} | {max(moves):.2f} "
        f"| {fmean(needless):.3f} | {max(needless):.3f} | {min(times):.0f} |",
        flush=True,
    )


def head(size: int, fleets: int) -> None:
    print(f"\n### {size} servers and one more (ideal: {100 / (size + 1):.2f} %), {fleets} fleets\n")
    print("| fill | fullest/mean | worst | moved % | worst | needless % | worst | build ms, least |")
    print("|---|---|---|---|---|---|---|---|")


def main() -> None:
    fleets = 4 if QUICK else 30
    head(10, fleets)
    if not QUICK:
        measure("rendezvous, 65 536 random scores, plain Python", rendezvous_naive(65536), 10, 3)
    for slots in (4096, 16384, 65536):
        measure(f"rendezvous, {slots} random scores, map(min)", rendezvous_in_c(slots), 10, fleets)
    measure("Maglev, 65 537 slots", maglev, 10, fleets)
    measure("walks by the clock, strides alone, no bound", walks(1e9, scattered=False), 10, fleets)
    measure("walks by the clock, scattered, no bound", walks(1e9), 10, fleets)
    for slack in (0.03, 0.02, 1 / 80, 0.01, 0.005, 0.0):
        measure(f"… with loads bounded at {100 * slack:.2f} % over fair", walks(slack), 10, fleets)
    tail = 20 if QUICK else 250
    head(10, tail)
    measure("walks, strides alone, no bound", walks(1e9, scattered=False), 10, tail)
    measure("walks, scattered, no bound", walks(1e9), 10, tail)
    measure("walks, scattered, bound 1.25 %", walks(1 / 80), 10, tail)
    for size, count in ((3, 4 if QUICK else 30), (100, 2 if QUICK else 9), (1000, 1 if QUICK else 4)):
        head(size, count)
        measure("Maglev, 65 537 slots", maglev, size, count)
        for label, slack in (("no bound", 1e9), ("bound 5 %", 0.05), ("bound 2 %", 0.02), ("bound 1.25 %", 1 / 80)):
            measure(f"walks, {label}", walks(slack), size, count)


if __name__ == "__main__":
    main()
