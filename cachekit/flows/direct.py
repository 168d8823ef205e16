"""The direct verbs as flows: all of them for asyncio, and for threads those that are not written out in
``sync/client.py`` for speed.

Each is given the cache itself as ``direct``, and raises what is the caller's own mistake when it is driven. Reads use
the classic ``get`` and ``gets``, and writes the meta commands, as ``sync/client.py`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from cachekit import meta
from cachekit.direct import AT_ONCE, REPLACING, Direct, Found, Harvest, batches, by_server, check_counts
from cachekit.env import Job
from cachekit.errors import CacheError, ProtocolError, Refused, ServerError
from cachekit.keys import wire_key
from cachekit.meta import Reply
from cachekit.ops import BATCH_KEYS, Exchange, Flow, Gather, Replies
from cachekit.policy import LIBRARY
from cachekit.recipe import Recipe
from cachekit.types import MISS

# -- reading ----------------------------------------------------------------------------------------------------------


def read_one(direct: Direct, key: str, default: Any) -> Flow[Any]:
    """``get``: the value under ``key``, else ``default``."""
    wire = wire_key(direct._prefix, key)
    index = direct._fleet.ring.index(wire)
    try:
        found, _ = value_in(direct, index, wire, (yield read(index, b"get", [wire])))
    except CacheError as error:
        return direct._trouble(index, error, default)
    return direct._counted(found, default)


def read_with_token(direct: Direct, key: str, default: Any) -> Flow[tuple[Any, int | None]]:
    """``gets``: the value under ``key``, and the number that it stands under."""
    wire = wire_key(direct._prefix, key)
    index = direct._fleet.ring.index(wire)
    try:
        found, cas = value_in(direct, index, wire, (yield read(index, b"gets", [wire])))
    except CacheError as error:
        return direct._trouble(index, error, (default, None))
    return direct._counted(found, default), cas


def read_many(direct: Direct, keys: Iterable[str]) -> Flow[dict[str, Any]]:
    """``get_many``: the values of those ``keys`` that have one. A server in trouble costs its own keys only."""
    harvest = Harvest(direct, keys)
    waiting = by_server(harvest.names, direct._fleet)
    while waiting:
        lots = {server: group[:BATCH_KEYS] for server, group in waiting.items()}
        waiting = {server: rest for server, group in waiting.items() if (rest := group[BATCH_KEYS:])}
        outcomes = yield Gather(tuple(read(server, b"get", lot) for server, lot in lots.items()))
        for server, outcome in zip(lots, outcomes, strict=True):
            if isinstance(outcome, ServerError):
                harvest.failed(server, outcome)
                waiting.pop(server, None)
                continue
            *values, end = outcome.replies
            harvest.take(map(_found, values))
            if end.code == "ERROR":
                harvest.failed(server, _refused(direct, server, end))
                waiting.pop(server, None)
    return harvest.end()


def read(server: int, command: bytes, keys: list[bytes]) -> Exchange:
    """Read ``keys`` of one server; the values that are there, and an END."""
    request = b"%b %b\r\n" % (command, b" ".join(keys))
    return Exchange(server, request, 1, None, retry=True, fits=_values_of(frozenset(keys)))


def value_in(direct: Direct, server: int, wire: bytes, outcome: Replies) -> tuple[Any, int | None]:
    """What a ``read`` of one key has found, and its CAS number; MISS and None: nothing. Raises ``Refused`` and
    ``DecodeError``.
    """
    *values, end = outcome.replies
    if end.code == "ERROR":
        raise _refused(direct, server, end)
    if not values:
        return MISS, None
    _, flags, payload, cas = _found(values[0])
    value = direct._unpack(flags, payload, wire)
    return value, None if value is MISS else cas


def _values_of(keys: Collection[bytes]) -> Callable[[list[Reply]], bool]:
    """Whether replies are those to a read of ``keys``."""

    def fits(replies: list[Reply]) -> bool:
        *values, end = replies
        if end.code not in ("END", "ERROR") or len(values) > len(keys):
            return False
        return all(value.code == "VALUE" and value.key in keys for value in values)

    return fits


def _found(reply: Reply) -> Found:
    return reply.key or b"", reply.client_flags or 0, reply.value or b"", reply.cas or 0


# -- writing ----------------------------------------------------------------------------------------------------------


def store(direct: Direct, key: str, value: Any, ttl: Any, how: bytes) -> Flow[bool]:
    """``set``, and by ``how`` also ``add``, ``replace`` and ``cas``: True when the server said that it is stored. Never
    sent twice.
    """
    wire = wire_key(direct._prefix, key)
    until = direct._until(direct._parsed(ttl), value)
    try:
        flags, payload = direct._pack(value, until, wire)
    except CacheError as error:
        return (yield from unstorable(direct, wire, error, how in REPLACING))
    opaque, numbered = direct._env.opaque(), direct._numbered(wire, how)
    line = b"ms %b %d F%d T%d%b O%d\r\n%b\r\n" % (wire, len(payload), flags, until, numbered, opaque, payload)
    reply = None
    try:
        reply = yield from _command(direct, wire, line, opaque)
    finally:
        if reply is None and until == AT_ONCE and how in REPLACING:  # that was to remove what is there
            direct._undelivered(wire)
        direct._env.touched(wire)
    return reply is not None and reply.code == "HD"


def unstorable(direct: Direct, wire: bytes, error: CacheError, replacing: bool = True) -> Flow[bool]:
    """The value can't be stored: nor may the old one stay, where it was to replace that."""
    direct._note_unstorable(wire, error)
    if replacing:
        yield from _remove(direct, wire)
    if direct._raises:
        raise error
    return False


