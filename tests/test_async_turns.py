"""Hits of one loop turn under tags, namespaces and functions, as the server sees them and as the callers do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import pytest
from support.scripted import ScriptedServer

from cachekit import Cache, Policy
from cachekit.aio.turns import Turn
from cachekit.embedded import EmbeddedServer
from cachekit.keys.tags import tag_key
from cachekit.ops import BATCH_KEYS

_NUMBER = re.compile(rb" E\d+")
_QUESTION = re.compile(rb"mg (\S+) c N")
CALLS = 20


class Scene:
    """A cache on one server that a test can listen to; ``between`` is called with it when all reads of a request were
    answered, and before the first question behind them; ``changed`` may alter an answer, by the key that was asked for.
    """

    def __init__(self) -> None:
        self.behind = EmbeddedServer()
        self.between: Callable[[EmbeddedServer], object] = lambda server: None
        self.changed: Callable[[bytes, bytes], bytes] = lambda key, answer: answer
        self.runs: list[int] = []
        self.accepted = 0

    def answer(self, request: bytes) -> Iterable[object]:
        """What the server says."""
        answers, reading = [], True
        for line in [request] if b"ms " in request else request.splitlines(keepends=True):
            question = _QUESTION.match(line)
            if question and reading:
                reading = False
                self.between(self.behind)
            answers.append(self.behind.handle(_NUMBER.sub(b"", line)))
            if question:
                answers[-1] = self.changed(question[1], answers[-1])
        return [b"".join(answers)]

    def run(self, main: Callable[[Cache], Coroutine[Any, Any, None]], version: bytes = b"1.6.18") -> list[bytes]:
        """The requests that ``main`` makes."""
        with ScriptedServer(self.answer, version=version) as server:

            async def whole() -> None:
                async with Cache(server.url + "?deadline=5s", prefix="app") as cache:
                    await main(cache)

            asyncio.run(whole())
            self.accepted = server.accepted
            return list(server.requests)

    def cached(self, cache: Cache, name: str = "report", **options: Any) -> Any:
        """A function whose runs are noted."""

        async def function(n: int) -> int:
            self.runs.append(n)
            return n

        function.__qualname__ = name
        return cache(ttl=60, **options)(function)


async def together(*functions: Any) -> None:
    """All calls of all ``functions``, in one turn."""
    calls = [function(n) for n in range(CALLS) for function in functions]
    assert await asyncio.gather(*calls) == [n for n in range(CALLS) for _ in functions]


def last(requests: list[bytes]) -> list[bytes]:
    """The lines of the last request that reads."""
    return [each for each in requests if each.startswith(b"mg ")][-1].splitlines()


@pytest.mark.parametrize("version", [b"1.6.18", b"1.6.45"])
def test_a_turn_asks_for_each_record_once_and_behind_all_reads(version: bytes) -> None:
    """Records of tags that all bear or one, of several functions and namespaces."""
    scene = Scene()

    async def main(cache: Cache) -> None:
        one = scene.cached(cache, "one", tags=["n:{n}", "all"], namespace="fr")
        two = scene.cached(cache, "two", tags=lambda n: [f"n:{n}", f"odd:{n % 2}"])
        three, four = scene.cached(cache, "three"), scene.cached(cache, "four", policy=Policy(group=False))
        await together(one, two, three, four)
        assert len(scene.runs) == 4 * CALLS
        await together(one, two, three, four)
        assert len(scene.runs) == 4 * CALLS
        assert one.info().hits == two.info().hits == three.info().hits == four.info().hits == CALLS

    lines = last(scene.run(main, version))
    asked = [found[1] for line in lines if (found := _QUESTION.match(line))]
    assert all(_QUESTION.match(line) is None for line in lines[: 4 * CALLS])
    assert len(asked) == len(lines) - 4 * CALLS == len(set(asked)) == CALLS + 1 + 2 + 3 + 1
    assert all((b" E" in line) is (version == b"1.6.45") for line in lines)


@pytest.mark.parametrize("record", ["n:3", "odd:1", "all"])
@pytest.mark.parametrize("soft", [False, True])
def test_a_bump_between_two_turns_voids_the_entries_under_it(record: str, soft: bool) -> None:
    """And no others."""
    scene = Scene()

    async def main(cache: Cache) -> None:
        tagged = scene.cached(cache, "tagged", tags=lambda n: [f"n:{n}", f"odd:{n % 2}", "all"], stale=60)
        other = scene.cached(cache, "other", tags=["some"])
        await together(tagged, other)
        scene.runs.clear()
        await (cache.aio.expire_tags(record) if soft else cache.aio.invalidate_tags(record))
        await together(tagged, other)
        void = {"n:3": [3], "odd:1": [n for n in range(CALLS) if n % 2], "all": list(range(CALLS))}[record]
        assert sorted(scene.runs) == void
        await together(tagged, other)
        assert sorted(scene.runs) == void

    scene.run(main)


@pytest.mark.parametrize("record", ["n:3", "all"])
def test_a_bump_behind_the_reads_of_a_turn_voids_them(record: str) -> None:
    """The record is asked for later than every read, so none that was made before the bump is served."""
    scene = Scene()

    async def main(cache: Cache) -> None:
        tagged = scene.cached(cache, "tagged", tags=["n:{n}", "all"])
        other = scene.cached(cache, "other", tags=["some"])
        await together(tagged, other)
        scene.runs.clear()
        key = tag_key(b"app", record)
        voids = [b"md %b\r\n" % key]
        scene.between = lambda server: server.handle(voids.pop()) if voids else None
        await together(tagged, other)
        assert sorted(scene.runs) == ([3] if record == "n:3" else list(range(CALLS)))

    scene.run(main)


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [(b"SERVER_ERROR out of memory\r\n", 1), (b"HD c5 O99999 Z\r\n", 2), (b"EN\r\n", 2), (b"HD c0 O%b X Z\r\n", 1)],
)
def test_a_strange_answer_about_one_record_concerns_those_under_it(answer: bytes, accepted: int) -> None:
    """They run their function; the others have their hits. Where it is another's answer, the connection is closed."""
    scene = Scene()
    key = tag_key(b"app", "n:3")

    def changed(asked: bytes, told: bytes) -> bytes:
        found = re.search(rb" O(\d+)", told)
        assert found is not None
        return answer.replace(b"%b", found[1]) if asked == key else told

    async def main(cache: Cache) -> None:
        tagged = scene.cached(cache, "tagged", tags=["n:{n}", "all"])
        await together(tagged)
        scene.runs.clear()
        scene.changed = changed
        await together(tagged)
        assert scene.runs == [3]
        assert tagged.info().hits == CALLS - 1
        scene.changed = Scene().changed
        await together(tagged)
        assert tagged.info().hits in (2 * CALLS - 1, 2 * CALLS - 2)

    scene.run(main)
    assert scene.accepted == accepted


