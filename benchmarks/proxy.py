"""A TCP proxy in a process of its own that holds back every n-th reply until the client has given up."""

from __future__ import annotations

import itertools
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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
