"""One glance at the reply to a read: plainly fresh, plainly ours to fill, or neither.

This is the one place where speed decides the form. It says again, for the two replies that nearly every read gets and
for nothing else, what ``policy.judge`` says in full; a test holds the two together. Whatever is not whole, not under
our own token, or in any way odd is neither, and goes the long way: parsed properly, judged properly, told to
``flows.call``.

Pure: bytes in, a value or a lease out. The blocking shell and the asyncio shell both look through it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from cachekit.codecs.envelope import FOREVER, HEAD, VERSION
from cachekit.codecs.flags import ENVELOPED
from cachekit.env import Env
from cachekit.errors import DecodeError
from cachekit.hooks import Hit
from cachekit.recipe import Recipe

NOT_PLAIN: Final = object()
"""Neither: the caller must look properly."""

Glance = Callable[[bytes, bytes, int, int], Any]
"""Takes the key, the whole reply, the opaque token and the server's index; returns the value or ``NOT_PLAIN``."""

_C, _F, _T = b"cft"


def glance_at(recipe: Recipe, env: Env) -> Glance:
    """A function that returns the value in a plainly fresh reply, and counts the hit.

    Only for enveloped entries with at most one generation, whose read was ``recipe.read``.
    """
    tally, unpack, unpack_head, now = recipe.tally, recipe.packer.unpack, HEAD.unpack_from, env.now
    grouped, on_hit, head_size = len(recipe.generations) == 1, env.hooks.on_hit, HEAD.size

    def glance(key: bytes, data: bytes, opaque: int, index: int) -> Any:
        line_end = data.find(b"\r\n")
        words = data[:line_end].split(b" ")
        # VA <size> c<cas> f<flags> t<seconds> O<opaque>, with neither W, Z nor X behind it.
        if len(words) != 6 or words[0] != b"VA" or words[5] != b"O%d" % opaque:
            return NOT_PLAIN
        begin = line_end + 2
        try:
            size, flags = int(words[1]), int(words[3][1:])
            end = begin + size
            if size < head_size or end > len(data) or not flags & ENVELOPED or not words[1].isdigit():
                return NOT_PLAIN
            if words[2][0] != _C or words[3][0] != _F or words[4][0] != _T or not words[2][1:].isdigit():
                return NOT_PLAIN
            version, groups, at, own, created, ttl, _, _, hard, delta, generation = unpack_head(data, begin)
            age, seen = now() * 1000.0 - created, (hard - int(words[4][1:])) * 1000.0
            if hard and not seen - 1000.0 <= age <= seen + 1000.0:
                if not 0.0 <= seen <= hard * 1000.0:
                    return NOT_PLAIN  # touched since it was stored: the server's age says nothing
                age = seen + (1000.0 if age > seen else -1000.0)
            if age >= ttl != FOREVER or not ttl or own != key[-16:]:
                return NOT_PLAIN
            if version != VERSION or groups != 1 or not head_size <= at <= size:
                return NOT_PLAIN
            if grouped:
                if data[end:] != b"\r\nHD c%d O%d Z\r\n" % (generation, opaque):
                    return NOT_PLAIN
            elif generation or data[end:] != b"\r\n":
                return NOT_PLAIN
            value = unpack(flags, data[begin + at : end])
        except (ValueError, LookupError, OverflowError, DecodeError):
            return NOT_PLAIN
        tally.hits += 1
        tally.saved_us += delta
        if on_hit.listeners:
            on_hit.emit(Hit(recipe.name, key.decode(), env.server_names[index], max(age, 0.0) / 1000.0))
        return value

    return glance


# Nineteen digits always fit 64 bits; the few numbers that have twenty go the long way.
_MINE: Final = re.compile(
    rb"VA 0 c(\d{1,19}) f0 t-?\d{1,10} O(\d+) W\r\n\r\n(?:HD c(\d{1,19}) O(\d+) [WZ]\r\n)?"
).fullmatch


def plainly_mine(data: bytes, opaque: int, grouped: bool) -> tuple[int, tuple[int, ...]] | None:
    """The lease's CAS number and the generations in a reply that found nothing and gave us the W; else None."""
    found = _MINE(data)
    if found is None:
        return None
    cas, token, generation, second = found.groups()
    if token != b"%d" % opaque or (second != token if grouped else second is not None):
        return None
    return int(cas), (int(generation),) if grouped else ()
