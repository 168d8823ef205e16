"""Freshness end to end, embedded and on real servers: stale while it refreshes, early, errors that don't hurt."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.memcached import Memcached
from support.slow import Source
from support.targets import own_prefix, url_of
from support.threads import Outcome, eventually

from cachekit import Cache, Policy
from cachekit.hooks import Fill, Hit

SHORT = 0.4
"""A ttl in seconds that a test can sit out."""


@pytest.fixture(name="url", params=["embedded", "real"])
def url_fixture(request: pytest.FixtureRequest) -> str:
    """The embedded server, and a real one."""
    return "memory:" if request.param == "embedded" else url_of(request.getfixturevalue("server"))


@pytest.fixture(name="cache")
def cache_fixture(url: str) -> Iterator[Cache]:
    """A cache of the test's own."""
    with Cache(f"{url}?deadline=5s", prefix=own_prefix()) as made:
        yield made


# -- stale ------------------------------------------------------------------------------------------------------------


def test_one_caller_refreshes_and_the_others_are_served(cache: Cache) -> None:
    """Past its ttl, within stale: one runs, and everyone else gets the old value at once."""
    source = Source(cache, ttl=SHORT, stale=30)
    assert source.call(1) == 0
    assert eventually(source.is_("stale"))
    source.shut()
    refreshing = Outcome(source.call, 1)
    assert eventually(lambda: source.runs == 2)
    assert [source.call(1) for _ in range(5)] == [0] * 5
    assert source.call.peek(1) == 0
    source.open.set()
    assert refreshing.result() == 1
    assert source.call(1) == 1
    info = source.call.info()
    assert (source.runs, info.stale, info.waits, info.misses) == (2, 5, 0, 2)


def test_without_stale_the_others_wait(cache: Cache) -> None:
    """Past its ttl nobody is served the old value; one runs, and the others get his result."""
    source = Source(cache, ttl=SHORT, beta=0)
    assert source.call(1) == 0
    assert eventually(source.is_("expired"))
    source.shut()
    callers = [Outcome(source.call, 1) for _ in range(4)]
    assert eventually(lambda: sum(flight.waiters for flight in list(cache._env.flights._flights.values())) == 3)
    source.open.set()
    assert [caller.result() for caller in callers] == [1] * 4
    assert (source.runs, source.call.info().waits) == (2, 3)


def test_another_cache_waits_beyond_stale(server: Memcached) -> None:
    """A claimed value that is too old to be served: others, who know of no flight, ask the server until it is new."""
    prefix = own_prefix()
    with Cache(url_of(server), prefix=prefix) as cache, Cache(url_of(server), prefix=prefix) as other:
        source = Source(cache, ttl=SHORT, beta=0)
        elsewhere = other(policy=Policy(ttl=SHORT, beta=0))(source.call.uncached)
        assert source.call(1) == 0
        assert eventually(source.is_("expired"))
        source.shut()
        refreshing = Outcome(source.call, 1)
        assert eventually(lambda: source.runs == 2)
        waiting = Outcome(elsewhere, 1)
        assert eventually(lambda: elsewhere.info().misses == 1)
        source.open.set()
        assert (refreshing.result(), waiting.result(), source.runs) == (1, 1, 2)
        assert elsewhere.info().waits == 1


def test_a_hit_event_says_that_it_was_stale(cache: Cache) -> None:
    """Who watches can tell fresh from stale."""
    source = Source(cache, ttl=SHORT, stale=30, refresh="background")
    seen: list[Hit] = []
    cache.hooks.on_hit(seen.append)
    source.call(1)
    source.call(1)
    assert eventually(source.is_("stale"))
    source.call(1)
    assert [hit.stale for hit in seen] == [False, True]


# -- background -------------------------------------------------------------------------------------------------------

REQUEST = contextvars.ContextVar("REQUEST", default="none")


