"""The verdict table at the head of policy.py, row by row, and the age of an entry under skewed clocks."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachekit.codecs.envelope import FOREVER, Header, seal
from cachekit.codecs.flags import BYTES, ENVELOPED, MARK, TEXT
from cachekit.codecs.note import ENVELOPED_NOTE, PASS
from cachekit.meta import Parser, Reply
from cachekit.policy import CERTAIN, Verdict, age_ms, judge, lease_age_s

KEY = b"app:report:" + b"A" * 24
NOW = 1_800_000_000.0
HOUR = 3600.0


def header(**changes: Any) -> Header:
    """The header of an entry made just now, fresh for a minute, under generation 5."""
    usual: dict[str, Any] = {
        "fingerprint": KEY[-16:],
        "created_ms": int(NOW * 1000),
        "ttl_ms": 60_000,
        "hard_s": 61,
        "generations": (5,),
    }
    return Header(**usual | changes)


def entry(
    t: int | None = 61, *, stale: bool = False, claimed: bool = False, won: bool = False, **changes: Any
) -> Reply:
    """The reply to a read that found that entry."""
    data = seal(header(**changes), b"value")
    flags = MARK | ENVELOPED | TEXT
    return Reply("VA", data, None, 9, t, flags, b"1", stale=stale, claimed=claimed, won=won)


def passing(t: int | None = 61, *, claimed: bool = False, won: bool = False, **changes: Any) -> Reply:
    """The reply to a read that found a pass marker."""
    return Reply("VA", seal(header(**changes), PASS), None, 9, t, ENVELOPED_NOTE, b"1", claimed=claimed, won=won)


def verdict(
    reply: Reply, generations: tuple[int, ...] | None = (5,), now_s: float = NOW, eagerness: float = 0.0
) -> Verdict:
    """What ``judge`` says."""
    return judge(reply, generations, KEY, now_s, eagerness).verdict


def parsed(reply: bytes) -> Reply:
    """A reply as the server sends it."""
    return Parser().feed(reply)[0]


# -- the table ---------------------------------------------------------------------------------------------------------


def test_a_young_entry_under_the_current_generation_is_fresh() -> None:
    """Row FRESH, with the header and the offset of the payload that go with it."""
    reply = entry()
    judgement = judge(reply, (5,), KEY, NOW)
    assert judgement.verdict is Verdict.FRESH
    assert judgement.header == header()
    assert reply.value is not None
    assert reply.value[judgement.payload_at :] == b"value"


@pytest.mark.parametrize("claimed", [False, True])
def test_a_claim_does_not_make_a_fresh_entry_less_fresh(claimed: bool) -> None:
    """Z on a value says that somebody refreshes it; it is served meanwhile."""
    assert verdict(entry(claimed=claimed)) is Verdict.FRESH


def test_an_entry_lives_for_exactly_its_ttl() -> None:
    """Row DUE: an age of the ttl is too old, a millisecond less is not."""
    assert verdict(entry(t=2), now_s=NOW + 59.999) is Verdict.FRESH
    assert verdict(entry(t=1), now_s=NOW + 60.0) is Verdict.DUE


@pytest.mark.parametrize("ttl_ms", [1, 60_000, 10**12, FOREVER - 1])
@pytest.mark.parametrize("age_s", [0.0, 59.0, 61.0, 10.0**8, 10.0**9])
def test_without_a_hard_end_the_header_alone_judges(ttl_ms: int, age_s: float) -> None:
    """An entry that the server never drops has no second witness for its age."""
    expected = Verdict.FRESH if age_s * 1000 < ttl_ms else Verdict.DUE
    assert verdict(entry(t=-1, hard_s=0, ttl_ms=ttl_ms), now_s=NOW + age_s) is expected


@pytest.mark.parametrize("now_s", [0.0, NOW - 1e6, NOW, NOW + 1e9, 2.0**45])
@pytest.mark.parametrize("t", [None, -1, 0, 1000])
def test_for_ever_is_for_ever(now_s: float, t: int | None) -> None:
    """An entry without a ttl never expires, whatever the clocks of the next million years say."""
    assert verdict(entry(t=t, hard_s=0, ttl_ms=FOREVER), now_s=now_s) is Verdict.FRESH
    assert verdict(entry(t=t, hard_s=61, ttl_ms=FOREVER), now_s=now_s) is Verdict.FRESH


@pytest.mark.parametrize(
    ("written", "current", "expected"),
    [
        ((5,), (5,), Verdict.FRESH),
        ((5,), (6,), Verdict.VOID),
        ((5,), (4,), Verdict.AHEAD),
        ((5,), (), Verdict.VOID),
        ((5,), (5, 1), Verdict.VOID),
        ((5, 1), (5,), Verdict.VOID),
        ((5, 7), (5, 7), Verdict.FRESH),
        ((5, 7), (5, 8), Verdict.VOID),
        ((5, 7), (6, 7), Verdict.VOID),
        ((5, 7), (5, 6), Verdict.AHEAD),
        ((5, 7), (6, 6), Verdict.VOID),
        ((5, 7), (4, 8), Verdict.VOID),
        ((0,), (5,), Verdict.VOID),
        ((5,), (0,), Verdict.AHEAD),
        ((5,), None, Verdict.VOID),
        ((0,), None, Verdict.VOID),
    ],
)
def test_generations(written: tuple[int, ...], current: tuple[int, ...] | None, expected: Verdict) -> None:
    """Equal: valid. One lower than now: void. Only higher than read: read again. Not to be had: fail closed."""
    assert verdict(entry(generations=written), current) is expected


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple),
    st.lists(st.integers(0, 9), max_size=4).map(tuple) | st.none(),
)
def test_only_equal_generations_are_fresh(written: tuple[int, ...], current: tuple[int, ...] | None) -> None:
    """However many there are: nothing but equality lets a value be served."""
    assert (verdict(entry(generations=written), current) is Verdict.FRESH) == (written == current)


def test_a_moved_generation_comes_before_age() -> None:
    """An entry that is both void and too old was invalidated; one that is ahead is read again first."""
    late = NOW + 100
    assert verdict(entry(t=0), (6,), late) is Verdict.VOID
    assert verdict(entry(t=0), (4,), late) is Verdict.AHEAD


TOLD = [
    ({}, Verdict.DUE),
    ({"won": True}, Verdict.WON),
    ({"claimed": True}, Verdict.CLAIMED),
    ({"stale": True, "won": True}, Verdict.WON),
    ({"stale": True, "claimed": True}, Verdict.CLAIMED),
]


@pytest.mark.parametrize(("flags", "expected"), TOLD)
def test_a_value_past_its_ttl_is_what_its_flags_say(flags: dict[str, bool], expected: Verdict) -> None:
    """Rows DUE, WON and CLAIMED: to be claimed, claimed by this reader, claimed by another."""
    assert verdict(entry(t=1, **flags), now_s=NOW + 60.5) is expected
    assert verdict(entry(t=1, **flags, retry_ms=60_400), now_s=NOW + 60.5) is expected


@pytest.mark.parametrize(("flags", "expected"), TOLD[3:])
@pytest.mark.parametrize("changes", [{}, {"ttl_ms": FOREVER, "hard_s": 0}])
def test_a_soft_invalidation_ends_the_ttl_now(
    flags: dict[str, bool], expected: Verdict, changes: dict[str, Any]
) -> None:
    """X: marked stale by ``md I``, however young it is; the W tells one reader, the others see the Z."""
    judgement = judge(entry(**flags, **changes), (5,), KEY, NOW)
    assert judgement.verdict is expected
    assert judgement.servable(), "it is served while its header allows"


def test_a_softly_invalidated_item_is_as_old_as_ever() -> None:
    """``md I`` leaves its end where it was, so no skew makes it young: t 3 of 61 s, and a clock that is behind."""
    assert judge(entry(t=3, stale=True, won=True), (5,), KEY, NOW + 10).age_ms == 57_000.0


@pytest.mark.parametrize("flags", [{}, {"won": True}, {"claimed": True}])
def test_a_fresh_value_is_fresh_whatever_claim_there_is(flags: dict[str, bool]) -> None:
    """A W that came with it is given back; a Z is another's."""
    assert verdict(entry(**flags)) is Verdict.FRESH


