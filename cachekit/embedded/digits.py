"""Numbers on a command line, read the way Memcached reads them: with C's strtol and strtoul, and their quirks.

Leading white space and a sign are taken, the number ends at white space or at the end of the token, and what does not
fit into 32 bits is cut off without a word (1.6.18 reads a ttl of 2**32 + 100 as 100 seconds).
"""

from __future__ import annotations

import re

_NUMBER = re.compile(rb"[ \t-\r]*([+-]?)(\d+)(?=[ \t-\r\0]|\Z)").match

UINT64 = 2**64


def int32(text: bytes) -> int | None:
    """A signed number, cut to 32 bits; None if it is not one."""
    if text.isdigit() and len(text) < 10:  # the usual case, without the regular expression
        return int(text)
    read = _read(text)
    if read is None or not -(2**63) <= read < 2**63:
        return None
    return (read + 2**31) % 2**32 - 2**31


def uint32(text: bytes) -> int | None:
    """An unsigned number, cut to 32 bits; None if it is not one."""
    read = uint64(text)
    return None if read is None else read % 2**32


def uint64(text: bytes) -> int | None:
    """An unsigned 64-bit number; None if it is not one, or negative, or too large."""
    read = _read(text)
    if read is None or not -UINT64 < read < UINT64:
        return None
    # strtoull negates modulo 2**64; the server refuses what then looks negative as a signed number, if there is a
    # minus.
    wrapped = read % UINT64
    return None if wrapped >= 2**63 and b"-" in text else wrapped


def _read(text: bytes) -> int | None:
    found = _NUMBER(text)
    if found is None or len(found[2]) > 40:
        return None
    return -int(found[2]) if found[1] == b"-" else int(found[2])
