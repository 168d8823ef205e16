"""Where the promises are kept: the shells and the servers that must not be told apart.

Every test that makes a cache (``make``) runs in threads, in asyncio's event loop and in uvloop's, on the embedded
server and on real ones. A promise that holds in some of them alone names them and the reason: ``only(…, reason=…)``;
test_differences.py lists these.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.memcached import Memcached, read_until_mn, start_memcached
from support.scripts import Peer
from support.shells import ASYNCIO, LOOPS, THREADS, UVLOOP, Shell, shell_named
from support.targets import TARGETS, make_fixture, target_named, unix_server_fixture

from cachekit.embedded import EmbeddedServer

__all__ = ["make_fixture", "unix_server_fixture"]

GROUND = {THREADS: TARGETS, ASYNCIO: ("embedded", "three", "unix"), UVLOOP: ("one", "unix")}
"""The targets of each shell: every pair would take twice the time and tell little more."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test in every shell that it is about, and on every target."""
    asks = set(metafunc.fixturenames)
    if not asks & {"shell", "target"}:
        return
    mark = metafunc.definition.get_closest_marker("only")
    shells = (mark.args if mark is not None else (THREADS, *LOOPS)) if "shell" in asks else (THREADS,)
    places = [(name, target) for name in shells for target in (GROUND[name] if "target" in asks else ("",))]
    metafunc.parametrize("place", places, indirect=True, ids=["-".join(filter(None, place)) for place in places])


@pytest.fixture
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The shell and the target of a test."""
    chosen: tuple[str, str] = request.param
    return chosen


@pytest.fixture
def shell(place: tuple[str, str]) -> Iterator[Shell]:
    """The shell of a test: ``shell.around(cache)`` is the cache to use."""
    running = shell_named(place[0])
    yield running
    running.close()


@pytest.fixture
def target(place: tuple[str, str], request: pytest.FixtureRequest) -> str:
    """The URL of each kind of target in turn."""
    return target_named(place[1], request)


@pytest.fixture(scope="session")
def memcached() -> Iterator[Memcached]:
    with start_memcached() as server:
        yield server


@pytest.fixture(scope="session")
def real(memcached: Memcached) -> Iterator[Peer]:
    with memcached.connect() as sock:

        def ask(request: bytes) -> bytes:
            sock.sendall(request + b"mn\r\n")
            return read_until_mn(sock)

        yield Peer("memcached", ask)


@pytest.fixture
def embedded() -> Peer:
    return Peer("embedded", EmbeddedServer().handle)


@pytest.fixture(params=["embedded", "memcached"])
def peer(request: pytest.FixtureRequest) -> Peer:
    """Each of the two servers in turn."""
    chosen: Peer = request.getfixturevalue({"memcached": "real"}.get(request.param, request.param))
    return chosen
