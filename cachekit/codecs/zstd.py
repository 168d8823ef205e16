"""zstd, from Python itself (3.14 and later) or from the ``zstandard`` package, under one pair of functions.

A frame must name its unpacked size (RFC 8878, section 3.1.1.1.4) and it must be the expected one: both libraries then
allocate once. Contexts are not thread-safe and cost 10 µs to make, so ``zstandard``'s are kept per thread.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any, Final

LEVEL: Final = 3
_WINDOW_LOG_MAX: Final = 23

Pair = tuple[Callable[[bytes], bytes], Callable[[bytes, int], bytes]]


def find() -> Pair | None:
    """(squeeze, expand) of the zstd that is installed, or None; ``zstandard`` first, it is faster on small values."""
    for name, adapt in (("zstandard", from_zstandard), ("compression.zstd", from_stdlib)):
        try:
            return adapt(importlib.import_module(name))
        except ImportError:
            continue
    return None


def from_zstandard(module: Any) -> Pair:
    """Squeeze and expand by the ``zstandard`` package."""
    local = threading.local()

    def squeeze(payload: bytes) -> bytes:
        try:
            compressor = local.compressor
        except AttributeError:
            compressor = local.compressor = module.ZstdCompressor(level=LEVEL)
        packed: bytes = compressor.compress(payload)
        return packed

    def expand(stream: bytes, size: int) -> bytes:
        try:
            decompressor = local.decompressor
        except AttributeError:
            decompressor = local.decompressor = module.ZstdDecompressor()
        _expect(module.frame_content_size(stream), size)
        out: bytes = decompressor.decompress(stream, max_output_size=size, allow_extra_data=False)
        return out

    return squeeze, expand


def from_stdlib(module: Any) -> Pair:
    """Squeeze and expand by ``compression.zstd``; ``backports.zstd`` has the same interface."""
    options = {module.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}

    def squeeze(payload: bytes) -> bytes:
        packed: bytes = module.compress(payload, LEVEL)
        return packed

    def expand(stream: bytes, size: int) -> bytes:
        _expect(module.get_frame_info(stream).decompressed_size, size)
        decompressor = module.ZstdDecompressor(options=options)
        out: bytes = decompressor.decompress(stream, size + 1)
        if not decompressor.eof or decompressor.unused_data or len(out) != size:
            raise ValueError("the zstd frame is cut short, or bytes follow it")
        return out

    return squeeze, expand


def _expect(named: int | None, size: int) -> None:
    if named != size:
        raise ValueError(f"the zstd frame is for {named} bytes, the value says {size}")