def remove(direct: Direct, key: str) -> Flow[bool]:
    """``delete``: True when something was there."""
    wire = wire_key(direct._prefix, key)
    try:
        return (yield from _remove(direct, wire))
    finally:
        direct._env.flights.forget(wire)
        direct._env.touched(wire)


def touch(direct: Direct, key: str, ttl: Any) -> Flow[bool]:
    """``touch``: give ``key`` a new ttl, counted from now; False where nothing is stored."""
    wire = wire_key(direct._prefix, key)
    until = direct._until_touched(ttl)
    if until == AT_ONCE:
        return (yield from remove(direct, key))
    request = b"touch %b %d\r\n" % (wire, until)
    reply = yield from _command(direct, wire, request, None, retry=True, fits=_touched)
    return reply is not None and reply.code == "TOUCHED"


def count(direct: Direct, key: str, delta: int, initial: int | None, ttl: Any, mode: bytes) -> Flow[int | None]:
    """``incr`` and, by ``mode``, ``decr``: the new number. Where nothing is stored: add ``initial``; should somebody
    else have come before that, count once more.
    """
    check_counts(delta, initial)
    wire = wire_key(direct._prefix, key)
    for _ in range(2):
        opaque = direct._env.opaque()
        request = meta.ma(wire, b"%b D%d v O%d" % (mode, delta, opaque))
        reply = yield from _command(direct, wire, request, opaque)
        if reply is not None and reply.code == "VA":
            return _number(direct, wire, reply)
        if reply is None or reply.code != "NF" or initial is None:
            return None
        if (yield from store(direct, key, initial, ttl, b" ME")):
            return initial
    return None


def _number(direct: Direct, wire: bytes, reply: Reply) -> int | None:
    try:
        return int(reply.value or b"")
    except ValueError:
        index = direct._fleet.ring.index(wire)
        name = direct._fleet.names[index]
        return direct._trouble(index, ProtocolError(f"{name} counted to what is no number", server=name), None)


def _touched(replies: list[Reply]) -> bool:
    return replies[0].code in ("TOUCHED", "NOT_FOUND", "ERROR")


def _remove(direct: Direct, wire: bytes) -> Flow[bool]:
    opaque, reply = direct._env.opaque(), None
    try:
        reply = yield from _command(direct, wire, direct._env.removal(wire, opaque), opaque, retry=True)
    finally:  # whoever waited for it may have gone before the answer
        if reply is None:
            direct._undelivered(wire)
    return reply is not None and reply.code == "HD"


def _command(
    direct: Direct,
    wire: bytes,
    request: bytes,
    opaque: int | None,
    *,
    retry: bool = False,
    fits: Callable[[list[Reply]], bool] | None = None,
) -> Flow[Reply | None]:
    """The reply to one command about ``wire``; None on trouble. ``retry``: it may go twice, should the server have
    closed the connection while that lay idle.
    """
    index = direct._fleet.ring.index(wire)
    try:
        outcome: Replies = yield Exchange(index, request, 1, opaque, retry, fits=fits)
    except ServerError as error:
        return direct._trouble(index, error, None)
    reply = outcome.replies[0]
    return direct._trouble(index, _refused(direct, index, reply), None) if reply.code == "ERROR" else reply


