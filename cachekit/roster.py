"""The servers of one cache, whoever asks them: which there are, which holds a key, which are up; and the probe.

Threads and event loops keep connections of their own (``sync/fleet.py``, ``aio/fleet.py``), but what one of them learns
of a server holds for all: one cache has one roster.

An invalidation that a server has not acknowledged is kept in the *outbox*. While something is in it for a server, that
server is one of the suspects, and every way to it begins with telling it: threads in ``sync/replaying.py``, event loops
in ``aio/fleet.py``, and the probe before it says that the server is up. So nobody in this process reads there what this
process has invalidated, on whichever connection.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from cachekit.errors import Refused, ServerError, Unreachable
from cachekit.health import Health
from cachekit.hooks import Hooks, ServerState
from cachekit.meta import Reply
from cachekit.ring import Ring
from cachekit.servers import Server, Target

if TYPE_CHECKING:
    from cachekit.embedded import EmbeddedServer
    from cachekit.outbox import Outbox
    from cachekit.replay import Item, Lot

logger = logging.getLogger("cachekit")

EXPLICIT_CAS = (1, 6, 27)
"""The first version that knows the E flag: a CAS number that the client chooses."""
CONDITIONAL_GET = (1, 6, 40)
"""The first version that, told by ``mg … C`` what the client has, does not send it again."""


def _nobody(*heard: int | bytes) -> None:
    """Nobody wants to hear of it."""


class Roster:
    """The servers behind one cache. Thread-safe.

    ``suspects`` holds the indexes of the servers that failed last time, or have something to be told; the hit paths
    leave them to the slow ones, which ask ``check_up`` and ``waiting`` first. ``explicit``: indexes of the servers that
    take a CAS number from their client. ``distrust``: seconds since 1970, by index of the server; what was created
    before is not to be trusted. ``clock``: seconds since the epoch, for the embedded server.
    """

    def __init__(
        self,
        target: Target,
        hooks: Hooks,
        on_fork: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.deadline_s = target.options.deadline_s
        self.watched = target.options.watch
        import random  # noqa: PLC0415 - at first need: a fiftieth of what importing the package takes

        self._random = random.random
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
        self.conditional: set[int] = set()
        self.on_reconnect: Callable[[int], None] = _nobody
        self.on_told: Callable[..., None] = _nobody
        """Called with the keys whose invalidation a server has been told late."""
        self._met: set[int] = set()
        self.versions_known: set[int] = set()
        self.distrust: dict[int, float] = {}
        self.groups: Callable[[], Iterable[bytes]] = tuple
        """Gives the wire keys of the groups that this cache knows."""
        self.outbox: Outbox | None = None
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
        if self.outbox is not None:
            self.outbox.replay.forked()
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
        version = _version(reply.value or b"") if reply.code == "VERSION" else ()
        for since, known in ((EXPLICIT_CAS, self.explicit), (CONDITIONAL_GET, self.conditional)):
            (known.add if version >= since else known.discard)(index)
        if index in self._met:
            self.on_reconnect(index)
        self._met.add(index)
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
            down = self.health[index].failed(time.monotonic(), self._random, refused=refused)
        if down:
            logger.warning("memcached server %s is marked down: %s", self.names[index], error)
            if self.hooks.on_server:
                self.hooks.on_server.emit(ServerState(self.names[index], up=False))
            self._watch()

    def succeeded(self, index: int) -> None:
        """Note a full reply; the server is up."""
        with self._lock:
            back = self.health[index].succeeded()
            if not self.waiting(index):
                self.suspects.discard(index)
                if self.waiting(index):  # a signal handler came between
                    self.suspects.add(index)
        if back:
            logger.info("memcached server %s is back", self.names[index])
            if self.hooks.on_server:
                self.hooks.on_server.emit(ServerState(self.names[index], up=True))

    # -- what servers have not been told -----------------------------------------------------------------------------

    def keep(self, index: int, keys: Sequence[bytes], *, soft: bool = False, kind: int = 0, group: bytes = b"") -> None:
        """Keep invalidations of ``keys`` that the server has not acknowledged, to be told it before anything else. In
        the spool, where there is one, when this returns. ``kind``, ``group``: as in ``replay.py``.
        """
        if self.embedded is not None or not keys:
            return
        with self._lock:
            outbox = self._outbox()
            self.suspects.add(index)
            if not outbox.queues[index]:  # not again and again: it would be put off for ever
                self.health[index].look_soon(time.monotonic(), self._random)
            change = outbox.keep(index, keys, soft=soft, kind=kind, group=group)
        outbox.save(index, change)
        _tell_at_exit()
        self._watch()

    def open_spool(self, path: str) -> None:
        """Keep them in the file at ``path`` as well, and take over what was left there."""
        if self.embedded is not None:
            return
        with self._lock:
            left = self._outbox().open_spool(path)
            self.suspects.update(left)
        if left:
            self._watch()

    def _outbox(self) -> Outbox:
        if self.outbox is None:
            from cachekit.outbox import Outbox  # noqa: PLC0415 - most processes never need one

            self.outbox = Outbox(self.names, self.hooks, self.groups, self.distrust)
            self.outbox.replay.watched = self.watched
        return self.outbox

    def waiting(self, index: int) -> bool:
        """Whether the server has to be told something before it is asked anything."""
        outbox = self.outbox
        return outbox is not None and bool(outbox.queues[index])

    def kept(self) -> tuple[dict[str, int], int, int]:
        """How many invalidations wait, by name of the server that has to be told; how many were delivered late, and how
        many given up.
        """
        outbox = self.outbox
        return (outbox.waiting(), outbox.replay.delivered, outbox.replay.dropped) if outbox is not None else ({}, 0, 0)

    def lot(self, index: int) -> Lot:
        """What the server has to be told next; perhaps nothing."""
        assert self.outbox is not None
        return self.outbox.lot(index)

    def telling(self, index: int) -> threading.RLock:
        """To be held by the thread that tells the server: the others wait, so that not each of them tells all."""
        assert self.outbox is not None
        return self.outbox.replay.telling[index]

    def settle(self, index: int, items: Sequence[Item], replies: Sequence[Reply]) -> None:
        """The server has answered what it was told. Raises ``Refused``."""
        outbox = self.outbox
        self.on_told(*[item.key for item in items])
        if outbox is not None and outbox.settle(index, items, replies):
            with self._lock:
                if self.health[index].up and not self.waiting(index):
                    self.suspects.discard(index)
                    if self.waiting(index):
                        self.suspects.add(index)
            outbox.report(index)

    def tell(self) -> None:
        """Try once, for at most a deadline, to tell the servers that are up what they have not been told."""

    def _watch(self) -> None:
        """Have the probe running while anything is down, or has something to be told."""
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
        """Try the servers that are due; seconds until the next probe, None when all are up and know everything."""
        for index, health in enumerate(self.health):
            if not self._to_probe(index) or health.probe_due_in(time.monotonic()) > 0:
                continue
            try:
                self.try_server(index)
            except ServerError as error:
                if health.up:
                    self.failed(index, error)
                else:
                    with self._lock:
                        health.failed(time.monotonic(), self._random)
            else:
                self.succeeded(index)
        now = time.monotonic()
        pauses = [health.probe_due_in(now) for index, health in enumerate(self.health) if self._to_probe(index)]
        return min(pauses) if pauses else None

    def _to_probe(self, index: int) -> bool:
        return not self.health[index].up or self.waiting(index)

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
_at_exit: list[object] = []


def _after_fork() -> None:
    del _at_exit[1:]
    for roster in list(_rosters):
        roster.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _tell_at_exit() -> None:
    """Have the end of the process try once more to tell servers what they don't know: also in a child of
    multiprocessing, where atexit does not run.
    """
    if not _at_exit:
        _at_exit.append(atexit.register(_tell_all))
    util = sys.modules.get("multiprocessing.util")
    if util is not None and len(_at_exit) < 2:
        _at_exit.append(util.Finalize(None, _tell_all, exitpriority=9))


def _tell_all() -> None:
    for roster in list(_rosters):
        if roster.outbox is None or roster.pid != os.getpid():
            continue
        roster.tell()
        left = roster.outbox.waiting() if roster.outbox.spool is None else {}
        for name, count in left.items():
            what = "1 invalidation" if count == 1 else f"{count} invalidations"
            logger.warning("memcached server %s was never told %s of this process", name, what)
