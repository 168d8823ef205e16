"""The stories of a cold key, told to a script of server answers: read, fill, wait, void, and run without a lease."""

from __future__ import annotations

from typing import Any

import pytest

from cachekit.errors import DeadlineExceeded, Unreachable
from cachekit.flows.call import call
from cachekit.flows.fill import fill, refresh
from cachekit.flows.frames import FILLING, Filling, Notes
from cachekit.flows.lease import Lease
from cachekit.hooks import Fill, Miss
from cachekit.ops import LeaseVoid
from flows.scripted import BUSY, DONE, KEY, LOST, Clock, Script, Stored, entry, job, make_recipe, never, va

NOW = Clock().now


def test_a_lost_entry_is_computed_and_stored_under_its_lease() -> None:
    """Reply W: run, and store with exactly the CAS and the generations that came with it."""
    script, recipe = Script(LOST, DONE), make_recipe()
    assert script.run(call(job(recipe, lambda: {"n": 1}), script.env, None)) == {"n": 1}
    stored = Stored(script.requests[1])
    assert (stored.value(recipe), stored.header.generations) == ({"n": 1}, (5,))
    assert (stored.cas, stored.until) == (7, 71)
    assert (recipe.tally.misses, recipe.tally.fills, recipe.tally.unstored) == (1, 1, 0)


def test_a_fresh_entry_is_returned() -> None:
    """A fresh value is a hit, also on the long way."""
    recipe = make_recipe()
    script = Script(va(entry(recipe, "kept", created=NOW - 10)))
    assert script.run(call(job(recipe, never), script.env, None)) == "kept"
    assert (recipe.tally.hits, recipe.tally.misses) == (1, 0)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (lambda r: va(entry(r, "old", created=NOW - 1, generation=4)), "invalidated"),
        (lambda r: va(entry(r, "old", created=NOW - 1).replace(KEY[-16:], b"B" * 16)), "garbage"),
        (lambda r: b"VA 4 c9 f3 t9 O?\r\nJUNK\r\nHD c5 O? Z\r\n", "garbage"),
        (lambda r: va(entry(r, "old", created=NOW - 1, generation=4), more=b" X W"), "invalidated"),
    ],
)
def test_what_is_not_fresh_is_voided_and_one_reader_fills(reply: Any, reason: str) -> None:
    """An entry under an old generation, or not ours: delete what was seen, ask again, fill."""
    recipe = make_recipe()
    script = Script(reply(recipe), DONE + LOST, DONE)
    missed: list[Miss] = []
    script.hooks.on_miss(missed.append)
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == "new"
    assert script.requests[1].startswith(b"md " + KEY + b" C9 ")
    assert [event.reason for event in missed] == [reason]


def test_a_generation_lower_than_the_entrys_is_read_again_then_void() -> None:
    """Higher than read: this read is the older one, so read again; if it stays so, fail closed."""
    recipe = make_recipe()
    ahead = va(entry(recipe, "odd", created=NOW - 1, generation=6))
    script = Script(ahead, ahead, DONE + LOST, DONE)
    assert script.run(call(job(recipe, lambda: "new"), script.env, None)) == "new"
    assert [request[:2] for request in script.requests] == [b"mg", b"mg", b"md", b"ms"]


def test_a_waiter_gets_what_the_other_stored() -> None:
    """Reply Z: wait with pauses, ask again, and be served; the function does not run here."""
    recipe = make_recipe()
    script = Script(BUSY, BUSY, va(entry(recipe, "theirs", created=NOW)))
    assert script.run(call(job(recipe, never), script.env, None)) == "theirs"
    assert script.log == ["Exchange", "Sleep", "Exchange", "Sleep", "Exchange"]
    assert (recipe.tally.waits, recipe.tally.misses, recipe.tally.hits) == (1, 1, 0)


def test_a_waiter_competes_again_when_the_filler_gave_up() -> None:
    """The filler failed and gave its lease back: the next read hands it to a waiter."""
    script, recipe = Script(BUSY, LOST, DONE), make_recipe()
    assert script.run(call(job(recipe, lambda: 2), script.env, None)) == 2


