"""Calls under way while others invalidate: the near tier never serves what was there before; threads don't harm it."""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from support.memcached import Memcached
from support.scripted import ScriptedServer
from support.targets import own_prefix, url_of
from support.threads import Outcome, eventually

from cachekit import Cache, Near
from cachekit.embedded import EmbeddedServer
from cachekit.errors import Unreachable
from cachekit.near.hub import Hub

LONG = Near(ttl="1h")

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


class Held:
    """A server that answers the next read when it is let go: it has looked before, and the answer is on its way."""

    def __init__(self) -> None:
        self.behind = EmbeddedServer()
        self.holding = False
        self.held, self.go_on = threading.Event(), threading.Event()
        self._lock = threading.Lock()

    def __call__(self, request: bytes) -> Iterable[object]:
        """The script of a ``ScriptedServer``."""
        with self._lock:
            reply = self.behind.handle(request)
            hold, self.holding = self.holding and b" N300 " in request, False
        if hold:
            self.held.set()
            assert self.go_on.wait(20)
        return [reply]


class Race:
    """A function with a near tier whose source changes, and whose entry is read while it is invalidated."""

    def __init__(self, scripted: ScriptedServer, *, asynchronous: bool) -> None:
        self.server: Any = scripted.script
        self.cache = Cache(f"{scripted.url}?deadline=20s", prefix="p")
        self.source = "old"
        self.loop: asyncio.AbstractEventLoop | None = None
        decorate = self.cache(ttl="1h", near=LONG, tags=["item"])
        if asynchronous:
            self.loop = asyncio.new_event_loop()
            self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
            self.thread.start()

            @decorate
            async def aitem(n: int) -> str:
                return self.source

            self.item: Any = aitem
        else:

            @decorate
            def item(n: int) -> str:
                return self.source

            self.item = item

    def do(self, what: Callable[..., Any], *args: Any) -> Any:
        """Call it, in the loop where it is a coroutine."""
        if self.loop is None:
            return what(*args)

        async def main() -> Any:
            return await what(*args)

        return asyncio.run_coroutine_threadsafe(main(), self.loop).result(20)

    def read_while(self, invalidate: Callable[[], Any]) -> str:
        """A read that the server has answered before the source changed and was invalidated, and that arrives later."""
        assert self.do(self.item, 1) == "old"
        assert self.cache._env.near is not None
        self.cache._env.near.touch_all()
        self.server.holding = True
        reading = Outcome(self.do, self.item, 1)
        assert self.server.held.wait(20)
        self.source = "new"
        assert invalidate()
        self.server.go_on.set()
        return str(reading.result())

    def close(self) -> None:
        """End the loop, and the cache's connections."""
        if self.loop is not None:
            self.do(self.cache.aclose)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(20)
            self.loop.close()
        self.cache.close()


@pytest.fixture(name="race", params=["threads", "asyncio"])
def race_fixture(request: pytest.FixtureRequest) -> Iterator[Race]:
    """A race on a server of its own."""
    with ScriptedServer(Held()) as scripted:
        race = Race(scripted, asynchronous=request.param == "asyncio")
        yield race
        race.close()


def verbs(race: Race) -> dict[str, Callable[[], Any]]:
    """Invalidations by this thread, over a connection of its own; of a coroutine function, in another event loop."""

    def do(what: Callable[..., Any], *args: Any) -> Any:
        async def main() -> Any:
            told = await what(*args)
            await race.cache.aclose()
            return told

        return what(*args) if race.loop is None else asyncio.run(main())

    return {
        "invalidate": lambda: do(race.item.invalidate, 1),
        "invalidate_all": lambda: do(race.item.invalidate_all),
        "invalidate_tags": lambda: race.cache.invalidate_tags("item"),
        "delete": lambda: race.cache.delete(race.item.key(1)),
    }


@pytest.mark.parametrize("verb", ["invalidate", "invalidate_all", "invalidate_tags", "delete"])
def test_a_read_under_way_does_not_bring_the_old_value_back(race: Race, verb: str) -> None:
    """Its own caller began before the invalidation and may have the old value; nobody after it does."""
    assert race.read_while(verbs(race)[verb]) == "old"
    assert [race.do(race.item, 1) for _ in range(3)] == ["new"] * 3


