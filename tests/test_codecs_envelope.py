"""The header before every cached function's value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachekit.codecs.envelope import (
    FOREVER,
    HEAD,
    MARKED,
    VERSION,
    Header,
    Mark,
    fingerprint,
    open_envelope,
    seal,
    seal_one,
)
from cachekit.errors import DecodeError

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
headers = st.builds(
    Header,
    fingerprint=st.binary(min_size=16, max_size=16),
    created_ms=u64,
    ttl_ms=u64,
    stale_ms=u64,
    stale_if_error_ms=u64,
    hard_s=u32,
    delta_us=u32,
    generations=st.lists(u64, min_size=1, max_size=255).map(tuple),
    retry_ms=st.just(0) | u64,
    slide_ms=st.just(0) | u64,
    marks=st.just(()),
)
marks = st.builds(
    Mark,
    server=st.text(st.characters(codec="utf-8"), max_size=40),
    key=st.lists(st.integers(33, 255).filter(lambda byte: byte != 127), min_size=1, max_size=250).map(bytes),
    number=u64,
    named=st.booleans(),
    boot=st.binary(max_size=32),
)
marked = st.builds(
    lambda header, some: header._replace(marks=tuple(some)), headers, st.lists(marks, min_size=1, max_size=8)
)
PLAIN = Header(b"0123456789abcdef", 1_700_000_000_000)


@given(headers | marked, st.binary(max_size=64))
def test_round_trip(header: Header, payload: bytes) -> None:
    """Every header comes back as it was sealed, and the payload begins where it says."""
    data = seal(header, payload)
    assert open_envelope(data) == (header, len(data) - len(payload))
    assert data[open_envelope(data)[1] :] == payload


@given(headers)
def test_hot_path_is_one_read(header: Header) -> None:
    """One unpack_from gives every fixed field and the first generation."""
    version, count, length, own, *numbers = HEAD.unpack_from(seal(header, b"payload"))
    assert (version, count, own) == (VERSION, len(header.generations), header.fingerprint)
    assert length == HEAD.size + 8 * (count - 1) + (16 if header.retry_ms or header.slide_ms else 0)
    assert tuple(numbers) == (*header[1:7], header.generations[0])


@given(marked)
def test_who_knows_no_marks_refuses_them(header: Header) -> None:
    """An entry under marks has a version of its own: to serve it without asking for them would be wrong."""
    version = seal(header, b"payload")[0]
    assert version == MARKED
    assert version != VERSION


@given(headers | marked, st.data())
def test_truncated(header: Header, data: st.DataObject) -> None:
    """A header that is cut anywhere is a DecodeError."""
    sealed = seal(header, b"")
    with pytest.raises(DecodeError):
        open_envelope(sealed[: data.draw(st.integers(0, len(sealed) - 1))])


@given(st.binary(max_size=400))
def test_garbage(data: bytes) -> None:
    """Garbage is a DecodeError or a header that lies wholly inside the data; nothing else is ever raised."""
    try:
        header, at = open_envelope(data)
    except DecodeError:
        return
    assert HEAD.size <= at <= len(data)
    assert len(header.generations) >= 1


@pytest.mark.parametrize("version", [0, 3, 255])
def test_foreign_version(version: int) -> None:
    """Another version is a miss that names it, not a guess."""
    with pytest.raises(DecodeError, match=f"version {version} "):
        open_envelope(bytes([version]) + seal(PLAIN, b"x")[1:])


def test_later_fields_are_stepped_over() -> None:
    """A header that a later release made longer is read: its length says where the payload begins."""
    data = seal(PLAIN, b"")
    longer = data[:2] + (len(data) + 4).to_bytes(2, "big") + data[4:] + b"more" + b"payload"
    header, at = open_envelope(longer)
    assert header == PLAIN
    assert longer[at:] == b"payload"


def test_a_header_is_no_longer_than_it_must_be() -> None:
    """What few entries need, the others don't carry; and what is absent reads as 0."""
    assert len(seal(PLAIN, b"")) == HEAD.size == 68
    for retry_ms, slide_ms in ((1, 0), (0, 1), (1, 2)):
        assert len(seal(PLAIN._replace(retry_ms=retry_ms, slide_ms=slide_ms), b"")) == 84
    read, _ = open_envelope(seal(PLAIN, b"x" * 100))
    assert (read.retry_ms, read.slide_ms) == (0, 0)


