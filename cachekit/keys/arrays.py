"""NumPy arrays and scalars: dtype, shape and content, whatever the order in memory and the machine's byte order."""

from __future__ import annotations

import sys
from hashlib import blake2b
from typing import Any

from cachekit.keys.forms import Encode, Encoder, record, refuse, text

_SIZES = {"f": (2, 4, 8), "c": (8, 16)}  # long doubles differ between machines and have undefined padding
_KINDS = "biufcmMSUV"


def encoder(cls: type) -> Encoder | None:
    """Return the encoder for ``ndarray``, a NumPy scalar type or a dtype, or None. Subclasses of ndarray have none."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if cls is numpy.ndarray:
        return lambda value, inner: record(b"A", _content(numpy, value, value.dtype))
    if issubclass(cls, numpy.generic):
        return lambda value, inner: record(b"n", _content(numpy, numpy.asarray(value), value.dtype))
    if issubclass(cls, numpy.dtype):
        return _dtype
    return None


def _dtype(value: Any, inner: Encode) -> bytes:
    if value.names is not None or value.subdtype is not None or value.kind not in _KINDS:
        raise refuse(value, "is a dtype without a short name")
    return record(b"n", text("dtype"), text(_spelling(value)))


def _spelling(dtype: Any) -> str:
    """Spell a dtype alike on machines of both byte orders, and a swapped one apart."""
    return f"{'native' if dtype.isnative else 'swapped'} {dtype.newbyteorder('<').str}"


def _content(numpy: Any, array: Any, dtype: Any) -> bytes:
    if dtype.names is not None:
        # Field by field: the padding between fields is whatever was in memory.
        fields = (
            part for name in dtype.names for part in (text(name), _content(numpy, array[name], array[name].dtype))
        )
        return record(b"V", text(str(array.shape)), *fields)
    if dtype.kind not in _KINDS or dtype.itemsize not in _SIZES.get(dtype.kind, (dtype.itemsize,)):
        raise refuse(array, f"has dtype {dtype.name}, whose content is not the same everywhere")
    if dtype.kind in "fc" and (array != array).any():
        array = array.copy()
        _one_nan(array.real if dtype.kind == "c" else array)
        if dtype.kind == "c":
            _one_nan(array.imag)
    plain = array.astype(dtype.newbyteorder("<"), copy=False).tobytes()
    return record(b"A", text(_spelling(dtype)), text(str(array.shape)), blake2b(plain, digest_size=32).digest())


def _one_nan(array: Any) -> None:
    array[array != array] = float("nan")
