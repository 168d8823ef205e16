"""The readable part of a function's key: any text made into what Memcached accepts, and short."""

from __future__ import annotations

from binascii import b2a_base64
from hashlib import blake2b
from typing import Final

URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_SHORT_DIGEST_CHARS: Final = 12


def printable(text: str) -> str:
    """Percent-encode (RFC 3986, over UTF-8) all but printable ASCII, and the percent sign itself."""
    if text.isascii() and text.isprintable() and " " not in text and "%" not in text:
        return text
    return "".join(chr(byte) if 32 < byte < 127 and byte != 37 else f"%{byte:02X}" for byte in _utf8(text))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def shorten(text: str, limit: int, *, keep_end: bool = False) -> str:
    """Cut printable ASCII text to ``limit`` characters (at least 14), a digest of its own in place of what is lost."""
    if len(text) <= limit:
        return text
    mark = b2a_base64(blake2b(text.encode(), digest_size=9, person=b"cachekit.name").digest(), newline=False)
    short = mark.translate(URL_SAFE).decode()
    room = limit - _SHORT_DIGEST_CHARS - 1
    return f"{short}~{text[-room:]}" if keep_end else f"{text[:room]}~{short}"
