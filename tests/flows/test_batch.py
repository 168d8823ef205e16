"""Many keys and one run of a loader, on embedded servers under a scripted clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cachekit import MISS, current
from cachekit.codecs.note import NOTE_FLAGS
from cachekit.errors import DeadlineExceeded, ServerError, Unreachable
from cachekit.flows.batch import NOTHING, batch, refresh_all, tell_all
from cachekit.flows.frames import FILLING, Filling, Notes
from cachekit.hooks import Fill, Hit, Miss, Trouble
from cachekit.meta import md
from cachekit.ops import BATCH_BYTES, BATCH_KEYS, Exchange, Join, LeaseVoid
from cachekit.recipe import Snapshot
from flows.world import World

STUB = b"mg {} c v N300 O1\r\n"


def ask(world: World, *numbers: int) -> Any:
    """One batch of these ids."""
    return world.run(batch(world.jobs(*numbers), world.env, world.compute(*numbers)))


def values(*numbers: int) -> list[str]:
    """What the loader gives for them."""
    return [f"value {number}" for number in numbers]


def forget(world: World) -> None:
    """What was asked so far is of no interest."""
    for each in (world.log, world.exchanges, world.windows, world.runs):
        each.clear()


def later(world: World, seconds: float) -> None:
    """Time goes by, and what was asked so far is of no interest."""
    world.clock.pass_by(seconds)
    forget(world)


def test_a_cold_batch_is_one_window_of_reads_one_run_and_one_window_of_stores() -> None:
    """Over all servers, in the order of the asking, each under its own lease."""
    world = World()
    assert ask(world, 3, 1, 2) == values(3, 1, 2)
    assert world.log == ["Gather", "Compute", "Gather"]
    assert world.runs == [[3, 1, 2]]
    assert world.words(b"mg app:report:0") == [[2, 1], [0, 0]]
    assert world.words(b"mg app:report:gen=") == [[1, 1], [0, 0]], "the generation is asked once a server"
    assert world.words(b"ms ") == [[0, 0], [2, 1]]
    assert all(b" C" in store.request for store in world.windows[1])
    assert (world.recipe.tally.misses, world.recipe.tally.fills, world.recipe.tally.hits) == (3, 1, 0)


def test_a_warm_batch_is_one_window_of_reads() -> None:
    """Nothing else is asked, and nothing runs; each id is a hit, and all of them save one run."""
    world = World()
    world.during = lambda: world.clock.pass_by(2.0)
    ask(world, 1, 2, 3)
    forget(world)
    assert ask(world, 1, 2, 3) == values(1, 2, 3)
    assert (world.log, world.runs) == (["Gather"], [])
    info = world.recipe.tally.info()
    assert (info.hits, info.seconds_saved) == (3, 2.0)


def test_only_what_is_missing_is_loaded() -> None:
    """The loader is asked for the others in the order of the asking."""
    world = World()
    ask(world, 2, 3)
    forget(world)
    assert ask(world, 5, 3, 4, 2, 1) == values(5, 3, 4, 2, 1)
    assert world.runs == [[5, 4, 1]]


def test_an_absent_id_is_stored_as_absent() -> None:
    """The loader is not asked for it again before the time for absent ids is up."""
    world = World(absent_ttl=20.0)
    world.load = lambda number: NOTHING if number == 2 else number
    assert ask(world, 1, 2) == [1, NOTHING]
    forget(world)
    assert ask(world, 1, 2) == [1, NOTHING]
    assert world.runs == []
    later(world, 21.0)
    assert ask(world, 1, 2) == [1, NOTHING]
    assert world.runs == [[2]]


def test_a_ttl_by_value_is_each_values_own() -> None:
    """And is not asked about what is absent."""
    world = World(ttl=lambda number: float(number), absent_ttl=5.0)
    world.load = lambda number: NOTHING if number == 99 else number
    assert ask(world, 10, 20, 99) == [10, 20, NOTHING]
    later(world, 6.0)
    ask(world, 10, 20, 99)
    assert world.runs == [[99]]
    later(world, 4.5)
    ask(world, 10, 20, 99)
    assert world.runs == [[10]]


def test_what_is_due_is_claimed_in_a_window_of_its_own() -> None:
    """Together with nothing that is fresh, and loaded in one run with what is cold."""
    world = World()
    ask(world, 1, 2)
    later(world, 30.0)
    ask(world, 3, 4)
    later(world, 31.0)
    assert ask(world, 1, 2, 3, 4, 5) == values(1, 2, 3, 4, 5)
    assert world.runs == [[1, 2, 5]]
    assert world.log == ["Gather", "Gather", "Compute", "Gather"]
    assert world.words(b" R2147483647") == [[0, 0], [1, 1], [0, 0]]
    assert world.words(b"mg app:report:gen=") == [[1, 1], [1, 1], [0, 0]]
    assert world.words(b"ms ") == [[0, 0], [0, 0], [2, 1]]


def test_the_old_is_served_while_the_background_loads_all_that_this_caller_won() -> None:
    """One task and one run for all of them, with their flights and stores as ever."""
    world = World(stale_s=30.0, background=True)
    ask(world, 1, 2, 3)
    later(world, 61.0)
    world.load = lambda number: f"new {number}"
    assert ask(world, 1, 2, 3) == values(1, 2, 3)
    assert (world.log, world.runs) == (["Gather", "Gather", "Spawn"], [])
    assert (world.recipe.tally.stale, len(world.spawned)) == (3, 1)
    world.run(world.spawned[0])
    assert world.runs == [[1, 2, 3]]
    assert ask(world, 1, 2, 3) == ["new 1", "new 2", "new 3"]


def test_a_full_background_lets_the_caller_load() -> None:
    """All that he won, in one run."""
    world = World(stale_s=30.0, background=True)
    ask(world, 1, 2)
    later(world, 61.0)
    world.room = False
    ask(world, 1, 2)
    assert (world.log, world.runs) == (["Gather", "Gather", "Spawn", "Compute", "Gather"], [[1, 2]])


def test_what_another_refreshes_is_served_stale() -> None:
    """Within ``stale`` nobody waits and nobody runs twice; beyond it this caller waits for the other."""
    world = World(stale_s=30.0)
    ask(world, 1, 2)
    later(world, 61.0)
    world.handle(1, b"mg {} c v R2147483647 O1\r\n")
    world.load = lambda number: f"new {number}"
    assert ask(world, 1, 2) == ["value 1", "new 2"]
    assert (world.runs, world.recipe.tally.stale) == ([[2]], 1)


def test_what_is_void_is_voided_and_read_in_one_window() -> None:
    """After ``invalidate_all`` one reader gets each lease, and one run loads them all."""
    world = World()
    ask(world, 1, 2, 3)
    world.bump()
    forget(world)
    assert ask(world, 1, 2, 3) == values(1, 2, 3)
    assert world.log == ["Gather", "Gather", "Compute", "Gather"]
    assert world.words(b"md ") == [[0, 0], [2, 1], [0, 0]]
    forget(world)
    ask(world, 1, 2, 3)
    assert world.log == ["Gather"]


def test_garbage_is_voided() -> None:
    """Bytes that are no entry of this key count as nothing."""
    world = World()
    ask(world, 1, 2)
    world.handle(1, b"ms {} 4 F7\r\njunk\r\n")
    forget(world)
    assert ask(world, 1, 2) == values(1, 2)
    assert world.runs == [[1]]


def test_own_results_are_stored_before_others_are_waited_for() -> None:
    """Two batches that overlap crosswise would else wait for each other."""
    world = World()
    (stub,) = world.handle(1, STUB)
    stored_first: list[bool] = []

    def theirs() -> None:
        stored_first.append(all(reply.code == "VA" and reply.value for reply in world.handle(2, b"mg {} v\r\n")))
        world.handle(1, b"md {} C%d\r\n" % stub.cas)

    world.on_sleep = theirs
    assert ask(world, 1, 2) == values(1, 2)
    assert world.runs == [[2], [1]], "the other gave up, so this caller loads his id too"
    assert world.log.index("Sleep") > world.log.index("Compute")
    assert stored_first == [True]


def test_a_run_of_this_process_is_joined_and_shared_by_copy() -> None:
    """Whoever finds another's lease here waits for that flight, and unpacks a copy of his own."""
    world = World()
    (stub,) = world.handle(1, b"mg {} c v N300 O1\r\n")
    flight, _ = world.env.flights.board(world.job(1).key, stub.cas)
    theirs = {"theirs": [1]}

    def land(op: Join) -> bool:
        assert op.flight is flight
        world.env.flights.land(world.job(1).key, stub.cas, world.recipe.packer.pack(theirs), flight)
        return True

    world.on_join = land
    found = ask(world, 1, 2)
    assert found == [theirs, "value 2"]
    assert found[0] is not theirs
    assert (world.runs, world.recipe.tally.waits) == ([[2]], 1)
    assert world.log == ["Gather", "Compute", "Exchange", "Join"]


