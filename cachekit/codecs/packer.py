"""From a value to (client flags, payload) and back: which format, and whether compressed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Protocol, runtime_checkable

from cachekit.codecs import flags
from cachekit.codecs.bytes import BytesCodec
from cachekit.codecs.compress import Compression, expand, squeeze
from cachekit.codecs.int import LIMIT, IntCodec
from cachekit.codecs.registry import Registry
from cachekit.codecs.text import TextCodec
from cachekit.errors import CodecError, ConfigurationError, DecodeError, UnencodableError


@runtime_checkable
class Codec(Protocol):
    """One format: a value to bytes and back.

    name: for people. format: its id in the client flags, 8–15 for an application's own.
    ``encode`` raises UnencodableError, ``decode`` raises DecodeError. A codec whose ``plain`` is true leaves str,
    bytes and counters to their plain formats; without the attribute it gets every value.
    """

    @property
    def name(self) -> str: ...
    @property
    def format(self) -> int: ...
    def encode(self, value: object) -> bytes: ...
    def decode(self, payload: bytes) -> object: ...


def resolve(codec: str | Codec | None, *, returns: object = None, registry: Registry) -> Codec:
    """The codec that an option means.

    codec: None or "data", "json", or an object with the methods of ``Codec`` and a format of 8–15.
    returns: the return annotation (or ``returns_of(function)``): its classes may be stored. registry: the cache's.
    Raises ConfigurationError for anything else.
    """
    # Here and not above: ormsgpack loads dataclasses, and with them inspect, 8 ms; and a process uses one of the two.
    if codec is None or codec == "data":
        from cachekit.codecs.data import DataCodec  # noqa: PLC0415

        return DataCodec(registry, returns)
    if codec == "json":
        from cachekit.codecs.json import JsonCodec  # noqa: PLC0415

        return JsonCodec()
    if isinstance(codec, str) or not isinstance(codec, Codec):
        raise ConfigurationError(
            f"codec {codec!r} is neither 'data', 'json' nor an object with name, format, encode and decode"
        )
    own = any(cls.__module__.startswith("cachekit.codecs.") for cls in type(codec).__mro__ if cls is not Codec)
    if not own and not flags.FIRST_OWN_FORMAT <= codec.format <= flags.LAST_OWN_FORMAT:
        raise ConfigurationError(f"codec {codec.name!r}: its format must be 8 to 15, not {codec.format}")
    return codec


_PLAIN: Final = (TextCodec(), BytesCodec(), IntCodec())
_TEXT_FLAGS: Final = flags.client_flags(flags.TEXT)
_BYTES_FLAGS: Final = flags.client_flags(flags.BYTES)
_INT_FLAGS: Final = flags.client_flags(flags.INT)


class Packer:
    """Packs with one codec and unpacks its formats; holds no state, so threads may share it.

    codec: as ``resolve`` gave it. compression: when, how, and how far to unpack. readers: further codecs whose values
    are read but not written, say after a change of codec.
    """

    def __init__(self, codec: Codec, compression: Compression | None = None, *, readers: Iterable[Codec] = ()) -> None:
        self.codec = codec
        self.compression = compression if compression is not None else Compression()
        thresholds = [self.compression.threshold(each) for each in range(1, 16)]
        self._small = min((each for each in thresholds if each is not None), default=0)  # never compressed below that
        self._plain = bool(getattr(codec, "plain", False))
        self._flags = flags.client_flags(codec.format)
        self._encode = _guarded_encode(codec)
        self._decoders: dict[int, Callable[[bytes], object]] = {flags.FOREIGN: _foreign}
        for reader in (*readers, *_PLAIN, codec):
            self._add_reader(reader)

    def _add_reader(self, codec: Codec) -> None:
        decode = _guarded_decode(codec)
        limit = self.compression.max_unpacked_bytes
        for enveloped in (False, True):
            self._decoders[flags.client_flags(codec.format, enveloped=enveloped)] = decode
            for method in (flags.ZLIB, flags.ZSTD):
                number = flags.client_flags(codec.format, compression=method, enveloped=enveloped)
                self._decoders[number] = partial(_expand_and_decode, decode, method, limit)

    def pack(self, value: object) -> tuple[int, bytes]:
        """(client flags, payload). The caller checks the size, and adds the enveloped bit where he puts a header.

        Raises UnencodableError for a value that the codec can't carry without loss.
        """
        number, payload = self._plain_form(value) if self._plain else (self._flags, self._encode(value))
        if len(payload) < self._small:
            return number, payload
        threshold = self.compression.threshold(number & 0x0F)
        if threshold is None or len(payload) < threshold:
            return number, payload
        return self._compressed(number, payload)

    def _plain_form(self, value: object) -> tuple[int, bytes]:
        kind = type(value)
        if isinstance(value, bytes) and kind is bytes:
            return _BYTES_FLAGS, value
        if kind is str:
            return _TEXT_FLAGS, _PLAIN[0].encode(value)
        if isinstance(value, int) and kind is int and 0 <= value < LIMIT:
            return _INT_FLAGS, _PLAIN[2].encode(value)
        return self._flags, self._encode(value)

    def _compressed(self, number: int, payload: bytes) -> tuple[int, bytes]:
        method = self.compression.writer()
        packed = squeeze(payload, method, limit=self.compression.max_unpacked_bytes)
        return (number, payload) if packed is None else (number | method << 4, packed)

    def unpack(self, client_flags: int, payload: bytes) -> object:
        """The value.

        client_flags: as stored. payload: what was stored, without the header if the enveloped bit is set.
        Raises DecodeError for unknown flags, garbage, a class that is not known here, or a stub.
        """
        return self.decoder(client_flags)(payload)

    def decoder(self, client_flags: int) -> Callable[[bytes], object]:
        """What ``unpack`` does to payloads under ``client_flags``, for whoever has many of them.

        Raises DecodeError for unknown flags.
        """
        decode = self._decoders.get(client_flags)
        if decode is None:
            raise DecodeError(f"no way to read a value of {flags.describe(client_flags)} here")
        return decode


def _foreign(payload: bytes) -> bytes:
    if not payload:
        raise DecodeError("a stub is not a value")
    return payload


def _expand_and_decode(decode: Callable[[bytes], object], method: int, limit: int, payload: bytes) -> object:
    return decode(expand(payload, method, limit=limit))


def _guarded_decode(codec: Codec) -> Callable[[bytes], object]:
    """The codecs of cachekit raise DecodeError only; an application's may raise anything."""
    if type(codec).__module__.startswith("cachekit."):
        return codec.decode

    def decode(payload: bytes) -> object:
        try:
            return codec.decode(payload)
        except CodecError:
            raise
        except Exception as error:
            raise DecodeError(f"codec {codec.name!r} could not decode a value: {error}") from error

    return decode


def _guarded_encode(codec: Codec) -> Callable[[object], bytes]:
    if type(codec).__module__.startswith("cachekit."):
        return codec.encode

    def encode(value: object) -> bytes:
        try:
            return codec.encode(value)
        except CodecError:
            raise
        except Exception as error:
            kind = type(value).__qualname__
            raise UnencodableError(
                f"codec {codec.name!r} could not encode a {kind}: {error}", type_name=kind
            ) from error

    return encode
