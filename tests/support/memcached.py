"""Real memcached processes for tests: one call starts one, waits until it answers, and ends only what it started.

::

    server = start_memcached()                     # a free loopback port
    server = start_memcached("-m", "8", "-I", "2m")
    server = start_memcached("-s", "/tmp/x/m.sock")
    server = start_memcached("-Z", "-o", f"ssl_chain_cert={cert},ssl_key={key}")
    ...
    server.stop()

or as a context manager. Whatever a test forgot to stop is killed when the test process ends.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

_LOOPBACK = "127.0.0.1"
_START_S = 10.0
_ATTEMPTS = 5


def memcached_binary() -> str:
    """Where memcached is; a RuntimeError with the command to install it if it is nowhere."""
    found = shutil.which("memcached") or shutil.which("memcached", path="/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    if found is None:
        raise RuntimeError("these tests need a real memcached: apt-get install -y memcached")
    return found


def free_port() -> int:
    """A loopback port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(eq=False)
class Memcached:
    """A running memcached. ``port`` is 0 and ``path`` set where it listens on a UNIX socket."""

    args: tuple[str, ...]
    host: str
    port: int
    path: str | None = None
    tls: bool = False
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        """The process id; a RuntimeError while it is not running."""
        if self._process is None:
            raise RuntimeError(f"{self} is not running")
        return self._process.pid

    @property
    def name(self) -> str:
        """The address as cachekit writes it: ``127.0.0.1:port`` or ``unix:/path``."""
        return f"{self.host}:{self.port}" if self.path is None else f"unix:{self.path}"

    def connect(self, timeout_s: float = 5.0) -> socket.socket:
        """A new connection, with the TLS handshake done where the server wants one (its certificate is not checked)."""
        if self.path is not None:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(timeout_s)
            try:
                sock.connect(self.path)
            except OSError:
                sock.close()
                raise
        else:
            sock = socket.create_connection((self.host, self.port), timeout=timeout_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self.tls:
            return sock
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(sock)

    def ask(self, request: bytes, timeout_s: float = 5.0) -> bytes:
        """All replies to ``request``, on a connection of its own: what came before the MN that answers ``mn``."""
        with self.connect(timeout_s) as sock:
            sock.sendall(request + b"mn\r\n")
            return read_until_mn(sock)

    def stats(self) -> dict[str, str]:
        """What ``stats`` tells, such as ``{"curr_items": "3", …}``."""
        lines = self.ask(b"stats\r\n").decode().splitlines()
        return dict(line.split(" ", 2)[1:] for line in lines if line.startswith("STAT "))

    def flush(self) -> None:
        """Empty it, and only return when nothing stored before can be read any more."""
        self.ask(b"flush_all\r\n")

    def pause(self) -> None:
        """SIGSTOP: it still accepts connections, but answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        _wait(lambda: _state(self.pid) in "T?", "to stop")

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL: connections break, new ones are refused. ``restart`` brings it back, empty, on the same address."""
        self._end()

    def stop(self) -> None:
        """End it for good; harmless when it is gone already."""
        self._end()
        _running.discard(self)

    def restart(self) -> None:
        """End it if it runs, and start it again, empty, on the same address."""
        self.kill()
        self._start()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()  # SIGTERM would take up to a second, and wait for SIGCONT where it is paused
        process.wait()
        if self.path is not None and os.path.exists(self.path):
            os.unlink(self.path)

    def _start(self) -> None:
        where = ("-s", self.path) if self.path is not None else ("-l", self.host, "-p", str(self.port))
        user = ("-u", "nobody") if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
        command = [memcached_binary(), *user, *where, "-U", "0", *self.args]
        with tempfile.TemporaryFile() as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                _wait(self._answers, "to answer")
            except BaseException as error:
                self.kill()
                log.seek(0)
                said = log.read(2000).decode("utf-8", "replace")
                raise RuntimeError(f"{' '.join(command)}: {error}\n{said}") from error

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError("it ended at once")
        try:
            return self.ask(b"", timeout_s=1.0) == b""
        except OSError:
            return False

    def __enter__(self) -> Memcached:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


_running: set[Memcached] = set()
_owner_pid = os.getpid()


def start_memcached(*args: str, port: int | None = None) -> Memcached:
    """Start a memcached and wait until it answers.

    args: further options of memcached. ``-s path`` makes it listen on a UNIX socket, ``-Z`` on TLS (with
    ``-o ssl_chain_cert=…,ssl_key=…``); unless they say otherwise it has one thread and 64 MiB. port: a loopback port;
    otherwise a free one is found. Raises RuntimeError with what the process said if it does not come up.
    """
    options = list(args)
    path = None
    if "-s" in options:
        at = options.index("-s")
        path = options[at + 1]
        del options[at : at + 2]
    for flag, value in (("-t", "1"), ("-m", "64")):
        if flag not in options:
            options += [flag, value]
    for attempt in range(_ATTEMPTS):
        number = 0 if path is not None else port if port is not None else free_port()
        server = Memcached(tuple(options), "" if path is not None else _LOOPBACK, number, path, "-Z" in options)
        try:
            server._start()
        except RuntimeError:
            # Between finding a free port and binding it somebody else may have been quicker.
            if path is not None or port is not None or attempt == _ATTEMPTS - 1:
                raise
            continue
        _running.add(server)
        return server
    raise AssertionError("unreachable")


def read_until_mn(sock: socket.socket) -> bytes:
    """All bytes up to the ``MN`` that ends them, without it. Raises ConnectionError when the server hangs up."""
    received = bytearray()
    while not (received == b"MN\r\n" or received.endswith(b"\r\nMN\r\n")):
        chunk = sock.recv(1 << 16)
        if not chunk:
            raise ConnectionError(f"memcached hung up after {bytes(received[-200:])!r}")
        received += chunk
    return bytes(received[:-4])


@dataclass(frozen=True)
class Certificate:
    """Paths of a certificate for 127.0.0.1 and its key, both PEM."""

    cert: str
    key: str

    @property
    def options(self) -> tuple[str, ...]:
        """What memcached needs to serve TLS with it."""
        return ("-Z", "-o", f"ssl_chain_cert={self.cert},ssl_key={self.key}")


def make_certificate(folder: str | os.PathLike[str]) -> Certificate:
    """A self-signed certificate for 127.0.0.1 and localhost, made by openssl, readable for memcached's user."""
    cert, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run([*command, *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    os.chmod(key, 0o644)
    return Certificate(cert, key)


def _wait(condition: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + _START_S
    pause = threading.Event()
    while not condition():
        if time.monotonic() > limit:
            raise RuntimeError(f"memcached needed more than {_START_S} s {what}")
        pause.wait(0.005)


def _state(pid: int) -> str:
    """The kernel's letter for the process: T = stopped; "?" where there is no /proc to ask."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "?"


@atexit.register
def _end_all() -> None:
    if os.getpid() == _owner_pid:  # a forked child must not end its parent's servers
        for server in list(_running):
            server.stop()
