"""The servers that tests run against: real memcached processes on free loopback ports, and the one in this process.

The real ones live as long as the session and are shared, so a test uses keys of its own, or `fresh_server` and
`fresh_servers3`, which are the same processes, emptied. A test that stops or kills a server starts its own, with
`support.memcached.start_memcached`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from support.memcached import Memcached, start_memcached
from support.postgres import Postgres, start_postgres
from support.shells import Shell

from cachekit.embedded import EmbeddedServer

# A machine that also builds and serves is slow now and then, so examples have no deadline. CI repeats its examples.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_configure(config: pytest.Config) -> None:
    """Make ``only`` of support/shells.py a mark that pytest knows."""
    config.addinivalue_line("markers", "only(*shells, reason): a promise that exists in these shells alone")


@pytest.fixture
def shell() -> Shell:
    """Whom `make` of support/targets.py makes caches for: threads, but in tests/contract."""
    return Shell()


@pytest.fixture(scope="session")
def server() -> Iterator[Memcached]:
    """One real memcached."""
    with start_memcached() as running:
        yield running


@pytest.fixture(scope="session")
def servers3() -> Iterator[tuple[Memcached, Memcached, Memcached]]:
    """Three real memcacheds, for a ring."""
    with start_memcached() as one, start_memcached() as two, start_memcached() as three:
        yield one, two, three


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One real PostgreSQL, on a cluster of its own."""
    with start_postgres() as running:
        yield running


@pytest.fixture
def fresh_server(server: Memcached) -> Memcached:
    """The one real memcached, emptied."""
    server.flush()
    return server


@pytest.fixture
def fresh_servers3(servers3: tuple[Memcached, Memcached, Memcached]) -> tuple[Memcached, Memcached, Memcached]:
    """The three real memcacheds, emptied."""
    for each in servers3:
        each.flush()
    return servers3


@pytest.fixture
def embedded() -> EmbeddedServer:
    """A new Memcached in this process."""
    return EmbeddedServer()
