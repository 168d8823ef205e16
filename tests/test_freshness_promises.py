"""What a review broke once: each of these failed before its fix."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from flows.scripted import Clock as ScriptClock
from flows.scripted import Script, entry, job, make_recipe, va
from support.memcached import Memcached
from support.scripted import ScriptedServer
from support.targets import own_prefix, url_of
from support.threads import Outcome, eventually

from cachekit import MISS, Cache, Policy, Unreachable
from cachekit.codecs.envelope import open_envelope
from cachekit.embedded import EmbeddedServer
from cachekit.flows.call import call
from cachekit.ops import LeaseVoid
from cachekit.testing import ManualClock, make_cache

NOW = ScriptClock().now


@pytest.fixture(name="clock")
def clock_fixture() -> ManualClock:
    """A clock of the test's own."""
    return ManualClock()


@pytest.fixture(name="cache")
def cache_fixture(clock: ManualClock) -> Iterator[Cache]:
    """A cache on that clock."""
    with make_cache(clock) as cache:
        yield cache


def test_a_caller_may_change_what_he_passed_to_a_background_refresh(cache: Cache, clock: ManualClock) -> None:
    """He has been served and goes on; what is computed behind him is still what was asked for."""
    go_on = threading.Event()
    go_on.set()

    @cache(ttl=10, stale=60, refresh="background")
    def total(numbers: list[int], by: dict[str, list[int]]) -> int:
        assert go_on.wait(20)
        return sum(numbers) + sum(by["more"])

    numbers, by = [1, 2], {"more": [3]}
    assert total(numbers, by) == 6
    clock.advance(11)
    go_on.clear()
    assert total(numbers, by) == 6
    numbers.append(100)
    by["more"].append(100)
    go_on.set()
    assert eventually(lambda: total.info().fills == 2)
    assert total.peek([1, 2], {"more": [3]}) == 6


def test_a_task_that_outlives_its_run_is_cached_like_any_other_code(cache: Cache) -> None:
    """It carries a copy of the run's context; nothing in it is inside of that run any more."""
    runs: list[int] = []
    later: list[asyncio.Task[int]] = []

    @cache(ttl=60)
    def value(n: int) -> int:
        runs.append(n)
        if not later:
            later.append(asyncio.get_running_loop().create_task(afterwards(n)))
        return n

    async def afterwards(n: int) -> int:
        await asyncio.sleep(0)
        value.invalidate(n)
        return value(n) + value(n)

    async def main() -> int:
        value(7)
        return await later[0]

    assert asyncio.run(main()) == 14
    assert runs == [7, 7]


@pytest.mark.parametrize("stale", ["29d", "31d", "400d"])
def test_a_writer_with_a_wrong_clock_and_a_long_stale(stale: str) -> None:
    """The writer's clock is two hours ahead: what he stored is not young for two hours more."""
    clock, prefix = ManualClock(), own_prefix()
    with make_cache(clock, prefix=prefix) as cache:

        @cache(policy=Policy(ttl=5, stale=stale))
        def value(n: int) -> int:
            return n

        value.info()
        cache._env.now = lambda: clock.now() + 7200
        assert value(1) == 1
        cache._env.now = clock.now
        clock.advance(8)
        assert value(1) == 1
        assert value.info().fills == 2


def test_a_wrong_clock_does_not_serve_on_what_was_expired_by_hand(cache: Cache, clock: ManualClock) -> None:
    """Two hours ahead: after expire(), an old value is served as long as stale says, and a second more."""
    running, go_on = threading.Event(), threading.Event()

    @cache(policy=Policy(ttl=1, stale=1))
    def value(n: int) -> int:
        if value.info().fills:
            running.set()
            assert go_on.wait(20)
        return value.info().fills

    value.info()
    cache._env.now = lambda: clock.now() + 7200
    assert value(1) == 0
    cache._env.now = clock.now
    assert value.expire(1)
    refreshing = Outcome(value, 1)
    assert running.wait(20)
    clock.advance(4)
    waiting = Outcome(value, 1)
    assert eventually(lambda: value.info().misses == 2)
    go_on.set()
    assert (refreshing.result(), waiting.result()) == (1, 1)


def test_a_refresh_is_not_undone_by_who_uses_the_value_meanwhile(cache: Cache, clock: ManualClock) -> None:
    """Sliding stores the old bytes under a new number; not while refresh() runs."""
    running, go_on = threading.Event(), threading.Event()
    go_on.set()

    @cache(policy=Policy(ttl=100, sliding=True))
    def value(n: int) -> int:
        running.set()
        assert go_on.wait(20)
        return value.info().fills

    assert value(1) == 0
    clock.advance(50)
    go_on.clear()
    running.clear()
    refreshing = Outcome(value.refresh, 1)
    assert running.wait(20)
    assert value(1) == 0
    go_on.set()
    assert refreshing.result() == 1
    assert value(1) == 1


def raising() -> Any:
    """The source is down."""
    raise ValueError("down")