@pytest.mark.parametrize("verb", ["invalidate", "invalidate_all"])
def test_without_the_look_at_the_epoch_it_would(race: Race, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can see it: with the guard taken out the old value is served for an hour."""
    monkeypatch.setattr(Hub, "_touched_since", lambda hub, number, *_: hub._floor > number)
    assert race.read_while(verbs(race)[verb]) == "old"
    assert race.do(race.item, 1) == "old"


def test_threads_see_no_older_value_than_was_invalidated(server: Memcached) -> None:
    """Each writes to its own key in the source, invalidates it in one of three ways, and must read what it wrote; the
    others read all keys, in a tier too small for them.
    """
    source = dict.fromkeys(range(12), 0)
    with Cache(f"{url_of(server)}?deadline=20s", prefix=own_prefix()) as cache:

        @cache(ttl="1h", near=Near(ttl="1h", entries=8), tags=["key:{key}"])
        def value(key: int) -> tuple[int, int]:
            return key, source[key]

        wrong: list[Any] = []
        over = threading.Event()

        def write(key: int) -> None:
            rng = random.Random(key)
            for number in range(1, 60):
                source[key] = number
                how = rng.randrange(3)
                told = value.invalidate(key) if how == 0 else cache.invalidate_tags(f"key:{key}")
                if how == 2:
                    told = value.refresh(key) == (key, number)
                seen = value(key)
                if not told or seen != (key, number):
                    wrong.append((key, how, told, seen, number))

        def read() -> None:
            rng, last = random.Random(99), dict.fromkeys(source, 0)
            while not over.is_set():
                key = rng.randrange(12)
                found, number = value(key)
                if found != key or number < last[key]:
                    wrong.append((found, key, number, last[key]))
                last[key] = number

        switch, readers = sys.getswitchinterval(), []
        try:
            sys.setswitchinterval(1e-5)
            readers = [Outcome(read) for _ in range(2)]
            for writer in [Outcome(write, key) for key in range(6)]:
                writer.result(60)
        finally:
            over.set()
            sys.setswitchinterval(switch)
        for reader in readers:
            reader.result()
        tier = value._ready().near
        assert wrong == []
        assert tier is not None
        assert len(tier.nodes) <= 8
        assert value.info().near > 0


@needs_fork
def test_a_forked_child_has_a_tier_of_its_own(server: Memcached) -> None:
    """It begins empty, and what it keeps the parent does not see."""
    with Cache(f"{url_of(server)}?deadline=20s", prefix=own_prefix()) as cache:

        @cache(ttl="1h", near=LONG)
        def value(key: int) -> int:
            return os.getpid()

        mine = [value(1), value(1)]
        pid = os.fork()
        if not pid:
            tier = value._ready().near
            good = tier is not None and not tier.nodes and value(1) == mine[0] and value(2) == value(2) == os.getpid()
            os._exit(0 if good and value.info().near >= 1 else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert [value(1), value(2)] == [mine[0], pid]


def test_a_reconnect_drops_what_its_server_held(server: Memcached) -> None:
    """Between the two connections it may have been restarted, or have missed an invalidation's reply."""
    with Cache(f"{url_of(server)}?deadline=20s", prefix=own_prefix()) as cache:

        @cache(ttl="1h", near=LONG)
        def value(key: int) -> int:
            return key

        assert [value(1), value(1)] == [1, 1]
        cache._fleet.drop(0)
        assert cache.get("anything") is None
        assert (value(1), value.info().near) == (1, 1)
        assert eventually(lambda: value(1) == 1 and value.info().near == 2)


def test_what_the_regular_expressions_hold_back_is_a_read() -> None:
    """The scripted server above holds reads with a lease in them, and nothing else."""
    assert re.search(rb" N300 ", b"mg k c f t v N300 O1\r\n")
    assert not re.search(rb" N300 ", b"md k O1\r\n")


def test_what_is_read_before_the_server_is_told_late_does_not_stay(
    server: Memcached, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between an invalidation that was lost and its place in the queue another thread may read the old value."""
    with Cache(f"{url_of(server)}?deadline=10s", prefix=own_prefix()) as cache:
        source = ["old"]

        @cache(ttl="1h", near=LONG)
        def price(item: int) -> str:
            return source[0]

        assert price(1) == "old"
        fleet, env = cache._fleet, cache._env
        converse, undelivered = fleet.converse, env.undelivered

        def cut(*request: Any, **how: Any) -> Any:
            raise Unreachable("cut", server=server.name)

        def late(*kept: Any, **how: Any) -> None:
            monkeypatch.setattr(fleet, "converse", converse)
            assert Outcome(lambda: (price(2), price(1))).result() == ("new", "old")
            undelivered(*kept, **how)

        monkeypatch.setattr(fleet, "converse", cut)
        monkeypatch.setattr(env, "undelivered", late)
        source[0] = "new"
        assert price.invalidate(1) is False
        price(3)
        assert not fleet.kept()[0]
        assert price(1) == "new"
