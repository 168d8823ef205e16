"""A value is stored: what a reader does with it by its age, its flags and its policy (the table in policy.py)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachekit.codecs.envelope import FOREVER
from cachekit.flows.call import call
from cachekit.hooks import Hit, Miss
from cachekit.policy import CERTAIN, Verdict, judge
from flows.scripted import BUSY, DONE, KEY, LOST, Clock, Script, Stored, entry, job, make_recipe, never, va

NOW = Clock().now
HOUR = 3600.0
CLAIM = b" R2147483647 "


def kinds(script: Script) -> list[str]:
    """What was sent, in order: read, claim, ms, md."""
    return ["claim" if CLAIM in request else request[:2].decode() for request in script.requests]


def told(script: Script) -> tuple[list[Hit], list[Miss]]:
    """What the hooks hear from now on."""
    hits: list[Hit] = []
    misses: list[Miss] = []
    script.hooks.on_hit(hits.append)
    script.hooks.on_miss(misses.append)
    return hits, misses


# -- fresh -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"stale": 30.0}, {"beta": 1.0}, {"throttle": 5.0}])
@pytest.mark.parametrize("more", [b"", b" Z"])
def test_a_fresh_value_costs_one_read(options: dict[str, Any], more: bytes) -> None:
    """FRESH: nothing is asked or written, whoever may be refreshing it."""
    recipe = make_recipe(**{f"{name}_s" if name != "beta" else name: value for name, value in options.items()})
    script = Script(va(entry(recipe, "kept", created=NOW - 10), more=more))
    hits, _ = told(script)
    assert script.run(call(job(recipe, never), script.env, None)) == "kept"
    assert kinds(script) == ["mg"]
    assert [(hit.age_s, hit.stale) for hit in hits] == [(10.0, False)]


def test_a_needless_claim_is_put_back() -> None:
    """A fresh value that came with a W: stored again as it is, so that the next who finds it due can claim it."""
    recipe = make_recipe()
    stored = entry(recipe, "kept", created=NOW - 10)
    script = Script(va(stored, cas=9, t=50, more=b" W"), DONE)
    assert script.run(call(job(recipe, never), script.env, None)) == "kept"
    put = Stored(script.requests[1])
    assert (put.cas, put.until, put.value(recipe)) == (9, 50, "kept")
    assert (put.header.created_ms, put.header.ttl_ms, put.header.retry_ms) == (int((NOW - 10) * 1000), 60_000, 0)
    assert (recipe.tally.hits, recipe.tally.fills) == (1, 0)


def test_a_claim_that_can_not_be_put_back_is_given_up() -> None:
    """Its item ends within the second: what is left would be no time at all, and T0 is for ever."""
    recipe = make_recipe()
    script = Script(va(entry(recipe, "kept", created=NOW - 10, hard_s=10), cas=9, t=0, more=b" W"), DONE)
    assert script.run(call(job(recipe, never), script.env, None)) == "kept"
    assert script.requests[1].startswith(b"md " + KEY + b" C9 ")


# -- due ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stale_s", [0.0, 30.0])
def test_who_finds_an_entry_due_claims_it_and_refreshes(stale_s: float) -> None:
    """DUE → claim → WON: the same read with an R; the winner runs, and stores under that reply's CAS."""
    recipe = make_recipe(stale_s=stale_s)
    old = entry(recipe, "old", created=NOW - 61)
    script = Script(va(old, cas=9), va(old, cas=10, more=b" W"), DONE)
    _, misses = told(script)
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == "new"
    assert kinds(script) == ["mg", "claim", "ms"]
    stored = Stored(script.requests[2])
    assert (stored.cas, stored.value(recipe), stored.header.created_ms) == (10, "new", int(NOW * 1000))
    assert [miss.reason for miss in misses] == ["expired"]
    assert (recipe.tally.misses, recipe.tally.fills, recipe.tally.stale) == (1, 1, 0)


