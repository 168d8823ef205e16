"""The meta commands of the embedded server: protocol.txt, from *Meta Debug* to *Meta No-Op*, as 1.6.18 obeys it.

Flags are carried out in the order of the request, which shows: ``mg k t T60`` tells the old ttl, ``mg k T60 t`` the new
one.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from functools import lru_cache
from math import ceil, inf
from typing import Final, NamedTuple

from . import writes
from .digits import int32, uint32, uint64
from .store import MAX_RELATIVE_S, Item, Store
from .wire import BAD_CHUNK, BAD_FORMAT, ERROR, TOO_LARGE, Body, Refusal

MAX_KEY_BYTES: Final = 250
_MAX_WORDS: Final = 19
_MAX_OPAQUE_WORD_BYTES: Final = 32  # the letter O and 31 more

# What each number on the command line is read as, and what is said when it isn't one ("" = nothing of its own).
_BAD_TOKEN = b"CLIENT_ERROR bad token in command line format\r\n"
_NUMBERS: Final[dict[int, tuple[Callable[[bytes], int | None], bytes]]] = {
    ord("N"): (int32, _BAD_TOKEN),
    ord("T"): (int32, _BAD_TOKEN),
    ord("R"): (int32, _BAD_TOKEN),
    ord("F"): (uint32, b""),
    ord("C"): (uint64, _BAD_TOKEN),
    ord("J"): (uint64, b"CLIENT_ERROR invalid numeric initial value\r\n"),
    ord("D"): (uint64, b"CLIENT_ERROR invalid numeric delta value\r\n"),
}
_KNOWN: Final = frozenset(b"bNTRlOPLkstcfvhuqFCMJDI")
_B, _C, _D, _F, _I, _J, _K, _M, _N, _O, _R, _T, _Q, _U, _V = b"bCDFIJkMNORTquv"


class _Plan(NamedTuple):
    """What can be said of a request by its flags' letters alone."""

    error: bytes
    parsed: tuple[int, ...]  # positions of the flags whose token must be read


@lru_cache(maxsize=1024)
def _plan(letters: bytes) -> _Plan:
    seen: set[int] = set()
    for letter in letters:
        if letter >= 127 or letter in seen:
            return _Plan(b"CLIENT_ERROR duplicate flag\r\n", ())
        if letter not in _KNOWN:
            return _Plan(b"CLIENT_ERROR invalid flag\r\n", ())
        seen.add(letter)
    return _Plan(b"", tuple(i for i, letter in enumerate(letters) if letter in _NUMBERS or letter in (_B, _M)))


class _Asked:
    """The flags of one request, read and found valid."""

    __slots__ = ("key", "letters", "mode", "numbers", "words")

    def __init__(self, key: bytes, words: list[bytes]) -> None:
        self.key = key
        self.words = words
        self.letters = letters = bytes([word[0] for word in words])
        self.mode = ""
        self.numbers: dict[int, int] = {}
        plan = _plan(letters)
        if plan.error:
            raise Refusal(plan.error)
        if plan.parsed:
            self._read(plan.parsed)

    def _read(self, positions: tuple[int, ...]) -> None:
        # All of them are read, and the last complaint is the one that is told.
        failed, complaint = False, BAD_FORMAT
        for position in positions:
            word, letter = self.words[position], self.letters[position]
            if letter in _NUMBERS:
                read, said = _NUMBERS[letter]
                number = read(word[1:])
                if number is not None:
                    self.numbers[letter] = number
                    continue
            elif letter == _M:
                said = b"CLIENT_ERROR incorrect length for M token\r\n"
                if len(word) == 2:
                    self.mode = chr(word[1])
                    continue
            else:
                said = b"CLIENT_ERROR error decoding key\r\n"
                self.key = _decoded(self.key)
                if self.key:
                    continue
            failed, complaint = True, said or complaint
        if failed:
            raise Refusal(complaint)

    @property
    def quiet(self) -> bool:
        return _Q in self.letters

    def echo(self) -> bytes:
        """The flags of a reply that has no item to tell of: the opaque and the key, in the order asked for."""
        told = b""
        for letter, word in zip(self.letters, self.words, strict=True):
            if letter == _O:
                told += _opaque(word)
            elif letter == _K:
                told += _key(self.key, _B in self.letters)
        return told


def _decoded(key: bytes) -> bytes:
    try:
        return binascii.a2b_base64(key, strict_mode=True)
    except binascii.Error:
        return b""


def _opaque(word: bytes) -> bytes:
    if len(word) > _MAX_OPAQUE_WORD_BYTES:
        raise Refusal(b"CLIENT_ERROR opaque token too long\r\n")
    return b" " + word


def _key(key: bytes, binary: bool) -> bytes:
    return b" k%b b" % binascii.b2a_base64(key, newline=False) if binary else b" k" + key


def _check(words: list[bytes], too_many: bytes = b"CLIENT_ERROR options flags too long\r\n") -> None:
    if len(words) < 2:
        raise Refusal(ERROR)
    if len(words[1]) > MAX_KEY_BYTES:
        raise Refusal(BAD_FORMAT)
    if len(words) > _MAX_WORDS:
        raise Refusal(too_many)


