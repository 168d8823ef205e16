"""Servers stop, go on and restart while threads and a loop read and invalidate: no read that begins after an
invalidation, whatever that has returned, gives what was there before it.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.memcached import Memcached, start_memcached
from support.targets import own_prefix, url_of
from support.threads import Outcome

from cachekit import Cache

KEYS = 12
RUN_S = 5.0


class Origin:
    """Versions by key. ``floor``: the version that a read which begins now must show at least."""

    def __init__(self) -> None:
        self.version = [0] * KEYS
        self.floor = [0] * KEYS
        self.old: list[tuple[int, int, int]] = []
        self.reads = self.lost = 0

    def __call__(self, key: int) -> int:
        """The function that is cached."""
        version = self.version[key]
        time.sleep(random.random() * 0.003)
        return version

    def check(self, key: int, seen: int, floor: int) -> None:
        """A read that began when ``floor`` held has shown ``seen``."""
        self.reads += 1
        if seen < floor:
            self.old.append((key, seen, floor))

    def invalidated(self, key: int, version: int, acknowledged: Any) -> None:
        """From here on nothing older than ``version`` may be read."""
        self.lost += acknowledged is False
        self.floor[key] = version


class Chaos:
    """A cache on two servers, and everybody who uses it."""

    def __init__(self, servers: list[Memcached], seed: int) -> None:
        self.servers, self.seed, self.over = servers, seed, threading.Event()
        self.cache = cache = Cache(f"{url_of(*servers)}?deadline=100ms", prefix=own_prefix())
        self.origins = [Origin() for _ in range(4)]
        entries, tagged, awaited, plain = self.origins

        @cache(ttl=600)
        def entry(key: int) -> int:
            return entries(key)

        @cache(ttl=600, tags=["tag:{key}"])
        def of_tag(key: int) -> int:
            return tagged(key)

        @cache(ttl=600)
        async def coroutine(key: int) -> int:
            return awaited(key)

        self.coroutine: Any = coroutine
        self.calls: list[Callable[[int], Any]] = [
            entry,
            of_tag,
            lambda key: None,
            lambda key: cache.get_or_set(f"k{key}", lambda: plain(key), 600),
        ]
        self.verbs: list[Callable[[int], Any]] = [
            lambda key: entry.invalidate_all() if key == 0 else entry.invalidate(key),
            lambda key: cache.invalidate_tags(f"tag:{key}"),
            lambda key: None,
            lambda key: cache.delete(f"k{key}"),
        ]

    def read(self, number: int) -> None:
        """A thread that reads."""
        dice = random.Random(self.seed * 100 + number)
        while not self.over.is_set():
            key, kind = dice.randrange(KEYS), dice.choice((0, 1, 3))
            origin = self.origins[kind]
            floor = origin.floor[key]
            origin.check(key, self.calls[kind](key), floor)

    def invalidate(self) -> None:
        """The thread that invalidates."""
        dice = random.Random(self.seed * 101)
        while not self.over.is_set():
            key, kind = dice.randrange(KEYS), dice.choice((0, 1, 3))
            origin = self.origins[kind]
            origin.version[key] += 1
            origin.invalidated(key, origin.version[key], self.verbs[kind](key))
            time.sleep(dice.random() * 0.01)

    def run_loop(self) -> None:
        """The thread of a loop, whose tasks read and invalidate."""
        asyncio.run(self._in_a_loop())

    async def _in_a_loop(self) -> None:
        await asyncio.gather(*(self._await(number) for number in range(4)), self._invalidate_there())
        await self.cache.aclose()

    async def _await(self, number: int) -> None:
        dice, origin = random.Random(self.seed * 102 + number), self.origins[2]
        while not self.over.is_set():
            key = dice.randrange(KEYS)
            floor = origin.floor[key]
            origin.check(key, await self.coroutine(key), floor)
            await asyncio.sleep(0)

    async def _invalidate_there(self) -> None:
        dice, origin = random.Random(self.seed * 103), self.origins[2]
        while not self.over.is_set():
            key = dice.randrange(KEYS)
            origin.version[key] += 1
            version = origin.version[key]
            origin.invalidated(key, version, await self.coroutine.invalidate(key))
            await asyncio.sleep(dice.random() * 0.01)

    def hurt(self) -> None:
        """The thread that stops servers, and lets them go on or start anew."""
        dice = random.Random(self.seed * 104)
        while not self.over.wait(dice.random() * 0.7):
            victim = dice.choice(self.servers)
            if dice.random() < 0.1:
                victim.restart()
                continue
            victim.pause()
            self.over.wait(dice.choice((0.05, 0.15, 0.5, 1.5)))
            victim.resume()


@pytest.mark.parametrize("taken_out", [False, True], ids=["", "taken out"])
def test_nothing_invalidated_is_read_again(taken_out: bool) -> None:
    """With the queue: nothing. Without it this test sees plenty."""
    with start_memcached("-t", "4") as one, start_memcached("-t", "4") as two:
        chaos = Chaos([one, two], seed=1)
        if taken_out:
            chaos.cache._env.keep = lambda *_, **__: None
        workers = [Outcome(chaos.read, number) for number in range(3)]
        workers += [Outcome(work) for work in (chaos.invalidate, chaos.run_loop, chaos.hurt)]
        chaos.over.wait(RUN_S)
        chaos.over.set()
        for worker in workers:
            worker.result()
        chaos.cache.close()
    for origin in chaos.origins:
        assert origin.reads > 100
        assert origin.lost > 0
    old = [found for origin in chaos.origins for found in origin.old]
    assert bool(old) is taken_out, old[:5]
