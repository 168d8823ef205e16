"""Addresses: one canonical form for all spellings of a server, and an error that shows what was wrong."""

from __future__ import annotations

import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachekit.addresses import parse_server, parse_target
from cachekit.errors import ConfigurationError
from cachekit.servers import Options, Server, Target, Tls, unique_servers


def names(url: object) -> list[str]:
    """The canonical names of a target's servers."""
    return [server.name for server in parse_target(url).servers]  # type: ignore[arg-type]


class TestSpellings:
    @pytest.mark.parametrize(
        ("name", "spellings"),
        [
            (
                "10.0.0.1:11211",
                ["10.0.0.1", "10.0.0.1:11211", "10.0.0.1:011211", "10.0.0.1:11211:1", "[::ffff:10.0.0.1]"],
            ),
            ("a.example.com:11211", ["a.example.com", "A.Example.COM", "a.example.com.", "a.example.com.:11211"]),
            ("cache_1:11212", ["cache_1:11212", "CACHE_1:11212:1.0"]),
            ("[2001:db8::1]:11211", ["[2001:db8::1]", "[2001:DB8:0:0:0:0:0:1]:11211", "[2001:0db8::0001]:11211:1"]),
            ("[fe80::1%eth0]:11211", ["[fe80::1%eth0]", "[FE80::1%25eth0]:11211"]),
            ("unix:/run/m.sock", ["unix:/run/m.sock", "unix:///run/m.sock", "UNIX:/run//m.sock", "/run/./m.sock"]),
            ("unix:/run/a b:1", ["unix:/run/a%20b%3A1", "unix:///run/a%20b%3a1:1"]),
            ("xn--bcher-kva.example:11211", ["bücher.example", "BÜCHER.example.", "xn--bcher-kva.example"]),
        ],
    )
    def test_one_server_has_one_name(self, name: str, spellings: list[str]) -> None:
        """Spellings that mean the same server give the same Server, or a fleet would disagree about its keys."""
        found = {parse_server(spelling) for spelling in spellings}
        assert {server.name for server in found} == {name}
        assert len(found) == 1

    @pytest.mark.parametrize(
        "url",
        [
            "memcached://10.0.0.1,10.0.0.2:11212",
            "MEMCACHED://10.0.0.2:11212,10.0.0.1:11211/",
            "10.0.0.1:11211,10.0.0.2:11212",
            ["10.0.0.2:11212", "10.0.0.1"],
            ["memcached://10.0.0.2:11212", "10.0.0.1"],
            ("10.0.0.1,10.0.0.2:11212", "10.0.0.1:11211"),
            [parse_server("10.0.0.2:11212"), "10.0.0.1"],
        ],
    )
    def test_order_repetition_and_form_do_not_matter(self, url: object) -> None:
        """A URL, a list and a list of Server objects give one Target, in the order of the names, each server once."""
        assert parse_target(url) == parse_target("memcached://10.0.0.1,10.0.0.2:11212")  # type: ignore[arg-type]

    def test_names_that_may_differ_are_kept_apart(self) -> None:
        """Nothing is resolved: localhost may be ::1 on one machine and 127.0.0.1 on the next."""
        assert names("localhost,127.0.0.1,[::1]") == ["127.0.0.1:11211", "[::1]:11211", "localhost:11211"]

    @given(st.integers(0, 2**128 - 1), st.integers(1, 65535))
    def test_every_ipv6_address_survives(self, number: int, port: int) -> None:
        """The canonical form is the same address, and parsing a canonical name gives it again."""
        address = ipaddress.IPv6Address(number)
        server = parse_server(f"[{address.exploded.upper()}]:{port}")
        assert parse_server(server.name) == server
        meant = address.ipv4_mapped or address
        assert ipaddress.ip_address(str(server.host)) == meant
        assert server.port == port

    def test_server_objects_made_by_hand_get_their_canonical_name(self) -> None:
        """A Server whose name was made up still lands where its address says."""
        made = [Server("x", host="A.example.", port=1, weight=2), Server("y", path="/run/a:b%")]
        assert [(s.name, s.host, s.path, s.weight) for s in parse_target(made).servers] == [
            ("a.example:1", "a.example", None, 2),
            ("unix:/run/a:b%", None, "/run/a:b%", 1),
        ]
        assert names(parse_server("[::1]:5")) == ["[::1]:5"]


