"""The meta protocol without I/O: requests that can't be misread, and replies in any fragments."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cachekit import meta
from cachekit.errors import ProtocolError, RequestError
from cachekit.meta import Parser, Reply

# ------------------------------------------------------------------------------------------------------------- requests


def test_requests_are_complete_commands() -> None:
    """Each function returns exactly one command of the protocol."""
    assert meta.mg(b"k") == b"mg k \r\n"
    assert meta.mg(b"k", b"s v t c f O12 N30") == b"mg k s v t c f O12 N30\r\n"
    assert meta.ms(b"k", b"a\r\nb", b"T30 C7 I") == b"ms k 4 T30 C7 I\r\na\r\nb\r\n"
    assert meta.ms(b"k", b"") == b"ms k 0 \r\n\r\n"
    assert meta.md(b"k", b"I T30 q") == b"md k I T30 q\r\n"
    assert meta.ma(b"k", b"MD D5 N0 J9 v") == b"ma k MD D5 N0 J9 v\r\n"
    assert meta.me(b"k") == b"me k\r\n"
    assert meta.mn() == b"mn\r\n"
    assert meta.get([b"a", b"b"]) == b"get a b\r\n"
    assert meta.gets(iter([b"a"])) == b"gets a\r\n"


@pytest.mark.parametrize("data", [bytearray(b"abc"), memoryview(b"abc"), memoryview(b"axbxcx")[::2]])
def test_ms_counts_bytes(data: bytes) -> None:
    """The announced length is that of the bytes sent, whatever kind of buffer they came in."""
    assert meta.ms(b"k", data) == b"ms k 3 \r\nabc\r\n"


@pytest.mark.parametrize("data", [7, "text", None, [1, 2]])
def test_ms_takes_only_bytes(data: bytes) -> None:
    """bytes(7) would be seven zero bytes: numbers and text are refused."""
    with pytest.raises(RequestError, match="a value on the wire is bytes"):
        meta.ms(b"k", data)


_BAD_KEYS: list[object] = [b"", b" ", b"a b", b"a\r\nmn", b"a\n", b"\0", b"a\x7f", b"a\tb", b"k" * 251, "text", None, 7]
_BAD_KEYS += [bytearray(b"k")]
_CALLS = {
    "mg": meta.mg,
    "ms": lambda key: meta.ms(key, b"x"),
    "md": meta.md,
    "ma": meta.ma,
    "me": meta.me,
    "get": lambda key: meta.get([b"good", key]),
    "gets": lambda key: meta.gets([key]),
    "check_key": meta.check_key,
}


@pytest.mark.parametrize("call", _CALLS)
@pytest.mark.parametrize("key", _BAD_KEYS, ids=repr)
def test_bad_keys_are_refused(call: str, key: object) -> None:
    """No command takes a key that Memcached would refuse or misread."""
    with pytest.raises(RequestError, match="a key"):
        _CALLS[call](key)


@pytest.mark.parametrize("call", _CALLS)
@pytest.mark.parametrize("key", [b"k" * 250, "schlüssel".encode(), b"\xff!~"], ids=repr)
def test_good_keys_are_taken(call: str, key: bytes) -> None:
    """250 bytes, and any byte from 0x80 on, are legal."""
    assert key in _CALLS[call](key)


_BAD_FLAGS = [b"v\r\nflush_all", b"v\n", b" v", b"v  t", b"N", b"Nx", b"T1.5", b"C-1", b"MX", b"O", b"v\0", b"Z", "v"]
_BAD_FLAGS += [b"O" + b"x" * 32]


@pytest.mark.parametrize("flags", _BAD_FLAGS, ids=repr)
def test_bad_flags_are_refused(flags: bytes) -> None:
    """Only flags that this protocol has, with the tokens that they take, get onto a command line."""
    for call in (meta.mg, meta.md, meta.ma, lambda key, flags: meta.ms(key, b"", flags)):
        with pytest.raises(RequestError, match="not a list of meta flags"):
            call(b"k", flags)


@pytest.mark.parametrize("keys", [[], b"key", "key"], ids=repr)
def test_get_needs_a_sequence_of_keys(keys: list[bytes]) -> None:
    """No keys would be an ERROR; a lone key is an iterable of ints or letters."""
    with pytest.raises(RequestError, match="needs a sequence of keys"):
        meta.get(keys)


@pytest.mark.parametrize(
    ("letter", "lowest", "highest"),
    [("T", -(2**31), 2**31 - 1), ("N", -(2**31), 2**31 - 1), ("R", -(2**31), 2**31 - 1), ("F", 0, 2**32 - 1)]
    + [(letter, 0, 2**64 - 1) for letter in "CEDJ"],
)
def test_number_keeps_to_the_servers_range(letter: str, lowest: int, highest: int) -> None:
    """The server would wrap what is too large, in silence."""
    for value in (lowest, 0, highest):
        flag = meta.number(letter, value)
        assert flag == f"{letter}{value}".encode()
        assert meta.mg(b"k", flag) == b"mg k " + flag + b"\r\n"
    for value in (lowest - 1, highest + 1):
        with pytest.raises(RequestError, match=f"{letter} takes an int from"):
            meta.number(letter, value)


@pytest.mark.parametrize("value", ["0", "0\r\nflush_all", b"0", 1.0, True, None, float("nan"), [0]], ids=repr)
def test_number_takes_only_ints(value: int) -> None:
    """Text in the place of a number is how commands get injected."""
    with pytest.raises(RequestError, match="takes an int"):
        meta.number("C", value)


def test_opaque() -> None:
    """A token of up to 31 printable bytes, or a number."""
    assert meta.opaque(12) == b"O12"
    assert meta.opaque(b"x" * 31) == b"O" + b"x" * 31
    assert meta.mg(b"k", meta.opaque(10**30)) == b"mg k O1" + b"0" * 30 + b"\r\n"


@pytest.mark.parametrize("token", [b"", b"x" * 32, b"a b", b"a\r\nmn", -1, 10**31, True, "x", 1.5, None], ids=repr)
def test_bad_opaques_are_refused(token: bytes) -> None:
    """32 bytes are one more than the server takes."""
    with pytest.raises(RequestError, match="an opaque token is"):
        meta.opaque(token)


@given(key=st.binary(max_size=300), flags=st.just(b"I T30") | st.binary(max_size=40), data=st.binary(max_size=50))
@example(key=b"k\r\nflush_all", flags=b"v", data=b"\r\nflush_all\r\n")
def test_no_byte_of_the_user_ends_a_command(key: bytes, flags: bytes, data: bytes) -> None:
    """What isn't refused is one line with the words put in, and the data behind its own length."""
    try:
        line, rest = meta.ms(key, data, flags).split(b"\r\n", 1)
    except RequestError:
        return
    assert rest == data + b"\r\n"
    assert not re.search(rb"[\x00-\x1f\x7f]", line)
    assert line.split(b" ")[:3] == [b"ms", key, b"%d" % len(data)]


