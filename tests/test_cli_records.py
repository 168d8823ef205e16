"""``cachekit get`` of what stands behind tags, namespaces and functions, and of entries that carry marks."""

from __future__ import annotations

import time

import pytest
from support.memcached import Memcached

from cachekit import Cache
from cachekit.cli import main
from cachekit.codecs import Header, seal
from cachekit.codecs.envelope import Mark
from cachekit.codecs.flags import TEXT, client_flags

KEY = b"shop:report:0123456789abcdefghijklmn"


def get(key: str, server: Memcached, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, str]]:
    """The exit code, and what is said by its name; a text of several lines has its indent taken off."""
    code = main(["get", key, *options, "--servers", f"memcached://{server.name}"])
    told: dict[str, str] = {}
    name = ""
    for line in capsys.readouterr().out.splitlines():
        if line[0] != " ":
            name, _, line = line.partition("  ")
        told[name] = f"{told[name]}\n{line.strip()}" if name in told else line.strip()
    return code, told


def store(server: Memcached, key: bytes, header: Header) -> None:
    """A text with this header, as a cached function stores it."""
    data, flags = seal(header, b"news"), client_flags(TEXT, enveloped=True)
    assert server.ask(b"ms %b %d F%d\r\n%b\r\n" % (key, len(data), flags, data)) == b"HD\r\n"


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("shop:tag=user:42", "a tag"),
        ("tag=user:42", "a tag"),
        ("shop:tag~caf%C3%A9:x3KabcdefghijklmnopqrstX", "a tag"),
        ("shop:namespace=fr", "a namespace"),
        ("shop:fr:app.report:gen=0123456789abcdefghijklmn", "a function"),
    ],
)
def test_a_record_is_called_what_it_is(
    key: str, what: str, fresh_server: Memcached, capsys: pytest.CaptureFixture[str]
) -> None:
    """A record is no stub of a run, and its number is shown: the generation."""
    fresh_server.ask(f"mg {key} c N0\r\n".encode())
    number = fresh_server.ask(f"mg {key} c\r\n".encode()).split()[1].removeprefix(b"c").decode()
    code, told = get(key, fresh_server, capsys)
    assert told["state"].startswith(f"record of {what}:")
    assert (code, told["generation"]) == (1, number)
    assert "softly void" not in told


def test_soft_bumps_are_shown(fresh_server: Memcached, capsys: pytest.CaptureFixture[str]) -> None:
    """What ``expire_tags`` leaves in a record is told as such, and not as somebody's bytes."""
    with Cache(f"memcached://{fresh_server.name}", prefix="shop") as cache:

        @cache(tags=["user:{n}"])
        def report(n: int) -> int:
            return n

        report(42)
        before = get("shop:tag=user:42", fresh_server, capsys)[1]["generation"]
        assert cache.expire_tags("user:42")
    told = get("shop:tag=user:42", fresh_server, capsys)[1]
    assert told["state"].startswith("record of a tag")
    assert told["softly void"].startswith(f"entries under {before}:")
    assert int(told["generation"]) > int(before)


def test_a_key_that_looks_like_a_record(fresh_server: Memcached, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that no record holds are shown as they are, under whatever key."""
    fresh_server.ask(b"set tag=user 0 0 3\r\nabc\r\n")
    code, told = get("tag=user", fresh_server, capsys)
    assert (code, told["value"]) == (0, "b'abc'")
    with Cache(f"memcached://{fresh_server.name}", prefix="shop") as cache:
        cache.set("tag=number", 5)
    assert get("shop:tag=number", fresh_server, capsys)[1]["value"] == "5"


def test_the_boot_mark(fresh_server: Memcached, capsys: pytest.CaptureFixture[str]) -> None:
    """The text that tells a server's boots apart is not taken for a value."""
    fresh_server.ask(b"set boot=cachekit 0 0 4\r\nx7Qa\r\n")
    code, told = get("boot=cachekit", fresh_server, capsys)
    assert code == 1
    assert told["state"].startswith("boot mark")


def test_marks(fresh_server: Memcached, capsys: pytest.CaptureFixture[str]) -> None:
    """What an entry stands under by its run is listed: record, number, server, and who brought it in."""
    marks = (
        Mark("", b"shop:tag=author:ada", 7, named=True),
        Mark("10.0.0.2:11211", b"shop:name:gen=0123456789abcdefghijklmn", 12, boot=b"x7Qa"),
    )
    store(fresh_server, KEY, Header(KEY[-16:], int(time.time() * 1000), generations=(3, 4), marks=marks))
    code, told = get(KEY.decode(), fresh_server, capsys)
    assert (code, told["value"], told["generation"]) == (0, "'news'", "3 4")
    assert told["also under"].split("\n") == [
        "shop:tag=author:ada 7 on the same server, named by the function",
        "shop:name:gen=0123456789abcdefghijklmn 12 on 10.0.0.2:11211, from a cached call inside",
    ]


def test_marks_of_somebody_else(fresh_server: Memcached, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that somebody put into a header can't command the terminal, nor fill it without ``--all``."""
    marks = tuple(Mark("\x1b[31m\x9b", b"tag=\xc2\x9b%d" % n, n) for n in range(100))
    store(fresh_server, KEY, Header(KEY[-16:], int(time.time() * 1000), marks=marks))
    cut = get(KEY.decode(), fresh_server, capsys)[1]["also under"]
    assert cut.startswith("tag=\\xc2\\x9b0 0 on \\x1b[31m\\x9b, from")
    assert cut.endswith("… and 76 lines more (--all)")
    assert get(KEY.decode(), fresh_server, capsys, "--all")[1]["also under"].count("\n") == 99