@pytest.mark.parametrize(
    ("age_s", "eagerness", "expected"),
    [
        (59.9, 0.0, Verdict.FRESH),
        (59.9, 0.39, Verdict.FRESH),
        (59.9, 0.41, Verdict.DUE),
        (47.99, CERTAIN, Verdict.FRESH),
        (48.01, CERTAIN, Verdict.DUE),
        (48.01, 47.0, Verdict.FRESH),
        (48.01, 48.0, Verdict.DUE),
    ],
)
def test_an_early_refresh_is_a_matter_of_luck_and_of_how_long_the_function_takes(
    age_s: float, eagerness: float, expected: Verdict
) -> None:
    """XFetch: due when age + β·δ·Exp(1) ≥ ttl, with what is added capped at a fifth of the ttl."""
    reply = entry(t=61 - int(age_s), delta_us=250_000)
    assert verdict(reply, now_s=NOW + age_s, eagerness=eagerness) is expected
    claimed = entry(t=61 - int(age_s), delta_us=250_000, claimed=True)
    assert verdict(claimed, now_s=NOW + age_s, eagerness=eagerness) is Verdict.FRESH


@given(eagerness=st.floats(0, 1e15), delta_us=st.integers(0, 2**32 - 1), age_s=st.floats(0, 47.9))
def test_nothing_is_due_before_four_fifths_of_its_ttl(eagerness: float, delta_us: int, age_s: float) -> None:
    """A δ measured on a bad day does not turn every read into a refresh."""
    reply = entry(t=None, delta_us=delta_us)
    assert verdict(reply, now_s=NOW + age_s, eagerness=eagerness) is Verdict.FRESH


