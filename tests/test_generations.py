"""What the number of a record tells of an entry: after bumps hard and soft, whatever the numbers are."""

from __future__ import annotations

import itertools

import pytest
from flows.scripted import KEY, Clock, Script, entry, make_recipe, va
from hypothesis import given
from hypothesis import strategies as st

from cachekit.embedded import EmbeddedServer
from cachekit.generations import Generations, numbers, softened_record, softly_void
from cachekit.meta import Parser, Reply
from cachekit.policy import Verdict, compare, judge

NOW = Clock().now
KEPT = 16
"""So many soft bumps in a row leave an entry to be served."""


def read(line: bytes) -> Reply:
    """One reply."""
    return Parser().feed(line)[0]


def under(*softly: tuple[int, ...] | None, now: tuple[int, ...]) -> Generations:
    """Numbers that hold now, and what is known of those before."""
    found = Generations(now)
    found.softly = softly
    return found


# -- what a record tells -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"HD c5 O1 W\r\n", ()),
        (b"HD c5 O1 Z\r\n", ()),
        (b"HD c5 O1\r\n", None),
        (b"VA 0 c5 O1 W\r\n\r\n", ()),
        (b"VA 0 c5 O1 Z\r\n\r\n", ()),
        (b"VA 1 c5 O1\r\n3\r\n", (3,)),
        (b"VA 5 c5 O1\r\n3 4 1\r\n", (3, 4, 1)),
        (b"VA 1 c5 O1 Z\r\n3\r\n", ()),
        (b"VA 0 c5 O1\r\n\r\n", ()),
        (b"VA 7 c5 O1\r\ngarbage\r\n", ()),
        (b"VA 3 c5 O1\r\n3 x\r\n", ()),
        (b"VA 4 c5 O1\r\n3  4\r\n", ()),
        (b"VA 2 c5 O1\r\n-3\r\n", ()),
        (b"VA 20 c5 O1\r\n18446744073709551615\r\n", (2**64 - 1,)),
        (b"VA 21 c5 O1\r\n999999999999999999999\r\n", ()),
        (b"VA 2 c5 O1\r\n\xc2\xb2\r\n", ()),
    ],
)
def test_what_was_read_of_a_record(line: bytes, expected: tuple[int, ...] | None) -> None:
    """W or Z: its last bump was a hard one. None: it was a soft one, and how far it reaches was not asked. What is no
    list of numbers was written by hand, and nothing under it is trusted.
    """
    assert softly_void(read(line)) == expected


def test_numbers_tell_whether_a_bump_was_soft() -> None:
    """A plain tuple where every last bump was a hard one, as nearly always."""
    lines = b"HD c5 O1 Z\r\n", b"VA 1 c6 O1\r\n3\r\n", b"HD c7 O1\r\n"
    hard = numbers([read(lines[0])] * 2)
    assert (hard, type(hard)) == ((5, 5), tuple)
    mixed = numbers([read(line) for line in lines])
    assert isinstance(mixed, Generations)
    assert (mixed, mixed.softly) == ((5, 6, 7), ((), (3,), None))


def test_a_soft_bump_keeps_the_numbers_since_the_last_hard_one() -> None:
    """At most sixteen of them; garbage is let go of."""
    assert softened_record(read(b"VA 0 c5 O1 Z\r\n\r\n")) == b"5"
    assert softened_record(read(b"VA 3 c9 O1\r\n5 7\r\n")) == b"5 7 9"
    assert softened_record(read(b"VA 7 c9 O1\r\ngarbage\r\n")) == b"9"
    assert softened_record(read(b"VA 1 c9 O1 Z\r\n5\r\n")) == b"9", "bumped hard by whoever marked it"
    many = b" ".join(b"%d" % number for number in range(10, 10 + KEPT))
    kept = softened_record(read(b"VA %d c99 O1\r\n%b\r\n" % (len(many), many))).split()
    assert kept == [*(b"%d" % number for number in range(11, 10 + KEPT)), b"99"]


