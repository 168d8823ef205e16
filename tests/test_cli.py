"""The command line, run in this process on real servers, and as a program where that makes a difference."""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.memcached import Memcached, free_port, start_memcached

from cachekit import Cache, Policy, current
from cachekit.cli import chart, crowd, demo, main
from cachekit.codecs import Header, seal
from cachekit.codecs.flags import TEXT, client_flags

Servers = tuple[Memcached, Memcached, Memcached]

APP = """
from cachekit import Cache, Policy, current

cache = Cache({url!r}, prefix="shop")

@cache(ttl="5m")
def report(user_id, *, month="now"):
    return {{"user": user_id, "month": month}}

@cache(ttl=None)
def for_ever(n):
    return n

class Shelf:
    @cache
    @classmethod
    def count(cls, n):
        return n

    @cache(ignore=["self"])
    def item(self, n):
        return n

def plain():
    return 1
"""


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cachekit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """The command line, in this process and without CACHEKIT_URL."""
    monkeypatch.delenv("CACHEKIT_URL", raising=False)

    def run(*words: str) -> Outcome:
        code = main(words)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Outcome(code, out, err)

    return run


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module that uses the servers of a URL into the current directory, and returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    made: list[str] = []

    def write(url: str) -> str:
        made.append(f"shop_{random.randrange(10**9)}")
        (tmp_path / f"{made[-1]}.py").write_text(APP.format(url=url))
        return made[-1]

    yield write
    for name in made:
        sys.modules.pop(name, None)


def url_of(*servers: Memcached) -> str:
    """The URL of these servers."""
    return "memcached://" + ",".join(server.name for server in servers)


def fact(outcome: Outcome, name: str) -> str:
    """What ``outcome`` says about ``name`` in its list of facts."""
    lines = [line for line in outcome.out.splitlines() if line.startswith(f"{name}  ")]
    assert len(lines) == 1, outcome
    return lines[0].removeprefix(name).strip()


# -- the frame ---------------------------------------------------------------------------------------------------------


