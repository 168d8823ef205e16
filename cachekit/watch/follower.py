"""The thread that follows one server's ``watch`` stream: open it, pass on what it tells, begin again when it ends."""

from __future__ import annotations

import itertools
import logging
import random
import re
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from cachekit.errors import DeadlineExceeded, ProtocolError, Refused, ServerError, Unreachable
from cachekit.servers import Server
from cachekit.sync.connection import CHUNK, Connection
from cachekit.tombstones import notice
from cachekit.watch.lines import Heard, Lines

logger = logging.getLogger("cachekit")

BEAT_S: Final = 0.05
"""Seconds of silence after which a beat is sent."""

BEATS_A_SECOND: Final = 80
"""Most beats of one process: with more than four servers each is given fewer."""

SILENT_S: Final = 3.0
"""Seconds of silence, in spite of beats, after which a stream is given up. An idle server's first line may take one."""

POLL_S: Final = 1.0
"""Seconds between two looks at the server's counters."""

BUSY_POLL_S: Final = 0.1
BUSY_LINES: Final = 100
"""Where so many lines came since the last look, the next one is due sooner: only a busy server drops lines."""

PAUSES_S: Final = {"lost": (0.25, 5.0), "full": (5.0, 60.0), "unknown": (300.0, 300.0)}
"""Mean seconds before another attempt, and the most that doubling makes of them: where the server can't be reached,
where it has 20 watchers or too many connections, where it lets nobody watch or does not know how.
"""

_BEAT: Final = b"cachekit-watch-beat"
_PATIENCE_S: Final = 1.0
"""Least seconds for an answer: no caller waits for it, and to be slow for a moment need not cost the near tier."""

_SLICE_S: Final = 0.25
_MOST_STATS_BYTES: Final = 1 << 20
_COUNTERS: Final = re.compile(rb"^STAT (?:log_worker_dropped|cmd_flush) (\d+)\r$", re.MULTILINE).findall


class Audience(Protocol):
    """Who is told what a stream tells."""

    def touched(self, keys: list[bytes]) -> bool:
        """Those keys were stored or deleted. False: nobody listens any more, and the stream may end."""
        ...

    def missed(self) -> None:
        """Something may have been missed."""

    def prefixes(self) -> tuple[bytes, ...]:
        """What the keys begin with that are of interest."""
        ...

    def beat_s(self) -> float:
        """Seconds of silence after which a beat is due."""
        ...


