"""A TCP server that answers what a test tells it to, byte by byte if need be.

The script is a function that takes the request (what one ``recv`` gave) and returns the pieces of the answer; between
two pieces it pauses. None among the pieces closes the connection, ``HANG`` leaves it open without a word.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final

HANG: Final = object()

Script = Callable[[bytes], Iterable[object]]


class ScriptedServer:
    """Listens on a loopback port until its block ends; keeps the ``requests``, and how many it ``accepted``."""

    def __init__(self, script: Script, *, pause_s: float = 0.0, version: bytes = b"1.6.18") -> None:
        self.script = script
        self.version = version
        self.requests: list[bytes] = []
        self.accepted = 0
        self._pause_s = pause_s
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def url(self) -> str:
        host, port = self._listener.getsockname()
        return f"memcached://{host}:{port}"

    def __enter__(self) -> ScriptedServer:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accept
        self._threads[0].join(5)  # so that no connection comes after the closing of all
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            while request := sock.recv(1 << 20):
                if request == b"version\r\n":  # asked once, before the first request
                    sock.sendall(b"VERSION %b\r\n" % self.version)
                    continue
                self.requests.append(request)
                for piece in self.script(request):
                    if piece is HANG:
                        self._over.wait()
                        return
                    if piece is None:
                        return
                    assert isinstance(piece, bytes)
                    sock.sendall(piece)
                    if self._pause_s and self._over.wait(self._pause_s):
                        return
        except OSError:
            pass
        finally:
            sock.close()


def token(request: bytes) -> bytes:
    """The opaque token of a request."""
    found = re.search(rb" O(\d+)", request)
    return found[1] if found else b""