def test_an_absent_id_is_shared_as_absent() -> None:
    """A flight that lands on nothing gives its waiters nothing."""
    world = World()
    (stub,) = world.handle(1, STUB)
    flight, _ = world.env.flights.board(world.job(1).key, stub.cas)

    def land(op: Join) -> bool:
        world.env.flights.land(world.job(1).key, stub.cas, world.recipe.packer.pack(NOTHING), flight)
        return True

    world.on_join = land
    assert ask(world, 1) == [NOTHING]


def test_many_flights_are_waited_for_one_after_the_other() -> None:
    """The time of a wait counts for all of them, so that they take as long as the longest, and not the sum."""
    world = World()
    flights = []
    for number in (1, 2, 3):
        (stub,) = world.handle(number, STUB)
        flights.append(world.env.flights.board(world.job(number).key, stub.cas)[0])
    began = world.clock.monotonic
    assert ask(world, 1, 2, 3) == values(1, 2, 3)
    assert world.clock.monotonic - began == pytest.approx(world.recipe.lease_s)
    assert world.runs == [[1, 2, 3]], "three pilots are stuck: one run in their place"
    assert all(flight.landed for flight in flights)


def test_dead_fillers_are_taken_over_in_one_run() -> None:
    """After a lease the second-level lease of each goes to one caller, who loads all that he got at once."""
    world = World()
    for number in (1, 2, 3):
        world.handle(number, STUB)
    world.clock.pass_by(12.0)
    assert ask(world, 1, 2, 3) == values(1, 2, 3)
    assert world.runs == [[1, 2, 3]]
    assert [count for window in world.words(b" 1 ME T") for count in window if count] == [2, 1]


