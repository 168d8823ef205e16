"""Threads and event loops that use one cache at once: they share entries and runs, and an invalidation wins for all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from support.shells import LOOPS, LoopShell
from support.slow import Slow, waiters_on
from support.targets import cached, own_prefix
from support.threads import LIMIT_S, Outcome, eventually

from cachekit import MISS, Cache
from cachekit.function import CachedFunction


@pytest.fixture
def loops() -> Iterator[list[LoopShell]]:
    """An event loop of each kind, each in a thread of its own."""
    running = [LoopShell(name) for name in LOOPS]
    yield running
    for each in running:
        each.close()


@pytest.fixture
def cache(target: str) -> Iterator[Cache]:
    """The one cache."""
    with Cache(f"{target}?deadline=5s", prefix=own_prefix()) as made:
        yield made


@pytest.fixture
def users(cache: Cache, loops: list[LoopShell]) -> Iterator[list[Cache]]:
    """The cache as threads use it, and as each loop does."""
    around = [loop.around(cache) for loop in loops]
    yield [cache, *around]
    for each in around:
        each.close()


def test_they_share_entries(users: list[Cache]) -> None:
    """A plain function and a coroutine function of one name are one function to the cache, as processes are."""
    for user in users:
        made = [cached(other) for other in users]
        mine, runs = cached(user)
        assert mine(3) == 9
        assert [square(3) for square, _ in made] == [9] * len(users)
        assert [runs, *(others for _, others in made)] == [[3], *([] for _ in users)]
        assert mine.invalidate(3)
        assert [square.peek(3) for square, _ in made] == [MISS] * len(users)
        assert {square.key(3) for square, _ in made} == {mine.key(3)}


def test_they_share_values_and_counters(users: list[Cache]) -> None:
    """What one sets the others read."""
    for n, user in enumerate(users, 1):
        assert user.set("k", [n])
        assert [other.get("k") for other in users] == [[n]] * len(users)
        assert user.incr("n", initial=1) == n
    assert users[0].stats().direct.hits == len(users) ** 2


def test_one_run_for_all_of_them(users: list[Cache]) -> None:
    """Whoever is first runs, and threads and tasks of every loop wait for him; each gets a copy."""
    each = 2
    for n in range(len(users)):
        slows = [Slow(user, ttl=60) for user in users]
        running = Outcome(slows[n].call, n)
        assert slows[n].started.wait(LIMIT_S)
        callers = [Outcome(slow.call, n) for slow in slows for _ in range(each)]
        assert eventually(lambda: waiters_on(users[0]) == each * len(users))
        slows[n].go_on.set()
        results = [caller.result() for caller in (running, *callers)]
        assert results == [[0]] * len(results)
        assert len({id(result) for result in results}) == len(results)
        assert [slow.runs for slow in slows] == [int(slow is slows[n]) for slow in slows]


def test_get_or_set_is_computed_once_for_all_of_them(users: list[Cache]) -> None:
    """The direct verb has the same single flight."""
    runs, go_on = [], threading.Event()

    def compute() -> list[int]:
        runs.append(1)
        assert go_on.wait(LIMIT_S)
        return [7]

    outcomes = [Outcome(user.get_or_set, "k", compute) for user in users]
    assert eventually(lambda: waiters_on(users[0]) == len(users) - 1)
    go_on.set()
    assert [outcome.result() for outcome in outcomes] == [[7]] * len(users)
    assert len(runs) == 1


@pytest.mark.parametrize("verb", ["invalidate", "invalidate_all"])
def test_an_invalidation_beats_whoever_runs(users: list[Cache], verb: str) -> None:
    """It makes no difference who says it and who is running."""
    for runner in users:
        for other in users:
            slow, theirs = Slow(runner, ttl=60), Slow(other, ttl=60)
            old = Outcome(slow.call, 1)
            assert slow.started.wait(LIMIT_S)
            assert theirs.call.invalidate(1) if verb == "invalidate" else theirs.call.invalidate_all()
            slow.go_on.set()
            assert old.result() == [0]
            assert slow.call.peek(1) is MISS
            assert theirs.call.peek(1) is MISS


def test_one_that_closes_does_not_disturb_the_others(users: list[Cache]) -> None:
    """Each closes what is its own, and may go on later."""
    for user in users:
        assert user.set("k", 1)
    for user in users:
        user.close()
        assert [other.get("k") for other in users] == [1] * len(users)


def test_a_plain_function_works_under_a_running_loop(users: list[Cache], loops: list[LoopShell]) -> None:
    """It blocks the loop, as any plain code does, and that is all."""
    square, runs = cached(users[0])
    for loop in loops:
        assert [loop.call(square, 3), loop.call(square, 3), loop.call(users[0].get, "k", 5)] == [9, 9, 5]
    assert runs == [3]


@pytest.mark.parametrize("which", range(len(LOOPS)), ids=LOOPS)
def test_a_plain_function_does_not_wait_for_a_task_of_its_own_loop(
    cache: Cache, loops: list[LoopShell], which: int
) -> None:
    """The task could never end while the loop is blocked: so the function runs, and the task ends later."""
    began, go_on = asyncio.Event(), asyncio.Event()
    plain = _plain(cache)

    async def work(n: int) -> str:
        began.set()
        await go_on.wait()
        return "awaited"

    work.__qualname__ = plain.__qualname__
    awaited = cache(work)
    assert plain.key(1) == awaited.key(1)

    async def both() -> tuple[str, str]:
        task = asyncio.ensure_future(awaited(1))
        await began.wait()
        found = plain(1)
        go_on.set()
        return found, await task

    assert loops[which].call(both) == ("plain", "awaited")
    loops[which].call(cache.aclose)


def _plain(cache: Cache) -> CachedFunction[[int], str]:
    def work(n: int) -> str:
        return "plain"

    return cache(work)
