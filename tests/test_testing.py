"""Caches for tests, that leave nothing to time or chance."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from support.threads import Outcome, eventually

from cachekit import MISS, Cache, Policy
from cachekit.expiry import at, every, until
from cachekit.testing import ManualClock, make_cache

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    """A new clock."""
    return ManualClock()


@pytest.fixture
def cache(clock: ManualClock) -> Cache:
    """An empty cache that goes by the clock."""
    return make_cache(clock)


# -- a cache for tests -------------------------------------------------------------------------------------------------


def test_entries_end_when_the_clock_says_so(cache: Cache, clock: ManualClock) -> None:
    """A value is fresh up to its ttl and not at it."""
    runs: list[int] = []

    @cache(ttl="5m")
    def square(n: int) -> int:
        runs.append(n)
        return n * n

    square(3)
    clock.advance(299.999)
    assert (square(3), len(runs)) == (9, 1)
    clock.advance(0.001)
    assert (square(3), len(runs)) == (9, 2)


def test_the_server_goes_by_the_clock_too(cache: Cache, clock: ManualClock) -> None:
    """Direct verbs leave the end of a value to the server: short ttls, dates beyond 30 days, touch, and none."""
    cache.set("short", 1, ttl=60)
    cache.set("touched", 1, ttl=60)
    cache.set("long", 1, ttl="40d")
    cache.set("forever", 1, ttl=None)
    clock.advance(59)
    cache.touch("touched", ttl=60)
    assert cache.get("short") == 1
    clock.advance(1)
    assert cache.get_many(["short", "touched", "long", "forever"]) == {"touched": 1, "long": 1, "forever": 1}
    clock.advance("40d")
    assert cache.get_many(["short", "touched", "long", "forever"]) == {"forever": 1}


def test_nothing_ends_without_a_clock_to_move() -> None:
    """A cache made without a clock has one that stands still."""
    cache = make_cache()
    cache.set("key", 1, ttl=0.001)
    assert cache.get("key") == 1


def test_test_caches_share_nothing(clock: ManualClock) -> None:
    """Each has a server of its own, also where they share a clock."""
    one, two = make_cache(clock), make_cache(clock)
    one.set("key", 1)
    assert (one.get("key"), two.get("key", MISS)) == (1, MISS)


def test_a_test_cache_takes_a_prefix_and_a_policy(clock: ManualClock) -> None:
    """They mean what they mean to a Cache."""
    cache = make_cache(clock, prefix="shop", policy=Policy(ttl=10))

    @cache
    def square(n: int) -> int:
        return n * n

    square(3)
    assert square.key(3).startswith("shop:")
    clock.advance(10)
    assert square.peek(3) is MISS


@pytest.mark.parametrize("wrong", [{"clock": 5}, {"clock": NOON}, {"prefix": "a b"}, {"policy": 5}])
def test_a_test_cache_refuses_what_is_wrong(wrong: dict[str, Any]) -> None:
    """With the same errors as a Cache."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_cache(**wrong)


