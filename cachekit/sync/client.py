"""The direct verbs, for whoever has a key of his own: the usual client's words, with the usual meaning.

Values are plain, so other programs can read them; each reply is checked by the key that it echoes. Reads use the
classic ``get`` and ``gets``, since every ``mg`` may take a lease away from a reader who would fill (memcached's
protocol.txt, "Meta Get", the W flag).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar
from zlib import crc32

from cachekit import meta
from cachekit.codecs import Packer
from cachekit.codecs.envelope import FOREVER, open_envelope
from cachekit.codecs.flags import ENVELOPED, FOREIGN
from cachekit.codecs.note import ENVELOPED_NOTE
from cachekit.env import Env, Job, logger
from cachekit.errors import (
    CacheError,
    ConfigurationError,
    DecodeError,
    Refused,
    RequestError,
    ServerError,
    TooLarge,
    Unreachable,
)
from cachekit.expiry import Ttl, exptime, lifetime_s, parse_ttl
from cachekit.hooks import Trouble
from cachekit.keys import wire_key, wire_keys
from cachekit.meta import Reply
from cachekit.policy import LIBRARY
from cachekit.recipe import Recipe
from cachekit.sync import bulk
from cachekit.sync.classic import one_line, one_value
from cachekit.sync.connection import Request
from cachekit.sync.drive import run
from cachekit.sync.fleet import AnyConnection, Fleet
from cachekit.tally import Tally
from cachekit.types import MISS, UNSET

T = TypeVar("T")

AT_ONCE = -1
"""The exptime of what is over already: Memcached keeps to the conditions of the command, and then keeps nothing."""

_BESIDE = 16_384
"""Bytes from which on a value is sent beside its command line and not copied behind it."""

_REPLACING = (b"", b" MR")


class Verbs:
    """The blocking direct verbs of a cache.

    On trouble with a server a read gives its default and a write gives False; it is counted, and
    ``Cache(on_error="raise")`` raises it instead. A key is a ``str`` of printable ASCII without spaces; the cache's
    prefix is put before it, except before a ``Key``. Raises ``RequestError`` (a ``ValueError``) for a key that
    Memcached would refuse.

    ``ttl=`` is in seconds, or anything else that ``@cache(ttl=…)`` takes; the cache's policy says the default.
    """

    _fleet: Fleet
    _env: Env
    _packer: Packer
    _prefix: bytes
    _ttl: Ttl
    _raises: bool
    _max_value_bytes: int
    _tally: Tally

    # -- reading -----------------------------------------------------------------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        """The value under ``key``, else ``default``; pass ``MISS`` as the default to tell a stored None from nothing.

        >>> from cachekit import Cache, MISS
        >>> cache = Cache("memory:")
        >>> cache.set("user:42", {"name": "Ada"}, ttl="5m")
        True
        >>> cache.get("user:42")
        {'name': 'Ada'}
        >>> cache.get("user:43", MISS)
        MISS
        """
        wire = wire_key(self._prefix, key)
        fleet = self._fleet
        index = fleet.ring.table[crc32(wire) & fleet.ring.mask]
        try:
            stored = self._ask(index, b"get %b\r\n" % wire, one_value, wire)
            found = MISS if stored is None else self._unpack(*stored, wire)
        except CacheError as error:
            return self._trouble(index, error, default)
        if found is MISS:
            self._tally.misses += 1
            return default
        self._tally.hits += 1
        return found

    def gets(self, key: str, default: Any = None) -> tuple[Any, int | None]:
        """The value under ``key`` and the token that ``cas`` takes; ``(default, None)`` where there is nothing."""
        wire = wire_key(self._prefix, key)
        found: list[tuple[Any, int]] = []

        def take(values: list[bulk.Found]) -> None:
            for _, flags, payload, cas in values:
                value = self._unpack(flags, payload, wire)
                if value is not MISS:
                    found.append((value, cas))

        index = self._fleet.ring.index(wire)
        errors: list[CacheError] = []
        try:
            bulk.fetch([wire], self._fleet, take, lambda _, error: errors.append(error), b"gets")
        except DecodeError as error:
            errors.append(error)
        if errors:
            return self._trouble(index, errors[0], (default, None))
        if not found:
            self._tally.misses += 1
            return default, None
        self._tally.hits += 1
        return found[0]

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those ``keys`` that have one. Every server is asked at once; a server in trouble costs its
        own keys only.
        """
        asked = _listed(keys)
        names = dict(zip(wire_keys(self._prefix, asked), asked, strict=True))
        found: dict[str, Any] = {}
        unpack: Callable[..., Any] = self._unpack
        troubles: list[tuple[int, CacheError]] = []

        def take(values: list[bulk.Found]) -> None:
            usual, decode = -1, unpack
            for wire, flags, payload, _ in values:
                try:
                    if flags == usual:  # one decoder serves a run of values of one kind
                        found[names[wire]] = decode(payload)
                        continue
                    value = unpack(flags, payload, wire)
                    if flags and not flags & ENVELOPED:
                        usual, decode = flags, self._packer.decoder(flags)
                except DecodeError as error:
                    troubles.append((self._fleet.ring.index(wire), error))
                else:
                    if value is not MISS:
                        found[names[wire]] = value

        bulk.fetch(names, self._fleet, take, lambda index, error: troubles.append((index, error)))
        for index, error in troubles:
            self._trouble(index, error, None)
        self._tally.hits += len(found)
        self._tally.misses += len(names) - len(found)
        return found

    # -- writing -----------------------------------------------------------------------------------------------------

    def set(self, key: str, value: Any, ttl: Any = UNSET) -> bool:
        """Store ``value``; True when the server said that it is stored. A ttl of 0 stores nothing, and removes what
        was there.
        """
        return self._store(key, value, ttl, b"")

    def add(self, key: str, value: Any, ttl: Any = UNSET) -> bool:
        """Store ``value`` where nothing is stored; False where something is (protocol.txt, Meta Set, mode E)."""
        return self._store(key, value, ttl, b" ME")

    def replace(self, key: str, value: Any, ttl: Any = UNSET) -> bool:
        """Store ``value`` where something is stored; False where nothing is (protocol.txt, Meta Set, mode R)."""
        return self._store(key, value, ttl, b" MR")

    def cas(self, key: str, value: Any, token: int, ttl: Any = UNSET) -> bool:
        """Store ``value`` if nothing has changed since ``gets`` gave ``token``; else False."""
        if not isinstance(token, int) or isinstance(token, bool) or not 0 < token < 2**64:
            raise RequestError(f"cas token {token!r}: the second value that gets() returned")
        return self._store(key, value, ttl, b" C%d" % token)

    def delete(self, key: str) -> bool:
        """Remove ``key``; True when something was there."""
        wire = wire_key(self._prefix, key)
        removed = self._remove(wire)
        self._env.flights.forget(wire)
        return removed

    def touch(self, key: str, ttl: Any = UNSET) -> bool:
        """Give ``key`` a new ttl, counted from now; False where nothing is stored."""
        wire = wire_key(self._prefix, key)
        if callable(parsed := self._parsed(ttl)):
            raise ConfigurationError("touch() has no value at hand for a ttl that is a function of the value")
        until = self._until(parsed)
        if until == AT_ONCE:
            return self.delete(key)
        index = self._fleet.ring.index(wire)
        try:
            line = self._ask(index, b"touch %b %d\r\n" % (wire, until), one_line, wire)
        except ServerError as error:
            return self._trouble(index, error, False)
        return line == b"TOUCHED"

    def incr(self, key: str, delta: int = 1, initial: int | None = None, ttl: Any = UNSET) -> int | None:
        """Add ``delta`` to a stored number on the server, and return the sum; it wraps at 2**64.

        Where nothing is stored: store ``initial`` for ``ttl`` and return it, or return None when no initial value is
        given.
        """
        return self._count(key, delta, initial, ttl, b"MI")

    def decr(self, key: str, delta: int = 1, initial: int | None = None, ttl: Any = UNSET) -> int | None:
        """Subtract ``delta`` from a stored number on the server, not below 0, and return the difference; see
        ``incr``.
        """
        return self._count(key, delta, initial, ttl, b"MD")

    def set_many(self, values: Mapping[str, Any], ttl: Any = UNSET) -> list[str]:
        """Store every value; returns the keys that were *not* stored, so an empty list is success. Asks all servers
        at once.
        """
        parsed = self._parsed(ttl)
        until = None if callable(parsed) else self._until(parsed)
        commands: dict[bytes, bytes] = {}
        names: dict[bytes, str] = {}
        lost: list[str] = []
        pack, limit, explicit = self._packer.pack, self._max_value_bytes, self._env.explicit
        for wire, (key, value) in zip(wire_keys(self._prefix, list(values)), values.items(), strict=True):
            try:
                end = self._until(parsed, value) if until is None else until
                flags, payload = pack(value) if end != AT_ONCE else (FOREIGN, b"")
                if len(payload) > limit:
                    raise _too_large(wire, payload, limit)
            except CacheError as error:
                lost.append(key)
                self._unstorable(wire, error)
                continue
            names[wire] = key
            if explicit:
                how = self._numbered(wire, b"")
                commands[wire] = b"ms %b %d F%d T%d%b\r\n%b\r\n" % (wire, len(payload), flags, end, how, payload)
            else:
                commands[wire] = b"ms %b %d F%d T%d\r\n%b\r\n" % (wire, len(payload), flags, end, payload)
        return lost + [names[wire] for wire in self._send_all(commands)]

    def delete_many(self, keys: Iterable[str]) -> list[str]:
        """Remove ``keys``; returns those that no server acknowledged, so an empty list is success. Asks all servers
        at once.
        """
        given = _listed(keys)
        names = dict(zip(wire_keys(self._prefix, given), given, strict=True))
        odd = self._send_all({wire: b"md %b\r\n" % wire for wire in names})
        self._env.flights.forget()
        return [names[wire] for wire, code in odd.items() if code != "NF"]

    def get_or_set(self, key: str, compute: Callable[[], T], ttl: Any = UNSET) -> T:
        """The value under ``key``; where there is none, the one that ``compute()`` returns, which is stored.

        However many processes ask at once, one of them runs ``compute`` and the others wait for it.
        """
        from cachekit.flows.call import call  # noqa: PLC0415 - see CachedFunction._first_read

        wire = wire_key(self._prefix, key)
        recipe = Recipe(
            name="get_or_set",
            packer=self._packer,
            ttl=self._ttl if ttl is UNSET else parse_ttl(ttl),
            lease_s=LIBRARY["lease"],
            enveloped=False,
            max_value_bytes=self._max_value_bytes,
        )
        recipe.tally = self._tally
        job = Job(recipe, wire, self._fleet.ring.index(wire), compute)
        return run(call(job, self._env, None), self._fleet)  # type: ignore[no-any-return]

    # -- how ---------------------------------------------------------------------------------------------------------

    def _ask(self, index: int, request: bytes, read: Callable[[AnyConnection, bytes, bytes], T], wire: bytes) -> T:
        """Send a request that changes nothing twice, and ``read`` its answer; again on a new connection if the old
        one was closed.
        """
        fleet = self._fleet
        if fleet.suspects:
            fleet.check_up(index)
        for last in (False, True):
            connection = fleet.take(index)
            try:
                answer = read(connection, connection.ask(request), wire)
            except ServerError as error:
                fleet.drop(index)
                if last or not isinstance(error, Unreachable):
                    fleet.failed(index, error)
                    raise
            else:
                fleet.put(index, connection)
                return answer
        raise AssertionError("unreachable")

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
        if header.fingerprint != wire[-16:] or not young or any(header.generations):
            return MISS
        return self._packer.unpack(flags ^ ENVELOPED, payload[at:])

    def _store(self, key: str, value: Any, ttl: Any, how: bytes) -> bool:
        wire = wire_key(self._prefix, key)
        until = self._until(self._parsed(ttl), value)
        try:
            flags, payload = self._packer.pack(value) if until != AT_ONCE else (FOREIGN, b"")
            if len(payload) > self._max_value_bytes:
                raise _too_large(wire, payload, self._max_value_bytes)
        except CacheError as error:
            return self._unstorable(wire, error, how in _REPLACING)
        opaque = next(self._env.opaques)
        if self._env.explicit:
            how = self._numbered(wire, how)
        line = b"ms %b %d F%d T%d%b O%d\r\n" % (wire, len(payload), flags, until, how, opaque)
        request = (line, payload, b"\r\n") if len(payload) > _BESIDE else line + payload + b"\r\n"
        reply = self._command(wire, request, opaque)
        return reply is not None and reply.code == "HD"

    def _numbered(self, wire: bytes, how: bytes) -> bytes:
        """``how`` to store, with a CAS number of our own where the key's server takes one."""
        number = self._env.number(self._fleet.ring.index(wire))
        return how + b" E%d" % number if number else how

    def _remove(self, wire: bytes) -> bool:
        """Delete; True when something was there."""
        opaque = next(self._env.opaques)
        reply = self._command(wire, meta.md(wire, b"O%d" % opaque), opaque, retry=True)
        return reply is not None and reply.code == "HD"

    def _command(self, wire: bytes, request: Request, opaque: int, *, retry: bool = False) -> Reply | None:
        """The reply to one command about ``wire``; None on trouble. ``retry``: it may go twice, should the server have
        closed the connection while that lay idle.
        """
        fleet = self._fleet
        index = fleet.ring.table[crc32(wire) & fleet.ring.mask]
        try:
            try:
                (reply,), _ = fleet.converse(index, request, 1, opaque)
            except Unreachable:
                if not retry or not fleet.health[index].up:
                    raise
                fleet.drop(index)
                (reply,), _ = fleet.converse(index, request, 1, opaque)
        except ServerError as error:
            return self._trouble(index, error, None)
        if reply.code == "ERROR":
            return self._trouble(index, Refused(reply.error or "", server=fleet.names[index]), None)
        return reply

    def _count(self, key: str, delta: int, initial: int | None, ttl: Any, mode: bytes) -> int | None:
        for number in (delta, 0 if initial is None else initial):
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**64:
                raise RequestError(f"{number!r}: a counter takes whole numbers from 0 to 2**64 - 1")
        wire = wire_key(self._prefix, key)
        for _ in range(2):
            opaque = next(self._env.opaques)
            reply = self._command(wire, meta.ma(wire, b"%b D%d v O%d" % (mode, delta, opaque)), opaque)
            if reply is not None and reply.code == "VA" and reply.value is not None:
                return int(reply.value)
            if reply is None or reply.code != "NF" or initial is None:
                return None
            if self.add(key, initial, ttl):
                return initial
        return None

    def _send_all(self, commands: dict[bytes, bytes]) -> dict[bytes, str]:
        def failed(index: int, error: ServerError) -> None:
            self._trouble(index, error, None)

        return bulk.send_all(commands, self._fleet, b"HD\r\n", failed)

    def _parsed(self, ttl: Any) -> Ttl:
        return self._ttl if ttl is UNSET else parse_ttl(ttl)

    def _until(self, ttl: Ttl, value: object = None) -> int:
        """The exptime of ``value`` stored now; ``AT_ONCE`` for a ttl of 0."""
        now = self._env.now()
        lifetime = lifetime_s(ttl, now=now, result=value)
        return AT_ONCE if lifetime == 0 else exptime(lifetime, now)

    def _unstorable(self, wire: bytes, error: CacheError, replacing: bool = True) -> bool:
        """The value can't be stored: nor may the old one stay, where it was to replace that."""
        self._tally.unstored += 1
        logger.warning("a value was not stored under %s: %s", wire.decode(), error)
        if replacing:
            self._remove(wire)
        if self._raises:
            raise error
        return False

    def _trouble(self, index: int, error: CacheError, outcome: T) -> T:
        """Count and tell; then the outcome, or the error for those who asked for it."""
        self._tally.errors += 1
        if self._env.hooks.on_trouble:
            self._env.hooks.on_trouble.emit(Trouble(self._fleet.names[index], error))
        if self._raises:
            raise error
        return outcome


def _listed(keys: Iterable[str]) -> list[str]:
    # A lone text is an iterable of letters, and nobody means those.
    if isinstance(keys, str):
        raise RequestError(f"many keys are a list or another iterable of texts, not one text: {keys!r:.60}")
    return list(keys)


def _too_large(wire: bytes, payload: bytes, limit: int) -> TooLarge:
    return TooLarge(f"too large: {len(payload)} bytes, and max_value is {limit}", key=wire.decode())