class TestForms:
    def test_nothing_and_memory_are_the_embedded_server(self) -> None:
        """``Cache()`` needs no set-up."""
        assert parse_target(None) == Target("memory") == parse_target("memory:") == parse_target("Memory://")
        assert parse_target("memory:?memory=128MiB").options == Options(memory_bytes=128 << 20)

    def test_every_part_of_an_address_is_kept(self) -> None:
        """Host, port, path, weight and TLS are what was written; ``address`` is what connect takes."""
        assert parse_server("[::1]:5:2.5") == Server("[::1]:5", host="::1", port=5, weight=2.5)
        assert parse_server("[::1]:5").address == ("::1", 5)
        assert parse_server("unix:/run/m.sock:3") == Server("unix:/run/m.sock", path="/run/m.sock", weight=3)
        assert parse_server("/run/m.sock").address == "/run/m.sock"
        assert names("unix:///a,/b") == ["unix:/a", "unix:/b"]
        assert names(["unix:///a", "h"]) == ["h:11211", "unix:/a"]

    def test_tls_options_reach_the_tls_servers_of_the_whole_ring(self) -> None:
        """A query is for the whole ring, TLS for the servers whose scheme asks for it."""
        secured = parse_target("memcached+tls://a,b?ca=/ca.pem&cert=/c.pem&key=/k.pem&verify=no&server_name=cache")
        assert {server.tls for server in secured.servers} == {Tls("/ca.pem", "/c.pem", "/k.pem", False, "cache")}
        mixed = parse_target(["memcached+tls://a?ca=/ca.pem", "memcached+tls://b", "unix:/c"])
        assert [server.tls for server in mixed.servers] == [Tls(ca="/ca.pem"), Tls(ca="/ca.pem"), None]
        assert [server.tls for server in parse_target("memcached+tls://a").servers] == [Tls()]
        assert [server.tls for server in parse_target("a").servers] == [None]

    @pytest.mark.parametrize(
        ("text", "seconds"), [("250ms", 0.25), ("0.25", 0.25), ("1s", 1.0), ("1.5S", 1.5), ("2", 2.0), ("1m", 60.0)]
    )
    def test_deadline_is_read_in_seconds_or_with_a_unit(self, text: str, seconds: float) -> None:
        """A bare number is seconds."""
        assert parse_target(f"memcached://a?deadline={text}").options.deadline_s == pytest.approx(seconds)

    @pytest.mark.parametrize(
        ("text", "size"),
        [("1048576", 1 << 20), ("1MiB", 1 << 20), ("1mib", 1 << 20), ("1m", 1 << 20), ("1MB", 10**6), ("2GiB", 2 << 30),
         ("512KiB", 1 << 19), ("0.5k", 512), ("100b", 100), ("1gb", 10**9)],
    )  # fmt: skip
    def test_sizes_are_read_with_either_kind_of_unit(self, text: str, size: int) -> None:
        """MB is 10**6, MiB is 2**20, and a lone m is what memcached's own -m and -I mean by it."""
        assert parse_target(f"memcached://a?max_value={text}").options.max_value_bytes == size

    @pytest.mark.parametrize(("text", "watched"), [("yes", True), ("1", True), ("no", False), ("off", False)])
    def test_a_ring_may_be_watched(self, text: str, watched: bool) -> None:
        """It says yes or no for all servers, the embedded one included; without a word it is no."""
        assert parse_target(f"memcached://a,b?watch={text}").options.watch is watched
        assert parse_target(f"memory:?watch={text}").options.watch is watched
        assert parse_target("memcached://a").options.watch is False

    def test_options_may_stand_in_several_strings_of_a_list(self) -> None:
        """The options of all strings together hold for the ring, as long as they agree."""
        options = parse_target(["memcached://a?deadline=1s", "memcached://b?max_value=1k&deadline=1s"]).options
        assert options == Options(deadline_s=1.0, max_value_bytes=1024)

    def test_values_of_options_may_be_percent_encoded(self) -> None:
        """A path with & or a space in it can be written."""
        (server,) = parse_target("memcached+tls://a?ca=/etc/a%20%26%20b.pem").servers
        assert server.tls == Tls(ca="/etc/a & b.pem")


