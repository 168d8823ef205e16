"""The classic commands of the embedded server: protocol.txt, *Storage commands* to *Get And Touch*, and after."""

from __future__ import annotations

from typing import Final

from . import writes
from .digits import int32, uint32, uint64
from .meta_commands import MAX_KEY_BYTES
from .store import Item, Store
from .wire import BAD_CHUNK, BAD_FORMAT, ERROR, TOO_LARGE, Body, Refusal

VERSION: Final = b"1.6.18-cachekit"

_BAD_EXPTIME = b"CLIENT_ERROR invalid exptime argument\r\n"

# The classic names of a store's ways and ends.
_WAYS: Final = {
    b"set": writes.SET,
    b"add": writes.ADD,
    b"replace": writes.REPLACE,
    b"append": writes.APPEND,
    b"prepend": writes.PREPEND,
    b"cas": writes.CAS,
}
_ENDS: Final = {
    writes.STORED: b"STORED\r\n",
    writes.NOT_STORED: b"NOT_STORED\r\n",
    writes.EXISTS: b"EXISTS\r\n",
    writes.NOT_FOUND: b"NOT_FOUND\r\n",
}


def _expect(words: list[bytes], least: int, most: int) -> None:
    if not least <= len(words) <= most:
        raise Refusal(ERROR)


def _unless_noreply(words: list[bytes], reply: bytes) -> bytes:
    # protocol.txt, *Storage commands*: "noreply" is the last word, and hides errors too, where the line was understood.
    return b"" if words[-1] == b"noreply" else reply


def storage(store: Store, words: list[bytes], body: Body, now: float) -> bytes:
    """Six commands: ``<set|add|replace|append|prepend|cas> <key> <flags> <exptime> <bytes> [<cas>] [noreply]``."""
    mode = _WAYS[words[0]]
    least = 6 if mode == writes.CAS else 5
    _expect(words, least, least + 1)
    return _unless_noreply(words, _store(store, words, body, now, mode))


def _store(store: Store, words: list[bytes], body: Body, now: float, mode: str) -> bytes:
    key, flags, exptime, size = words[1], uint32(words[2]), int32(words[3]), int32(words[4])
    cas = uint64(words[5]) if mode == writes.CAS else 0
    if len(key) > MAX_KEY_BYTES or flags is None or exptime is None or cas is None:
        return BAD_FORMAT
    if size is None or not 0 <= size <= 2**31 - 3:
        return BAD_FORMAT
    data = body.take(size)
    if not store.fits(key, size, flags):
        store.counts["store_too_large"] += 1
        if mode == writes.SET and store.find(key, now) is not None:
            store.drop(key)
        return TOO_LARGE
    store.counts["cmd_set"] += 1
    if data is None:
        return BAD_CHUNK
    item = Item(data, flags, store.expires_at(exptime, now))
    return _ENDS[writes.write(store, key, item, mode, now, cas=cas)]


def get(store: Store, words: list[bytes], now: float) -> bytes:
    """Both get and gets: several keys, one VALUE for each that is there, one END."""
    _expect(words, 2, len(words))
    return _values(store, words[1:], now, with_cas=words[0] == b"gets", exptime=None)


def gat(store: Store, words: list[bytes], now: float) -> bytes:
    """Both gat and gats: get and touch."""
    _expect(words, 2, len(words))
    exptime = int32(words[1])
    if exptime is None:
        return _BAD_EXPTIME
    return _values(store, words[2:], now, with_cas=words[0] == b"gats", exptime=exptime)


def _values(store: Store, keys: list[bytes], now: float, *, with_cas: bool, exptime: int | None) -> bytes:
    parts: list[bytes] = []
    kind = "get" if exptime is None else "touch"
    for key in keys:
        if len(key) > MAX_KEY_BYTES:
            return BAD_FORMAT
        item = store.find(key, now)
        store.counts[f"{kind}_misses" if item is None else f"{kind}_hits"] += 1
        if item is None:
            continue
        if exptime is not None:
            item.expires_at = store.expires_at(exptime, now)
        store.bump(key, item, now)
        cas = b" %d" % item.cas if with_cas else b""
        parts.append(b"VALUE %b %d %d%b\r\n%b\r\n" % (key, item.client_flags, len(item.value), cas, item.value))
    return b"".join(parts) + b"END\r\n"


