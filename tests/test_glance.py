"""One glance must never say more than a proper look: it agrees with Parser and judge, or abstains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from flows.scripted import GENERATION, KEY, entry, make_recipe, va
from hypothesis import example, given
from hypothesis import strategies as st

from cachekit.codecs import Packer, Registry, resolve
from cachekit.codecs.compress import Compression
from cachekit.codecs.envelope import FOREVER, Header, open_envelope, seal
from cachekit.codecs.flags import ENVELOPED
from cachekit.env import Env
from cachekit.errors import CacheError, DecodeError
from cachekit.glance import NOT_PLAIN, glance_at, plainly_mine
from cachekit.hooks import Hit, Hooks
from cachekit.meta import Parser, Reply
from cachekit.policy import Verdict
from cachekit.recipe import Recipe, Snapshot, numbers

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


def recipe_of(*, grouped: bool) -> Recipe:
    """A recipe with or without a generation."""
    return make_recipe(generations=(GENERATION,) if grouped else ())


RECIPES = {grouped: recipe_of(grouped=grouped) for grouped in (False, True)}


class Look(NamedTuple):
    """What was looked through, and what it may see."""

    env: Env
    hits: list[Hit]
    glance: Callable[[bytes, bytes, int, int], Any]


def look(recipe: Recipe, now_s: float = NOW) -> Look:
    """A glance with a clock that stands."""
    env = Env(("server:1",), Hooks())
    env.now = lambda: now_s
    hits: list[Hit] = []
    env.hooks.on_hit(hits.append)
    return Look(env, hits, glance_at(recipe, env))


def properly(recipe: Recipe, data: bytes, now_s: float) -> Any:
    """The value that ``data`` holds by the long way, or ``ABSENT``."""
    replies = parsed(recipe, data)
    if replies is None:
        return ABSENT
    judgement = recipe.judge(replies[0], numbers(replies[1:]), KEY, now_s)
    if judgement.verdict is not Verdict.FRESH:
        return ABSENT
    try:
        return recipe.open(replies[0], judgement)
    except DecodeError:
        return ABSENT


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
    second: bytes = b"HD c5 O77 Z\r\n",
) -> bytes:
    """A server's whole answer to a read."""
    head = b"VA %d c9 f%d t%d O%b%b\r\n%b\r\n" % (len(data), flags, t, opaque, more, data)
    return head + (second if recipe.generations else b"")


def stored(recipe: Recipe, value: Any, *, created: float = NOW - 10, **changes: Any) -> tuple[int, bytes]:
    """Client flags and data of an entry, with any field of its header changed."""
    packer = changes.pop("packer", recipe.packer)
    flags, payload = packer.pack(value)
    usual = Header(KEY[-16:], int(created * 1000), 60_000, 0, 0, 61, 250_000, (5,) if recipe.generations else (0,))
    return flags | ENVELOPED, seal(usual._replace(**changes), payload)


# -- the property ------------------------------------------------------------------------------------------------------

COMPRESSING = Packer(resolve(None, registry=Registry()), Compression(min_bytes=1, min_raw_bytes=1))


@st.composite
def answers(draw: st.DrawFn, recipe: Recipe) -> bytes:
    """Answers of every kind: most fields as they should be, any of them off now and then."""
    odd = draw(
        st.sets(st.sampled_from(["times", "owner", "groups", "flags", "line", "second", "at", "codec"]), max_size=2)
    )
    value = draw(st.sampled_from(VALUES))
    changes: dict[str, Any] = {}
    if "times" in odd:
        changes["created_ms"] = draw(times_ms)
        changes["ttl_ms"] = draw(st.sampled_from([0, 1, 9_999, 10_000, 10_001, 60_000, 10**12, FOREVER - 1, FOREVER]))
        changes["hard_s"] = draw(st.sampled_from([0, 1, 11, 61, 3600, 2**32 - 1]))
    if "owner" in odd:
        changes["fingerprint"] = b"B" * 16
    if "groups" in odd:
        changes["generations"] = draw(st.sampled_from([(0,), (4,), (6,), (5, 5), (0, 0), (2**64 - 1,)]))
    if "codec" in odd:
        changes["packer"] = COMPRESSING
    flags, data = stored(recipe, value, **changes)
    if "flags" in odd:
        flags = draw(
            st.sampled_from([0, 1, 64, flags ^ ENVELOPED, flags ^ 128, flags ^ 192, flags ^ 15, flags ^ 48, 2**33])
        )
    if "at" in odd:
        place = draw(st.integers(0, 3))
        data = data[:place] + bytes([draw(st.integers(0, 255))]) + data[place + 1 :]
    details: dict[str, Any] = {}
    if "line" in odd or "times" in odd:
        details["t"] = draw(st.sampled_from([-1, 0, 1, 50, 51, 60, 61, 62, 63, 3600, 10**6, 10**400]))
    if "line" in odd:
        details["more"] = draw(st.sampled_from([b"", b" W", b" Z", b" X", b" X W", b" Z X", b" ", b" s1", b" q"]))
        details["opaque"] = draw(st.sampled_from([b"77", b"77", b"78", b"7", b"", b"077", b"777"]))
    if "second" in odd:
        details["second"] = draw(st.sampled_from(SECONDS))
    return answer(recipe, flags, data, **details)