BAD = [
    ("redis://h", "unknown scheme", "redis://"),
    ("memcachd://h", "did you mean memcached?", "memcachd://"),
    ("memcached://h?dedline=1", "did you mean deadline?", "dedline"),
    ("memcached://h?zzzz=1", "known are deadline", "zzzz"),
    ("memcached://h?deadline", "without a value", "deadline"),
    ("memcached://h?deadline=", "without a value", "deadline="),
    ("memcached://h?deadline=soon", "250ms, 0.25 or 1s", "soon"),
    ("memcached://h?deadline=-1", "deadline", "-1"),
    ("memcached://h?deadline=0", "more than nothing", "0"),
    ("memcached://h?deadline=1s&deadline=2s", "twice", "1s and 2s"),
    ("memcached://h?max_value=1XB", "1MiB", "1XB"),
    ("memcached://h?max_value=0.1", "less than one byte", "0.1"),
    ("memcached://h?memory=1MiB", "embedded server", "1MiB"),
    ("memcached://h?a=1&", "unknown option", "a"),
    ("memcached://h?watch=always", "yes or no", "always"),
    ("memcached://h?ca=/x", "without memcached+tls", "ca"),
    ("memcached+tls://h?key=/k", "needs cert", "/k"),
    ("memcached+tls://h?verify=perhaps", "yes or no", "perhaps"),
    ("memcached+tls://h?ca=%zz", "hexadecimal", "%zz"),
    ("memcached+tls://h?ca=%ff", "UTF-8", "%ff"),
    ("memory:?ca=/x", "mean nothing to memory:", "ca"),
    ("memory:somewhere", "nothing but options", "somewhere"),
    (["memory:", "h"], "does not mix", "memory:, h"),
    ("memcached://h:port", "bad port 'port'", "h:port"),
    ("memcached://h:0", "bad port '0'", "h:0"),
    ("memcached://h:65536", "bad port '65536'", "h:65536"),
    ("memcached://h:-1", "bad port '-1'", "h:-1"),
    ("memcached://h:", "bad port ''", "h:"),
    ("memcached://h:١", "bad port", "h:١"),
    ("memcached://h:1:heavy", "bad weight 'heavy'", "h:1:heavy"),
    ("memcached://h:1:0", "above 0", "h:1:0"),
    ("memcached://h:1:-2", "bad weight '-2'", "h:1:-2"),
    ("memcached://h:1:nan", "bad weight 'nan'", "h:1:nan"),
    ("memcached://h:1:1e9", "bad weight '1e9'", "h:1:1e9"),
    ("memcached://h:1:2000000", "at most a million", "h:1:2000000"),
    ("memcached://h:1:2:3", "too many colons", "h:1:2:3"),
    ("memcached://h:1:1,h:1:2", "different weights", "h:1: 1.0 and 2.0"),
    (["h", "memcached+tls://h"], "different TLS", "h:11211"),
    ("memcached://", "no server", "memcached://"),
    ("", "no server", ""),
    ("unix:", "no server", "unix:"),
    ("memcached:///run/m.sock", "empty host", "memcached:///run/m.sock"),
    ("memcached://:11211", "empty host", ":11211"),
    ("memcached://.", "empty host", "."),
    ("memcached://a,,b", "between two commas", "a,,b"),
    ("memcached://a,", "between two commas", "a,"),
    ("memcached://user:secret@h", "credentials", "***@h"),
    ("user:secret@h:1", "credentials", "***@h:1"),
    ("memcached://a,user:sec#ret@h", "credentials", "***@h"),
    ("memcached://user:sec?ret@h", "credentials", "***@h"),
    ("memcached://a b", "a space", "memcached://a b"),
    (" memcached://a", "a space", " memcached://a"),
    ("memcached://a\r\nflush_all", "control character", "flush_all"),
    ("memcached://a#b", "fragment", "#b"),
    ("memcached://a/b", "no path", "a/b"),
    ("memcached://a;b", "bad host", "a;b"),
    ("memcached://-a", "bad host", "-a"),
    ("memcached://a..b", "bad host", "a..b"),
    ("memcached://a%20b", "bad host", "a%20b"),
    ("memcached://" + "a" * 64, "bad host", "a" * 64),
    ("memcached://" + ".".join(["a" * 60] * 5), "bad host", "a" * 60),
    ("memcached://" + "ä" * 64, "bad host", "ä" * 64),
    ("memcached://256.0.0.1", "not an IPv4 address", "256.0.0.1"),
    ("memcached://127.1", "not an IPv4 address", "127.1"),
    ("memcached://010.0.0.1", "leading zeros", "010.0.0.1"),
    ("memcached://0x7f000001", "not an IPv4 address", "0x7f000001"),
    ("memcached://::1", "must stand in brackets", "write [::1]"),
    ("memcached://2001:db8::1,b", "must stand in brackets", "2001:db8::1"),
    ("memcached://[::1", "closing bracket", "[::1"),
    ("memcached://[::1]11211", "closing bracket", "[::1]11211"),
    ("memcached://::1]", "opening bracket", "::1]"),
    ("memcached://[::g]", "not an IPv6 address", "::g"),
    ("memcached://[10.0.0.1]", "not an IPv6 address", "[10.0.0.1]"),
    ("memcached://[fe80::1%]", "bad zone", "fe80::1%"),
    ("memcached://[fe80::1%e/0]", "no path", "fe80::1%e/0"),
    ("unix://run/m.sock", "no host", "write unix:///run/m.sock"),
    ("unix:run/m.sock", "absolute", "unix:///run/memcached.sock"),
    ("unix:///run/", "not a directory", "unix:///run/"),
    ("unix:///run/a:b", "bad weight 'b'", "unix:///run/a:b"),
    ("unix:///run/a:0", "above 0", "unix:///run/a:0"),
    ("unix:///" + "a" * 107, "at most 107 bytes", "a" * 107),
    ("unix:///a%00b", "control characters", "a%00b"),
    ([], "empty list", "[]"),
    (["a", 11211], "a str or a Server", "11211"),
    (b"memcached://a", "a URL, or a list", "b'memcached://a'"),
    ({"a": 1}, "a URL, or a list", "{'a': 1}"),
    (11211, "a URL, or a list", "11211"),
]


