"""Which hash places a key: candidates over families of keys as people make them, as Markdown.

Run from the root of the repository: ``python docs/design/ring/keyhashes.py`` (about a minute).

χ² compares the counts of 65 536 slots with a uniform spread: 1.00 is what random placement gives, far below is more
even, above is lumpier. The other figure is what matters: the fullest of ten servers over the mean, in cachekit's ring.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from timeit import timeit
from uuid import UUID
from zlib import adler32, crc32

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from cachekit.addresses import parse_target
from cachekit.ring import SLOTS, Ring

COUNT = 30_000 if "--quick" in sys.argv else 200_000


def digest(i: int, size: int) -> bytes:
    return blake2b(b"%d" % i, digest_size=size).digest()


FAMILIES: dict[str, Callable[[int], bytes]] = {
    "user:1 …": lambda i: b"user:%d" % i,
    "shop:item:00000001 …": lambda i: b"shop:item:%08d" % i,
    "page:12:34": lambda i: b"page:%d:%d" % divmod(i, 100),
    "user:1:profile": lambda i: b"user:%d:profile" % i,
    "every 16th id": lambda i: b"obj:%d" % (16 * i),
    "hexadecimal ids": lambda i: b"obj:%08x" % i,
    "dates": lambda i: b"report:%04d-%02d-%02d:%d" % (2000 + i % 25, i // 25 % 12 + 1, i // 300 % 28 + 1, i // 8400),
    "e-mail addresses": lambda i: b"mail:user%d@example.com" % i,
    "binary counter": lambda i: b"k" + i.to_bytes(4, "big"),
    "UUIDs": lambda i: str(UUID(bytes=digest(i, 16))).encode(),
    "cachekit's own": lambda i: b"shop:report:" + digest(i, 12).hex().encode(),
}
HASHES: dict[str, Callable[[bytes], int]] = {
    "crc32, low bits": lambda key: crc32(key) & 0xFFFF,
    "crc32, high bits": lambda key: crc32(key) >> 16,
    "crc32 × odd, high bits": lambda key: crc32(key) * 0x9E3779B1 >> 16 & 0xFFFF,
    "adler32": lambda key: adler32(key) & 0xFFFF,
    "BLAKE2b": lambda key: int.from_bytes(blake2b(key, digest_size=2).digest(), "little"),
}


def main() -> None:
    families = {name: [make(i) for i in range(COUNT)] for name, make in FAMILIES.items()}
    words = Path("/usr/share/dict/words")  # Debian's wamerican
    if words.exists():
        families["an English dictionary"] = words.read_bytes().split()
    rings = [Ring(parse_target([f"10.{fleet}.0.{i}" for i in range(1, 11)]).servers).table for fleet in range(5)]
    print(f"{COUNT} keys a family: fullest of ten servers over the mean (mean of five fleets) and χ² of the slots\n")
    print("| keys | " + " | ".join(HASHES) + " |\n|" + "---|" * (len(HASHES) + 1))
    for name, keys in families.items():
        cells = []
        for place in HASHES.values():
            slots = Counter(map(place, keys))
            mean = len(keys) / SLOTS
            chi2 = (sum((n - mean) ** 2 for n in slots.values()) + (SLOTS - len(slots)) * mean**2) / mean / SLOTS
            fullest = []
            for table in rings:
                loads = Counter[int]()
                for slot, n in slots.items():
                    loads[table[slot]] += n
                fullest.append(max(loads.values()) * 10 / len(keys))
            cells.append(f"{sum(fullest) / len(fullest):.3f}, {chi2:.2f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    key = b"shop:report:q3V0aG9yaXR5LXRlc3Qhabcd"
    costs = [min(timeit(lambda f=f: f(key), number=100_000) for _ in range(3)) * 10 for f in HASHES.values()]  # type: ignore[misc]
    print("| µs a key | " + " | ".join(f"{cost:.2f}" for cost in costs) + " |")


if __name__ == "__main__":
    main()
