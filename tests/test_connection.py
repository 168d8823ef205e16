"""One connection: whatever comes over it, and however, the caller gets his own value, a miss, or an error."""

from __future__ import annotations

import contextlib
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pymemcache.client.base import Client  # type: ignore[import-untyped,unused-ignore]
from support.memcached import Memcached, make_certificate, start_memcached
from support.scripted import HANG, Script, ScriptedServer, token

from cachekit import MISS, Cache, DeadlineExceeded, Policy, ProtocolError, Server, ServerError, Tls, Unreachable
from cachekit.embedded import EmbeddedServer
from cachekit.sync.connection import Connection

GENEROUS_S = 3.0
"""Far more than any deadline in here, far less than for ever."""


def connection_to(server: ScriptedServer, deadline_s: float = 2.0) -> Connection:
    """A connection of its own, with no cache around it."""
    host, port = server.url.removeprefix("memcached://").split(":")
    return Connection(Server(f"{host}:{port}", host=host, port=int(port)), deadline_s)


@contextlib.contextmanager
def cache_on(
    script: Script, *, pause_s: float = 0.0, deadline: str = "2s", **options: Any
) -> Iterator[tuple[Cache, ScriptedServer]]:
    """A cache on a server that plays ``script``, and that server."""
    with (
        ScriptedServer(script, pause_s=pause_s) as server,
        Cache(f"{server.url}?deadline={deadline}", **options) as cache,
    ):
        yield cache, server


def bytewise(answer: bytes) -> list[object]:
    """The answer in pieces of one byte."""
    return [answer[at : at + 1] for at in range(len(answer))]


# -- what we lean on --------------------------------------------------------------------------------------------------


def test_pymemcaches_private_names() -> None:
    """Pymemcache's Client still has _connect() and sock, which hold an open socket afterwards."""
    with start_memcached() as server:
        client = Client((server.host, server.port), connect_timeout=5, timeout=5)
        assert client.sock is None
        client._connect()
        sock: Any = client.sock
        sock.sendall(b"mn\r\n")
        assert sock.recv(100) == b"MN\r\n"
        client.close()


# -- fragments --------------------------------------------------------------------------------------------------------


@pytest.fixture
def behind() -> EmbeddedServer:
    """The Memcached behind the scripted server."""
    return EmbeddedServer()


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 7, 10, 15, 20, 25, 30, 31, 32, 33, 40, 50, 60, 90, 120])
def test_replies_cut_anywhere(behind: EmbeddedServer, cut: int) -> None:
    """However the replies are cut in two, every verb understands them."""

    def script(request: bytes) -> list[object]:
        answer = behind.handle(request)
        return [answer[:cut], answer[cut:]]

    with cache_on(script, pause_s=0.0005) as (cache, _):
        _every_verb(cache)
        assert cache.stats().direct.errors == 0


def test_replies_byte_by_byte(behind: EmbeddedServer) -> None:
    """Even one byte at a time."""
    with cache_on(lambda request: bytewise(behind.handle(request)), deadline="20s") as (cache, _):
        _every_verb(cache)
        assert cache.stats().direct.errors == 0


def _every_verb(cache: Cache) -> None:
    @cache
    def text(n: int) -> str:
        return "text" * n

    assert [text(3), text(3), text.peek(3)] == ["text" * 3, "text" * 3, "text" * 3]
    assert (text.info().hits, text.info().fills, text.info().errors) == (1, 1, 0)
    assert cache.set("k", b"\r\nEND\r\n")
    assert cache.get("k") == b"\r\nEND\r\n"
    assert cache.get("absent", MISS) is MISS
    assert cache.gets("k")[0] == b"\r\nEND\r\n"
    assert cache.touch("k", ttl=60)
    assert cache.set_many({"a": 1, "b": "two"}) == []
    assert cache.get_many(["a", "b", "k", "absent"]) == {"a": 1, "b": "two", "k": b"\r\nEND\r\n"}
    assert cache.incr("a") == 2
    assert cache.delete_many(["a", "b"]) == []
    assert text.invalidate(3)
    assert text.invalidate_all()
    assert text.peek(3) is MISS


