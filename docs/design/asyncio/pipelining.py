"""What a hundred requests cost one server, by the way they are put; and one write a turn against one a request.

Run from the project's root: ``python docs/design/asyncio/pipelining.py``. Needs memcached, and Linux: the server's own
time is read from /proc. Rounds of all ways are interleaved; each line is the median of the rounds.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[3]))

from benchmarks.servers import MemcachedProcess, servers

KEYS = 100
ROUNDS = 15
REPEATS = 200


def ways() -> dict[str, bytes]:
    """A hundred reads in one write, each way with the same values."""
    keys = [b"key:%d" % number for number in range(KEYS)]
    generation = b"mg gen c N0 O1\r\n"
    read = b"mg %b c f t v N300 O1\r\n"
    return {
        "100 × get": b"".join(b"get %b\r\n" % key for key in keys),
        "get of 100 keys": b"get " + b" ".join(keys) + b"\r\n",
        "100 × mg v": b"".join(b"mg %b v\r\n" % key for key in keys),
        "100 × (mg c f t v N O, mg generation)": b"".join(read % key + generation for key in keys),
        "100 × mg c f t v N O, then one mg generation": b"".join(read % key for key in keys) + generation,
    }


def server_s(server: MemcachedProcess) -> float:
    """Seconds of CPU that the server has used."""
    words = Path(f"/proc/{server.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def ask(sock: socket.socket, request: bytes, size: int) -> int:
    """Send, and read the whole answer; how many reads that took."""
    sock.sendall(request)
    reads = 0
    while size > 0:
        size -= len(sock.recv(1 << 20))
        reads += 1
    return reads


def measure_requests(server: MemcachedProcess) -> None:
    host, port = "127.0.0.1", server.port
    with socket.create_connection((host, port)) as sock:
        for number in range(KEYS):
            sock.sendall(b"set key:%d 0 0 100\r\n%b\r\n" % (number, os.urandom(50).hex().encode()))
            sock.recv(64)
        sizes = {}
        for name, request in ways().items():
            sock.sendall(request)
            time.sleep(0.2)
            sizes[name] = len(sock.recv(1 << 20))
        spent: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sizes}
        for _ in range(ROUNDS):
            for name, request in ways().items():
                before, began = server_s(server), time.perf_counter()
                reads = sum(ask(sock, request, sizes[name]) for _ in range(REPEATS))
                wall = time.perf_counter() - began
                each = REPEATS * KEYS
                spent[name].append((wall / each * 1e6, (server_s(server) - before) / each * 1e6, reads / REPEATS))
    print(f"{'':46} {'µs a key':>9} {'of the server':>14} {'reads':>6}")
    for name, found in spent.items():
        wall, cpu, reads = (median(column) for column in zip(*found, strict=True))
        print(f"{name:46} {wall:9.2f} {cpu:14.2f} {reads:6.1f}")


async def measure_writes(server: MemcachedProcess) -> None:
    """A hundred reads by one write a turn of the loop, and by a write each."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    requests = [b"mg key:%d v\r\n" % number for number in range(KEYS)]
    spent: dict[str, list[float]] = {"a write a request": [], "a write a turn": []}

    async def read_all() -> None:
        for _ in range(KEYS):
            await reader.readuntil(b"\r\n")
            await reader.readexactly(102)

    for _ in range(ROUNDS):
        for name, found in spent.items():
            began = time.perf_counter()
            for _ in range(REPEATS // 4):
                if name == "a write a turn":
                    writer.write(b"".join(requests))
                else:
                    for request in requests:
                        writer.write(request)
                await read_all()
            found.append((time.perf_counter() - began) / (REPEATS // 4 * KEYS) * 1e6)
    writer.close()
    for name, found in spent.items():
        print(f"{name:46} {median(found):9.2f}")


def main() -> None:
    with servers(1) as (server,):
        measure_requests(server)
        asyncio.run(measure_writes(server))


if __name__ == "__main__":
    main()
