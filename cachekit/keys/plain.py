"""The fast path: plain data through ``marshal`` version 2.

Why version 2: it is the last without references (version 3 writes an object met twice as a back reference, so equal
values could differ by object identity) and without interned strings, and the first with binary floats. Each value is
written as a type byte, a length and its content, so the encoding is typed and prefix-free, and it has not changed
since Python 2.5.

Why only after a check by exact type: ``marshal`` alone takes every buffer (bytearray, NumPy array) for bytes and
writes dicts and sets in their accidental order.

NaN is not plain: which of its 2**53 bit patterns a calculation yields differs between machines, and the careful encoder
makes them one.
"""

from __future__ import annotations

import marshal
import struct
from collections.abc import Callable
from typing import Any, Final

VERSION: Final = 2
MAX_DEPTH: Final = 32
"""Deeper nesting goes the careful way, far below the depth of 1 000 to 2 000 where ``marshal`` gives up."""

SCALARS: Final = frozenset({type(None), bool, int, str, bytes})
_FLOATS: Final = frozenset({float, complex})
_SEQUENCES: Final = frozenset({tuple, list})
_PLAIN: Final = SCALARS | _FLOATS | _SEQUENCES


def is_plain(values: tuple[object, ...] | list[object], depth: int = 0) -> bool:
    """Tell whether every element, at every depth, is of a plain type and not NaN."""
    types = set(map(type, values))
    if types <= SCALARS:
        return True
    if not types <= _PLAIN or depth >= MAX_DEPTH:
        return False
    if not types.isdisjoint(_FLOATS) and any(value != value for value in values if type(value) in _FLOATS):
        return False
    if types.isdisjoint(_SEQUENCES):
        return True
    return all(is_plain(value, depth + 1) for value in values if type(value) is tuple or type(value) is list)


def portable_dumps(value: object, version: int = VERSION) -> bytes:
    """Write what ``marshal.dumps(value, 2)`` of CPython writes, for interpreters whose ``marshal`` differs (PyPy)."""
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"T" if value else b"F"
    if isinstance(value, int):
        return _dump_int(value)
    if isinstance(value, float):
        return b"g" + struct.pack("<d", value)
    if isinstance(value, complex):
        return b"y" + struct.pack("<dd", value.real, value.imag)
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        return b"u" + struct.pack("<i", len(text)) + text
    if isinstance(value, bytes):
        return b"s" + struct.pack("<i", len(value)) + value
    if isinstance(value, (tuple, list)):
        head = b"(" if isinstance(value, tuple) else b"["
        return head + struct.pack("<i", len(value)) + b"".join(map(portable_dumps, value))
    raise ValueError("unmarshallable object")


def _dump_int(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"i" + struct.pack("<i", value)
    digits = []
    rest = abs(value)
    while rest:
        digits.append(rest & 0x7FFF)
        rest >>= 15
    count = len(digits) if value > 0 else -len(digits)
    return b"l" + struct.pack(f"<i{len(digits)}H", count, *digits)


_PROBE: Final[tuple[object, ...]] = (
    (None, True, False, 0, -1, 2**31 - 1, -(2**31), 2**31, -(2**31) - 1, 2**63, -(2**75)),
    (1.5, -0.0, 1e300, 2.5j, "", "a", "a", "é\U0001f600\ud800", b"\x00\xff", (), [], ["a", ("b",)]),
)


def choose_dumps(native: Callable[[Any, int], bytes]) -> Callable[[Any, int], bytes]:
    """Trust an interpreter's ``marshal.dumps`` only if it writes the probe exactly as CPython 3.11 does."""
    try:
        return native if native(_PROBE, VERSION) == portable_dumps(_PROBE) else portable_dumps
    except ValueError:
        return portable_dumps


dumps: Final = choose_dumps(marshal.dumps)
"""``dumps(value, VERSION)``: bytes that are equal only for equal plain values of equal types."""
