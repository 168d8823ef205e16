"""One glance at the reply to a read: plainly fresh, plainly ours to fill, or neither.

This is the one place where speed decides the form. It says again, for the two replies that nearly every read gets and
for nothing else, what ``policy.judge`` says in full; a test holds the two together. Whatever is not whole, not under
our own token, or in any way odd is neither, and goes the long way: parsed properly, judged properly, told to
``flows.call``.

Pure: bytes in, a value or a lease out. The blocking shell and the asyncio shell both look through it.
"""

from __future__ import annotations

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
            end = begin + int(words[1])
            if end - begin < head_size or end > len(data):
                return NOT_PLAIN
            version, groups, at, own, created, ttl, _, _, hard, delta, generation = unpack_head(data, begin)
            age, seen = now() * 1000.0 - created, (hard - int(words[4][1:])) * 1000.0
            if hard and not seen - 1000.0 <= age <= seen + 1000.0:
                age = seen + (1000.0 if age > seen else -1000.0)
            if age >= ttl != FOREVER or own != key[-16:] or version != VERSION or groups != 1:
                return NOT_PLAIN
            if grouped:
                if data[end:] != b"\r\nHD c%d O%d Z\r\n" % (generation, opaque):
                    return NOT_PLAIN
            elif generation or data[end:] != b"\r\n":
                return NOT_PLAIN
            value = unpack(int(words[3][1:]) ^ ENVELOPED, data[begin + at : end])
        except (ValueError, DecodeError):
            return NOT_PLAIN
        tally.hits += 1
        tally.saved_us += delta
        if on_hit.listeners:
            on_hit.emit(Hit(recipe.name, key.decode(), env.server_names[index], max(age, 0.0) / 1000.0))
        return value

    return glance


def plainly_mine(data: bytes, opaque: int, grouped: bool) -> tuple[int, tuple[int, ...]] | None:
    """The lease's CAS number and the generations in a reply that found nothing and gave us the W; else None."""
    line_end = data.find(b"\r\n")
    words = data[:line_end].split(b" ")
    token = b"O%d" % opaque
    if len(words) != 7 or words[0] != b"VA" or words[1] != b"0" or words[3] != b"f0" or words[5] != token:
        return None
    if words[6] != b"W" or not data.startswith(b"\r\n\r\n", line_end) or not words[2][1:].isdigit():
        return None
    if not grouped:
        return (int(words[2][1:]), ()) if len(data) == line_end + 4 else None
    line = data[line_end + 4 :].split(b" ")
    if len(line) != 4 or line[0] != b"HD" or line[2] != token or line[3] not in (b"Z\r\n", b"W\r\n"):
        return None
    return (int(words[2][1:]), (int(line[1][1:]),)) if line[1][1:].isdigit() else None
