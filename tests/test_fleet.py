"""The servers of one cache: who is asked, who is not, and what happens when that changes."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.memcached import Memcached, free_port, start_memcached
from support.targets import own_prefix, url_of
from support.threads import Outcome, eventually

from cachekit import MISS, Cache, Unreachable
from cachekit.hooks import ServerState
from cachekit.ops import Exchange, LeaseVoid

WARNING = logging.WARNING


@pytest.fixture
def mortal() -> Iterator[Memcached]:
    """A server of the test's own, to stop and kill."""
    with start_memcached() as server:
        yield server


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages of warnings and worse."""
    return [record.getMessage() for record in caplog.records if record.levelno >= WARNING]


def squares(cache: Cache) -> Any:
    """A cached function."""

    @cache
    def square(n: int) -> int:
        return n * n

    return square


# -- no server --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["port", "socket", "name", "three"])
def test_no_server_reachable(where: str, caplog: pytest.LogCaptureFixture) -> None:
    """The function runs, every time; it is counted; there is one warning a server and no more."""
    ports = [free_port() for _ in range(3)]
    urls = {
        "port": f"memcached://127.0.0.1:{ports[0]}",
        "socket": "unix:///nowhere/at/all.sock",
        "name": "memcached://no-such-host.invalid",
        "three": "memcached://" + ",".join(f"127.0.0.1:{port}" for port in ports),
    }
    with Cache(urls[where]) as cache:
        square = squares(cache)
        assert [square(n) for n in range(30)] == [n * n for n in range(30)]
        info = square.info()
        assert (info.fills, info.misses, info.hits) == (30, 30, 0)
        assert info.errors >= 30
        assert square.peek(1) is MISS
        assert square.explain(1).state == "unreachable"
        assert square.invalidate(1) is False
        assert square.invalidate_all() is False
        assert square.refresh(1) == 1
        assert square.many([square.bind(n) for n in range(5)]) == [0, 1, 4, 9, 16]
        assert (cache.set("k", 1), cache.get("k", "default"), cache.get_many(["k"])) == (False, "default", {})
        assert (cache.set_many({"k": 1}), cache.delete_many(["k"])) == (["k"], ["k"])
        assert (cache.delete("k"), cache.touch("k"), cache.incr("k")) == (False, False, None)
        assert cache.get_or_set("k", lambda: 5) == 5
        servers = cache.stats().servers
        assert not any(servers.values())
    assert len(warnings(caplog)) == len(servers)
    assert all("marked down" in warning for warning in warnings(caplog))


def test_no_thread_for_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit of threads, and while the interpreter ends, the function still just runs."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Cache(f"memcached://127.0.0.1:{free_port()}") as cache:
        square = squares(cache)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            assert [square(3), square(3)] == [9, 9]
            assert cache.get("k", MISS) is MISS
            assert not square.invalidate(3)
        assert square(3) == 9
        assert any(thread.name == "cachekit-probe" for thread in threading.enumerate())


def test_on_error_raise() -> None:
    """Direct verbs raise what went wrong; cached functions never do; programmers' errors always do."""
    with Cache(f"memcached://127.0.0.1:{free_port()}", on_error="raise") as cache:
        verbs: list[Any] = [
            lambda: cache.get("k"),
            lambda: cache.gets("k"),
            lambda: cache.set("k", 1),
            lambda: cache.delete("k"),
            lambda: cache.touch("k"),
            lambda: cache.incr("k"),
            lambda: cache.get_many(["k"]),
            lambda: cache.set_many({"k": 1}),
            lambda: cache.delete_many(["k"]),
        ]
        for verb in verbs:
            with pytest.raises(Unreachable):
                verb()
        square = squares(cache)
        assert [square(3), square.peek(3), square.invalidate(3)] == [9, MISS, False]


# -- down and up again ------------------------------------------------------------------------------------------------