def test_a_lease_that_is_too_old_is_taken_over_by_one() -> None:
    """A stub older than the lease: whoever adds the second-level item fills, under the same CAS."""
    recipe = make_recipe()
    old = BUSY.replace(b"t299", b"t289")
    script = Script(old, b"NS O?\r\n", old, DONE, DONE)
    assert script.run(call(job(recipe, lambda: 3), script.env, None)) == 3
    assert script.requests[1].startswith(b"ms " + KEY + b"! 1 ME T21 ")
    assert b" C7 " in script.requests[4].partition(b"\r\n")[0]


@pytest.mark.parametrize("first", [b"EN\r\n" + b"HD c5 O? Z\r\n", b"SERVER_ERROR out of memory\r\nHD c5 O? Z\r\n"])
def test_without_a_lease_the_function_runs_and_nothing_is_stored(first: bytes) -> None:
    """EN despite N, or an error: no lease to be had."""
    script, recipe = Script(first.replace(b"EN\r\n", b"EN O?\r\n")), make_recipe()
    assert script.run(call(job(recipe, lambda: 4), script.env, None)) == 4
    assert (len(script.requests), recipe.tally.unstored) == (1, 1)


NO_LEASES = {
    "no item": b"EN O?\r\nHD c5 O? Z\r\n",
    "no room": b"SERVER_ERROR out of memory\r\nHD c5 O? Z\r\n",
    "no generation": LOST.replace(b"HD c5 O? Z", b"EN O?"),
    "no CAS numbers": LOST.replace(b"c7", b"c0"),
}


@pytest.mark.parametrize("answer", NO_LEASES.values(), ids=NO_LEASES)
def test_where_the_server_answers_but_gives_no_lease_runs_are_not_shared(answer: bytes) -> None:
    """It may have acknowledged an invalidation to another process: who comes then joins no run from before, neither one
    of its kind nor one that was begun while the server could not be asked.
    """
    recipe, script = make_recipe(), Script(answer, DONE)
    flights = script.env.flights
    flights.board(KEY, None)

    def compute() -> str:
        assert list(flights._flights) == [(KEY, None)]
        return "mine"

    assert script.run(call(job(recipe, compute), script.env, None)) == "mine"
    assert "Join" not in script.log
    assert recipe.tally.waits == 0


def test_where_the_server_can_not_be_asked_runs_are_shared() -> None:
    """Nobody could tell an invalidation by it, and the source need not bear the herd."""
    recipe, script = make_recipe(), Script(DeadlineExceeded("slow"))
    flight, _ = script.env.flights.board(KEY, None)

    def land(_: Any) -> bool:
        script.env.flights.land(KEY, None, recipe.packer.pack("theirs"), flight)
        return True

    script.on_join = land
    assert script.run(call(job(recipe, never), script.env, None)) == "theirs"


def test_a_lease_without_generations_stores_nothing() -> None:
    """What can't be tied to a generation could not be invalidated."""
    script, recipe = Script(LOST.replace(b"HD c5 O? Z", b"EN O?"), DONE), make_recipe()
    assert script.run(call(job(recipe, lambda: 4), script.env, None)) == 4
    assert recipe.tally.unstored == 1
    assert script.requests[1].startswith(b"md " + KEY + b" C7 "), "nobody else could fill for three leases"


def test_a_refresh_without_generations_gives_its_lease_back() -> None:
    """The W that it got is of no use to it, and others would wait for it."""
    script, recipe = Script(LOST.replace(b"HD c5 O? Z", b"EN O?"), DONE), make_recipe()
    assert script.run(refresh(job(recipe, lambda: 4), script.env)) == 4
    assert script.requests[1].startswith(b"md " + KEY + b" C7 ")


def test_a_refresh_without_cas_numbers_stores_nothing() -> None:
    """To some servers C0 means no condition at all."""
    script, recipe = Script(LOST.replace(b"c7", b"c0")), make_recipe()
    assert script.run(refresh(job(recipe, lambda: 4), script.env)) == 4
    assert len(script.requests) == 1


@pytest.mark.parametrize("left", [b"t-1", b"t3600"])
def test_an_empty_item_that_does_not_tell_its_age_is_taken_over_after_a_lease(left: bytes) -> None:
    """A stub that was touched, or an empty value of another program: nobody may be at work on it."""
    clock = Clock()
    began = clock.monotonic
    answers = [BUSY.replace(b"t299", left)] * 2000
    script, recipe = Script(*answers, clock=clock), make_recipe()
    exchanges = script._perform

    def perform(op: Any) -> Any:
        if b"ms " in getattr(op, "request", b""):
            script.answers = [DONE]
        return exchanges(op)

    script._perform = perform  # type: ignore[method-assign]
    assert script.run(call(job(recipe, lambda: "mine"), script.env, None)) == "mine"
    assert recipe.lease_s <= clock.monotonic - began < recipe.lease_s + 1
    assert b" C7 " in script.requests[-1].partition(b"\r\n")[0]


