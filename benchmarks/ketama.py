"""ketama with 160 points per server, as libmemcached's ``ketama_weighted`` (pylibmc, PHP): P12 is held against it."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from hashlib import md5

from cachekit.servers import Server

POINTS_PER_SERVER = 160
POINTS_PER_DIGEST = 4


def float32(number: float) -> float:
    """The nearest single-precision number: libmemcached counts points with it, and one point less moves keys."""
    rounded: float = struct.unpack("<f", struct.pack("<f", number))[0]
    return rounded


def digests_of(weight: float, total: float, servers: int) -> int:
    """How many MD5 digests of four points a server contributes."""
    share = float32(float32(weight) / float32(total))
    quarter = float32(float32(share * POINTS_PER_SERVER) / POINTS_PER_DIGEST)
    return int(float32(float32(quarter * float32(servers)) + float32(1e-10)))


class Ketama:
    """``index(key)`` is the place in ``servers`` of the first point at or after the key's hash, wrapping round."""

    __slots__ = ("owners", "points", "servers")

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = tuple(servers)
        total = sum(server.weight for server in servers)
        ring: list[tuple[int, int]] = []
        for index, server in enumerate(servers):
            name = server.name.removesuffix(":11211")  # libmemcached leaves the default port out
            for part in range(digests_of(server.weight, total, len(servers))):
                digest = md5(f"{name}-{part}".encode(), usedforsecurity=False).digest()
                ring += [(point, index) for point in struct.unpack("<4I", digest)]
        ring.sort()
        self.points = [point for point, _ in ring]
        self.owners = [index for _, index in ring]

    def index(self, key: bytes) -> int:
        hashed = int.from_bytes(md5(key, usedforsecurity=False).digest()[:4], "little")
        place = bisect_left(self.points, hashed)
        return self.owners[place if place < len(self.owners) else 0]
