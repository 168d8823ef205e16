"""Memcached's meta protocol without I/O: requests to bytes, bytes to replies.

The reference is ``doc/protocol.txt`` of Memcached 1.6.18; a comment "protocol.txt, *Section*" stands at the line that
obeys it. Nothing here knows a socket, a clock or a ring.

**Requests.** ``mg ms md ma me mn get gets`` return one complete command. What would be misread by the server never
leaves: a key over 250 bytes or with a space or control byte in it ends one command and begins the next one, and a
refused ``set`` has its *value* executed as commands. So keys and flags are matched against what may stand on a command
line, whole, before a byte is built; numbers come from ``number()``, which takes only ints, and opaque tokens from
``opaque()``.

**Replies.** ``Parser.feed`` takes whatever the socket gave, cut anywhere, and returns the replies that are complete. It
keeps no more than one unfinished reply, whose line and value are bounded. A line that makes no sense raises
``ProtocolError``; since it can't be known where the next reply begins, the parser is dead from then on and its
connection has to be closed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from .errors import ProtocolError, RequestError

MAX_KEY_BYTES: Final = 250
MAX_OPAQUE_BYTES: Final = 31
MAX_LINE_BYTES: Final = 8192
MAX_VALUE_BYTES: Final = 128 << 20

# ------------------------------------------------------------------------------------------------------------- requests

# protocol.txt, *Keys*: at most 250 bytes, "must not include control characters or whitespace". Bytes from 0x80 are
# legal.
_KEY = re.compile(rb"[!-~\x80-\xff]{1,250}").fullmatch

# The flags that this library may send, each with the only token that may follow it: *Meta Get*, *Meta Set*, *Meta
# Delete*, *Meta Arithmetic*. The server ignores P and L and would take them from anyone, so they are left out; S is
# 1.6.0's.
_FLAGS = re.compile(
    rb"(?:(?:[bcfhkqstuvIlx]|[TNR]-?\d{1,10}|F\d{1,10}|[CEDJ]\d{1,20}|M[EAPRSID+-]|O[!-~\x80-\xff]{1,31})(?: |\Z))*"
).fullmatch

_OPAQUE = re.compile(rb"[!-~\x80-\xff]{1,31}").fullmatch

_INT32: Final = (-(2**31), 2**31 - 1)
_UINT64: Final = (0, 2**64 - 1)

# protocol.txt, *Expiration times* (32-bit), *Meta Set* F ("32 bit unsigned numeric"), *Meta Arithmetic* (unsigned
# 64-bit).
_RANGES: Final[dict[str, tuple[int, int]]] = {
    "T": _INT32,
    "N": _INT32,
    "R": _INT32,
    "F": (0, 2**32 - 1),
    "C": _UINT64,
    "E": _UINT64,
    "D": _UINT64,
    "J": _UINT64,
}


def number(letter: str, value: int) -> bytes:
    """A flag with a number in it, such as ``number("T", 30)`` → ``b"T30"``.

    letter: T, N, R (seconds, or a Unix time beyond 30 days), C, E (a CAS number), F (client flags), D, J (a count).
    Raises RequestError for anything but an int within the flag's range: 1.6.18 itself wraps 2**32 + 100 to 100 seconds.
    """
    low, high = _RANGES[letter]
    if type(value) is not int or not low <= value <= high:
        raise RequestError(f"{letter} takes an int from {low} to {high}, not {value!r:.100}")
    return b"%b%d" % (letter.encode(), value)


def opaque(token: int | bytes) -> bytes:
    """The O flag: a token of at most 31 bytes, or a number ≥ 0, that the reply repeats."""
    if type(token) is int and token >= 0:
        token = b"%d" % token
    if type(token) is not bytes or not _OPAQUE(token):
        raise RequestError(f"an opaque token is 1 to 31 printable bytes without a space, not {token!r:.100}")
    return b"O" + token


def check_key(key: bytes) -> bytes:
    """The key itself, if Memcached can take it: 1 to 250 bytes, no space, no control byte. Else RequestError."""
    if type(key) is not bytes or not _KEY(key):
        raise _bad_key(key)
    return key


def mg(key: bytes, flags: bytes = b"") -> bytes:
    """Meta get. flags: separated by single spaces, e.g. ``b"v c t f O12 N30"``. Raises RequestError."""
    if type(key) is not bytes or not _KEY(key):
        raise _bad_key(key)
    if type(flags) is not bytes or not _FLAGS(flags):
        raise _bad_flags(flags)
    return b"mg %b %b\r\n" % (key, flags)


def ms(key: bytes, data: bytes | bytearray | memoryview, flags: bytes = b"") -> bytes:
    """Meta set of ``data``; the length on the command line is always the data's own. Raises RequestError."""
    if type(key) is not bytes or not _KEY(key):
        raise _bad_key(key)
    if type(flags) is not bytes or not _FLAGS(flags):
        raise _bad_flags(flags)
    if type(data) is not bytes:
        # bytes(7) is seven zero bytes, so a number must not slip through here.
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise RequestError(f"a value on the wire is bytes, not {type(data).__name__}")
        data = bytes(data)
    return b"ms %b %d %b\r\n%b\r\n" % (key, len(data), flags, data)


