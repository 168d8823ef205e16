"""The lines of memcached's ``watch`` stream, without I/O: bytes, cut anywhere, to the keys that were stored or deleted.

::

    OK                                                                  the answer to the command, ending in \\r\\n
    ts=1795316638.49484 gid=8 type=item_store key=shop%3Aa status=stored cmd=set ttl=100 clsid=1 cfd=12 size=2
    ts=1795316685.888932 gid=11 type=deleted key=a cmd=md clsid=1 size=2
    skipped=512                                                         lines that this reader was too slow for

See protocol.txt, *Watchers*, and memcached's logger.c. Keys are percent-encoded but for letters, digits and ``-._~``.
Everything about a key is passed on, also stores that failed: a notice (tombstones.py) is one of them.
"""

# Annotations are not postponed here: a NamedTuple would compile each of them as text (docs/design/imports.md).

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from cachekit.errors import ProtocolError

MAX_LINE_BYTES: Final = 8192

# Bounded, so that what matches is shorter than MAX_LINE_BYTES: memcached's own lines have at most 4096 bytes.
_SHOWN = re.compile(
    rb"^ts=[^ \n]{1,64} gid=[^ \n]{1,64} type=(?:item_store|deleted) key=([^ \r\n]{1,1024})(?: [^\n]{0,1024})?\n",
    re.MULTILINE,
).findall
_MUTATION = re.compile(rb" type=(?:item_store|deleted)\b").search
_PLAIN = re.compile(rb"[A-Za-z0-9._~-]*").fullmatch
_ESCAPED = re.compile(rb"(?:[^%]|%[0-9A-Fa-f]{2})*").fullmatch
_ESCAPE = re.compile(rb"%(..)")


class Heard(NamedTuple):
    """What some bytes of the stream told: ``keys`` that were stored or deleted, in order; how many lines the server has
    ``skipped``, or wrote so that they can't be read; lines that are no events, which answer a command; and how many
    ``lines`` that were.
    """

    keys: list[bytes]
    skipped: int
    answers: list[bytes]
    lines: int


class Lines:
    """Takes whatever the socket gave, and returns what the complete lines in it tell. Keeps one unfinished line.

    Keys that begin with none of ``prefixes`` are left out before they are decoded: a server is often shared.
    """

    __slots__ = ("_rest", "_wanted")

    def __init__(self, prefixes: Iterable[bytes] = (b"",)) -> None:
        self._rest = b""
        self.want(prefixes)

    def want(self, prefixes: Iterable[bytes]) -> None:
        """From now on pass on the keys that begin so."""
        self._wanted = tuple({encoded(prefix) for prefix in prefixes})

    def feed(self, data: bytes) -> Heard:
        """What the lines tell that ``data`` completes. Raises ``ProtocolError`` for a line without end; the stream is
        of no use then.
        """
        data = self._rest + data
        cut = data.rfind(b"\n") + 1
        whole, self._rest = data[:cut], data[cut:]
        names, lines = _SHOWN(whole), whole.count(b"\n")
        skipped, answers = (0, []) if len(names) == lines else _odd(whole)
        if len(self._rest) > MAX_LINE_BYTES:
            raise ProtocolError(f"a line of more than {MAX_LINE_BYTES} bytes in a watch stream")
        keys = []
        for name in names:
            if name.startswith(self._wanted):
                key = decoded(name)
                if key is not None:
                    keys.append(key)
                else:
                    skipped += 1
        return Heard(keys, skipped, answers, lines)


def _odd(whole: bytes) -> tuple[int, list[bytes]]:
    """How many lines were skipped, or can't be read; and those that are no events."""
    skipped = 0
    answers: list[bytes] = []
    for line in whole.split(b"\n")[:-1]:
        if len(line) > MAX_LINE_BYTES:
            raise ProtocolError(f"a line of more than {MAX_LINE_BYTES} bytes in a watch stream")
        if line.startswith(b"skipped="):
            skipped += 1
        elif not line.startswith(b"ts="):
            answers.append(line.rstrip(b"\r"))
        elif _MUTATION(line) and not _SHOWN(line + b"\n"):
            skipped += 1  # whose key it tells of can't be read: as good as skipped
    return skipped, answers


def encoded(key: bytes) -> bytes:
    """``key`` as the stream writes it."""
    if _PLAIN(key):
        return key
    return b"".join(bytes([c]) if _PLAIN(bytes([c])) else b"%%%02X" % c for c in key)


def decoded(name: bytes) -> bytes | None:
    """The key that the stream writes as ``name``; None where that is no percent-encoding."""
    if b"%" not in name:
        return name
    name = name.replace(b"%3A", b":")  # nearly always the only one, and there is no other way to read it
    if b"%" not in name:
        return name
    if not _ESCAPED(name):
        return None
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), name)