def test_those_who_wait_ask_again_in_one_window() -> None:
    """A poll for each id of somebody else's batch would be as many round trips."""
    world = World()
    stubs = {number: world.handle(number, STUB)[0].cas for number in (1, 2, 3)}
    turns: list[int] = []

    def theirs() -> None:
        turns.append(1)
        if len(turns) == 2:
            for number, cas in stubs.items():
                world.handle(number, b"md {} C%d\r\n" % cas)

    world.on_sleep = theirs
    assert ask(world, 1, 2, 3) == values(1, 2, 3)
    assert world.log == ["Gather", "Sleep", "Gather", "Sleep", "Gather", "Compute", "Gather"]
    assert world.runs == [[1, 2, 3]]


def test_when_the_loader_raises_every_lease_is_given_back_in_one_window() -> None:
    """The exception is the caller's and that of who waits for it here; the next caller loads."""
    world = World()
    seen: list[Any] = []

    def fail() -> None:
        seen.extend(world.env.flights.find(*each) for each in list(world.env.flights._flights))
        raise LookupError("no database")

    world.during = fail
    with pytest.raises(LookupError, match="no database") as caught:
        ask(world, 1, 2, 3)
    assert world.log == ["Gather", "Compute", "Gather"]
    assert world.words(b"md ") == [[0, 0], [2, 1]]
    assert [flight.error for flight in seen] == [caught.value] * 3
    assert (world.recipe.tally.fills, len(world.env.flights)) == (1, 0)
    world.during = lambda: None
    assert ask(world, 1, 2, 3) == values(1, 2, 3)


def _refuse() -> None:
    raise Unreachable("the loader's own trouble")


def test_the_traceback_of_a_failure_does_not_grow_with_the_batch() -> None:
    """Each flow has the exception pass through it."""
    depths = []
    for count in (1, 50):
        world = World()
        world.during = _refuse
        with pytest.raises(Unreachable) as caught:
            ask(world, *range(count))
        depths.append(len(caught.traceback))
    assert depths[0] == depths[1]


