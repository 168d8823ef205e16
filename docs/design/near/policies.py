"""Eviction policies for the experiment, each as plain as its paper, over entries of one size.

``access(key)`` says whether it was a hit, and takes the key in where it was not.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Protocol


class Policy(Protocol):
    def access(self, key: Hashable) -> bool: ...


class Lru:
    """The least recently used goes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.kept: OrderedDict[Hashable, None] = OrderedDict()

    def access(self, key: Hashable) -> bool:
        if key in self.kept:
            self.kept.move_to_end(key)
            return True
        if len(self.kept) >= self.size:
            self.kept.popitem(last=False)
        self.kept[key] = None
        return False


class Arc:
    """ "ARC: A Self-Tuning, Low Overhead Replacement Cache", FAST 2003, figure 4."""

    def __init__(self, size: int) -> None:
        self.size, self.target = size, 0.0
        self.recent: OrderedDict[Hashable, None] = OrderedDict()
        self.often: OrderedDict[Hashable, None] = OrderedDict()
        self.recent_ghosts: OrderedDict[Hashable, None] = OrderedDict()
        self.often_ghosts: OrderedDict[Hashable, None] = OrderedDict()

    def access(self, key: Hashable) -> bool:
        recent, often, recent_ghosts, often_ghosts = self.recent, self.often, self.recent_ghosts, self.often_ghosts
        if key in recent:
            del recent[key]
            often[key] = None
            return True
        if key in often:
            often.move_to_end(key)
            return True
        if key in recent_ghosts:
            self.target = min(self.size, self.target + max(1.0, len(often_ghosts) / len(recent_ghosts)))
            self._replace(in_often=False)
            del recent_ghosts[key]
            often[key] = None
            return False
        if key in often_ghosts:
            self.target = max(0.0, self.target - max(1.0, len(recent_ghosts) / len(often_ghosts)))
            self._replace(in_often=True)
            del often_ghosts[key]
            often[key] = None
            return False
        if len(recent) + len(recent_ghosts) == self.size:
            if len(recent) < self.size:
                recent_ghosts.popitem(last=False)
                self._replace(in_often=False)
            else:
                recent.popitem(last=False)
        elif len(recent) + len(often) + len(recent_ghosts) + len(often_ghosts) >= self.size:
            if len(recent) + len(often) + len(recent_ghosts) + len(often_ghosts) == 2 * self.size:
                often_ghosts.popitem(last=False)
            self._replace(in_often=False)
        recent[key] = None
        return False

    def _replace(self, *, in_often: bool) -> None:
        if len(self.recent) + len(self.often) < self.size:
            return
        if self.recent and (len(self.recent) > self.target or (in_often and len(self.recent) == self.target)):
            self.recent_ghosts[self.recent.popitem(last=False)[0]] = None
        else:
            self.often_ghosts[self.often.popitem(last=False)[0]] = None


class S3Fifo:
    """ "FIFO queues are all you need for cache eviction", SOSP 2023, algorithm 1."""

    def __init__(self, size: int, small: float = 0.1, ghosts: float = 0.9, promote: int = 2) -> None:
        self.size, self.small_size = size, max(1, int(size * small))
        self.ghost_size, self.promote = max(1, int(size * ghosts)), promote
        self.small: deque[Hashable] = deque()
        self.main: deque[Hashable] = deque()
        self.uses: dict[Hashable, int] = {}
        self.ghosts: OrderedDict[Hashable, None] = OrderedDict()

    def access(self, key: Hashable) -> bool:
        uses = self.uses.get(key)
        if uses is not None:
            if uses < 3:
                self.uses[key] = uses + 1
            return True
        if len(self.uses) >= self.size:
            self._evict()
        if key in self.ghosts:
            del self.ghosts[key]
            self.main.append(key)
        else:
            self.small.append(key)
        self.uses[key] = 0
        return False

    def _evict(self) -> None:
        while len(self.small) >= self.small_size or not self.main:
            key = self.small.popleft()
            if self.uses[key] >= self.promote:
                self.main.append(key)
                self.uses[key] = 0
                if not self.small:
                    break
                continue
            del self.uses[key]
            self.ghosts[key] = None
            if len(self.ghosts) > self.ghost_size:
                self.ghosts.popitem(last=False)
            return
        while True:
            key = self.main.popleft()
            if not self.uses[key]:
                del self.uses[key]
                return
            self.uses[key] -= 1
            self.main.append(key)


class Sieve:
    """ "SIEVE is Simpler than LRU", NSDI 2024, algorithm 1; the queue is a ring of slots that the hand walks."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.newer: dict[Hashable, Hashable | None] = {}
        self.older: dict[Hashable, Hashable | None] = {}
        self.visited: dict[Hashable, bool] = {}
        self.head: Hashable | None = None
        self.tail: Hashable | None = None
        self.hand: Hashable | None = None

    def access(self, key: Hashable) -> bool:
        if key in self.visited:
            self.visited[key] = True
            return True
        if len(self.visited) >= self.size:
            self._evict()
        self.visited[key] = False
        self.older[key], self.newer[key] = self.head, None
        if self.head is not None:
            self.newer[self.head] = key
        self.head = key
        if self.tail is None:
            self.tail = key
        return False

    def _evict(self) -> None:
        at = self.hand if self.hand is not None else self.tail
        while self.visited[at]:
            self.visited[at] = False
            at = self.newer[at]
            if at is None:
                at = self.tail
        del self.visited[at]
        older, newer = self.older.pop(at), self.newer.pop(at)
        self.hand = newer
        if older is not None:
            self.newer[older] = newer
        else:
            self.tail = newer
        if newer is not None:
            self.older[newer] = older
        else:
            self.head = older


POLICIES: dict[str, Callable[[int], Policy]] = {"LRU": Lru, "ARC": Arc, "S3-FIFO": S3Fifo, "SIEVE": Sieve}