def md(key: bytes, flags: bytes = b"") -> bytes:
    """Meta delete; with the I flag, mark as stale. Raises RequestError."""
    return _line(b"md", key, flags)


def ma(key: bytes, flags: bytes = b"") -> bytes:
    """Meta arithmetic: increment, or with MD decrement, by ``number("D", …)`` or 1. Raises RequestError."""
    return _line(b"ma", key, flags)


def me(key: bytes) -> bytes:
    """Meta debug: what the server knows about an item; changes nothing, hands out no W. Raises RequestError."""
    return b"me %b\r\n" % check_key(key)


def mn() -> bytes:
    """Meta no-op: answered by MN, once everything sent before it has been answered (protocol.txt, *Meta No-Op*)."""
    return b"mn\r\n"


def get(keys: Iterable[bytes]) -> bytes:
    """The classic multi-key get, answered by VALUEs and one END. It leaves the W of a stub alone. Raises
    RequestError.
    """
    return _keys(b"get", keys)


def gets(keys: Iterable[bytes]) -> bytes:
    """The classic multi-key get that also tells the CAS numbers. It leaves the W of a stub alone. Raises
    RequestError.
    """
    return _keys(b"gets", keys)


def _line(command: bytes, key: bytes, flags: bytes) -> bytes:
    check_key(key)
    if type(flags) is not bytes or not _FLAGS(flags):
        raise _bad_flags(flags)
    return b"%b %b %b\r\n" % (command, key, flags)


def _keys(command: bytes, keys: Iterable[bytes]) -> bytes:
    # A lone bytes object is an iterable of ints; it would ask for keys nobody meant.
    checked = [check_key(key) for key in keys] if not isinstance(keys, (bytes, str)) else []
    if not checked:
        raise RequestError(f"{command.decode()} needs a sequence of keys")
    return b"%b %b\r\n" % (command, b" ".join(checked))


def _bad_key(key: object) -> RequestError:
    if type(key) is not bytes:
        return RequestError(f"a key on the wire is bytes, not {type(key).__name__}")
    if len(key) > MAX_KEY_BYTES:
        return RequestError(f"a key has at most {MAX_KEY_BYTES} bytes, this one {len(key)}: {key!r:.100}")
    return RequestError(f"a key has no spaces or control bytes and is not empty: {key!r:.300}")


def _bad_flags(flags: object) -> RequestError:
    return RequestError(f"not a list of meta flags: {flags!r:.200}")


# -------------------------------------------------------------------------------------------------------------- replies