def test_a_refused_connection_marks_down_at_once_and_the_probe_brings_back(
    mortal: Memcached, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning when it goes, nothing asked while it is gone, one line when it is back, used within seconds."""
    caplog.set_level(logging.INFO, "cachekit")
    with Cache(url_of(mortal), prefix="p") as cache:
        states: list[ServerState] = []
        cache.hooks.on_server(states.append)
        square = squares(cache)
        square(3)
        mortal.kill()
        assert [square(n) for n in range(50)] == [n * n for n in range(50)]
        assert [state.up for state in states] == [False]
        began = time.monotonic()
        for n in range(200):
            square(n)
        assert time.monotonic() - began < 5
        mortal.restart()
        assert eventually(lambda: cache.stats().servers[mortal.name], 10)
        assert [state.up for state in states] == [False, True]
        square(4)
        hits = square.info().hits
        assert square(4) == 16
        assert square.info().hits == hits + 1
    messages = [record.getMessage() for record in caplog.records]
    assert [("marked down" in message, "is back" in message) for message in messages] == [(True, False), (False, True)]


def test_silence_marks_down_the_second_time(mortal: Memcached, caplog: pytest.LogCaptureFixture) -> None:
    """A stopped server costs two deadlines and no more; afterwards calls fail at once."""
    with Cache(f"{url_of(mortal)}?deadline=100ms", prefix="p") as cache:
        square = squares(cache)
        square(1)
        mortal.pause()
        try:
            assert square(1) == 1
            assert all(cache.stats().servers.values())
            assert square(1) == 1
            assert not any(cache.stats().servers.values())
            began = time.monotonic()
            assert [square(1) for _ in range(100)] == [1] * 100
            assert time.monotonic() - began < 5
        finally:
            mortal.resume()
        assert eventually(lambda: all(cache.stats().servers.values()), 10)
        hits = square.info().hits
        assert square(1) == 1
        assert square.info().hits == hits + 1
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("first", [True, False])
def test_a_silent_server_costs_its_own_keys_only(first: bool) -> None:
    """Wherever it stands in the window, the answers of the others, which have come meanwhile, are read."""
    with start_memcached() as one, start_memcached() as two, Cache(f"{url_of(one, two)}?deadline=500ms") as cache:
        keys = [f"k{n}" for n in range(400)]
        assert cache.set_many(dict.fromkeys(keys, "value" * 100)) == []
        victim = sorted((one, two), key=lambda server: server.name)[not first]
        others = [key for key in keys if cache.server_of(key) != victim.name]
        victim.pause()
        began = time.monotonic()
        found = cache.get_many(keys)
        took = time.monotonic() - began
        victim.resume()
        assert sorted(found) == sorted(others)
        assert took < 1.0


def test_a_dead_server_costs_its_own_keys_only(
    mortal: Memcached, servers3: tuple[Memcached, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """With one of three gone, the many-key verbs and functions go on with the other two."""
    with Cache(url_of(*servers3[:2], mortal), prefix=own_prefix()) as cache:
        square = squares(cache)
        values = {f"k{n}": n for n in range(300)}
        assert cache.set_many(values) == []
        for n in range(100):
            square(n)
        mortal.kill()
        found = cache.get_many(values)
        lost = set(values) - set(found)
        assert 0 < len(lost) < 200
        assert set(cache.set_many(values)) == lost
        assert set(cache.delete_many(values)) == lost
        assert square.many([square.bind(n) for n in range(100)]) == [n * n for n in range(100)]
        assert [square(n) for n in range(100)] == [n * n for n in range(100)]
        assert square.info().hits > 60
        assert square.invalidate_all() is False
    assert len(warnings(caplog)) == 1


def test_a_probe_runs_after_close_too(mortal: Memcached) -> None:
    """A cache that was closed and is used again marks down and recovers like a new one."""
    with Cache(url_of(mortal), prefix="p") as cache:
        square = squares(cache)
        mortal.kill()
        square(1)
        cache.close()
        square(1)
        assert not any(cache.stats().servers.values())
        mortal.restart()
        assert eventually(lambda: square(1) == 1 and all(cache.stats().servers.values()), 10)


def test_a_forgotten_cache_takes_its_probe_along(caplog: pytest.LogCaptureFixture) -> None:
    """The probe's thread does not keep a cache alive, and ends without it."""
    caplog.set_level(
        logging.CRITICAL, "cachekit"
    )  # a record that is kept holds the error, and the frames it came through
    before = set(threading.enumerate())
    cache = Cache(f"memcached://127.0.0.1:{free_port()}")
    assert cache.get("k", MISS) is MISS
    probes = [thread for thread in threading.enumerate() if thread not in before]
    assert len(probes) == 1
    assert probes[0].daemon
    del cache
    gc.collect()
    assert eventually(lambda: not probes[0].is_alive(), 10)


# -- connections ------------------------------------------------------------------------------------------------------


def connections(server: Memcached) -> int:
    """How many connections the server has but for the one that asks."""
    return int(server.stats()["curr_connections"]) - 1


def test_each_thread_has_one_connection_a_server_and_takes_it_along(mortal: Memcached) -> None:
    """Threads share no connection, a thread opens one only, and it is closed when the thread ends."""
    idle = connections(mortal)
    with Cache(url_of(mortal), prefix="p") as cache:
        square = squares(cache)
        hold, ready = threading.Event(), threading.Barrier(6)

        def work() -> None:
            for n in range(20):
                square(n), cache.get("k"), cache.set("k", 1), cache.get_many(["a", "b"])
            ready.wait(10)
            assert hold.wait(10)

        workers = [Outcome(work) for _ in range(5)]
        ready.wait(10)
        assert eventually(lambda: connections(mortal) == idle + 5)
        hold.set()
        for worker in workers:
            worker.result()
        del workers, worker
        gc.collect()
        assert eventually(lambda: connections(mortal) == idle)
        square(1)
        assert connections(mortal) == idle + 1
    assert eventually(lambda: connections(mortal) == idle)


def test_interrupted_exchanges_leak_no_connection(mortal: Memcached) -> None:
    """Whatever goes wrong a thousand times, no connection is left behind."""
    idle = connections(mortal)
    with Cache(f"{url_of(mortal)}?deadline=5s", prefix="p") as cache:
        cache.set("text", "x")
        for _ in range(300):
            cache.incr("text")
            cache.get("text")
        assert connections(mortal) <= idle + 1
        assert all(cache.stats().servers.values())


def test_a_lease_is_only_good_on_a_connection_as_old(mortal: Memcached) -> None:
    """held_since: only a connection opened before that will do; after a restart there is none."""
    with Cache(f"{url_of(mortal)}?deadline=5s") as cache:
        fleet = cache._fleet
        request = Exchange(0, b"mg k c N30 O1\r\n", 1, 1, retry=True)
        given = fleet.exchange(request)
        assert given.replies[0].won
        spend = Exchange(0, b"mg k c O2\r\n", 1, 2, held_since=given.sent_at)
        assert fleet.exchange(spend).replies[0].code == "HD"
        mortal.restart()
        with pytest.raises(Unreachable):
            fleet.exchange(spend)
        assert fleet.exchange(request).replies[0].won
        with pytest.raises(LeaseVoid):
            fleet.exchange(spend)


def test_a_listener_that_reconnects_does_not_renew_the_lease() -> None:
    """It hears of the miss before the function runs; the server was restarted, and numbers its items anew."""
    with start_memcached() as server, Cache(f"{url_of(server)}?deadline=5s", prefix="p") as cache:
        square = squares(cache)
        assert square(1) == 1

        @cache.hooks.on_miss
        def listener(event: object) -> None:
            key = square.key(2).encode()
            lease = server.ask(b"mg %b c\r\n" % key).split()[1]
            server.restart()
            cache.get("anything")
            while server.ask(b"mg %b c N30\r\n" % key).split()[1] != lease:  # till another's lease has the same number
                server.ask(b"md %b\r\n" % key)

        square(2)
        assert square.info().unstored == 1
        assert square.peek(2) is MISS


def test_a_handler_that_closes_the_cache_between_two_steps(mortal: Memcached, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler may run after any call; one that closes the cache takes the connection off the shelf."""
    with Cache(url_of(mortal), prefix="p") as cache:
        cache.set("k", 1)
        getpid = os.getpid

        def interrupted() -> int:
            cache._fleet.drop(0)
            return getpid()

        monkeypatch.setattr(os, "getpid", interrupted)
        assert cache.set("k", 2)
        assert cache.get("k") == 2


def test_the_first_lease_of_a_thread_is_good(mortal: Memcached) -> None:
    """The connection opened for the very read that gives the lease counts as older than it, however it was read."""
    with Cache(f"{url_of(mortal)}?deadline=5s", prefix="p") as cache:
        square = squares(cache)
        assert Outcome(square, 1).result() == 1
        assert Outcome(cache.get_or_set, "k", lambda: 2).result() == 2
        assert Outcome(square.refresh, 3).result() == 9
        assert [square.peek(1), cache.get("k"), square.peek(3)] == [1, 2, 9]


def test_close_while_others_work(mortal: Memcached) -> None:
    """close() in one thread disturbs no other one."""
    with Cache(f"{url_of(mortal)}?deadline=5s", prefix="p") as cache:
        square = squares(cache)
        over = threading.Event()

        def work() -> int:
            calls = 0
            while not over.is_set():
                assert square(calls % 7) == (calls % 7) ** 2
                assert cache.set("k", calls)
                calls += 1
            return calls

        workers = [Outcome(work) for _ in range(3)]
        for _ in range(50):
            cache.close()
            cache.get("k")
        over.set()
        assert all(worker.result() > 0 for worker in workers)
        assert square.info().errors == cache.stats().direct.errors == 0


def test_a_server_without_cas_caches_nothing_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Memcached -C has no CAS numbers, so no leases and no generations: functions just run, one warning says why."""
    with start_memcached("-C") as server, Cache(f"{url_of(server)}?deadline=5s", prefix="p") as cache:
        square = squares(cache)
        began = time.monotonic()
        assert [square(3) for _ in range(5)] == [9] * 5
        assert time.monotonic() - began < 5
        assert square.invalidate_all()
        assert square.peek(3) is MISS
        assert cache.set("k", 1)
        assert cache.get("k") == 1
    assert len(warnings(caplog)) == 1
    assert server.name in warnings(caplog)[0]
    assert "-C" in warnings(caplog)[0]