# -- deadlines --------------------------------------------------------------------------------------------------------


def _drip(start: bytes) -> Callable[[bytes], Iterator[object]]:
    def script(request: bytes) -> Iterator[object]:
        yield start
        while True:
            yield b"x"

    return script


@pytest.mark.skipif(sys.platform == "win32", reason="no interval timers there")
def test_the_deadline_holds_under_an_interval_timer() -> None:
    """A profiler's signals come faster than the deadline; each would start the kernel's own timer again."""
    old = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        with cache_on(lambda _: [HANG], deadline="100ms") as (cache, _):
            began = time.monotonic()
            rescue = threading.Timer(GENEROUS_S, signal.setitimer, (signal.ITIMER_REAL, 0))
            rescue.start()
            assert cache.get("k", MISS) is MISS
            rescue.cancel()
            assert time.monotonic() - began < GENEROUS_S
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize(
    "start", [b"", b"VA 100000 ", b"VA 100000 c1 f0 t-1 O1\r\n", b"VALUE k 0 100000\r\n", b"x" * 50]
)
def test_the_deadline_bounds_the_whole_exchange(start: bytes) -> None:
    """A server that sends a byte every now and then is given up after the deadline, not after the last byte."""
    with ScriptedServer(_drip(start), pause_s=0.05) as server:
        for how in (b"mg k v O1\r\n", b"get k\r\n"):
            connection = connection_to(server, 0.3)
            began = time.monotonic()
            with pytest.raises((DeadlineExceeded, ProtocolError)):
                connection.exchange(how, 1, 1)
            assert time.monotonic() - began < GENEROUS_S
            assert connection.closed


@pytest.mark.parametrize(
    "verb", ["get", "gets", "get_many", "touch", "set", "set_many", "delete", "incr", "delete_many"]
)
def test_no_verb_waits_beyond_the_deadline(verb: str) -> None:
    """Each verb gives its default after the deadline, be the server silent or dripping; the trouble is counted."""
    calls: dict[str, Callable[[Cache], object]] = {
        "get": lambda cache: cache.get("k", "default") == "default",
        "gets": lambda cache: cache.gets("k", "default") == ("default", None),
        "get_many": lambda cache: cache.get_many(["k", "l"]) == {},
        "touch": lambda cache: cache.touch("k") is False,
        "set": lambda cache: cache.set("k", 1) is False,
        "set_many": lambda cache: cache.set_many({"k": 1, "l": 2}) == ["k", "l"],
        "delete": lambda cache: cache.delete("k") is False,
        "incr": lambda cache: cache.incr("k") is None,
        "delete_many": lambda cache: cache.delete_many(["k", "l"]) == ["k", "l"],
    }
    for script in (lambda _: [HANG], _drip(b"VALUE k 0 5000\r\n"), _drip(b""), _drip(b"HD")):
        with cache_on(script, pause_s=0.02, deadline="200ms") as (cache, _):
            began = time.monotonic()
            assert calls[verb](cache)
            assert time.monotonic() - began < GENEROUS_S
            assert cache.stats().direct.errors >= 1


def test_a_large_value_that_comes_too_slowly_is_given_up() -> None:
    """The function runs in place of a value that would take longer than the deadline."""
    with cache_on(_slow_value, pause_s=0.02, deadline="200ms") as (cache, _):

        @cache
        def f() -> int:
            return 7

        began = time.monotonic()
        assert f() == 7
        assert time.monotonic() - began < GENEROUS_S
        assert f.info().errors >= 1


def _slow_value(request: bytes) -> Iterator[object]:
    yield b"VA 1000000 c1 f51777 t300 O%b\r\n" % token(request)
    for _ in range(1000):
        yield b"x" * 1000


