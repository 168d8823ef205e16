"""What a store and an increment do to an item: shared by the meta commands and the classic ones."""

from __future__ import annotations

from typing import Final

from .digits import UINT64, uint64
from .store import Item, Store

# Ways to store, by the letter of ms's M flag (protocol.txt, *Meta Set*); CAS is what S and R become together with C.
SET, ADD, APPEND, PREPEND, REPLACE, CAS = "S", "E", "A", "P", "R", "CAS"

# How a store or an increment can end, by the code of the meta protocol.
STORED: Final = b"HD"
NOT_STORED: Final = b"NS"
EXISTS: Final = b"EX"
NOT_FOUND: Final = b"NF"
NON_NUMERIC: Final = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"

# protocol.txt, *Meta Set* and *Storage commands*: what each way does where there is nothing.
_ON_NOTHING: Final = {
    SET: STORED,
    ADD: STORED,
    APPEND: NOT_STORED,
    PREPEND: NOT_STORED,
    REPLACE: NOT_STORED,
    CAS: NOT_FOUND,
}


def write(
    store: Store, key: bytes, item: Item, mode: str, now: float, *, cas: int = 0, stale_if_older: bool = False
) -> bytes:
    """Store ``item`` in that way; the result's code. On STORED, ``item.cas`` is its new CAS number.

    cas: the number that the old item must have, 0 = any (but for CAS, which 0 never satisfies). stale_if_older: the I
    flag.
    """
    old = store.find(key, now)
    if old is None:
        code = _ON_NOTHING[mode]
        if code == STORED:
            store.put(key, item, now)
        return code
    if mode == ADD:
        # protocol.txt, *Meta Set*, mode E: "LRU bump and return NS if item exists".
        store.items.move_to_end(key)
        return NOT_STORED
    if mode == CAS:
        if cas != old.cas and not _accept_older(item, old, cas, stale_if_older):
            return EXISTS
    elif mode in (APPEND, PREPEND):
        if cas not in (0, old.cas):
            return EXISTS
        _join(item, old, mode)
        if not store.fits(key, len(item.value), item.client_flags):
            return NOT_STORED
    store.put(key, item, now)
    return STORED


def _accept_older(item: Item, old: Item, cas: int, stale_if_older: bool) -> bool:
    """protocol.txt, *Meta Set*, I: "a CAS value that is _lower_ … may be accepted", as stale."""
    if not stale_if_older or not 0 < cas < old.cas:
        return False
    item.expires_at, item.stale, item.claimed = old.expires_at, True, old.claimed
    return True


def _join(item: Item, old: Item, mode: str) -> None:
    # protocol.txt, *Storage commands*: append and prepend "ignore new flag and exptime settings". They also end
    # staleness.
    item.client_flags, item.expires_at, item.binary_key = old.client_flags, old.expires_at, False
    item.value = old.value + item.value if mode == APPEND else item.value + old.value


def add_delta(
    store: Store, key: bytes, delta: int, now: float, *, up: bool, cas: int = 0
) -> tuple[bytes, bytes, Item | None]:
    """Increment or decrement by ``delta``: the result's code, the new number, and the item to report on.

    The item reported is the *old* one where the number grew longer, as in 1.6.18: a new ttl given by ``ma … T`` is lost
    then.
    """
    item = store.find(key, now)
    if item is None:
        return NOT_FOUND, b"", None
    if not item.value:
        return NON_NUMERIC, b"", None
    if cas not in (0, item.cas):
        return EXISTS, b"", None
    number = uint64(item.value)
    if number is None:
        return NON_NUMERIC, b"", None
    # protocol.txt, *Increment/Decrement*: underflow is caught at 0, overflow wraps "around the 64 bit mark".
    number = (number + delta) % UINT64 if up else max(0, number - delta)
    text = b"%d" % number
    store.counts["incr_hits" if up else "decr_hits"] += 1
    if len(text) <= len(item.value):
        # "The number MAY be space-padded at the end".
        item.value = text.ljust(len(item.value))
        item.cas = store.next_cas()
        store.items.move_to_end(key)
    else:
        new = store.put(key, Item(text, item.client_flags, item.expires_at), now)
        item.cas = new.cas
    return STORED, text, item
