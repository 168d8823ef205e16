"""Answers of a server to a read, whole and damaged, and the two ways to look at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from flows.scripted import GENERATION, KEY, make_recipe
from hypothesis import strategies as st

from cachekit.codecs import Packer, Registry, resolve
from cachekit.codecs.compress import Compression
from cachekit.codecs.envelope import FOREVER, Header, seal
from cachekit.codecs.failure import encode_failure
from cachekit.codecs.flags import ENVELOPED
from cachekit.codecs.note import ENVELOPED_NOTE
from cachekit.env import Env
from cachekit.errors import CacheError, DecodeError
from cachekit.generations import numbers
from cachekit.glance import glance_at
from cachekit.hooks import Hit, Hooks
from cachekit.meta import Parser, Reply
from cachekit.policy import Judgement, Verdict
from cachekit.recipe import Recalled, Recipe

NOW = 1_800_000_000.0
OPAQUE = 77
ABSENT = object()
"""A proper look finds no value to serve."""

VALUES: list[Any] = [
    None,
    0,
    7,
    -1,
    True,
    "",
    "text",
    "x" * 3000,
    b"",
    b"\r\n",
    b"HD c5 O77 Z\r\n",
    (1, [2.5], {"a": None}),
]


def recipe_of(*, grouped: bool, over: tuple[bytes, ...] = (), **terms: Any) -> Recipe:
    """A recipe with or without a generation, and with others ``over`` it."""
    return make_recipe(generations=(*over, GENERATION) if grouped else (), **terms)


RECIPES = {grouped: recipe_of(grouped=grouped) for grouped in (False, True)}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "early": {"beta": 1.0},
    "eager": {"beta": 100.0, "stale_s": 30.0, "errors": (LookupError,)},
    "sliding": {"sliding": True},
    "stale": {"stale_s": 30.0, "stale_if_error_s": 600.0},
}
KINDS_OF = {
    (grouped, kind): recipe_of(grouped=grouped, **terms) for grouped in RECIPES for kind, terms in KINDS.items()
}
"""Recipes of functions with every sort of policy that bears on a hit."""
MANY_OF = {kind: recipe_of(grouped=True, over=(b"app:tag=a", b"app:tag=b"), **terms) for kind, terms in KINDS.items()}
"""The same, of entries under three generations."""
NUMBERS = (5, 2**64 - 1, 7)
"""Which those are."""


class Look(NamedTuple):
    """What was looked through, and what it may see."""

    env: Env
    hits: list[Hit]
    glance: Callable[..., Any]


def look(recipe: Recipe, now_s: float = NOW, luck: float = 0.0) -> Look:
    """A glance with a clock that stands, and a draw that is always the same."""
    env = Env(("server:1",), Hooks())
    env.now = lambda: now_s
    env.luck = lambda: luck
    hits: list[Hit] = []
    env.hooks.on_hit(hits.append)
    return Look(env, hits, glance_at(recipe, env))


def properly(recipe: Recipe, data: bytes, now_s: float, luck: float = 0.0) -> Any:
    """The value that ``data`` holds by the long way, or ``ABSENT``."""
    judgement, reply = judged(recipe, data, now_s, luck)
    if judgement.verdict is not Verdict.FRESH or reply is None:
        return ABSENT
    try:
        return recipe.open(reply, judgement)
    except (DecodeError, Recalled):
        return ABSENT


def judged(recipe: Recipe, data: bytes, now_s: float, luck: float = 0.0) -> tuple[Judgement, Reply | None]:
    """What the long way makes of ``data``, with the same draw; and the reply, None where there is no whole one."""
    replies = parsed(recipe, data)
    if replies is None:
        return Judgement(Verdict.NO_LEASE), None
    eagerness = recipe.terms.beta * luck
    return recipe.judge(replies[0], numbers(replies[1:]), KEY, now_s, eagerness), replies[0]


def parsed(recipe: Recipe, data: bytes) -> list[Reply] | None:
    """The replies of a whole answer under our token; None for anything else."""
    parser = Parser()
    try:
        replies = parser.feed(data)
    except CacheError:
        return None
    whole = len(replies) == 1 + len(recipe.generations) and not parser.pending
    return replies if whole and all(reply.opaque == b"%d" % OPAQUE for reply in replies) else None


def same(one: Any, other: Any) -> bool:
    """Equal, with equal types, NaN not being of interest."""
    return type(one) is type(other) and one == other


def answer(
    recipe: Recipe,
    flags: int,
    data: bytes,
    *,
    t: int = 50,
    more: bytes = b"",
    opaque: bytes = b"77",
    second: bytes | None = None,
) -> bytes:
    """A server's whole answer to a read. ``second``: what it says of the generations."""
    head = b"VA %d c9 f%d t%d O%b%b\r\n%b\r\n" % (len(data), flags, t, opaque, more, data)
    if not recipe.generations:
        return head
    return head + (b"".join(behind(recipe)) if second is None else second)


