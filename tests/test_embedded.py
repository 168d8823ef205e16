"""The embedded server's own rules: time, memory, threads. What it shares with a real one is in tests/contract/."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachekit import meta
from cachekit.embedded import EmbeddedServer
from cachekit.embedded import server as embedded_server
from cachekit.embedded.digits import int32, uint32, uint64
from cachekit.errors import RequestError, Unreachable

NOW = 1_800_000_000.25


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        """The time it was set to."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock of the server under test."""
    return Clock()


@pytest.fixture
def server(clock: Clock) -> EmbeddedServer:
    """A server that lives by that clock."""
    return EmbeddedServer(clock=clock)


# -- time


def test_an_item_lives_exactly_its_ttl(server: EmbeddedServer, clock: Clock) -> None:
    """It is there until the clock reaches its end, and not then."""
    server.handle(b"ms k 1 T2\r\nx\r\n")
    clock.now = NOW + 1.999
    assert server.handle(b"mg k v\r\n") == b"VA 1\r\nx\r\n"
    clock.now = NOW + 2
    assert server.handle(b"mg k v\r\n") == b"EN\r\n"
    assert server.stats()["curr_items"] == 0


@pytest.mark.parametrize(("passed_s", "told"), [(0, 10), (0.25, 10), (0.999, 10), (1, 9), (9, 1), (9.75, 1)])
def test_t_is_rounded_up(server: EmbeddedServer, clock: Clock, passed_s: float, told: int) -> None:
    """A live item never shows t0, as on a real server."""
    server.handle(b"ms k 1 T10\r\nx\r\n")
    clock.now = NOW + passed_s
    assert server.handle(b"mg k t\r\n") == b"HD t%d\r\n" % told


def test_recache_fires_strictly_below_the_whole_seconds_left(server: EmbeddedServer, clock: Clock) -> None:
    """T61 is claimed by R60 two seconds later and not before; R1 never on a live item."""
    server.handle(b"ms k 1 T61\r\nx\r\n")
    clock.now = NOW + 1.999
    assert server.handle(b"mg k R60\r\n") == b"HD\r\n"
    clock.now = NOW + 2
    assert server.handle(b"mg k R60\r\n") == b"HD W\r\n"
    server.handle(b"ms j 1 T1\r\nx\r\n")
    clock.now = NOW + 2.999
    assert server.handle(b"mg j R1\r\n") == b"HD\r\n"


def test_times_beyond_thirty_days_are_dates(server: EmbeddedServer, clock: Clock) -> None:
    """A date ahead is kept to, one gone by is expired at once."""
    date = int(NOW) + 40 * 86400
    assert server.handle(b"ms k 1 T%d\r\nx\r\nmg k t R%d\r\nmg k R%d\r\n" % (date, date, date + 1)) == (
        b"HD\r\nHD t%d\r\nHD W\r\n" % (40 * 86400)
    )
    clock.now = float(date)
    assert server.handle(b"mg k\r\n") == b"EN\r\n"
    assert server.handle(b"ms k 1 T%d\r\nx\r\nmg k\r\n" % date) == b"HD\r\nEN\r\n"


def test_a_stub_expires_and_is_won_again(server: EmbeddedServer, clock: Clock) -> None:
    """A lease has an end: after it the next reader wins, and the late winner's store fails."""
    assert server.handle(b"mg k c N5\r\n") == b"HD c1 W\r\n"
    clock.now = NOW + 4.9
    assert server.handle(b"mg k c N5\r\n") == b"HD c1 Z\r\n"
    clock.now = NOW + 5
    assert server.handle(b"mg k c N5\r\nms k 1 C1\r\nx\r\n") == b"HD c2 W\r\nEX\r\n"


def test_idle_time(server: EmbeddedServer, clock: Clock) -> None:
    """Both l and me tell whole seconds since the last access; u is none."""
    server.handle(b"ms k 1\r\nx\r\n")
    clock.now = NOW + 7.5
    assert server.handle(b"mg k l u\r\nme k\r\n") == b"HD l7\r\nME k exp=-1 la=7 cas=1 fetch=no cls=1 size=61\r\n"
    assert server.handle(b"mg k l\r\nmg k l\r\n") == b"HD l7\r\nHD l0\r\n"


