"""The baselines as contestants."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.adapters.base import Adapter, Function
from benchmarks.fake import Hook
from benchmarks.raw import RawClient, RawRing, raw_decorator


class Raw(Adapter):
    """The raw socket on one server."""

    name = "raw"
    decorated_by_hand = False
    thread_safe = False
    ring = False
    verbs = frozenset({"get", "set", "delete"})
    bytes_keys = True

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        self.client = RawClient(addresses[0])
        self.get, self.set, self.delete = self.client.get, self.client.set, self.client.delete

    def decorate(self, function: Function) -> Function:
        return raw_decorator(self.client)(function)

    def sockets(self) -> list[Hook]:
        return [Hook(self.client, "_sendall", "_receive_into", receive_into=True)]

    def close(self) -> None:
        self.client.close()


class RawOnRing(Adapter):
    """The raw sockets of several servers."""

    name = "raw ring"
    decorated_by_hand = False
    thread_safe = False
    bytes_keys = True

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        self.client = client = RawRing(addresses)
        self.get, self.set, self.delete = client.get, client.set, client.delete
        self.get_many, self.set_many = client.get_many, client.set_many

    def decorate(self, function: Function) -> Function:
        return raw_decorator(self.client)(function)

    def close(self) -> None:
        self.client.close()


class RawInTurn(RawOnRing):
    """The same, but bulk requests go server by server."""

    name = "raw, server by server"
    verbs = frozenset({"get_many", "set_many"})
    decorates = False

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        super().__init__(addresses)
        self.get_many, self.set_many = self.client.get_many_in_turn, self.client.set_many_in_turn


ADAPTERS = (Raw, RawOnRing, RawInTurn)
