"""The verdict table at the head of policy.py, row by row; the age of an entry under skewed clocks; and policies."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachekit import Cache, Policy
from cachekit.codecs.envelope import FOREVER, Header, seal
from cachekit.codecs.flags import ENVELOPED, MARK, TEXT
from cachekit.errors import ConfigurationError
from cachekit.expiry import every
from cachekit.meta import Parser, Reply
from cachekit.policy import DEFAULTS, LIBRARY, UNSET, Verdict, age_ms, judge, lease_age_s

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


def entry(t: int | None = 61, *, stale: bool = False, claimed: bool = False, **changes: Any) -> Reply:
    """The reply to a read that found that entry."""
    data = seal(header(**changes), b"value")
    flags = MARK | ENVELOPED | TEXT
    return Reply("VA", data, None, 9, t, flags, b"1", stale=stale, claimed=claimed)


def verdict(reply: Reply, generations: tuple[int, ...] | None = (5,), now_s: float = NOW) -> Verdict:
    """What ``judge`` says."""
    return judge(reply, generations, KEY, now_s).verdict


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
    """Row EXPIRED: an age of the ttl is too old, a millisecond less is not."""
    assert verdict(entry(t=2), now_s=NOW + 59.999) is Verdict.FRESH
    assert verdict(entry(t=1), now_s=NOW + 60.0) is Verdict.EXPIRED


@pytest.mark.parametrize("ttl_ms", [1, 60_000, 10**12, FOREVER - 1])
@pytest.mark.parametrize("age_s", [0.0, 59.0, 61.0, 10.0**8, 10.0**9])
def test_without_a_hard_end_the_header_alone_judges(ttl_ms: int, age_s: float) -> None:
    """An entry that the server never drops has no second witness for its age."""
    expected = Verdict.FRESH if age_s * 1000 < ttl_ms else Verdict.EXPIRED
    assert verdict(entry(t=-1, hard_s=0, ttl_ms=ttl_ms), now_s=NOW + age_s) is expected


@pytest.mark.parametrize("now_s", [0.0, NOW - 1e6, NOW, NOW + 1e9, 2.0**60])
@pytest.mark.parametrize("t", [None, -1, 0, 1000])
def test_for_ever_is_for_ever(now_s: float, t: int | None) -> None:
    """An entry without a ttl never expires, whatever the clocks say."""
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


def test_a_soft_invalidation_is_void_here() -> None:
    """X: marked stale by ``md I``. Nothing past its invalidation is served without a ``stale`` time."""
    assert verdict(entry(stale=True)) is Verdict.VOID
    assert verdict(entry(stale=True, ttl_ms=FOREVER, hard_s=0)) is Verdict.VOID


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
    assert verdict(entry(t=0), now_s=NOW + 61 + skew_s) is Verdict.EXPIRED


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
    assert verdict(entry(t=None, ttl_ms=0), now_s=NOW - HOUR) is Verdict.EXPIRED


@pytest.mark.parametrize("t", [63, 86_400, 10**12, 10**400])
def test_a_touched_entry_is_as_old_as_its_header_says(t: int) -> None:
    """``touch`` gives the item more time on the server than it was stored for; that makes no old value young."""
    assert age_ms(header(), t, NOW + 500) == 500_000.0
    assert verdict(entry(t=t), now_s=NOW + 500) is Verdict.EXPIRED
    assert verdict(entry(t=t), now_s=NOW + 50) is Verdict.FRESH


@pytest.mark.parametrize(("t", "age_s"), [(30, 0.0), (19, 11.0), (0, 30.0), (-1, 0.0), (None, 0.0)])
def test_the_age_of_a_lease(t: int | None, age_s: float) -> None:
    """Stub − t, where the server says it; else a lease counts as new."""
    assert lease_age_s(Reply("VA", b"", ttl=t), 30) == age_s


# -- policies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    [
        {"ttl": -1},
        {"ttl": "soon"},
        {"ttl": float("nan")},
        {"ttl": True},
        {"ttl": timedelta(seconds=-1)},
        {"jitter": 1},
        {"jitter": -0.1},
        {"jitter": float("nan")},
        {"jitter": "0.1"},
        {"jitter": True},
        {"lease": 0},
        {"lease": 0.5},
        {"lease": 86_401},
        {"lease": float("inf")},
        {"lease": float("nan")},
        {"lease": None},
        {"lease": True},
        {"group": 1},
        {"group": None},
        {"group": "yes"},
        {"codec": "marshal"},
        {"codec": 3},
    ],
)
def test_nonsense_is_refused_where_it_is_written(field: dict[str, Any]) -> None:
    """A policy that can't mean anything is a ``ValueError`` that names the field's value."""
    with pytest.raises(ConfigurationError) as raised:
        Policy(**field)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    "field",
    [
        {"ttl": 0},
        {"ttl": None},
        {"ttl": 0.5},
        {"ttl": "1h30m"},
        {"ttl": timedelta(days=400)},
        {"ttl": every("1h")},
        {"ttl": lambda result: 5},
        {"jitter": 0},
        {"jitter": 0.999},
        {"lease": 1},
        {"lease": 86_400},
        {"lease": 2.5},
        {"group": False},
        {"codec": None},
        {"codec": "json"},
        {"codec": "data"},
    ],
)
def test_sense_is_taken(field: dict[str, Any]) -> None:
    """What the docs promise, a policy takes, and leaves the other fields open."""
    policy = Policy(**field)
    for name in LIBRARY:
        assert getattr(policy, name) is field.get(name, UNSET)


def test_policies_are_frozen_values() -> None:
    """A policy can be named and shared: it can't be changed, and equal ones are equal."""
    policy = Policy(ttl=5)
    with pytest.raises(AttributeError):
        policy.ttl = 6  # type: ignore[misc]
    assert policy == Policy(ttl=5) != Policy(ttl=6)
    assert hash(policy) == hash(Policy(ttl=5))


