"""Memcached processes of the benchmarks' own: loopback only, free ports, ended by their own pid."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

HOST = "127.0.0.1"
START_LIMIT_S = 5.0
START_ATTEMPTS = 5
PORTS = (20_000, 32_000)


class MemcachedProcess:
    """One memcached process on a loopback port.

    Args:
        port: the TCP port; 0 looks for a free one.
        memory_mb: what the server may hold, in MiB.
    """

    def __init__(self, port: int = 0, memory_mb: int = 64) -> None:
        self.port = port
        self.memory_mb = memory_mb
        self._process: subprocess.Popen[bytes] | None = None
        self._start_somewhere(1 if port else START_ATTEMPTS)

    def _start_somewhere(self, attempts: int) -> None:
        """Another process may take a free port before our own does: then try the next one."""
        for left in reversed(range(attempts)):
            if attempts > 1:
                self.port = free_port()
            try:
                self.start()
                return
            except RuntimeError:
                self.kill()
                if not left:
                    raise

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        """Start the process and wait until this very process answers; RuntimeError when it never does."""
        command = ["memcached", "-l", HOST, "-p", str(self.port), "-U", "0", "-m", str(self.memory_mb), "-t", "1"]
        if os.geteuid() == 0:
            command += ["-u", "nobody"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_port(self.port)
        if stats(self.port)["pid"] != str(self.pid):
            self.kill()
            raise RuntimeError(f"another server answers on port {self.port}")

    def stop(self) -> None:
        """Freeze the process with SIGSTOP: it still accepts connections and never answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End the process at once, as a crash would; harmless when it is gone already."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stats(self) -> Mapping[str, str]:
        return stats(self.port)


def free_port() -> int:
    """A port that nobody listens on, below the range from which the kernel takes the ports of outgoing connections."""
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), timeout=0.2).close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise RuntimeError(f"memcached did not answer on port {port} within {START_LIMIT_S} s")


def stats(port: int, timeout_s: float = 1.0) -> Mapping[str, str]:
    """Ask a server for `stats` over a connection of its own."""
    with socket.create_connection((HOST, port), timeout=timeout_s) as connection:
        connection.sendall(b"stats\r\n")
        answer = b""
        while not answer.endswith(b"END\r\n"):
            chunk = connection.recv(65536)
            if not chunk:
                raise ConnectionError(f"the server on port {port} closed the connection")
            answer += chunk
    lines = (line.split(" ", 2) for line in answer.decode().splitlines() if line.startswith("STAT "))
    return {name: value for _, name, value in lines}


@contextmanager
def servers(count: int, memory_mb: int = 64) -> Iterator[list[MemcachedProcess]]:
    """Run `count` servers for the length of a with block."""
    with ExitStack() as stack:
        running: list[MemcachedProcess] = []
        while len(running) < count:
            running.append(MemcachedProcess(memory_mb=memory_mb))
            stack.callback(running[-1].kill)
        yield running