def test_the_optimal_draw_begins_about_one_run_before_the_end() -> None:
    """With β = 1 and many readers the first to find it due comes some δ before the ttl, and δ·ln(readers) at most."""
    draws = sorted(-math.log(1 - n / 1000) for n in range(1000))
    due = [eagerness for eagerness in draws if verdict(_long(58.0), eagerness=eagerness) is Verdict.DUE]
    assert len(due) / 1000 == pytest.approx(math.exp(-2.0), abs=0.005), "2 s before the end, δ = 1 s"


def _long(age_s: float) -> Reply:
    return entry(t=None, created_ms=int((NOW - age_s) * 1000), delta_us=1_000_000)


@pytest.mark.parametrize(
    ("age_s", "flags", "expected"),
    [
        (64.9, {}, Verdict.THROTTLED),
        (65.0, {}, Verdict.DUE),
        (64.9, {"won": True}, Verdict.WON),
        (64.9, {"claimed": True}, Verdict.CLAIMED),
        (59.0, {}, Verdict.FRESH),
    ],
)
def test_after_a_failed_refresh_an_entry_is_throttled(age_s: float, flags: dict[str, bool], expected: Verdict) -> None:
    """Row THROTTLED: before the age in the header nobody tries again; who was told to, does."""
    reply = entry(t=None, stale_if_error_ms=30_000, retry_ms=65_000, **flags)
    assert verdict(reply, now_s=NOW + age_s) is expected


def test_a_throttle_ends_with_the_time_that_the_value_may_serve() -> None:
    """Past ttl + stale + stale_if_error there is nothing to throttle for."""
    reply = entry(t=None, stale_ms=1_000, stale_if_error_ms=3_000, retry_ms=90_000)
    assert verdict(reply, now_s=NOW + 63.9) is Verdict.THROTTLED
    assert verdict(reply, now_s=NOW + 64.0) is Verdict.DUE


@pytest.mark.parametrize(
    ("reply", "age_s", "expected"),
    [
        (passing(), 1.0, Verdict.PASS),
        (passing(claimed=True), 1.0, Verdict.PASS),
        (passing(t=1), 60.5, Verdict.DUE),
        (passing(t=1, won=True), 60.5, Verdict.WON),
        (passing(t=1, claimed=True), 60.5, Verdict.CLAIMED),
        (passing(generations=(4,)), 1.0, Verdict.VOID),
        (passing(generations=(6,)), 1.0, Verdict.AHEAD),
        (passing(fingerprint=b"B" * 16), 1.0, Verdict.GARBAGE),
    ],
)
def test_a_pass_marker_is_judged_like_a_value(reply: Reply, age_s: float, expected: Verdict) -> None:
    """Row PASS, and what else a marker can be."""
    assert verdict(reply, now_s=NOW + age_s) is expected


