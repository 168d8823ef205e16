"""Items of the embedded server: a dict in order of use, with expiry, CAS numbers and a byte budget.

Not thread-safe: ``EmbeddedServer`` holds its lock round every call.

**Time.** ``now`` and ``Item.expires_at`` are seconds since the epoch. Expired items are dropped when somebody asks for
them, and by a bounded sweep: every store looks at a few keys of a round over all of them, so that an expired item is
gone after at most as many stores as there are items, and the cost of a store stays constant.

**Memory.** An item counts with what Memcached counts for it (``Item.bytes``: key, value and 59 bytes, 63 with client
flags), so a budget of 64 MiB holds about what ``memcached -m 64`` holds. When it is full the least recently used items
go.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from math import ceil, inf
from typing import Final

# protocol.txt, *Expiration times*: larger numbers are Unix times.
MAX_RELATIVE_S: Final = 60 * 60 * 24 * 30

# What 1.6.18 adds to key and value: the item's header (48), the key's final NUL, "\r\n" behind the value, the CAS
# number; and 4 for client flags other than 0.
_OVERHEAD_BYTES: Final = 48 + 1 + 2 + 8
_FLAGS_BYTES: Final = 4

_SWEPT_PER_STORE: Final = 4

_PLAIN_COUNTS: Final = (
    "get_hits",
    "get_misses",
    "delete_hits",
    "delete_misses",
    "incr_hits",
    "incr_misses",
    "decr_hits",
    "decr_misses",
    "touch_hits",
    "touch_misses",
    "store_too_large",
    "evictions",
    "reclaimed",
)


class Item:
    """One stored value and what the protocol tells about it."""

    __slots__ = (
        "accessed_at",
        "binary_key",
        "bytes",
        "cas",
        "claimed",
        "client_flags",
        "expires_at",
        "fetched",
        "stale",
        "value",
    )

    def __init__(self, value: bytes, client_flags: int, expires_at: float) -> None:
        self.value = value
        self.client_flags = client_flags
        self.expires_at = expires_at  # inf = never
        self.cas = 0
        self.bytes = 0
        self.accessed_at = 0.0
        self.stale = False  # X: marked by md I
        self.claimed = False  # Z: somebody has been given the W
        self.fetched = False
        self.binary_key = False  # stored under b: the key is echoed in base64

    def ttl(self, now: float) -> int:
        """Whole seconds left, rounded up; -1 = never expires. An expiry just set to the past wraps, as in 1.6.18."""
        return -1 if self.expires_at == inf else ceil(self.expires_at - now) % 2**32


def item_bytes(key: bytes, value_bytes: int, client_flags: int) -> int:
    """What Memcached 1.6.18 counts for an item."""
    return _OVERHEAD_BYTES + len(key) + value_bytes + (_FLAGS_BYTES if client_flags else 0)


class Store:
    """The items, the counters that ``stats`` tells, and the rules of time and memory."""

    def __init__(self, memory_bytes: int, max_item_bytes: int, started_at: float) -> None:
        self.items: OrderedDict[bytes, Item] = OrderedDict()
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.memory_bytes = memory_bytes
        self.max_item_bytes = max_item_bytes
        # 1.6.18 keeps time from two seconds before its start, so that nothing valid is older than second 1.
        self.started_at = started_at - 2
        self.bytes = 0
        self._last_cas = 0
        self._flush_at = inf
        self._round: Iterator[bytes] = iter(())

    # -- time

    def expires_at(self, exptime: int, now: float) -> float:
        """When it ends (protocol.txt, *Expiration times*): 0 never, negative at once, over 30 days a date."""
        if exptime == 0:
            return inf
        if exptime < 0:
            return self.started_at + 1
        if exptime > MAX_RELATIVE_S:
            return max(float(exptime), self.started_at + 1)
        return now + exptime

    def flush(self, now: float, delay_s: int) -> None:
        """Drop everything, now or when the clock reaches ``now + delay_s``; ``delay_s`` may be a Unix time."""
        if delay_s > 0:
            self._flush_at = self.expires_at(delay_s, now)
            self.tick(now)
            return
        self._flush_at = inf
        self._last_cas += 1
        self.clear()

    def clear(self) -> None:
        """Forget every item, but not the CAS counter: an old CAS number must never fit a new item."""
        self.items.clear()
        self.bytes = 0
        self._round = iter(())

    def tick(self, now: float) -> None:
        """Carry out a delayed flush that is due."""
        if now >= self._flush_at:
            self._flush_at = inf
            self.clear()

    # -- items

    def find(self, key: bytes, now: float) -> Item | None:
        """The live item under the key, untouched; an expired one is dropped."""
        item = self.items.get(key)
        if item is not None and item.expires_at <= now:
            self.drop(key)
            return None
        return item

    def bump(self, key: bytes, item: Item, now: float) -> None:
        """The item was fetched: it is the most recently used."""
        self.items.move_to_end(key)
        item.fetched = True
        item.accessed_at = now

    def fits(self, key: bytes, value_bytes: int, client_flags: int) -> bool:
        """Whether an item of that size may be stored."""
        return item_bytes(key, value_bytes, client_flags) <= min(self.max_item_bytes, self.memory_bytes)

    def put(self, key: bytes, item: Item, now: float) -> Item:
        """Store an item that fits, under a new CAS number, in place of any other; the least recently used make room."""
        if key in self.items:
            self.drop(key)
        item.bytes = item_bytes(key, len(item.value), item.client_flags)
        item.cas = self.next_cas()
        item.accessed_at = now
        self.items[key] = item
        self.bytes += item.bytes
        self.counts["total_items"] += 1
        self._sweep(now)
        while self.bytes > self.memory_bytes:
            self._evict(now)
        return item

    def drop(self, key: bytes) -> None:
        self.bytes -= self.items.pop(key).bytes

    def stats(self, now: float) -> dict[str, int]:
        """The counters, by the names of Memcached's ``stats`` (protocol.txt, *General-purpose statistics*)."""
        counts = self.counts
        return {
            "uptime": int(now - self.started_at - 2),
            "curr_items": len(self.items),
            "total_items": counts["total_items"],
            "bytes": self.bytes,
            "limit_maxbytes": self.memory_bytes,
            "cmd_get": counts["get_hits"] + counts["get_misses"],
            "cmd_set": counts["cmd_set"],
            "cmd_flush": counts["cmd_flush"],
            "cmd_touch": counts["touch_hits"] + counts["touch_misses"],
            "cmd_meta": counts["cmd_meta"],
            **{name: counts[name] for name in _PLAIN_COUNTS},
        }

    def next_cas(self) -> int:
        self._last_cas += 1
        return self._last_cas

    def _evict(self, now: float) -> None:
        key, item = next(iter(self.items.items()))
        if item.expires_at > now:
            self.counts["evictions"] += 1
        self.drop(key)

    def _sweep(self, now: float) -> None:
        for _ in range(_SWEPT_PER_STORE):
            key = next(self._round, None)
            if key is None:
                self._round = iter(list(self.items))
                return
            item = self.items.get(key)
            if item is not None and item.expires_at <= now:
                self.drop(key)
                self.counts["reclaimed"] += 1
