"""Bytes are stored as they are. The same codec reads what other clients left under flags 0."""

from __future__ import annotations

from cachekit.codecs import flags
from cachekit.errors import UnencodableError


class BytesCodec:
    """Carries ``bytes`` and nothing else; a bytearray is another type and goes to the data codec."""

    name: str = "bytes"
    format: int = flags.BYTES

    def encode(self, value: object) -> bytes:
        """The same object. Raises UnencodableError for another type."""
        if type(value) is not bytes:
            raise UnencodableError(
                f"the bytes codec carries bytes only, not {type(value).__name__}", type_name=type(value).__name__
            )
        return value

    def decode(self, payload: bytes) -> object:
        """The payload itself."""
        return bytes(payload)