def test_nobody_joins_a_run_without_a_lease_that_has_looked_for_its_waiters() -> None:
    """It found none, so nothing was packed: he would have waited for nothing, and run the function again."""
    script, recipe = Script(Unreachable("down")), make_recipe()
    flights, found = script.env.flights, []
    land = flights.land

    def late(*args: Any) -> None:
        found.append(flights.find(KEY, None))
        land(*args)

    flights.land = late  # type: ignore[method-assign, assignment]
    assert script.run(call(job(recipe, lambda: [1]), script.env, None)) == [1]
    assert found == [None]


@pytest.mark.parametrize("first", [True, False])
def test_who_waits_for_a_run_without_a_lease_runs_himself_after_one(first: bool) -> None:
    """Its pilot may be stuck, or waiting for this very caller: one more runs each lease, and lands it for the rest."""
    clock = Clock()
    script, recipe = Script(Unreachable("down"), clock=clock), make_recipe()
    flight, _ = script.env.flights.board(KEY, None)
    if not first:
        script.env.flights.relieve(flight)

    def join(op: Any) -> bool:
        assert op.timeout_s <= recipe.lease_s
        clock.pass_by(op.timeout_s)
        return False

    script.on_join = join
    assert script.run(call(job(recipe, lambda: "mine"), script.env, None)) == "mine"
    assert script.log.count("Join") == (1 if first else 2)
    assert (flight.landed, flight.payload) == (True, recipe.packer.pack("mine"))


@pytest.mark.parametrize("error", [Unreachable("down"), DeadlineExceeded("slow")])
def test_a_server_in_trouble_is_counted_and_the_function_runs(error: Exception) -> None:
    """The caller of a cached function never sees cache trouble."""
    script, recipe = Script(error), make_recipe()
    assert script.run(call(job(recipe, lambda: 5), script.env, None)) == 5
    assert (recipe.tally.errors, recipe.tally.misses) == (1, 1)


def test_the_functions_own_server_error_is_its_answer() -> None:
    """A function that itself raises one of our errors is not run twice: that error is its answer."""
    runs: list[int] = []

    def compute() -> None:
        runs.append(1)
        raise Unreachable("the function's own trouble")

    script, recipe = Script(LOST, DONE), make_recipe()
    with pytest.raises(Unreachable, match="own trouble"):
        script.run(call(job(recipe, compute), script.env, None))
    assert (len(runs), recipe.tally.errors) == (1, 0)