class Reply:
    """One reply of the server. What the reply did not say is None or False.

    code: "VA HD EN NF NS EX MN ME" of the meta commands, "VALUE END STORED NOT_STORED EXISTS NOT_FOUND DELETED TOUCHED
    OK NUMBER VERSION STAT RESET" of the classic ones ("NUMBER" is the line that answers incr and decr), or "ERROR",
    whose whole line is ``error``. ``ttl`` is in whole seconds, -1 = never expires; ``size`` in bytes; ``idle_s``
    seconds since the last access. ``won`` is W, ``claimed`` Z, ``stale`` X. ``value`` of ME is the text behind the key,
    of STAT what stands behind the name.
    """

    __slots__ = (  # noqa: RUF023 - in the order in which they are shown
        "code", "value", "key", "cas", "ttl", "client_flags", "opaque", "won", "claimed", "stale", "error", "size",
        "fetched", "idle_s",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 - a reply may bear as many flags
        self,
        code: str,
        value: bytes | None = None,
        key: bytes | None = None,
        cas: int | None = None,
        ttl: int | None = None,
        client_flags: int | None = None,
        opaque: bytes | None = None,
        won: bool = False,
        claimed: bool = False,
        stale: bool = False,
        error: str | None = None,
        size: int | None = None,
        fetched: bool | None = None,
        idle_s: int | None = None,
    ) -> None:
        self.code = code
        self.value = value
        self.key = key
        self.cas = cas
        self.ttl = ttl
        self.client_flags = client_flags
        self.opaque = opaque
        self.won = won
        self.claimed = claimed
        self.stale = stale
        self.error = error
        self.size = size
        self.fetched = fetched
        self.idle_s = idle_s

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reply):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # the parser changes it

    def __repr__(self) -> str:
        said = {name: getattr(self, name) for name in self.__slots__[1:]}
        shown = [f"{name}={value!r:.80}" for name, value in said.items() if value is not None and value is not False]
        return f"Reply({', '.join([self.code, *shown])})"


_O, _C, _T, _F, _S, _K, _H, _L = b"Octfskhl"
_W, _Z, _X = b"WZX"


def _meta(code: str, words: list[bytes], start: int) -> Reply:
    """The flags of a meta reply: protocol.txt, *Meta Get*: "added in order specified by the flags sent"."""
    key = opaque = cas = ttl = client_flags = size = fetched = idle_s = None
    won = claimed = stale = False
    for word in words[start:]:
        # The most frequent first: this loop is on every hit's way. int() is laxer than the protocol ("+1", "1_0"),
        # which is of no consequence here, since any digits are as good as any others; a length is read by _natural(),
        # a CAS number by _cas().
        letter = word[0] if word else 0
        if letter == _O:
            opaque = word[1:]
        elif letter == _C:
            cas = _cas(word[1:])
        elif letter == _T:
            ttl = int(word[1:])  # "-1 for unlimited"
        elif letter == _F:
            client_flags = int(word[1:])
        elif letter == _S:
            size = int(word[1:])
        elif letter == _W:
            won = True
        elif letter == _Z:
            claimed = True
        elif letter == _X:
            stale = True
        elif letter == _K:
            key = word[1:]
        elif letter == _H:
            fetched = word == b"h1"
        elif letter == _L:
            idle_s = int(word[1:])
        # Any other letter belongs to a server newer than this file, and says nothing that was asked for.
    return Reply(code, None, key, cas, ttl, client_flags, opaque, won, claimed, stale, None, size, fetched, idle_s)


def _cas(digits: bytes) -> int:
    # A number that can't be sent back, nor written into an entry's header, must not get further than here.
    number = _natural(digits)
    if number >> 64:
        raise ValueError("a CAS number of more than 64 bits")
    return number


def _natural(digits: bytes) -> int:
    # int() alone would also take b"1_0", b" 1" and b"+1".
    if not digits.isdigit():
        raise ValueError(digits)
    return int(digits)


def _bare(code: str, words: list[bytes]) -> Reply:
    if len(words) != 1:
        raise ValueError(words)
    return Reply(code)


def _status(code: str, words: list[bytes]) -> Reply:
    return _meta(code, words, 1)


def _debug(code: str, words: list[bytes]) -> Reply:
    """protocol.txt, *Meta Debug*: ``ME <key> <k>=<v>*``."""
    told = dict(word.split(b"=", 1) for word in words[2:])
    return Reply(code, b" ".join(words[2:]), words[1], cas=_natural(told[b"cas"]), size=_natural(told[b"size"]))


def _named(code: str, words: list[bytes]) -> Reply:
    return Reply(code, b" ".join(words[2:]), words[1])


def _text(code: str, words: list[bytes]) -> Reply:
    return Reply(code, b" ".join(words[1:]))


def _error(code: str, words: list[bytes]) -> Reply:
    """protocol.txt, *Error strings*. Such a line bears no opaque and no key."""
    return Reply("ERROR", error=b" ".join(words).decode("utf-8", "replace"))


