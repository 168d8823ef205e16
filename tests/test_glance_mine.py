"""A lease at a glance: taken only where parsing and judging say MINE."""

from __future__ import annotations

import pytest
from flows.scripted import KEY
from hypothesis import given
from hypothesis import strategies as st
from support.replies import NOW, OPAQUE, RECIPES, SECONDS, damaged, parsed

from cachekit.generations import numbers
from cachekit.glance import plainly_mine
from cachekit.policy import Verdict

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
    t=st.integers(-1, 300),
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
