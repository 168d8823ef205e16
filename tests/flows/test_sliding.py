"""sliding=True: each use lets a value live for its whole ttl again, at the cost of a write in a tenth of the ttl."""

from __future__ import annotations

from typing import Any

import pytest

from cachekit.codecs.envelope import Header
from cachekit.flows.call import call
from cachekit.recipe import Recipe
from flows.scripted import DONE, KEY, Clock, Script, Stored, entry, job, make_recipe, never, va

NOW = Clock().now


def sliding(**options: Any) -> Recipe:
    """The recipe of a function whose values slide."""
    return make_recipe(sliding=True, **options)


def test_an_entry_says_that_it_slides() -> None:
    """Only where the policy says so; the others' headers are not longer for it."""
    script, recipe = Script(b"VA 0 c7 f0 t-1 O? W\r\n\r\nHD c5 O? Z\r\n", DONE), sliding()
    script.run(call(job(recipe, lambda: 1), script.env, None))
    header = Stored(script.requests[1]).header
    assert (header.slide_ms, header.ttl_ms, header.hard_s) == (60_000, 60_000, 71)


@pytest.mark.parametrize(("age_s", "slid"), [(0.0, False), (5.9, False), (6.0, True), (6.1, True), (59.9, True)])
def test_a_use_slides_after_a_tenth_of_the_ttl(age_s: float, slid: bool) -> None:
    """A hot value is written ten times in its ttl, not with every hit."""
    recipe = sliding()
    script = Script(va(entry(recipe, "kept", created=NOW - age_s), cas=9), DONE)
    assert script.run(call(job(recipe, never), script.env, None)) == "kept"
    assert len(script.requests) == (2 if slid else 1)


def test_what_slides_is_the_same_value_with_a_whole_ttl_before_it() -> None:
    """The same bytes under the reply's CAS, made when it was made, and its hard end as far off as at first."""
    recipe = sliding()
    script = Script(va(entry(recipe, "kept", created=NOW - 20), cas=9), DONE)
    script.run(call(job(recipe, never), script.env, None))
    put = Stored(script.requests[1])
    assert (put.cas, put.until, put.value(recipe)) == (9, 71, "kept")
    assert (put.header.created_ms, put.header.ttl_ms) == (int((NOW - 20) * 1000), 80_000)
    assert (put.header.slide_ms, put.header.hard_s, put.header.generations) == (60_000, 91, (5,))


def test_a_value_in_use_lives_on_and_one_left_alone_ends() -> None:
    """Used every ten seconds for half an hour, then not for a ttl."""
    clock, recipe = Clock(), sliding()
    made, stored, ends = clock.monotonic, entry(recipe, "kept", created=NOW), 71
    for _ in range(180):
        clock.pass_by(10.0)
        ends -= 10
        script = Script(va(stored, cas=9, t=ends), DONE, clock=clock)
        assert script.run(call(job(recipe, never), script.env, None)) == "kept"
        put = Stored(script.requests[1])
        stored, ends = put.again, put.until
    assert clock.monotonic - made == 1800.0
    reply = Script.parse(va(stored, t=ends - 58))[0]
    assert recipe.judge(reply, (5,), KEY, clock.now + 58).verdict.name == "FRESH"
    reply = Script.parse(va(stored, t=ends - 61))[0]
    assert recipe.judge(reply, (5,), KEY, clock.now + 61).verdict.name == "DUE"


@pytest.mark.parametrize("skew_s", [-7200.0, 7200.0])
def test_a_skewed_machine_slides_no_further_than_the_others(skew_s: float) -> None:
    """Each slide by a clock hours off: a whole ttl is left, give or take the second of the server's clock."""
    clock, recipe = Clock(), sliding()
    stored, ends = entry(recipe, "kept", created=NOW), 71
    for _ in range(50):
        clock.pass_by(10.0)
        ends -= 10
        clock.now += skew_s
        script = Script(va(stored, cas=9, t=ends), DONE, clock=clock)
        assert script.run(call(job(recipe, never), script.env, None)) == "kept"
        clock.now -= skew_s
        put = Stored(script.requests[1])
        stored, ends = put.again, put.until
        judgement = recipe.judge(Script.parse(va(stored, t=ends))[0], (5,), KEY, clock.now)
        assert judgement.header is not None
        assert abs(judgement.header.ttl_ms - judgement.age_ms - 60_000) <= 2000


def test_a_slide_that_lost_against_an_invalidation_is_dropped() -> None:
    """EX or NF at the store: the caller has his value, and that is all."""
    recipe = sliding()
    script = Script(va(entry(recipe, "kept", created=NOW - 20), cas=9), b"EX O?\r\n")
    assert script.run(call(job(recipe, never), script.env, None)) == "kept"
    assert len(script.requests) == 2


def test_a_value_that_does_not_slide_is_left_alone() -> None:
    """Stored before the policy said so, or by a release that knew nothing of it."""
    recipe = sliding()
    script = Script(va(entry(make_recipe(), "kept", created=NOW - 20)))
    assert script.run(call(job(recipe, never), script.env, None)) == "kept"
    assert len(script.requests) == 1


def test_past_its_ttl_a_value_slides_no_more() -> None:
    """Serving it stale is no use that prolongs it."""
    recipe = sliding(stale_s=30.0)
    script = Script(va(entry(recipe, "old", created=NOW - 61), more=b" Z"))
    assert script.run(call(job(recipe, never), script.env, None)) == "old"
    assert len(script.requests) == 1


def test_a_needless_claim_is_put_back_and_not_slid() -> None:
    """One write at most."""
    recipe = sliding()
    script = Script(va(entry(recipe, "kept", created=NOW - 20), more=b" W"), DONE)
    script.run(call(job(recipe, never), script.env, None))
    assert len(script.requests) == 2
    assert isinstance(Stored(script.requests[1]).header, Header)