def test_a_claim_is_the_read_with_an_r_and_goes_out_once() -> None:
    """R fires when less than that is left, and on nothing that was claimed. A second one would find its own claim."""
    recipe = make_recipe()
    old = entry(recipe, "old", created=NOW - 61)
    script = Script(va(old), va(old, more=b" W"), DONE)
    script.run(call(job(recipe, lambda: "new"), script.env, None))
    assert [exchange.retry for exchange in script.exchanges] == [True, False, False]
    first, claim = script.exchanges[0], script.exchanges[1]
    assert claim.request.replace(CLAIM, b" ") == recipe.read(KEY, claim.opaque or 0)
    assert CLAIM not in first.request


def test_a_claim_lost_within_stale_is_served_the_old_value() -> None:
    """DUE → claim → Z: another refreshes; nobody waits while the old value may be served."""
    recipe = make_recipe(stale_s=30.0)
    old = entry(recipe, "old", created=NOW - 61)
    script = Script(va(old), va(old, more=b" Z"))
    hits, misses = told(script)
    assert script.run(call(job(recipe, never), script.env, None)) == "old"
    assert script.log == ["Exchange", "Exchange"]
    assert ([hit.stale for hit in hits], misses) == ([True], [])
    assert (recipe.tally.hits, recipe.tally.stale, recipe.tally.misses) == (1, 1, 0)


def test_a_claim_lost_early_is_a_plain_hit() -> None:
    """An entry found due before its ttl is fresh still, for everybody but the one who refreshes it."""
    recipe = make_recipe(beta=1.0)
    young = entry(recipe, "young", created=NOW - 59.9)
    script = Script(va(young), va(young, more=b" Z"))
    script.env.luck = lambda: 1.0
    hits, _ = told(script)
    assert script.run(call(job(recipe, never), script.env, None)) == "young"
    assert kinds(script) == ["mg", "claim"]
    assert [hit.stale for hit in hits] == [False]


def test_a_claim_lost_beyond_stale_waits() -> None:
    """Too old to be served: wait for the one who refreshes, without a claim of one's own."""
    recipe = make_recipe(stale_s=5.0)
    old = entry(recipe, "old", created=NOW - 66)
    new = entry(recipe, "new", created=NOW)
    script = Script(va(old), va(old, more=b" Z"), va(old, more=b" Z"), va(new))
    _, misses = told(script)
    assert script.run(call(job(recipe, never), script.env, None)) == "new"
    assert script.log == ["Exchange", "Exchange", "Sleep", "Exchange", "Sleep", "Exchange"]
    assert [miss.reason for miss in misses] == ["being filled"]
    assert (recipe.tally.waits, recipe.tally.misses, recipe.tally.hits, recipe.tally.stale) == (1, 1, 0, 0)


def test_a_claim_that_finds_it_refreshed_meanwhile_is_put_back() -> None:
    """The claim came after the new value: that is served, and can be claimed again."""
    recipe = make_recipe()
    new = entry(recipe, "new", created=NOW)
    script = Script(va(entry(recipe, "old", created=NOW - 61)), va(new, cas=12, more=b" W"), DONE)
    assert script.run(call(job(recipe, never), script.env, None)) == "new"
    put = Stored(script.requests[2])
    assert (put.cas, put.until, put.value(recipe)) == (12, 71, "new")


def test_a_claim_that_finds_nothing_fills() -> None:
    """The item went between the two reads; the N of the claim gives the lease."""
    recipe = make_recipe()
    script = Script(va(entry(recipe, "old", created=NOW - 61)), LOST, DONE)
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == "new"
    assert Stored(script.requests[2]).cas == 7


def test_an_item_without_an_end_that_no_r_claims_is_voided() -> None:
    """Somebody's touch took its end away: R never fires there, so delete what was seen, and one reader fills."""
    recipe = make_recipe(stale_s=30.0)
    old = entry(recipe, "old", created=NOW - 61)
    script = Script(va(old, cas=9, t=-1), va(old, cas=9, t=-1), DONE + LOST, DONE)
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == "new"
    assert kinds(script) == ["mg", "claim", "md", "ms"]
    assert script.requests[2].startswith(b"md " + KEY + b" C9 ")


