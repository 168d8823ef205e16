"""The baseline of asyncio as a contestant, on the default loop and on uvloop."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.adapters.base import AsyncAdapter, Function, awaitable, library
from benchmarks.raw_aio import RawPipeline, raw_aio_decorator

uvloop = library("uvloop")


class RawAio(AsyncAdapter):
    """The raw pipelined connection to one server."""

    name = "raw (asyncio)"
    decorated_by_hand = False
    ring = False
    verbs = frozenset({"get", "set", "delete"})
    bytes_keys = True

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        super().__init__(addresses)
        self.client = client = self.wait(RawPipeline.connect(addresses[0]))
        self.get, self.set, self.delete = client.get, client.set, client.delete

    def decorate(self, function: Function) -> Function:
        return raw_aio_decorator(self.client)(awaitable(function))

    def close(self) -> None:
        self.client.close()
        super().close()


class RawUvloop(RawAio):
    name = "raw (uvloop)"
    new_loop = uvloop.new_event_loop


ADAPTERS = ()
CROWDS = (RawAio, RawUvloop)