# -------------------------------------------------------------------------------------------------------------- replies

REPLIES: dict[bytes, Reply] = {
    b"VA 5 s5 t160 c3 f3 O12\r\nhello\r\n": Reply("VA", b"hello", None, 3, 160, 3, b"12", size=5),
    b"VA 0 s0 t-1 c2 f0 W\r\n\r\n": Reply("VA", b"", cas=2, ttl=-1, client_flags=0, won=True, size=0),
    b"VA 1 Z X kkey h1 l7\r\nx\r\n": Reply("VA", b"x", b"key", claimed=True, stale=True, fetched=True, idle_s=7),
    b"VA 9\r\nMN\r\nEND\r\n\r\n": Reply("VA", b"MN\r\nEND\r\n"),
    b"HD\r\n": Reply("HD"),
    b"HD \r\n": Reply("HD"),
    b"HD O1 c18446744073709551615 h0\r\n": Reply("HD", cas=2**64 - 1, opaque=b"1", fetched=False),
    b"HD b y7\r\n": Reply("HD"),
    b"EN\r\n": Reply("EN"),
    b"EN kfoo O1\r\n": Reply("EN", key=b"foo", opaque=b"1"),
    b"NF O1\r\n": Reply("NF", opaque=b"1"),
    b"NS\r\n": Reply("NS"),
    b"EX c0\r\n": Reply("EX", cas=0),
    b"MN\r\n": Reply("MN"),
    b"ME k exp=-1 la=0 cas=2 fetch=no cls=1 size=63\r\n": Reply(
        "ME", b"exp=-1 la=0 cas=2 fetch=no cls=1 size=63", b"k", cas=2, size=63
    ),
    b"VALUE k 3 2\r\nxy\r\n": Reply("VALUE", b"xy", b"k", client_flags=3, size=2),
    b"VALUE k 0 2 77\r\n\r\n\r\n": Reply("VALUE", b"\r\n", b"k", 77, client_flags=0, size=2),
    **{f"{code}\r\n".encode(): Reply(code) for code in ("END", "STORED", "NOT_STORED", "EXISTS", "NOT_FOUND", "OK")},
    **{f"{code}\r\n".encode(): Reply(code) for code in ("DELETED", "TOUCHED", "RESET")},
    b"42\r\n": Reply("NUMBER", b"42"),
    b"VERSION 1.6.18\r\n": Reply("VERSION", b"1.6.18"),
    b"STAT curr_items 7\r\n": Reply("STAT", b"7", b"curr_items"),
    b"ERROR\r\n": Reply("ERROR", error="ERROR"),
    b"ERROR Too many open connections\r\n": Reply("ERROR", error="ERROR Too many open connections"),
    b"CLIENT_ERROR bad data chunk\r\n": Reply("ERROR", error="CLIENT_ERROR bad data chunk"),
    b"SERVER_ERROR out of memory \xff\r\n": Reply("ERROR", error="SERVER_ERROR out of memory \ufffd"),
}