@given(
    headers.filter(lambda header: not (header.retry_ms or header.slide_ms)), st.integers(0, 15), st.binary(max_size=9)
)
def test_half_an_extension_is_none(header: Header, more: int, payload: bytes) -> None:
    """Fewer bytes than both fields take were written by something else, and are stepped over."""
    data = seal(header, b"")
    length = len(data) + more
    read, at = open_envelope(data[:2] + length.to_bytes(2, "big") + data[4:] + b"\xff" * more + payload)
    assert (read, at) == (header, length)


def test_an_entry_written_before_there_were_extensions_reads_the_same() -> None:
    """A header of the first release, byte by byte."""
    old = bytes.fromhex(
        "01010044" + b"0123456789abcdef".hex() + "0000018bcfe56800" + "000000000000ea60" + "00" * 16 + "0000003d"
        "0003d090" + "0000000000000005"
    )
    header = Header(b"0123456789abcdef", 1_700_000_000_000, 60_000, 0, 0, 61, 250_000, (5,))
    assert open_envelope(old + b"value") == (header, 68)
    assert seal(header, b"value") == old + b"value"


@given(headers.filter(lambda header: len(header.generations) == 1), st.binary(max_size=64))
def test_the_short_way_to_seal_writes_the_same(header: Header, payload: bytes) -> None:
    """A plain miss seals without a Header; a reader can't tell."""
    plain = header._replace(stale_ms=0, stale_if_error_ms=0, retry_ms=0, slide_ms=0)
    own, created, ttl, _, _, hard, delta, (generation,), _, _, _ = plain
    assert seal_one(own, created, ttl, hard, delta, generation, payload) == seal(plain, payload)


@pytest.mark.parametrize(
    "bad",
    [
        PLAIN._replace(fingerprint=b"short"),
        PLAIN._replace(generations=()),
        PLAIN._replace(generations=(1,) * 256),
        PLAIN._replace(created_ms=-1),
        PLAIN._replace(ttl_ms=2**64),
        PLAIN._replace(hard_s=2**32),
        PLAIN._replace(generations=(1, -1)),
        PLAIN._replace(retry_ms=-1),
        PLAIN._replace(slide_ms=2**64),
        PLAIN._replace(marks=(Mark("", b"k" * 256, 1),)),
        PLAIN._replace(marks=(Mark("", b"k", -1),)),
        PLAIN._replace(marks=(Mark("", b"k", 1),) * 129),
    ],
)
def test_unwritable_headers(bad: Header) -> None:
    """A header that does not fit its fields is an error of the writer, never a wrong header."""
    with pytest.raises(ValueError, match="header"):
        seal(bad, b"")


@pytest.mark.parametrize("key", [b"", b"two words", b"a\r\nflush_all", b"tab\t", b"\x00", b"\x7f", b"k" * 251])
def test_what_is_no_key_is_not_asked_for(key: bytes) -> None:
    """The key in a mark goes out on the wire, perhaps to another server than the one that the entry came from."""
    sealed = seal(PLAIN._replace(marks=(Mark("", key, 1),)), b"")
    with pytest.raises(DecodeError, match="mark"):
        open_envelope(sealed)


def test_delta_is_capped() -> None:
    """A run longer than 71 minutes is stored as the longest that fits."""
    assert open_envelope(seal(PLAIN._replace(delta_us=2**40), b""))[0].delta_us == 2**32 - 1


def test_fingerprint_is_the_end_of_the_key() -> None:
    """The last 16 characters of the wire key, which are 96 bits of its digest."""
    assert fingerprint(b"app:report:AbCdEfGh0123456789abcdef") == b"0123456789abcdef"
    assert PLAIN.ttl_ms == FOREVER
