"""Everything that cachekit raises, in one tree.

::

    CacheError
    ├── ConfigurationError (ValueError)     yours: a bad URL, ttl, key, option or combination of them
    ├── UnkeyableError (TypeError)          yours: an argument that has no stable identity
    ├── RequestError (ValueError)           yours: a request that Memcached would refuse or misread
    ├── TooLarge (ValueError)               a value that is longer than the servers take (``max_value``)
    ├── CodecError
    │   ├── UnencodableError (TypeError)    a value that the codec can't carry without loss
    │   └── DecodeError (ValueError)        stored bytes that are not (or no longer) a value
    └── ServerError                         the peer's, or the network's
        ├── Unreachable (ConnectionError)   refused, reset, or marked down
        ├── DeadlineExceeded (TimeoutError) no full reply in time
        ├── ProtocolError                   the reply makes no sense; the connection is closed
        └── Refused                         the server said ERROR, CLIENT_ERROR or SERVER_ERROR

``ConfigurationError``, ``UnkeyableError`` and ``RequestError`` are programmers' errors: they always reach the caller.
The rest is cache trouble. It is counted and told to the hooks; the caller of a cached function never sees it, and the
caller of a direct verb sees it only under ``Cache(on_error="raise")``.
"""

from __future__ import annotations


class CacheError(Exception):
    """The root of the tree. ``server`` and ``key`` say where it happened, where that is known."""

    def __init__(self, message: str, *, server: str | None = None, key: str | None = None) -> None:
        super().__init__(message)
        self.server = server
        self.key = key


class ConfigurationError(CacheError, ValueError):
    """A URL, ttl, key, option, or a combination of them, that can't mean anything."""


class UnkeyableError(CacheError, TypeError):
    """An argument without a stable identity. ``parameter`` names it, ``type_name`` says what it is."""

    def __init__(self, message: str, *, parameter: str | None = None, type_name: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter
        self.type_name = type_name


class RequestError(CacheError, ValueError):
    """A request that Memcached would refuse or misread; it was not sent."""


class TooLarge(CacheError, ValueError):
    """A value that is longer than the servers take; it was not sent. ``max_value`` in the URL says the limit."""


class CodecError(CacheError):
    """A value or payload that the codec can't translate."""


class UnencodableError(CodecError, TypeError):
    """A value that the codec can't carry without loss. ``type_name`` says what stands in the way."""

    def __init__(self, message: str, *, type_name: str | None = None) -> None:
        super().__init__(message)
        self.type_name = type_name


class DecodeError(CodecError, ValueError):
    """Stored bytes that are not, or no longer, a value: garbage, an unknown format, a class that moved."""


class ServerError(CacheError):
    """Trouble with a server or the way to it."""


class Unreachable(ServerError, ConnectionError):
    """The connection was refused or lost, or the server is marked down."""


class DeadlineExceeded(ServerError, TimeoutError):
    """No full reply came within the deadline."""


class ProtocolError(ServerError):
    """The server's bytes make no sense, or answer another request; the connection is closed."""


class Refused(ServerError):
    """The server answered ERROR, CLIENT_ERROR or SERVER_ERROR."""