times_ms = st.sampled_from([0.0, 0.5, 1.5, 10, 3600, -3600, 1e6, -1e6, NOW]).map(lambda s: int((NOW - s) * 1000))
SECONDS = [
    b"",
    b"HD c5 O77 W\r\n",
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


NOWS = st.sampled_from([NOW, NOW, NOW, NOW - 3600, NOW + 3600, NOW + 49, NOW + 50, NOW + 51.5, NOW - 11, 0.0, 2.0**40])


@pytest.mark.parametrize("grouped", [False, True])
@given(data=st.data())
def test_a_glance_serves_only_what_a_proper_look_serves(grouped: bool, data: st.DataObject) -> None:
    """Whatever the bytes: a value comes only where parsing and judging say FRESH, and it is the same value."""
    recipe = RECIPES[grouped]
    reply = data.draw(damaged(answers(recipe)))
    now_s = data.draw(NOWS)
    through = look(recipe, now_s)
    before = recipe.tally.hits
    seen = through.glance(KEY, reply, OPAQUE, 0)
    if seen is NOT_PLAIN:
        assert (recipe.tally.hits, through.hits) == (before, [])
    else:
        assert same(seen, properly(recipe, reply, now_s))
        assert (recipe.tally.hits, len(through.hits)) == (before + 1, 1)
        assert through.hits[0].age_s >= 0.0


@given(noise=st.binary(max_size=300) | st.text("VA HDcft0O7WZX\r\n", max_size=200).map(str.encode))
@example(b"VA 0")
@example(b"VA 100 c1 f1 t1 O77\r\n")
@example(b"VA " + b"9" * 5000 + b" c1 f1 t1 O77\r\n")
@example(b"VA -100 c1 f1 t1 O77\r\n" + b"x" * 200)
@example(b"VA 100 c f t O77\r\n" + b"x" * 200)
@example(b"VA 100    O77\r\n" + b"x" * 200)
@example(b"VA 100  f51779 t1 O77\r\n" + b"x" * 200)
@example(b"VA 100 c1 f1 t" + b"9" * 400 + b" O77\r\n" + b"\x01" * 200)
def test_noise_is_never_a_value_and_never_an_error(noise: bytes) -> None:
    """A server that sends anything at all gets no further than NOT_PLAIN."""
    for grouped, recipe in RECIPES.items():
        assert look(recipe).glance(KEY, noise, OPAQUE, 0) is NOT_PLAIN
        assert plainly_mine(noise, OPAQUE, grouped) is None


# -- and it does serve what is plainly fresh ---------------------------------------------------------------------------


@given(
    value=st.none() | st.integers() | st.text() | st.binary() | st.lists(st.integers() | st.text()),
    age_s=st.floats(0, 3597),
    ttl_s=st.floats(3600, 10**8) | st.none(),
    skew_s=st.sampled_from([0.0, -0.9, 0.9, 4 * 3600.0, -4 * 3600.0]),
    generation=st.integers(1, 2**64 - 1),
    cas=st.integers(1, 2**64 - 1),
    opaque=st.integers(1, 2**63),
    grouped=st.booleans(),
    compressed=st.booleans(),
)
def test_every_plainly_fresh_reply_is_served(
    value: Any,
    age_s: float,
    ttl_s: float | None,
    skew_s: float,
    generation: int,
    cas: int,
    opaque: int,
    grouped: bool,
    compressed: bool,
) -> None:
    """What ``seal`` wrote and a server hands out in time, flags W, Z and X absent, never takes the long way."""
    recipe = RECIPES[grouped]
    packer = COMPRESSING if compressed else recipe.packer
    snapshot = Snapshot((generation,) if grouped else (), NOW - age_s)
    flags, data, _ = recipe.seal(KEY, packer.pack(value), ttl_s, snapshot, 0.25)
    hard_s = open_envelope(data)[0].hard_s
    t = hard_s - round(age_s) if hard_s else -1
    reply = b"VA %d c%d f%d t%d O%d\r\n%b\r\n" % (len(data), cas, flags, t, opaque, data)
    if grouped:
        reply += b"HD c%d O%d Z\r\n" % (generation, opaque)
    through = look(recipe, NOW + skew_s)
    saved = recipe.tally.saved_us
    assert same(through.glance(KEY, reply, opaque, 0), value)
    assert recipe.tally.saved_us == saved + 250_000
    assert (through.hits[0].function, through.hits[0].key, through.hits[0].server) == (
        "app:report",
        KEY.decode(),
        "server:1",
    )


# -- every single way to be off ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("value", ["kept", b"VA 0\r\n" * 20, {"n": [1, 2]}, "x" * 3000])
def test_a_reply_cut_at_any_byte_is_not_plain(grouped: bool, value: Any) -> None:
    """Only the whole reply is looked at: what ends early, and what goes on, goes the long way."""
    recipe = RECIPES[grouped]
    whole = answer(recipe, *stored(recipe, value))
    glance = look(recipe).glance
    assert same(glance(KEY, whole, OPAQUE, 0), value)
    for end in range(len(whole)):
        assert glance(KEY, whole[:end], OPAQUE, 0) is NOT_PLAIN
    for more in (b"\r\n", b" ", b"\x00", whole, b"HD c5 O77 Z\r\n", b"END\r\n"):
        assert glance(KEY, whole + more, OPAQUE, 0) is NOT_PLAIN
        assert glance(KEY, more + whole, OPAQUE, 0) is NOT_PLAIN


@pytest.mark.parametrize("grouped", [False, True])
def test_any_byte_changed_is_seen_or_changes_nothing(grouped: bool) -> None:
    """Every byte of a reply in turn, replaced by ones that mean something here."""
    recipe = RECIPES[grouped]
    whole = answer(recipe, *stored(recipe, "kept"))
    through = look(recipe)
    plain = 0
    for at in range(len(whole)):
        for new in b"019 \r\n-+_.WXZOcft\x00\x01\x02\x80\xff":
            reply = whole[:at] + bytes([new]) + whole[at + 1 :]
            seen = through.glance(KEY, reply, OPAQUE, 0)
            if seen is not NOT_PLAIN:
                plain += 1
                assert same(seen, properly(recipe, reply, NOW)), reply
    assert plain > 100


@pytest.mark.parametrize("flag", [b"W", b"Z", b"X", b"X W", b"Z X", b"s5", b"k" + KEY])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_reply_with_a_flag_more_is_not_plain(flag: bytes, grouped: bool) -> None:
    """W, Z and X have stories of their own, and any other flag was not asked for."""
    recipe = RECIPES[grouped]
    reply = answer(recipe, *stored(recipe, "kept"), more=b" " + flag)
    assert look(recipe).glance(KEY, reply, OPAQUE, 0) is NOT_PLAIN


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": b"B" * 16},
        {"generations": (4,)},
        {"generations": (6,)},
        {"generations": (5, 5)},
        {"created": NOW - 61, "t": 0},
        {"created": NOW - 60, "t": 1},
        {"created": NOW - 3600, "hard_s": 3700, "ttl_ms": 50_000},
        {"ttl_ms": 0, "created": NOW + 0.5, "hard_s": 0},
    ],
)
def test_an_entry_that_is_not_to_be_served_is_not_plain(changes: dict[str, Any]) -> None:
    """Another key's, another generation's, too old by either clock."""
    recipe, changes = RECIPES[True], dict(changes)
    t = changes.pop("t", 50)
    assert look(recipe).glance(KEY, answer(recipe, *stored(recipe, "old", **changes), t=t), OPAQUE, 0) is NOT_PLAIN


