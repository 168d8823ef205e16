"""One glance at the reply to a read: plainly fresh, plainly ours to fill, or neither.

This is the one place where speed decides the form. It says again, for the two replies that nearly every read gets and
for nothing else, what ``policy.judge`` says in full; a test holds the two together. Whatever is not whole, not under
our own token, or in any way odd is neither, and goes the long way: parsed properly, judged properly, told to
``flows.call``.

Pure: bytes in, a value or a lease out. The blocking shell and the asyncio shell both look through it.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from cachekit.codecs.envelope import HEAD, VERSION
from cachekit.codecs.flags import ENVELOPED
from cachekit.env import Env
from cachekit.errors import DecodeError
from cachekit.hooks import Hit
from cachekit.policy import EARLIEST
from cachekit.recipe import Recipe

_GENERATIONS_KEPT: Final = 64

NOT_PLAIN: Final = object()
"""Neither: the caller must look properly."""
EARLY: Final = object()
"""Fresh, but this reader has drawn, and is to refresh it before its ttl (XFetch; see ``policy``)."""

Glance = Callable[..., Any]
"""Takes the key, the whole reply, the opaque token and the server's index; returns the value, ``NOT_PLAIN`` or
``EARLY``. Where generations were asked for apart, their numbers are a fifth argument, and not in the reply; one alone
is a number, and no tuple. A sixth: how many generations stand over an entry that bears tags or a namespace.
"""

# The answer to ``recipe.read`` with neither W nor X behind it. Z: somebody refreshes what is fresh still.
HIT_LINE: Final = re.compile(rb"VA (\d{1,10}) c(\d{1,20}) f(\d{1,10}) t(-?\d{1,10}) (O\d+)( Z)?\r\n").match


def glance_at(recipe: Recipe, env: Env) -> Glance:
    """A function that returns the value in a plainly fresh reply, and counts the hit.

    Only for enveloped entries, whose read was ``recipe.read``.
    """
    tally, unpack_head, now, draw, on_hit = recipe.tally, HEAD.unpack_from, env.now, env.draw, env.hooks.on_hit
    grouped, head_size, decoders = bool(recipe.generations), HEAD.size, _Decoders(recipe)
    behind, beta, sliding = _Behind(), recipe.terms.beta, recipe.terms.sliding
    distrust = env.distrust
    # From this share of its ttl on an entry needs a closer look.
    closer = 0.1 if sliding else 1.0 - EARLIEST if beta else 1.0

    def glance(key: bytes, data: bytes, opaque: int, index: int, told: Any = None, many: int = 0) -> Any:
        found = HIT_LINE(data)
        if found is None:
            return NOT_PLAIN
        size, cas, flags, left, token, claimed = found.groups()
        begin = found.end()
        end = begin + int(size)
        if token != b"O%d" % opaque or end - begin < head_size or end > len(data):
            return NOT_PLAIN
        version, groups, at, own, created, ttl, _, _, hard, delta, generation = unpack_head(data, begin)
        age, seen = now() * 1000.0 - created, (hard - int(left)) * 1000.0
        if hard and not seen - 1000.0 <= age <= seen + 1000.0:
            age = _clamped(age, seen, hard)
        early = False
        if age >= ttl * closer or not ttl:
            if age >= ttl or not ttl or sliding:
                return NOT_PLAIN
            early = claimed is None and age + min(draw(beta) * delta / 1000.0, EARLIEST * ttl) >= ttl
        if own != key[-16:] or version != VERSION or groups != (many or 1) or begin + at > end or at < head_size:
            return NOT_PLAIN
        if many:
            holds = at >= head_size + 8 * (many - 1) and _all_hold(data, begin, end, many, token, told)
        elif told is not None or not grouped:
            holds = data[end:] == b"\r\n" and generation == (told or 0)
        else:
            expected = behind[generation] + token + b" Z\r\n"
            # Without the Z the record's last bump was a soft one, and this entry is from after it.
            holds = data[end:] == expected or data[end:] == expected[:-4] + b"\r\n"
        holds = holds and not (distrust and created < distrust.get(index, 0.0) * 1000.0)
        if early or not holds:
            return EARLY if holds else NOT_PLAIN
        if claimed is not None:
            env.seen_for_s(key, int(cas))  # should the refresher have died, his lease counts from the first sight of it
        try:
            value = decoders[flags](data[begin + at : end])
        except DecodeError:
            return NOT_PLAIN
        tally.hits += 1
        tally.saved_us += delta
        if on_hit.listeners:
            on_hit.emit(Hit(recipe.name, key.decode(), env.server_names[index], max(age, 0.0) / 1000.0))
        return value

    return glance


def _clamped(age: float, seen: float, hard: int) -> float:
    """The age in milliseconds by what the server has ``seen``, where the header tells another. Touched since it was
    stored, the server's says nothing: then it is as good as over.
    """
    if not 0.0 <= seen <= hard * 1000.0:
        return math.inf
    return seen + (1000.0 if age > seen else -1000.0)


def _all_hold(data: bytes, begin: int, end: int, many: int, token: bytes, told: tuple[int, ...] | None) -> bool:
    """Whether the answers behind an entry, or the numbers that were ``told``, are those of its header."""
    unpack, template = _generations_of(many)
    numbers, behind = unpack(data, begin + HEAD.size - 8), data[end:]
    if told is not None:
        return behind == b"\r\n" and numbers == told
    words: list[Any] = [token] * (2 * many)
    words[::2] = numbers
    expected = template % tuple(words)
    # Without its Z a record's last bump was a soft one, and this entry is from after it.
    return behind == expected or behind.replace(b" Z\r\n", b"\r\n") == expected.replace(b" Z\r\n", b"\r\n")


@cache
def _generations_of(many: int) -> tuple[Callable[[bytes, int], tuple[int, ...]], bytes]:
    """What reads so many numbers out of a header, and what the answers are put into: number and token of each."""
    return struct.Struct(f">{many}Q").unpack_from, b"\r\nHD c%d %b Z" * many + b"\r\n"


class _Behind(dict[int, bytes]):
    """What stands behind a value under a generation, up to the token: made once for each number, not for every hit."""

    def __missing__(self, generation: int) -> bytes:
        if len(self) >= _GENERATIONS_KEPT:
            self.clear()
        text = self[generation] = b"\r\nHD c%d " % generation
        return text


class _Decoders(dict[bytes, Callable[[bytes], Any]]):
    """How to read a payload, by the digits of its client flags; found once for each kind of value."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self._packer = recipe.packer

    def __missing__(self, digits: bytes) -> Callable[[bytes], Any]:
        flags = int(digits)
        if not flags & ENVELOPED:
            raise DecodeError("an entry without the flag of an enveloped value")
        decode = self[digits] = self._packer.decoder(flags)
        return decode


# Nineteen digits always fit 64 bits; the few numbers that have twenty go the long way, and so does 0: a server without
# CAS numbers says that.
_MINE: Final = re.compile(
    rb"VA 0 c([1-9]\d{0,18}) f0 t-?\d{1,10} O(\d+) W\r\n\r\n(?:HD c([1-9]\d{0,18}) O(\d+) [WZ]\r\n)?"
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