def test_a_claim_is_given_back_over_another_connection() -> None:
    """The one it was given on is gone: the value is looked at again, and put back under what was seen then."""
    recipe = make_recipe(stale_if_error_s=60.0)
    old = entry(recipe, "old", created=NOW - 70)
    script = Script(va(old), va(old, more=b" W"), LeaseVoid("gone"), va(old, more=b" Z"), b"HD O?\r\n")
    assert script.run(call(job(recipe, raising), script.env, None)) == "old"
    last = script.requests[-1]
    assert last.startswith(b"ms ")
    header, _ = open_envelope(last.partition(b"\r\n")[2])
    assert header.retry_ms > 70_000


@pytest.mark.parametrize("stale_s", [60.0, 0.0])
def test_a_lost_claim_leaves_the_value_in_hand(stale_s: float) -> None:
    """The server went away between read and claim: the old value is served, or stands in where the run fails."""
    recipe = make_recipe(stale_s=stale_s, stale_if_error_s=60.0)
    script = Script(va(entry(recipe, "old", created=NOW - 70)), Unreachable("gone"))
    assert script.run(call(job(recipe, raising), script.env, None)) == "old"
    assert (recipe.tally.hits, recipe.tally.misses, recipe.tally.stale) == (1, 0, 1)


def test_a_failure_leaves_its_successor_the_time_of_a_lease(cache: Cache, clock: ManualClock) -> None:
    """The source recovers, slowly: its first answer is stored, though the failure's ttl ended under it."""
    runs: list[int] = []

    @cache(policy=Policy(errors=(LookupError,), error_ttl=2, beta=0))
    def value(n: int) -> int:
        runs.append(n)
        if len(runs) == 1:
            raise LookupError
        clock.advance(5)
        return len(runs)

    with pytest.raises(LookupError):
        value(1)
    clock.advance(3)
    assert [value(1), value(1)] == [2, 2]
    assert value.info().unstored == 0


def test_a_call_is_one_hit_or_one_miss(cache: Cache, clock: ManualClock) -> None:
    """Also where it ran the function, which failed, and was served the old value."""
    broken: list[bool] = []

    @cache(policy=Policy(ttl=10, stale_if_error=600, soft_timeout=20, throttle=0))
    def value(n: int) -> int:
        if broken:
            raise LookupError
        return n

    assert value(1) == 1
    clock.advance(11)
    broken.append(True)
    assert [value(1), value(1)] == [1, 1]
    info = value.info()
    assert (info.hits, info.misses, info.stale) == (2, 1, 2)


def test_many_hear_of_a_soft_invalidation(cache: Cache) -> None:
    """They read as single calls do: one of the callers refreshes."""
    runs: list[int] = []

    @cache(ttl=60)
    def value(n: int) -> int:
        runs.append(n)
        return len(runs)

    assert value.many([value.bind(1), value.bind(2), value.bind(1)]) == [1, 2, 1]
    assert value.expire(1)
    assert value.many([value.bind(1), value.bind(2)]) == [3, 2]
    assert value.many([value.bind(1), value.bind(2)]) == [3, 2]
    assert runs == [1, 2, 1]


def test_many_end_with_the_first_failure(cache: Cache) -> None:
    """What ran before it is stored; what was to come is not made, and its claim is given back."""

    @cache(ttl=60)
    def value(n: int) -> int:
        if n == 2:
            raise LookupError(n)
        return n

    assert value(3) == 3
    assert value.expire(3)
    with pytest.raises(LookupError):
        value.many([value.bind(n) for n in (1, 2, 3)])
    assert [value.peek(n) for n in (1, 2, 3)] == [1, MISS, 3]
    assert value.explain(2).state == "absent"
    assert value(3) == 3
    info = value.info()
    assert (info.misses, info.fills) == (4, 4)


def test_a_look_is_not_deceived_by_a_wrong_clock(server: Memcached) -> None:
    """The writer's clock is two hours ahead: ``me`` tells how old his value is by the server's."""
    with Cache(f"{url_of(server)}?deadline=5s", prefix=own_prefix()) as cache:

        @cache(ttl=1)
        def value(n: int) -> int:
            return n

        value.info()
        now = cache._env.now
        cache._env.now = lambda: now() + 7200
        assert value(1) == 1
        cache._env.now = now
        assert eventually(lambda: value.peek(1) is MISS, 5.0)
        assert value.explain(1).state == "expired"


def test_a_refresh_on_a_connection_that_was_closed_while_idle_is_stored() -> None:
    """The claim is sent once; where the server had hung up, the number to store under is read on a new connection."""
    behind, hang_up = EmbeddedServer(), list[None]()

    def script(request: bytes) -> Iterable[object]:
        return [hang_up.pop()] if hang_up else [behind.handle(request)]

    with ScriptedServer(script) as scripted, Cache(f"{scripted.url}?deadline=5s", prefix="p") as cache:

        @cache(ttl=60)
        def value(n: int) -> int:
            return value.info().fills

        assert value(1) == 0
        hang_up.append(None)
        assert value.refresh(1) == 1
        assert (value.peek(1), value.info().unstored) == (1, 0)