# -- what that means for an entry --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "now", "expected"),
    [
        ((5,), (5,), Verdict.FRESH),
        ((4,), (5,), Verdict.VOID),
        ((6,), (5,), Verdict.AHEAD),
        ((5,), None, Verdict.VOID),
        ((5,), (5, 5), Verdict.VOID),
        ((5, 5), (5,), Verdict.VOID),
        ((6, 4), (5, 5), Verdict.VOID),
        ((6, 5), (5, 5), Verdict.AHEAD),
        ((5,), under((3, 4), now=(5,)), Verdict.FRESH),
        ((4,), under((3, 4), now=(5,)), Verdict.SOFT),
        ((2,), under((3, 4), now=(5,)), Verdict.VOID),
        ((4,), under((3,), now=(5,)), Verdict.VOID),
        ((4,), under(None, now=(5,)), Verdict.CLOSER),
        ((6,), under(None, now=(5,)), Verdict.CLOSER),
        ((6,), under((3,), now=(5,)), Verdict.AHEAD),
        ((6,), under((6,), now=(5,)), Verdict.SOFT),
        ((4, 4), under((4,), (), now=(5, 5)), Verdict.VOID),
        ((4, 6), under((4,), (), now=(5, 5)), Verdict.AHEAD),
        ((4, 5), under((4,), (), now=(5, 5)), Verdict.SOFT),
        ((4, 4), under((4,), None, now=(5, 5)), Verdict.CLOSER),
        ((4, 5), under((4,), None, now=(5, 5)), Verdict.SOFT),
        ((3, 4), under((4,), None, now=(5, 5)), Verdict.VOID),
        ((4, 4), under((4,), (4,), now=(5, 5)), Verdict.SOFT),
    ],
)
def test_an_entry_beside_the_numbers_of_now(
    entry: tuple[int, ...], now: tuple[int, ...] | None, expected: Verdict
) -> None:
    """A hard bump wins over any number of soft ones, and what can't be told yet is asked."""
    assert compare(entry, now) is expected


@given(
    given_numbers=st.lists(st.integers(1, 40), unique=True, min_size=1, max_size=40),
    bumps=st.lists(st.booleans(), max_size=39),
)
def test_no_entry_from_before_a_hard_bump_is_ever_served(given_numbers: list[int], bumps: list[bool]) -> None:
    """Whatever the numbers are, for clients give them by clocks that differ; and every other is served, until too many
    soft bumps have passed over it.
    """
    fresh = itertools.chain(given_numbers, itertools.count(41))
    record = read(b"VA 0 c%d O1 W\r\n\r\n" % next(fresh))
    before: list[int] = []
    since: list[int] = []
    for soft in bumps:
        if soft:
            value = softened_record(record)
            since.append(record.cas or 0)
            record = read(b"VA %d c%d O1\r\n%b\r\n" % (len(value), next(fresh), value))
        else:
            before += [*since, record.cas or 0]
            since = []
            record = read(b"VA 0 c%d O1 W\r\n\r\n" % next(fresh))
    now = numbers([record])
    assert now is not None
    assert compare((record.cas or 0,), now) is Verdict.FRESH
    assert {compare((number,), now) for number in before} <= {Verdict.VOID, Verdict.AHEAD}
    assert {compare((number,), now) for number in since[-KEPT:]} <= {Verdict.SOFT}
    assert {compare((number,), now) for number in since[:-KEPT]} <= {Verdict.VOID, Verdict.AHEAD}


# -- the verdict on a whole reply --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "retry_ms", "expected"),
    [
        (b"", 0, Verdict.SOFT),
        (b" W", 0, Verdict.WON),
        (b" X W", 0, Verdict.WON),
        (b" Z", 0, Verdict.SOFT),
        (b" Z X", 0, Verdict.CLAIMED),
        (b" X", 0, Verdict.SOFT),
        (b"", 20_000, Verdict.THROTTLED),
        (b" Z", 20_000, Verdict.THROTTLED),
        (b" Z X", 20_000, Verdict.CLAIMED),
        (b"", 5_000, Verdict.SOFT),
    ],
)
def test_who_refreshes_what_was_bumped_softly(more: bytes, retry_ms: int, expected: Verdict) -> None:
    """Who holds the W; a claim on what is not marked was made before the bump, so it does not count; after a failed
    refresh nobody tries for a while.
    """
    reply = Script.parse(va(entry(make_recipe(), "old", created=NOW - 10, retry_ms=retry_ms), more=more))[0]
    judgement = judge(reply, under((5,), now=(6,)), KEY, NOW)
    assert judgement.verdict is expected
    assert judgement.servable()
    assert judge(reply, under((), now=(6,)), KEY, NOW).verdict is Verdict.VOID
    assert judge(reply, under(None, now=(6,)), KEY, NOW).verdict is Verdict.CLOSER


def test_a_server_gives_each_bump_a_number_of_its_own() -> None:
    """What the verdicts rest on: made, stored, deleted and made again, a record never has the same number twice."""
    server = EmbeddedServer()
    seen: list[int] = []
    for _ in range(3):
        requests = b"mg r c v N0 O1\r\n", b"ms r 1 c O1\r\n7\r\n", b"ms r 1 c O1\r\n7\r\n", b"mg r c O1\r\n"
        seen += [read(server.handle(request)).cas or 0 for request in requests]
        server.handle(b"md r\r\n")
    assert len(set(seen)) == 9
    assert seen == sorted(seen)
