"""What a promise is kept on: the embedded server, one real server, three of them, a UNIX socket.

A test module takes the fixtures by importing their functions; the names in tests are ``target`` (a URL) and ``make``,
which makes caches on it, each under a prefix of its own, and closes them when the test is over. The tests of
tests/contract have them without import, and have each test run in event loops too (support/shells.py).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from support.memcached import Memcached, start_memcached
from support.shells import Shell

from cachekit import Cache

TARGETS = ("embedded", "one", "three", "unix")

_PREFIXES = count(1)

Make = Callable[..., Cache]


def url_of(*servers: Memcached) -> str:
    """The URL of a ring of these servers."""
    if servers[0].path is not None:
        return f"unix://{servers[0].path}"
    return "memcached://" + ",".join(server.name for server in servers)


def own_prefix() -> str:
    """A prefix that no other test uses, so that shared servers need not be emptied."""
    return f"t{os.getpid()}-{next(_PREFIXES)}"


@pytest.fixture(scope="session", name="unix_server")
def unix_server_fixture() -> Iterator[Memcached]:
    """A real memcached on a UNIX socket. Its path must be short, and memcached's user must get into the folder."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        with start_memcached("-s", os.path.join(folder, "m.sock"), "-a", "0777") as running:
            yield running


@pytest.fixture(name="target", params=TARGETS)
def target_fixture(request: pytest.FixtureRequest) -> str:
    """The URL of each kind of target in turn."""
    return target_named(request.param, request)


def target_named(name: str, request: pytest.FixtureRequest) -> str:
    """The URL of that kind of target."""
    if name == "embedded":
        return "memory:"
    if name == "three":
        return url_of(*request.getfixturevalue("servers3"))
    return url_of(request.getfixturevalue("server" if name == "one" else "unix_server"))


@pytest.fixture(name="make")
def make_fixture(target: str, shell: Shell) -> Iterator[Make]:
    """Makes caches on the target for the shell: ``make(policy=…)``; a long deadline, since test machines are slow now
    and then.
    """
    caches: list[Cache] = []

    def make(**options: Any) -> Cache:
        cache = Cache(f"{target}?deadline=5s", **{"prefix": own_prefix(), **options})
        caches.append(shell.around(cache))
        return caches[-1]

    yield make
    for cache in caches:
        cache.close()


def cached(cache: Cache, **options: Any) -> tuple[Any, list[int]]:
    """A cached function of one number, and the list of the numbers it ran for."""
    runs: list[int] = []

    @cache(**options)
    def square(n: int, *, plus: int = 0) -> int:
        runs.append(n)
        return n * n + plus

    return square, runs