def test_old_values_rescue_their_ids() -> None:
    """Where ``stale_if_error`` allows, and the refresh is not tried again at once; no exception where all are saved."""
    world = World(stale_if_error_s=100.0)
    ask(world, 1, 2)
    later(world, 61.0)
    world.during = lambda: 1 // 0
    assert ask(world, 1, 2) == values(1, 2)
    assert (world.runs, world.recipe.tally.stale) == ([[1, 2]], 2)
    forget(world)
    assert ask(world, 1, 2) == values(1, 2)
    assert (world.log, world.runs) == (["Gather"], [])


def test_one_id_without_a_value_lets_the_exception_through() -> None:
    """The others are rescued and throttled all the same."""
    world = World(stale_if_error_s=100.0)
    ask(world, 1)
    later(world, 61.0)
    world.during = lambda: 1 // 0
    with pytest.raises(ZeroDivisionError):
        ask(world, 1, 2)
    forget(world)
    assert ask(world, 1) == values(1)
    assert world.runs == []


def test_after_a_failure_nobody_is_waited_for() -> None:
    """The caller gets the exception, so what somebody else loads is of no use to him."""
    world = World()
    world.handle(1, STUB)
    world.during = lambda: 1 // 0
    with pytest.raises(ZeroDivisionError):
        ask(world, 1, 2)
    assert "Sleep" not in world.log


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupt_of_the_run_gives_the_leases_back(interrupt: BaseException) -> None:
    """It is this caller's own: whoever waits for him competes again."""
    world = World()
    seen: list[Any] = []

    def stop() -> None:
        seen.extend(world.env.flights.find(*each) for each in list(world.env.flights._flights))
        raise interrupt

    world.during = stop
    with pytest.raises(type(interrupt)) as caught:
        ask(world, 1, 2)
    assert caught.value is interrupt
    assert [(flight.ended, flight.landed, flight.error) for flight in seen] == [(True, False, None)] * 2
    assert world.words(b"md ")[-1] == [1, 1]
    world.during = lambda: None
    assert ask(world, 1, 2) == values(1, 2)


@pytest.mark.parametrize("at", ["second read", "claim"])
def test_an_interrupt_between_the_reads_and_the_run_gives_the_leases_back(at: str) -> None:
    """A lease of the first window would else keep others waiting for as long as it holds."""
    world = World()
    numbers = range(300 if at == "claim" else 2 * BATCH_KEYS + 2)
    if at == "claim":
        ask(world, 1)
        later(world, 61.0)

    def trouble(op: Exchange) -> BaseException | None:
        interrupted = b" R2147483647" in op.request if at == "claim" else len(world.windows) == 2
        world.trouble = (lambda _: None) if interrupted else trouble
        return KeyboardInterrupt() if interrupted else None

    world.trouble = trouble
    with pytest.raises(KeyboardInterrupt):
        ask(world, *numbers)
    assert world.runs == []
    assert len(world.env.flights) == 0
    forget(world)
    assert ask(world, *numbers) == values(*numbers)
    assert "Sleep" not in world.log


def test_a_flow_that_is_closed_lets_its_waiters_go_and_asks_nothing() -> None:
    """So an interrupt between two ops, or a loop that ends, leaves no flight in the air."""
    world = World()
    flow = batch(world.jobs(1, 2), world.env, world.compute(1, 2))
    flow.send(world.perform(next(flow)))
    assert len(world.env.flights) == 2
    flow.close()
    assert len(world.env.flights) == 0


@pytest.mark.parametrize("error", [Unreachable("down"), DeadlineExceeded("slow")])
def test_a_server_in_trouble_costs_its_own_keys_only(error: ServerError) -> None:
    """They are loaded in the same run, and not stored; it is one failed exchange, or two, and not one for each key."""
    world = World()
    told: list[Trouble] = []
    world.hooks.on_trouble(told.append)
    world.trouble = lambda op: error if op.server == 1 else None
    assert ask(world, 1, 2, 3, 4) == values(1, 2, 3, 4)
    assert world.runs == [[1, 2, 3, 4]]
    assert [trouble.server for trouble in told] == ["server:1"]
    assert world.recipe.tally.unstored == 2
    world.trouble = lambda _: None
    forget(world)
    assert ask(world, 2, 4) == values(2, 4)
    assert world.runs == []


