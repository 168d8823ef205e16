"""The two servers that must not be told apart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.memcached import Memcached, read_until_mn, start_memcached
from support.scripts import Peer

from cachekit.embedded import EmbeddedServer


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