_LINES: Final[dict[bytes, tuple[str, Callable[[str, list[bytes]], Reply]]]] = {
    **{code.encode(): (code, _status) for code in ("HD", "EN", "NF", "NS", "EX")},
    **{code.encode(): (code, _error) for code in ("ERROR", "CLIENT_ERROR", "SERVER_ERROR")},
    **{code.encode(): (code, _bare) for code in ("MN", "END", "STORED", "NOT_STORED", "EXISTS", "NOT_FOUND")},
    **{code.encode(): (code, _bare) for code in ("DELETED", "TOUCHED", "OK", "RESET")},
    b"ME": ("ME", _debug),
    b"STAT": ("STAT", _named),
    b"VERSION": ("VERSION", _text),
}


def _classic_value(words: list[bytes]) -> Reply:
    """protocol.txt, *Retrieval command*: ``VALUE <key> <flags> <bytes> [<cas unique>]``."""
    _, key, client_flags, size, *cas = words
    if len(cas) > 1:
        raise ValueError(words)
    number = _cas(cas[0]) if cas else None
    return Reply("VALUE", None, key, number, None, _natural(client_flags), size=_natural(size))


def _other_line(words: list[bytes]) -> Reply:
    known = _LINES.get(words[0])
    if known is not None:
        code, read = known
        return read(code, words)
    # protocol.txt, *Increment/Decrement*: "<value>\r\n, where <value> is the new value of the item's data".
    if len(words) == 1 and words[0].isdigit():
        return Reply("NUMBER", words[0])
    raise ValueError(words)


class _Broken(ValueError):
    """What is wrong with a reply, in words of ours."""


class Parser:
    """Bytes of one connection, in any fragments, to replies, in order.

    max_line_bytes, max_value_bytes: a longer line or value is a ProtocolError, and bounds what the parser can hold.
    """

    __slots__ = ("_buffer", "_dead", "_max_line", "_max_value", "_need")

    def __init__(self, *, max_line_bytes: int = MAX_LINE_BYTES, max_value_bytes: int = MAX_VALUE_BYTES) -> None:
        self._buffer = bytearray()
        self._need = 0  # no use in looking before the buffer is that long
        self._max_line = max_line_bytes
        self._max_value = max_value_bytes
        self._dead = False

    def __repr__(self) -> str:
        return f"Parser({'dead' if self._dead else f'{len(self._buffer)} bytes pending'})"

    @property
    def pending(self) -> bool:
        """True while part of a reply is buffered."""
        return bool(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Reply]:
        """The replies that ``data`` completes, oldest first. Raises ProtocolError, and is dead from then on."""
        if self._dead:
            raise ProtocolError("this parser met nonsense before; its connection must be closed")
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._need:
                return []
            data = bytes(self._buffer)
        elif type(data) is not bytes:
            data = bytes(data)
        replies: list[Reply] = []
        try:
            used = self._read(data, replies)
        except (ValueError, LookupError) as error:
            self._dead = True
            self._buffer = bytearray()
            # Not what the server said: after a slip in the stream that may be somebody's value, and errors are logged.
            said = f": {error}" if isinstance(error, _Broken) else ""
            raise ProtocolError(f"the server's reply makes no sense{said}") from error
        if self._buffer or used < len(data):
            self._buffer = bytearray(data[used:])
        return replies

    def _read(self, data: bytes, replies: list[Reply]) -> int:
        """Append the complete replies in ``data``; return how many bytes they took."""
        start, length, max_line = 0, len(data), self._max_line
        while start < length:
            end = data.find(b"\r\n", start)
            if end < 0:
                self._need = length - start + 1
                if length - start > max_line:
                    raise _Broken(f"a line of more than {max_line} bytes")
                break
            if end - start > max_line:
                raise _Broken(f"a line of {end - start} bytes")
            words = data[start:end].split(b" ")
            if words[0] == b"VA":
                reply = _meta("VA", words, 2)
                size = _natural(words[1])
            elif words[0] == b"VALUE":
                reply = _classic_value(words)
                size = _natural(words[3])
            else:
                replies.append(_other_line(words))
                start = end + 2
                continue
            if size > self._max_value:
                raise _Broken(f"a value of {size} bytes")
            # protocol.txt, *Protocol*: the length tells where the data ends, "not the fact that \r\n follows".
            begin, end = end + 2, end + 2 + size
            if length < end + 2:
                self._need = end + 2 - start
                break
            if data[end : end + 2] != b"\r\n":
                raise _Broken(f"a value of {size} bytes is not followed by the end of a line")
            reply.value = data[begin:end]
            replies.append(reply)
            start = end + 2
        return start