def test_in_the_background_nobody_waits(cache: Cache) -> None:
    """The caller who finds it due is served as well; a named thread runs, in a copy of his context."""
    source = Source(cache, ttl=SHORT, stale=30, refresh="background")
    seen: list[str] = []
    cache.hooks.on_fill(lambda fill: seen.append(REQUEST.get()))
    assert source.call(1) == 0
    assert eventually(source.is_("stale"))
    source.shut()
    token = REQUEST.set("mine")
    assert [source.call(1) for _ in range(5)] == [0] * 5
    assert eventually(lambda: source.runs == 2)
    REQUEST.reset(token)
    source.open.set()
    assert eventually(lambda: source.call.peek(1) == 1)
    assert source.threads[1].startswith("cachekit-refresh-")
    assert seen == ["none", "mine"]
    assert source.runs == 2


def test_a_full_queue_falls_back_to_inline(cache: Cache) -> None:
    """When the pool takes nothing more, the caller refreshes himself."""
    source = Source(cache, ttl=SHORT, stale=30, refresh="background")
    assert source.call(1) == 0
    assert eventually(source.is_("stale"))
    pool = cache._fleet.background()
    pool.drain()  # takes nothing any more
    assert source.call(1) == 1
    assert source.threads[1] == threading.current_thread().name


def test_close_waits_for_the_background(cache: Cache) -> None:
    """What was begun is stored before the cache is closed."""
    source = Source(cache, ttl=SHORT, stale=30, refresh="background")
    assert source.call(1) == 0
    assert eventually(source.is_("stale"))
    source.shut()
    assert source.call(1) == 0
    assert eventually(lambda: source.runs == 2)
    threading.Timer(0.2, source.open.set).start()
    cache.close()
    assert source.call.peek(1) == 1


def test_a_background_refresh_that_raises_keeps_the_old_value(cache: Cache) -> None:
    """Nobody sees the exception; the value is served on, and not every caller tries again."""
    source = Source(cache, ttl=SHORT, stale=30, refresh="background", throttle=20)
    assert source.call(1) == 0
    assert eventually(source.is_("stale"))
    source.error = LookupError("the origin is down")
    assert source.call(1) == 0
    assert eventually(source.is_("throttled"))
    assert [source.call(1) for _ in range(3)] == [0] * 3
    assert source.runs == 2


# -- errors -----------------------------------------------------------------------------------------------------------


def test_the_old_value_is_served_where_the_function_fails(cache: Cache) -> None:
    """stale_if_error: the caller who refreshes gets the old value, and for a while nobody tries again."""
    source = Source(cache, ttl=SHORT, stale_if_error=30, throttle=20, beta=0)
    fills: list[Fill] = []
    cache.hooks.on_fill(fills.append)
    assert source.call(1) == 0
    assert eventually(source.is_("expired"))
    source.error = LookupError("the origin is down")
    assert source.call(1) == 0
    assert source.is_("throttled")()
    assert [source.call(1) for _ in range(3)] == [0] * 3
    assert source.runs == 2
    assert [fill.reason for fill in fills] == ["", "raised"]
    assert source.call.info().stale == 4


def test_after_the_throttle_somebody_tries_again(cache: Cache) -> None:
    """The origin came back: the next caller after the throttle gets the new value."""
    source = Source(cache, ttl=SHORT, stale_if_error=30, throttle=0.1, beta=0)
    assert source.call(1) == 0
    assert eventually(source.is_("expired"))
    source.error = LookupError("the origin is down")
    assert source.call(1) == 0
    source.error = None
    assert eventually(source.is_("expired"))
    assert source.call(1) == 2


def test_beyond_the_horizon_the_exception_reaches_the_caller(cache: Cache) -> None:
    """Nothing may be served: the function's own exception, and the next caller competes again."""
    source = Source(cache, ttl=SHORT, beta=0)
    assert source.call(1) == 0
    assert eventually(source.is_("expired"))
    source.error = LookupError("the origin is down")
    with pytest.raises(LookupError, match="the origin is down"):
        source.call(1)
    source.error = None
    assert source.call(1) == 2


class NotFound(LookupError):
    """An answer, and no accident."""

    def __init__(self, what: str, *, code: int) -> None:
        super().__init__(what)
        self.code = code