def test_a_test_cache_does_not_look_at_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with the cache switched off, or on real servers, can still have tests about caching."""
    monkeypatch.setenv("CACHEKIT_DISABLE", "1")
    monkeypatch.setenv("CACHEKIT_URL", "memcached://127.0.0.1:1")
    cache = make_cache()

    @cache
    def square(n: int) -> int:
        return n * n

    assert (square(3), square(3), square.info().hits) == (9, 9, 1)
    assert list(cache.stats().servers) == ["memory:"]
    with cache.disabled():
        assert (square(3), square.info().hits) == (9, 1)


def test_a_test_cache_writes_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """That its values stay in this process is meant, so nobody is told."""
    with caplog.at_level("INFO", "cachekit"):
        make_cache().set("key", 1)
    assert caplog.records == []


# -- early refresh and other chances -----------------------------------------------------------------------------------


def slow(cache: Cache, clock: ManualClock, seconds: float, **fields: Any) -> Any:
    """A cached function that takes ``seconds`` by the clock; its value is the number of the run."""
    runs = iter(range(1, 100))

    @cache(policy=Policy(**fields))
    def answer() -> int:
        clock.advance(seconds)
        return next(runs)

    assert answer() == 1
    return answer


@pytest.mark.parametrize(
    ("beta", "delta_s", "early_s"), [(None, 2, 2), (1, 0.5, 0.5), (2, 3, 6), (1, 30, 20), (0, 30, 0), (1, 0, 0)]
)
def test_an_entry_is_due_early_to_the_moment(
    cache: Cache, clock: ManualClock, beta: float | None, delta_s: float, early_s: float
) -> None:
    """β·δ before the end of its ttl, at most a fifth of it: not a millisecond earlier, and always then."""
    answer = slow(cache, clock, delta_s, ttl=100, beta=beta)
    clock.advance(100 - early_s - 0.001)
    assert answer() == 1
    clock.advance(0.001)
    assert answer() == 2


def test_jitter_takes_half_of_its_share(cache: Cache, clock: ManualClock) -> None:
    """A ttl of 100 s with a jitter of 0.2 is 90 s."""
    answer = slow(cache, clock, 0, ttl=100, jitter=0.2)
    clock.advance(89.999)
    assert answer() == 1
    clock.advance(0.001)
    assert answer() == 2


@pytest.mark.parametrize(
    ("ttl", "end"),
    [
        (every("1h"), NOON + timedelta(hours=1)),
        (at("03:00"), NOON + timedelta(hours=15)),
        (until(NOON + timedelta(days=60)), NOON + timedelta(days=60)),
    ],
    ids=["every", "at", "until"],
)
def test_schedules_go_by_the_clock(cache: Cache, clock: ManualClock, ttl: Any, end: datetime) -> None:
    """Windows end at their moment of the clock's calendar."""
    answer = slow(cache, clock, 0, ttl=ttl)
    clock.move_to(end - timedelta(milliseconds=1))
    assert answer() == 1
    clock.move_to(end)
    assert answer() == 2


def test_sliding_goes_by_the_clock(cache: Cache, clock: ManualClock) -> None:
    """Each use gives the value its whole ttl again."""
    answer = slow(cache, clock, 0, ttl=100, sliding=True)
    for _ in range(5):
        clock.advance(60)
        assert answer() == 1
    clock.advance(100)
    assert answer() == 2


def test_a_stale_value_is_served_where_the_function_fails(cache: Cache, clock: ManualClock) -> None:
    """By the clock's time: within its limits, and tried again after the throttle."""
    broken: list[int] = []

    @cache(policy=Policy(ttl="1m", stale_if_error="1h", throttle="10s"))
    def price() -> int:
        if broken:
            broken.append(1)
            raise OSError
        return 1

    price()
    broken.append(0)
    clock.advance("1m")
    assert (price(), price(), len(broken)) == (1, 1, 2)
    clock.advance("10s")
    assert (price(), len(broken)) == (1, 3)
    clock.advance("1h")
    with pytest.raises(OSError):
        price()


def test_refresh_by_hand_goes_by_one_clock(cache: Cache, clock: ManualClock) -> None:
    """A refresh that fails gives the claim on the old value back; how old that is, the clock says and nothing else."""
    clock.advance("4000d")
    fails: list[int] = []

    @cache(ttl="1m", stale="1h")
    def price() -> int:
        if fails:
            raise OSError
        return 1

    price()
    price.expire()
    fails.append(1)
    clock.advance("30s")
    with pytest.raises(OSError):
        price.refresh()
    assert price.peek() == 1


def test_a_background_refresh_has_landed_after_close(cache: Cache, clock: ManualClock) -> None:
    """The caller is served the old value; ``close`` waits for the run, and leaves the values where they are."""
    answer = slow(cache, clock, 0, ttl=60, stale=60, refresh="background")
    clock.advance(60)
    assert answer() == 1
    cache.close()
    assert (answer(), answer.info().fills) == (2, 2)


# -- threads under a clock that stands still ---------------------------------------------------------------------------


def test_waiters_are_woken_while_the_clock_stands(cache: Cache) -> None:
    """One runs, the others wait for him and not for the time."""
    began, go = threading.Event(), threading.Event()

    @cache
    def answer() -> int:
        began.set()
        assert go.wait(20)
        return 42

    first = Outcome(answer)
    assert began.wait(20)
    others = [Outcome(answer) for _ in range(4)]
    assert eventually(lambda: answer.info().misses == 5)
    go.set()
    assert [each.result() for each in (first, *others)] == [42] * 5
    assert (answer.info().fills, answer.info().waits) == (1, 4)