def test_a_delayed_flush_comes_when_it_is_due(server: EmbeddedServer, clock: Clock) -> None:
    """It also takes what was stored while it was waited for, as on a real server; one without delay calls it off."""
    server.handle(b"ms k 1\r\nx\r\n")
    assert server.handle(b"flush_all 10\r\nmg k\r\nms j 1\r\nx\r\n") == b"OK\r\nHD\r\nHD\r\n"
    clock.now = NOW + 10
    assert server.handle(b"mg k\r\nmg j\r\n") == b"EN\r\nEN\r\n"
    server.handle(b"flush_all 10\r\nflush_all\r\nms k 1\r\nx\r\n")
    clock.now = NOW + 20
    assert server.handle(b"mg k\r\n") == b"HD\r\n"


def test_cas_numbers_rise_over_flush_and_delete(server: EmbeddedServer) -> None:
    """An old number never fits a new item."""
    replies = server.handle(b"mg k c N0\r\nmd k\r\nmg k c N0\r\nflush_all\r\nmg k c N0\r\nmg k2 c N0\r\n")
    numbers = [int(line.split()[1][1:]) for line in replies.splitlines() if b" c" in line]
    assert len(numbers) == 4
    assert numbers == sorted(set(numbers))


# -- memory


def test_expired_items_do_not_hold_memory(server: EmbeddedServer, clock: Clock) -> None:
    """Nobody asks for them again, yet as many stores as there were items drop them all."""
    server.handle(b"".join(b"ms old%d 100 T5\r\n%b\r\n" % (i, b"x" * 100) for i in range(500)))
    clock.now = NOW + 5
    server.handle(b"".join(b"ms new%d 1 q\r\nx\r\n" % i for i in range(500)))
    assert server.stats()["curr_items"] == 500
    assert server.stats()["reclaimed"] == 500
    assert server.stats()["evictions"] == 0


def test_bytes_count_key_value_and_overhead(server: EmbeddedServer) -> None:
    """59 bytes an item, 63 with client flags, as a real server counts; and a dropped item is counted no more."""
    server.handle(b"ms key 10\r\n0123456789\r\nms key2 1 F1\r\nx\r\n")
    assert server.stats()["bytes"] == (59 + 3 + 10) + (63 + 4 + 1)
    server.handle(b"ms key 1\r\nx\r\nms key2 1 MA\r\ny\r\nma n N0 J999\r\nma n\r\n")
    assert server.stats()["bytes"] == (59 + 3 + 1) + (63 + 4 + 2) + (59 + 1 + 4)
    server.handle(b"md key\r\nmd key2\r\nmd n\r\n")
    assert server.stats()["bytes"] == 0


def test_the_least_recently_used_go_first(clock: Clock) -> None:
    """A read saves an item from eviction, a read with u does not."""
    server = EmbeddedServer(memory_bytes=3 * (59 + 1 + 100), clock=clock)
    for key in b"abc":
        server.handle(b"ms %c 100\r\n%b\r\n" % (key, b"x" * 100))
    server.handle(b"mg a\r\nmg b u\r\nms d 100\r\n%b\r\n" % (b"x" * 100))
    assert server.handle(b"mg a q s\r\nmg b q s\r\nmg c q s\r\nmg d q s\r\n").count(b"HD") == 3
    assert server.handle(b"mg b\r\n") == b"EN\r\n"
    assert server.stats()["evictions"] == 1


def test_a_large_item_makes_several_go(clock: Clock) -> None:
    """As many as its size asks for, and never itself."""
    server = EmbeddedServer(memory_bytes=10 * (59 + 2 + 100), clock=clock)
    for number in range(10):
        server.handle(b"ms k%d 100\r\n%b\r\n" % (number, b"x" * 100))
    assert server.handle(b"ms big 600\r\n%b\r\n" % (b"y" * 600)) == b"HD\r\n"
    assert server.handle(b"mg big s\r\n") == b"HD s600\r\n"
    assert server.stats()["evictions"] == 5
    assert server.stats()["bytes"] <= server.stats()["limit_maxbytes"]


def test_making_room_by_an_expired_item_is_no_eviction(clock: Clock) -> None:
    """What evictions counts is what was lost, and an expired item is no loss."""
    server = EmbeddedServer(memory_bytes=3 * (59 + 1 + 100), clock=clock)
    server.handle(b"".join(b"ms %c 100 T1\r\n%b\r\n" % (key, b"x" * 100) for key in b"abc"))
    clock.now = NOW + 1
    server._store._round = iter(())  # the sweep begins its round with this store, and looks at nothing yet
    server.handle(b"ms d 100\r\n%b\r\n" % (b"x" * 100))
    assert server.stats()["evictions"] == 0
    assert server.stats()["curr_items"] == 3


