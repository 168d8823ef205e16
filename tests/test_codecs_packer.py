"""Which format a value gets, and the way back."""

from __future__ import annotations

import json

import pytest

from cachekit.codecs import Compression, Packer, Registry, flags, resolve
from cachekit.codecs.packer import Codec
from cachekit.errors import ConfigurationError, DecodeError, UnencodableError


class Upper:
    """An application's own codec: text in capitals."""

    name = "upper"
    format = 9

    def encode(self, value: object) -> bytes:
        """Capitals."""
        return str(value).upper().encode("ascii")

    def decode(self, payload: bytes) -> object:
        """As stored."""
        return payload.decode("ascii")


def _packer(codec: str | Codec | None = None, compression: Compression | None = None, *readers: Codec) -> Packer:
    return Packer(resolve(codec, registry=Registry()), compression, readers=readers)


@pytest.mark.parametrize("codec", [None, "data", "json"])
@pytest.mark.parametrize(
    ("value", "format_id", "payload"),
    [
        ("žluť", flags.TEXT, "žluť".encode()),
        ("", flags.TEXT, b""),
        (b"\x00\xff", flags.BYTES, b"\x00\xff"),
        (0, flags.INT, b"0"),
        (2**64 - 1, flags.INT, b"18446744073709551615"),
    ],
)
def test_plain_values_are_stored_plainly(codec: str | None, value: object, format_id: int, payload: bytes) -> None:
    """str, bytes and counters keep a form that other clients and Memcached's incr understand, whatever the codec."""
    assert _packer(codec).pack(value) == (flags.client_flags(format_id), payload)
    assert _packer(codec).unpack(flags.client_flags(format_id), payload) == value
    assert _packer(codec).unpack(flags.client_flags(format_id, enveloped=True), payload) == value


@pytest.mark.parametrize("value", [True, -1, 2**64, 1.0, None, [1], {"a": "b"}, ("x",), bytearray(b"x")])
def test_other_values_go_to_the_codec(value: object) -> None:
    """Bool is no counter, bytearray is not bytes: everything that is not exactly a plain type keeps its type."""
    number, payload = _packer().pack(value)
    assert flags.format_of(number) == flags.DATA
    back = _packer().unpack(number, payload)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("method", ["zlib", "zstd"])
@pytest.mark.parametrize("value", ["long text " * 1000, [{"a": "long text"}] * 500])
def test_compression(method: str, value: object) -> None:
    """Long payloads shrink, the flags say by what, and both unpack, behind an envelope too."""
    number, payload = _packer(None, Compression(method=method)).pack(value)
    assert flags.compression_of(number) == {"zlib": flags.ZLIB, "zstd": flags.ZSTD}[method]
    assert len(payload) < 2000
    assert _packer().unpack(number, payload) == value
    assert _packer().unpack(number | flags.ENVELOPED, payload) == value


def test_no_compression_where_it_is_not_wanted() -> None:
    """Below the threshold, for bytes below theirs, and with None, payloads stay as they are."""
    assert flags.compression_of(_packer().pack("x" * 2047)[0]) == 0
    assert flags.compression_of(_packer().pack("x" * 2048)[0]) != 0
    assert flags.compression_of(_packer().pack(b"x" * 100_000)[0]) == 0
    assert flags.compression_of(_packer().pack(b"x" * 1_000_000)[0]) != 0
    off = _packer(None, Compression(min_bytes=None, min_raw_bytes=None))
    assert flags.compression_of(off.pack("x" * 3_000_000)[0]) == 0


def test_foreign_bytes_and_stubs() -> None:
    """Flags 0 are another client's bytes, unless there are none: that is a stub, never a value."""
    assert _packer().unpack(0, b"whatever") == b"whatever"
    with pytest.raises(DecodeError, match="stub"):
        _packer().unpack(0, b"")


@pytest.mark.parametrize("number", [1, 2, 16, 0xCA00, 0xCA0F, 0xCA31, 0xCA81, 0xFA01, 2**32 - 1])
def test_unknown_flags(number: int) -> None:
    """Other clients' flags, formats and methods of the future, reserved bits: a DecodeError, never a guess."""
    with pytest.raises(DecodeError):
        _packer().unpack(number, b"\xa1x")


def test_json_is_readable_elsewhere() -> None:
    """codec="json" stores what every language reads."""
    number, payload = _packer("json").pack({"id": 7, "tags": ["a", "ž"]})
    assert flags.format_of(number) == flags.JSON
    assert json.loads(payload) == {"id": 7, "tags": ["a", "ž"]}


def test_readers() -> None:
    """After a change of codec the old values are read where the reader is named, and are a miss where it is not."""
    number, payload = _packer("json").pack([1])
    assert _packer("data", None, resolve("json", registry=Registry())).unpack(number, payload) == [1]
    with pytest.raises(DecodeError):
        _packer("data").unpack(number, payload)


def test_own_codec() -> None:
    """An application's codec gets every value, plain ones too, and its errors become ours."""
    own = _packer(Upper())
    assert own.pack("x") == (flags.client_flags(9), b"X")
    assert own.unpack(flags.client_flags(9), b"X") == "X"
    with pytest.raises(UnencodableError, match="upper"):
        own.pack("ž")
    with pytest.raises(DecodeError, match="upper"):
        own.unpack(flags.client_flags(9), b"\xff")


def test_bad_codecs() -> None:
    """An unknown name, a half codec, a format that is ours: said at once."""
    stolen = Upper()
    stolen.format = flags.DATA
    for bad in ("yaml", "pickle", object(), 5, stolen):
        with pytest.raises(ConfigurationError):
            resolve(bad, registry=Registry())  # type: ignore[arg-type]


def test_resolve() -> None:
    """None and "data" are the default; an object is taken as it is."""
    assert resolve(None, registry=Registry()).name == resolve("data", registry=Registry()).name == "data"
    own = Upper()
    assert resolve(own, registry=Registry()) is own
