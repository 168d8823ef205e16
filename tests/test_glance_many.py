"""The glance at an entry under several generations: held to a proper look as the plain one is (test_glance.py)."""

from __future__ import annotations

from typing import Any

import pytest
from flows.scripted import KEY
from hypothesis import given
from hypothesis import strategies as st
from support.replies import (
    ABSENT,
    KINDS,
    MANY_OF,
    NOW,
    NUMBERS,
    OPAQUE,
    RECIPES,
    answer,
    answers,
    behind,
    damaged,
    judged,
    look,
    properly,
    same,
    stored,
)

from cachekit.codecs.envelope import Mark, open_envelope
from cachekit.glance import EARLY, NOT_PLAIN
from cachekit.policy import Verdict
from cachekit.recipe import Snapshot

NOWS = st.sampled_from([NOW, NOW, NOW, NOW - 3600, NOW + 49, NOW + 50, NOW + 51.5, NOW - 11, 0.0, 2.0**40])
LUCK = st.sampled_from([0.0, 0.0, 1.0, 1e9])
PLAIN = MANY_OF["plain"]


def at_a_glance(reply: bytes, many: int = len(NUMBERS), **given: Any) -> Any:
    """What the glance sees."""
    return look(PLAIN, **given).glance(KEY, reply, OPAQUE, 0, None, many)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_glance_serves_only_what_a_proper_look_serves(kind: str, data: st.DataObject) -> None:
    """Whatever the bytes: a value only where parsing and judging say FRESH under all of the numbers, and the same one;
    an early refresh only where they find it due by the same draw.
    """
    recipe = MANY_OF[kind]
    reply = data.draw(damaged(answers(recipe)))
    now_s, luck = data.draw(NOWS), data.draw(LUCK)
    through = look(recipe, now_s, luck)
    before = recipe.tally.hits
    seen = through.glance(KEY, reply, OPAQUE, 0, None, len(NUMBERS))
    if seen is NOT_PLAIN or seen is EARLY:
        assert (recipe.tally.hits, through.hits) == (before, [])
    else:
        assert same(seen, properly(recipe, reply, now_s, luck))
        assert (recipe.tally.hits, len(through.hits)) == (before + 1, 1)
    if seen is EARLY:
        judgement, _ = judged(recipe, reply, now_s, luck)
        assert judgement.verdict in (Verdict.DUE, Verdict.THROTTLED)


@given(noise=st.binary(max_size=300) | st.text("VA HDcft0O7WZX\r\n", max_size=200).map(str.encode))
def test_noise_is_never_a_value_and_never_an_error(noise: bytes) -> None:
    """A server that sends anything at all gets no further than NOT_PLAIN, however many replies are due."""
    for many in (1, 2, 3, 130):
        assert at_a_glance(noise, many) is NOT_PLAIN


@given(
    value=st.none() | st.integers() | st.text() | st.binary() | st.lists(st.integers() | st.text()),
    generations=st.lists(st.integers(1, 2**64 - 1), min_size=1, max_size=130),
    softly=st.data(),
    age_s=st.floats(0, 59),
)
def test_every_plainly_fresh_reply_is_served(
    value: Any, generations: list[int], softly: st.DataObject, age_s: float
) -> None:
    """Under any numbers, as many as there may be; whether the last bump of each was a hard one or a soft one, or its
    record was just made.
    """
    recipe = RECIPES[True]
    flags, data, _ = recipe.seal(KEY, recipe.packer.pack(value), 60.0, Snapshot(tuple(generations), NOW - age_s), 0.25)
    ends = softly.draw(st.lists(st.booleans(), min_size=len(generations), max_size=len(generations)))
    lines = [b"HD c%d O77%b\r\n" % (n, b"" if soft else b" Z") for n, soft in zip(generations, ends, strict=True)]
    reply = answer(recipe, flags, data, t=open_envelope(data)[0].hard_s - round(age_s), second=b"".join(lines))
    assert same(look(recipe).glance(KEY, reply, OPAQUE, 0, None, len(generations)), value)


@pytest.mark.parametrize("value", ["kept", b"VA 0\r\n" * 20, {"n": [1, 2]}, "x" * 3000])
def test_a_reply_cut_at_any_byte_is_not_plain(value: Any) -> None:
    """Only the whole of it is looked at: what ends early, and what goes on, goes the long way."""
    whole = answer(PLAIN, *stored(PLAIN, value))
    assert same(at_a_glance(whole), value)
    for end in range(len(whole)):
        assert at_a_glance(whole[:end]) is NOT_PLAIN
    for more in (b"\r\n", b" ", b"\x00", whole, b"HD c5 O77 Z\r\n", b"END\r\n"):
        assert at_a_glance(whole + more) is NOT_PLAIN
        assert at_a_glance(more + whole) is NOT_PLAIN