def behind(recipe: Recipe) -> list[bytes]:
    """What a server says of each generation."""
    return [b"HD c%d O77 Z\r\n" % number for number in NUMBERS[: len(recipe.generations)]]


def stored(recipe: Recipe, value: Any, *, created: float = NOW - 10, **changes: Any) -> tuple[int, bytes]:
    """Client flags and data of an entry, with any field of its header changed."""
    packer = changes.pop("packer", recipe.packer)
    flags, payload = packer.pack(value)
    usual = Header(
        KEY[-16:], int(created * 1000), 60_000, 0, 0, 61, 250_000, NUMBERS[: len(recipe.generations)] or (0,)
    )
    return flags | ENVELOPED, seal(usual._replace(**changes), payload)


COMPRESSING = Packer(resolve(None, registry=Registry()), Compression(min_bytes=1, min_raw_bytes=1))


@st.composite
def answers(draw: st.DrawFn, recipe: Recipe) -> bytes:
    """Answers of every kind: most fields as they should be, any of them off now and then."""
    odd = draw(
        st.sets(
            st.sampled_from(
                ["times", "late", "terms", "note", "owner", "groups", "flags", "line", "second", "at", "codec"]
            ),
            max_size=3,
        )
    )
    value = draw(st.sampled_from(VALUES))
    changes: dict[str, Any] = {}
    if "times" in odd:
        changes["created_ms"] = draw(times_ms)
        changes["ttl_ms"] = draw(st.sampled_from([0, 1, 9_999, 10_000, 10_001, 60_000, 10**12, FOREVER - 1, FOREVER]))
        changes["hard_s"] = draw(st.sampled_from([0, 1, 11, 61, 3600, 2**32 - 1]))
    if "late" in odd:
        changes["created"] = NOW - draw(LATE_S)
    if "terms" in odd:
        changes["stale_ms"] = draw(st.sampled_from([0, 1, 30_000, FOREVER]))
        changes["stale_if_error_ms"] = draw(st.sampled_from([0, 600_000]))
        changes["retry_ms"] = draw(st.sampled_from([0, 1, 9_999, 10_001, 59_000, 10**12]))
        changes["slide_ms"] = draw(st.sampled_from([0, 60_000]))
        changes["delta_us"] = draw(st.sampled_from([0, 1, 10_000_000, 2**32 - 1]))
    if "owner" in odd:
        changes["fingerprint"] = b"B" * 16
    if "groups" in odd:
        changes["generations"] = draw(st.sampled_from(OTHERS_OF_MANY if len(recipe.generations) > 1 else OTHERS))
    if "codec" in odd:
        changes["packer"] = COMPRESSING
    flags, data = stored(recipe, value, **changes)
    if "note" in odd:
        flags, data = ENVELOPED_NOTE, data[: int.from_bytes(data[2:4], "big")] + draw(st.sampled_from(NOTES))
    if "flags" in odd:
        flags = draw(
            st.sampled_from([0, 1, 64, flags ^ ENVELOPED, flags ^ 128, flags ^ 192, flags ^ 15, flags ^ 48, 2**33])
        )
    if "at" in odd:
        place = draw(st.integers(0, 3))
        data = data[:place] + bytes([draw(st.integers(0, 255))]) + data[place + 1 :]
    details: dict[str, Any] = {}
    if "late" in odd:
        details["t"] = 61 - int(NOW - changes["created"])
    if "line" in odd or "times" in odd:
        details["t"] = draw(st.sampled_from([-1, 0, 1, 50, 51, 60, 61, 62, 63, 3600, 10**6, 10**400]))
    if "line" in odd:
        details["more"] = draw(st.sampled_from([b"", b" W", b" Z", b" X", b" X W", b" Z X", b" ", b" s1", b" q"]))
        details["opaque"] = draw(st.sampled_from([b"77", b"77", b"78", b"7", b"", b"077", b"777"]))
    if "second" in odd:
        lines = behind(recipe) or [b""]
        lines[draw(st.integers(0, len(lines) - 1))] = draw(st.sampled_from(SECONDS))
        details["second"] = b"".join(draw(st.permutations(lines)) if draw(st.booleans()) else lines)
    return answer(recipe, flags, data, **details)