@pytest.mark.parametrize("flags", [MARK | ENVELOPED | TEXT, MARK | ENVELOPED | BYTES, 0, 1])
def test_a_value_that_begins_with_the_markers_letter_is_none(flags: int) -> None:
    """The client flags tell a note from a value."""
    reply = Reply("VA", seal(header(), PASS), None, 9, 61, flags)
    assert verdict(reply) is Verdict.FRESH


@given(
    age_s=st.floats(0, 400),
    stale_ms=st.integers(0, 100_000),
    if_error_ms=st.integers(0, 100_000),
    later_s=st.floats(0, 300),
)
def test_how_long_a_value_may_be_served(age_s: float, stale_ms: int, if_error_ms: int, later_s: float) -> None:
    """To whoever asks within ttl + stale; in place of a failed run within stale_if_error more; counted from now on."""
    judgement = judge(entry(t=None, stale_ms=stale_ms, stale_if_error_ms=if_error_ms), (5,), KEY, NOW + age_s)
    then_ms = judgement.age_ms + later_s * 1000
    assert judgement.servable(later_s) == (then_ms < 60_000 + stale_ms)
    assert judgement.rescues(later_s) == (then_ms < 60_000 + stale_ms + if_error_ms)
    assert not judgement.servable(later_s) or judgement.rescues(later_s)


def test_what_has_no_header_serves_nobody() -> None:
    """Garbage, a stub, an error."""
    for line in (b"VA 4 c9 f1 t50 O1\r\njunk\r\n", b"VA 0 c9 f0 t50 O1 Z\r\n\r\n", b"EN\r\n"):
        judgement = judge(parsed(line), (5,), KEY, NOW)
        assert (judgement.servable(), judgement.rescues(), judgement.age_ms) == (False, False, 0.0)


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"\x00" * 200,
        seal(header(), b"value")[:67],
        b"\x02" + seal(header(), b"value")[1:],
        seal(header(), b"value")[:1] + b"\x00" + seal(header(), b"value")[2:],
        seal(header(), b"value")[:1] + b"\x09" + seal(header(), b"value")[2:],
        seal(header(), b"value")[:2] + b"\xff\xff" + seal(header(), b"value")[4:],
        seal(header(), b"value")[:2] + b"\x00\x04" + seal(header(), b"value")[4:],
        seal(header(fingerprint=b"B" * 16), b"value"),
    ],
)
def test_what_is_no_entry_of_this_key_is_garbage(data: bytes) -> None:
    """Row GARBAGE: foreign bytes, a cut header, another version, lengths that can't be, another key's entry."""
    assert verdict(Reply("VA", data, None, 9, 61, MARK | ENVELOPED | TEXT)) is Verdict.GARBAGE


def test_an_empty_value_that_somebody_stored_is_garbage_and_no_stub() -> None:
    """A stub has client flags 0; an empty value with any others was written by a program."""
    assert verdict(parsed(b"VA 0 c9 f1 t50 O1\r\n\r\n")) is Verdict.GARBAGE
    assert verdict(parsed(b"VA 0 c9 f1 t50 O1 W\r\n\r\n")) is Verdict.GARBAGE


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"VA 0 c9 f0 t-1 O1 W\r\n\r\n", Verdict.MINE),
        (b"VA 0 c9 f0 t100 O1 X W\r\n\r\n", Verdict.MINE),
        (b"VA 0 c9 f0 t100 O1 W X\r\n\r\n", Verdict.MINE),
        (b"VA 0 c9 f0 t30 O1 Z\r\n\r\n", Verdict.BUSY),
        (b"VA 0 c9 f0 t30 O1 X Z\r\n\r\n", Verdict.BUSY),
        (b"VA 0 c9 f0 t30 O1 Z X\r\n\r\n", Verdict.BUSY),
        (b"VA 0 c9 f0 t30 O1\r\n\r\n", Verdict.BUSY),
        (b"VA 0\r\n\r\n", Verdict.BUSY),
        (b"EN\r\n", Verdict.NO_LEASE),
        (b"HD c9 O1\r\n", Verdict.NO_LEASE),
        (b"NF O1\r\n", Verdict.NO_LEASE),
        (b"ERROR\r\n", Verdict.NO_LEASE),
        (b"SERVER_ERROR out of memory\r\n", Verdict.NO_LEASE),
        (b"CLIENT_ERROR bad data chunk\r\n", Verdict.NO_LEASE),
    ],
)
@pytest.mark.parametrize("generations", [(5,), (), None])
def test_replies_without_a_value(line: bytes, expected: Verdict, generations: tuple[int, ...] | None) -> None:
    """Rows MINE, BUSY and NO_LEASE; generations are not looked at where there is nothing to compare."""
    assert verdict(parsed(line), generations) is expected