def test_the_lease_of_who_is_cancelled_is_given_back() -> None:
    """Also where his turn's records were made by it: the next caller runs at once."""
    scene = Scene()

    async def main(cache: Cache) -> None:
        tagged = scene.cached(cache, "tagged", tags=["n:{n}", "all"])
        await cache.aio.set("open", 1)
        tasks = [asyncio.create_task(tagged(n)) for n in range(CALLS)]
        await asyncio.sleep(0)
        for task in tasks[1:]:
            task.cancel()
        assert await tasks[0] == 0
        assert all(
            isinstance(each, asyncio.CancelledError)
            for each in await asyncio.gather(*tasks[1:], return_exceptions=True)
        )
        await asyncio.wait_for(together(tagged), 4)
        assert sorted(scene.runs) == list(range(CALLS))
        assert tagged.info().waits == 0

    requests = scene.run(main)
    assert b"".join(requests).count(b"md app:") == CALLS - 1


def test_tags_are_asked_of_the_caller_once_a_call() -> None:
    """A function that names others the second time would have entries stand under what was never read."""
    scene = Scene()
    named: list[int] = []

    def tags(n: int) -> list[str]:
        named.append(n)
        return [f"call:{len(named)}"]

    async def main(cache: Cache) -> None:
        await together(scene.cached(cache, "tagged", tags=tags))
        assert len(named) == CALLS

    scene.run(main)


def test_a_namespace_of_some_calls_may_be_that_of_a_function() -> None:
    """One record, whichever way it is named."""
    scene = Scene()

    async def main(cache: Cache) -> None:
        one = scene.cached(cache, "one", namespace="fr")
        two = scene.cached(cache, "two", namespace=lambda n: "fr")
        await together(one, two)
        await together(one, two)
        assert len(scene.runs) == 2 * CALLS
        await cache.aio.invalidate_namespace("fr")
        await together(one, two)
        assert len(scene.runs) == 4 * CALLS
        assert one.info().hits == two.info().hits == CALLS

    scene.run(main)


def test_more_records_than_a_request_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """They go out in several; everybody has his own hit."""
    scene, request, sizes = Scene(), Turn.request, list[int]()

    def counted(turn: Turn) -> bytes:
        sizes.append(request(turn).count(b"\n"))
        return request(turn)

    monkeypatch.setattr(Turn, "request", counted)

    async def main(cache: Cache) -> None:
        tagged = scene.cached(cache, "tagged", tags=lambda n: [f"t:{n}:{at}" for at in range(15)])
        await together(tagged)
        await together(tagged)
        assert len(scene.runs) == tagged.info().hits == CALLS

    scene.run(main)
    assert CALLS < max(sizes) <= BATCH_KEYS
