"""What an adapter offers: a peer's own calls under common names, at its own defaults.

`get`, `set`, `delete` and the others are the peer's bound methods wherever its signature allows, so that an adapter
costs nothing.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import wraps
from hashlib import blake2b
from importlib import import_module
from typing import Any, ClassVar, Self
from zlib import crc32

from benchmarks.fake import Hook

Function = Callable[..., Any]
TTL_S = 300


def library(name: str) -> Any:
    """Import a peer by name, untyped: most have no types, and none has to be installed for the type checkers."""
    return import_module(name)


class Adapter:
    """One peer, connected to servers.

    Args:
        addresses: "host:port" of each server; only the first is used where `ring` is False.
        timeout_s: seconds for one operation; None leaves the library's own default.
    """

    name: ClassVar[str]
    ring: ClassVar[bool] = True
    verbs: ClassVar[frozenset[str]] = frozenset({"get", "set", "delete", "get_many", "set_many"})
    decorates: ClassVar[bool] = True
    asynchronous: ClassVar[bool] = False
    bytes_keys: ClassVar[bool] = False
    thread_safe: ClassVar[bool] = True
    decorated_by_hand: ClassVar[bool] = True
    ttl_s: ClassVar[int] = TTL_S

    get: Callable[[Any], Any]
    set: Callable[[Any, bytes], Any]
    delete: Callable[[Any], Any]
    get_many: Callable[[Sequence[Any]], Any]
    set_many: Callable[[Mapping[Any, bytes]], Any]

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        raise NotImplementedError

    @classmethod
    def with_ttl(cls, ttl_s: int) -> type[Self]:
        """The same adapter, whose decorated functions keep their results for another lifetime in seconds."""
        return type(cls.__name__, (cls,), {"ttl_s": ttl_s, "__doc__": cls.__doc__})

    def set_for(self, key: str, value: bytes, ttl_s: int) -> Any:
        """Store with a lifetime in seconds."""
        raise NotImplementedError

    def decorate(self, function: Function) -> Function:
        """Cache a function; written by hand on get and set where the library has no decorator."""
        return by_hand(self.get_or_none, self.put, function)

    def get_or_none(self, key: str) -> Any:
        return self.get(key)

    def put(self, key: str, payload: bytes) -> Any:
        return self.set_for(key, payload, self.ttl_s)

    def close(self) -> None:
        """Drop the connections."""

    def sockets(self) -> list[Hook]:
        """Where the open connections keep what they send and receive with, for the faked socket of cpu.py."""
        raise NotImplementedError(f"{self.name} has no place for a faked socket")

    @property
    def part(self) -> str:
        """An argument of this adapter's own, so that no two share a cached call where they share a way to make keys."""
        return f"{crc32(self.name.encode()):08x}"

    def key(self, text: str) -> Any:
        """A key in the type that the library likes best."""
        return text.encode() if self.bytes_keys else text

    def result(self, answer: Any) -> Any:
        """What a verb answered; a coroutine is awaited."""
        return answer

    # One timed sample: the loops are the same for everyone.

    def gets(self, keys: Sequence[Any]) -> Callable[[], object]:
        return each(self.get, keys)

    def sets(self, keys: Sequence[Any], value: bytes) -> Callable[[], object]:
        store = self.set

        def run() -> None:
            for key in keys:
                store(key, value)

        return run

    def deletes(self, keys: Sequence[Any]) -> Callable[[], object]:
        return each(self.delete, keys)

    def calls(self, function: Function, users: Iterable[int]) -> Callable[[], object]:
        """A sample of a decorated function: it takes its next `user_id`s from `users`."""
        part = self.part

        def run() -> None:
            for user in users:
                function(user, part, month="2026-11")

        return run

    def once(self, verb: Callable[[Any], Any], argument: Any) -> Callable[[], object]:
        return lambda: verb(argument)


class AsyncAdapter(Adapter):
    """A peer with coroutines: a sample is one run of its own event loop, which awaits call after call."""

    asynchronous = True
    new_loop: ClassVar[Callable[[], asyncio.AbstractEventLoop]] = asyncio.new_event_loop

    def __init__(self, addresses: Sequence[str], *, timeout_s: float | None = None) -> None:
        self.loop = type(self).new_loop()

    def result(self, answer: Any) -> Any:
        return self.wait(answer)

    def wait(self, awaitable: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(awaitable)

    def close(self) -> None:
        self.loop.close()

    def gets(self, keys: Sequence[Any]) -> Callable[[], object]:
        return self._each(self.get, keys)

    def sets(self, keys: Sequence[Any], value: bytes) -> Callable[[], object]:
        store = self.set

        async def run() -> None:
            for key in keys:
                await store(key, value)

        return lambda: self.wait(run())

    def deletes(self, keys: Sequence[Any]) -> Callable[[], object]:
        return self._each(self.delete, keys)

    def calls(self, function: Function, users: Iterable[int]) -> Callable[[], object]:
        part = self.part

        async def run() -> None:
            for user in users:
                await function(user, part, month="2026-11")

        return lambda: self.wait(run())

    def once(self, verb: Callable[[Any], Any], argument: Any) -> Callable[[], object]:
        return lambda: self.wait(verb(argument))

    def _each(self, verb: Callable[[Any], Any], arguments: Sequence[Any]) -> Callable[[], object]:
        async def run() -> None:
            for argument in arguments:
                await verb(argument)

        return lambda: self.wait(run())


def each(verb: Callable[[Any], Any], arguments: Sequence[Any]) -> Callable[[], object]:
    def run() -> None:
        for argument in arguments:
            verb(argument)

    return run


def by_hand(get: Callable[[str], Any], put: Callable[[str, bytes], Any], function: Function) -> Function:
    """The decorator that people write themselves: the raw decorator's key and pickle on a client library."""
    loads, dumps = pickle.loads, pickle.dumps

    def wrapper(*args: object, **kwargs: object) -> Any:
        key = blake2b(repr((args, sorted(kwargs.items()))).encode(), digest_size=16).hexdigest()
        payload = get(key)
        if payload is not None:
            return loads(payload)
        result = function(*args, **kwargs)
        put(key, dumps(result, 5))
        return result

    return wrapper


def awaitable(function: Function) -> Function:
    """The function as one with ``async def``."""
    if asyncio.iscoroutinefunction(function):
        return function

    @wraps(function)
    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return coroutine


def split_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
