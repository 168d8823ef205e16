"""Fill a near tier in a process of its own, and print how much memory that took: ``python near_memory.py kind MiB``.

Prints four numbers: the bound, what is counted, and the growth of the process in bytes when the tier was just full and
after twice as many entries had passed through it.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
import time
from typing import Any

from cachekit.near.hub import Fresh, Hub
from cachekit.near.option import Near
from cachekit.near.tier import PACKED

GROUPS = (b"shop:app.reports.report:gen=abcdefghijklmnopqrstuvwx",)
SIZES = (20, 100, 700, 3_000, 20_000)


def entry(kind: str, number: int) -> tuple[Any, tuple[int, bytes]]:
    """A value as it is shared, and as it is on the wire."""
    if kind == "int":
        return 10**6 + number, (2, b"%d" % number)
    if kind == "str":
        return f"value {number}", (1, b"value %d" % number)
    if kind == "kilobyte":
        text = chr(97 + number % 26) * 1024
        return text, (1, text.encode())
    size = 320 if kind == "dict" else SIZES[hash((number, kind)) % len(SIZES)]
    return PACKED, (4, os.urandom(size))


def resident() -> int:
    """Bytes of memory that this process has."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(kind: str, bound: int) -> None:
    """Fill it, have more pass through it, and tell."""
    hub = Hub(itertools.count(1), time.monotonic)
    tier = hub.tier(Near(ttl=3600, entries=1 << 30, bytes=bound))
    table = hub.table(tier)
    numbers = itertools.count()

    def put() -> None:
        number = next(numbers)
        key = b"shop:app.reports.report:%024d" % number
        value, packed = entry(kind, number)
        fresh = Fresh(value, packed, 300.0, 0, 0, GROUPS, (), 123_456, time.time(), None)
        if hub.put(tier, key, hub.ticket(), fresh):
            hub.alias(tier, tier.nodes[key], table, (10**6 + number, f"2026-{number}"))

    gc.collect()
    before = resident()
    while not tier.evicted:
        put()
    gc.collect()
    full, passed = resident() - before, 2 * len(tier.nodes)
    for _ in range(passed):
        put()
    gc.collect()
    sys.stdout.write(f"{bound} {tier.used_bytes()} {full} {resident() - before}\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) << 20)