def test_a_misspelt_field_is_refused() -> None:
    """An option that does not exist is never ignored."""
    with pytest.raises(TypeError):
        Policy(tll=5)  # type: ignore[call-arg]


def test_the_nearer_policy_wins_field_by_field() -> None:
    """over() fills only what is open; None and 0 and False are values, not openings."""
    assert Policy(ttl=None, jitter=0, group=False).over(Policy(ttl=5, jitter=0.5, group=True, lease=20)) == Policy(
        ttl=None, jitter=0, group=False, lease=20
    )
    assert Policy().over(Policy()) == Policy()
    assert Policy().over(DEFAULTS) == DEFAULTS


_OPEN_OR = {
    "ttl": st.just(UNSET) | st.sampled_from([None, 0, 5, "5m"]),
    "jitter": st.just(UNSET) | st.sampled_from([0, 0.5]),
    "codec": st.just(UNSET) | st.sampled_from([None, "json"]),
    "group": st.just(UNSET) | st.booleans(),
    "lease": st.just(UNSET) | st.sampled_from([1, 20]),
}
_POLICIES = st.builds(Policy, **_OPEN_OR)


@given(_POLICIES, _POLICIES, _POLICIES)
def test_over_is_associative(near: Policy, middle: Policy, far: Policy) -> None:
    """Keyword > decorator > cache > library, in whatever order they are laid over one another."""
    assert near.over(middle).over(far) == near.over(middle.over(far))
    for name in LIBRARY:
        said = [getattr(each, name) for each in (near, middle, far) if getattr(each, name) is not UNSET]
        assert getattr(near.over(middle).over(far), name) == (said[0] if said else UNSET)


def test_library_defaults() -> None:
    """What holds when nobody says anything: five minutes, no jitter, invalidate_all works, leases of 10 s."""
    assert (DEFAULTS.ttl, DEFAULTS.jitter, DEFAULTS.group, DEFAULTS.lease, DEFAULTS.codec) == (300, 0, True, 10, None)


@pytest.mark.parametrize(
    ("keywords", "cache_policy", "ttl_s"),
    [
        ({"ttl": 10, "policy": Policy(ttl=20)}, Policy(ttl=30), 10.0),
        ({"policy": Policy(ttl=20)}, Policy(ttl=30), 20.0),
        ({"policy": Policy(lease=20)}, Policy(ttl=30), 30.0),
        ({}, Policy(ttl=30), 30.0),
        ({}, Policy(lease=20), 300.0),
        ({}, None, 300.0),
        ({"ttl": None}, Policy(ttl=30), None),
    ],
)
def test_precedence_on_a_decorated_function(
    keywords: dict[str, Any], cache_policy: Policy | None, ttl_s: float | None
) -> None:
    """The ttl that an entry really gets: keyword > the decorator's policy > the cache's policy > the library."""

    def double(n: int) -> int:
        return 2 * n

    cached = Cache("memory:", policy=cache_policy)(**keywords)(double)
    assert cached(1) == 2
    explained = cached.explain(1)
    assert (explained.state, explained.ttl_s) == ("fresh", ttl_s)
