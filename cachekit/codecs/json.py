"""JSON for caches that PHP, Ruby or Go read too: strict, so that what is read back equals what was stored (RFC 8259).

Whatever JSON would bend (a tuple, a key that is no text, NaN, bytes, a subclass, an integer that other languages
round) is refused.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import Final, NoReturn

from cachekit.codecs import flags
from cachekit.errors import DecodeError, UnencodableError

MAX_DEPTH: Final = 100
_LEAST: Final = -(2**63)
_LIMIT: Final = 2**64
_dump: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False).encode


class JsonCodec:
    """Carries None, bool, int of 64 bits, finite float, str, list, and dict with str keys; all by exact type."""

    name: str = "json"
    format: int = flags.JSON
    plain: bool = True

    def encode(self, value: object) -> bytes:
        """Compact UTF-8 JSON. Raises UnencodableError, with the path, for what JSON can't carry without loss."""
        _check(value, "$", 0)
        try:
            return _dump(value).encode()
        except UnicodeEncodeError as error:
            raise UnencodableError("text with a surrogate has no UTF-8 form", type_name="str") from error

    def decode(self, payload: bytes) -> object:
        """The value. Raises DecodeError for what is not strict JSON in UTF-8, NaN and Infinity included."""
        try:
            return json.loads(payload.decode(), parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"stored bytes are not JSON: {error}") from error


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _check(value: object, path: str, depth: int) -> None:
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return
    if isinstance(value, int) and kind is int:
        if not _LEAST <= value < _LIMIT:
            _refuse("an integer beyond 64 bits is rounded by other JSON readers", path, kind)
    elif isinstance(value, float) and kind is float:
        if not isfinite(value):
            _refuse("JSON has no NaN and no infinity", path, kind)
    elif depth > MAX_DEPTH:
        _refuse(f"nested deeper than {MAX_DEPTH}, or holding itself,", path, kind)
    elif isinstance(value, list) and kind is list:
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]", depth + 1)
    elif isinstance(value, dict) and kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                _refuse(f"a {type(key).__name__} as a key would come back as text", path, kind)
            _check(item, f"{path}[{key!r}]", depth + 1)
    else:
        _refuse("JSON has no such type", path, kind)


def _refuse(reason: str, path: str, kind: type) -> NoReturn:
    raise UnencodableError(
        f"{reason}: {kind.__module__}.{kind.__qualname__} at {path}; the default codec may carry it",
        type_name=kind.__qualname__,
    )
