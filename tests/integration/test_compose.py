"""What the containers of docker-compose.yml do when they are paused, killed and started: the ground under R2 and R3.

Raw sockets only, so that a failure here is about the servers and one elsewhere about cachekit.
"""

from __future__ import annotations

import pytest
from support.compose import SERVERS, Compose, RawConnection


def test_every_server_speaks_meta(compose: Compose) -> None:
    """Three servers and a gutter, on ports of their own, answer meta commands and are Memcached 1.6."""
    assert len(set(compose.ports.values())) == 4
    for port in compose.ports.values():
        with RawConnection(port) as connection:
            assert connection.ask(b"mn") == b"MN"
            assert connection.ask(b"version").startswith(b"VERSION 1.6.")


def test_servers_share_nothing(compose: Compose) -> None:
    """What one server holds no other has."""
    first, *others = SERVERS
    with RawConnection(compose.ports[first]) as connection:
        assert connection.ask(b"ms greeting 5 T60", b"hello") == b"HD"
        assert connection.ask(b"mg greeting v") == b"VA 5"
    for service in others:
        with RawConnection(compose.ports[service]) as connection:
            assert connection.ask(b"mg greeting v") == b"EN"


def test_one_lease_is_given(compose: Compose) -> None:
    """On nothing, `N` gives the lease to the first who asks (W) and tells the next that it is taken (Z)."""
    with RawConnection(compose.ports["memcached1"]) as one, RawConnection(compose.ports["memcached1"]) as other:
        assert one.ask(b"mg cold v t N30") == b"VA 0 t-1 W"
        assert one.line() == b""
        assert other.ask(b"mg cold v t N30").endswith(b" Z")


def test_a_paused_server_accepts_and_is_silent(compose: Compose) -> None:
    """A frozen server still accepts connections, so only a timeout helps; thawed, it answers with what it held."""
    port = compose.ports["memcached2"]
    with RawConnection(port) as connection:
        assert connection.ask(b"ms kept 1 T60", b"x") == b"HD"
    compose.pause("memcached2")
    with RawConnection(port, timeout_s=0.3) as connection:
        connection.send(b"mg kept v")
        with pytest.raises(TimeoutError):
            connection.line()
    compose.unpause("memcached2")
    with RawConnection(port) as connection:
        assert connection.ask(b"mg kept v") == b"VA 1"


def test_a_killed_server_comes_back_empty_on_its_port(compose: Compose) -> None:
    """A killed server hangs up and refuses; started again it has its old port, nothing in it, and new CAS numbers."""
    port = compose.ports["memcached3"]
    with RawConnection(port) as old:
        assert old.ask(b"ms lost 1 T60", b"x") == b"HD"
        compose.kill("memcached3")
        with pytest.raises(OSError):
            old.ask(b"mn")
    with pytest.raises(OSError), RawConnection(port) as refused:
        refused.ask(b"mn")
    compose.start("memcached3")
    with RawConnection(port) as connection:
        assert connection.ask(b"mg lost v") == b"EN"
        assert connection.ask(b"mg lost c N30") == b"HD c1 W"


def test_the_others_go_on(compose: Compose) -> None:
    """While one server is dead and one is frozen, the third and the gutter answer."""
    compose.kill("memcached1")
    compose.pause("memcached2")
    for service in ("memcached3", "gutter"):
        with RawConnection(compose.ports[service]) as connection:
            assert connection.ask(b"mn") == b"MN"