def test_old_data_stays_old_under_any_reader_s_clock() -> None:
    """The server's count clamps what a clock hours behind takes for young; a touched item goes the long way."""
    recipe = RECIPES[True]
    flags, data = stored(recipe, "old", created=NOW, hard_s=61)
    for now_s in (NOW - 4 * 3600, NOW, NOW + 61, NOW + 4 * 3600):
        assert look(recipe, now_s).glance(KEY, answer(recipe, flags, data, t=0), OPAQUE, 0) is NOT_PLAIN
    late = look(recipe, NOW + 500)
    for t in (-1, 62, 3600, 10**400):
        assert late.glance(KEY, answer(recipe, flags, data, t=t), OPAQUE, 0) is NOT_PLAIN


def test_the_clamp_is_a_second_wide() -> None:
    """Ten seconds old by the server: the header's 11.5 count as 11, its 8.5 as 9."""
    recipe = RECIPES[True]
    older = answer(recipe, *stored(recipe, "kept", created=NOW - 11.5, ttl_ms=11_200, hard_s=60), t=50)
    younger = answer(recipe, *stored(recipe, "old", created=NOW - 8.5, ttl_ms=8_800, hard_s=60), t=50)
    assert look(recipe).glance(KEY, older, OPAQUE, 0) == properly(recipe, older, NOW) == "kept"
    assert look(recipe).glance(KEY, younger, OPAQUE, 0) is NOT_PLAIN
    assert properly(recipe, younger, NOW) is ABSENT


