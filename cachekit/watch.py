"""The accelerator of the near tier: what other processes store and delete is heard of in the servers' ``watch`` streams.

The promise stays ``near.ttl``. A stream only makes the near tier forget sooner, and is never trusted: memcached drops
lines where a burst fills its buffers, and shows neither ``touch`` nor ``flush_all``. So whatever may have been missed
drops the near tier of that server: ``skipped=`` in the stream, a risen ``log_worker_dropped`` or ``cmd_flush`` in
``stats``, a stream that is silent or broken, and each new one.

**One thread per server**, whichever of this process's caches use it: a server has places for 20 watchers, and a slow
connect to one server must not hold up the others' streams. It holds two connections: the stream, and one to ask over.

**Beats.** The server's own log thread polls, and doubles its pauses while nothing comes, up to a second. A line every
50 ms keeps it awake, so a silent stream is given one: a notice (tombstones.py) of a key that does not exist. Every
watcher hears every beat, so twenty of them send hardly more than one. On an idle memcached 1.6.18: p50 104 ms, p99
473 ms without, 3 and 10 ms with them. A stream that shows nobody's beats is broken.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import random
import re
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Final

from cachekit.errors import DeadlineExceeded, ProtocolError, Refused, ServerError, Unreachable
from cachekit.servers import Server
from cachekit.sync.connection import CHUNK, Connection
from cachekit.tombstones import notice
from cachekit.watch_lines import Lines

logger = logging.getLogger("cachekit")

BEAT_S: Final = 0.05
"""Seconds of silence after which a beat is sent."""

BEATS_A_SECOND: Final = 80
"""Most beats of one process, all servers together: with more than four servers each is given fewer."""

SILENT_S: Final = 3.0
"""Seconds of silence, in spite of beats, after which a stream is given up. An idle server's first line takes one."""

POLL_S: Final = 1.0
"""Seconds between two looks at the server's counters."""

BUSY_POLL_S: Final = 0.1
"""The same where many lines came since the last look: only a busy server drops lines."""

BUSY_LINES: Final = 100

_BEAT_KEY: Final = b"cachekit-watch-beat"
_PATIENCE_S: Final = 1.0
"""Least seconds for an answer: nobody waits for it, so a server that is slow for a moment loses no near tier by it."""

_COUNTERS = re.compile(rb"STAT (log_worker_dropped|cmd_flush) (\d+)\r\n").findall
_MOST_STATS = 1 << 20


class Watch:
    """One cache's ear at all of its servers. Thread-safe.

    Args:
        servers: in the order of their indexes.
        touched: called with the key that was stored or deleted by anybody, this process included.
        gap: called with the index of a server of whose changes some may have been missed.
        prefix: of the keys that are of interest, encoded for the wire; ``b""`` for all.
        deadline_s: seconds that connecting may take.

    Both are called from a thread of ours, and must not block.
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
        """Have every server watched, unless that is so already: also in a forked child, which has no threads yet."""
        if self.joined:
            return
        with _lock:
            if not self.joined:
                self.joined = all([_join(self, index) for index in range(len(self.servers))])
                threads = [_followers[_place(server)] for server in self.servers if _place(server) in _followers]
        for index in range(len(self.servers)):
            self.gap(index)  # what was kept before nobody has heard of
        del threads

    def is_watching(self, index: int) -> bool:
        """Whether that server's stream is open."""
        follower = _followers.get(_place(self.servers[index]))
        return self.joined and follower is not None and follower.open

    def close(self) -> None:
        """Listen no more; the threads end that nobody else needs. Idempotent; ``ensure`` begins again."""
        with _lock:
            self.joined = False
            for server in self.servers:
                _leave(self, server)
