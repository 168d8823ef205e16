"""pymemcache: one server, a pool, and the hash ring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.adapters.base import Adapter, library, split_address
from benchmarks.fake import Hook

base = library("pymemcache.client.base")
hashed = library("pymemcache.client.hash")


class _Pymemcache(Adapter):
    client: Any

    def bind(self, client: Any) -> None:
        self.client = client
        self.get, self.set, self.delete = client.get, client.set, client.delete
        self.get_many, self.set_many = client.get_many, client.set_many

    def set_for(self, key: str, value: bytes, ttl_s: int) -> Any:
        return self.client.set(key, value, expire=ttl_s)

    def close(self) -> None:
        self.client.close()


def options(timeout_s: float | None) -> dict[str, Any]:
    """Replies are asked for and Nagle's delay is off, as everybody else has it; no timeouts, the library's default."""
    timeouts = {} if timeout_s is None else {"timeout": timeout_s, "connect_timeout": timeout_s}
    return {"default_noreply": False, "no_delay": True, **timeouts}


class Stand:
    """A socket that can be faked: the methods of a real one are slots, so they are looked up here."""

    def __init__(self, sock: Any) -> None:
        self.sendall, self.recv, self.close = sock.sendall, sock.recv, sock.close


def hook_of(client: Any) -> Hook:
    """A `Client` calls `self.sock.sendall` and `self.sock.recv`."""
    if not isinstance(client.sock, Stand):
        client.sock = Stand(client.sock)
    return Hook(client.sock, "sendall", "recv")


class Client(_Pymemcache):
    name = "pymemcache Client"
    thread_safe = False
    ring = False

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        self.bind(base.Client(split_address(addresses[0]), **options(timeout_s)))

    def sockets(self) -> list[Hook]:
        return [hook_of(self.client)]


class PooledClient(_Pymemcache):
    name = "pymemcache PooledClient"
    ring = False

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        self.bind(base.PooledClient(split_address(addresses[0]), max_pool_size=32, **options(timeout_s)))


class HashClient(_Pymemcache):
    name = "pymemcache HashClient"

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        self.bind(hashed.HashClient([split_address(address) for address in addresses], **options(timeout_s)))


ADAPTERS = (Client, PooledClient, HashClient)