@pytest.mark.parametrize("size", [b"+72", b"7_2", b"-72", b"72 ", b" 72", b"7.2", b"0x48"])
def test_a_length_is_digits(size: bytes) -> None:
    """What Python would take for a number, the protocol does not."""
    recipe = RECIPES[True]
    whole = answer(recipe, *stored(recipe, "kept"))
    assert whole.startswith(b"VA 72 ")
    assert look(recipe).glance(KEY, whole.replace(b"VA 72", b"VA " + size, 1), OPAQUE, 0) is NOT_PLAIN


@pytest.mark.parametrize("grouped", [False, True])
def test_a_value_too_short_for_a_header_is_not_plain(grouped: bool) -> None:
    """Every length below that of a header, with the flags of an entry."""
    recipe = RECIPES[grouped]
    flags, data = stored(recipe, "kept")
    for size in range(68):
        assert look(recipe).glance(KEY, answer(recipe, flags, data[:size]), OPAQUE, 0) is NOT_PLAIN


@pytest.mark.parametrize("change", [ENVELOPED, 128, 192, 1 << 31, 1 << 40])
def test_flags_of_another_layout_are_not_plain(change: int) -> None:
    """What looks like an entry but does not say so by its client flags is none."""
    recipe = RECIPES[True]
    flags, data = stored(recipe, b"kept")
    assert look(recipe).glance(KEY, answer(recipe, flags ^ change, data), OPAQUE, 0) is NOT_PLAIN


@pytest.mark.parametrize("at", [0, 4, 67, 74, 75, 65_535])
def test_a_header_whose_length_can_not_be_is_not_plain(at: int) -> None:
    """The payload begins behind the fixed fields, and within the value."""
    recipe = RECIPES[True]
    flags, data = stored(recipe, "kept")
    assert len(data) == 72
    reply = answer(recipe, flags, data[:2] + at.to_bytes(2, "big") + data[4:])
    assert look(recipe).glance(KEY, reply, OPAQUE, 0) is NOT_PLAIN


def test_a_longer_header_of_this_version_is_read() -> None:
    """The header length says where the payload begins, so that later releases may add fields."""
    recipe = RECIPES[True]
    flags, data = stored(recipe, "kept")
    reply = answer(recipe, flags, data[:2] + (70).to_bytes(2, "big") + data[4:68] + b"++" + data[68:])
    assert look(recipe).glance(KEY, reply, OPAQUE, 0) == "kept"


