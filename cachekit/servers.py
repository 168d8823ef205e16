"""Servers: one, how to speak TLS to it, and where a cache lives. Plain values; ``addresses`` makes them out of text.

The canonical name of a server decides where keys live (ring.py), so two spellings of one address have one name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, Literal, NoReturn

from cachekit.errors import ConfigurationError
from cachekit.frozen import Frozen

DEFAULT_PORT: Final = 11211
MAX_WEIGHT: Final = 1_000_000.0


def bad(what: str, piece: object, hint: str = "") -> NoReturn:
    """Raise the error that says what is wrong, shows the piece, and hints at what to write."""
    raise ConfigurationError(f"{what}: {piece!r}{hint and f' ({hint})'}")


def check_weight(weight: float, piece: object) -> None:
    """Raise ConfigurationError for a weight that no server can have."""
    if not (isinstance(weight, int | float) and math.isfinite(weight) and 0 < weight <= MAX_WEIGHT):
        bad("a weight is a number above 0, at most a million", piece)


class Tls(Frozen):
    """How to speak TLS to a server: paths of PEM files, and whom to believe.

    ``ca`` is what the server's certificate is checked against (default: the system's store), ``cert`` and ``key`` are
    our own, ``verify=False`` accepts any certificate, ``server_name`` is expected in it instead of the host.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True
    server_name: str | None = None


class Server(Frozen):
    """One server: a TCP address or the path of a UNIX socket, and its weight in the ring.

    ``name`` is the canonical spelling: ``10.0.0.1:11211``, ``[::1]:11211``, ``unix:/run/m.sock``. ``Cache`` finds it
    out of the address, whatever is written here. ``weight``: the share of the keys beside the others', above 0.

    Raises ``ConfigurationError`` for both an address and a path, or neither, and for a weight that can't be.
    """

    name: str
    host: str | None = None
    port: int | None = None
    path: str | None = None
    weight: float = 1.0
    tls: Tls | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.host is None or self.port is None):
            bad("a Server has either a host and a port, or a path", self.name)
        check_weight(self.weight, self.name)

    @property
    def address(self) -> tuple[str, int] | str:
        """What ``socket.connect`` and pymemcache take: ``(host, port)``, or the path of a UNIX socket."""
        if self.path is not None:
            return self.path
        return str(self.host), self.port or DEFAULT_PORT


class Options(Frozen):
    """What a query says for the whole ring.

    ``deadline_s``: seconds that one exchange with the servers may take, connecting included. ``max_value_bytes``: the
    largest value that is sent (Memcached's own limit, ``-I``, is 1 MiB by default). ``memory_bytes``: what the embedded
    server may hold. ``watch``: invalidations are sent so that watchers see them, and near tiers watch the servers.
    """

    deadline_s: float = 0.25
    max_value_bytes: int = 1 << 20
    memory_bytes: int = 64 << 20
    watch: bool = False


class Target(Frozen):
    """Where a cache lives: the embedded server, or a ring of Memcached servers in canonical order."""

    scheme: Literal["memory", "memcached"]
    servers: tuple[Server, ...] = ()
    options: Options = Options()


def unique_servers(servers: Iterable[Server]) -> tuple[Server, ...]:
    """Each server once, in the order of their names, which is independent of the order given.

    Raises ConfigurationError where one server is given twice with different weights or TLS.
    """
    found: dict[str, Server] = {}
    for server in servers:
        other = found.setdefault(server.name, server)
        if other.weight != server.weight:
            pair = f"{server.name}: {other.weight} and {server.weight}"
            bad("a server is given twice, with different weights", pair)
        if other.tls != server.tls:
            bad("a server is given twice, with different TLS options", server.name)
    return tuple(found[name] for name in sorted(found))