# -- age ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skew_s", [-1e6, -5 * HOUR, -HOUR, -1.5, -0.5, 0.0, 0.5, 1.5, HOUR, 5 * HOUR, 1e6])
@pytest.mark.parametrize("real_age_s", [0, 1, 1800, 3600, 7200])
def test_a_skewed_clock_moves_the_age_by_a_second_at_most(skew_s: float, real_age_s: int) -> None:
    """The reader's or the writer's clock may be hours off: the server's count of the seconds bounds what it can do."""
    made = header(ttl_ms=7_200_000, hard_s=7201)
    age = age_ms(made, 7201 - real_age_s, NOW + real_age_s + skew_s) / 1000
    assert abs(age - real_age_s) <= 1.0
    assert age >= 0.0
    if abs(skew_s) <= 1.0:
        assert age == max(0.0, real_age_s + skew_s)


@pytest.mark.parametrize("skew_s", [-5 * HOUR, -HOUR, HOUR, 5 * HOUR])
def test_skew_neither_keeps_old_data_nor_drops_young(skew_s: float) -> None:
    """Two seconds before its ttl an entry is fresh, one second behind it is not, on every machine."""
    assert verdict(entry(t=3), now_s=NOW + 58 + skew_s) is Verdict.FRESH
    assert verdict(entry(t=0), now_s=NOW + 61 + skew_s) is Verdict.DUE


@given(
    hard_s=st.integers(1, 2**32 - 1),
    elapsed=st.floats(0, 1),
    reader_skew_s=st.floats(-1e7, 1e7),
)
def test_the_clamp_holds_for_every_skew(hard_s: int, elapsed: float, reader_skew_s: float) -> None:
    """The age is what the server saw, give or take the second by which its clock may be off."""
    seen = round(hard_s * elapsed)
    age = age_ms(header(hard_s=hard_s), hard_s - seen, NOW + seen + reader_skew_s)
    assert max(0.0, seen * 1000 - 1000) <= age <= seen * 1000 + 1000


@pytest.mark.parametrize("t", [None, -1])
def test_a_server_that_tells_no_time_clamps_nothing(t: int | None) -> None:
    """Classic reads bring no ``t``, and −1 is no age."""
    assert age_ms(header(), t, NOW + 500) == 500_000.0


def test_an_age_is_never_negative() -> None:
    """Made in the future is made now."""
    assert age_ms(header(), None, NOW - HOUR) == 0.0
    assert age_ms(header(), 61, NOW - HOUR) == 0.0
    assert verdict(entry(t=None, ttl_ms=0), now_s=NOW - HOUR) is Verdict.DUE


@pytest.mark.parametrize("t", [63, 86_400, 10**12, 10**400])
def test_a_touched_entry_is_as_old_as_its_header_says(t: int) -> None:
    """``touch`` gives the item more time on the server than it was stored for; that makes no old value young."""
    assert age_ms(header(), t, NOW + 500) == 500_000.0
    assert verdict(entry(t=t), now_s=NOW + 500) is Verdict.DUE
    assert verdict(entry(t=t), now_s=NOW + 50) is Verdict.FRESH


@pytest.mark.parametrize(("t", "age_s"), [(30, 0.0), (19, 11.0), (0, 30.0), (-1, 0.0), (None, 0.0)])
def test_the_age_of_a_lease(t: int | None, age_s: float) -> None:
    """Stub − t, where the server says it; else a lease counts as new."""
    assert lease_age_s(Reply("VA", b"", ttl=t), 30) == age_s