def test_a_server_that_does_not_read_is_given_up() -> None:
    """Sending is under the deadline as well: a large value to a stopped server returns False in time."""
    with start_memcached() as server, Cache(f"memcached://{server.name}?deadline=200ms&max_value=64MiB") as cache:
        assert cache.set("k", 1)
        server.pause()
        began = time.monotonic()
        assert cache.set("k", b"x" * (32 << 20)) is False
        assert time.monotonic() - began < GENEROUS_S
        server.resume()


def test_a_shortened_timer_does_not_outlive_its_exchange(behind: EmbeddedServer) -> None:
    """After an exchange that took most of its deadline the next one has the whole of it again."""
    slow = threading.Event()

    def script(request: bytes) -> Iterator[object]:
        answer = behind.handle(request)
        for piece in (answer[:1], answer[1:3], answer[3:]):
            if slow.is_set():
                time.sleep(0.24)
            yield piece

    with cache_on(script, deadline="1s") as (cache, _server):
        cache.set("k", "value")
        verbs = (
            lambda: cache.get("k"),
            lambda: cache.gets("k"),
            lambda: cache.get_many(["k"]),
            lambda: cache.touch("k"),
            lambda: cache.set_many({"k": "value"}),
        )
        for verb in verbs:
            slow.set()
            verb()
            slow.clear()
            for connection in cache._fleet.shelves.rows[0]:
                assert isinstance(connection, Connection)
                assert connection._timer_s == connection.deadline_s
        assert cache.stats().direct.errors == 0


# -- replies that are not ours ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"VA 3 c1 f51715 t-1 O999999\r\nabc\r\nHD c1 O999999 Z\r\n",
        b"HD O999999\r\n",
        b"HD\r\n",
        b"VA 3 c1 f51715 t-1\r\nabc\r\nHD c1 Z\r\n",
        b"VALUE other 51715 3\r\nabc\r\nEND\r\n",
        b"VALUE other 0 3 7\r\nabc\r\nEND\r\n",
    ],
)
def test_an_answer_to_another_request_is_never_a_value(answer: bytes) -> None:
    """Another opaque token or another key closes the connection; the verbs give their defaults, functions run."""
    with cache_on(lambda _: [answer], on_error="degrade") as (cache, _):

        @cache
        def f() -> str:
            return "mine"

        assert f() == "mine"
        assert f.info().hits == 0
    with cache_on(lambda _: [answer]) as (cache, _server):
        assert cache.get("k", MISS) is MISS
        assert cache.gets("k", MISS) == (MISS, None)
        assert cache.get_many(["k"]) == {}
        assert cache.set("k", 1) is False
        assert cache.incr("k") is None
        assert cache.stats().direct.errors >= 4
    with ScriptedServer(lambda _: [answer]) as scripted:
        connection = connection_to(scripted)
        with pytest.raises(ProtocolError):
            connection.exchange(b"mg k v O1\r\n", 1, 1)
        assert connection.closed


def _always(answer: bytes, request: bytes) -> list[object]:
    return [answer]


def test_more_than_was_asked_for_closes_the_connection() -> None:
    """Bytes behind the last reply belong to nobody."""
    for extra in (b"MN\r\n", b"x", b"HD O1\r\n"):
        answer = b"HD O1\r\n" + extra
        with ScriptedServer(partial(_always, answer)) as server:
            connection = connection_to(server)
            with pytest.raises(ProtocolError):
                connection.exchange(b"mg k O1\r\n", 1, 1)
            assert connection.closed