def _refused(direct: Direct, server: int, reply: Reply) -> Refused:
    return Refused(reply.error or "", server=direct._fleet.names[server])


# -- many -------------------------------------------------------------------------------------------------------------


def store_many(direct: Direct, values: Mapping[str, Any], ttl: Any) -> Flow[list[str]]:
    """``set_many``: store every value; the keys that were not stored. Never sent twice."""
    opaque = direct._env.opaque()
    commands, names, bad = direct._stores(values, ttl, b" O%d" % opaque)
    for _, wire, error in bad:
        yield from unstorable(direct, wire, error)
    try:
        odd = yield from _send_all(direct, commands, opaque, {})
    finally:
        direct._env.touched(*names)
    return [*(key for key, _, _ in bad), *(names[wire] for wire in odd)]


def remove_many(direct: Direct, keys: Iterable[str]) -> Flow[list[str]]:
    """``delete_many``: remove ``keys``; those that no server acknowledged."""
    opaque, names = direct._env.opaque(), direct._names(keys)
    odd: dict[bytes, str] = {}
    try:
        requests = {wire: direct._env.removal(wire, opaque) for wire in names}
        yield from _send_all(direct, requests, opaque, odd, retry=True)
    finally:
        unacknowledged = [wire for wire, code in odd.items() if code not in ("NF", "NS")]
        direct._undelivered(*unacknowledged)
        direct._env.flights.forget()
        direct._env.touched(*names)
    return [names[wire] for wire in unacknowledged]


def _send_all(
    direct: Direct, commands: Mapping[bytes, bytes], opaque: int, odd: dict[bytes, str], *, retry: bool = False
) -> Flow[dict[bytes, str]]:
    """Send one command a key, all under one token, batch after bounded batch; the reply's code for each key whose reply
    was not HD, LOST where it had none. A server in trouble costs its own keys only, and is asked no further. ``odd``: a
    new dict for them, of use to those who must know also where this is left.
    """
    odd.update(dict.fromkeys(commands, "LOST"))
    groups = by_server(commands, direct._fleet)
    waiting = {server: batches([commands[key] for key in group]) for server, group in groups.items()}
    while waiting:
        lots = {server: cut.pop(0) for server, cut in waiting.items()}
        outcomes = yield Gather(
            tuple(Exchange(server, b"".join(lot), len(lot), opaque, retry) for server, lot in lots.items())
        )
        troubles: list[tuple[int, ServerError]] = []
        for (server, lot), outcome in zip(lots.items(), outcomes, strict=True):
            group = groups[server]
            keys, groups[server] = group[: len(lot)], group[len(lot) :]
            if isinstance(outcome, ServerError):
                troubles.append((server, outcome))
                waiting[server] = []
                continue
            for key, reply in zip(keys, outcome.replies, strict=True):
                if reply.code == "HD":
                    del odd[key]
                else:
                    odd[key] = reply.code
        for server, error in troubles:
            direct._trouble(server, error, None)
        waiting = {server: cut for server, cut in waiting.items() if cut}
    return odd


# -- computing --------------------------------------------------------------------------------------------------------


def get_or_set(direct: Direct, key: str, compute: Callable[[], Any], ttl: Any) -> Flow[Any]:
    """``get_or_set``: the value under ``key``; where there is none, the one that ``compute()`` gives, which is stored.
    As ``ops.Compute`` has it, asyncio awaits what ``compute`` returns.
    """
    from cachekit.flows.call import call  # noqa: PLC0415 - seven modules that the other verbs do without

    wire = wire_key(direct._prefix, key)
    recipe = Recipe(
        name="get_or_set",
        packer=direct._packer,
        ttl=direct._parsed(ttl),
        lease_s=LIBRARY["lease"],
        enveloped=False,
        max_value_bytes=direct._max_value_bytes,
    )
    recipe.tally = direct._tally
    job = Job(recipe, wire, direct._fleet.ring.index(wire), compute)
    return call(job, direct._env, None)
