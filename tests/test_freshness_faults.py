"""What may befall a run: a lost reply, an unstorable result, a killed winner, a refresh that comes too late."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.memcached import Memcached
from support.scripted import ScriptedServer
from support.targets import own_prefix, url_of
from support.threads import Outcome, eventually

from cachekit import MISS, Cache, Policy
from cachekit.embedded import EmbeddedServer
from cachekit.expiry import at, until


@pytest.fixture(name="cache", params=["embedded", "real"])
def cache_fixture(request: pytest.FixtureRequest) -> Iterator[Cache]:
    """A cache on the embedded server, and one on a real one."""
    url = "memory:" if request.param == "embedded" else url_of(request.getfixturevalue("server"))
    with Cache(f"{url}?deadline=5s", prefix=own_prefix()) as made:
        yield made


# -- replies that get lost --------------------------------------------------------------------------------------------


def test_a_winners_reply_that_is_lost_does_not_hold_the_key() -> None:
    """The server gave us the lease and we never heard: the next caller here takes over at once, not after a lease."""
    behind, lost = EmbeddedServer(), threading.Event()

    def script(request: bytes) -> Iterable[object]:
        answer = behind.handle(request)
        if request.startswith(b"mg ") and not lost.is_set():
            lost.set()
            return [None]
        return [answer]

    runs: list[int] = []
    with ScriptedServer(script) as scripted, Cache(f"{scripted.url}?deadline=5s", prefix="p") as cache:

        @cache(policy=Policy(lease=60))
        def square(n: int) -> int:
            runs.append(n)
            return n * n

        assert Outcome(square, 3).result(10) == 9
        assert Outcome(square, 3).result(10) == 9
        assert lost.is_set()
        assert square.peek(3) == 9
        assert len(runs) <= 2


# -- results that can't be stored -------------------------------------------------------------------------------------

UNSTORABLE = """
import sys, time
from cachekit import Cache

url, prefix = sys.argv[1:]
cache = Cache(url + "?deadline=5s", prefix=prefix)

@cache
def slow(n):
    time.sleep(0.3)
    return object()

cache.get("warm")
print("ready", flush=True)
sys.stdin.readline()
began = time.monotonic()
slow(7)
print(time.monotonic() - began, flush=True)
"""

KILLED = """
import sys, time
from cachekit import Cache, Policy

url, prefix, stale, role = sys.argv[1:]
cache = Cache(url + "?deadline=5s", prefix=prefix)

@cache(policy=Policy(ttl=0.2 if role == "victim" else 30, stale=float(stale), lease=1, beta=0))
def slow(n):
    runs = cache.incr("runs", initial=1)
    if runs == 2:
        print("refreshing", flush=True)
        time.sleep(60)
    return runs

print(slow(7), flush=True)
while slow(7) != 3:
    time.sleep(0.02)
print(cache.get("runs"), flush=True)
"""


class Process:
    """A Python process that runs a script of these, and says lines."""

    def __init__(self, folder: Path, text: str, *arguments: str) -> None:
        script = folder / f"worker{abs(hash(text))}.py"
        if not script.exists():  # another process may be reading it
            script.write_text(text)
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, str(script), *arguments]
        self.process = subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment)

    def line(self) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """End it, if it has not ended."""
        self.process.kill()
        self.process.communicate()


def test_twenty_processes_do_not_run_in_a_row(server: Memcached, tmp_path: Path) -> None:
    """A result that can't be stored: the first one runs, the others run side by side when they know; nobody queues."""
    prefix = own_prefix()
    processes = [Process(tmp_path, UNSTORABLE, url_of(server), prefix) for _ in range(20)]
    try:
        assert [each.line() for each in processes] == ["ready"] * 20
        for each in processes:
            each.go()
        waited = sorted(float(each.line()) for each in processes)
    finally:
        for each in processes:
            each.end()
    # In a row the last one would wait for 20 runs; the bound leaves 1.2 s for 20 processes on a busy machine.
    assert waited[0] >= 0.29
    assert waited[-1] < 0.3 * 6


@pytest.mark.parametrize("stale", [0, 60])
def test_the_refreshers_process_is_killed(server: Memcached, tmp_path: Path, stale: int) -> None:
    """SIGKILL in the middle of a refresh: after a lease one other takes it over; with stale nobody waits for that."""
    prefix = own_prefix()
    victim = Process(tmp_path, KILLED, url_of(server), prefix, str(stale), "victim")
    try:
        assert [victim.line(), victim.line()] == ["1", "refreshing"]
        victim.process.send_signal(signal.SIGKILL)
        victim.process.wait(10)
    finally:
        victim.end()
    heir = Process(tmp_path, KILLED, url_of(server), prefix, str(stale), "heir")
    try:
        # What it is served first, and how often the function ran until it had the new value.
        assert [heir.line(), heir.line()] == ["1" if stale else "3", "3"]
    finally:
        heir.end()


# -- refreshes that come too late, and schedules ----------------------------------------------------------------------


def test_a_refresh_that_ends_after_the_item_is_gone(cache: Cache) -> None:
    """The item ended under a slow refresh: its result is returned, and not stored over what is newer."""
    go_on = threading.Event()
    runs: list[int] = []

    @cache(policy=Policy(ttl=0.2, lease=1, beta=0))
    def slow(n: int) -> int:
        runs.append(n)
        if len(runs) == 2:
            assert go_on.wait(20)
        return len(runs)

    assert slow(1) == 1
    assert eventually(lambda: slow.explain(1).state == "expired")
    refreshing = Outcome(slow, 1)
    assert eventually(lambda: len(runs) == 2)
    assert eventually(lambda: slow.explain(1).state == "absent")  # T = ceil(0.2) + 1 + lease
    go_on.set()
    assert refreshing.result() == 2
    assert slow.info().unstored == 1
    assert slow.peek(1) is MISS
    assert slow(1) == 3


def test_a_schedule_in_the_past_stores_nothing(cache: Cache) -> None:
    """until() a moment that has passed: every call runs, and none waits for another."""
    runs: list[int] = []

    @cache(ttl=until(datetime(2020, 1, 1, tzinfo=UTC)))
    def number(n: int) -> int:
        runs.append(n)
        return n

    assert [number(1), number(1), number(1)] == [1, 1, 1]
    assert runs == [1, 1, 1]
    assert number.explain(1).state == "pass"


@pytest.mark.parametrize(
    ("now", "seconds"),
    [
        # Paris, 29 March 2026: 02:00 becomes 03:00; 02:30 comes at the jump, 01:00 UTC.
        (datetime(2026, 3, 29, 0, 30, tzinfo=UTC), 1800),
        # 25 October 2026: 03:00 becomes 02:00 at 01:00 UTC; the first 02:30, at 00:30 UTC, counts, the second does not.
        (datetime(2026, 10, 25, 0, 0, tzinfo=UTC), 1800),
        (datetime(2026, 10, 25, 0, 45, tzinfo=UTC), 24 * 3600 + 45 * 60),
    ],
)
def test_daylight_saving_in_a_schedule(now: datetime, seconds: int) -> None:
    """at("02:30") in the nights in which the clocks change: the entry ends when that time comes."""
    with Cache("memory:", prefix=own_prefix()) as cache:

        @cache(ttl=at("02:30", tz="Europe/Paris"))
        def number(n: int) -> int:
            return n

        number.info()
        moment = now.timestamp()
        cache._env.now = lambda: moment
        assert cache._fleet.embedded is not None
        cache._fleet.embedded._clock = lambda: moment
        number(1)
        assert number.explain(1).ttl_s == seconds