def touch(store: Store, words: list[bytes], now: float) -> bytes:
    """Carry out ``touch <key> <exptime> [noreply]``."""
    _expect(words, 3, 4)
    exptime = int32(words[2])
    if len(words[1]) > MAX_KEY_BYTES:
        return _unless_noreply(words, BAD_FORMAT)
    if exptime is None:
        return _unless_noreply(words, _BAD_EXPTIME)
    item = store.find(words[1], now)
    store.counts["touch_misses" if item is None else "touch_hits"] += 1
    if item is None:
        return _unless_noreply(words, b"NOT_FOUND\r\n")
    item.expires_at = store.expires_at(exptime, now)
    store.bump(words[1], item, now)
    return _unless_noreply(words, b"TOUCHED\r\n")


def arithmetic(store: Store, words: list[bytes], now: float) -> bytes:
    """Both incr and decr: ``<command> <key> <value> [noreply]``."""
    _expect(words, 3, 4)
    delta = uint64(words[2])
    if len(words[1]) > MAX_KEY_BYTES:
        return _unless_noreply(words, BAD_FORMAT)
    if delta is None:
        return _unless_noreply(words, b"CLIENT_ERROR invalid numeric delta argument\r\n")
    up = words[0] == b"incr"
    code, text, _ = writes.add_delta(store, words[1], delta, now, up=up)
    if code == writes.NOT_FOUND:
        store.counts["incr_misses" if up else "decr_misses"] += 1
        text = b"NOT_FOUND"
    return _unless_noreply(words, code if code == writes.NON_NUMERIC else text + b"\r\n")


def delete(store: Store, words: list[bytes], now: float) -> bytes:
    """Carry out ``delete <key> [0] [noreply]``."""
    _expect(words, 2, 4)
    # An ancient time argument is still taken, if it is 0.
    if words[2:] not in ([], [b"0"], [b"noreply"], [b"0", b"noreply"]):
        usage = b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n"
        return _unless_noreply(words, usage)
    if len(words[1]) > MAX_KEY_BYTES:
        return _unless_noreply(words, BAD_FORMAT)
    if store.find(words[1], now) is None:
        store.counts["delete_misses"] += 1
        return _unless_noreply(words, b"NOT_FOUND\r\n")
    store.counts["delete_hits"] += 1
    store.drop(words[1])
    return _unless_noreply(words, b"DELETED\r\n")


def flush_all(store: Store, words: list[bytes], now: float) -> bytes:
    """Carry out ``flush_all [delay] [noreply]``."""
    _expect(words, 1, 3)
    store.counts["cmd_flush"] += 1
    delay: int | None = 0
    if len(words) > (2 if words[-1] == b"noreply" else 1):
        delay = int32(words[1])
    if delay is None:
        return _unless_noreply(words, _BAD_EXPTIME)
    store.flush(now, delay)
    return _unless_noreply(words, b"OK\r\n")


def version(store: Store, words: list[bytes], now: float) -> bytes:
    """Tell the version: the server that is imitated, and that it is imitated."""
    return b"VERSION %b\r\n" % VERSION


def stats(store: Store, words: list[bytes], now: float) -> bytes:
    """Carry out ``stats`` alone; those of a real server's slabs and connections have no counterpart here."""
    if len(words) > 1:
        return ERROR
    facts: dict[str, object] = {"version": VERSION.decode(), "time": int(now), **store.stats(now)}
    return b"".join(b"STAT %b %b\r\n" % (k.encode(), str(v).encode()) for k, v in facts.items()) + b"END\r\n"