def test_who_polls_pauses_and_takes_over_when_the_clock_moves(
    cache: Cache, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead filler's lease is a matter of the clock; until it moves, the waiter looks again and again, with pauses."""

    @cache(policy=Policy(lease=10))
    def answer() -> int:
        return 42

    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        threading.Event().wait(seconds)

    monkeypatch.setattr("cachekit.sync.drive.time", SimpleNamespace(sleep=pause))
    embedded = cache._fleet.embedded
    assert embedded is not None
    assert embedded.handle(b"mg %b v N300\r\n" % answer.key().encode()).endswith(b" W\r\n\r\n")
    waiter = Outcome(answer)
    assert eventually(lambda: len(pauses) > 20)
    clock.advance(9)
    seen = len(pauses)
    assert eventually(lambda: len(pauses) > seen + 20)
    assert (waiter.is_alive(), answer.info().fills) == (True, 0)
    clock.advance(3)
    assert (waiter.result(), answer.info().fills) == (42, 1)
    assert min(pauses) >= 0.0005


def test_a_run_after_an_invalidation_does_not_wait_for_the_clock(cache: Cache) -> None:
    """Who comes after invalidate_all may not join the run before it, and is served as soon as that has ended."""
    began, go = threading.Event(), threading.Event()
    runs: list[int] = []

    @cache
    def answer() -> int:
        runs.append(1)
        number = len(runs)
        if number == 1:
            began.set()
            assert go.wait(20)
        return number

    first = Outcome(answer)
    assert began.wait(20)
    assert answer.invalidate_all()
    second = Outcome(answer)
    assert eventually(lambda: answer.info().misses == 2)
    go.set()
    assert (first.result(), second.result()) == (1, 2)


def test_batches_wait_while_the_clock_stands(cache: Cache) -> None:
    """A batch that needs what other threads compute is woken by them, and loads the rest itself."""
    began, go = threading.Event(), threading.Event()
    loads: list[list[int]] = []

    @cache.batch
    def prices(ids: list[int]) -> dict[int, int]:
        loads.append(ids)
        if ids == [1]:
            began.set()
            assert go.wait(20)
        return {each: 10 * each for each in ids}

    first = Outcome(prices, [1])
    assert began.wait(20)
    second = Outcome(prices, [1, 2])
    assert eventually(lambda: len(loads) == 2)
    go.set()
    assert (first.result(), second.result()) == ({1: 10}, {1: 10, 2: 20})
    assert loads == [[1], [2]]


def test_a_soft_timeout_passes_in_real_time(cache: Cache, clock: ManualClock) -> None:
    """Who has an old value in hand is served it while the clock stands: the refresher, and who waits for him."""
    go = threading.Event()
    runs: list[int] = []

    @cache(policy=Policy(ttl=60, stale_if_error=600, soft_timeout=0.05))
    def answer() -> int:
        runs.append(1)
        assert len(runs) == 1 or go.wait(20)
        return len(runs)

    assert answer() == 1
    clock.advance(60)
    try:
        assert [Outcome(answer).result(), Outcome(answer).result()] == [1, 1]
    finally:
        go.set()
    cache.close()
    assert (answer(), len(runs)) == (2, 2)


def test_a_wait_is_told_in_real_time(cache: Cache) -> None:
    """How long a caller waited for another is a matter of threads and not of the clock."""
    began, go = threading.Event(), threading.Event()
    waits: list[float] = []
    cache.hooks.on_wait(lambda wait: waits.append(wait.seconds))

    @cache
    def answer() -> int:
        began.set()
        assert go.wait(20)
        return 42

    first = Outcome(answer)
    assert began.wait(20)
    second = Outcome(answer)
    assert eventually(lambda: answer.info().misses == 2)
    go.set()
    assert (first.result(), second.result()) == (42, 42)
    assert 0 < waits[0] < 20


def test_a_run_that_outlasts_its_stub_stores_nothing(cache: Cache, clock: ManualClock) -> None:
    """As on a real server: five minutes, or three leases where those are longer, is what a run has."""

    @cache(ttl="1h")
    def short() -> int:
        clock.advance(299)
        return 1

    @cache(ttl="1h")
    def long() -> int:
        clock.advance(301)
        return 1

    assert (short(), short.peek()) == (1, 1)
    assert (long(), long.peek()) == (1, MISS)


# -- what it costs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("imported", "absent"),
    [("cachekit", "cachekit.testing"), ("cachekit", "pytest"), ("cachekit.testing", "pytest")],
)
def test_nobody_loads_what_only_tests_need(imported: str, absent: str) -> None:
    """``import cachekit`` loads nothing of this, and ``import cachekit.testing`` does not load pytest."""
    code = f"import {imported}, sys; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
