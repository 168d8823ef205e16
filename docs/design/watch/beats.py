"""How soon a line of memcached's watch stream comes when little else is written, by how often a beat is sent.

Run from the root of the repository: ``python docs/design/watch/beats.py`` (three minutes; ``--quick``: one). Needs
memcached. The delay is counted from the reply to a store until its line is there, in another connection.
"""

from __future__ import annotations

import random
import socket
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.herd import quantile
from benchmarks.servers import HOST, servers
from cachekit.tombstones import notice, tombstone

BEATS_MS = (0, 200, 100, 50, 25, 10)
ROUNDS = 40 if "--quick" in sys.argv else 150


class Stream:
    """A watcher that sends a beat after so many milliseconds of silence, and notes when which key was seen."""

    def __init__(self, port: int, beat_ms: int) -> None:
        self._stream, self._asking = (socket.create_connection((HOST, port)) for _ in range(2))
        began = time.monotonic()
        self._stream.sendall(b"watch mutations\r\n")
        self._stream.recv(4)
        self.opened_ms = (time.monotonic() - began) * 1000
        self._stream.settimeout(beat_ms / 1000 if beat_ms else 0.5)
        self._beats = beat_ms > 0
        self._ended = False
        self._seen: dict[bytes, float] = {}
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        rest = b""
        while not self._ended:
            try:
                data = rest + self._stream.recv(1 << 16)
            except TimeoutError:
                if self._beats:
                    self._asking.sendall(notice(b"beat", 1))
                    self._asking.recv(100)
                continue
            now = time.monotonic()
            *lines, rest = data.split(b"\n")
            with self._change:
                self._seen.update((line.split(b" ")[3], now) for line in lines if b" key=" in line)
                self._change.notify_all()

    def seen_at(self, key: bytes) -> float:
        with self._change:
            self._change.wait_for(lambda: b"key=" + key in self._seen, 5)
            return self._seen[b"key=" + key]

    def end(self) -> None:
        self._ended = True
        self._thread.join()
        self._stream.close()
        self._asking.close()


def row(beat_ms: int) -> str:
    with servers(1) as (server,), socket.create_connection((HOST, server.port)) as writer:
        stream = Stream(server.port, beat_ms)
        time.sleep(2 if beat_ms else 8)
        second = Stream(server.port, 0)
        second.end()
        late = []
        for number in range(ROUNDS if beat_ms else ROUNDS // 4):
            # Far enough apart that these lines alone do not keep the server awake.
            time.sleep(random.uniform(0.5, 1.5) if not beat_ms else random.uniform(2.0, 3.0) * beat_ms / 1000)
            key = b"k%d" % number
            writer.sendall(tombstone(key, 1))
            writer.recv(100)
            stored = time.monotonic()
            late.append(max(0.0, stream.seen_at(key) - stored))
        stream.end()
    late.sort()
    figures = " | ".join(f"{quantile(late, share) * 1000:.1f}" for share in (0.5, 0.9, 0.99))
    return f"| {beat_ms or 'never'} | {len(late)} | {figures} | {late[-1] * 1000:.1f} | {second.opened_ms:.0f} |"


def main() -> None:
    print("| a beat after ms of silence | lines | p50, ms | p90 | p99 | longest | a second watcher's OK, ms |")
    print("|---|---|---|---|---|---|---|")
    for beat_ms in BEATS_MS:
        print(row(beat_ms), flush=True)


if __name__ == "__main__":
    main()