class TestBadAddresses:
    @pytest.mark.parametrize(("url", "what", "piece"), BAD)
    def test_error_says_what_was_wrong_and_shows_the_piece(self, url: object, what: str, piece: str) -> None:
        """Every bad address is a ConfigurationError, a ValueError, with the reason and the offending text in it."""
        with pytest.raises(ConfigurationError) as caught:
            parse_target(url)  # type: ignore[arg-type]
        assert isinstance(caught.value, ValueError)
        assert what in str(caught.value)
        assert piece in str(caught.value).replace("\\r\\n", "\r\n")

    @pytest.mark.parametrize(
        "url",
        ["memcached://u:hunter2@h", "u:hunter2@h", "memcached://a,u:hunter2@h:1", "memcached://u:hunter2#@h",
         "memcached://u:hunter2/@h", "memcached://u:hunter2?@h", "memcached://u:hunter2 @h", ["a", "redis://u:hunter2@h"]],
    )  # fmt: skip
    def test_a_password_is_never_repeated(self, url: object) -> None:
        """Errors end up in logs; credentials in a URL must not."""
        with pytest.raises(ConfigurationError) as caught:
            parse_target(url)  # type: ignore[arg-type]
        assert "hunter2" not in str(caught.value)
        with pytest.raises(ConfigurationError, match="credentials") as caught:
            parse_server("u:hunter2@h")
        assert "hunter2" not in str(caught.value)

    @given(st.text(max_size=40) | st.text(alphabet="memcached+tls:/unix[]%@?=&,.#0123456789 ", max_size=40))
    def test_any_text_parses_or_is_refused(self, text: str) -> None:
        """Nothing but a ConfigurationError escapes, and canonical names parse to themselves."""
        try:
            target = parse_target(text)
        except ConfigurationError:
            return
        canonical = [server.name for server in target.servers if server.host]
        assert not canonical or names(canonical) == canonical

    def test_a_server_object_must_make_sense(self) -> None:
        """Either host and port or a path, and a finite weight above 0."""
        for arguments in ({}, {"host": "a"}, {"host": "a", "port": 1, "path": "/a"}):
            with pytest.raises(ConfigurationError, match="either a host and a port, or a path"):
                Server("x", **arguments)
        for weight in (0, -1, float("nan"), float("inf"), 1e7, "2", None):
            with pytest.raises(ConfigurationError, match="weight"):
                Server("x", host="a", port=1, weight=weight)  # type: ignore[arg-type]


def test_unique_servers_keeps_each_once_in_the_order_of_names() -> None:
    """The ring's order is that of the names, whatever the order given."""
    servers = [parse_server(text) for text in ("c", "a", "b", "a:11211")]
    expected = tuple(parse_server(text) for text in ("a", "b", "c"))
    assert all(unique_servers(order) == expected for order in itertools.permutations(servers))
