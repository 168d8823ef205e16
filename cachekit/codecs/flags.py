"""The client-flag table: the 32-bit number that Memcached keeps beside every value, and what its bits mean here.

::

    bit  15 … 8   7          6          5 4           3 … 0
         0xCA     reserved   enveloped  compression   format

- ``0xCA`` marks cachekit's flags, layout 1. Other clients count from bit 0 (pylibmc, Dalli, PHP) or use ``n << 8`` with
  n ≤ 8 (the Java clients), so their values are told apart from ours and never decoded by mistake.
- Flags 0 are foreign: raw bytes that somebody else wrote. With an empty payload they are a stub, never a value.
- Format 7 is no value but a note to the readers (see ``note``).
- Formats 1–7 are cachekit's, 8–15 are free for codecs of the application.
- Bits 16–31 are 0; so is bit 7 until values are signed.

Numbers here are part of the wire format: they may be added to, never changed.
"""

from __future__ import annotations

from typing import Final

FOREIGN: Final = 0

DATA: Final = 1
JSON: Final = 2
TEXT: Final = 3
BYTES: Final = 4
INT: Final = 5
PICKLE: Final = 6  # reserved
NOTE: Final = 7
FIRST_OWN_FORMAT: Final = 8
LAST_OWN_FORMAT: Final = 15

ZLIB: Final = 1
ZSTD: Final = 2

MARK: Final = 0xCA00
ENVELOPED: Final = 1 << 6
RESERVED: Final = 1 << 7

_FORMAT_NAMES: Final = {
    DATA: "data",
    JSON: "json",
    TEXT: "text",
    BYTES: "bytes",
    INT: "int",
    PICKLE: "pickle",
    NOTE: "note",
}
_NOTE_NAMES: Final = {b"P": "pass marker", b"A": "absent", b"E": "failure"}
_COMPRESSION_NAMES: Final = {0: "", ZLIB: "zlib", ZSTD: "zstd", 3: "compression 3"}


def client_flags(format_id: int, *, compression: int = 0, enveloped: bool = False) -> int:
    """The number to store beside a payload.

    format_id: 1–15. compression: 0, ZLIB or ZSTD. enveloped: whether a header stands before the payload.
    """
    if not 0 < format_id < 16 or not 0 <= compression < 4:
        raise ValueError(f"no client flags for format {format_id}, compression {compression}")
    return MARK | (ENVELOPED if enveloped else 0) | compression << 4 | format_id


def is_ours(flags: int) -> bool:
    """Whether a value with these flags was written by cachekit, in the layout that this version knows."""
    return flags & 0xFFFFFF80 == MARK and flags & 0x0F != 0


def is_enveloped(flags: int) -> bool:
    """Whether a header (see ``envelope``) stands before the payload."""
    return is_ours(flags) and bool(flags & ENVELOPED)


def format_of(flags: int) -> int:
    """The format id, 1–15; 0 for flags that are not ours."""
    return flags & 0x0F if is_ours(flags) else 0


def compression_of(flags: int) -> int:
    """0, ZLIB or ZSTD; 3 is not used yet."""
    return flags >> 4 & 3 if is_ours(flags) else 0


def describe(flags: int, payload: bytes = b"") -> str:
    """What the flags say, in words: for tools and error messages. ``payload``: tells one kind of note from another."""
    if flags == FOREIGN:
        return "foreign bytes"
    if not is_ours(flags):
        return f"unknown client flags {flags:#x}"
    name = _FORMAT_NAMES.get(flags & 0x0F, f"own format {flags & 0x0F}")
    parts = [_NOTE_NAMES.get(payload[:1], name) if flags & 0x0F == NOTE else name, _COMPRESSION_NAMES[flags >> 4 & 3]]
    return ", ".join([part for part in parts if part] + (["enveloped"] if flags & ENVELOPED else []))