GARBAGE = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x00\x00\x00\x00\r\n",
    b"\r\n",
    b"\r\n\r\n\r\n",
    b"VA\r\n",
    b"VA x c1 f1 t1 O1\r\n",
    b"VA -5 c1 f1 t1 O1\r\n",
    b"VA 999999999999999 c1 f51777 t1 O1\r\nabc\r\n",
    b"VA " + b"9" * 400 + b" c1 f51777 t1 O1\r\nabc\r\n",
    b"VA 3 cx fx tx Ox\r\nabc\r\n",
    b"VA 3 c1 f1 t1 O1\r\nabcde\r\n",
    b"VALUE\r\n",
    b"VALUE k\r\n",
    b"VALUE k 0\r\n",
    b"VALUE k x 3\r\nabc\r\nEND\r\n",
    b"VALUE k 0 x\r\nabc\r\nEND\r\n",
    b"VALUE k 0 -3\r\nabc\r\nEND\r\n",
    b"VALUE k 0 999999999999999\r\nabc\r\nEND\r\n",
    b"VALUE k 0 " + b"9" * 400 + b"\r\nabc\r\nEND\r\n",
    b"VALUE k 0 3\r\nabcde\r\nEND\r\n",
    b"VALUE k 0 3 x\r\nabc\r\nEND\r\n",
    b"VALUE k 64 3\r\nabc\r\nEND\r\n",
    b"END\r\nEND\r\n",
    b"HD\r\nHD\r\nHD\r\n",
    b"OK\r\n",
    b"x" * 100_000,
    b"\xff" * 10 + b"\r\n",
    b"ERROR\r\n",
    b"CLIENT_ERROR bad\r\n",
    b"SERVER_ERROR out of memory\r\n",
    b"ERROR Too many open connections\r\n",
]


@pytest.mark.parametrize("ending", ["open", "closed"])
@pytest.mark.parametrize("answer", GARBAGE, ids=lambda answer: repr(answer[:40]))
def test_garbage_from_the_server(answer: bytes, ending: str, caplog: pytest.LogCaptureFixture) -> None:
    """A server that makes no sense: functions run, verbs give their defaults, it is counted, nobody sees an error."""
    tail: list[object] = [None] if ending == "closed" else []
    with cache_on(lambda _: [answer, *tail], deadline="100ms") as (cache, _):

        @cache
        def f(n: int) -> int:
            return n

        assert [f(n) for n in range(4)] == [0, 1, 2, 3]
        assert f.info().hits == 0
        assert f.info().misses == 4
        assert f.info().fills == 4
    for verb in (
        lambda cache: cache.get("k", MISS) is MISS,
        lambda cache: cache.gets("k", MISS) == (MISS, None),
        lambda cache: cache.get_many(["k", "l"]) == {},
        lambda cache: cache.touch("k") is False,
        lambda cache: cache.set("k", 1) is False,
        lambda cache: cache.incr("k") is None,
        lambda cache: cache.get_or_set("k", lambda: 5) == 5,
    ):
        with cache_on(lambda _: [answer, *tail], deadline="100ms") as (cache, _):
            assert verb(cache)
    warnings = [
        record for record in caplog.records if record.levelname == "WARNING" and "marked down" in record.message
    ]
    assert len(warnings) <= 8


def test_a_garbage_server_is_marked_down_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """One warning, and from then on nobody waits for it."""
    with cache_on(lambda _: [b"HTTP/1.1 400 Bad Request\r\n\r\n"]) as (cache, server):

        @cache
        def f(n: int) -> int:
            return n

        assert [f(n) for n in range(20)] == list(range(20))
        assert f.info().errors >= 20
        assert list(cache.stats().servers.values()) == [False]
        assert server.accepted <= 5
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


# -- the end of the stream --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 3, 10, 20, 30, 33, 40, 60, 90, 100, 105])
def test_the_stream_may_end_anywhere(behind: EmbeddedServer, at: int) -> None:
    """Closed after any byte of a reply: a read is tried once more, and otherwise the function runs."""
    cut = threading.Event()

    def script(request: bytes) -> list[object]:
        answer = behind.handle(request)
        return [answer[:at], None] if cut.is_set() and at < len(answer) else [answer]

    with cache_on(script) as (cache, _):

        @cache
        def f(n: int) -> str:
            return "value" * n

        f(3)
        cache.set("k", "plain")
        cut.set()
        assert f(3) == "value" * 3
        assert cache.get("k", MISS) in ("plain", MISS)
        assert cache.get_many(["k"]) in ({"k": "plain"}, {})
        cut.clear()
        deadline = time.monotonic() + 10
        while not all(cache.stats().servers.values()) and time.monotonic() < deadline:
            threading.Event().wait(0.05)
        assert f(3) == "value" * 3
        assert cache.get("k") == "plain"