# -- early -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_s", "beta", "luck", "due"),
    [
        (59.9, 1.0, 0.39, False),
        (59.9, 1.0, 0.41, True),
        (59.9, 0.0, 1e9, False),
        (59.9, 0.5, 0.79, False),
        (59.9, 0.5, 0.81, True),
        (47.9, 1.0, 1e9, False),
        (48.1, 1.0, 1e9, True),
        (60.1, 0.0, 0.0, True),
    ],
)
def test_early_refresh_is_drawn_by_xfetch(age_s: float, beta: float, luck: float, due: bool) -> None:
    """Due when age + β·δ·Exp(1) ≥ ttl, δ = 0.25 s here; what is added is at most a fifth of the ttl."""
    recipe = make_recipe(beta=beta)
    young = entry(recipe, "kept", created=NOW - age_s)
    script = Script(va(young), va(young, more=b" W"), DONE)
    script.env.luck = lambda: luck
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == ("new" if due else "kept")
    assert kinds(script) == (["mg", "claim", "ms"] if due else ["mg"])


def test_who_drew_at_the_first_look_does_not_draw_again() -> None:
    """The hit path has drawn, and found the entry due: the long way refreshes it, whatever a second draw would say."""
    recipe = make_recipe(beta=1.0)
    young = entry(recipe, "kept", created=NOW - 55)
    script = Script(va(young), va(young, more=b" W"), DONE)
    script.env.luck = lambda: 0.0
    _, misses = told(script)
    assert script.run(call(job(recipe, lambda: "new"), script.env, None, early=True)) == "new"
    assert [miss.reason for miss in misses] == ["early"]


def test_an_early_draw_refreshes_nothing_that_was_refreshed_meanwhile() -> None:
    """Too young to be due early by any draw: it is served."""
    recipe = make_recipe(beta=1.0)
    script = Script(va(entry(recipe, "kept", created=NOW - 1)))
    assert script.run(call(job(recipe, never), script.env, None, early=True)) == "kept"
    assert kinds(script) == ["mg"]


def test_who_has_waited_takes_what_comes() -> None:
    """His draw was for the first look; another's would refresh early what nobody else finds due."""
    recipe = make_recipe(beta=1.0)
    script = Script(BUSY, va(entry(recipe, "theirs", created=NOW - 50)))
    script.env.luck = lambda: 1e9
    assert script.run(call(job(recipe, never), script.env, None)) == "theirs"
    assert kinds(script) == ["mg", "mg"]


# -- a soft invalidation -----------------------------------------------------------------------------------------------


def test_a_soft_invalidation_is_refreshed_by_the_one_who_is_told() -> None:
    """X W: mine to refresh, however young; there is no claim to ask for."""
    recipe = make_recipe()
    script = Script(va(entry(recipe, "old", created=NOW - 1), cas=9, t=300, more=b" X W"), DONE)
    _, misses = told(script)
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == "new"
    assert Stored(script.requests[1]).cas == 9
    assert [miss.reason for miss in misses] == ["expired by hand"]


def test_the_others_are_served_what_was_softly_invalidated() -> None:
    """X Z: another refreshes it; the old value is served while its header allows."""
    recipe = make_recipe()
    script = Script(va(entry(recipe, "old", created=NOW - 1), t=300, more=b" X Z"))
    assert script.run(call(job(recipe, never), script.env, None)) == "old"
    assert recipe.tally.stale == 1


def test_what_was_softly_invalidated_and_is_too_old_is_waited_for() -> None:
    """X Z beyond ttl + stale."""
    recipe = make_recipe()
    old = entry(recipe, "old", created=NOW - 61)
    script = Script(va(old, t=300, more=b" X Z"), va(entry(recipe, "new", created=NOW)))
    assert script.run(call(job(recipe, never), script.env, None)) == "new"
    assert script.log == ["Exchange", "Sleep", "Exchange"]


# -- throttled ---------------------------------------------------------------------------------------------------------


def test_after_a_failed_refresh_nobody_tries_again_for_a_while() -> None:
    """THROTTLED: the old value is served at once, and no claim is asked for."""
    recipe = make_recipe(stale_if_error_s=600.0)
    old = entry(recipe, "old", created=NOW - 70, retry_ms=75_000)
    script = Script(va(old))
    hits, _ = told(script)
    assert script.run(call(job(recipe, never), script.env, None)) == "old"
    assert kinds(script) == ["mg"]
    assert [hit.stale for hit in hits] == [True]