def test_a_failure_that_is_an_answer_replaces_a_stale_value(cache: Cache) -> None:
    """It is gone at the source: the old value is not served on."""
    source = Source(cache, ttl=SHORT, stale=30, errors=(NotFound,), error_ttl=30)
    assert source.call(1) == 0
    assert eventually(source.is_("stale"))
    source.error = NotFound("gone", code=410)
    for _ in range(2):
        with pytest.raises(NotFound):
            source.call(1)
    assert source.runs == 2


# -- soft timeout -----------------------------------------------------------------------------------------------------


def test_a_soft_timeout_serves_stale_and_lets_the_run_go_on(cache: Cache) -> None:
    """With a stale value in hand nobody waits longer than that; the new value comes when it is done."""
    source = Source(cache, ttl=SHORT, stale=30, soft_timeout=0.1)
    assert source.call(1) == 0
    assert eventually(source.is_("stale"))
    source.shut()
    assert source.call(1) == 0
    assert source.runs == 2
    source.open.set()
    assert eventually(lambda: source.call.peek(1) == 1)


def test_a_run_within_the_soft_timeout_is_waited_for(cache: Cache) -> None:
    """A quick function: the caller gets the new value."""
    source = Source(cache, ttl=SHORT, stale_if_error=30, soft_timeout=15, beta=0)
    assert source.call(1) == 0
    assert eventually(source.is_("expired"))
    assert source.call(1) == 1


# -- early refresh ----------------------------------------------------------------------------------------------------


def test_an_early_refresh_is_one_callers(cache: Cache) -> None:
    """Near its end one reader refreshes, whoever else reads is served the fresh value, and none of them waits."""
    source = Source(cache, ttl=6)
    source.shut()
    first = Outcome(source.call, 1)
    assert eventually(lambda: source.runs == 1)
    time.sleep(0.02)  # δ; how early is capped at a fifth of the ttl
    source.open.set()
    assert first.result() == 0
    cache._env.luck = lambda: 1e9
    assert source.call(1) == 0
    assert eventually(lambda: (source.call.explain(1).age_s or 0.0) > 4.8)
    source.shut()
    refreshing = Outcome(source.call, 1)
    assert eventually(lambda: source.runs == 2)
    assert [source.call(1) for _ in range(3)] == [0] * 3
    assert source.call.explain(1).state == "fresh"
    source.open.set()
    assert refreshing.result() == 1
    assert (source.call.info().waits, source.runs) == (0, 2)


# -- sliding ----------------------------------------------------------------------------------------------------------


def test_a_value_that_is_used_lives_on(cache: Cache) -> None:
    """sliding: each use after a tenth of the ttl gives the whole ttl again; without use it ends."""
    source = Source(cache, ttl=2.0, sliding=True)
    source.call(1)
    began = time.monotonic()
    while time.monotonic() - began < 4.5:
        assert source.call(1) == 0
        time.sleep(0.1)
    assert source.runs == 1
    assert eventually(source.is_("expired", "absent"))
    assert source.call(1) == 1


# -- clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_machine_with_a_wrong_clock_serves_nothing_old(url: str, cache: Cache, hours: int) -> None:
    """Another machine's clock is hours off: what is fresh is fresh there, what is over is over, give or take 1 s."""
    source = Source(cache, ttl=1.5, beta=0)
    stored = time.monotonic()
    assert source.call(1) == 0
    now = cache._env.now
    cache._env.now = lambda: now() + hours * 3600
    if hours < 0:
        assert source.call(1) == 0
    # The server's seconds, the second by which its clock may be off, and time for a busy machine.
    limit_s = 1.5 + 2.0 + 2.0
    assert eventually(lambda: source.call(1) == 1, limit_s)
    assert time.monotonic() - stored < limit_s


@pytest.mark.parametrize("far", [{"ttl": 60, "stale": 10**9}, {"ttl": 60, "stale_if_error": "20000d"}, {"ttl": 10**9}])
def test_an_end_beyond_what_the_wire_can_say(cache: Cache, far: dict[str, Any]) -> None:
    """Memcached's dates end in 2038; an entry that may live longer is cached all the same."""
    source = Source(cache, **far)
    assert [source.call(1) for _ in range(3)] == [0, 0, 0]
    assert source.call.info().hits == 2
