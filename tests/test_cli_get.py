"""``cachekit key`` and ``cachekit get``: from a call to its key, and what is stored under it."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command_line import Outcome, Servers, app_fixture, cachekit_fixture, fact
from support.memcached import Memcached, free_port
from support.targets import url_of

from cachekit import Cache, Policy, current
from cachekit.codecs import Header, seal
from cachekit.codecs.flags import TEXT, client_flags

__all__ = ["app_fixture", "cachekit_fixture"]

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
