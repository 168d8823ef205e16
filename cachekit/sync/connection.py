"""One connection to one server: pymemcache opens it, our own ``exchange`` speaks the meta protocol over it.

A connection is dirty from the first byte of a request until the last byte of its replies. Whatever interrupts between,
be it a timeout, a signal's exception or a thread's end, leaves bytes in flight that belong to nobody, so the connection
is closed and never used again. Its owner takes it off his shelf before he asks and puts it back after a full reply; see
``client.py``.

Deadlines. ``socket.settimeout`` makes Python poll before every call. On Linux and macOS a blocking socket with
``SO_RCVTIMEO`` and ``SO_SNDTIMEO`` (socket(7)) saves that system call; TLS and patched sockets (gevent) get the plain
timeout. The kernel's timer bounds one system call and not an exchange, so what is left of the deadline is set anew
after every short read.
"""

from __future__ import annotations

import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from pymemcache.client.base import Client as PymemcacheClient  # type: ignore[import-untyped]

from cachekit.errors import ProtocolError, ServerError, Unreachable
from cachekit.meta import Parser, Reply
from cachekit.network import tls_context, translated
from cachekit.servers import Server

CHUNK = 65_536
"""Bytes asked of the socket at once. Twice as many would be above malloc's mmap threshold and cost a page fault a
page.
"""

_LARGE_REQUEST = 32_768
_WHOLE = 16 << 20
"""Most bytes to wait for in one call: room for them is made at once, on the server's word."""
_KERNEL_TIMERS = sys.platform in ("linux", "darwin")
_RAW_SOCKET = socket.socket
_monotonic = time.monotonic
_PLAIN_HD = Reply("HD")
_MSG_WAITALL = getattr(socket, "MSG_WAITALL", 0)


Request = bytes | tuple[bytes, ...]
"""What is sent; a tuple where a large value stands beside its command line, so that it need not be copied."""


class _Opener(PymemcacheClient):  # type: ignore[misc]
    """The few private names of pymemcache that we lean on (held by a contract test): ``_connect``, ``sock``."""

    def open(self) -> socket.socket:
        self._connect()
        sock: socket.socket = self.__dict__.pop("sock")
        self.sock = None
        return sock


class _NamedTls:
    """A TLS context that expects the server's own name, not the address that the name was resolved to."""

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        self._context = context
        self._name = name

    def wrap_socket(self, sock: socket.socket, server_hostname: str) -> ssl.SSLSocket:
        return self._context.wrap_socket(sock, server_hostname=self._name)


def _open(server: Server, deadline_s: float) -> socket.socket:
    """Connect to the first of the server's addresses that answers, within ``deadline_s`` in all."""
    if server.path is not None:
        return _Opener(server.path, connect_timeout=deadline_s, timeout=deadline_s).open()
    until = _monotonic() + deadline_s
    context: Any = None
    if server.tls is not None:
        context = _NamedTls(tls_context(server.tls), server.tls.server_name or server.host or "")
    failure: OSError = ConnectionRefusedError("no address")
    # pymemcache tries the first address of a name only, and localhost is ::1 first on many machines.
    for *_, address in socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM):
        left = until - _monotonic()
        if left <= 0:
            raise TimeoutError("deadline") from failure
        try:
            where = (str(address[0]), int(address[1]))
            return _Opener(where, connect_timeout=left, timeout=left, no_delay=True, tls_context=context).open()
        except OSError as error:
            failure = error
    raise failure


