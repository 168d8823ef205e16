"""``Watch``, one cache's ear at its servers, and the followers of this process: at most one per server."""

# Annotations are not postponed here: a NamedTuple would compile each of them as text (docs/design/imports.md).

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cachekit.near.hub import Hub
from cachekit.roster import Roster
from cachekit.servers import Server, Tls
from cachekit.watch.follower import BEAT_S, BEATS_A_SECOND, Follower


class Watch:
    """Has ``touched`` and ``gap`` called with what is heard of changes on ``servers``. Thread-safe.

    Args:
        servers: in the order of their indexes.
        touched: called with each key that anybody has stored or deleted, this process included.
        gap: called with the index of a server where changes may have been missed.
        prefix: what the keys of interest begin with.
        deadline_s: seconds that connecting may take.

    Both are called in a thread of ours, and must not block. Nothing is watched before ``ensure``.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        touched: Callable[[bytes], object],
        gap: Callable[[int], object],
        *,
        prefix: bytes = b"",
        deadline_s: float = 0.25,
    ) -> None:
        self.servers = tuple(servers)
        self.touched = touched
        self.gap = gap
        self.prefix = prefix
        self.deadline_s = deadline_s
        self.joined = False
        _watches.add(self)

    def ensure(self) -> None:
        """Have all servers watched, unless they are: also in a forked child, where the parent's threads are not."""
        if self.joined:
            return
        with _lock:
            if self.joined:
                return
            self.joined = True
            for index in range(len(self.servers)):
                self.joined &= _join(self, index)
        for index in range(len(self.servers)):
            self.gap(index)  # of changes before this nobody has told

    def is_watching(self, index: int) -> bool:
        """Whether changes on that server are heard of now."""
        house = _houses.get(_place(self.servers[index]))
        return self.joined and house is not None and house.follower.open

    def close(self) -> None:
        """Listen no more; threads that nobody needs end soon. Idempotent; ``ensure`` begins again."""
        with _lock:
            self.joined = False
            for server in self.servers:
                house = _houses.get(_place(server))
                if house is not None:
                    house.leave(self)


def watch_for(hub: Hub, roster: Roster, prefix: bytes) -> Watch | None:
    """What ``hub`` hears of changes by, on the servers of ``roster``; None where nobody else can change anything."""
    if roster.embedded is not None:
        return None
    head = prefix + b":" if prefix else b""
    return Watch(roster.servers, hub.touch, hub.touch_server, prefix=head, deadline_s=roster.deadline_s)


class _Ear(NamedTuple):
    """A cache's ``Watch``, for as long as somebody has it, and what it calls this server."""

    watch: weakref.ref[Watch]
    number: int


class _House:
    """Those who listen to one server: its follower's audience."""

    def __init__(self, server: Server, deadline_s: float) -> None:
        self.place = _place(server)
        self.ears: tuple[_Ear, ...] = ()
        self.follower = Follower(server, self, deadline_s)

    def touched(self, keys: list[bytes]) -> bool:
        forgotten = False
        for ear in self.ears:
            watch = ear.watch()
            if watch is None:
                forgotten = True
                continue
            prefix, touched = watch.prefix, watch.touched
            for key in keys:
                if key.startswith(prefix):
                    touched(key)
        if forgotten:
            with _lock:
                self.leave(None)
        return bool(self.ears)

    def missed(self) -> None:
        for ear in self.ears:
            watch = ear.watch()
            if watch is not None:
                watch.gap(ear.number)

    def prefixes(self) -> tuple[bytes, ...]:
        return tuple({watch.prefix for ear in self.ears if (watch := ear.watch()) is not None})

    def beat_s(self) -> float:
        return max(BEAT_S, len(_houses) / BEATS_A_SECOND)

    def leave(self, watch: Watch | None) -> None:
        """That watch listens no more, nor do those that are forgotten. Under the lock."""
        self.ears = tuple(ear for ear in self.ears if ear.watch() not in (watch, None))
        if not self.ears and _houses.get(self.place) is self:
            del _houses[self.place]
            _ending[self.place] = self.follower
            self.follower.end()


_Place = tuple[str, Tls | None]


def _place(server: Server) -> _Place:
    """Two caches with this in common share a stream."""
    return server.name, server.tls


def _join(watch: Watch, index: int) -> bool:
    """Have ``watch`` told of a server's changes; False when no thread can be had. Under the lock."""
    server = watch.servers[index]
    place = _place(server)
    house = _houses.get(place) or _House(server, watch.deadline_s)
    if all(ear.watch() is not watch for ear in house.ears):
        house.ears += (_Ear(weakref.ref(watch), index),)
    if place not in _houses:
        if not house.follower.start(after=_ending.pop(place, None)):
            return False
        _houses[place] = house
    return True


_lock = threading.RLock()
_houses: dict[_Place, _House] = {}
_ending: dict[_Place, Follower] = {}
_watches: weakref.WeakSet[Watch] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    for house in list(_houses.values()):
        house.follower.end()


def _after_fork() -> None:
    """This is a child process: it has none of the threads, and begins its own when its caches need them."""
    global _lock  # noqa: PLW0603 - a thread that exists no more may hold the old one
    _lock = threading.RLock()
    for follower in [*(house.follower for house in _houses.values()), *_ending.values()]:
        follower.abandon()
    _houses.clear()
    _ending.clear()
    for watch in list(_watches):
        watch.joined = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