def test_a_connection_that_lay_idle_too_long_costs_nothing(behind: EmbeddedServer) -> None:
    """When the server closed it, a read is made again on a new one, and the caller never knows."""
    close = threading.Event()

    def script(request: bytes) -> list[object]:
        if close.is_set():
            close.clear()
            return [None]
        return [behind.handle(request)]

    with cache_on(script) as (cache, _server):

        @cache
        def f() -> int:
            return 7

        f()
        cache.set("k", 1)
        deletes = (f.invalidate, lambda: cache.delete("k"))
        for read in (f, lambda: cache.get("k"), lambda: cache.touch("k"), *deletes):
            close.set()
            assert read()
        assert cache.stats().direct.errors == 0
        assert f.info().hits == 1
        assert all(cache.stats().servers.values())


def test_repr_and_close() -> None:
    """A connection says what it is, and closes twice without complaint."""
    with ScriptedServer(lambda _: [HANG]) as server:
        connection = connection_to(server)
        assert "open" in repr(connection)
        connection.close()
        connection.close()
        assert "closed" in repr(connection)
        assert connection.closed_by_peer()
    with pytest.raises(Unreachable):
        Connection(Server("127.0.0.1:1", host="127.0.0.1", port=1), 2.0)


# -- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Memcached, str]]:
    """A real server that speaks TLS, and the path of the certificate to believe."""
    folder = tmp_path_factory.mktemp("tls")
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
    certificate = make_certificate(folder)
    with start_memcached(*certificate.options) as server:
        yield server, certificate.cert


def test_tls_end_to_end(tls_server: tuple[Memcached, str]) -> None:
    """Over TLS with our own authority everything works, large values too."""
    server, ca = tls_server
    with Cache(f"memcached+tls://{server.name}?ca={ca}&deadline=5s") as cache:
        runs = []

        @cache
        def f(n: int) -> bytes:
            runs.append(n)
            return b"x" * n

        for n in (1, 1, 70_000, 70_000, 900_000, 900_000):
            assert f(n) == b"x" * n
        assert runs == [1, 70_000, 900_000]
        big = {f"k{n}": b"y" * (n * 1000) for n in range(100)}
        assert cache.set_many(big) == []
        assert cache.get_many(big) == big
        assert cache.get("k99") == big["k99"]
        assert cache.stats().direct.errors == f.info().errors == 0


def test_tls_believes_nobody_by_default(tls_server: tuple[Memcached, str], tmp_path: Path) -> None:
    """A certificate that nobody vouches for is trouble: the function runs, and verify=no is the way round."""
    server, _ca = tls_server
    with Cache(f"memcached+tls://{server.name}?deadline=5s", on_error="raise") as cache:
        with pytest.raises(ServerError, match="TLS"):
            cache.get("k")

        @cache
        def f() -> int:
            return 7

        assert f() == 7
    with Cache(f"memcached+tls://{server.name}?verify=no&deadline=5s", on_error="raise") as cache:
        assert cache.set("k", 1)
    missing = Tls(ca=str(tmp_path / "absent.pem"))
    named = Server(server.name, host=server.host, port=server.port, tls=missing)
    with Cache([named], on_error="raise") as cache, pytest.raises(ServerError):
        cache.get("k")
    assert ssl.HAS_TLSv1_2


def test_tls_deadline(tls_server: tuple[Memcached, str]) -> None:
    """A stopped server is given up over TLS as well, in the exchange and in the handshake."""
    server, ca = tls_server
    with Cache(f"memcached+tls://{server.name}?ca={ca}&deadline=300ms", policy=Policy(ttl=60)) as cache:
        assert cache.set("k", 1)
        server.pause()
        try:
            for _ in range(3):
                began = time.monotonic()
                assert cache.get("k", MISS) is MISS
                assert time.monotonic() - began < GENEROUS_S
        finally:
            server.resume()
