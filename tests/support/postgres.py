"""A throw-away PostgreSQL for tests: a cluster in a temporary folder, on a loopback port, ended with the tests.

It is made by the programs of the Debian package, which need not be on the path, and the server that the package may
have started itself is left alone. PostgreSQL refuses to run as root, so there it runs as the user ``postgres``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any

from support.memcached import free_port
from support.threads import eventually

_GUARD = """
exec 3<&0
"$@" </dev/null & server=$!
{ cat <&3; kill -QUIT $server; } >/dev/null 2>&1 & guard=$!
wait $server
kill $guard
"""
"""Ends the server when its standard input is closed: also where the tests are killed, and end nothing themselves."""

_START_S = 60.0
_ATTEMPTS = 3


class Postgres:
    """A running PostgreSQL, with a user and a database ``test`` and no password."""

    def __init__(self, port: int) -> None:
        self.port = port

    def url(self, driver: str = "postgresql+psycopg") -> str:
        """Where it is, as SQLAlchemy writes it."""
        return f"{driver}://test@127.0.0.1:{self.port}/test"


def program(name: str) -> str:
    """Where a program of PostgreSQL is, of the newest version that is installed; a RuntimeError with the command to
    install it if it is nowhere.
    """

    def version(path: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", path)]

    found = sorted(glob(f"/usr/lib/postgresql/*/bin/{name}"), key=version)
    where = found[-1] if found else shutil.which(name)
    if where is None:
        raise RuntimeError("these tests need PostgreSQL: apt-get install -y postgresql")
    return where


@contextmanager
def start_postgres() -> Iterator[Postgres]:
    """Make a cluster, start it, wait until it answers; end it and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="cachekit-pg-") as folder:
        data = os.path.join(folder, "data")
        if (user := _user()) is not None:
            shutil.chown(folder, user, user)
        _run("initdb", "-D", data, "-U", "test", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        process, port = _start(data, folder)
        try:
            _run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "test", "test")
            yield Postgres(port)
        finally:
            _end(process)


def _start(data: str, folder: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start it on a port of its own."""
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": folder,
        "fsync": "off",
        "max_connections": "40",
        "max_prepared_transactions": "8",
        "shared_buffers": "16MB",
    }
    options = [f"-c{name}={value}" for name, value in settings.items()]
    for attempt in range(_ATTEMPTS):
        port = free_port()
        log = Path(folder, "log")
        with log.open("wb") as said:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "guard", program("postgres"), "-D", data, *options, f"-cport={port}"],
                stdin=subprocess.PIPE, stdout=said, stderr=said, cwd="/", **_as_user(),
            )  # fmt: skip
        if _begins(process, port):
            return process, port
        _end(process)
        # Between finding a free port and binding it somebody else may have been quicker.
        if attempt == _ATTEMPTS - 1:
            raise RuntimeError(f"PostgreSQL did not start: {log.read_text(errors='replace')[-2000:]}")
    raise AssertionError("unreachable")


def _begins(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether it comes to answer, and not to an end."""
    return eventually(lambda: process.poll() is not None or _answers(port), _START_S) and process.poll() is None


def _answers(port: int) -> bool:
    try:
        _run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port))
    except RuntimeError:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it at once, its own children before it."""
    if process.stdin is not None:
        process.stdin.close()
    process.wait(_START_S)


def _user() -> str | None:
    """As whom it runs; None: as who runs the tests."""
    return "postgres" if hasattr(os, "geteuid") and os.geteuid() == 0 else None


def _as_user() -> dict[str, Any]:
    user = _user()
    return {} if user is None else {"user": user, "group": user, "extra_groups": []}


def _run(name: str, *args: str) -> None:
    """Run a program of PostgreSQL to its end. Raises RuntimeError with what it said where it fails."""
    done = subprocess.run(
        [program(name), *args], stdin=subprocess.DEVNULL, capture_output=True, cwd="/", timeout=2 * _START_S,
        check=False, **_as_user(),
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{name} failed: {(done.stderr or done.stdout).decode('utf-8', 'replace')[-2000:]}")
