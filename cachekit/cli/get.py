"""``cachekit get``: what is stored under a key.

Looking changes nothing: values are read by the classic ``gets`` and lifetimes by ``me``, neither of which takes a lease
from a reader who would fill (memcached's protocol.txt, "Meta Get", the W flag).
"""

from __future__ import annotations

import argparse
import re
import time
from pprint import pformat
from typing import NamedTuple

from cachekit import meta
from cachekit.cli import chart
from cachekit.cli.command import Command
from cachekit.cli.where import add_servers, target
from cachekit.codecs import FOREVER, Header, Packer, Registry, open_envelope, resolve
from cachekit.codecs.envelope import Mark
from cachekit.codecs.flags import FOREIGN, NOTE, describe, format_of, is_enveloped
from cachekit.codecs.json import JsonCodec
from cachekit.codecs.note import ABSENT, ERROR, PASS
from cachekit.errors import DecodeError, ServerError
from cachekit.flows.boots import BOOT
from cachekit.flows.look import lifetime_in
from cachekit.hooks import Hooks
from cachekit.keys import wire_key
from cachekit.policy import age_ms
from cachekit.sync import bulk
from cachekit.sync.fleet import Fleet
from cachekit.types import Key

_VALUE_WIDTH = chart.WIDTH - 17
_LINES = 24

_RECORD = re.compile(rb"(?:[^:]*:)?(tag|namespace)(?:=|~.*:).+|.*:(gen)=[\w-]{24}").fullmatch
_STANDS_FOR = {b"tag": "a tag", b"namespace": "a namespace", b"gen": "a function"}
_SOFT_NUMBERS = re.compile(rb"[0-9 ]*").fullmatch


class Stored(NamedTuple):
    """What a server holds under a key. ``expires_s``: seconds until it drops it, None: never. ``cas``: its number."""

    flags: int
    data: bytes
    expires_s: int | None
    cas: int = 0


class Sight(NamedTuple):
    """An entry as it is shown. ``served``: whether a reader would get the value now. ``record``: it stands behind a
    tag, a namespace or a function.
    """

    state: str
    served: bool
    value: str = ""
    header: Header | None = None
    record: bool = False


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_servers(parser)
    parser.add_argument("--all", action="store_true", help="print a long value to its end")
    parser.add_argument("key", metavar="KEY", help="a key as it is on the wire, prefix included")


def _run(arguments: argparse.Namespace) -> int:
    key = wire_key(b"", Key(arguments.key))
    fleet = Fleet(target(arguments), Hooks())
    lines = [("key", arguments.key), ("server", fleet.names[fleet.ring.index(key)])]
    try:
        stored = look(fleet, key)
    finally:
        fleet.close()
    if stored is None:
        print("\n".join(chart.facts([*lines, ("state", "absent")])))
        return 1
    now_s = time.time()
    sight = judge(stored, key, now_s)
    lines += [(name, text if arguments.all else _cut(text)) for name, text in _describe(stored, sight, now_s)]
    print("\n".join(chart.facts(lines)))
    return 0 if sight.served else 1


def _cut(text: str) -> str:
    lines = text.split("\n")
    if len(lines) <= _LINES:
        return text
    return "\n".join([*lines[:_LINES], f"… and {chart.number(len(lines) - _LINES)} lines more (--all)"])


def look(fleet: Fleet, key: bytes) -> Stored | None:
    """What is stored under a wire key, None: nothing. Raises ``ServerError``."""
    found: list[bulk.Found] = []
    errors: list[ServerError] = []
    bulk.fetch([key], fleet, found.extend, lambda _, error: errors.append(error), b"gets")
    if errors:
        raise errors[0]
    if not found:
        return None
    connection = fleet.take(fleet.ring.index(key))
    debug = connection.exchange(meta.me(key), 1)[0]  # it echoes the key and takes no opaque
    connection.close()
    _, flags, data, cas = found[0]
    left_s = lifetime_in((debug.value or b"").split())
    return Stored(flags, data, None if left_s == -1 else left_s, cas or 0)


