"""Fleets of an event loop on servers of a test's choice, and what a test asks of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.memcached import Memcached, make_certificate, start_memcached

from cachekit import Unreachable
from cachekit.addresses import parse_target
from cachekit.aio.connection import AsyncConnection
from cachekit.aio.fleet import AsyncFleet
from cachekit.hooks import Hooks
from cachekit.ops import Exchange
from cachekit.roster import Roster

MN = Exchange(0, b"mn\r\n", 1, None, retry=True)
ONCE = MN._replace(retry=False)


class Quiet(Roster):
    """A roster whose servers stay down until the test says otherwise."""

    def try_server(self, index: int) -> None:
        raise Unreachable(f"{self.names[index]} is not tried", server=self.names[index])


def roster_of(*names: str, deadline: str = "30s") -> Quiet:
    """A roster of these servers, in this order where the names are sorted."""
    return Quiet(parse_target(f"memcached://{','.join(names)}?deadline={deadline}"), Hooks())


def strikes(fleet: AsyncFleet, index: int = 0) -> int:
    """How many failures in a row are held against a server."""
    return fleet.roster.health[index].strikes


def connection_of(fleet: AsyncFleet, index: int = 0) -> AsyncConnection:
    """The open connection to a server."""
    line = fleet.lines[index]
    assert isinstance(line, AsyncConnection)
    return line


async def failure(work: Any) -> type[BaseException]:
    """The type of what ``work`` raises."""
    with pytest.raises(BaseException) as caught:
        await work
    return caught.type


def answers(*given: bytes | None) -> Callable[[bytes], bytes | None]:
    """A script: one answer after the other, the last of them for ever."""
    left = list(given)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture(name="mortal")
def mortal_fixture() -> Iterator[Memcached]:
    """A server of the test's own, to stop and kill."""
    with start_memcached() as server:
        yield server


@pytest.fixture(scope="module", name="tls_server")
def tls_server_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Memcached, str]]:
    """A real server that speaks TLS, and the path of the certificate to believe."""
    folder = tmp_path_factory.mktemp("tls")
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
    certificate = make_certificate(folder)
    with start_memcached(*certificate.options) as server:
        yield server, certificate.cert
