"""The servers of one cache, whoever asks them: which there are, which holds a key, which are up; and the probe.

Threads and event loops keep connections of their own (``sync/fleet.py``, ``aio/fleet.py``), but what one of them learns
of a server holds for all: one cache has one roster.
"""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from cachekit.errors import Refused, ServerError, Unreachable
from cachekit.health import Health
from cachekit.hooks import Hooks, ServerState
from cachekit.meta import Reply
from cachekit.ring import Ring
from cachekit.servers import Server, Target

if TYPE_CHECKING:
    from cachekit.embedded import EmbeddedServer

logger = logging.getLogger("cachekit")

EXPLICIT_CAS = (1, 6, 27)
"""The first version that knows the E flag: a CAS number that the client chooses."""


class Roster:
    """The servers behind one cache. Thread-safe.

    ``suspects`` holds the indexes of the servers that failed last time; the hit paths leave them to the slow ones,
    which ask ``check_up`` first. ``explicit``: indexes of the servers that take a CAS number from their client.
    ``clock``: seconds since the epoch, for the embedded server.
    """

    def __init__(
        self,
        target: Target,
        hooks: Hooks,
        on_fork: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.deadline_s = target.options.deadline_s
        self.hooks = hooks
        self.embedded: EmbeddedServer | None = None
        if target.scheme == "memory":
            from cachekit.embedded import EmbeddedServer  # noqa: PLC0415 - nine modules that a real server replaces

            options = target.options
            self.embedded = EmbeddedServer(
                memory_bytes=options.memory_bytes, item_bytes=options.max_value_bytes, clock=clock
            )
            self.servers: tuple[Server, ...] = (Server(name="memory:", path="memory:"),)
        else:
            self.servers = target.servers
        self.ring = Ring(self.servers)
        self.servers = self.ring.servers
        self.names = tuple(server.name for server in self.servers)
        self.health = [Health() for _ in self.servers]
        self.suspects: set[int] = set()
        self.explicit: set[int] = set()
        self.versions_known: set[int] = set()
        self.on_fork = on_fork
        self._begin()
        _rosters.add(self)

    def _begin(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.RLock()  # a signal handler may come here while its thread is in here
        self._prober: threading.Thread | None = None
        self._stop = self._watched_by = threading.Event()

    def forked(self) -> None:
        """This is a child process now: nothing that the parent's threads hold may be touched, only left behind."""
        self._begin()
        self.on_fork()

    def try_server(self, index: int) -> None:
        """Connect to a server and have it answer something. Raises ``ServerError``."""
        raise NotImplementedError

    def note_version(self, index: int, reply: Reply) -> None:
        """Learn from the answer to ``version`` whether the server takes CAS numbers from its client; asked again after
        whatever may have been its restart. Raises ``Refused`` where that is no answer: at its limit of connections a
        server says so, and hangs up.
        """
        if reply.code == "ERROR":
            raise Refused(f"{self.names[index]}: {reply.error}", server=self.names[index])
        knows = reply.code == "VERSION" and _version(reply.value or b"") >= EXPLICIT_CAS
        (self.explicit.add if knows else self.explicit.discard)(index)
        self.versions_known.add(index)

    # -- health ------------------------------------------------------------------------------------------------------

    def check_up(self, index: int) -> None:
        """Raise ``Unreachable`` at once while the server is marked down."""
        if not self.health[index].up:
            self._watch()
            raise Unreachable(f"{self.names[index]} is marked down", server=self.names[index])

    def failed(self, index: int, error: ServerError, *, refused: bool = False) -> None:
        """Note a failure; the server may be marked down by it."""
        if self.embedded is not None:
            return
        with self._lock:
            self.suspects.add(index)
            down = self.health[index].failed(time.monotonic(), random.random, refused=refused)
        if down:
            logger.warning("memcached server %s is marked down: %s", self.names[index], error)
            if self.hooks.on_server:
                self.hooks.on_server.emit(ServerState(self.names[index], up=False))
            self._watch()

    def succeeded(self, index: int) -> None:
        """Note a full reply; the server is up."""
        with self._lock:
            back = self.health[index].succeeded()
            self.suspects.discard(index)
        if back:
            logger.info("memcached server %s is back", self.names[index])
            if self.hooks.on_server:
                self.hooks.on_server.emit(ServerState(self.names[index], up=True))

    def _watch(self) -> None:
        """Have the probe running while anything is down."""
        with self._lock:
            if self._prober is not None and self._prober.is_alive() and self._watched_by is self._stop:
                return
            self._watched_by = self._stop
            self._prober = threading.Thread(
                target=_probe, args=(weakref.ref(self), self._stop), name="cachekit-probe", daemon=True
            )
            try:
                self._prober.start()
            except RuntimeError:
                # No thread can be had: there are too many, or the interpreter is ending. The next caller tries again.
                self._prober = None

    def probe(self) -> float | None:
        """Try the servers that are due; seconds until the next probe, None when all are up."""
        for index, health in enumerate(self.health):
            if health.up or health.probe_due_in(time.monotonic()) > 0:
                continue
            try:
                self.try_server(index)
            except ServerError:
                with self._lock:
                    health.failed(time.monotonic(), random.random)
            else:
                self.succeeded(index)
        pauses = [health.probe_due_in(time.monotonic()) for health in self.health if not health.up]
        return min(pauses) if pauses else None

    def stop_probing(self) -> None:
        """End the probe; a later use may start one of its own."""
        self._stop.set()
        self._stop = threading.Event()


def _version(text: bytes) -> tuple[int, ...]:
    """The leading numbers of a version: ``1.6.18`` and ``1.6.18-cachekit`` alike."""
    found = re.match(rb"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(b".")) if found else ()


def _probe(roster: weakref.ref[Roster], stop: threading.Event) -> None:
    """The probe's thread. It holds the roster only while it works, so that a forgotten cache can go."""
    while True:
        alive = roster()
        pause = alive.probe() if alive is not None else None
        del alive
        if pause is None or stop.wait(max(0.01, pause)):
            return


_rosters: weakref.WeakSet[Roster] = weakref.WeakSet()


def _after_fork() -> None:
    for roster in list(_rosters):
        roster.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