NONSENSE = [
    b"\r\n",
    b"XX\r\n",
    b"va 1\r\nx\r\n",
    b"VA\r\n",
    b"VA x\r\n",
    b"VA -1\r\n",
    b"VA +1\r\nx\r\n",
    b"VA 1_0\r\n",
    b"VA 1 cx\r\nx\r\n",
    b"VA 1\r\nxyz",
    b"VA 1\r\nx\n\r",
    b"HD c\r\n",
    b"HD t-\r\n",
    b"MN x\r\n",
    b"END 1\r\n",
    b"STAT\r\n",
    b"VALUE k 0\r\n",
    b"VALUE k 0 -1\r\n",
    b"VALUE k x 1\r\nx\r\n",
    b"VALUE k 0 1 2 3\r\nx\r\n",
    b"ME k\r\n",
    b"ME k exp\r\n",
    b"-5\r\n",
    b"HTTP/1.1 400 Bad Request\r\n",
    b"HD c" + b"1" * 5000 + b"\r\n",
]


@pytest.mark.parametrize("wire", REPLIES, ids=repr)
def test_reply(wire: bytes) -> None:
    """Each line of the protocol becomes one reply that holds what it said."""
    parser = Parser()
    assert parser.feed(wire) == [REPLIES[wire]]
    assert not parser.pending


@pytest.mark.parametrize("wire", NONSENSE, ids=lambda wire: repr(wire[:40]))
def test_nonsense_is_the_end(wire: bytes) -> None:
    """A line that means nothing raises, and so does everything after it: where the next reply begins can't be known."""
    parser = Parser()
    with pytest.raises(ProtocolError):
        parser.feed(wire)
    assert not parser.pending
    assert repr(parser) == "Parser(dead)"
    with pytest.raises(ProtocolError, match="must be closed"):
        parser.feed(b"MN\r\n")


_stream = st.lists(st.sampled_from(list(REPLIES)), max_size=8)
_cuts = st.lists(st.integers(0, 400), max_size=12)
_hit = st.tuples(st.integers(0, 10**6), st.sampled_from(["cut", "put", "change"]), st.binary(min_size=1, max_size=4))


@given(wires=_stream, cuts=_cuts, whole=st.sampled_from([bytes, bytearray, memoryview]))
def test_fragments_do_not_matter(wires: list[bytes], cuts: list[int], whole: type[bytes]) -> None:
    """Cut anywhere, the same bytes give the same replies."""
    stream = b"".join(wires)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    parser = Parser()
    replies = [reply for start, end in pairwise(edges) for reply in parser.feed(whole(stream[start:end]))]
    assert replies == [REPLIES[wire] for wire in wires]
    assert not parser.pending


