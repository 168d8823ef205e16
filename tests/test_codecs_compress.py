"""Compression, and unpacking that can't be made to eat memory."""

from __future__ import annotations

import importlib
import random
import struct
import tracemalloc
import zlib

import pytest
from backports import zstd as standard_zstd
from hypothesis import given
from hypothesis import strategies as st

from cachekit.codecs import compress, flags, zstd
from cachekit.codecs.compress import Compression, expand, squeeze
from cachekit.errors import ConfigurationError, DecodeError

MIB = 1 << 20
LIMIT = 8 * MIB
METHODS: dict[str, compress.Method] = {
    "zlib": (compress._zlib_squeeze, compress._zlib_expand),
    "zstandard": zstd.from_zstandard(importlib.import_module("zstandard")),
    "compression.zstd": zstd.from_stdlib(standard_zstd),
}
every_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture
def method(name: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The method's number, with the named library behind it."""
    number = flags.ZLIB if name == "zlib" else flags.ZSTD
    monkeypatch.setitem(compress.METHODS, number, METHODS[name])
    return number


@every_method
def test_round_trip(method: int) -> None:
    """Short and long payloads come back, also those that are unpacked in several steps."""
    for size in (200, 5_000, 300_000, 3 * MIB):
        payload = (b"all work and no play " * (size // 20))[:size]
        packed = squeeze(payload, method, limit=LIMIT)
        assert packed is not None
        assert len(packed) < size
        assert expand(packed, method, limit=LIMIT) == payload


@every_method
def test_random_data_stays_as_it_is(method: int) -> None:
    """What does not shrink is not stored compressed."""
    assert squeeze(random.Random(1).randbytes(10_000), method, limit=LIMIT) is None


@every_method
def test_what_could_not_be_read_back_is_not_compressed(method: int) -> None:
    """Writer and reader hold to the same cap, so a value over it is never stored to be refused later."""
    assert squeeze(bytes(1001), method, limit=1000) is None


@every_method
def test_honest_bomb(method: int) -> None:
    """A stream that says how far it unpacks is refused before anything is unpacked."""
    packed = squeeze(bytes(64 * MIB), method, limit=64 * MIB)
    assert packed is not None
    tracemalloc.start()
    with pytest.raises(DecodeError, match="limit"):
        expand(packed, method, limit=LIMIT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MIB


@every_method
@pytest.mark.parametrize("claimed", [0, 1, 1000, 3 * MIB])
def test_lying_bomb(method: int, claimed: int) -> None:
    """A stream that unpacks to more than it says is cut off there; memory is bounded by what it said."""
    packed = squeeze(bytes(64 * MIB), method, limit=64 * MIB)
    assert packed is not None
    tracemalloc.start()
    with pytest.raises(DecodeError):
        expand(struct.pack(">I", claimed) + packed[4:], method, limit=LIMIT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * claimed + MIB


@every_method
@given(data=st.data())
def test_damage(name: str, data: st.DataObject) -> None:
    """Any damage is a DecodeError or bytes of the length that was said; nothing else is raised."""
    squeeze_with, expand_with = METHODS[name]
    payload = b"all work and no play " * 30
    stream = bytearray(squeeze_with(payload))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(stream[: data.draw(st.integers(0, len(stream)))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(compress.METHODS, flags.ZSTD, (squeeze_with, expand_with))
        try:
            out = expand(struct.pack(">I", len(payload)) + cut, flags.ZSTD, limit=LIMIT)
        except DecodeError:
            return
    assert len(out) == len(payload)


@every_method
def test_cut_or_prolonged(method: int) -> None:
    """A stream that is cut short, or followed by more, is a DecodeError."""
    for size in (1_000, 600_000):
        packed = squeeze(b"ab" * (size // 2), method, limit=LIMIT)
        assert packed is not None
        for bad in (packed[:-1], packed[:3], packed[:4], packed + b"x", b""):
            with pytest.raises(DecodeError):
                expand(bad, method, limit=LIMIT)


def test_zstd_frame_without_its_size() -> None:
    """A frame that does not name its size is refused: nobody could bound it before unpacking."""
    compressor = standard_zstd.ZstdCompressor()
    frame = compressor.compress(b"x" * 1000) + compressor.flush()
    assert standard_zstd.get_frame_info(frame).decompressed_size is None
    for name in ("zstandard", "compression.zstd"):
        with pytest.raises(ValueError, match="1000"):
            METHODS[name][1](frame, 1000)


def test_both_zstd_libraries_read_each_other() -> None:
    """Machines with Python 3.14 and machines with the extra share a cache."""
    one, other = METHODS["zstandard"], METHODS["compression.zstd"]
    payload = b"all work and no play " * 100
    assert other[1](one[0](payload), len(payload)) == payload
    assert one[1](other[0](payload), len(payload)) == payload


def test_a_process_without_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any zstd: zlib writes, asking for zstd is an error, a zstd value is a miss that names the extra."""
    packed = squeeze(b"x" * 1000, flags.ZSTD, limit=LIMIT)
    assert packed is not None
    monkeypatch.setitem(compress.METHODS, flags.ZSTD, None)
    assert Compression().writer() == flags.ZLIB
    with pytest.raises(ConfigurationError, match="zstd"):
        Compression(method="zstd")
    with pytest.raises(DecodeError, match=r"\[zstd\]"):
        expand(packed, flags.ZSTD, limit=LIMIT)


def test_finding_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package goes before the standard library's, and neither is needed."""
    found: list[str] = []

    def absent(name: str) -> None:
        found.append(name)
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    assert zstd.find() is None
    assert found == ["zstandard", "compression.zstd"]


@pytest.mark.parametrize("bad", [{"method": "lz4"}, {"max_unpacked_bytes": 0}, {"max_unpacked_bytes": 2**32}])
def test_bad_settings(bad: dict[str, object]) -> None:
    """Nonsense is refused where it is written."""
    with pytest.raises(ConfigurationError):
        Compression(**bad)  # type: ignore[arg-type]


def test_settings() -> None:
    """The method asked for is the one written; bytes have a threshold of their own."""
    assert Compression(method="zlib").writer() == flags.ZLIB
    assert Compression(method="zstd").writer() == Compression().writer() == flags.ZSTD
    assert Compression(min_bytes=10, min_raw_bytes=None).threshold(flags.BYTES) is None
    assert Compression(min_bytes=10).threshold(flags.TEXT) == 10


def test_zlib_is_what_a_reader_of_any_language_has() -> None:
    """The stream behind the size is plain RFC 1950."""
    packed = squeeze(b"x" * 5000, flags.ZLIB, limit=LIMIT)
    assert packed is not None
    assert zlib.decompress(packed[4:]) == b"x" * 5000
