"""Somebody else runs: how long one waits, who takes over from a dead or slow one, and who never waits at all."""

from __future__ import annotations

from typing import Any

import pytest

from cachekit.env import Env
from cachekit.errors import DeadlineExceeded
from cachekit.flights import Flight
from cachekit.flows.call import call
from cachekit.flows.frames import FILLING, Filling, Notes
from cachekit.hooks import Hooks, Miss
from flows.scripted import BUSY, DONE, KEY, Clock, Script, Stored, entry, job, make_recipe, never, va

NOW = Clock().now
TAKEN = b"NS O?\r\n"
SECOND = b"ms " + KEY + b"! 1 ME "


def stub(age_s: int) -> bytes:
    """A stub that another reader got so long ago."""
    return BUSY.replace(b"t299", b"t%d" % (300 - age_s))


def asked_for(request: bytes) -> int:
    """The T of a request for the second-level lease."""
    assert request.startswith(SECOND)
    return int(request.split(b" T")[1].split(b" ")[0])


# -- a stub ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("age_s", "taken"), [(1, False), (10, False), (11, True), (299, True)])
def test_a_stub_older_than_its_lease_is_taken_over(age_s: int, taken: bool) -> None:
    """A second more than the lease, since the server's clock ticks in whole seconds. The same CAS: the first store
    counts.
    """
    recipe = make_recipe()
    then = DONE if taken else va(entry(recipe, "theirs", created=NOW))
    script = Script(stub(age_s), then, DONE)
    got = script.run(call(job(recipe, lambda: "mine"), script.env, None))
    assert got == ("mine" if taken else "theirs")
    if taken:
        assert Stored(script.requests[2]).cas == 7


def test_a_slow_function_is_given_three_times_its_time() -> None:
    """3δ: who knows that a run takes 20 s does not begin another after 10."""
    recipe = make_recipe()
    recipe.delta_s = 20.0
    script = Script(stub(60), va(entry(recipe, "theirs", created=NOW)))
    assert script.run(call(job(recipe, never), script.env, None)) == "theirs"
    script = Script(stub(61), DONE, DONE)
    assert script.run(call(job(recipe, lambda: "mine"), script.env, None)) == "mine"


def test_each_heir_gets_a_longer_lease_than_the_one_before() -> None:
    """A run that outlasts the lease outlasts its heirs' too: two runs and not thirteen."""
    spans = []
    for age_s in (11, 33, 99):
        recipe = make_recipe()
        script = Script(stub(age_s), DONE, DONE)
        script.run(call(job(recipe, lambda: "mine"), script.env, None))
        spans.append(asked_for(script.requests[1]))
    assert spans == [21, 65, 197]


def test_who_loses_the_second_lease_goes_on_waiting() -> None:
    """NS: another heir runs already."""
    recipe = make_recipe()
    script = Script(stub(20), TAKEN, va(entry(recipe, "theirs", created=NOW)))
    assert script.run(call(job(recipe, never), script.env, None)) == "theirs"
    assert script.log == ["Exchange", "Exchange", "Sleep", "Exchange"]


@pytest.mark.parametrize(("age_s", "ours"), [(3, True), (2, True), (4, True), (0, False), (6, False)])
def test_the_lease_in_a_lost_reply_is_taken_over_at_once(age_s: int, ours: bool) -> None:
    """A reply was lost three seconds ago, and a stub as old stands there: nobody fills it, and nobody need wait."""
    recipe = make_recipe()
    then = DONE if ours else va(entry(recipe, "theirs", created=NOW))
    script = Script(stub(age_s), then, DONE)
    script.env.read_lost(KEY)
    script.clock.pass_by(3.0)
    assert script.run(call(job(recipe, lambda: "mine"), script.env, None)) == ("mine" if ours else "theirs")
    if ours:
        assert asked_for(script.requests[1]) == 11
        assert Stored(script.requests[2]).cas == 7


def test_the_next_call_finds_the_lease_that_went_down_with_a_reply() -> None:
    """The call itself runs without a lease; the one after it need not wait for a run that nobody began."""
    recipe = make_recipe()
    script = Script(DeadlineExceeded("slow"), stub(2), DONE, DONE)
    assert script.run(call(job(recipe, lambda: "first"), script.env, None)) == "first"
    script.clock.pass_by(2.4)
    assert script.run(call(job(recipe, lambda: "second"), script.env, None)) == "second"
    assert Stored(script.requests[3]).cas == 7
    assert "Sleep" not in script.log