def test_without_a_server_a_run_is_shared_in_this_process() -> None:
    """Flights are known by their keys alone while it can't be asked."""
    world = World(servers=1)
    world.trouble = lambda _: DeadlineExceeded("slow")
    flight, _ = world.env.flights.board(world.job(1).key, None)

    def land(op: Join) -> bool:
        world.env.flights.land(world.job(1).key, None, world.recipe.packer.pack("theirs"), flight)
        return True

    world.on_join = land
    assert ask(world, 1, 2) == ["theirs", "value 2"]
    assert world.runs == [[2]]


def test_a_lease_whose_connection_is_gone_stores_nothing() -> None:
    """CAS numbers begin anew with a restarted server; the results are the caller's all the same."""
    world = World()
    world.trouble = lambda op: LeaseVoid("reconnected") if op.held_since is not None else None
    assert ask(world, 1, 2) == values(1, 2)
    assert world.words(b"md ")[-1] == [1, 1]
    assert world.recipe.tally.unstored == 2


def test_stores_go_out_once_and_over_the_connection_of_their_leases() -> None:
    """What was lost may have gone through."""
    world = World()
    ask(world, 1, 2)
    stores = [op for op in world.exchanges if b"ms " in op.request]
    assert [op.retry for op in stores] == [False, False]
    assert [op.held_since for op in stores] == [1000.0, 1000.0]


def test_a_server_without_leases_stores_nothing() -> None:
    """One that runs with -C has no CAS numbers, and so no generations either."""
    world = World(servers=1)
    answer = world.servers[0].handle

    def handle(request: bytes) -> bytes:
        import re

        return re.sub(rb" c\d+", b" c0", answer(request))

    world.servers[0].handle = handle  # type: ignore[method-assign]
    world.env.flights.board(world.job(1).key, None)
    assert ask(world, 1, 2) == values(1, 2)
    assert world.runs == [[1, 2]], "nor is a run joined that may be older than an invalidation elsewhere"
    assert not any(b"ms " in op.request for op in world.exchanges)


def test_what_can_not_be_stored_leaves_a_pass_marker_each() -> None:
    """The others are stored; and nobody waits in a row for what can never be stored."""
    world = World()
    world.load = lambda number: object() if number == 1 else number
    fills: list[Fill] = []
    world.hooks.on_fill(fills.append)
    ask(world, 1, 2)
    told = sorted((fill.key[-1], fill.stored, fill.reason.partition(":")[0]) for fill in fills)
    assert told == [("1", False, "unencodable"), ("2", True, "")]
    forget(world)
    ask(world, 1, 2)
    assert (world.runs, world.log) == ([[1]], ["Gather", "Compute"])


def test_each_value_is_asked_whether_it_is_to_be_stored() -> None:
    """``cache_if`` sees the values, and never what is absent."""
    world = World(cache_if=lambda value: value != 1)
    world.load = lambda number: NOTHING if number == 3 else number
    assert ask(world, 1, 2, 3) == [1, 2, NOTHING]
    forget(world)
    assert ask(world, 1, 2, 3) == [1, 2, NOTHING]
    assert world.runs == [[1]]


def test_what_the_loader_says_of_its_results_holds_for_all_of_them() -> None:
    """``current()`` is the batch."""
    world = World()

    def say() -> None:
        assert current()
        current().ttl = "10s"

    world.during = say
    ask(world, 1, 2)
    later(world, 11.0)
    world.during = lambda: current().do_not_store()
    ask(world, 1, 2, 3)
    assert world.runs == [[1, 2, 3]]
    forget(world)
    ask(world, 1, 2, 3)
    assert world.runs == [[1, 2, 3]]


def test_a_run_for_many_replaces_no_single_value() -> None:
    """So there is no previous one to look at, or to keep."""
    world = World()
    ask(world, 1, 2)
    later(world, 61.0)
    seen: list[Any] = []

    def look() -> None:
        seen.append(current().previous)
        with pytest.raises(LookupError):
            current().not_modified()

    world.during = look
    ask(world, 1, 2)
    assert seen == [MISS]


def test_a_child_that_was_forked_by_the_loader_leaves_the_leases_to_its_parent() -> None:
    """It stores nothing, gives nothing back, and returns what it has loaded."""
    world = World()
    world.during = world.env.forked
    assert ask(world, 1, 2) == values(1, 2)
    assert world.log == ["Gather", "Compute"]


