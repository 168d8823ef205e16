"""Text (a rendered widget, a token) is stored as its UTF-8 bytes: nothing to parse, readable by every other client."""

from __future__ import annotations

from cachekit.codecs import flags
from cachekit.errors import DecodeError, UnencodableError


class TextCodec:
    """Carries ``str`` and nothing else."""

    name: str = "text"
    format: int = flags.TEXT

    def encode(self, value: object) -> bytes:
        """UTF-8. Raises UnencodableError for another type, or for text with surrogates."""
        if type(value) is not str:
            raise UnencodableError(
                f"the text codec carries str only, not {type(value).__name__}", type_name=type(value).__name__
            )
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise UnencodableError(
                f"text with a surrogate at index {error.start} has no UTF-8 form", type_name="str"
            ) from error

    def decode(self, payload: bytes) -> object:
        """The text. Raises DecodeError for bytes that are not UTF-8."""
        try:
            return payload.decode()
        except UnicodeDecodeError as error:
            raise DecodeError(f"stored text is not UTF-8 at byte {error.start}") from error
