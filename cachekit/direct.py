"""What the direct verbs of threads and of asyncio have in common, as far as it needs no I/O: checks, values, counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from zlib import crc32

from cachekit.codecs import Packer
from cachekit.codecs.envelope import FOREVER, open_envelope
from cachekit.codecs.flags import ENVELOPED, FOREIGN
from cachekit.codecs.note import ENVELOPED_NOTE
from cachekit.env import Env, logger
from cachekit.errors import CacheError, ConfigurationError, DecodeError, RequestError, TooLarge
from cachekit.expiry import Ttl, exptime, lifetime_s, parse_ttl
from cachekit.hooks import Trouble
from cachekit.keys import wire_keys
from cachekit.ops import BATCH_BYTES, BATCH_KEYS
from cachekit.roster import Roster
from cachekit.tally import Tally
from cachekit.types import MISS, UNSET

T = TypeVar("T")

Found = tuple[bytes, int, bytes, int]
"""Key, client flags, payload and CAS number (0 where it was not asked for) of a stored value."""

AT_ONCE = -1
"""The exptime of what is over already: Memcached keeps to the conditions of the command, and then keeps nothing."""

REPLACING = (b"", b" MR")
"""How a store is asked for that would take the place of an old value, whatever that is."""


class Direct:
    """A cache as its direct verbs know it, whichever shell asks the servers."""

    _fleet: Roster
    _env: Env
    _packer: Packer
    _prefix: bytes
    _ttl: Ttl
    _raises: bool
    _max_value_bytes: int
    _tally: Tally

    # -- values ------------------------------------------------------------------------------------------------------

    def _unpack(self, flags: int, payload: bytes, wire: bytes) -> Any:
        """A stored value of any kind; MISS for a stub and for a function's entry past its ttl. Raises
        ``DecodeError``.
        """
        if flags and not flags & ENVELOPED:
            return self._packer.unpack(flags, payload)
        if flags == FOREIGN:
            return payload or MISS
        if flags == ENVELOPED_NOTE:
            return MISS
        header, at = open_envelope(payload)
        young = header.ttl_ms == FOREVER or self._env.now() * 1000 - header.created_ms < header.ttl_ms
        # Under which number the function's generation stands now, this read did not ask: an entry that may have been
        # invalidated with all others is not given out. ``peek`` asks.
        if header.fingerprint != wire[-16:] or not young or any(header.generations) or header.marks:
            return MISS
        distrust = self._env.distrust  # invalidations from before then may have been lost
        if distrust and header.created_ms < distrust.get(self._fleet.ring.index(wire), 0.0) * 1000.0:
            return MISS
        return self._packer.unpack(flags ^ ENVELOPED, payload[at:])

    def _pack(self, value: Any, until: int, wire: bytes) -> tuple[int, bytes]:
        """Client flags and payload of what is stored for ``until``. Raises ``UnencodableError`` and ``TooLarge``."""
        flags, payload = self._packer.pack(value) if until != AT_ONCE else (FOREIGN, b"")
        if len(payload) > self._max_value_bytes:
            raise too_large(wire, payload, self._max_value_bytes)
        return flags, payload

    def _stores(
        self, values: Mapping[str, Any], ttl: Any, tail: bytes = b""
    ) -> tuple[dict[bytes, bytes], dict[bytes, str], list[tuple[str, bytes, CacheError]]]:
        """A command for every value that can be stored, each ending in ``tail``; the names of all keys; and those that
        can't be stored, with the reason.
        """
        parsed = self._parsed(ttl)
        until = None if callable(parsed) else self._until(parsed)
        commands: dict[bytes, bytes] = {}
        names: dict[bytes, str] = {}
        unstorable: list[tuple[str, bytes, CacheError]] = []
        plain, numbered = b"ms %b %d F%d T%d" + tail + b"\r\n%b\r\n", b"ms %b %d F%d T%d%b" + tail + b"\r\n%b\r\n"
        pack, limit, explicit = self._packer.pack, self._max_value_bytes, self._env.explicit
        for wire, (key, value) in zip(wire_keys(self._prefix, list(values)), values.items(), strict=True):
            try:
                end = self._until(parsed, value) if until is None else until
                flags, payload = pack(value) if end != AT_ONCE else (FOREIGN, b"")
                if len(payload) > limit:
                    raise too_large(wire, payload, limit)
            except CacheError as error:
                unstorable.append((key, wire, error))
                continue
            names[wire] = key
            if explicit:
                commands[wire] = numbered % (wire, len(payload), flags, end, self._numbered(wire, b""), payload)
            else:
                commands[wire] = plain % (wire, len(payload), flags, end, payload)
        return commands, names, unstorable

    def _numbered(self, wire: bytes, how: bytes) -> bytes:
        """``how`` to store, with a CAS number of our own where the key's server takes one."""
        number = self._env.number(self._fleet.ring.index(wire))
        return how + b" E%d" % number if number else how

    def _names(self, keys: Iterable[str]) -> dict[bytes, str]:
        """Each key by what stands for it on the wire. Raises ``RequestError``."""
        # A lone text is an iterable of letters, and nobody means those.
        if isinstance(keys, str):
            raise RequestError(f"many keys are a list or another iterable of texts, not one text: {keys!r:.60}")
        given = list(keys)
        return dict(zip(wire_keys(self._prefix, given), given, strict=True))

    # -- time --------------------------------------------------------------------------------------------------------

    def _parsed(self, ttl: Any) -> Ttl:
        return self._ttl if ttl is UNSET else parse_ttl(ttl)

    def _until(self, ttl: Ttl, value: object = None) -> int:
        """The exptime of ``value`` stored now; ``AT_ONCE`` for a ttl of 0."""
        now = self._env.now()
        lifetime = lifetime_s(ttl, now=now, result=value)
        return AT_ONCE if lifetime == 0 else exptime(lifetime, now)

    def _until_touched(self, ttl: Any) -> int:
        """The exptime of what is touched now."""
        if callable(parsed := self._parsed(ttl)):
            raise ConfigurationError("touch() has no value at hand for a ttl that is a function of the value")
        return self._until(parsed)

    # -- counts ------------------------------------------------------------------------------------------------------

    def _undelivered(self, *wires: bytes) -> None:
        """Have the removal of these keys, which no server has acknowledged, told again before anything else."""
        for index, keys in by_server(wires, self._fleet).items():
            self._env.undelivered(index, *keys, soft=False, kind=1)

    def _counted(self, found: T, default: T) -> T:
        """What a read found, ``default`` where that is MISS; counted."""
        if found is MISS:
            self._tally.misses += 1
            return default
        self._tally.hits += 1
        return found

    def _note_unstorable(self, wire: bytes, error: CacheError) -> None:
        """Count and tell that a value can't be stored."""
        self._tally.unstored += 1
        logger.warning("a value was not stored under %s: %s", wire.decode(), error)

    def _trouble(self, index: int, error: CacheError, outcome: T) -> T:
        """Count and tell; then the outcome, or the error for those who asked for it."""
        self._tally.errors += 1
        if self._env.hooks.on_trouble:
            self._env.hooks.on_trouble.emit(Trouble(self._fleet.names[index], error))
        if self._raises:
            raise error
        return outcome


