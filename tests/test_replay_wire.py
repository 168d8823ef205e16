"""What goes over the wire to a server that has to be told something first, and for how long it is waited for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from support.outage import unprobed_fixture
from support.scripted import HANG, ScriptedServer
from support.shells import ASYNCIO, LoopShell

from cachekit import MISS, Cache

__all__ = ["unprobed_fixture"]

Get = Callable[[Cache, str], Any]


@pytest.fixture(name="get", params=["threads", "asyncio", "many"])
def get_fixture(request: pytest.FixtureRequest) -> Iterator[Get]:
    """Reads a key: MISS where nothing is stored, or nobody answers."""
    if request.param != "asyncio":
        many = request.param == "many"
        yield lambda cache, key: cache.get_many([key]).get(key, MISS) if many else cache.get(key, MISS)
        return
    loop = LoopShell(ASYNCIO)
    caches: list[Cache] = []

    def get(cache: Cache, key: str) -> Any:
        caches.append(cache)
        return loop.call(cache.aio.get, key, MISS)

    yield get
    for cache in caches:
        loop.call(cache.aclose)
    loop.close()


def acknowledged(request: bytes, code: bytes = b"HD") -> bytes:
    """The replies to deletes."""
    return b"".join([b"%b O%b\r\n" % (code, opaque) for opaque in re.findall(rb"O(\d+)\r\n", request)])


def owing(server: ScriptedServer, *keys: bytes, deadline: str = "5s") -> Cache:
    """A cache that has to tell the server something."""
    cache = Cache(f"{server.url}?deadline={deadline}")
    cache._env.undelivered(0, *keys, soft=False)
    return cache


def test_the_question_comes_after_the_acknowledgement(unprobed: None, get: Get) -> None:
    """Never in one write with what the server is told: it might refuse that, and answer the question."""

    def script(request: bytes) -> Iterable[object]:
        return [acknowledged(request) if request.startswith(b"md ") else b"VALUE k 0 1\r\nx\r\nEND\r\n"]

    with ScriptedServer(script) as server, owing(server, b"k", b"other") as cache:
        assert get(cache, "k") == b"x"
        told, asked = server.requests
        assert re.fullmatch(rb"md k O(\d+)\r\nmd other O\1\r\n", told)
        assert asked.startswith(b"get k\r\n")
        assert cache.stats().replay == {}


@pytest.mark.parametrize("code", [b"SERVER_ERROR busy", b"EX", b"HD O1", b"garbage"])
def test_who_does_not_acknowledge_is_not_asked(unprobed: None, get: Get, code: bytes) -> None:
    """A refusal, another answer, another's token, nonsense: the caller goes without, and the item stays."""

    def script(request: bytes) -> Iterable[object]:
        if not request.startswith(b"md "):
            return [b"VALUE k 0 1\r\nx\r\nEND\r\n"]
        return [code + b"\r\n" if b" " in code or code == b"garbage" else acknowledged(request, code)]

    with ScriptedServer(script) as server, owing(server, b"k") as cache:
        assert get(cache, "k") is MISS
        assert all(request.startswith(b"md k ") for request in server.requests)
        assert list(cache.stats().replay.values()) == [1]


def test_one_deadline_covers_the_telling_and_the_question(unprobed: None, get: Get) -> None:
    """A server that takes most of it to acknowledge leaves the rest to the answer."""

    def script(request: bytes) -> Iterable[object]:
        if not request.startswith(b"md "):
            return [HANG]
        time.sleep(0.6)
        return [acknowledged(request)]

    with ScriptedServer(script) as server, owing(server, b"k", deadline="1s") as cache:
        cache._fleet.versions_known.add(0)
        began = time.monotonic()
        assert get(cache, "k") is MISS
        assert time.monotonic() - began < 1.4
        assert len(server.requests) >= 2


def test_a_connection_that_was_closed_while_it_lay_idle(unprobed: None, get: Get) -> None:
    """The server is told over a new one."""
    closing = [True]

    def script(request: bytes) -> Iterable[object]:
        if request.startswith(b"md "):
            return [None] if closing and closing.pop() else [acknowledged(request)]
        return [b"END\r\n"]

    with ScriptedServer(script) as server, Cache(f"{server.url}?deadline=5s") as cache:
        assert get(cache, "k") is MISS
        cache._env.undelivered(0, b"k", soft=False)
        get(cache, "k")
        assert get(cache, "k") is MISS
        assert cache.stats().replay == {}