def test_when_the_throttle_is_over_one_tries_again() -> None:
    """The same entry, five seconds later."""
    recipe = make_recipe(stale_if_error_s=600.0)
    old = entry(recipe, "old", created=NOW - 75, retry_ms=75_000)
    script = Script(va(old), va(old, more=b" W"), DONE)
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == "new"
    assert Stored(script.requests[2]).header.retry_ms == 0


def test_a_throttle_serves_nothing_beyond_its_time() -> None:
    """Past ttl + stale + stale_if_error an old value is no answer, whatever the throttle says."""
    recipe = make_recipe(stale_if_error_s=10.0)
    old = entry(recipe, "old", created=NOW - 71, retry_ms=75_000)
    script = Script(va(old, t=1), va(old, t=1, more=b" W"), DONE)
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == "new"


# -- clocks ------------------------------------------------------------------------------------------------------------


@given(
    skew_s=st.sampled_from([-5 * HOUR, -HOUR, -1.5, 0.0, 1.5, HOUR, 5 * HOUR]),
    age_s=st.integers(0, 140),
    stale_s=st.sampled_from([0.0, 30.0]),
    if_error_s=st.sampled_from([0.0, 40.0]),
    claimed=st.booleans(),
)
def test_no_skew_makes_old_data_young_nor_young_data_old(
    skew_s: float, age_s: int, stale_s: float, if_error_s: float, claimed: bool
) -> None:
    """Fresh, stale, and no answer at all: each border is kept within a second on every machine."""
    recipe = make_recipe(stale_s=stale_s, stale_if_error_s=if_error_s)
    data = entry(recipe, "value", created=NOW)
    hard_s = 61 + int(stale_s + if_error_s + 10.0)
    if age_s > hard_s:
        return
    reply = va(data, t=hard_s - age_s, more=b" Z" if claimed else b"")
    judgement = judge(Script.parse(reply)[0], (5,), KEY, NOW + age_s + skew_s)
    if age_s <= 58:
        assert judgement.verdict is Verdict.FRESH
    if age_s >= 62:
        assert judgement.verdict in (Verdict.DUE, Verdict.CLAIMED)
    if abs(age_s - 60 - stale_s) > 1:
        assert judgement.servable() == (age_s < 60 + stale_s)
    if abs(age_s - 60 - stale_s - if_error_s) > 1:
        assert judgement.rescues() == (age_s < 60 + stale_s + if_error_s)


@pytest.mark.parametrize("skew_s", [-5 * HOUR, 5 * HOUR])
def test_a_skewed_reader_serves_stale_as_long_as_the_others(skew_s: float) -> None:
    """Hours off, and still: stale within the time, waiting beyond it."""
    recipe = make_recipe(stale_s=30.0)
    clock = Clock(NOW + 85 + skew_s)
    script = Script(va(entry(recipe, "old", created=NOW), t=16, more=b" Z"), clock=clock)
    assert script.run(call(job(recipe, never), script.env, None)) == "old"
    new = entry(recipe, "new", created=clock.now)
    script = Script(va(entry(recipe, "old", created=NOW), t=-1, more=b" Z"), va(new, t=91), clock=Clock(NOW + 92))
    assert script.run(call(job(recipe, never), script.env, None)) == "new"


@pytest.mark.parametrize("hard_s", [0, 61])
def test_for_ever_is_never_due(hard_s: int) -> None:
    """No draw and no age makes an entry without a ttl due."""
    recipe = make_recipe(ttl=None, beta=1.0)
    reply = Script.parse(va(entry(recipe, 1, created=NOW, ttl=None, hard_s=hard_s), t=-1))[0]
    for eagerness in (0.0, 1.0, CERTAIN):
        judgement = judge(reply, (5,), KEY, NOW + 1e9, eagerness)
        assert judgement.verdict is Verdict.FRESH
        assert judgement.header is not None
        assert judgement.header.ttl_ms == FOREVER