def test_any_byte_changed_is_seen_or_changes_nothing() -> None:
    """Every byte of a reply in turn, replaced by ones that mean something here."""
    whole = answer(PLAIN, *stored(PLAIN, "kept"))
    plain = 0
    for at in range(len(whole)):
        for new in b"0157 \r\n-WZXHDcO\x00\x01\xff":
            reply = whole[:at] + bytes([new]) + whole[at + 1 :]
            seen = at_a_glance(reply)
            if seen is not NOT_PLAIN:
                plain += 1
                assert same(seen, properly(PLAIN, reply, NOW)), reply
    assert plain > 100


@pytest.mark.parametrize("position", range(3))
@pytest.mark.parametrize(
    "line",
    [
        b"HD c4 O77 Z\r\n",
        b"HD c6 O77 Z\r\n",
        b"HD c5 O78 Z\r\n",
        b"HD c5 O77 W\r\n",
        b"HD c5 O77 X\r\n",
        b"HD c5 O77 Z X\r\n",
        b"EN O77\r\n",
        b"VA 1 c5 O77\r\n3\r\n",
        b"SERVER_ERROR out of memory\r\n",
        b"",
    ],
)
def test_one_that_is_not_as_it_should_be_is_enough(position: int, line: bytes) -> None:
    """Lower, higher, another's, just made, missing: each of them goes the long way."""
    lines = behind(PLAIN)
    lines[position] = line
    reply = answer(PLAIN, *stored(PLAIN, "kept", generations=(5, 5, 5)), second=b"".join(lines))
    assert at_a_glance(reply) is NOT_PLAIN
    whole = answer(PLAIN, *stored(PLAIN, "kept", generations=(5, 5, 5)), second=b"HD c5 O77 Z\r\n" * 3)
    assert at_a_glance(whole) == "kept"


def test_the_number_of_generations_is_that_of_the_call() -> None:
    """An entry that was stored under fewer tags or more is void, also where the lines behind it look right."""
    for groups in ((5,), (5, 5), (5, 5, 5, 5)):
        for lines in (len(groups), 3):
            reply = answer(PLAIN, *stored(PLAIN, "old", generations=groups), second=b"HD c5 O77 Z\r\n" * lines)
            assert at_a_glance(reply) is NOT_PLAIN
            assert properly(PLAIN, reply, NOW) is ABSENT


def test_a_header_with_room_for_fewer_generations_than_it_counts_is_not_plain() -> None:
    """What would be read as a number is the payload."""
    flags, data = stored(PLAIN, "k" * 16 + "kept", generations=(5,))
    counted = data[:1] + bytes([3]) + data[2:]
    numbers = [5, int.from_bytes(b"k" * 8, "big"), int.from_bytes(b"k" * 8, "big")]
    reply = answer(PLAIN, flags, counted, second=b"".join(b"HD c%d O77 Z\r\n" % number for number in numbers))
    assert at_a_glance(reply) is NOT_PLAIN
    assert properly(PLAIN, reply, NOW) is ABSENT


def test_what_bears_marks_goes_the_long_way() -> None:
    """A second window asks for those."""
    flags, data = stored(PLAIN, "kept", marks=(Mark("", b"app:tag=c", 5, named=True),))
    assert at_a_glance(answer(PLAIN, flags, data)) is NOT_PLAIN
    flags, data = stored(PLAIN, "kept")
    assert at_a_glance(answer(PLAIN, flags, data)) == "kept"


@given(apart=st.lists(st.sampled_from([*NUMBERS, 0, -1, 2**64 - 1]), min_size=len(NUMBERS), max_size=len(NUMBERS)))
def test_numbers_that_came_apart_are_held_to_the_header(apart: list[int]) -> None:
    """As those behind the entry are: every one of them, in their order; and nothing stands behind the entry then."""
    flags, data = stored(PLAIN, "kept")
    whole = answer(PLAIN, flags, data)
    alone = whole[: whole.index(data) + len(data) + 2]
    glance = look(PLAIN).glance
    seen = glance(KEY, alone, OPAQUE, 0, tuple(apart), len(NUMBERS))
    assert (seen == "kept") is (tuple(apart) == tuple(NUMBERS))
    assert glance(KEY, alone, OPAQUE, 0, tuple(NUMBERS), len(NUMBERS)) == "kept"
    assert glance(KEY, alone, OPAQUE, 0, tuple(NUMBERS[:-1]), len(NUMBERS) - 1) is NOT_PLAIN
    assert glance(KEY, whole, OPAQUE, 0, tuple(NUMBERS), len(NUMBERS)) is NOT_PLAIN
    assert glance(KEY, alone, OPAQUE, 0, None, len(NUMBERS)) is NOT_PLAIN
