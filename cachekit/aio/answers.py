"""Where an answer ends, in the bytes of a connection. What it means is not looked at. Pure: no I/O, no loop."""

from __future__ import annotations

from cachekit.errors import ProtocolError
from cachekit.meta import MAX_LINE_BYTES, MAX_VALUE_BYTES

_V = ord("V")


def end_of(data: bytes, at: int, left: int) -> tuple[int, int, int]:
    """Look through the next ``left`` replies in ``data``, the first of which begins at ``at``. This is on every hit's
    way.

    Returns where it came to a stop, how many replies have still to come, and how long ``data`` must be for the next of
    them; the last two are 0 where the answer is whole. Raises ``ProtocolError`` for what can't be followed.
    """
    end, find = len(data), data.find
    while left:
        line_end = find(b"\r\n", at)
        behind = line_end + 2
        if line_end < 0:
            if end - at > MAX_LINE_BYTES:
                raise ProtocolError(f"a line of more than {MAX_LINE_BYTES} bytes")
            return at, left, end + 1
        if data[at] == _V:
            if data.startswith(b"VA ", at):
                space = find(b" ", at + 3, line_end)
                digits = data[at + 3 : space if space > 0 else line_end]
                behind += 2 + (int(digits) if len(digits) < 9 and digits.isdigit() else _size(digits))
            elif data.startswith(b"VALUE ", at):  # a part of what END ends (protocol.txt, Retrieval command)
                behind += 2 + _size_in(data[at:line_end])
                left += behind <= end  # if it is cut short, it is read again
        if behind > end:
            return at, left, behind
        at = behind
        left -= 1
    return at, 0, 0


def _size_in(line: bytes) -> int:
    """The size in a line ``VALUE <key> <flags> <bytes> [<cas unique>]``."""
    return _size(b"".join(line.split(b" ")[3:4]))


def _size(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 9 or int(digits) > MAX_VALUE_BYTES:
        raise ProtocolError("a value without a size that could be meant")
    return int(digits)