def test_a_lost_reply_excuses_one_take_over() -> None:
    """One lease went down with it, not two."""
    env = Env(("server:1",), Hooks())
    env.monotonic = lambda: 1000.0
    env.read_lost(KEY)
    assert env.lost_with(KEY, 0.0)
    assert not env.lost_with(KEY, 0.0)
    assert not env.lost_with(b"another", 0.0)


def test_without_generations_nobody_waits() -> None:
    """A server out of memory has none to tell: nothing that another stores could be trusted, so everyone runs."""
    recipe = make_recipe()
    script = Script(stub(60).replace(b"HD c5 O? Z", b"EN O?"))
    assert script.run(call(job(recipe, lambda: "mine"), script.env, None)) == "mine"
    assert len(script.requests) == 1


# -- a claim -----------------------------------------------------------------------------------------------------------


def claimed(recipe: Any, *, age_s: float = 61.0, cas: int = 9, more: bytes = b" Z", delta_s: float = 0.25) -> bytes:
    """The reply that shows an old value which somebody else refreshes."""
    return va(entry(recipe, "old", created=NOW - age_s, delta_us=int(delta_s * 1e6)), cas=cas, more=more)


def call_once(script: Script, recipe: Any, *answers: bytes) -> Any:
    """One call of the same process; ``answers``: what it reads."""
    script.answers = list(answers)
    return script.run(call(job(recipe, lambda: "mine"), script.env, None))


@pytest.mark.parametrize("flag", [b" Z", b" X Z"])
def test_a_claim_seen_twice_a_lease_apart_is_taken_over(flag: bytes) -> None:
    """A claim does not tell its age; what counts is how long this process has seen the same CAS. Meanwhile: stale."""
    recipe, script = make_recipe(stale_s=60.0), Script()
    found = claimed(recipe, more=flag)
    assert call_once(script, recipe, found) == "old"
    script.clock.monotonic += 9.9
    assert call_once(script, recipe, found) == "old"
    script.clock.monotonic += 0.2
    assert call_once(script, recipe, found, DONE, DONE) == "mine"
    assert asked_for(script.requests[3]) == 22
    assert Stored(script.requests[4]).cas == 9
    assert call_once(script, recipe, found) == "old", "the heir's run counts from now"


def test_another_cas_is_another_run() -> None:
    """The first refresher gave up, and somebody claimed it anew: his time begins now."""
    recipe, script = make_recipe(stale_s=60.0), Script()
    assert call_once(script, recipe, claimed(recipe, cas=9)) == "old"
    script.clock.monotonic += 11.0
    assert call_once(script, recipe, claimed(recipe, cas=10)) == "old"
    assert len(script.requests) == 2


def test_who_loses_the_second_lease_on_a_claim_is_served_stale() -> None:
    """NS, with something to serve in hand."""
    recipe, script = make_recipe(stale_s=60.0), Script()
    call_once(script, recipe, claimed(recipe))
    script.clock.monotonic += 11.0
    assert call_once(script, recipe, claimed(recipe), TAKEN) == "old"


def test_a_claim_on_what_runs_long_is_left_for_three_times_as_long() -> None:
    """3δ by the header: the last run took 20 s."""
    recipe, script = make_recipe(stale_s=600.0), Script()
    found = claimed(recipe, delta_s=20.0)
    call_once(script, recipe, found)
    script.clock.monotonic += 59.0
    assert call_once(script, recipe, found) == "old"
    script.clock.monotonic += 2.0
    assert call_once(script, recipe, found, DONE, DONE) == "mine"


def test_a_waiter_beyond_stale_takes_over_too() -> None:
    """Nothing to serve, and the refresher is dead: one waiter runs after a lease."""
    recipe, clock = make_recipe(ttl=600.0, stale_s=5.0), Clock()
    dead = va(entry(recipe, "old", created=NOW - 606, ttl=600.0), t=5, more=b" Z")
    script = Script(*[dead] * 2000, clock=clock)
    perform = script._perform

    def until_asked(op: Any) -> Any:
        if getattr(op, "request", b"").startswith(SECOND):
            script.answers = [DONE, DONE]
        return perform(op)

    script._perform = until_asked  # type: ignore[method-assign]
    assert script.run(call(job(recipe, lambda: "mine"), script.env, None)) == "mine"
    assert 10.0 <= clock.monotonic - Clock().monotonic < 10.5


