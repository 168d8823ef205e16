"""A stored value is due and this caller has the claim: he refreshes it here, in the background, or for a while only."""

from __future__ import annotations

from typing import Any

import pytest

from cachekit.errors import Unreachable
from cachekit.flows.call import call
from cachekit.hooks import Fill, Hit, Miss
from cachekit.ops import Join
from flows.scripted import DONE, KEY, LOST, Clock, Script, Stored, entry, job, make_recipe, never, va

NOW = Clock().now
BACKGROUND: dict[str, Any] = {"background": True, "stale_s": 30.0}
SOFT: dict[str, Any] = {"soft_timeout_s": 0.5, "stale_s": 30.0}


def due(recipe: Any, *more: bytes | Exception, age_s: float = 61.0) -> Script:
    """The script of a reader who finds an old value and wins the claim on it."""
    old = entry(recipe, "old", created=NOW - age_s)
    return Script(va(old), va(old, cas=10, more=b" W"), *more)


def again(recipe: Any, value: Any = "old", *, age_s: float = 61.0, cas: int = 10, generation: int = 5) -> bytes:
    """What the run in the background finds when it looks for itself: the claimed value, as a rule."""
    return va(entry(recipe, value, created=NOW - age_s), cas=cas, more=b" Z", generation=generation)


def test_in_the_background_the_caller_is_served_at_once() -> None:
    """The old value now; the run goes on behind his back, and stores under his claim."""
    recipe = make_recipe(**BACKGROUND)
    script = due(recipe, again(recipe), DONE)
    hits: list[Hit] = []
    script.hooks.on_hit(hits.append)
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == "old"
    assert script.log == ["Exchange", "Exchange", "Spawn"]
    assert [hit.stale for hit in hits] == [True]
    assert (recipe.tally.stale, recipe.tally.misses, recipe.tally.fills) == (1, 0, 0)
    assert script.run(script.spawned[0]) == "new"
    stored = Stored(script.requests[-1])
    assert (stored.cas, stored.value(recipe)) == (10, "new")
    assert recipe.tally.fills == 1


def test_a_full_pool_lets_the_caller_run_it_himself() -> None:
    """That slows the callers down to what can be done."""
    recipe = make_recipe(**BACKGROUND)
    script = due(recipe, DONE)
    script.room = False
    missed: list[Miss] = []
    script.hooks.on_miss(missed.append)
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == "new"
    assert script.log == ["Exchange", "Exchange", "Spawn", "Compute", "Exchange"]
    assert Stored(script.requests[-1]).cas == 10
    assert ([miss.reason for miss in missed], recipe.tally.stale) == (["expired"], 0)


def test_in_the_background_only_what_may_be_served_is_served() -> None:
    """Beyond its stale time the caller runs the function himself."""
    recipe = make_recipe(background=True, stale_s=5.0)
    script = due(recipe, DONE, age_s=66.0)
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == "new"
    assert "Spawn" not in script.log


def test_an_early_refresh_goes_to_the_background_without_any_stale_time() -> None:
    """It is fresh still: who drew it need not wait for its successor."""
    recipe = make_recipe(background=True, beta=1.0)
    script = due(recipe, again(recipe, age_s=59.9), DONE, age_s=59.9)
    script.env.luck = lambda: 1.0
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == "old"
    assert len(script.spawned) == 1
    assert script.run(script.spawned[0]) == "new"