OTHERS = [(0,), (4,), (6,), (5, 5), (0, 0), (2**64 - 1,)]
OTHERS_OF_MANY = [
    *((0,), (5,), (0, 0, 0), (5, 2**64 - 1), (5, 2**64 - 1, 7, 7), (7, 2**64 - 1, 5), (5, 7, 2**64 - 1)),
    *((4, 2**64 - 1, 7), (5, 2**64 - 2, 7), (5, 2**64 - 1, 6), (6, 2**64 - 1, 8), (5, 5, 5)),
]


LATE_S = st.sampled_from([5.9, 6.0, 6.1, 47.9, 48.0, 48.1, 59.0, 59.7, 59.9, 59.999, 60.0, 60.5])
NOTES = [b"P", b"A", b"E", b"", b"Q", b"E" + encode_failure(LookupError("gone"))]
times_ms = st.sampled_from([0.0, 0.5, 1.5, 10, 3600, -3600, 1e6, -1e6, NOW]).map(lambda s: int((NOW - s) * 1000))
SECONDS = [
    b"",
    b"HD c5 O77 W\r\n",
    b"HD c5 O77\r\n",
    b"VA 1 c5 O77\r\n3\r\n",
    b"HD c5 O77 Z",
    b"HD c5 O77 Z\r",
    b"HD c5 O77 Z X\r\n",
    b"HD c4 O77 Z\r\n",
    b"HD c6 O77 Z\r\n",
    b"HD c05 O77 Z\r\n",
    b"HD c5 O78 Z\r\n",
    b"HD O77 c5 Z\r\n",
    b"HD O77\r\n",
    b"EN\r\n",
    b"EN O77\r\n",
    b"NF O77\r\n",
    b"SERVER_ERROR out of memory\r\n",
    b"HD c5 O77 Z\r\nHD c5 O77 Z\r\n",
    b"HD c5 O77 Z\r\nMN\r\n",
    b"HD c5 O77 Z\r\n\r\n",
]


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """An answer cut short, prolonged, or with a few bytes changed, mostly on its lines."""
    data = draw(whole)
    how = draw(st.sampled_from(["not", "not", "cut", "more", "line", "anywhere", "drop"]))
    if how == "cut":
        return data[: draw(st.integers(0, len(data)))]
    if how == "more":
        return data + draw(st.binary(min_size=1, max_size=20))
    if how in ("line", "anywhere", "drop") and data:
        end = data.find(b"\r\n") + 2 if how == "line" else len(data)
        at = draw(st.integers(0, max(0, end - 1)))
        new = (
            b"" if how == "drop" else draw(st.sampled_from([bytes([n]) for n in b"0123456789 \r\n-+_WXZOcfts\x00\xff"]))
        )
        return data[:at] + new + data[at + 1 :]
    return data
