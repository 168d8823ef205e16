"""The lines of a watch stream, cut anywhere; what may have been missed; when another attempt is made."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachekit import ProtocolError
from cachekit.watch.follower import PAUSES_S, Pauses, kind_of
from cachekit.watch.lines import MAX_LINE_BYTES, Heard, Lines, decoded, encoded

STORED = b"ts=1795316638.49484 gid=8 type=item_store key=%b status=stored cmd=set ttl=100 clsid=1 cfd=12 size=2\n"
DELETED = b"ts=1795316685.888932 gid=11 type=deleted key=%b cmd=md clsid=1 size=2\n"

keys = st.binary(min_size=1, max_size=250)
lines = st.one_of(
    keys.map(lambda key: STORED % encoded(key)),
    keys.map(lambda key: DELETED % encoded(key)),
    st.integers(1, 10**6).map(lambda count: b"skipped=%d\n" % count),
    st.sampled_from((b"OK\r\n", b"ERROR\r\n", b"\n", b"ts=1.1 gid=1 type=conn_new rip=::1\n")),
    st.binary(max_size=40).map(lambda junk: junk.replace(b"\n", b"") + b"\n"),
)
streams = st.lists(lines, max_size=12).map(b"".join)


def told(stream: bytes, cuts: list[int], prefix: bytes = b"") -> Heard:
    """What all pieces of a stream told together."""
    reader = Lines([prefix])
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    parts = [reader.feed(stream[start:end]) for start, end in pairwise(places)]
    return Heard(
        [key for part in parts for key in part.keys],
        sum(part.skipped for part in parts),
        [answer for part in parts for answer in part.answers],
        sum(part.lines for part in parts),
    )


# -- lines ------------------------------------------------------------------------------------------------------------


def test_a_stream_of_memcached() -> None:
    """The lines of 1.6.18, 1.6.38 and 1.6.45 as they came: stores, failed stores and deletes name their key."""
    stream = (
        b"OK\r\n"
        b"ts=1795316639.454858 gid=9 type=item_store key=a status=stored cmd=set ttl=4294967234 clsid=1 cfd=12 size=0\n"
        b"ts=1795316646.130529 gid=16 type=item_store key=shop%3An status=exists cmd=cas ttl=0 clsid=1 cfd=12 size=1\n"
        b"ts=1795316649.646497 gid=24 type=item_store key=big status=too_large cmd=set ttl=0 clsid=136 cfd=0 size=0\n"
        b"skipped=3\n"
        b"ts=1795316685.888932 gid=11 type=deleted key=a%25b%3D%C3%A9~%21%27 cmd=md clsid=1 size=2\n"
    )
    assert told(stream, []) == Heard([b"a", b"shop:n", b"big", b"a%b=\xc3\xa9~!'"], 1, [b"OK"], 6)


@given(streams, st.lists(st.integers(0, 10**6), max_size=30))
def test_any_split_tells_the_same(stream: bytes, cuts: list[int]) -> None:
    """Wherever the socket cuts the stream, the same keys come out of it, in order, and the same gaps and answers."""
    assert told(stream, cuts) == told(stream, [])


@given(keys)
def test_every_key_comes_back(key: bytes) -> None:
    """Percent-encoding hides no key, and encodes nothing twice."""
    assert decoded(encoded(key)) == key
    assert told(STORED % encoded(key) + DELETED % encoded(key), []).keys == [key, key]


@given(st.lists(keys, max_size=6), st.binary(max_size=3))
def test_only_keys_with_the_prefix(names: list[bytes], prefix: bytes) -> None:
    """Another application's keys are left out, whatever bytes the prefix is made of."""
    stream = b"".join(STORED % encoded(name) for name in names)
    assert told(stream, [], prefix).keys == [name for name in names if name.startswith(prefix)]


@pytest.mark.parametrize(
    "line",
    [
        b"skipped=1",
        b"skipped=",
        b"skipped=what",
        b"ts=1.1 gid=1 type=item_store key=%zz status=stored",
        b"ts=1.1 gid=1 type=deleted key=a% cmd=md",
        b"ts=1.1 gid=1 type=item_store",
        b"ts=1.1 type=deleted key=a",
        b"ts=1.1 gid=1 type=item_store key=" + b"a" * 1025,
    ],
)
def test_what_cant_be_read_is_a_gap(line: bytes) -> None:
    """A line that tells of some change, but not of which key, counts as skipped: it may have been any."""
    assert told(line + b"\n", []) == Heard([], 1, [], 1)


def test_other_events_say_nothing() -> None:
    """Events of a kind that was not asked for are neither keys nor gaps nor answers."""
    assert told(b"ts=1.1 gid=2 type=eviction key=a fetch=yes ttl=1 la=2 clsid=1 size=1\n", []) == Heard([], 0, [], 1)


@pytest.mark.parametrize("pieces", [1, 100])
def test_a_line_without_end(pieces: int) -> None:
    """What the reader keeps is bounded: a line that is too long is an error, at once or in pieces."""
    reader, line = Lines(), b"x" * (MAX_LINE_BYTES + 1) + b"\n"
    size = -(-len(line) // pieces)
    with pytest.raises(ProtocolError):
        for at in range(0, len(line), size):
            reader.feed(line[at : at + size])


# -- pauses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("WATCHER_TOO_MANY log watcher limit reached", "full"),
        ("WATCHER_FAILED failed to add log watcher", "full"),
        ("ERROR Too many open connections", "full"),
        ("ERROR", "unknown"),
        ("CLIENT_ERROR watch commands not allowed", "unknown"),
        ("", "unknown"),
    ],
)
def test_what_an_answer_means(answer: str, kind: str) -> None:
    """A full server may have a place soon; one that can't, or may not, will not learn it in seconds."""
    assert kind_of(answer) == kind


@pytest.mark.parametrize("kind", PAUSES_S)
def test_pauses_grow_up_to_a_bound(kind: str) -> None:
    """Failures in a row double the pause, up to a bound, each half as long or half as long again."""
    first, most = PAUSES_S[kind]
    shortest, longest = Pauses(lambda: 0.0), Pauses(lambda: 1.0)
    short, long = [shortest.after(kind) for _ in range(40)], [longest.after(kind) for _ in range(40)]
    assert (short[0], long[0]) == (first / 2, first * 1.5)
    assert (short[-1], long[-1]) == (most / 2, most * 1.5)
    assert short == sorted(short)


def test_pauses_begin_anew() -> None:
    """After a success, and after a failure of another kind, the pause is short again."""
    pauses = Pauses(lambda: 0.5)
    assert [pauses.after("lost"), pauses.after("lost"), pauses.after("full")] == [0.25, 0.5, 5.0]
    pauses.succeeded()
    assert pauses.after("full") == 5.0
    assert pauses.after("lost") == 0.25