def test_inside_its_own_load_an_id_is_loaded_bare() -> None:
    """It must not wait for itself."""
    world = World()
    inner: list[Any] = []

    def recurse() -> None:
        world.during = lambda: None
        inner.append(ask(world, 2, 9))

    world.during = recurse
    assert ask(world, 1, 2) == values(1, 2)
    assert inner == [values(2, 9)]
    assert world.runs == [[1, 2], [2, 9]]


def test_inside_another_fill_nobody_waits_beyond_half_of_its_lease() -> None:
    """Two processes whose fills want each other's value would else wait for ever."""
    world = World()
    world.handle(1, STUB)
    token = FILLING.set((Filling(world.env.flights, b"another", world.clock.monotonic + 4.0, Notes()),))
    try:
        assert ask(world, 1) == values(1)
    finally:
        FILLING.reset(token)
    assert 2.0 <= world.clock.monotonic - 1000.0 < 2.2


def test_ten_thousand_ids_go_out_in_bounded_batches() -> None:
    """A server stops reading while its answers are not taken."""
    world = World(servers=3)
    ask(world, *range(10_000))
    assert len(world.runs) == 1
    for op in world.exchanges:
        assert op.request.count(b"\r\nmg app:report:0") < BATCH_KEYS
        assert op.request.count(b"ms ") <= BATCH_KEYS
        assert len(op.request) <= BATCH_BYTES
    assert all(len({op.server for op in window}) == len(window) for window in world.windows)


def test_large_values_are_stored_in_bounded_batches() -> None:
    """By their bytes; one that is larger goes alone."""
    world = World(servers=1)
    world.load = lambda number: bytes(100_000 if number else 200_000)
    ask(world, 0, 1, 2)
    assert [op.request.count(b"ms ") for op in world.exchanges[1:]] == [1, 1, 1]


def test_data_that_looks_like_a_request_is_stored_as_it_is() -> None:
    """Nothing is cut off a store, whatever it ends with."""
    world = World(servers=1)
    world.load = lambda _: b"mg " + world.recipe.generations[0] + b" c N0 O1\r\n"
    assert ask(world, 1, 2) == [world.load(1)] * 2
    forget(world)
    assert ask(world, 1, 2) == [world.load(1)] * 2
    assert world.log == ["Gather"]


def test_a_function_without_a_generation_asks_for_none() -> None:
    """``group=False`` saves it."""
    world = World(generations=())
    ask(world, 1, 2)
    ask(world, 1, 2)
    assert world.runs == [[1, 2]]
    assert not any(b"gen=" in op.request for op in world.exchanges)


def test_a_ttl_of_nothing_asks_nobody() -> None:
    """The loader runs, once for all."""
    world = World(ttl=0.0)
    assert ask(world, 1, 2) == values(1, 2)
    assert (world.log, world.runs) == (["Compute"], [[1, 2]])


def test_a_soft_timeout_serves_the_old_and_lets_the_run_go_on() -> None:
    """One run in the background for all, and one wait."""
    world = World(soft_timeout_s=0.5, stale_s=30.0)
    ask(world, 1, 2)
    later(world, 61.0)
    began = world.clock.monotonic
    assert ask(world, 1, 2) == values(1, 2)
    assert world.clock.monotonic - began == pytest.approx(0.5)
    assert (world.runs, len(world.spawned)) == ([], 1)
    world.run(world.spawned[0])
    assert (world.runs, len(world.env.flights)) == ([[1, 2]], 0)


def test_sliding_stores_the_same_bytes_again() -> None:
    """In one window, at most once in a tenth of the ttl."""
    world = World(sliding=True)
    ask(world, 1, 2)
    later(world, 30.0)
    ask(world, 1, 2)
    assert world.words(b"ms ") == [[0, 0], [1, 1]]
    later(world, 40.0)
    assert ask(world, 1, 2) == values(1, 2)
    assert world.runs == []


def test_hooks_hear_of_each_id() -> None:
    """With its key and its server."""
    world = World()
    hits: list[Hit] = []
    misses: list[Miss] = []
    world.hooks.on_hit(hits.append)
    world.hooks.on_miss(misses.append)
    ask(world, 1, 2)
    ask(world, 1, 2, 3)
    assert [(miss.key[-1], miss.server, miss.reason) for miss in misses] == [
        ("1", "server:1", "absent"),
        ("2", "server:0", "absent"),
        ("3", "server:1", "absent"),
    ]
    assert [hit.key[-1] for hit in hits] == ["1", "2"]