class Connection:
    """An open connection. ``opened_at``: monotonic seconds at which it was opened; a lease is only good on an older
    one.

    Raises ``Unreachable`` or ``DeadlineExceeded`` when it can't be opened within ``deadline_s`` seconds.
    """

    __slots__ = (
        "__weakref__",
        "_asked_at",
        "_kernel_timers",
        "_parser",
        "_recv",
        "_send",
        "_timer_s",
        "closed",
        "deadline_s",
        "opened_at",
        "server",
        "sock",
    )

    def __init__(self, server: Server, deadline_s: float) -> None:
        self.server = server
        self.deadline_s = deadline_s
        self.opened_at = self._asked_at = _monotonic()
        self.sock: socket.socket | None = None
        self.closed = False
        try:
            sock = _open(server, deadline_s)
        except OSError as error:
            raise translated(error, server) from error
        self._adopt(sock)

    def _adopt(self, sock: socket.socket) -> None:
        self.sock = sock
        usual = type(sock) is _RAW_SOCKET and _RAW_SOCKET.__module__ == "socket"
        self._kernel_timers = _KERNEL_TIMERS and usual and not _interrupted_often()
        if self._kernel_timers:
            sock.settimeout(None)
        self._set_timer(self.deadline_s)
        self._send = sock.sendall
        self._recv: Callable[..., bytes] = sock.recv
        self._parser = Parser()
        self.count_in(_monotonic() - self.opened_at)

    def count_in(self, spent_s: float) -> None:
        """One deadline covers connecting, and what the server has to be told first, and the next exchange."""
        if self.sock is not None and spent_s > self.deadline_s / 10:
            self._set_timer(max(0.001, self.deadline_s - spent_s))
            self._recv = self._first_recv

    def _first_recv(self, *how: int) -> bytes:
        sock = self.sock
        assert sock is not None
        self._recv = sock.recv
        data = sock.recv(*how)
        self.rearm()
        return data

    # -- the hit path: one request, one read -------------------------------------------------------------------------

    def ask(self, request: Request) -> bytes:
        """Send ``request`` and return the first bytes of the answer: all of it, nearly always. ``finish`` reads the
        rest.
        """
        self._asked_at = _monotonic()
        try:
            if len(request) > _LARGE_REQUEST or isinstance(request, tuple):
                self._send_large(request)
            else:
                self._send(request)
            data = self._recv(CHUNK)
        except BaseException as error:
            self._abandon(error)
            raise
        if not data:
            self.close()
            raise Unreachable(f"{self.server.name} closed the connection", server=self.server.name)
        return data

    def complete(self, data: bytes, *, and_more: bool = False) -> bytes:
        """``data``, the beginning of a VA reply, with the rest of its value, and then whatever comes right behind."""
        line_end = data.find(b"\r\n")
        words = data[:line_end].split(b" ") if line_end > 0 else []
        if len(words) > 2 and words[0] == b"VA" and is_size(words[1]):
            size = line_end + 4 + int(words[1])
            if len(data) <= size:
                return self.finish(data, size, and_more=and_more)
        return data

    def finish(self, data: bytes, size: int, *, and_more: bool = False) -> bytes:
        """``data`` and what is still missing of ``size`` bytes in all; ``and_more``: and whatever comes right
        behind.
        """
        try:
            parts = [data, *self._exactly(size - len(data))]
            if and_more and len(data) < size:
                parts.append(self._receive(self._asked_at + self.deadline_s))
            self.rearm()
        except BaseException as error:
            self._abandon(error)
            raise
        return b"".join(parts)

    def finish_value(self, data: bytes, start: int, end: int, tail: int) -> tuple[bytes, bytes]:
        """The value from ``start`` to ``end`` of an answer that ``data`` begins, and the ``tail`` bytes behind it: the
        value of a large answer is copied once and not twice.
        """
        if len(data) > end:
            data = self.finish(data, end + tail)
            return data[start:end], data[end:]
        try:
            rest = self._exactly(end - len(data))
            behind = b"".join(self._exactly(tail))
            self.rearm()
        except BaseException as error:
            self._abandon(error)
            raise
        return b"".join((memoryview(data)[start:], *rest)), behind

    def _exactly(self, missing: int) -> list[bytes]:
        """The next ``missing`` bytes, in pieces."""
        parts = []
        while missing > 0:
            self._leave(self._asked_at + self.deadline_s - _monotonic())
            at_most = min(missing, _WHOLE if self._kernel_timers else CHUNK)
            part = self._recv(at_most, _MSG_WAITALL) if self._kernel_timers else self._recv(at_most)
            if not part:
                raise ConnectionResetError("closed in the middle of a reply")
            parts.append(part)
            missing -= len(part)
        return parts

    # -- everything else ---------------------------------------------------------------------------------------------

    def exchange(self, request: Request, count: int, opaque: int | None = None) -> list[Reply]:
        """Send ``request`` and return its ``count`` replies, each of which must echo ``opaque`` where that is given."""
        data = self.ask(request)
        if count == 1 and data == b"HD O%d\r\n" % (opaque or 0):
            return [_PLAIN_HD]
        return self.replies(data, count, opaque)

    def replies(self, data: bytes, count: int, opaque: int | None = None, until: float = 0.0) -> list[Reply]:
        """Parse ``data``, read on until there are ``count`` replies beside VALUE lines, and check them."""
        try:
            found = self._parser.feed(data)
            while (ended := count_ends(found)) < count:
                until = until or self._asked_at + self.deadline_s
                found += self._parser.feed(self._receive(until))
            if ended > count or self._parser.pending:
                raise ProtocolError(f"{self.server.name} sent more than was asked for", server=self.server.name)
            self._check(found, opaque)
            self.rearm()
        except BaseException as error:
            self._abandon(error)
            raise
        return found

    def send(self, request: bytes) -> None:
        """Only send; for a window over several servers, whose answers are read afterwards by ``receive``."""
        self._asked_at = _monotonic()
        try:
            self._send_large(request) if len(request) > _LARGE_REQUEST else self._send(request)
        except BaseException as error:
            self._abandon(error)
            raise

    def receive(self, until: float) -> bytes:
        """The next bytes, by ``until`` (monotonic seconds). The timer stays short: ``rearm`` when the window is
        over.
        """
        try:
            return self._receive(until)
        except BaseException as error:
            self._abandon(error)
            raise

    def receive_more(self, data: bytes, until: float = 0.0) -> bytes:
        """``data`` and the next bytes behind it, by ``until``; a known large rest is taken in one call."""
        try:
            self._leave((until or self._asked_at + self.deadline_s) - _monotonic())
            missing = missing_bytes(data)
            at_once = missing > CHUNK and self._kernel_timers
            more = self._recv(min(missing, _WHOLE), _MSG_WAITALL) if at_once else self._recv(CHUNK)
            if not more:
                raise ConnectionResetError("closed in the middle of a reply")
        except BaseException as error:
            self._abandon(error)
            raise
        return data + more

    def rearm(self) -> None:
        """Give the next exchange its whole deadline again."""
        if self._timer_s != self.deadline_s:
            self._set_timer(self.deadline_s)

    def closed_by_peer(self) -> bool:
        """Whether the server has closed an idle connection, or said something that nobody asked for."""
        sock = self.sock
        if sock is None:
            return True
        if not self._kernel_timers:
            return False
        try:
            sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """Close at once, without a word to the server. Idempotent."""
        sock, self.sock, self.closed = self.sock, None, True
        if sock is not None:
            sock.close()

    def __del__(self) -> None:
        # The shelf of a thread that ended: nobody else can close it.
        if getattr(self, "sock", None) is not None:
            self.close()

    @property
    def name(self) -> str:
        """The server's name."""
        return self.server.name

    def __repr__(self) -> str:
        state = "closed" if self.sock is None else "open"
        return f"<Connection {self.server.name} {state}>"

    def _receive(self, until: float) -> bytes:
        self._leave(until - _monotonic())
        data = self._recv(CHUNK)
        if not data:
            raise ConnectionResetError("closed in the middle of a reply")
        return data

    def _check(self, found: list[Reply], opaque: int | None) -> None:
        expected = None if opaque is None else b"%d" % opaque
        for reply in found:
            if reply.code == "ERROR":
                # It carries no opaque; only SERVER_ERROR surely leaves the stream in step.
                if not (reply.error or "").startswith("SERVER_ERROR"):
                    self.close()
            elif expected is not None and reply.opaque != expected:
                raise ProtocolError(f"{self.server.name} answered another request", server=self.server.name)

    def _send_large(self, request: Request) -> None:
        """Like ``sendall``, whose every inner send would start the kernel's timer again."""
        sock = self.sock
        assert sock is not None
        if isinstance(request, tuple):
            sent = sock.sendmsg(request) if self._kernel_timers else 0
            if sent == sum(map(len, request)):
                return
            request = b"".join(request)
        else:
            sent = sock.send(request)
        if sent == len(request):
            return
        view = memoryview(request)[sent:]
        while view:
            self._leave(self._asked_at + self.deadline_s - _monotonic())
            view = view[sock.send(view) :]
        self.rearm()

    def _leave(self, seconds: float) -> None:
        """Let the next system call take ``seconds``. A tenth of the deadline more or less is not worth two system
        calls.
        """
        if seconds <= 0:
            raise TimeoutError("deadline")
        if seconds < self._timer_s - self.deadline_s / 10:
            self._set_timer(seconds)

    def _set_timer(self, seconds: float) -> None:
        sock = self.sock
        assert sock is not None
        self._timer_s = seconds
        if self._kernel_timers:
            timeval = struct.pack("ll", int(seconds), max(1, int(seconds % 1 * 1e6)))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        else:
            sock.settimeout(seconds)

    def _abandon(self, error: BaseException) -> None:
        """Close, and say what happened in our own words when it was the network."""
        self.close()
        if isinstance(error, ProtocolError) and error.server is None:
            error.server = self.server.name
        if isinstance(error, OSError) and not isinstance(error, ServerError):
            raise translated(error, self.server) from error


def _interrupted_often() -> bool:
    """Whether an interval timer runs here, as some profilers set one. Each of its signals would start the kernel's
    timer again, and a silent server would never be given up; Python's own timeout counts on.
    """
    import signal  # noqa: PLC0415 - whoever only imports cachekit has no connection, and need not load this

    return any(signal.getitimer(which)[1] for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF))


def count_ends(found: list[Reply]) -> int:
    """How many replies there are, the VALUE lines of classic reads left out: those are a part of what END ends."""
    return len(found) - sum(reply.code == "VALUE" for reply in found)


def missing_bytes(data: bytes) -> int:
    """How much of the value whose VALUE line begins ``data`` has not come yet; 0 where that can't be told."""
    line_end = data.find(b"\r\n")
    words = data[:line_end].split(b" ") if line_end > 0 else []
    return line_end + 4 + int(words[3]) - len(data) if len(words) > 3 and is_size(words[3]) else 0


def is_size(word: bytes) -> bool:
    """Whether ``word`` is a number of bytes that a server could mean."""
    return word.isdigit() and len(word) < 12