class Harvest:
    """What a read of many keys brings in. ``names``: the keys asked for, by what stands for them on the wire."""

    def __init__(self, direct: Direct, keys: Iterable[str]) -> None:
        self.names = direct._names(keys)
        self._direct = direct
        self._found: dict[str, Any] = {}
        self._troubles: list[tuple[int, CacheError]] = []

    def take(self, values: Iterable[Found]) -> None:
        """Unpack some of the values. A broken one costs its own key only."""
        usual, names, found = -1, self.names, self._found
        unpack: Callable[..., Any] = self._direct._unpack
        decode: Callable[..., Any] = unpack
        for wire, flags, payload, _ in values:
            try:
                if flags == usual:  # one decoder serves a run of values of one kind
                    found[names[wire]] = decode(payload)
                    continue
                value = unpack(flags, payload, wire)
                if flags and not flags & ENVELOPED:
                    usual, decode = flags, self._direct._packer.decoder(flags)
            except DecodeError as error:
                self.failed(self._direct._fleet.ring.index(wire), error)
            else:
                if value is not MISS:
                    found[names[wire]] = value

    def failed(self, index: int, error: CacheError) -> None:
        """Some values could not be had."""
        self._troubles.append((index, error))

    def end(self) -> dict[str, Any]:
        """All is in: tell the troubles, count, and return the values by their keys."""
        for index, error in self._troubles:
            self._direct._trouble(index, error, None)
        self._direct._tally.hits += len(self._found)
        self._direct._tally.misses += len(self.names) - len(self._found)
        return self._found


def plain_value(data: bytes, wire: bytes) -> tuple[int, bytes] | None:
    """Client flags and payload where ``data`` is the whole answer to a ``get`` that found something; else None."""
    head = b"VALUE %b " % wire
    if not data.startswith(head) or not data.endswith(b"\r\nEND\r\n"):
        return None
    begin = len(head)
    line_end = data.find(b"\r\n", begin)
    flags, _, size = data[begin:line_end].partition(b" ")
    if not (flags.isdigit() and size.isdigit() and int(size) == len(data) - line_end - 9):
        return None
    return int(flags), data[line_end + 2 : -7]


def check_token(token: int) -> None:
    """Raise ``RequestError`` for what ``gets`` can't have returned."""
    if not isinstance(token, int) or isinstance(token, bool) or not 0 < token < 2**64:
        raise RequestError(f"cas token {token!r}: the second value that gets() returned")


def check_function(compute: object) -> None:
    """Raise ``TypeError`` for what ``get_or_set`` can't call."""
    if not callable(compute):
        raise TypeError("get_or_set takes a function, not what it returns: pass fetch, or lambda: fetch(1)")


def check_counts(delta: int, initial: int | None) -> None:
    """Raise ``RequestError`` for what no counter takes."""
    for number in (delta, 0 if initial is None else initial):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**64:
            raise RequestError(f"{number!r}: a counter takes whole numbers from 0 to 2**64 - 1")


def too_large(wire: bytes, payload: bytes, limit: int) -> TooLarge:
    """The reason why nobody sends this payload."""
    return TooLarge(f"too large: {len(payload)} bytes, and max_value is {limit}", key=wire.decode())


def by_server(keys: Iterable[bytes], roster: Roster) -> dict[int, list[bytes]]:
    """The keys, grouped by the index of the server that holds them."""
    table, mask = roster.ring.table, roster.ring.mask
    groups: list[list[bytes]] = [[] for _ in roster.servers]
    for key in keys:
        groups[table[crc32(key) & mask]].append(key)
    return {index: group for index, group in enumerate(groups) if group}


def batches(commands: Sequence[bytes]) -> list[list[bytes]]:
    """Cut commands into runs that one server can take before its answers are read."""
    if len(commands) <= BATCH_KEYS and sum(map(len, commands)) <= BATCH_BYTES:
        return [list(commands)]
    cut: list[list[bytes]] = []
    size = 0
    for command in commands:
        if not cut or len(cut[-1]) >= BATCH_KEYS or size + len(command) > BATCH_BYTES:
            cut.append([])
            size = 0
        cut[-1].append(command)
        size += len(command)
    return cut
