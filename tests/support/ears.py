"""Who listens to a ``Watch`` in tests, and waits for what it tells."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from support.memcached import Memcached
from support.targets import url_of
from support.threads import LIMIT_S, eventually

from cachekit.addresses import parse_target
from cachekit.watch import Watch


class Ear:
    """Remembers what it was told. ``on_touch`` is called with each key, in the watch's own thread."""

    def __init__(self, on_touch: Callable[[bytes], object] = lambda key: None) -> None:
        self.keys: list[bytes] = []
        self.gaps: list[int] = []
        self._on_touch = on_touch
        self._changed = threading.Condition()

    def touched(self, key: bytes) -> None:
        with self._changed:
            self.keys.append(key)
            self._changed.notify_all()
        self._on_touch(key)

    def gap(self, server: int) -> None:
        with self._changed:
            self.gaps.append(server)
            self._changed.notify_all()

    def hears(self, key: bytes, limit_s: float = LIMIT_S) -> bool:
        """Whether ``key`` has been told of, or is within the limit."""
        with self._changed:
            return self._changed.wait_for(lambda: key in self.keys, limit_s)

    def hears_any(self, limit_s: float = LIMIT_S) -> bool:
        """Whether any key has been told of, or is within the limit."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self.keys), limit_s)

    def has_gap(self, count: int, limit_s: float = LIMIT_S) -> bool:
        """Whether there have been so many gaps, or are within the limit."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.gaps) >= count, limit_s)


def watch_of(ear: Ear, *servers: Memcached, url: str = "", prefix: bytes = b"") -> Watch:
    """A watch on these servers, or on those of ``url``, that has not begun."""
    target = parse_target(url or url_of(*servers))
    return Watch(target.servers, ear.touched, ear.gap, prefix=prefix)


@contextmanager
def listening(watch: Watch) -> Iterator[Watch]:
    """Begin, wait until every stream is open, and close at the end."""
    watch.ensure()
    try:
        assert eventually(lambda: all(map(watch.is_watching, range(len(watch.servers)))))
        yield watch
    finally:
        watch.close()
