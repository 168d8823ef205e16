"""The servers of docker-compose.yml, as tests see them: found by name, paused, killed and started again."""

from __future__ import annotations

import shlex
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
SERVERS = ("memcached1", "memcached2", "memcached3")
GUTTER = "gutter"


@dataclass(frozen=True, slots=True)
class Compose:
    """One running project. ``ports`` are the published ports by service; they stay the same over kill and start."""

    command: str
    file: Path
    project: str
    ports: dict[str, int]

    @property
    def servers(self) -> tuple[str, ...]:
        """The addresses of the three servers, without the gutter."""
        return tuple(f"{HOST}:{self.ports[service]}" for service in SERVERS)

    @property
    def gutter(self) -> str:
        return f"{HOST}:{self.ports[GUTTER]}"

    def pause(self, service: str) -> None:
        """Freeze a server: it still accepts connections and never answers."""
        self._run("pause", service)

    def unpause(self, service: str) -> None:
        self._run("unpause", service)

    def kill(self, service: str) -> None:
        """End a server at once, as a crash would; what it held is lost."""
        self._run("kill", service)

    def start(self, service: str) -> None:
        """Start a killed server and wait until it answers."""
        self._run("start", service)
        self.wait(service)

    def restore(self, service: str) -> None:
        """Bring a server back, whatever a test did to it; nothing happens to one that answers."""
        try:
            self.wait(service, limit_s=0.0)
        except OSError:
            self._run("unpause", service, check=False)
            self.start(service)

    def wait(self, service: str, limit_s: float = 15.0) -> None:
        """Wait until a server answers a meta no-op, at most ``limit_s`` seconds."""
        deadline = time.monotonic() + limit_s
        while True:
            try:
                with RawConnection(self.ports[service]) as connection:
                    connection.ask(b"mn")
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def _run(self, *arguments: str, check: bool = True) -> None:
        command = [*shlex.split(self.command), "-f", str(self.file), "-p", self.project, *arguments]
        subprocess.run(command, check=check, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)


class RawConnection:
    """A socket that speaks one command at a time: what the server says, with nothing of cachekit in between."""

    def __init__(self, port: int, timeout_s: float = 1.0) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=timeout_s)
        self._replies = self.socket.makefile("rb")

    def ask(self, command: bytes, data: bytes | None = None) -> bytes:
        """Send a command line, with its data block if there is one; the reply's first line, without the line end."""
        self.send(command, data)
        return self.line()

    def send(self, command: bytes, data: bytes | None = None) -> None:
        self.socket.sendall(command + b"\r\n" + (b"" if data is None else data + b"\r\n"))

    def line(self) -> bytes:
        """The next line. ``TimeoutError`` when none comes, ``ConnectionResetError`` when the server hung up."""
        line = self._replies.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError(f"the server hung up after {line!r}")
        return line[:-2]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._replies.close()
        self.socket.close()