@given(wires=_stream)
def test_byte_by_byte(wires: list[bytes]) -> None:
    """Each reply comes with its very last byte, and until then something is pending."""
    parser = Parser()
    for wire in wires:
        for position in range(len(wire) - 1):
            assert parser.feed(wire[position : position + 1]) == []
            assert parser.pending
        assert parser.feed(wire[-1:]) == [REPLIES[wire]]
        assert not parser.pending


@given(wires=_stream, hits=st.lists(_hit), step=st.integers(1, 64))
def test_mutations_end_in_replies_or_a_protocol_error(
    wires: list[bytes], hits: list[tuple[int, str, bytes]], step: int
) -> None:
    """Whatever a broken server sends, there is no other exception, and never more than one reply is held."""
    stream = bytearray(b"".join(wires))
    for where, how, what in hits:
        at = where % (len(stream) + 1)
        stream[at : at + (0 if how == "put" else len(what))] = b"" if how == "cut" else what
    _check_feeding(bytes(stream), step)


@given(stream=st.binary(max_size=300), step=st.integers(1, 64))
def test_random_bytes_end_in_replies_or_a_protocol_error(stream: bytes, step: int) -> None:
    """As above, for bytes that never were a reply."""
    _check_feeding(stream, step)


def _check_feeding(stream: bytes, step: int) -> None:
    parser = Parser(max_line_bytes=200, max_value_bytes=100)
    fed = 0
    try:
        for start in range(0, len(stream), step):
            fed += len(stream[start : start + step])
            assert all(isinstance(reply, Reply) for reply in parser.feed(stream[start : start + step]))
            assert len(parser._buffer) <= min(fed, 200 + 2 + 100 + 2)
    except ProtocolError:
        assert not parser.pending


def test_a_line_has_an_end() -> None:
    """A line that is too long is refused, also before it is complete."""
    parser = Parser(max_line_bytes=10)
    assert parser.feed(b"HD O234567\r\n") == [Reply("HD", opaque=b"234567")]
    assert parser.feed(b"HD O23456\r") == []
    with pytest.raises(ProtocolError, match="a line of more than 10 bytes"):
        parser.feed(b"x7")
    with pytest.raises(ProtocolError, match="a line of 11 bytes"):
        Parser(max_line_bytes=10).feed(b"HD O2345678\r\n")


def test_a_value_has_a_limit() -> None:
    """A value over the limit is refused when it is announced, before it is held."""
    parser = Parser(max_value_bytes=3)
    assert parser.feed(b"VA 3\r\nabc\r\n") == [Reply("VA", b"abc")]
    with pytest.raises(ProtocolError, match="a value of 4 bytes"):
        parser.feed(b"VA 4\r\n")
    with pytest.raises(ProtocolError, match="a value of 999999999999 bytes"):
        Parser().feed(b"VALUE k 0 999999999999\r\n")


def test_a_large_value_in_pieces_is_looked_at_once() -> None:
    """While a value is on its way, a fragment costs its own size: nothing is parsed again before it is complete."""

    class Watched(Parser):
        looks = 0

        def _read(self, data: bytes, replies: list[Reply]) -> int:
            self.looks += 1
            return super()._read(data, replies)

    parser = Watched()
    value = bytes(range(256)) * 4096
    wire = b"VA %d f3\r\n%b\r\nMN\r\n" % (len(value), value)
    replies = [reply for start in range(0, len(wire), 1000) for reply in parser.feed(wire[start : start + 1000])]
    assert replies == [Reply("VA", value, client_flags=3), Reply("MN")]
    assert parser.looks <= 3


def test_values_are_immutable_bytes() -> None:
    """A value outlives the buffer that it came in."""
    buffer = bytearray(b"VA 3\r\nabc\r\n")
    (reply,) = Parser().feed(memoryview(buffer))
    buffer[6:9] = b"xyz"
    assert reply.value == b"abc"
    assert type(reply.value) is bytes


def test_repr_tells_what_was_said() -> None:
    """Only what the reply said is shown."""
    assert repr(Reply("HD")) == "Reply(HD)"
    assert repr(Reply("VA", b"x", cas=0, won=True)) == "Reply(VA, value=b'x', cas=0, won=True)"
    parser = Parser()
    parser.feed(b"VA 3\r\na")
    assert repr(parser) == "Parser(7 bytes pending)"