def judge(stored: Stored, key: bytes, now_s: float) -> Sight:
    """What a reader would make of it at ``now_s``, in seconds since the epoch."""
    flags, data, expires_s, _ = stored
    if flags == FOREIGN and (record := _record(key, data)):
        return record
    if flags == FOREIGN and not data:
        return Sight("stub: somebody is computing the value, and holds the lease", served=False)
    header, at = None, 0
    try:
        if is_enveloped(flags):
            header, at = open_envelope(data)
            if header.fingerprint != key[-16:]:
                return Sight("garbage: its header belongs to another key", served=False)
        if format_of(flags) == NOTE:
            return _note(data[at:], header)
        packer = Packer(resolve(None, registry=Registry()), readers=[JsonCodec()])
        value = pformat(packer.unpack(flags, data[at:]), width=_VALUE_WIDTH, compact=True, sort_dicts=False)
    except DecodeError as error:
        value = f"not readable here: {error}"
    if header is None:
        return Sight("stored, not by a cached function", served=True, value=value)
    state, served = _freshness(header, age_ms(header, expires_s, now_s))
    return Sight(state, served, value, header)


def _record(key: bytes, data: bytes) -> Sight | None:
    """What stands behind a tag, a namespace or a function; what tells a server's boots apart; None: neither."""
    if key == BOOT:
        return Sight("boot mark: it tells this server's numbers from those that it gives after a restart", served=False)
    found = _RECORD(key)
    if found is None or not _SOFT_NUMBERS(data):
        return None
    what = _STANDS_FOR[found[1] or found[2]]
    said = f"record of {what}: entries hold while its generation stays; every server has a copy of its own"
    return Sight(said, served=False, record=True)


def _freshness(header: Header, age: float) -> tuple[str, bool]:
    """The state of an entry ``age`` ms old, and whether a reader would be served it."""
    stale_until = header.ttl_ms + header.stale_ms
    if age < header.ttl_ms:
        return "fresh, unless its function, a tag or its namespace was invalidated since", True
    if age < header.retry_ms and age < stale_until + header.stale_if_error_ms:
        return "throttled: a refresh has failed, and for now everybody is served this value", True
    if age < stale_until:
        return "stale: one reader refreshes it, the others are served this value", True
    if age < stale_until + header.stale_if_error_ms:
        return "expired: served only where its function fails", False
    return "expired: the next reader computes it anew", False


def _note(payload: bytes, header: Header | None) -> Sight:
    """What stands there instead of a value."""
    said = {
        PASS: "pass: the last result could not be stored, so every caller runs the function",
        ABSENT: "absent: the loader knows nothing of this id",
        ERROR: "failure: the function's exception is stored, and raised again",
    }
    return Sight(said.get(payload[:1], "a note that this version does not know"), served=False, header=header)


def _describe(stored: Stored, sight: Sight, now_s: float) -> list[tuple[str, str]]:
    lines = [("state", sight.state)]
    if sight.value:
        lines.append(("value", sight.value))
    lines.append(("flags", f"{stored.flags:#x} ({describe(stored.flags)})"))
    lines.append(("size", chart.size(len(stored.data))))
    if sight.record:
        lines.append(("generation", str(stored.cas)))
        if stored.data:
            lines.append(("softly void", f"entries under {stored.data.decode()}: refreshed by one, served to others"))
    header = sight.header
    if header is not None:
        age_s = age_ms(header, stored.expires_s, now_s) / 1000
        ttl = "for ever" if header.ttl_ms == FOREVER else chart.span(header.ttl_ms / 1000)
        lines.append(("age", chart.span(age_s)))
        lines.append(("ttl", ttl))
        lines.append(("computed in", chart.span(header.delta_us / 1e6)))
        lines.append(("generation", " ".join(map(str, header.generations)) if any(header.generations) else "not asked"))
        if header.marks:
            lines.append(("also under", "\n".join(map(_mark, header.marks))))
    lines.append(("server drops it", "never" if stored.expires_s is None else f"in {chart.span(stored.expires_s)}"))
    return lines


def _mark(mark: Mark) -> str:
    """A record that the entry stands under by its run: its key, the number, its server, and who brought it in."""
    source = "named by the function" if mark.named else "from a cached call inside"
    key, server = mark.key.decode("ascii", "backslashreplace"), mark.server.encode("unicode_escape").decode()
    return f"{key} {mark.number} on {server or 'the same server'}, {source}"


COMMAND = Command(
    "show what is stored under a key",
    """Show what is stored under a key: value, format, age and lifetime. Takes no lease and changes nothing.
Exit code 1: there is nothing that a reader would be served.""",
    _add_arguments,
    _run,
)
