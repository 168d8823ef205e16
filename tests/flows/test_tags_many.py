"""Many entries that bear tags, looked at or read at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cachekit.flows.batch import batch, refresh_all
from cachekit.flows.look import explain, stored
from cachekit.flows.many import many
from cachekit.flows.shared import lot_size
from cachekit.ops import BATCH_KEYS
from flows.tagged import Tagged, filled

# -- looking -----------------------------------------------------------------------------------------------------------


def test_a_look_tells_hard_from_soft() -> None:
    """Without making a record, and without a lease; what is void softly is shown as long as it may be served."""
    world, job = filled()
    assert world.run(explain(job, world.env)).state == "fresh"
    world.somebody_bumps("a", soft=True)
    world.forget()
    assert world.run(explain(job, world.env)).state == "stale"
    assert world.commands[0] == ["mgv tag=a", "mgv gen="]
    assert b" N" not in world.exchanges[0].request
    assert world.run(stored([job], world.env))[job.key].get() == "value 0"
    world.clock.pass_by(91.0)
    assert world.run(explain(job, world.env)).state == "expired by hand"
    assert world.run(stored([job], world.env)) == {}
    world.somebody_bumps("a")
    assert world.run(explain(job, world.env)).state == "invalidated"
    assert world.record(1, "a").code == "EN", "nor does a look make it anew"


def test_a_look_at_many_asks_for_each_record_once() -> None:
    """However many entries bear it; each server for its own."""
    world = Tagged()
    jobs = [world.tagged(number, "all", f"own{number}") for number in range(6)]
    for job in jobs:
        world.ask(job)
    world.somebody_bumps("own3")
    world.forget()
    found = world.run(stored(jobs, world.env))
    assert len(found) == 5
    assert jobs[3].key not in found
    assert world.words(b"tag=all ") == [[1, 1], [0, 0]]
    assert world.words(b"tag=own") == [[3, 3], [0, 0]]


def test_a_look_asks_no_more_at_a_time_than_a_server_answers_in_time() -> None:
    """Values and records count alike: a few entries at a time where they bear many tags."""
    world = Tagged(1)
    jobs = [world.tagged(number, *(f"t{number}-{each}" for each in range(63))) for number in range(40)]
    load(world, *jobs)
    world.forget()
    assert len(world.run(stored(jobs, world.env))) == 40
    assert [counts for [counts] in world.words(b"mg ") if counts] == [16 * 63 + 1, 16 * 63 + 1, 8 * 63 + 1]


# -- many at once ------------------------------------------------------------------------------------------------------


def load(world: Tagged, *jobs: Any, story: Callable[..., Any] = batch) -> Any:
    """One batch of these entries; each run of the loader counts."""
    numbers = [int(job.key[-3:]) for job in jobs]
    return world.run(story(list(jobs), world.env, world.compute(*numbers)))


def own_tags(world: Tagged, *numbers: int) -> list[Any]:
    """Entries with a tag that all share, and as many of their own as their number says."""
    return [world.tagged(number, "all", *(f"t{number}-{each}" for each in range(number))) for number in numbers]


@pytest.mark.parametrize("explicit", [False, True])
def test_every_entry_of_a_batch_is_judged_by_its_own_tags(explicit: bool) -> None:
    """However many each bears: replies go to whom they belong to, and the function's number is asked once a server."""
    world = Tagged()
    if explicit:
        world.env.explicit.update((0, 1))
    jobs = own_tags(world, 0, 1, 2, 3, 5, 8)
    expected = [f"value {number}" for number in (0, 1, 2, 3, 5, 8)]
    assert load(world, *jobs) == expected
    world.forget()
    assert load(world, *jobs) == expected
    assert world.runs == []
    assert world.words(b"gen=") == [[1, 1]]
    assert world.words(b"tag=") == [[1 + 3 + 9, 2 + 4 + 6]]
    for tag, again in (("t3-2", [3]), ("t8-7", [8]), ("t1-0", [1]), ("t2-2", []), ("all", [0, 1, 2, 3, 5, 8])):
        world.forget()
        world.somebody_bumps(tag)
        assert load(world, *jobs) == expected
        assert world.runs == ([again] if again else [])
        world.forget()
        assert load(world, *jobs) == expected
        assert world.runs == []


@pytest.mark.parametrize("explicit", [False, True])
def test_a_batch_under_a_soft_bump_is_loaded_by_one_and_served_to_others(explicit: bool) -> None:
    """In common windows, and one run."""
    world = Tagged(stale_s=30.0)
    if explicit:
        world.env.explicit.update((0, 1))
    jobs = own_tags(world, 1, 2, 3)
    old = [f"value {number}" for number in (1, 2, 3)]
    new = [f"new {number}" for number in (1, 2, 3)]
    assert load(world, *jobs) == old
    world.somebody_bumps("all", "t3-0", soft=True)
    world.forget()
    world.load = lambda number: f"new {number}"
    served: list[Any] = []

    def during() -> None:
        world.during = lambda: None
        served.append(world.elsewhere(batch(jobs, world.env, world.compute(1, 2, 3))))

    world.during = during
    assert load(world, *jobs) == new
    assert served == [old]
    assert world.runs == [[1, 2, 3]]
    assert world.words(b"md ") == [[0, 0], [0, 0], [2, 1], [0, 0]], "reads, closer looks, marks, stores"
    assert load(world, *jobs) == new