class TestFrame:
    def test_nothing(self, cachekit: Callable[..., Outcome]) -> None:
        """Without a command the help is shown, and the exit code says that nothing was done."""
        code, out, err = cachekit()
        assert (code, out) == (2, "")
        assert all(command in err for command in ("demo", "key", "get", "stats", "ring"))

    @pytest.mark.parametrize(
        ("words", "hint"),
        [
            (["statz"], "did you mean stats?"),
            (["frobnicate"], "there are demo, key, get, stats, ring"),
            (["--servers", "x"], "no command 'x'"),
            (["--frob"], "say which command|unrecognized arguments: --frob"),
            (["get"], "KEY"),
            (["ring", "--server"], "expected one argument"),
        ],
    )
    def test_wrong_commands(self, cachekit: Callable[..., Outcome], words: list[str], hint: str) -> None:
        """A mistyped command is answered with what it may have been, and exit code 2."""
        code, out, err = cachekit(*words)
        assert (code, out) == (2, "")
        assert re.search(hint, err)

    @pytest.mark.parametrize("words", [["--help"], ["get", "--help"], ["demo", "-h"], ["--version"]])
    def test_help(self, cachekit: Callable[..., Outcome], words: list[str]) -> None:
        """Help and version are answers: on stdout, with exit code 0."""
        code, out, err = cachekit(*words)
        assert (code, err) == (0, "")
        assert "cachekit" in out

    def test_module(self) -> None:
        """`python -m cachekit` is the same command line, in a terminal that knows ASCII only too."""
        words = [sys.executable, "-m", "cachekit", "ring", "--servers", "10.0.0.1,10.0.0.2", "some-key"]
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        done = subprocess.run(words, check=False, capture_output=True, env=environment, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"####" in done.stdout
        assert b"some-key  on  10.0.0." in done.stdout

    def test_reader_gone(self) -> None:
        """A reader that stops reading (`cachekit ring | head -1`) causes no traceback."""
        words = [sys.executable, "-m", "cachekit", "ring", "--servers", "10.0.0.1", *["k" * 200] * 2000]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == b""

    @pytest.mark.parametrize("command", [["get", "k"], ["stats"], ["ring"]])
    @pytest.mark.parametrize(
        ("servers", "hint"),
        [
            ([], "CACHEKIT_URL"),
            (["--servers", ""], "CACHEKIT_URL"),
            (["--servers", "memory:"], "inside the process"),
            (["--servers", "memcachd://h"], "did you mean memcached?"),
            (["--servers", "h:port"], "bad port"),
        ],
    )
    def test_wrong_servers(
        self, cachekit: Callable[..., Outcome], command: list[str], servers: list[str], hint: str
    ) -> None:
        """Servers that are missing or mistyped: one line that says so, exit code 2."""
        code, out, err = cachekit(*command, *servers)
        assert (code, out) == (2, "")
        assert hint in err
        assert err.count("\n") == 1

    def test_servers_from_the_environment(
        self, cachekit: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """CACHEKIT_URL stands in for --servers, and --servers wins."""
        monkeypatch.setenv("CACHEKIT_URL", "memcached://from-env")
        assert "from-env:11211" in cachekit("ring").out
        assert "from-env" not in cachekit("ring", "--servers", "other").out


# -- key ---------------------------------------------------------------------------------------------------------------


class TestKey:
    def test_key_and_server(
        self, cachekit: Callable[..., Outcome], app: Callable[[str], str], servers3: Servers
    ) -> None:
        """The key is the one under which the function stores, and the server is the one that then holds it."""
        name = app(url_of(*servers3))
        shown = cachekit("key", f"{name}:report", "42", 'month="2026-11"')
        assert shown.code == 0
        module = sys.modules[name]
        assert fact(shown, "key") == module.report.key(42, month="2026-11")
        module.report(42, month="2026-11")
        (holder,) = [s for s in servers3 if s.ask(f"me {fact(shown, 'key')}\r\n".encode()).startswith(b"ME")]
        assert fact(shown, "server") == holder.name

    def test_forms(self, cachekit: Callable[..., Outcome], app: Callable[[str], str]) -> None:
        """A positional argument, its name and a default are one call; literals keep their types."""
        name = app("memory:")
        keys = [
            fact(cachekit("key", f"{name}:report", *words), "key")
            for words in (["7"], ["user_id=7"], ["7", 'month="now"'], ['"7"'], ["-7"], ["[7]"], ["None"])
        ]
        assert keys[0] == keys[1] == keys[2]
        assert len(set(keys)) == 5

    def test_methods(self, cachekit: Callable[..., Outcome], app: Callable[[str], str]) -> None:
        """Methods and classmethods are found through their class."""
        name = app("memory:")
        shown = cachekit("key", f"{name}:Shelf.count", "3")
        assert fact(shown, "key") == sys.modules[name].Shelf.count.key(3)
        assert "embedded" in fact(shown, "server")
        assert cachekit("key", f"{name}:Shelf.item", "None", "3").code == 0

    def test_other_ring(self, cachekit: Callable[..., Outcome], app: Callable[[str], str]) -> None:
        """--servers places the key on another ring than the cache's own."""
        shown = cachekit("key", f"{app('memory:')}:report", "1", "--servers", "10.0.0.7")
        assert fact(shown, "server") == "10.0.0.7:11211"

    @pytest.mark.parametrize(
        ("path", "words", "hint"),
        [
            ("{app}", [], "write module:function"),
            ("{app}:", [], "write module:function"),
            ("no_such_module:f", [], "no module named 'no_such_module'"),
            ("{app}.sub:f", [], "no module named|can't be imported"),
            ("{app}:reprot", [], "did you mean report?"),
            ("{app}:plain", [], "not a cached function"),
            ("{app}:Shelf", [], "not a cached function"),
            ("{app}:report", [], "missing 1 required positional argument: 'user_id'"),
            ("{app}:report", ["1", "2"], "takes 1 positional argument"),
            ("{app}:report", ["1", "day=2"], "unexpected keyword argument 'day'"),
            ("{app}:report", ["1", "month=2026-11"], """month='"2026-11"'"""),
            ("{app}:report", ["Paris"], """'"Paris"'"""),
            ("{app}:report", ["it's"], "is no Python literal"),
            ("{app}:report", ["(" * 300], "is no Python literal"),
            ("{app}:report", ["user_id=1", "user_id=2"], "user_id is given twice"),
            ("{app}:report", ["user_id=1", "2"], "can't stand behind"),
        ],
    )
    def test_wrong_words(
        self, cachekit: Callable[..., Outcome], app: Callable[[str], str], path: str, words: list[str], hint: str
    ) -> None:
        """What a person mistypes is answered by one line with the way out, and exit code 2."""
        code, out, err = cachekit("key", path.format(app=app("memory:")), *words)
        assert (code, out) == (2, "")
        assert re.search(re.escape(hint).replace(r"\|", "|"), err)
        assert err.count("\n") == 1

    def test_broken_module(self, cachekit: Callable[..., Outcome], tmp_path: Path, app: Callable[[str], str]) -> None:
        """A module that raises when it is imported is named, with what it raised."""
        assert app("memory:")
        (tmp_path / "broken_app.py").write_text("1 / 0")
        code, _, err = cachekit("key", "broken_app:f")
        assert code == 2
        assert "broken_app can't be imported: ZeroDivisionError" in err


# -- get ---------------------------------------------------------------------------------------------------------------


class TestGet:
    def test_function_entry(self, cachekit: Callable[..., Outcome], fresh_servers3: Servers) -> None:
        """A function's entry is opened: value, format, age, ttl and how long the function ran."""
        url = url_of(*fresh_servers3)
        with Cache(url, prefix="shop") as cache:

            @cache(ttl="5m")
            def report(n: int) -> dict[str, object]:
                return {"user": n, "words": ("a", b"b")}

            report(42)
            shown = cachekit("get", report.key(42), "--servers", url)
            assert shown.code == 0
            assert fact(shown, "server") == report.explain(42).server
        assert fact(shown, "value") == "{'user': 42, 'words': ('a', b'b')}"
        assert fact(shown, "state").startswith("fresh")
        assert "data, enveloped" in fact(shown, "flags")
        assert fact(shown, "ttl") == "5 m"
        assert fact(shown, "server drops it").startswith("in ")
        assert all(fact(shown, name) for name in ("age", "size", "computed in", "generation"))

    def test_direct_values(self, cachekit: Callable[..., Outcome], fresh_server: Memcached) -> None:
        """What the direct verbs store is shown as it is, and so are bytes of somebody else."""
        url = url_of(fresh_server)
        with Cache(url) as cache:
            cache.set("text", "hällo \x1b[31m", ttl=None)
            cache.set("number", 5, ttl="1h")
        fresh_server.ask(b"set foreign 7 0 3\r\nabc\r\n" + b"set raw 0 0 3\r\nabc\r\n")
        shown = cachekit("get", "text", "--servers", url)
        assert (fact(shown, "value"), fact(shown, "server drops it")) == ("'hällo \\x1b[31m'", "never")
        shown = cachekit("get", "number", "--servers", url)
        assert (fact(shown, "value"), shown.code) == ("5", 0)
        assert re.match("in (1 h|59 m 5. s)$", fact(shown, "server drops it"))
        assert "unknown client flags 0x7" in cachekit("get", "foreign", "--servers", url).out
        assert fact(cachekit("get", "raw", "--servers", url), "value") == "b'abc'"

    def test_absent_and_stub(self, cachekit: Callable[..., Outcome], fresh_server: Memcached) -> None:
        """Nothing and a lease are told apart, and both are exit code 1."""
        shown = cachekit("get", "nothing", "--servers", url_of(fresh_server))
        assert (shown.code, fact(shown, "state")) == (1, "absent")
        fresh_server.ask(b"mg busy N30\r\n")
        shown = cachekit("get", "busy", "--servers", url_of(fresh_server))
        assert shown.code == 1
        assert fact(shown, "state").startswith("stub")

    def test_takes_no_lease(self, cachekit: Callable[..., Outcome], fresh_server: Memcached) -> None:
        """Looking leaves the W of an entry to the reader who would fill it."""
        fresh_server.ask(b"ms k 1 T100\r\nx\r\n" + b"md k I T30\r\n")
        assert cachekit("get", "k", "--servers", url_of(fresh_server)).code == 0
        assert b" W" in fresh_server.ask(b"mg k v\r\n")

    def test_expired(self, cachekit: Callable[..., Outcome], fresh_server: Memcached) -> None:
        """An entry past its ttl that the server still keeps is expired, which is exit code 1."""
        key = b"shop:report:" + b"0123456789abcdefghijklmn"
        born_ms = int(time.time() * 1000) - 10_000
        data = seal(Header(key[-16:], born_ms, ttl_ms=9_000, delta_us=1500), b"old news")
        fresh_server.ask(b"ms %b %d F%d\r\n%b\r\n" % (key, len(data), client_flags(TEXT, enveloped=True), data))
        shown = cachekit("get", key.decode(), "--servers", url_of(fresh_server))
        assert shown.code == 1
        assert fact(shown, "state").startswith("expired")
        assert (fact(shown, "value"), fact(shown, "ttl"), fact(shown, "computed in")) == ("'old news'", "9 s", "1.5 ms")
        assert re.match("1[0-9](\\.[0-9])? s$", fact(shown, "age"))

    @pytest.mark.parametrize(
        ("times", "state", "code"),
        [
            ({"stale_ms": 60_000}, "stale", 0),
            ({"stale_if_error_ms": 60_000}, "expired: served only where its function fails", 1),
            ({"stale_if_error_ms": 60_000, "retry_ms": 50_000}, "throttled", 0),
            ({"retry_ms": 50_000}, "expired: the next", 1),
        ],
    )
    def test_past_its_ttl(
        self, cachekit: Callable[..., Outcome], fresh_server: Memcached, times: dict[str, int], state: str, code: int
    ) -> None:
        """What may still be served says so, and to whom."""
        key = b"shop:report:" + b"0123456789abcdefghijklmn"
        header = Header(key[-16:], int(time.time() * 1000) - 10_000, ttl_ms=9_000, **times)  # type: ignore[arg-type]
        data = seal(header, b"old news")
        fresh_server.ask(b"ms %b %d F%d\r\n%b\r\n" % (key, len(data), client_flags(TEXT, enveloped=True), data))
        shown = cachekit("get", key.decode(), "--servers", url_of(fresh_server))
        assert fact(shown, "state").startswith(state)
        assert shown.code == code

    def test_notes(self, cachekit: Callable[..., Outcome], fresh_server: Memcached) -> None:
        """What is stored in place of a value is told in words."""
        url = url_of(fresh_server)
        with Cache(url) as cache:

            @cache(policy=Policy(errors=(LookupError,)))
            def find(n: int) -> int:
                if n:
                    current().do_not_store()
                    return n
                raise LookupError

            @cache.batch
            def load(ids: list[int]) -> dict[int, int]:
                return {}

            find(1)
            load([1])
            with pytest.raises(LookupError):
                find(0)
            for key, state in ((find.key(1), "pass"), (find.key(0), "failure"), (load.key(1), "absent: the loader")):
                shown = cachekit("get", key, "--servers", url)
                assert fact(shown, "state").startswith(state)
                assert shown.code == 1

    def test_another_keys_entry(self, cachekit: Callable[..., Outcome], fresh_server: Memcached) -> None:
        """An entry under a key that is not its own, or with a broken header, is garbage and never shown as a value."""
        url = url_of(fresh_server)
        with Cache(url) as cache:

            @cache
            def report(n: int) -> str:
                return "secret"

            report(1)
            data = fresh_server.ask(f"get {report.key(1)}\r\n".encode())
        flags, payload = data.split(b" ")[2], data.partition(b"\r\n")[2].removesuffix(b"\r\nEND\r\n")
        fresh_server.ask(b"set moved %b 0 %d\r\n%b\r\n" % (flags, len(payload), payload))
        fresh_server.ask(b"set cut %b 0 5\r\n%b\r\n" % (flags, payload[:5]))
        shown = cachekit("get", "moved", "--servers", url)
        assert (shown.code, fact(shown, "state")) == (1, "garbage: its header belongs to another key")
        assert "secret" not in shown.out
        assert "not readable" in cachekit("get", "cut", "--servers", url).out

    def test_long_value(self, cachekit: Callable[..., Outcome], fresh_server: Memcached) -> None:
        """A long value is cut after some lines, which --all prints to the end."""
        url = url_of(fresh_server)
        with Cache(url) as cache:
            cache.set("long", [f"line {n:04} {'x' * 40}" for n in range(500)])
        cut, whole = cachekit("get", "long", "--servers", url), cachekit("get", "long", "--all", "--servers", url)
        assert "lines more (--all)" in cut.out
        assert "line 0499" not in cut.out
        assert "line 0499" in whole.out
        assert max(map(len, cut.out.splitlines())) <= 80

    @pytest.mark.parametrize(
        ("key", "hint"),
        [
            ("a b", "spaces"),
            ("", "empty"),
            ("k" * 251, "250 bytes"),
            ("k\r\nflush_all", "printable ASCII"),
            ("schlüssel", "printable ASCII"),
        ],
    )
    def test_bad_keys(self, cachekit: Callable[..., Outcome], fresh_server: Memcached, key: str, hint: str) -> None:
        """A key that Memcached would misread is never sent."""
        code, out, err = cachekit("get", key, "--servers", url_of(fresh_server))
        assert (code, out) == (2, "")
        assert hint in err

    def test_server_down(self, cachekit: Callable[..., Outcome]) -> None:
        """A server that can't be reached is one line and exit code 1."""
        port = free_port()
        code, out, err = cachekit("get", "k", "--servers", f"127.0.0.1:{port}")
        assert (code, out) == (1, "")
        assert f"127.0.0.1:{port} can't be reached" in err
        assert err.count("\n") == 1


# -- stats, ring -------------------------------------------------------------------------------------------------------


class TestStats:
    def test_all_up(self, cachekit: Callable[..., Outcome]) -> None:
        """Each server has a line of its own figures, and one line sums them up, in 80 columns."""
        with start_memcached() as one, start_memcached() as two, start_memcached() as three:
            self.check_all_up(cachekit, (one, two, three))

    def check_all_up(self, cachekit: Callable[..., Outcome], servers: Servers) -> None:
        """The figures of servers that nobody else has used."""
        url = url_of(*servers)
        with Cache(url) as cache:
            assert cache.set_many({f"k{n}": n for n in range(1200)}) == []
        code, out, _ = cachekit("stats", "--servers", url)
        assert code == 0
        heading, *lines, total = out.splitlines()
        assert heading.split()[:3] == ["server", "version", "up"]
        for server, line in zip(sorted(servers, key=lambda s: s.name), lines, strict=True):
            assert line.split()[:2] == [server.name, server.stats()["version"]]
            assert f" {server.stats()['curr_items']} " in line
        assert total.startswith("all 3 up")
        assert " 1 200 " in total
        assert max(map(len, out.splitlines())) <= 80

    def test_one_down(self, cachekit: Callable[..., Outcome], server: Memcached) -> None:
        """A server that refuses, is silent or talks nonsense is shown as down; the others are shown as ever."""
        with start_memcached() as silent, socket.create_server(("127.0.0.1", 0)) as odd:
            silent.pause()
            talker = threading.Thread(target=_talk, args=(odd,))
            talker.start()
            gone, other = free_port(), odd.getsockname()[1]
            url = f"{url_of(server, silent)},127.0.0.1:{gone},127.0.0.1:{other}"
            code, out, err = cachekit("stats", "--servers", url)
            talker.join()
        assert (code, err) == (1, "")
        lines = {line.split()[0]: line for line in out.splitlines()}
        assert "down: can't be reached" in lines[f"127.0.0.1:{gone}"]
        assert "down: no Memcached" in lines[f"127.0.0.1:{other}"]
        assert "down: no answer in time" in lines[silent.name]
        assert "down" not in lines[server.name]
        assert "all 1 up" in out


def _talk(listener: socket.socket) -> None:
    peer, _ = listener.accept()
    with peer:
        peer.recv(100)
        peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


class TestRing:
    def test_shares_and_places(self, cachekit: Callable[..., Outcome]) -> None:
        """Shares follow the weights and add up to all; a key is shown on the server that a cache would ask."""
        code, out, _ = cachekit("ring", "--servers", "10.0.0.1,10.0.0.2:11212:2", "a", "shop:b")
        assert code == 0
        shares = [float(text) for text in re.findall(r"([0-9.]+) %", out)]
        assert sum(shares) == pytest.approx(100, abs=0.02)
        assert shares[1] == pytest.approx(66.7, abs=1)
        cache = Cache("10.0.0.1,10.0.0.2:11212:2")
        for key in ("a", "shop:b"):
            assert re.search(
                f"^{key} +on  {cache._fleet.names[cache._fleet.ring.index(key.encode())]}$", out, re.MULTILINE
            )

    def test_bad_key(self, cachekit: Callable[..., Outcome]) -> None:
        """A key that can't be is refused before anything is printed."""
        code, out, err = cachekit("ring", "--servers", "10.0.0.1", "a b")
        assert (code, out) == (2, "")
        assert "spaces" in err


# -- demo --------------------------------------------------------------------------------------------------------------


class TestDemo:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Less of everything."""
        size = demo.Size(numbers=60, requests=60, runs=4, alone=8, processes=2, threads=3)
        monkeypatch.setattr(demo, "QUICK", size)
        monkeypatch.setattr(crowd, "RUN_S", 0.05)

    def test_embedded(self, cachekit: Callable[..., Outcome]) -> None:
        """The demo shows a rising hit rate, one run for a crowd, and the new value after an invalidation."""
        code, out, err = cachekit("demo", "--quick")
        assert (code, err) == (0, "")
        rates = [float(text) for text in re.findall(r"([0-9.]+) %$", out, re.MULTILINE)]
        assert len(rates) == 4
        assert rates[-1] > rates[0]
        assert "8 callers; the function ran once" in out
        assert re.search(r"price\('tea'\) +4.9\n", out)
        assert re.search(r"ended;  price\('tea'\) +5.2 ", out)
        assert max(map(len, out.splitlines())) <= 80

    def test_servers(self, cachekit: Callable[..., Outcome], servers3: Servers) -> None:
        """On real servers the crowd comes from several processes, and still one of them runs the function."""
        before = sum(int(server.stats()["total_items"]) for server in servers3)
        code, out, _ = cachekit("demo", "--quick", "--servers", url_of(*servers3))
        assert code == 0
        assert "6 callers; the function ran once" in out
        # All that was ever stored there: what other tests left is cleared away behind our back.
        assert sum(int(server.stats()["total_items"]) for server in servers3) > before

    def test_begins_cold(self, cachekit: Callable[..., Outcome], server: Memcached) -> None:
        """A second demo on the same servers is not served what the first one left."""
        rates = [
            re.findall(r"([0-9.]+) %$", cachekit("demo", "--quick", "--servers", url_of(server)).out, re.MULTILINE)[0]
            for _ in range(2)
        ]
        assert all(float(rate) < 60 for rate in rates)

    @pytest.mark.parametrize(("url", "code"), [("127.0.0.1:{port}", 1), ("memcachd://h", 2)])
    def test_bad_servers(self, cachekit: Callable[..., Outcome], url: str, code: int) -> None:
        """Servers that are down or mistyped end the demo before it begins, with one line."""
        outcome = cachekit("demo", "--quick", "--servers", url.format(port=free_port()))
        assert (outcome.code, outcome.out) == (code, "")
        assert outcome.err.count("\n") == 1

    def test_interrupt(self, cachekit: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C ends it with the shell's exit code for that, and without a traceback."""

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(demo, "squares", interrupted)
        code, _, err = cachekit("demo", "--quick")
        assert (code, err) == (130, "cachekit demo: interrupted\n")


# -- chart -------------------------------------------------------------------------------------------------------------


class TestChart:
    @given(st.floats(0.001, 1000), st.floats(0.001, 1000), st.integers(1, 80), st.booleans())
    def test_bars(self, value: float, full: float, width: int, blocks: bool) -> None:
        """A bar is never empty, never too long, and full at its full value."""
        drawn = chart.bar(value, full, width, blocks=blocks)
        assert 1 <= len(drawn) <= width
        assert len(chart.bar(full, full, width, blocks=blocks)) == width
        assert " " not in drawn

    @pytest.mark.parametrize(("value", "full"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
    def test_no_bar(self, value: float, full: float) -> None:
        """Nothing is drawn for nothing."""
        assert chart.bar(value, full, 10) == ""

    def test_table(self) -> None:
        """Columns align, short rows run on, and a long cell of a short row widens nothing but its own columns."""
        rows = [("name", "n", "m"), ("a", "10", "200"), ("long name", "down: for a long long reason")]
        assert chart.table(rows) == [
            "name        n    m",
            "a          10  200",
            "long name  down: for a long long reason",
        ]

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0.0000012, "1.2 µs"),
            (0.00085, "850 µs"),
            (0.0123, "12.3 ms"),
            (1.5, "1.5 s"),
            (60, "1 m"),
            (3661, "1 h 1 m"),
            (273_600, "3 d 4 h"),
        ],
    )
    def test_spans(self, seconds: float, text: str) -> None:
        """A span has the unit that a person would choose."""
        assert chart.span(seconds) == text

    @pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")])
    def test_sizes(self, count: int, text: str) -> None:
        """A size has the unit that a person would choose."""
        assert chart.size(count) == text
