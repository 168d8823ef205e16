"""How deep a value may be, in writing and in reading.

The C library recurses on the machine's stack: 0.6 kB for every list or dict in a list or dict, and about 2 kB for an
ext value that holds a payload of its own. Inside one payload the library stops at 1,023 levels by itself; over
payloads in payloads nobody counts but us. So a reader has a budget of levels, and every nested payload is charged
before it is parsed: first with what it could need at most, which its bytes show without parsing (a level takes a byte
that opens a container). Only a value that seems to exceed its budget so is read once more with the real depth of each
payload, for which they are walked.

Writers stay well inside (half the budget for nested payloads, and 200 levels), so whatever was written can be read.
"""

from __future__ import annotations

import sys
from typing import Final

from cachekit.errors import DecodeError

MAX_NESTED: Final = 64
"""Ext values that hold values (tuple, set, class …), one in the other."""

MAX_LISTS: Final = 200
"""Lists and dicts, one in the other, over all payloads of a value."""

BUDGET: Final = 4096 if sys.platform == "linux" else 1024
"""Levels for nested payloads: 2.3 MB of stack where threads have 8 MiB, 0.6 MB where they may have 1."""

_NEST_COST: Final = BUDGET // 128  # so Python's own recursion limit is not met first
_LIBRARY_LIMIT: Final = 1023
_OPENERS: Final = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])
_LENGTH_BYTES: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED: Final = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
    0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip


class TooDeep(DecodeError):
    """A stored value that would need more stack than it may have."""


def charge(payload: bytes, budget: int, *, exact: bool) -> int:
    """The levels that remain for what ``payload`` holds in ext values of its own.

    payload: MessagePack, not parsed yet. budget: levels that may still be used. exact: by its real depth, not by the
    upper bound.
    Raises TooDeep where the budget does not suffice.
    """
    most = depth_of(payload, budget) if exact else len(payload) - len(payload.translate(None, _OPENERS))
    left = budget - _NEST_COST - min(most, _LIBRARY_LIMIT)
    if left < 0:
        raise TooDeep("a stored value is nested too deep")
    return left


def depth_of(payload: bytes, limit: int) -> int:
    """How deep lists and dicts are nested in one MessagePack payload; limit + 1 as soon as it is deeper than that.

    Ext values count as flat. Damaged payloads give some number: the parser will refuse them.
    """
    open_items: list[int] = []
    deepest = 0
    at, end = 0, len(payload)
    while at < end:
        size, items = _item(payload, at)
        at += size
        if items:
            open_items.append(items)
            deepest = max(deepest, len(open_items))
            if deepest > limit:
                break
            continue
        while open_items:
            open_items[-1] -= 1
            if open_items[-1]:
                break
            open_items.pop()
    return deepest


def _item(payload: bytes, at: int) -> tuple[int, int]:
    """(bytes to step over, items that follow inside) of the item that begins at ``at``."""
    head = payload[at]
    if head < 0x80 or head >= 0xE0:
        return 1, 0
    if head < 0x90:
        return 1, 2 * (head - 0x80)
    if head < 0xA0:
        return 1, head - 0x90
    if head < 0xC0:
        return 1 + head - 0xA0, 0
    if head in _FIXED:
        return 1 + _FIXED[head], 0
    if head in _LENGTH_BYTES:
        width = _LENGTH_BYTES[head]
        length = int.from_bytes(payload[at + 1 : at + 1 + width], "big")
        return 1 + width + length + (1 if 0xC7 <= head <= 0xC9 else 0), 0
    width = 4 if head in (0xDD, 0xDF) else 2
    count = int.from_bytes(payload[at + 1 : at + 1 + width], "big")
    return 1 + width, count * (2 if head >= 0xDE else 1)
