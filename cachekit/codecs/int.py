"""Counters are stored as ASCII digits, the one form on which Memcached's own incr and decr work.

protocol.txt, "Increment/Decrement": the value is a 64-bit unsigned integer in decimal; decr pads a number that became
shorter with spaces at its end, so those are read as well.
"""

from __future__ import annotations

from typing import Final

from cachekit.codecs import flags
from cachekit.errors import DecodeError, UnencodableError

LIMIT: Final = 2**64
_LONGEST: Final = 20


class IntCodec:
    """Carries ``int`` from 0 to 2**64 - 1; others go to the data codec."""

    name: str = "int"
    format: int = flags.INT

    def encode(self, value: object) -> bytes:
        """ASCII digits. Raises UnencodableError for another type (bool too) and for numbers that incr can't hold."""
        if type(value) is not int:
            raise UnencodableError(
                f"the int codec carries int only, not {type(value).__name__}", type_name=type(value).__name__
            )
        if not 0 <= value < LIMIT:
            raise UnencodableError("the int codec carries 0 to 2**64 - 1", type_name="int")
        return b"%d" % value

    def decode(self, payload: bytes) -> object:
        """The number. Raises DecodeError for anything but digits and the spaces that decr leaves behind them."""
        digits = payload.rstrip(b" ")
        if not digits.isdigit() or len(digits) > _LONGEST or (number := int(digits)) >= LIMIT:
            raise DecodeError("a stored number is not 1–20 digits below 2**64")
        return number