def test_a_payload_that_can_not_be_read_is_not_plain() -> None:
    """A DecodeError belongs to the long way, which counts it and fills anew."""
    recipe = RECIPES[True]
    flags, data = stored(recipe, {"n": 1})
    before = recipe.tally.info()
    assert look(recipe).glance(KEY, answer(recipe, flags, data[:-1] + b"\xc1"), OPAQUE, 0) is NOT_PLAIN
    assert recipe.tally.info() == before


# -- plainly mine ------------------------------------------------------------------------------------------------------

MINE = b"VA 0 c7 f0 t-1 O77 W\r\n\r\n"
MINE_LINES = [
    MINE,
    MINE.replace(b"t-1", b"t30"),
    MINE.replace(b"O77 W", b"O77 X W"),
    MINE.replace(b"O77 W", b"O77 W X"),
]
MINE_LINES += [
    MINE.replace(b"O77", b"O78"),
    MINE.replace(b"W", b"Z"),
    MINE.replace(b" W", b""),
    MINE.replace(b"f0", b"f1"),
]
MINE_LINES += [MINE.replace(b"c7", b"c" + b"9" * n) for n in (19, 20, 21, 5000)]
MINE_LINES += [MINE.replace(b"c7", b"c-7"), MINE.replace(b"c7", b"c+7"), MINE.replace(b"c7", b"s7"), b"EN O77\r\n"]


@pytest.mark.parametrize("grouped", [False, True])
@given(data=st.data())
def test_plainly_mine_agrees_with_the_verdict_mine(grouped: bool, data: st.DataObject) -> None:
    """A lease is taken at a glance only where judging says MINE, under the same CAS and the same generations."""
    recipe = RECIPES[grouped]
    whole = st.tuples(st.sampled_from(MINE_LINES), st.sampled_from(SECONDS if grouped else [b"", b"", *SECONDS]))
    reply = data.draw(damaged(whole.map(b"".join)))
    seen = plainly_mine(reply, OPAQUE, grouped)
    if seen is not None:
        replies = parsed(recipe, reply)
        assert replies is not None
        generations = numbers(replies[1:])
        assert recipe.judge(replies[0], generations, KEY, NOW).verdict is Verdict.MINE
        assert seen == (replies[0].cas, generations)


@given(
    cas=st.integers(1, 10**19 - 1),
    generation=st.integers(1, 10**19 - 1),
    opaque=st.integers(1, 2**63),
    t=st.integers(-1, 30),
    flag=st.sampled_from([b"W", b"Z"]),
)
def test_every_plain_lease_is_taken(cas: int, generation: int, opaque: int, t: int, flag: bytes) -> None:
    """An empty value and the W, with the generation old or just made."""
    first = b"VA 0 c%d f0 t%d O%d W\r\n\r\n" % (cas, t, opaque)
    assert plainly_mine(first, opaque, False) == (cas, ())
    assert plainly_mine(first + b"HD c%d O%d %b\r\n" % (generation, opaque, flag), opaque, True) == (cas, (generation,))


@pytest.mark.parametrize("grouped", [False, True])
def test_a_lease_cut_at_any_byte_is_not_plain(grouped: bool) -> None:
    """Half a reply gives no lease, nor does one with anything behind it."""
    whole = MINE + (b"HD c5 O77 Z\r\n" if grouped else b"")
    assert plainly_mine(whole, OPAQUE, grouped) == (7, (5,) if grouped else ())
    assert plainly_mine(whole, OPAQUE, not grouped) is None
    for end in range(len(whole)):
        assert plainly_mine(whole[:end], OPAQUE, grouped) is None
    assert plainly_mine(whole, 78, grouped) is None
    for more in (b"\r\n", b"\n", b"\x00", whole):
        assert plainly_mine(whole + more, OPAQUE, grouped) is None


def test_generations_in_turn_are_each_judged_by_their_own_number() -> None:
    """However many bumps a process sees, in whatever order the servers' entries come, none stands for another."""
    recipe = make_recipe()
    seen = look(recipe)
    for generation in [*range(1, 200), *range(1, 200, 7)]:
        stored = entry(recipe, generation, created=NOW, generation=generation)
        fresh = va(stored, generation=generation).replace(b"O?", b"O77")
        bumped = va(stored, generation=generation + 1).replace(b"O?", b"O77")
        assert seen.glance(KEY, bumped, 77, 0) is NOT_PLAIN
        assert seen.glance(KEY, fresh, 77, 0) == generation
