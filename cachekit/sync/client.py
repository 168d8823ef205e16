"""The direct verbs, for whoever has a key of his own: the usual client's words, with the usual meaning.

Values are plain, so other programs can read them; each reply is checked by the key that it echoes. Reads use the
classic ``get`` and ``gets``, since every ``mg`` may take a lease away from a reader who would fill (memcached's
protocol.txt, "Meta Get", the W flag).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar
from zlib import crc32

from cachekit.direct import AT_ONCE, REPLACING, Direct, Harvest, check_function, check_token
from cachekit.errors import CacheError, Refused, ServerError, Unreachable
from cachekit.keys import wire_key
from cachekit.meta import Reply
from cachekit.sync import bulk
from cachekit.sync.classic import one_value
from cachekit.sync.connection import Request
from cachekit.sync.drive import run
from cachekit.sync.fleet import AnyConnection, Fleet
from cachekit.sync.groups import GroupVerbs
from cachekit.types import MISS, UNSET

T = TypeVar("T")

_BESIDE = 16_384
"""Bytes from which on a value is sent beside its command line and not copied behind it."""


class Verbs(GroupVerbs, Direct):
    """The blocking direct verbs of a cache.

    On trouble with a server a read gives its default and a write gives False; it is counted, and
    ``Cache(on_error="raise")`` raises it instead. A key is a ``str`` of printable ASCII without spaces; the cache's
    prefix is put before it, except before a ``Key``. Raises ``RequestError`` (a ``ValueError``) for a key that
    Memcached would refuse.

    ``ttl=`` is in seconds, or anything else that ``@cache(ttl=…)`` takes; the cache's policy says the default.
    """

    _fleet: Fleet  # pyright: ignore[reportIncompatibleVariableOverride] - set once, when the cache is first used

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
        from cachekit.flows import direct as flows  # noqa: PLC0415 - not on the usual ways

        return run(flows.read_with_token(self, key, default), self._fleet)

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those ``keys`` that have one. Every server is asked at once; a server in trouble costs its
        own keys only.
        """
        harvest = Harvest(self, keys)
        bulk.fetch(harvest.names, self._fleet, harvest.take, harvest.failed)
        return harvest.end()

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
        check_token(token)
        return self._store(key, value, ttl, b" C%d" % token)

    def delete(self, key: str) -> bool:
        """Remove ``key``; True when something was there."""
        wire = wire_key(self._prefix, key)
        opaque = next(self._env.opaques)
        reply = None
        try:
            reply = self._command(wire, self._env.removal(wire, opaque), opaque, retry=True)
        finally:  # an interrupt may have come before the answer
            if reply is None:
                self._undelivered(wire)
            self._env.flights.forget(wire)
            self._env.touched(wire)
        return reply is not None and reply.code == "HD"

    def touch(self, key: str, ttl: Any = UNSET) -> bool:
        """Give ``key`` a new ttl, counted from now; False where nothing is stored."""
        from cachekit.flows import direct as flows  # noqa: PLC0415 - not on the usual ways

        return run(flows.touch(self, key, ttl), self._fleet)

    def incr(self, key: str, delta: int = 1, initial: int | None = None, ttl: Any = UNSET) -> int | None:
        """Add ``delta`` to a stored number on the server, and return the sum; it wraps at 2**64.

        Where nothing is stored: store ``initial`` for ``ttl`` and return it, or return None when no initial value is
        given.
        """
        from cachekit.flows import direct as flows  # noqa: PLC0415 - not on the usual ways

        return run(flows.count(self, key, delta, initial, ttl, b"MI"), self._fleet)

    def decr(self, key: str, delta: int = 1, initial: int | None = None, ttl: Any = UNSET) -> int | None:
        """Subtract ``delta`` from a stored number on the server, not below 0, and return the difference; see
        ``incr``.
        """
        from cachekit.flows import direct as flows  # noqa: PLC0415 - not on the usual ways

        return run(flows.count(self, key, delta, initial, ttl, b"MD"), self._fleet)

    def set_many(self, values: Mapping[str, Any], ttl: Any = UNSET) -> list[str]:
        """Store every value; returns the keys that were *not* stored, so an empty list is success. Asks all servers
        at once.
        """
        commands, names, bad = self._stores(values, ttl)
        for _, wire, error in bad:
            self._unstorable(wire, error)
        try:
            return [*(key for key, _, _ in bad), *(names[wire] for wire in self._send_all(commands, {}))]
        finally:
            self._env.touched(*names)

    def delete_many(self, keys: Iterable[str]) -> list[str]:
        """Remove ``keys``; returns those that no server acknowledged, so an empty list is success. Asks all servers
        at once.
        """
        names = self._names(keys)
        odd: dict[bytes, str] = {}
        try:
            command = b"ms %b 0 T-1 MR\r\n\r\n" if self._env.watched else b"md %b\r\n"  # tombstones.py
            self._send_all({wire: command % wire for wire in names}, odd)
        finally:
            unacknowledged = [wire for wire, code in odd.items() if code not in ("NF", "NS")]
            self._undelivered(*unacknowledged)
            self._env.flights.forget()
            self._env.touched(*names)
        return [names[wire] for wire in unacknowledged]

    def get_or_set(self, key: str, compute: Callable[[], T], ttl: Any = UNSET) -> T:
        """The value under ``key``; where there is none, the one that ``compute()`` returns, which is stored.

        However many processes ask at once, one of them runs ``compute`` and the others wait for it.
        """
        check_function(compute)
        from cachekit.flows import direct as flows  # noqa: PLC0415 - not on the usual ways

        value: T = run(flows.get_or_set(self, key, compute, ttl), self._fleet)
        return value

    # -- how ---------------------------------------------------------------------------------------------------------

    def _ask(self, index: int, request: bytes, read: Callable[[AnyConnection, bytes, bytes], T], wire: bytes) -> T:
        """Send a request that changes nothing twice, and ``read`` its answer; again on a new connection if the old
        one was closed.
        """
        fleet = self._fleet
        if fleet.suspects:
            fleet.admit(index)
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

    def _store(self, key: str, value: Any, ttl: Any, how: bytes) -> bool:
        wire = wire_key(self._prefix, key)
        until = self._until(self._parsed(ttl), value)
        try:
            flags, payload = self._pack(value, until, wire)
        except CacheError as error:
            return self._unstorable(wire, error, how in REPLACING)
        opaque = next(self._env.opaques)
        numbered = self._numbered(wire, how) if self._env.explicit else how
        line = b"ms %b %d F%d T%d%b O%d\r\n" % (wire, len(payload), flags, until, numbered, opaque)
        request = (line, payload, b"\r\n") if len(payload) > _BESIDE else line + payload + b"\r\n"
        reply = None
        try:
            reply = self._command(wire, request, opaque)
        finally:
            if reply is None and until == AT_ONCE and how in REPLACING:  # that was to remove what is there
                self._undelivered(wire)
            self._env.touched(wire)
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

    def _send_all(self, commands: dict[bytes, bytes], odd: dict[bytes, str]) -> dict[bytes, str]:
        def failed(index: int, error: ServerError) -> None:
            self._trouble(index, error, None)

        return bulk.send_all(commands, self._fleet, b"HD\r\n", failed, odd)

    def _unstorable(self, wire: bytes, error: CacheError, replacing: bool = True) -> bool:
        from cachekit.flows import direct as flows  # noqa: PLC0415 - not on the usual ways

        return run(flows.unstorable(self, wire, error, replacing), self._fleet)