def _asked_simply(words: list[bytes]) -> _Asked:
    """For md and ma, which have one complaint for whatever is wrong with a flag."""
    _check(words)
    try:
        return _Asked(words[1], words[2:])
    except Refusal:
        raise Refusal(b"CLIENT_ERROR invalid or duplicate flag\r\n") from None


# ------------------------------------------------------------------------------------------------------------- mg

_Show = Callable[[Item, bytes, bytes, float], bytes]

# protocol.txt, *Meta Get*: what a flag adds to the reply, given the item, the flag's word, the key and the time.
_SHOW: Final[dict[int, _Show]] = {
    ord("s"): lambda item, word, key, now: b" s%d" % len(item.value),
    ord("t"): lambda item, word, key, now: b" t%d" % item.ttl(now),
    ord("c"): lambda item, word, key, now: b" c%d" % item.cas,
    ord("f"): lambda item, word, key, now: b" f%d" % item.client_flags,
    ord("l"): lambda item, word, key, now: b" l%d" % int(now - item.accessed_at),
    ord("h"): lambda item, word, key, now: b" h1" if item.fetched else b" h0",
    ord("k"): lambda item, word, key, now: _key(key, item.binary_key),
    ord("O"): lambda item, word, key, now: _opaque(word),
}


def mg(store: Store, words: list[bytes], now: float) -> bytes:
    """Carry out a meta get (protocol.txt, *Meta Get*)."""
    _check(words, b"CLIENT_ERROR options flags are too long\r\n")
    asked = _Asked(words[1], words[2:])
    key = asked.key
    item = store.find(key, now)
    created = item is None and _N in asked.numbers
    if created:
        # protocol.txt, *Meta Get*, N: "The automatically created item has 0 bytes of data."
        item = store.put(key, Item(b"", 0, inf), now)
    if item is None:
        store.counts["get_misses"] += 1
        told = asked.echo()
        return b"" if asked.quiet else b"EN%b\r\n" % told
    told, won, touched = _tell(store, asked, item, created, now)
    if item.claimed:
        told += b" Z"
    if item.stale:
        told += b" X"
        won = won or not item.claimed
    if won:
        told += b" W"
        item.claimed = True
    store.counts["touch_hits" if touched else "get_hits"] += 1
    # *Meta Get*, u: "… without causing it to be bumped"; h and l tell of the time "before the command was processed".
    if _U not in asked.letters:
        store.bump(key, item, now)
    if _V in asked.letters:
        value = item.value
        return b"VA %d%b\r\n%b\r\n" % (len(value), told, value)
    return b"HD%b\r\n" % told


def _tell(store: Store, asked: _Asked, item: Item, created: bool, now: float) -> tuple[bytes, bool, bool]:
    """Carry out the flags in order: what they add to the reply, whether W was won, whether the ttl was set."""
    told, won, touched = b"", False, False
    key, numbers = asked.key, asked.numbers
    for letter, word in zip(asked.letters, asked.words):  # noqa: B905 - equal by construction, and strict= costs 0.1 µs
        show = _SHOW.get(letter)
        if show is not None:
            told += show(item, word, key, now)
        elif letter == _N:
            if created:
                item.expires_at = store.expires_at(numbers[_N], now)
                won = True
        elif letter == _T:
            item.expires_at = store.expires_at(numbers[_T], now)
            touched = True
        elif letter == _R:
            won = won or (not created and _recache(store, item, numbers[_R], now))
    return told, won, touched


def _recache(store: Store, item: Item, threshold: int, now: float) -> bool:
    """protocol.txt, *Meta Get*, R: "If the remaining TTL of an item is below the supplied token, return a 'W'"."""
    if item.claimed or item.expires_at == inf or threshold <= 0:
        return False
    if threshold > MAX_RELATIVE_S:  # a Unix time, as any other
        return item.expires_at < threshold
    return ceil(item.expires_at - now) < threshold


# ------------------------------------------------------------------------------------------------------------- ms

_MODES: Final = {"": writes.SET, **{mode: mode for mode in "SEAPR"}}


def ms(store: Store, words: list[bytes], body: Body, now: float) -> bytes:
    """Carry out a meta set (protocol.txt, *Meta Set*)."""
    _check(words)
    size = int32(words[2]) if len(words) > 2 else None
    if size is None or not 0 <= size <= 2**31 - 3:
        # Nothing is taken from the stream: as on the real server, the value will be read as commands.
        return BAD_FORMAT
    data = body.take(size)
    asked = _Asked(words[1], words[3:])
    key, numbers = asked.key, asked.numbers
    mode = _MODES.get(asked.mode)
    if mode is None:
        return b"CLIENT_ERROR invalid mode for ms M token\r\n"
    echo = asked.echo()  # raises for a bad opaque, before anything is changed
    item = Item(b"" if data is None else data, numbers.get(_F, 0), store.expires_at(numbers.get(_T, 0), now))
    if not store.fits(key, size, item.client_flags):
        # "Avoid stale data persisting in cache because we failed": the old value goes, whatever the mode.
        store.counts["store_too_large"] += 1
        if store.find(key, now) is not None:
            store.drop(key)
        return TOO_LARGE
    store.counts["cmd_set"] += 1
    if data is None:
        return BAD_CHUNK
    if _C in numbers and mode in (writes.SET, writes.REPLACE):
        mode = writes.CAS
    item.binary_key = ord("b") in asked.letters
    code = writes.write(store, key, item, mode, now, cas=numbers.get(_C, 0), stale_if_older=_I in asked.letters)
    if code == writes.STORED and asked.quiet:
        return b""
    return b"%b%b\r\n" % (code, _stored_flags(asked, echo, item.cas if code == writes.STORED else 0))


