"""What a second reading of freshness found: each rule here was broken once."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from flows.scripted import BUSY, KEY, Clock, Script, entry, job, make_recipe, never, va
from support.targets import own_prefix, url_of
from support.threads import Outcome, eventually

from cachekit import Cache, Policy, flights
from cachekit.errors import DeadlineExceeded
from cachekit.flows.call import call
from cachekit.flows.fill import refresh
from cachekit.testing import ManualClock, make_cache


@pytest.fixture(name="cache", params=["embedded", "real"])
def cache_fixture(request: pytest.FixtureRequest) -> Iterator[Cache]:
    """A cache on the embedded server, and one on a real one."""
    url = "memory:" if request.param == "embedded" else url_of(request.getfixturevalue("server"))
    with Cache(f"{url}?deadline=5s", prefix=own_prefix()) as made:
        yield made


class _SlowGates:
    """In place of ``threading`` in ``flights``: who makes the first gate is switched off until another makes one."""

    RLock, get_ident = staticmethod(threading.RLock), staticmethod(threading.get_ident)

    def __init__(self) -> None:
        self.making, self.others = threading.Event(), threading.Event()

    def Lock(self) -> threading.Lock:  # noqa: N802 - its name in threading
        if self.making.is_set():
            self.others.set()
        else:
            self.making.set()
            self.others.wait(1)
        return threading.Lock()


def test_two_who_join_a_flight_at_once_wait_at_one_gate(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one who refreshes for a while only, and another thread who finds his flight: a gate made by each would lock
    one of them out.
    """
    runs: list[int] = []

    @cache(policy=Policy(ttl=0.2, stale_if_error=60, soft_timeout=15, lease=60))
    def slow(n: int) -> int:
        runs.append(n)
        return len(runs)

    assert slow(1) == 1
    assert eventually(lambda: slow.explain(1).state == "expired")
    gates = _SlowGates()
    monkeypatch.setattr(flights, "threading", gates)
    first = Outcome(slow, 1)
    assert gates.making.wait(20)
    began = time.monotonic()
    second = Outcome(slow, 1)
    assert (first.result(), second.result()) == (2, 2)
    assert time.monotonic() - began < 10


def test_a_stale_of_months_outlives_expire(cache: Cache) -> None:
    """What a soft invalidation gives is a span; more than 30 days would be read as a date, long past."""

    @cache(ttl=60, stale="31d")
    def report(n: int) -> int:
        return n

    assert report(1) == 1
    assert report.expire(1)
    assert report.peek(1) == 1


def test_a_value_does_not_slide_while_somebody_refreshes_it() -> None:
    """Its new CAS number would void his store, and what he computed would be lost."""
    clock, running, go, runs = ManualClock(), threading.Event(), threading.Event(), []
    with make_cache(clock) as cache:

        @cache(policy=Policy(ttl=100, sliding=True, beta=999))
        def report(n: int) -> int:
            runs.append(n)
            mine = len(runs)
            if mine == 1:
                clock.advance(1)
            else:
                running.set()
                assert go.wait(20)
            return mine

        assert report(1) == 1
        clock.advance(85)
        refreshing = Outcome(report, 1)
        assert running.wait(20)
        assert report(1) == 1
        go.set()
        assert refreshing.result() == 2
        assert report(1) == 2
        assert report.info().unstored == 0


def test_a_stub_that_was_expired_by_hand_does_not_tell_its_lease_by_its_age() -> None:
    """It lay there since the soft invalidation; who fills it now began when he was first seen, not then."""
    recipe = make_recipe()
    expired = BUSY.replace(b"t299", b"t200").replace(b" Z\r\n\r\n", b" X Z\r\n\r\n")
    assert b" X Z" in expired
    script = Script(expired, va(entry(recipe, "theirs", created=Clock().now)))
    assert script.run(call(job(recipe, never), script.env, None)) == "theirs"
    assert script.log == ["Exchange", "Sleep", "Exchange"]


def test_a_refresh_whose_read_was_lost_says_so() -> None:
    """A lease may have gone down with it; the next caller need not wait for a fill that nobody began."""
    recipe = make_recipe()
    script = Script(DeadlineExceeded("slow"))
    assert script.run(refresh(job(recipe, lambda: "mine"), script.env)) == "mine"
    assert script.env.lost_with(KEY, 0.0)


def test_a_background_refresh_whose_read_was_lost_says_so() -> None:
    """The same, where the value that it was to replace had gone meanwhile."""
    recipe = make_recipe(stale_s=60.0, background=True)
    old = entry(recipe, "old", created=Clock().now - 70)
    script = Script(va(old), va(old, more=b" W"), DeadlineExceeded("slow"))
    assert script.run(call(job(recipe, never), script.env, None)) == "old"
    assert script.run(script.spawned.pop()) is None
    assert script.env.lost_with(KEY, 0.0)


NEVER_ENDS = """
import multiprocessing.util, threading
from cachekit import Cache
cache, runs, begun = Cache("memory:"), [], threading.Event()

@cache(ttl=60, stale=60, refresh="background")
def report():
    runs.append(1)
    if len(runs) > 1:
        begun.set()
        threading.Event().wait()
    return 1

report(); report.expire(); report()
assert begun.wait(20)
"""


def test_the_end_of_a_process_waits_once_where_multiprocessing_is_loaded() -> None:
    """Its finalizers and atexit both come to the pool; five seconds in all, not for each."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", NEVER_ENDS], check=True, timeout=60)
    assert 4 < time.monotonic() - began < 9