class Follower:
    """Follows the stream of ``server`` from ``start`` to ``end``, and tells ``audience`` of it.

    ``open``: whether changes are heard of now. ``deadline_s``: seconds that connecting may take.
    """

    def __init__(self, server: Server, audience: Audience, deadline_s: float) -> None:
        self.server = server
        self.open = False
        self._audience = audience
        self._deadline_s = max(deadline_s, _PATIENCE_S)
        self._ended = threading.Event()
        self._tokens = itertools.count(1)
        self._thread: threading.Thread | None = None
        self._stream: Connection | None = None
        self._asking: Connection | None = None
        self._reason = ""

    def start(self, after: Follower | None = None) -> bool:
        """Begin, once ``after`` has ended; False when no thread can be had."""
        self._thread = threading.Thread(
            target=self._run, args=(after,), name=f"cachekit-watch {self.server.name}", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:  # there are too many, or the interpreter is ending
            return False
        return True

    def end(self) -> None:
        """Have the thread end soon."""
        self._ended.set()

    def abandon(self) -> None:
        """This is a forked child, without that thread: close the copies of its sockets, which would keep a place among
        the server's watchers. No lock is touched: the thread may have held it.
        """
        self._close()

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run(self, after: Follower | None) -> None:
        if after is not None and after._thread is not None:
            after._thread.join()  # at most one watcher per process and server
        pauses = Pauses(random.random)
        while not self._ended.is_set():
            kind = "lost"
            try:
                self._begin()
                pauses.succeeded()
                self._follow()
            except Refused as error:
                kind = kind_of(str(error))
                self._complain(error)
            except (ServerError, OSError) as error:
                logger.debug("the watch stream of memcached server %s ended: %s", self.server.name, error)
            except Exception as error:  # noqa: BLE001 - a thread that dies would be missed by nobody
                logger.warning("following memcached server %s failed: %s", self.server.name, type(error).__name__)
            was_open, self.open = self.open, False
            self._close()
            if was_open:
                self._audience.missed()
            if not self._ended.wait(pauses.after(kind)) and not self._audience.touched([]):
                return

    def _begin(self) -> None:
        """Open the stream. Raises ``ServerError``; ``Refused`` where the server does not give one."""
        stream = self._stream = Connection(self.server, self._deadline_s)
        for what in (b"mutations deletions", b"mutations"):  # protocol.txt, *Watchers*; deletions since 1.6.20
            stream.send(b"watch %b\r\n" % what)
            answer = self._answer()
            if answer != b"ERROR":
                break
        if answer != b"OK":
            raise Refused(answer.decode("utf-8", "replace"), server=self.server.name)
        self._asking = Connection(self.server, self._deadline_s)

    def _answer(self) -> bytes:
        """The line that answers ``watch``; an idle server's log thread may take a second to write it."""
        line, until = b"", time.monotonic() + SILENT_S
        while not line.endswith(b"\n"):
            if self._ended.is_set() or time.monotonic() > until or len(line) > CHUNK:
                raise DeadlineExceeded(f"{self.server.name} did not answer watch", server=self.server.name)
            line += self._receive(_SLICE_S, 1)  # events may stand right behind it
        return line.rstrip(b"\r\n")

    def _follow(self) -> None:
        """Pass on what the stream tells until it breaks, or nobody listens any more."""
        lines, audience = Lines(), self._audience
        counters = self._counters()
        self.open = True
        audience.missed()  # before this stream nobody has heard of anything
        if self._reason:
            logger.info("memcached server %s gives a watch stream again", self.server.name)
            self._reason = ""
        heard_at = polled_at = time.monotonic()
        count = 0
        while not self._ended.is_set():
            data = self._receive(audience.beat_s() * (0.75 + 0.5 * random.random()))
            now = time.monotonic()
            if data:
                heard_at = now
                lines.want(audience.prefixes())
                count += self._pass_on(lines.feed(data))
            elif now - heard_at > SILENT_S:
                raise DeadlineExceeded(f"{self.server.name} shows no beats", server=self.server.name)
            else:
                self._beat()
            if now - polled_at >= (BUSY_POLL_S if count >= BUSY_LINES else POLL_S):
                before, counters = counters, self._counters()
                polled_at, count = now, 0
                if counters != before:
                    audience.missed()
                if not audience.touched([]):
                    self._ended.set()

    def _pass_on(self, heard: Heard) -> int:
        """Tell what was heard; how many lines that were."""
        if heard.answers:
            raise ProtocolError(f"{self.server.name} answered what nobody asked", server=self.server.name)
        if heard.skipped:
            self._audience.missed()
        if heard.keys:
            self._audience.touched(heard.keys)
        return heard.lines

    # -- the two connections -----------------------------------------------------------------------------------------

    def _receive(self, timeout_s: float, at_most: int = CHUNK) -> bytes:
        """The next bytes of the stream; none when nothing came in time. Raises ``ServerError`` and ``OSError``."""
        stream = self._stream
        sock = stream.sock if stream is not None else None
        if sock is None:
            raise Unreachable(f"{self.server.name}: the watch stream is closed", server=self.server.name)
        sock.settimeout(timeout_s)
        try:
            data = sock.recv(at_most)
        except TimeoutError:
            return b""
        if not data:
            raise Unreachable(f"{self.server.name} closed the watch stream", server=self.server.name)
        return data

    def _beat(self) -> None:
        token = next(self._tokens)
        self._ask().exchange(notice(_BEAT, token), 1, token)

    def _counters(self) -> tuple[int, ...]:
        """What the server counts that the stream does not tell of: lines dropped, and flushes."""
        asking = self._ask()
        until = time.monotonic() + self._deadline_s
        asking.send(b"stats\r\n")
        data = asking.receive(until)
        while not data.endswith(b"END\r\n"):
            if len(data) > _MOST_STATS_BYTES or b"ERROR" in data[:16]:
                raise ProtocolError(f"{self.server.name} tells no stats", server=self.server.name)
            data += asking.receive(until)
        asking.rearm()
        return tuple(map(int, _COUNTERS(data)))

    def _ask(self) -> Connection:
        if self._asking is None:
            raise Unreachable(f"{self.server.name}: no connection", server=self.server.name)
        return self._asking

    def _close(self) -> None:
        for connection in (self._stream, self._asking):
            if connection is not None:
                connection.close()
        self._stream = self._asking = None

    def _complain(self, error: Refused) -> None:
        """Once per reason: what is not heard of costs nothing but time."""
        if str(error) != self._reason:
            self._reason = str(error)
            logger.warning(
                "memcached server %s gives no watch stream (%s): near values from there end by their ttl alone",
                self.server.name, error,
            )  # fmt: skip


def kind_of(answer: str) -> str:
    """Which of ``PAUSES_S`` an answer to ``watch`` calls for."""
    return "full" if answer.startswith("WATCHER_") or "Too many" in answer else "unknown"


class Pauses:
    """How long to wait before the next attempt: longer after each failure of a kind, with jitter, so that a fleet does
    not try in step. ``random`` gives numbers from 0 to below 1.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._failures = 0
        self._kind = ""

    def succeeded(self) -> None:
        self._failures = 0

    def after(self, kind: str) -> float:
        """Seconds to wait after a failure of that kind."""
        if kind != self._kind:
            self._kind, self._failures = kind, 0
        first, most = PAUSES_S[kind]
        pause: float = min(most, first * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return pause * (0.5 + self._random())