@pytest.mark.parametrize("kind", [StopIteration, RuntimeError])
def test_the_loaders_own_exception_comes_out(kind: type[Exception]) -> None:
    """A generator would turn a StopIteration into something else; the shell's ``run`` takes that off again."""
    world = World()

    def fail() -> None:
        raise kind("the end")

    world.during = fail
    with pytest.raises((kind, RuntimeError)) as caught:
        ask(world, 1, 2)
    found = caught.value if isinstance(caught.value, kind) else caught.value.__cause__
    assert (type(found), str(found)) == (kind, "the end")


def test_servers_that_take_cas_numbers_get_them() -> None:
    """Every stub and every store has one of its own, and the generation is still asked once."""
    world = World()
    world.env.explicit.add(0)
    told: list[Exchange] = []

    def answer(op: Exchange) -> BaseException | None:
        told.append(op)
        return DeadlineExceeded("the embedded server does not know E") if op.server == 0 else None

    world.trouble = answer
    ask(world, 2, 4, 1)
    request = told[0].request
    assert [line.count(b" E") for line in request.split(b"\r\n")] == [1, 1, 1, 0]
    assert told[0].expected == 3
    assert b" E" not in told[1].request


def test_a_refresh_loads_all_and_stores_under_what_stood_there() -> None:
    """In one run; an invalidation during the run wins."""
    world = World()
    ask(world, 1, 2)
    forget(world)
    world.load = lambda number: f"new {number}"
    world.during = lambda: world.handle(2, b"md {}\r\n")
    jobs = world.jobs(1, 2, 3)
    assert world.run(refresh_all(jobs, world.env, world.compute(1, 2, 3))) == ["new 1", "new 2", "new 3"]
    assert (world.runs, world.log) == ([[1, 2, 3]], ["Gather", "Compute", "Gather"])
    forget(world)
    world.during = lambda: None
    assert ask(world, 1, 2, 3) == ["new 1", "new 2", "new 3"]
    assert world.runs == [[2]]


def test_words_about_many_keys_go_out_in_one_window() -> None:
    """Each is acknowledged or not by its own server."""
    world = World()
    ask(world, 1, 2, 3)
    forget(world)
    request: Callable[[bytes, int, int], bytes] = lambda key, opaque, _: md(key, b"O%d" % opaque)  # noqa: E731
    assert world.run(tell_all(world.jobs(1, 2, 3, 4), world.env, request)) == [True] * 4
    assert world.log == ["Gather"]
    world.trouble = lambda op: Unreachable("down") if op.server == 1 else None
    assert world.run(tell_all(world.jobs(1, 2), world.env, request)) == [False, True]


def test_a_fresh_entry_that_can_not_be_read_is_loaded_again() -> None:
    """A class that moved, or bytes of another release."""
    world = World()
    ask(world, 1, 2)
    (reply,) = world.handle(1, b"mg {} v c\r\n")
    generations = (world.servers[1].handle(b"mg " + world.recipe.generations[0] + b" c\r\n").split()[1][1:],)
    snapshot = Snapshot(tuple(map(int, generations)), world.clock.now)
    flags, data, until = world.recipe.seal(world.job(1).key, (NOTE_FLAGS, b"?"), 60.0, snapshot, 0.0)
    assert reply.value != data
    world.handle(1, b"ms {} %d F%d T%d\r\n%b\r\n" % (len(data), flags, until, data))
    forget(world)
    assert ask(world, 1, 2) == values(1, 2)
    assert world.runs == [[1]]


def test_a_flow_that_is_closed_while_it_reads_asks_nothing_more() -> None:
    """The asyncio shell closes what is cancelled before its first answer."""
    world = World()
    flow = batch(world.jobs(1, 2), world.env, world.compute(1, 2))
    next(flow)
    flow.close()
    assert (world.exchanges, len(world.env.flights)) == ([], 0)


def test_an_interrupt_inside_a_flow_stops_them_all() -> None:
    """A signal comes when it comes, here while a listener hears of a fill."""
    world = World()

    @world.hooks.on_fill
    def interrupted(event: Fill) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(world, 1, 2, 3)
    assert len(world.env.flights) == 0
    world.hooks.on_fill.remove(interrupted)
    forget(world)
    assert ask(world, 1, 2, 3) == values(1, 2, 3)
    assert "Sleep" not in world.log