def test_an_item_larger_than_the_budget_is_too_large(clock: Clock) -> None:
    """It would push everything else out and still not fit."""
    server = EmbeddedServer(memory_bytes=1000, clock=clock)
    server.handle(b"ms k 1\r\nx\r\n")
    assert server.handle(b"ms j 1000\r\n%b\r\n" % (b"x" * 1000)) == b"SERVER_ERROR object too large for cache\r\n"
    assert server.handle(b"mg k\r\n") == b"HD\r\n"


def test_the_item_limit_can_be_chosen(clock: Clock) -> None:
    """item_bytes counts key, value and overhead; what is over it takes the old value with it."""
    server = EmbeddedServer(item_bytes=100, clock=clock)
    assert server.handle(b"ms k 40\r\n%b\r\n" % (b"x" * 40)) == b"HD\r\n"
    refused = b"SERVER_ERROR object too large for cache\r\n"
    assert server.handle(b"ms k 41\r\n%b\r\nmg k\r\n" % (b"x" * 41)) == refused + b"EN\r\n"
    assert server.stats()["store_too_large"] == 1


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 400), st.integers(-1, 3)), max_size=60))
def test_the_budget_always_holds(stores: list[tuple[int, int, int]]) -> None:
    """However keys, sizes and ttls come, the bytes counted are those of the items there, and within the budget."""
    clock = Clock()
    server = EmbeddedServer(memory_bytes=2000, clock=clock)
    for key, size, ttl in stores:
        clock.now += 0.5
        server.handle(b"ms %d %d T%d\r\n%b\r\n" % (key, size, ttl, b"x" * size))
        held = server._store.items.values()
        assert server.stats()["bytes"] == sum(item.bytes for item in held) <= 2000


def test_values_handed_in_and_out_are_immutable(server: EmbeddedServer) -> None:
    """Changing the buffer of a request afterwards changes nothing in the cache."""
    request = bytearray(b"ms k 3\r\nabc\r\n")
    server.handle(request)  # type: ignore[arg-type]
    request[8:11] = b"xyz"
    reply = server.handle(b"mg k v\r\n")
    assert type(reply) is bytes
    assert reply == b"VA 3\r\nabc\r\n"


# -- requests


@pytest.mark.parametrize("request_", [b"mg k", b"ms k 3\r\nabc", b"ms k 3\r\n", b"mg k\r\nmg"], ids=repr)
def test_an_incomplete_request_is_an_error(server: EmbeddedServer, request_: bytes) -> None:
    """A real server would wait for ever; here the programmer hears of it."""
    with pytest.raises(RequestError):
        server.handle(request_)
    assert server.handle(b"mn\r\n") == b"MN\r\n"


def test_a_pipeline_is_answered_in_order(server: EmbeddedServer) -> None:
    """Several commands in one request give their replies one after the other; no command, no reply."""
    request = meta.ms(b"k", b"x") + meta.mg(b"k", b"v O1") + meta.mg(b"j", b"v O2") + meta.mn()
    assert server.handle(request) == b"HD\r\nVA 1 O1\r\nx\r\nEN O2\r\nMN\r\n"
    assert server.handle(b"") == b""


def test_stats_and_version(server: EmbeddedServer, clock: Clock) -> None:
    """The command tells what the method tells, and the version says what this is."""
    server.handle(b"ms k 1\r\nx\r\nmg k\r\nmg j\r\n")
    clock.now = NOW + 9
    told = [line.split(" ", 2)[1:] for line in server.handle(b"stats\r\n").decode().splitlines()[:-1]]
    numbers = {name: int(number) for name, number in told if name not in ("version", "time")}
    assert numbers == server.stats()
    expected = {"uptime": 9, "curr_items": 1, "total_items": 1, "bytes": 61, "limit_maxbytes": 64 << 20}
    assert numbers.items() >= expected.items()
    assert numbers.items() >= {"cmd_get": 2, "get_hits": 1, "get_misses": 1, "cmd_set": 1}.items()
    assert server.handle(b"version\r\n") == b"VERSION 1.6.18-cachekit\r\n"
    assert server.handle(b"stats items\r\n") == b"ERROR\r\n"
    assert repr(server) == "EmbeddedServer(1 items, 61 bytes)"


# -- threads


def test_threads_lose_nothing() -> None:
    """Increments of many threads all count, and one cold key is won once."""
    server = EmbeddedServer(memory_bytes=1 << 20)
    start = threading.Barrier(8)
    wins: list[bytes] = []

    def work() -> None:
        start.wait()
        for number in range(300):
            server.handle(b"ma counter N0\r\n")
            server.handle(b"ms k%d 1000 T1\r\n%b\r\n" % (number, b"x" * 1000))
            if server.handle(b"mg cold%d N0\r\n" % number).endswith(b" W\r\n"):
                wins.append(b"cold%d" % number)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert server.handle(b"mg counter v\r\n").split(b"\r\n")[1] == b"2399"
    assert sorted(wins) == sorted(b"cold%d" % number for number in range(300))
    assert server.stats()["bytes"] == sum(item.bytes for item in server._store.items.values())