def test_a_batch_in_which_each_entry_has_a_fate_of_its_own() -> None:
    """Fresh, void hard, void softly, absent, and past its ttl, side by side in the same windows."""
    world = Tagged(stale_s=30.0)
    jobs = {number: world.tagged(number, f"t{number}") for number in range(1, 11)}
    load(world, *[jobs[number] for number in range(1, 9)])
    world.somebody_bumps("t1", "t2")
    world.somebody_bumps("t3", "t4", soft=True)
    world.handle(5, b"md {} I\r\n")
    world.somebody_bumps("t5", soft=True)
    world.forget()
    world.load = lambda number: f"new {number}"
    assert load(world, *jobs.values()) == [
        f"{'new' if number in (1, 2, 3, 4, 5, 9, 10) else 'value'} {number}" for number in jobs
    ]
    assert world.runs == [[1, 2, 3, 4, 5, 9, 10]]
    world.forget()
    load(world, *jobs.values())
    assert world.runs == []


def test_refresh_of_a_batch_under_tags() -> None:
    """Every entry is stored under its own numbers."""
    world = Tagged()
    jobs = own_tags(world, 1, 2, 3)
    load(world, *jobs)
    world.load = lambda number: f"new {number}"
    assert load(world, *jobs, story=refresh_all) == ["new 1", "new 2", "new 3"]
    world.forget()
    assert load(world, *jobs) == ["new 1", "new 2", "new 3"]
    world.somebody_bumps("t2-1")
    assert load(world, *jobs) == ["new 1", "new 2", "new 3"]
    assert world.runs == [[2]]


def test_a_lot_has_fewer_entries_where_they_bear_many_tags() -> None:
    """So many commands are sent before the first answers are read."""
    world = Tagged(1)
    assert lot_size([world.tagged(1)]) == BATCH_KEYS
    assert lot_size([world.tagged(1, "a"), world.tagged(2)]) == BATCH_KEYS
    assert lot_size([world.tagged(1, *map(str, range(7)))]) == 128
    assert lot_size([world.tagged(1, *map(str, range(128)))]) == 7
    jobs = [world.tagged(number, *(f"t{number}-{each}" for each in range(63))) for number in range(40)]
    load(world, *jobs)
    assert [counts for [counts] in world.words(b"mg app:report:0") if counts] == [16, 16, 8]
    world.forget()
    load(world, *jobs)
    assert world.runs == []
    world.forget()
    assert len(world.run(many(jobs, world.env))) == 40
    assert [counts for [counts] in world.words(b"mg app:report:0")] == [16, 16, 8]


def each_alone(world: Tagged) -> None:
    """``many`` hands its calls over one by one."""
    perform = world.perform

    def with_each(op: Any) -> Any:
        if type(op).__name__ == "Each":
            return [world.run(flow) for flow in op.flows]
        return perform(op)

    world.perform = with_each  # type: ignore[method-assign]


def test_many_calls_are_each_judged_by_their_own_tags() -> None:
    """One window of reads; those that were bumped go the way of a single call."""
    world = Tagged(stale_s=30.0)
    each_alone(world)
    jobs = own_tags(world, 0, 1, 2, 3)
    assert world.run(many(jobs, world.env)) == [f"value {n}" for n in range(4)]
    world.forget()
    assert world.run(many(jobs, world.env)) == [f"value {n}" for n in range(4)]
    assert world.log == ["Gather"]
    world.somebody_bumps("t3-1")
    assert world.run(many(jobs, world.env)) == ["value 0", "value 1", "value 2", "value 4"]
    world.somebody_bumps("t1-0", soft=True)
    assert world.run(many(jobs, world.env)) == ["value 0", "value 5", "value 2", "value 4"]


def test_what_many_was_given_for_nothing_it_gives_back() -> None:
    """A read may hand over the right to refresh what was expired by hand; where another call raises first, the entry
    goes back as it was, under a soft bump as well.
    """
    world = Tagged(stale_s=30.0)
    each_alone(world)
    jobs = own_tags(world, 1, 3)
    world.run(many(jobs, world.env))
    world.handle(3, b"md {} I\r\n")
    world.somebody_bumps("t1-0")
    world.somebody_bumps("all", soft=True)

    def fail() -> None:
        raise LookupError("down")

    world.during = fail
    with pytest.raises(LookupError):
        world.run(many(jobs, world.env))
    world.during = lambda: None
    assert world.run(explain(jobs[1], world.env)).state == "stale"
    assert world.ask(jobs[1]) == "value 3"
