"""Compression above a threshold, and unpacking that can't be made to eat memory.

A packed payload is ``u32 unpacked size | stream``. The size is checked against the cap before anything is unpacked,
and the stream may yield exactly that many bytes: a bomb that tells the truth is refused at once, one that lies is cut
off at the size it gave. zstd frames must name the same size in their own header, so that the C library allocates once
and never more.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from struct import Struct
from typing import Final

from cachekit.codecs import flags, zstd
from cachekit.errors import ConfigurationError, DecodeError
from cachekit.frozen import Frozen

_SIZE: Final = Struct(">I")

Method = tuple[Callable[[bytes], bytes], Callable[[bytes, int], bytes]]
"""(squeeze, expand); expand takes a stream and the size that it must have, and raises for anything else."""


class Compression(Frozen):
    """When to compress, and how much a stored value may unpack to.

    min_bytes: payloads of at least that many bytes are compressed; None: never.
    min_raw_bytes: the same for values that are ``bytes`` already: mostly images or packed data, so by default only
    where the item limit of a server (1 MiB) comes near.
    method: "zstd", "zlib", or "auto": zstd where there is one.
    max_unpacked_bytes: what a stored value may unpack to; more is a DecodeError.
    """

    min_bytes: int | None = 2048
    min_raw_bytes: int | None = 1_000_000
    method: str = "auto"
    max_unpacked_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        if self.method not in ("auto", "zstd", "zlib"):
            raise ConfigurationError(f"compression method {self.method!r} is none of auto, zstd, zlib")
        if not 0 < self.max_unpacked_bytes < 1 << 32:
            raise ConfigurationError("max_unpacked_bytes must be between 1 and 2**32 - 1")
        if self.method == "zstd" and installed(flags.ZSTD) is None:
            raise ConfigurationError(
                "compression method 'zstd' needs Python 3.14 or the extra cachekit-memcached[zstd]"
            )

    def threshold(self, format_id: int) -> int | None:
        """From how many bytes on a payload of this format is compressed; None: never."""
        return self.min_raw_bytes if format_id == flags.BYTES else self.min_bytes

    def writer(self) -> int:
        """The method that new values are compressed with: flags.ZLIB or flags.ZSTD."""
        return flags.ZSTD if self.method != "zlib" and installed(flags.ZSTD) is not None else flags.ZLIB


def squeeze(payload: bytes, method: int, *, limit: int) -> bytes | None:
    """The packed payload, or None where that would not be smaller, or could not be read back under ``limit`` bytes."""
    known = installed(method)
    if known is None or len(payload) > limit:
        return None
    packed = known[0](payload)
    return _SIZE.pack(len(payload)) + packed if len(packed) + _SIZE.size < len(payload) else None


def expand(packed: bytes, method: int, *, limit: int) -> bytes:
    """What was squeezed. A bomb costs at most twice ``limit`` in memory: zlib's buffer grows, and is then joined.

    method: flags.ZLIB or flags.ZSTD.
    Raises DecodeError for damaged streams, sizes over ``limit``, and a method that is not installed here.
    """
    known = installed(method)
    if known is None:
        raise DecodeError("a value was compressed with zstd, and this process has none: cachekit-memcached[zstd]")
    if len(packed) < _SIZE.size:
        raise DecodeError("a compressed value is cut short")
    size: int = _SIZE.unpack_from(packed)[0]
    if size > limit:
        raise DecodeError(f"a compressed value would unpack to {size} bytes; the limit is {limit}")
    try:
        return known[1](packed[_SIZE.size :], size)
    except DecodeError:
        raise
    except Exception as error:  # each library has an error tree of its own
        raise DecodeError(f"a compressed value is damaged: {error}") from error


def _zlib_squeeze(payload: bytes) -> bytes:
    return zlib.compress(payload, 1)


def _zlib_expand(stream: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj()
    out = inflater.decompress(stream, size + 1)  # never more than one byte too many
    if len(out) != size or not inflater.eof or inflater.unused_data:
        raise DecodeError(f"a compressed value says {size} bytes and is not that")
    return out


METHODS: Final[dict[int, Method | None]] = {flags.ZLIB: (_zlib_squeeze, _zlib_expand)}
"""What this process can compress and unpack with, as far as it was asked for; None: looked for and not installed."""


def installed(method: int) -> Method | None:
    """The functions of a method. zstd is looked for when it is needed first: it takes 3 ms to load."""
    if method not in METHODS and method == flags.ZSTD:
        METHODS[method] = zstd.find()
    return METHODS.get(method)
