"""The direct verbs for asyncio: what ``get`` makes of odd answers, where threads and flows have ways of their own."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from support.scripted import HANG, Script, ScriptedServer

from cachekit import (
    MISS,
    Cache,
    ConfigurationError,
    DeadlineExceeded,
    DecodeError,
    ProtocolError,
    Refused,
    RequestError,
)
from cachekit.embedded import EmbeddedServer
from cachekit.hooks import Trouble


def told(
    script: Script, verbs: Callable[[Cache], Any], *, deadline: str = "5s", pause_s: float = 0.0, **options: Any
) -> tuple[Any, list[type[Exception]], int]:
    """What ``verbs`` return on a server that plays ``script``, the troubles they told, and how many connections."""
    with ScriptedServer(script, pause_s=pause_s) as server:
        cache = Cache(f"{server.url}?deadline={deadline}", **options)
        troubles: list[Trouble] = []
        cache.hooks.on_trouble(troubles.append)

        async def main() -> Any:
            try:
                return await verbs(cache)
            finally:
                await cache.aclose()

        outcome = asyncio.run(main())
        return outcome, [type(trouble.error) for trouble in troubles], server.accepted


async def twice(cache: Cache) -> list[Any]:
    """Two reads, of which the first opens the connection as every other verb does, and the second goes the hit path."""
    return [await cache.aio.get("k", MISS) for _ in range(2)]


def second(answer: bytes, *more: object) -> Script:
    """A script that has a miss for the first request, and ``answer`` for the second."""
    answers: list[list[object]] = [[b"END\r\n"], [answer, *more]]
    return lambda _: answers.pop(0) if answers else [b"END\r\n"]


@pytest.mark.parametrize(
    "answer",
    [
        b"VALUE other 0 3\r\nabc\r\nEND\r\n",
        b"VALUE k 0 3\r\nabc\r\nVALUE k 0 3\r\nabc\r\nEND\r\n",
        b"VALUE k 0 3\r\nabcdeEND\r\n",
        b"VALUE k x 3\r\nabc\r\nEND\r\n",
        b"VALUE k 0 x\r\nabc\r\nEND\r\n",
        b"VALUE k 0 3\r\nabc\r\nHD\r\n",
        b"END\r\nEND\r\n",
        b"HD O1\r\n",
        b"VA 3 O1\r\nabc\r\n",
        b"TOUCHED\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"x" * 100_000,
    ],
    ids=lambda answer: repr(answer[:40]),
)
def test_an_answer_to_something_else_closes_the_connection(answer: bytes) -> None:
    """It is no value, and what comes behind it may belong to others; the next read finds a new connection."""

    async def thrice(cache: Cache) -> list[Any]:
        return [*await twice(cache), await cache.aio.get("k", MISS)]

    outcome, troubles, connections = told(second(answer), thrice)
    assert (outcome, connections) == ([MISS] * 3, 2)
    # What stands behind a whole answer was asked by nobody: that read has its own, a miss.
    assert troubles == ([] if answer.startswith(b"END") else [ProtocolError])


def test_a_refusal_leaves_the_connection_to_the_others() -> None:
    """After SERVER_ERROR the stream is in step; it is counted, and is no miss."""
    outcome, troubles, connections = told(second(b"SERVER_ERROR out of memory\r\n"), twice)
    assert (outcome, troubles, connections) == ([MISS, MISS], [Refused], 1)
    with pytest.raises(Refused):
        told(second(b"SERVER_ERROR out of memory\r\n"), twice, on_error="raise")


def test_what_can_not_be_unpacked_is_trouble() -> None:
    """Flags that nobody knows, and no fault of the connection."""
    outcome, troubles, connections = told(second(b"VALUE k 64 3\r\nabc\r\nEND\r\n"), twice)
    assert (outcome, troubles, connections) == ([MISS, MISS], [DecodeError], 1)


def test_a_connection_that_lay_idle_may_have_been_closed() -> None:
    """The read goes over a new one, and nobody hears of it."""
    outcome, troubles, connections = told(second(b"", None), twice)
    assert (outcome, troubles, connections) == ([MISS, MISS], [], 2)


def test_a_silent_server_costs_the_deadline() -> None:
    """And the default is what the read gives then."""
    outcome, troubles, _ = told(second(b"VALUE k 0 3\r\nab", HANG), twice, deadline="100ms")
    assert (outcome, troubles) == ([MISS, MISS], [DeadlineExceeded])


@pytest.mark.parametrize("cut", [1, 5, 6, 8, 10, 11, 12, 13, 14, 16, 17, 18, 20, 21])
def test_an_answer_cut_anywhere_is_read(cut: int) -> None:
    """Value and miss, of the hit path and of every other."""
    server = EmbeddedServer()
    server.handle(b"set k 0 0 3\r\nabc\r\n")

    def script(request: bytes) -> list[object]:
        answer = server.handle(request)
        return [answer[:cut], answer[cut:]]

    async def verbs(cache: Cache) -> list[Any]:
        aio = cache.aio
        return [*await twice(cache), await aio.get("l", MISS), (await aio.gets("k"))[0], await aio.get_many(["k", "l"])]

    outcome, troubles, _ = told(script, verbs, pause_s=0.002)
    assert (outcome, troubles) == ([b"abc", b"abc", MISS, b"abc", {"k": b"abc"}], [])


def test_the_callers_own_mistakes_are_raised_when_they_are_awaited() -> None:
    """As every error of a coroutine."""
    cache = Cache("memory:")

    async def main() -> None:
        aio = cache.aio
        wrongs: list[Coroutine[Any, Any, Any]] = [aio.get("a b"), aio.gets(""), aio.set("", 1), aio.delete("\n")]
        wrongs += [aio.get_many("text"), aio.delete_many("text"), aio.get_or_set("a b", lambda: 1)]
        wrongs += [aio.cas("k", 1, 0), aio.incr("n", -1), aio.decr("n", 1, -1)]
        wrongs += [aio.set("k", 1, ttl=-1), aio.set_many({"k": 1}, ttl="soon"), aio.get_or_set("k", int, ttl=-1)]
        wrongs += [aio.touch("k", ttl=lambda _: 1)]
        for wrong in wrongs:
            assert inspect.iscoroutine(wrong)
            with pytest.raises((RequestError, ConfigurationError)):
                await wrong
        assert await aio.get_many(["k", "n"]) == {}

    asyncio.run(main())


def test_get_or_set_takes_functions_of_both_kinds() -> None:
    """A plain one, a coroutine function, and what returns something to be awaited; each runs once for all tasks."""
    cache = Cache("memory:")
    runs: list[str] = []

    def plain() -> str:
        runs.append("plain")
        return "plain"

    async def coroutine() -> str:
        runs.append("coroutine")
        await asyncio.sleep(0)
        return "coroutine"

    async def main() -> list[str]:
        aio = cache.aio
        asks = [aio.get_or_set("a", plain) for _ in range(5)]
        asks += [aio.get_or_set("b", coroutine) for _ in range(5)]
        asks += [aio.get_or_set("c", lambda: coroutine()) for _ in range(5)]
        return await asyncio.gather(*asks)

    assert asyncio.run(main()) == ["plain"] * 5 + ["coroutine"] * 10
    assert sorted(runs) == ["coroutine", "coroutine", "plain"]
    assert cache.get_many(["a", "b", "c"]) == {"a": "plain", "b": "coroutine", "c": "coroutine"}