def _stored_flags(asked: _Asked, echo: bytes, cas: int) -> bytes:
    if ord("c") not in asked.letters:
        return echo
    told = b""
    for letter, word in zip(asked.letters, asked.words, strict=True):
        if letter == _O:
            told += _opaque(word)
        elif letter == _K:
            told += _key(asked.key, _B in asked.letters)
        elif letter == ord("c"):
            told += b" c%d" % cas
    return told


# ---------------------------------------------------------------------------------------------------- md ma me mn


def md(store: Store, words: list[bytes], now: float) -> bytes:
    """Carry out a meta delete (protocol.txt, *Meta Delete*)."""
    asked = _asked_simply(words)
    echo = asked.echo()
    item = store.find(asked.key, now)
    if item is None:
        store.counts["delete_misses"] += 1
        return b"NF%b\r\n" % echo
    if asked.numbers.get(_C, item.cas) != item.cas:
        store.counts["delete_misses"] += 1
        return b"EX%b\r\n" % echo
    if _I in asked.letters:
        # protocol.txt, *Meta Delete*, I: a new CAS number, X for all readers, and the right to recache is open again.
        if _T in asked.numbers:
            item.expires_at = store.expires_at(asked.numbers[_T], now)
        item.stale, item.claimed = True, False
        item.cas = store.next_cas()
    else:
        store.counts["delete_hits"] += 1
        store.drop(asked.key)
    return b"" if asked.quiet else b"HD%b\r\n" % echo


def ma(store: Store, words: list[bytes], now: float) -> bytes:
    """Carry out a meta arithmetic (protocol.txt, *Meta Arithmetic*)."""
    asked = _asked_simply(words)
    if asked.mode not in ("", "I", "+", "D", "-"):
        return b"CLIENT_ERROR invalid mode for ma M token\r\n"
    up, numbers = asked.mode in ("", "I", "+"), asked.numbers
    code, text, item = writes.add_delta(store, asked.key, numbers.get(_D, 1), now, up=up, cas=numbers.get(_C, 0))
    quiet = asked.quiet and code == writes.STORED
    created = code == writes.NOT_FOUND and _N in numbers
    if created:
        # protocol.txt, *Meta Arithmetic*, N and J: "on a miss automatically create the item".
        text = b"%d" % numbers.get(_J, 0)
        item = store.put(asked.key, Item(text, 0, inf), now)
    if item is None:
        if code == writes.NOT_FOUND:
            store.counts["incr_misses" if up else "decr_misses"] += 1
        return code if code == writes.NON_NUMERIC else b"%b%b\r\n" % (code, asked.echo())
    told = _tell_number(store, asked, item, created, now)
    if quiet:
        return b""
    return b"VA %d%b\r\n%b\r\n" % (len(text), told, text) if _V in asked.letters else b"HD%b\r\n" % told


def _tell_number(store: Store, asked: _Asked, item: Item, created: bool, now: float) -> bytes:
    told = b""
    for letter, word in zip(asked.letters, asked.words, strict=True):
        if letter == _T or (letter == _N and created):
            item.expires_at = store.expires_at(asked.numbers[letter], now)
        elif letter == _K:
            told += _key(asked.key, _B in asked.letters)
        elif letter in b"ctO":
            told += _SHOW[letter](item, word, asked.key, now)
    return told


def me(store: Store, words: list[bytes], now: float) -> bytes:
    """Carry out a meta debug (protocol.txt, *Meta Debug*)."""
    if len(words) < 2 or len(words[1]) > MAX_KEY_BYTES:
        return BAD_FORMAT
    key = words[1]
    if len(words) > 2 and words[2] == b"b":
        key = _decoded(key)
        if not key:
            return BAD_FORMAT
    store.counts["cmd_meta"] += 1
    item = store.find(key, now)
    if item is None:
        return b"EN\r\n"
    shown = binascii.b2a_base64(key, newline=False) if item.binary_key else key
    # 1.6.18 tells the expiry with the wrong sign.
    left = -1 if item.expires_at == inf else -item.ttl(now)
    facts = (left, int(now - item.accessed_at), item.cas, b"yes" if item.fetched else b"no", item.bytes)
    return b"ME %b " % shown + b"exp=%d la=%d cas=%d fetch=%b cls=1 size=%d\r\n" % facts


def mn(store: Store, words: list[bytes], now: float) -> bytes:
    """Carry out a meta no-op (protocol.txt, *Meta No-Op*)."""
    return b"MN\r\n"
