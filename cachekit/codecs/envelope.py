"""The header before every cached function's value: whose it is, how old, how fresh, and under which generations.

::

    offset  size  field
         0     1  version, 1; 2 where marks stand in it
         1     1  n, number of generations, at least 1
         2     2  header length in bytes: the payload begins there
         4    16  fingerprint: the last 16 characters of the wire key
        20     8  created, ms since 1970
        28     8  ttl in ms; 2**64 - 1 = for ever
        36     8  stale in ms
        44     8  stale_if_error in ms
        52     4  hard end in s, the T that was stored; 0 = never
        56     4  delta in µs: how long the fill ran, capped
        60   8 n  generations, in the order in which they are asked for; one 0 where none is
    60 + 8 n   8  retry in ms: a refresh failed, and before this age nobody tries again; 0 = none did
    68 + 8 n   8  slide in ms: each use lets the value live so much longer; 0 = not at all
    76 + 8 n      version 2: the marks (see ``Mark``); what later versions may add, up to the header length

Retry and slide are left out where both are 0, but not before marks, and read as 0 where the header ends before them.
Who does not know of marks must not serve such an entry, hence their own version.

    2  number of marks; then each:
       1      1: the function named it, 0: a cached call inside of it stood under it
       2 + s  length and name of the server, empty: the entry's own
       1 + k  length and key of the record
       8      generation
       1 + b  length and text of the server's boot mark, empty: its numbers are never used again

All numbers are unsigned and big-endian. One ``HEAD.unpack_from(data)`` reads everything up to the first generation,
which is all that a plain hit needs; nothing of the value is copied or decoded before its header has been judged.
"""

# Annotations are not postponed here: a NamedTuple would compile each of them as text (docs/design/imports.md).

import re
import struct
from typing import Final, NamedTuple

from cachekit.errors import DecodeError

VERSION: Final = 1
MARKED: Final = 2
MAX_MARKS: Final = 128
FOREVER: Final = 2**64 - 1
MAX_GENERATIONS: Final = 255
FINGERPRINT_BYTES: Final = 16

HEAD: Final = struct.Struct(">BBH16sQQQQIIQ")
"""version, n, header length, fingerprint, created, ttl, stale, stale_if_error, hard, delta, first generation."""

_FIXED: Final = HEAD.size - 8
_MORE: Final = struct.Struct(">QQ")
_U32_MAX: Final = 2**32 - 1
_KEY: Final = re.compile(rb"[^\x00-\x20\x7f]{1,250}").fullmatch
"""What may be asked for: what stands in a mark goes out on the wire."""


class Mark(NamedTuple):
    """A generation that an entry stands under beside those that are asked with every read of it.

    ``server`` is the name of the server whose copy it is, empty for the entry's own. ``key``: the record's wire key.
    ``named``: a tag that the function named while it ran; else one that a cached call inside of it stood under.
    ``boot``: what tells that server's numbers from those that it gives after a restart.
    """

    server: str
    key: bytes
    number: int
    named: bool = False
    boot: bytes = b""


class Header(NamedTuple):
    """What a cached value is judged by. Times end in their unit."""

    fingerprint: bytes
    created_ms: int
    ttl_ms: int = FOREVER
    stale_ms: int = 0
    stale_if_error_ms: int = 0
    hard_s: int = 0
    delta_us: int = 0
    generations: tuple[int, ...] = (0,)
    retry_ms: int = 0
    slide_ms: int = 0
    marks: tuple[Mark, ...] = ()


def fingerprint(key: bytes) -> bytes:
    """The 16 bytes that tie a value to its key: the end of the key's digest, 96 bits of BLAKE2b.

    key: the wire key, at least 16 bytes.
    """
    return key[-FINGERPRINT_BYTES:]


