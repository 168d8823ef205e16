"""What Memcached accepts as a key.

protocol.txt, "Keys": at most 250 bytes, no control characters, no whitespace. A key that breaks this is read as the end
of a command line, and what follows it is executed, so nothing unchecked may pass. We are stricter: printable ASCII
only, which is what every client of every language can name and every tool can print.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from cachekit.errors import ConfigurationError, RequestError
from cachekit.types import Key

MAX_KEY_BYTES: Final = 250
MAX_PREFIX_BYTES: Final = 80


def wire_key(prefix: bytes, key: str) -> bytes:
    """Return the bytes that stand for a direct verb's key on the wire.

    ``prefix`` is the cache's prefix as ``check_prefix`` returned it, without the colon; it is put before every string
    but a ``Key``. Raises ``RequestError`` for a key that is empty, longer than 250 bytes with its prefix, or holds
    anything but printable ASCII without spaces.
    """
    if type(key) is str and key.isascii() and key.isprintable() and key and " " not in key:
        wire = prefix + b":" + key.encode() if prefix else key.encode()
        if len(wire) <= MAX_KEY_BYTES:
            return wire
    return _check_rare(prefix, key)


_KEYS = re.compile(r"(?:[!-~]+\n)+").fullmatch


def wire_keys(prefix: bytes, keys: Sequence[str]) -> list[bytes]:
    """Return ``wire_key`` of every key, in order; many good keys are checked at once. Raises ``RequestError``."""
    if all(type(key) is str for key in keys):
        text = "\n".join(keys) + "\n"
        if _KEYS(text):
            head = prefix + b":" if prefix else b""
            wires = [head + key for key in text[:-1].encode().split(b"\n")]
            if len(wires) == len(keys) and len(max(wires, key=len)) <= MAX_KEY_BYTES:
                return wires
    return [wire_key(prefix, key) for key in keys]


def _check_rare(prefix: bytes, key: str) -> bytes:
    """Take the way of a ``Key`` or another subclass of str, and of every key that must be refused."""
    if not isinstance(key, str):
        raise RequestError(f"a key is text, not {type(key).__name__}")
    text = str.__str__(key)
    if not text:
        raise RequestError("a key can't be empty")
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise RequestError(
            "a key holds printable ASCII without spaces, because Memcached reads anything else as the end of the key; "
            "percent-encode it, or hash it"
        )
    wire = prefix + b":" + text.encode() if prefix and not isinstance(key, Key) else text.encode()
    if len(wire) > MAX_KEY_BYTES:
        raise RequestError(f"a key has at most {MAX_KEY_BYTES} bytes with its prefix, this one has {len(wire)}")
    return wire


def check_prefix(prefix: str) -> bytes:
    """Return an application's prefix as bytes; empty means none.

    Raises ``ConfigurationError`` for more than 80 bytes, anything but printable ASCII, spaces, and colons: with a colon
    inside, prefix "a" with key "b:c" would be prefix "a:b" with key "c", and two applications would share an entry.
    """
    if not isinstance(prefix, str):
        raise ConfigurationError(f"prefix= is text, not {type(prefix).__name__}")
    if not prefix:
        return b""
    if not (prefix.isascii() and prefix.isprintable()) or " " in prefix or ":" in prefix:
        raise ConfigurationError(
            f"prefix={prefix!r}: printable ASCII without spaces and colons only; '.', '-', '_' and '/' may divide it"
        )
    if len(prefix) > MAX_PREFIX_BYTES:
        raise ConfigurationError(f"prefix= has at most {MAX_PREFIX_BYTES} bytes, this one has {len(prefix)}")
    return prefix.encode()