def test_an_exception_gives_the_lease_back_and_reaches_the_caller() -> None:
    """The function raised: the stub is deleted under its CAS, so that others may compete."""
    script, recipe = Script(LOST, DONE), make_recipe()
    with pytest.raises(ZeroDivisionError):
        script.run(call(job(recipe, lambda: 1 // 0), script.env, None))
    assert script.requests[1].startswith(b"md " + KEY + b" C7 ")


def test_an_interrupt_gives_the_lease_back_and_is_no_answer_for_waiters() -> None:
    """Ctrl-C belongs to one caller: those who wait with him compete again."""
    recipe = make_recipe()
    script = Script(LOST, DONE)
    seen: list[Any] = []

    def compute() -> None:
        seen.append(script.env.flights.find(KEY, 7))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        script.run(call(job(recipe, compute), script.env, None))
    assert (seen[0].landed, seen[0].error) == (False, None)
    assert script.requests[1].startswith(b"md ")


@pytest.mark.parametrize("answer", [b"NF O?\r\n", b"EX O?\r\n"])
def test_a_store_that_lost_against_an_invalidation_is_dropped(answer: bytes) -> None:
    """NF or EX at the store: the result goes to the caller and nowhere else."""
    script, recipe = Script(LOST, answer), make_recipe()
    events: list[Fill] = []
    script.hooks.on_fill(events.append)
    assert script.run(call(job(recipe, lambda: 6), script.env, None)) == 6
    assert [(event.stored, event.reason) for event in events] == [(False, "superseded")]


def test_a_lease_void_after_a_reconnect_stores_nothing_and_is_given_back() -> None:
    """CAS numbers begin anew with a restarted server; deleting by mistake only costs a recompute."""
    script, recipe = Script(LOST, LeaseVoid("reconnected"), b"NF O?\r\n"), make_recipe()
    assert script.run(call(job(recipe, lambda: 7), script.env, None)) == 7
    assert [request[:2] for request in script.requests] == [b"mg", b"ms", b"md"]


def test_a_fill_inside_itself_runs_the_function() -> None:
    """Recursion on the same key must not wait for itself."""
    script, recipe = Script(), make_recipe()
    token = FILLING.set((Filling(script.env.flights, KEY, 1e9, Notes()),))
    try:
        assert script.run(call(job(recipe, lambda: 8), script.env, None)) == 8
    finally:
        FILLING.reset(token)
    assert script.requests == []


def test_inside_another_fill_one_waits_half_of_what_is_left() -> None:
    """Two fills that want each other's value end, without a lease, before either lease does."""
    clock = Clock()
    script, recipe = Script(*[BUSY] * 1000, clock=clock), make_recipe()
    token = FILLING.set((Filling(script.env.flights, b"another", clock.monotonic + 4.0, Notes()),))
    try:
        assert script.run(call(job(recipe, lambda: 9), script.env, None)) == 9
    finally:
        FILLING.reset(token)
    assert 2.0 <= clock.monotonic - 1000.0 < 2.1


def test_a_caller_joins_the_flight_of_the_same_lease_only() -> None:
    """After an invalidation the CAS is another one, so nobody joins a run that began before it."""
    recipe = make_recipe()
    script = Script(BUSY.replace(b"c7", b"c8"), va(entry(recipe, "newer", created=NOW)))
    script.env.flights.board(KEY, 7)
    assert script.run(call(job(recipe, never), script.env, None)) == "newer"
    assert "Join" not in script.log


def test_waiters_of_a_flight_get_copies() -> None:
    """What two threads get from one run can't be changed under each other's feet."""
    recipe, shared = make_recipe(), {"n": [1]}
    script = Script(BUSY)
    script.env.flights.board(KEY, 7)

    def land(_: Any) -> bool:
        script.env.flights.land(KEY, 7, recipe.packer.pack(shared))
        return True

    script.on_join = land
    got = script.run(call(job(recipe, never), script.env, None))
    assert got == shared
    assert got is not shared
    assert got["n"] is not shared["n"]


def test_waiters_of_a_flight_get_its_exception() -> None:
    """The exception goes to those who wait in this process."""
    script, recipe = Script(BUSY), make_recipe()
    script.env.flights.board(KEY, 7)

    def crash(_: Any) -> bool:
        script.env.flights.crash(KEY, 7, LookupError("gone"))
        return True

    script.on_join = crash
    with pytest.raises(LookupError, match="gone"):
        script.run(call(job(recipe, never), script.env, None))


def test_refresh_runs_and_stores_under_the_cas_that_stood_there() -> None:
    """refresh() takes a CAS before it runs; an invalidation meanwhile makes the store fail."""
    recipe = make_recipe()
    script = Script(va(entry(recipe, "old", created=NOW)), DONE)
    assert script.run(refresh(job(recipe, lambda: "new"), script.env)) == "new"
    assert b" C9 " in script.requests[1].partition(b"\r\n")[0]


def test_a_forked_child_neither_stores_nor_gives_back_its_parents_lease() -> None:
    """The lease belongs to the process that got it, however the run ends."""
    recipe, script = make_recipe(), Script()

    def compute(fails: bool) -> int:
        script.env.forked()
        return 1 // (not fails)

    assert script.run(fill(job(recipe, lambda: compute(False)), script.env, Lease(7, 1000.0, (5,)))) == 1
    with pytest.raises(ZeroDivisionError):
        script.run(fill(job(recipe, lambda: compute(True)), script.env, Lease(7, 1000.0, (5,))))
    assert script.requests == []


def test_age_counts_from_the_end_of_the_run() -> None:
    """A function that runs longer than its ttl is still cached for a ttl."""
    clock = Clock()
    script, recipe = Script(LOST, DONE, clock=clock), make_recipe(ttl=5.0)

    def compute() -> str:
        clock.pass_by(600.0)
        return "slow"

    script.run(call(job(recipe, compute), script.env, None))
    header = Stored(script.requests[1]).header
    assert header.created_ms == round(clock.now * 1000)
    assert header.delta_us == 600_000_000