def seal(header: Header, payload: bytes) -> bytes:
    """The bytes to store: header, then payload.

    header: 1–255 generations, at most 128 marks; ``delta_us`` is capped, every other number must fit its field.
    payload: as a ``Packer`` made it.
    Raises ValueError for a header that can't be written.
    """
    own, created_ms, ttl_ms, stale_ms, stale_if_error_ms, hard_s, delta_us, generations, retry_ms, slide_ms, marks = (
        header
    )
    count = len(generations)
    if len(own) != FINGERPRINT_BYTES or not 0 < count <= MAX_GENERATIONS:
        raise ValueError(f"a header needs a fingerprint of 16 bytes and 1–255 generations: {header!r}")
    numbers = (created_ms, ttl_ms, stale_ms, stale_if_error_ms, hard_s, min(delta_us, _U32_MAX), generations[0])
    try:
        more = _MORE.pack(retry_ms, slide_ms) if retry_ms or slide_ms or marks else b""
        if marks:
            more += _marks(marks)
        head = HEAD.pack(MARKED if marks else VERSION, count, _FIXED + 8 * count + len(more), own, *numbers)
        return head + struct.Struct(f">{count - 1}Q").pack(*generations[1:]) + more + payload
    except struct.error as error:
        raise ValueError(f"a number in the header does not fit its field: {header!r}") from error


def seal_one(
    own: bytes, created_ms: int, ttl_ms: int, hard_s: int, delta_us: int, generation: int, payload: bytes
) -> bytes:
    """What ``seal`` returns for a header with one generation and nothing stale: every plain miss makes one."""
    if delta_us > _U32_MAX:
        delta_us = _U32_MAX
    return HEAD.pack(VERSION, 1, HEAD.size, own, created_ms, ttl_ms, 0, 0, hard_s, delta_us, generation) + payload


def open_envelope(data: bytes) -> tuple[Header, int]:
    """The header, and the offset at which the payload begins.

    data: a stored value whose client flags have the enveloped bit.
    Raises DecodeError for bytes that are no header of a known version.
    """
    if len(data) < HEAD.size:
        raise DecodeError(f"an envelope of {len(data)} bytes is cut short; it takes at least {HEAD.size}")
    version, count, length, own, created, ttl, stale, if_error, hard, delta, first = HEAD.unpack_from(data)
    if version not in (VERSION, MARKED):
        raise DecodeError(f"envelope version {version} is not known; this cachekit reads 1 and 2")
    if not count or not _FIXED + 8 * count <= length <= len(data):
        raise DecodeError(f"an envelope with {count} generations can't have {length} of {len(data)} bytes")
    generations: tuple[int, ...] = (first,)
    if count > 1:
        generations += struct.Struct(f">{count - 1}Q").unpack_from(data, HEAD.size)
    more = _FIXED + 8 * count
    retry, slide = _MORE.unpack_from(data, more) if length >= more + _MORE.size else (0, 0)
    marks = _read_marks(data, more + _MORE.size, length) if version == MARKED else ()
    return Header(own, created, ttl, stale, if_error, hard, delta, generations, retry, slide, marks), length


def _marks(marks: tuple[Mark, ...]) -> bytes:
    if len(marks) > MAX_MARKS:
        raise ValueError(f"{len(marks)} marks in a header; at most {MAX_MARKS}")
    parts = [struct.pack(">H", len(marks))]
    for mark in marks:
        server = mark.server.encode()
        parts += [struct.pack(">BH", mark.named, len(server)), server]
        parts += [struct.pack(">B", len(mark.key)), mark.key]
        parts += [struct.pack(">QB", mark.number, len(mark.boot)), mark.boot]
    return b"".join(parts)


def _read_marks(data: bytes, at: int, end: int) -> tuple[Mark, ...]:
    """The marks in ``data`` from ``at`` on, all of them before ``end``. Raises ``DecodeError``."""

    def take(size: int) -> bytes:
        nonlocal at
        at += size
        if at > end:
            raise DecodeError("an envelope whose marks are cut short")
        return data[at - size : at]

    def number(size: int) -> int:
        return int.from_bytes(take(size), "big")

    found = []
    for _ in range(number(2)):
        named = number(1) == 1
        try:
            server = take(number(2)).decode()
        except UnicodeDecodeError:
            raise DecodeError("an envelope with a mark of a server without a name") from None
        key = take(number(1))
        if not _KEY(key):
            raise DecodeError("an envelope with a mark under no key")
        found.append(Mark(server, key, number(8), named, take(number(1))))
    if not found:
        raise DecodeError("an envelope of version 2 without marks")
    return tuple(found)