# -- numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *((b"30", 30), (b"-1", -1), (b"+3", 3), (b" 4", 4), (b"4 5", 4), (b"4\0x", 4), (b"007", 7)),
        *((b"2147483648", -(2**31)), (b"4294967396", 100), (b"", None), (b"x", None), (b"1x", None), (b"1.5", None)),
        *((b"9" * 30, None), (b"9" * 50, None), ("٣".encode(), None), (b"-", None), (b"1_0", None)),
    ],
)
def test_int32_reads_as_strtol_does(text: bytes, number: int | None) -> None:
    """White space before, anything after white space, 32 bits and no more."""
    assert int32(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *((b"18446744073709551615", 2**64 - 1), (b"18446744073709551616", None), (b"-1", None), (b"-0", 0)),
        *((b"x", None), (b"-18446744073709551615", 1)),
    ],
)
def test_uint64_reads_as_strtoull_does(text: bytes, number: int | None) -> None:
    """Unsigned 64-bit, with C's odd view of a minus sign."""
    assert uint64(text) == number


def test_uint32_is_cut() -> None:
    """Client flags beyond 32 bits lose their upper part; what is no number stays none."""
    assert uint32(b"4294967296") == 0
    assert uint32(b"x") is None


class TestInterruptions:
    """What breaks into the middle of a command must find, and leave, tables that can be trusted."""

    def test_a_call_from_within_a_call_is_refused_and_not_a_deadlock(self) -> None:
        """A signal handler on the same thread gets an error that degrades to a miss."""
        caught: list[Exception] = []

        def clock() -> float:
            if made and not caught:
                try:
                    made[0]._inside = True  # as it is between two steps of a command
                    made[0].handle(b"mn\r\n")
                except Unreachable as error:
                    caught.append(error)
                finally:
                    made[0]._inside = False
            return 1e9

        made: list[EmbeddedServer] = []
        made.append(EmbeddedServer(clock=clock))
        assert made[0].handle(b"mn\r\n") == b"MN\r\n"
        assert len(caught) == 1

    def test_an_interrupt_in_mid_command_empties_the_store(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Half of a change may be done: nothing is served from there, and CAS numbers go on."""
        server = EmbeddedServer()
        server.handle(b"ms a 1 T0\r\n1\r\n")
        before = server.handle(b"mg a c\r\n")

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("cachekit.embedded.store.Store._sweep", interrupted)
            with pytest.raises(KeyboardInterrupt):
                server.handle(b"ms b 1 T0\r\n2\r\n")
        assert server.handle(b"mg a v\r\n") == b"EN\r\n"
        assert server.stats()["bytes"] == 0
        server.handle(b"ms a 1 T0\r\n1\r\n")
        assert server.handle(b"mg a c\r\n") > before

    def test_a_fork_waits_for_the_command_under_way(self) -> None:
        """A child must not inherit a lock that nobody will ever release."""
        server = EmbeddedServer()
        server.handle(b"ms a 1 T0\r\n1\r\n")
        busy = threading.Event()

        def keep_busy() -> None:
            while not busy.is_set():
                server.handle(b"mg a v\r\n")

        thread = threading.Thread(target=keep_busy)
        thread.start()
        try:
            for _ in range(30):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks among threads
                    child = os.fork()
                if not child:
                    signal.alarm(10)
                    os._exit(0 if server.handle(b"mg a v\r\n").startswith(b"VA 1") else 1)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            busy.set()
            thread.join()


def test_one_fork_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one thread holds over its fork, another's must not let go: it would stay locked for ever."""
    monkeypatch.setattr(EmbeddedServer, "hold", lambda _: None)
    monkeypatch.setattr(EmbeddedServer, "let_go", lambda _: None)
    server = EmbeddedServer()
    embedded_server._before_fork()
    held = list(embedded_server._held)
    assert server in held

    def fork() -> None:
        embedded_server._before_fork()
        embedded_server._after_fork()

    other = threading.Thread(target=fork, daemon=True)
    other.start()
    other.join(0.2)
    assert (other.is_alive(), embedded_server._held) == (True, held)
    embedded_server._after_fork()
    other.join(10)
    assert (other.is_alive(), embedded_server._held) == (False, [])