def test_what_was_seen_is_kept_for_so_many_keys_only() -> None:
    """The table is bounded, at the cost of the oldest."""
    env = Env(("server:1",), Hooks())
    env.monotonic = lambda: 1000.0
    for n in range(5000):
        env.seen_for_s(b"key%d" % n, 1)
        env.read_lost(b"key%d" % n)
    assert len(env._seen) == len(env._lost) == 4096
    env.monotonic = lambda: 1001.0
    assert env.seen_for_s(b"key4999", 1) == 1.0
    assert env.seen_for_s(b"key0", 1) == 0.0


# -- pauses ------------------------------------------------------------------------------------------------------------


def pauses(recipe: Any, looks: int) -> list[float]:
    """The pauses of a waiter who looks so often."""
    script = Script(*[stub(1)] * looks, va(entry(recipe, "theirs", created=NOW)))
    perform, slept = script._perform, list[float]()

    def note_pause(op: Any) -> Any:
        if type(op).__name__ == "Sleep":
            slept.append(op.seconds)
        return perform(op)

    script._perform = note_pause  # type: ignore[method-assign]
    script.run(call(job(recipe, never), script.env, None))
    return slept


def test_pauses_begin_at_a_millisecond_and_grow_with_the_wait() -> None:
    """A fortieth of the wait so far, at most 50 ms: a slow run is not asked for too often, a quick one is soon seen."""
    slept = pauses(make_recipe(), 300)
    assert slept[0] == 0.001
    assert slept == sorted(slept)
    assert slept[-1] == 0.05


def test_pauses_are_short_about_when_the_run_should_end() -> None:
    """By the time that it took last."""
    recipe = make_recipe()
    recipe.delta_s = 2.0
    slept = pauses(recipe, 400)
    at, waited = [], 0.0
    for pause in slept:
        waited += pause
        at.append((waited, pause))
    assert min(pause for waited, pause in at if 1.9 < waited < 2.1) <= 0.005
    assert max(pause for waited, pause in at if 1.0 < waited < 1.5) > 0.02


def test_pauses_differ_from_caller_to_caller() -> None:
    """Half to one and a half of it, by chance: who began together does not ask together."""
    recipe = make_recipe()
    spans = []
    for chance in (0.0, 0.999):
        script = Script(stub(1), va(entry(recipe, "theirs", created=NOW)))
        script.env.random = lambda chance=chance: chance  # type: ignore[misc]
        script.run(call(job(recipe, never), script.env, None))
        spans.append(script.clock.monotonic - Clock().monotonic)
    assert spans[0] == pytest.approx(0.0005)
    assert spans[1] == pytest.approx(0.0015, rel=0.01)


def test_a_wait_is_counted_as_one_miss_and_one_wait() -> None:
    """However often one looks."""
    recipe = make_recipe()
    script = Script(*[stub(1)] * 5, va(entry(recipe, "theirs", created=NOW)))
    missed: list[Miss] = []
    script.hooks.on_miss(missed.append)
    script.run(call(job(recipe, never), script.env, None))
    assert [miss.reason for miss in missed] == ["being filled"]
    assert (recipe.tally.misses, recipe.tally.waits, recipe.tally.hits) == (1, 1, 0)


# -- runs of this process ----------------------------------------------------------------------------------------------


def inside(script: Script, flight: Flight, key: bytes = b"outer") -> Any:
    """Mark the current code as inside a run."""
    return FILLING.set((Filling(script.env.flights, key, script.clock.monotonic + 10.0, Notes(), flight),))


def test_a_cycle_of_runs_is_seen_and_runs_at_once() -> None:
    """A waits for B, whose function calls A: to wait would be to wait for oneself."""
    recipe, script = make_recipe(), Script(BUSY)
    flights = script.env.flights
    outer, _ = flights.board(b"outer", 1)
    theirs, _ = flights.board(KEY, 7, (5,))
    assert flights.depart([theirs], outer), "their function waits for our run already"
    token = inside(script, outer)
    try:
        assert script.run(call(job(recipe, lambda: "mine"), script.env, None)) == "mine"
    finally:
        FILLING.reset(token)
    assert "Join" not in script.log
    assert "Sleep" not in script.log
    assert outer.awaits == ()


