"""One glance must never say more than a proper look: it agrees with Parser and judge, or abstains."""

from __future__ import annotations

from typing import Any

import pytest
from flows.scripted import KEY, entry, make_recipe, va
from hypothesis import example, given
from hypothesis import strategies as st
from support.replies import (
    ABSENT,
    COMPRESSING,
    KINDS,
    KINDS_OF,
    NOW,
    OPAQUE,
    RECIPES,
    answer,
    answers,
    damaged,
    judged,
    look,
    properly,
    same,
    stored,
)

from cachekit.codecs.envelope import open_envelope
from cachekit.codecs.flags import ENVELOPED
from cachekit.glance import EARLY, NOT_PLAIN, plainly_mine
from cachekit.policy import Verdict
from cachekit.recipe import Snapshot

# -- the property ------------------------------------------------------------------------------------------------------

NOWS = st.sampled_from([NOW, NOW, NOW, NOW - 3600, NOW + 3600, NOW + 49, NOW + 50, NOW + 51.5, NOW - 11, 0.0, 2.0**40])


LUCK = st.sampled_from([0.0, 0.0, 0.01, 1.0, 1.3, 40.0, 1e9])


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_glance_serves_only_what_a_proper_look_serves(kind: str, grouped: bool, data: st.DataObject) -> None:
    """Whatever the bytes: a value comes only where parsing and judging say FRESH, and it is the same value; and an
    early refresh only where they find a fresh value due by the same draw.
    """
    recipe = KINDS_OF[grouped, kind]
    reply = data.draw(damaged(answers(recipe)))
    now_s, luck = data.draw(NOWS), data.draw(LUCK)
    through = look(recipe, now_s, luck)
    before = recipe.tally.hits
    seen = through.glance(KEY, reply, OPAQUE, 0)
    if seen is NOT_PLAIN or seen is EARLY:
        assert (recipe.tally.hits, through.hits) == (before, [])
    else:
        assert same(seen, properly(recipe, reply, now_s, luck))
        assert (recipe.tally.hits, len(through.hits)) == (before + 1, 1)
        assert through.hits[0].age_s >= 0.0
    if seen is EARLY:
        judgement, _ = judged(recipe, reply, now_s, luck)
        assert judgement.verdict in (Verdict.DUE, Verdict.THROTTLED)
        assert judgement.header is not None
        assert judgement.age_ms < judgement.header.ttl_ms


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


@pytest.mark.parametrize("flag", [b"W", b"X", b"X W", b"Z X", b"X Z", b"Z Z", b"Z W", b"s5", b"k" + KEY])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_reply_with_a_flag_more_is_not_plain(flag: bytes, grouped: bool) -> None:
    """W and X have stories of their own, and any other flag was not asked for."""
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


# -- one generation after the other ------------------------------------------------------------------------------------


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


# -- freshness ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("more", [b"", b" Z"])
def test_a_young_value_is_served_under_every_policy(kind: str, grouped: bool, more: bytes) -> None:
    """Z behind it: somebody refreshes what is fresh still, and a hit costs what it always costs."""
    recipe = KINDS_OF[grouped, kind]
    reply = answer(recipe, *stored(recipe, "kept", created=NOW - 5, slide_ms=60_000, retry_ms=7), t=56, more=more)
    assert look(recipe, luck=1e9).glance(KEY, reply, OPAQUE, 0) == "kept"


@pytest.mark.parametrize(
    ("age_s", "luck", "more", "expected"),
    [
        (59.9, 0.39, b"", "kept"),
        (59.9, 0.41, b"", EARLY),
        (59.9, 0.41, b" Z", "kept"),
        (47.9, 1e9, b"", "kept"),
        (48.1, 1e9, b"", EARLY),
        (60.1, 0.0, b"", NOT_PLAIN),
        (60.1, 0.0, b" Z", NOT_PLAIN),
    ],
)
def test_an_early_refresh_is_drawn_on_the_hit_path(age_s: float, luck: float, more: bytes, expected: object) -> None:
    """By the same rule as in policy.py, with δ = 0.25 s; not where somebody has claimed it already."""
    recipe = KINDS_OF[True, "early"]
    reply = answer(recipe, *stored(recipe, "kept", created=NOW - age_s), t=61 - int(age_s), more=more)
    seen = look(recipe, luck=luck).glance(KEY, reply, OPAQUE, 0)
    assert seen is expected if expected in (EARLY, NOT_PLAIN) else seen == expected


def test_nothing_is_drawn_where_nothing_can_be_early() -> None:
    """A hit in the first four fifths, and any hit of a function with β = 0, takes no random number."""
    for kind, age_s in (("early", 40.0), ("plain", 59.9), ("stale", 59.9)):
        recipe = KINDS_OF[True, kind]
        through = look(recipe)
        through.env.luck = lambda: pytest.fail("drawn")
        reply = answer(recipe, *stored(recipe, "kept", created=NOW - age_s), t=61 - int(age_s))
        assert through.glance(KEY, reply, OPAQUE, 0) == "kept"


@pytest.mark.parametrize(("age_s", "plain"), [(5.9, True), (6.1, False), (59.0, False)])
def test_a_value_to_slide_goes_the_long_way(age_s: float, plain: bool) -> None:
    """Once a tenth of its ttl has passed; until then it is a hit like any other."""
    recipe = KINDS_OF[True, "sliding"]
    reply = answer(recipe, *stored(recipe, "kept", created=NOW - age_s, slide_ms=60_000), t=61 - int(age_s))
    seen = look(recipe).glance(KEY, reply, OPAQUE, 0)
    assert (seen == "kept") if plain else (seen is NOT_PLAIN)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stale_value_is_no_plain_hit(kind: str) -> None:
    """Past its ttl: who may be served it is decided on the long way."""
    recipe = KINDS_OF[True, kind]
    old = stored(recipe, "old", created=NOW - 61, stale_ms=30_000, hard_s=92)
    for more in (b"", b" Z"):
        assert look(recipe).glance(KEY, answer(recipe, *old, t=31, more=more), OPAQUE, 0) is NOT_PLAIN
