"""TCP proxies in processes of their own: one holds back every n-th reply until the client has given up, one is cut."""

from __future__ import annotations

import itertools
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from benchmarks.servers import HOST, free_port, wait_for_port

SPAWN = multiprocessing.get_context("spawn")


@contextmanager
def delaying(upstream: int, every: int, delay_s: float) -> Iterator[str]:
    """Run the proxy for the length of a with block; gives its address.

    Args:
        upstream: the server's port.
        every: one reply in so many is held back.
        delay_s: for how long, in seconds.
    """
    port = free_port()
    process = SPAWN.Process(target=_serve, args=(port, upstream, every, delay_s), daemon=True)
    process.start()
    try:
        wait_for_port(port)
        yield f"{HOST}:{port}"
    finally:
        process.kill()
        process.join()


@contextmanager
def cutting(upstream: int) -> Iterator[tuple[str, Any]]:
    """Run a proxy for the length of a with block; gives its address, and an event: while that is set, the way to the
    server is cut: connections are closed, nothing goes through, and whoever connects is hung up on.

    Args:
        upstream: the server's port.
    """
    port, cut = free_port(), SPAWN.Event()
    process = SPAWN.Process(target=_serve_until_cut, args=(port, upstream, cut), daemon=True)
    process.start()
    try:
        wait_for_port(port)
        yield f"{HOST}:{port}", cut
    finally:
        process.kill()
        process.join()


def _serve_until_cut(port: int, upstream: int, cut: Any) -> None:
    open_ones: list[socket.socket] = []

    def watch() -> None:
        while True:
            cut.wait()
            while open_ones:
                end = open_ones.pop()
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            time.sleep(0.001)

    threading.Thread(target=watch, daemon=True).start()
    with socket.create_server((HOST, port), backlog=128) as listener:
        while True:
            client, _ = listener.accept()
            if cut.is_set():
                client.close()
                continue
            server = socket.create_connection((HOST, upstream))
            open_ones.extend((client, server))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=_pump, args=(source, sink, None, 0, 0.0), daemon=True).start()


def _serve(port: int, upstream: int, every: int, delay_s: float) -> None:
    replies = itertools.count(1)
    with socket.create_server((HOST, port), backlog=128) as listener:
        while True:
            client, _ = listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = socket.create_connection((HOST, upstream))
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_pump, args=(client, server, None, 0, 0.0), daemon=True).start()
            threading.Thread(target=_pump, args=(server, client, replies, every, delay_s), daemon=True).start()


def _pump(
    source: socket.socket, sink: socket.socket, replies: Iterator[int] | None, every: int, delay_s: float
) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            if replies is not None and next(replies) % every == 0:
                time.sleep(delay_s)
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