def test_a_cycle_by_way_of_others_is_seen_too() -> None:
    """A waits for B, B for C, C for A."""
    flights = Script().env.flights
    first, second, third = (flights.board(key, 1)[0] for key in (b"a", b"b", b"c"))
    assert flights.depart([first], second)
    assert flights.depart([second], third)
    assert not flights.depart([third], first)
    flights.arrive([second], third)
    assert flights.depart([third], first)


def test_a_run_that_was_left_is_waited_for_by_nobody() -> None:
    """The wait is over, in whatever way: what waited may be waited for again."""
    recipe, script = make_recipe(), Script(BUSY)
    outer, _ = script.env.flights.board(b"outer", 1)
    theirs, _ = script.env.flights.board(KEY, 7, (5,))
    seen: list[Any] = []

    def interrupted(_: Any) -> bool:
        seen.extend(outer.awaits)
        raise KeyboardInterrupt

    script.on_join = interrupted
    token = inside(script, outer)
    try:
        with pytest.raises(KeyboardInterrupt):
            script.run(call(job(recipe, never), script.env, None))
    finally:
        FILLING.reset(token)
    assert seen == [theirs]
    assert outer.awaits == ()


def test_a_run_under_older_generations_is_not_joined() -> None:
    """invalidate_all leaves the stub as it is: a run that began before it is not for who comes after."""
    recipe = make_recipe()
    script = Script(BUSY, va(entry(recipe, "newer", created=NOW)))
    script.env.flights.board(KEY, 7, (4,))
    assert script.run(call(job(recipe, never), script.env, None)) == "newer"
    assert "Join" not in script.log


def test_who_waits_for_a_refresh_of_this_process_gets_its_result() -> None:
    """Beyond stale, and the claim is another thread's: join his run."""
    recipe = make_recipe(stale_s=5.0)
    script = Script(claimed(recipe, age_s=66.0))
    flight, _ = script.env.flights.board(KEY, 9, (5,))

    def land(_: Any) -> bool:
        script.env.flights.land(KEY, 9, recipe.packer.pack("new"), flight)
        return True

    script.on_join = land
    assert script.run(call(job(recipe, never), script.env, None)) == "new"
    assert script.log == ["Exchange", "Join"]
    assert (recipe.tally.waits, recipe.tally.misses) == (1, 1)


# -- beside a lease for which nobody waits any more --------------------------------------------------------------------


def tired(script: Script) -> Any:
    """Mark the current code as inside a run that has no time left to wait."""
    frame = Filling(script.env.flights, b"outer", script.clock.monotonic, Notes())
    return FILLING.set((frame,))


@pytest.mark.parametrize(
    ("cas", "generations", "again", "joined"),
    [
        (-7, (5,), False, True),
        (-7, (4,), False, False),
        (-7, (5,), True, False),
        (-6, (5,), False, False),
        (None, None, False, False),
    ],
    ids=["the same lease", "other generations", "under marks", "another lease", "no server"],
)
def test_who_runs_beside_a_lease_joins_only_those_who_do_the_same(
    cas: int | None, generations: tuple[int, ...] | None, again: bool, joined: bool
) -> None:
    """The server is there: after an invalidation it shows another lease, or other generations, and a run that was begun
    without a lease before that is older than who comes now.
    """
    recipe, script = make_recipe(), Script(BUSY)
    flight, _ = script.env.flights.board(KEY, cas, generations)

    def land(_: Any) -> bool:
        flight.again = again
        script.env.flights.land(KEY, cas, recipe.packer.pack("theirs"), flight)
        return True

    script.on_join = land
    token = tired(script)
    try:
        got = script.run(call(job(recipe, lambda: "mine"), script.env, None))
    finally:
        FILLING.reset(token)
    assert got == ("theirs" if joined else "mine")


def test_two_who_run_beside_a_lease_share_one_run() -> None:
    """Its end wakes whoever waits, and nothing is left behind."""
    recipe, script = make_recipe(), Script(BUSY)
    flights = script.env.flights

    def compute() -> str:
        [flight] = flights._flights.values()
        assert flights.find(KEY, -7) is flight
        return "mine"

    token = tired(script)
    try:
        assert script.run(call(job(recipe, compute), script.env, None)) == "mine"
    finally:
        FILLING.reset(token)
    assert len(flights) == 0