def test_a_run_in_the_background_that_fails_throttles() -> None:
    """Nobody gets the exception; the old value is put back with a time before which nobody tries again."""
    recipe = make_recipe(**BACKGROUND, throttle_s=5.0)
    script = due(recipe, again(recipe), DONE)
    assert script.run(call(job(recipe, lambda: 1 // 0), script.env, None)) == "old"
    assert script.run(script.spawned[0]) == "old"
    assert Stored(script.requests[-1]).header.retry_ms == 66_000


def test_a_value_that_can_not_be_read_is_not_served_in_the_meantime() -> None:
    """A payload that no codec knows any more is as good as none."""
    recipe = make_recipe(**BACKGROUND)
    old = entry(recipe, {"n": 1}, created=NOW - 61)[:-1] + b"\xc1"
    script = Script(va(old), va(old, cas=10, more=b" W"), DONE)
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == "new"
    assert script.spawned == []


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("found", ["another CAS", "another generation", "refreshed", "no answer"])
def test_a_run_in_the_background_ends_where_its_claim_has_ended(found: str, soft: bool) -> None:
    """Invalidated or refreshed before it began: the function does not run for nothing, and nobody waits for it."""
    recipe = make_recipe(**(SOFT if soft else BACKGROUND))
    answers: dict[str, bytes | Exception] = {
        "another CAS": again(recipe, cas=11),
        "another generation": again(recipe, generation=6),
        "refreshed": va(entry(recipe, "new", created=NOW), cas=11),
        "no answer": Unreachable("down"),
    }
    script = due(recipe, answers[found])
    script.on_join = lambda _: not script.run(script.spawned[0])
    assert script.run(call(job(recipe, never), script.env, None)) == "old"
    if not soft:
        script.run(script.spawned[0])
    assert (script.answers, len(script.env.flights)) == ([], 0)


def test_a_run_in_the_background_that_finds_nothing_fills() -> None:
    """The entry was deleted, and the look gave the lease: it is used."""
    recipe = make_recipe(**BACKGROUND)
    script = due(recipe, LOST, DONE)
    script.run(call(job(recipe, lambda: "new"), script.env, None))
    assert script.run(script.spawned[0]) == "new"
    assert Stored(script.requests[-1]).cas == 7


def test_a_lease_that_the_run_in_the_background_can_not_use_goes_back() -> None:
    """Without the generations nothing can be stored, and others would wait for it."""
    recipe = make_recipe(**BACKGROUND)
    script = due(recipe, LOST.replace(b"HD c5 O? Z", b"EN O?"), DONE)
    script.run(call(job(recipe, never), script.env, None))
    script.run(script.spawned[0])
    assert script.requests[-1].startswith(b"md " + KEY + b" C7 ")


# -- a soft timeout ----------------------------------------------------------------------------------------------------


def test_a_new_value_within_the_soft_timeout_is_returned() -> None:
    """The run lands in time: its caller gets the new value."""
    recipe = make_recipe(**SOFT)
    script = due(recipe, again(recipe), DONE)

    def join(op: Join) -> bool:
        assert op.timeout_s == 0.5
        script.run(script.spawned[0])
        return True

    script.on_join = join
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == "new"
    assert script.log[:4] == ["Exchange", "Exchange", "Spawn", "Join"]
    assert Stored(script.requests[-1]).cas == 10
    assert (recipe.tally.misses, recipe.tally.stale, recipe.tally.fills) == (1, 0, 1)


def test_when_the_soft_timeout_is_over_the_old_value_is_served() -> None:
    """The run goes on, and stores what it brings."""
    recipe = make_recipe(**SOFT)
    script = due(recipe, again(recipe), DONE)
    script.on_join = lambda _: False
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == "old"
    assert (recipe.tally.stale, recipe.tally.misses) == (1, 0)
    assert script.run(script.spawned[0]) == "new"
    assert Stored(script.requests[-1]).value(recipe) == "new"
    assert len(script.env.flights) == 0


def test_an_exception_within_the_soft_timeout_is_the_old_value() -> None:
    """The run fails while the caller waits, and the old value may serve."""
    recipe = make_recipe(**SOFT, throttle_s=5.0)
    script = due(recipe, again(recipe), DONE)
    script.on_join = lambda _: script.run(script.spawned[0]) == "old"
    assert script.run(call(job(recipe, lambda: 1 // 0), script.env, None)) == "old"
    assert Stored(script.requests[-1]).header.retry_ms == 66_000


def test_with_a_soft_timeout_a_full_pool_means_a_run_of_ones_own() -> None:
    """There is nobody to wait for."""
    recipe = make_recipe(**SOFT)
    script = due(recipe, DONE)
    script.room = False
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == "new"
    assert script.log == ["Exchange", "Exchange", "Spawn", "Compute", "Exchange"]
    assert len(script.env.flights) == 0


def test_a_waiter_serves_what_rescues_when_the_soft_timeout_is_over() -> None:
    """Another process refreshes, and takes long: with an old value for such a case in hand, one waits only so long."""
    recipe = make_recipe(soft_timeout_s=0.5, stale_s=5.0, stale_if_error_s=600.0)
    script = Script(*[va(entry(recipe, "old", created=NOW - 66), more=b" Z")] * 400)
    assert script.run(call(job(recipe, never), script.env, None)) == "old"
    assert 0.5 <= script.clock.monotonic - Clock().monotonic < 0.6
    assert (recipe.tally.stale, recipe.tally.misses, recipe.tally.waits) == (1, 0, 0)


def test_a_soft_timeout_serves_nothing_that_is_too_old() -> None:
    """Beyond stale, and nothing for failures: the caller waits for the new value, however long that takes."""
    recipe = make_recipe(soft_timeout_s=0.5, stale_s=5.0)
    old = va(entry(recipe, "old", created=NOW - 66), more=b" Z")
    script = Script(*[old] * 200, va(entry(recipe, "new", created=NOW)))
    assert script.run(call(job(recipe, never), script.env, None)) == "new"
    assert script.clock.monotonic - Clock().monotonic > 0.6


def test_two_callers_of_one_process_share_one_run() -> None:
    """The second finds the flight of the first, and does not spawn another."""
    recipe = make_recipe(**SOFT)
    script = due(recipe)
    script.env.flights.board(KEY, 10, (5,))
    script.on_join = lambda _: False
    assert script.run(call(job(recipe, never), script.env, None)) == "old"
    assert script.spawned == []


# -- inline ------------------------------------------------------------------------------------------------------------


def test_inline_the_winner_runs_it_himself() -> None:
    """The default: one caller pays, and nobody needs a pool."""
    recipe = make_recipe(stale_s=30.0)
    script = due(recipe, DONE)
    fills: list[Fill] = []
    script.hooks.on_fill(fills.append)
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == "new"
    assert script.log == ["Exchange", "Exchange", "Compute", "Exchange"]
    assert [(fill.stored, fill.reason) for fill in fills] == [(True, "")]


@pytest.mark.parametrize("answer", [b"NF O?\r\n", b"EX O?\r\n"])
def test_a_refresh_that_was_invalidated_meanwhile_is_dropped(answer: bytes) -> None:
    """The caller gets what he computed; nothing is stored or given back."""
    recipe = make_recipe(stale_s=30.0)
    script = due(recipe, answer)
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == "new"
    assert len(script.requests) == 3
    assert recipe.tally.unstored == 1
