"""Reads of entries that bear tags: what a bump makes of them, hard or soft, before, during and after a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from cachekit import meta
from cachekit.errors import Unreachable
from cachekit.flows.fill import refresh
from cachekit.flows.look import explain, stored
from cachekit.hooks import Hit, Miss
from cachekit.meta import Parser
from flows.tagged import Tagged, filled

READ, CLOSER = ["mgv 1", "mg tag=a", "mg gen="], ["mgv 1", "mgv tag=a", "mgv gen="]


def peeked(world: Tagged, job: Any) -> list[Any]:
    """What another process may be served."""
    return [entry.get() for entry in world.elsewhere(stored([job], world.env)).values()]


def once(world: Tagged, happens: Callable[[], None]) -> Callable[[], None]:
    """In the first run only."""

    def during() -> None:
        if world.called == 1:
            happens()

    return during


def commands_of(world: Tagged, happens: Callable[[], Any]) -> list[list[str]]:
    """What was asked meanwhile."""
    seen: list[list[list[str]]] = []
    perform = world.perform

    def note(op: Any) -> Any:
        outcome = perform(op)
        seen.append(world.commands[-1:])
        return outcome

    world.perform = note  # type: ignore[method-assign]
    happens()
    world.perform = perform  # type: ignore[method-assign]
    return [lines for commands in seen for lines in commands]


# -- reads -------------------------------------------------------------------------------------------------------------


def test_a_read_asks_for_every_generation_behind_the_value() -> None:
    """In one write, in the order tags, function; a tag's record is made for thirty days, a function's for ever."""
    world, job = filled()
    assert world.ask(job) == "value 0"
    assert world.commands == [READ]
    request = world.exchanges[0].request
    assert b"mg app:tag=a c N2592000 " in request
    assert b"mg app:report:gen= c N0 " in request
    assert world.heard(Hit)
    assert world.called == 0


def test_the_records_are_made_before_the_function_runs() -> None:
    """So that a bump during the run has something to bump; the entry carries what stood there before it."""
    world = Tagged()
    found: list[int | None] = []
    world.during = lambda: found.append(world.record(1, "a").cas)
    world.ask(world.tagged(1, "a", "b"))
    reply = world.handle(1, b"mg {} v O1\r\n")[0]
    judgement = world.recipe.judge(reply, (), world.job(1).key, world.clock.now)
    assert judgement.header is not None
    assert judgement.header.generations[0] == found[0]
    assert len(judgement.header.generations) == 3


@pytest.mark.parametrize("tag", ["a", "b", ""])
def test_a_hard_bump_of_any_of_them_voids_the_entry(tag: str) -> None:
    """One reader is given the lease; what another tag stands over is left alone."""
    world = Tagged(stale_s=30.0)
    both, other = world.tagged(1, "a", "b"), world.tagged(3, "c")
    world.ask(both), world.ask(other)
    world.somebody_bumps(*filter(None, [tag]))
    world.forget()
    assert world.ask(both) == "value 2"
    assert [event.reason for event in world.heard(Miss)] == ["invalidated"]
    assert world.ask(both) == "value 2"
    assert world.ask(other) == ("value 1" if tag else "value 3")


@pytest.mark.parametrize("tag", ["a", ""])
def test_a_hard_bump_during_the_run_voids_what_it_stores(tag: str) -> None:
    """The store goes through, for its stub was not touched; but what it stores is void from the beginning."""
    world = Tagged(stale_s=30.0, stale_if_error_s=30.0)
    job = world.tagged(1, "a")
    tags = [tag] if tag else []
    world.during = once(world, lambda: world.somebody_bumps(*tags))
    assert world.ask(job) == "value 0"
    assert world.run(stored([job], world.env)) == {}
    assert world.run(explain(job, world.env)).state == "invalidated"
    assert world.ask(job) == "value 1"


def test_a_hard_bump_of_another_servers_copy_is_nothing_here() -> None:
    """Every server judges by its own."""
    world, job = filled()
    world.says[0].handle(meta.md(world.groups("a")[0].key))
    assert world.ask(job) == "value 0"


def test_a_record_that_was_evicted_voids_what_it_stood_over() -> None:
    """Fail closed: it is made anew, under a higher number."""
    world, job = filled()
    world.says[1].handle(meta.md(world.groups("a")[0].key))
    assert world.run(stored([job], world.env)) == {}
    assert world.ask(job) == "value 1"
    assert world.ask(job) == "value 1"


def test_a_records_life_ends_and_with_it_what_it_stood_over() -> None:
    """Thirty days after it was made: entries that live longer are computed again then."""
    world, job = filled(ttl=None)
    world.clock.pass_by(2_592_000 - 1)
    assert world.ask(job) == "value 0"
    world.clock.pass_by(2.0)
    assert world.ask(job) == "value 1"


def test_where_a_record_can_not_be_had_nothing_is_trusted_and_nothing_stored() -> None:
    """A server that has no memory for it answers EN; what could not be invalidated is not kept."""
    world, job = filled()
    world.says[1].handle(meta.md(world.groups("a")[0].key))
    world.says[1].answer = lambda request, reply: reply.replace(b" W\r\n", b"\r\n").replace(b"HD", b"EN", 1)
    assert world.ask(job) == "value 1"
    assert world.heard(Miss)
    assert not any(line.startswith("ms") for lines in world.commands for line in lines)


# -- a soft bump -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["a", ""])
def test_after_a_soft_bump_one_refreshes_and_the_others_are_served(tag: str) -> None:
    """The first reader looks closer, marks the entry and refreshes it; others are served the old value until then. From
    then on a hit is one read again.
    """
    world, job = filled()
    world.somebody_bumps(*filter(None, [tag]), soft=True)
    served: list[Any] = []
    world.during = lambda: served.append(world.another(job))
    assert world.ask(job) == "value 1"
    assert (served, world.called) == (["value 0"], 1)
    assert world.commands == [READ, CLOSER, ["mdI 1", *CLOSER], ["ms 1"]]
    assert {event.reason for event in world.heard(Miss)} == {"expired by hand"}
    world.forget()
    assert world.ask(job) == "value 1"
    assert world.commands == [READ]
    assert world.another(job) == "value 1"


def test_who_holds_the_w_already_marks_nothing() -> None:
    """The entry had been expired by hand as well: the first read gave the right to refresh, and it is used."""
    world, job = filled()
    world.handle(1, b"md {} I\r\n")
    world.somebody_bumps("a", soft=True)
    served: list[Any] = []
    world.during = lambda: served.append(world.another(job))
    assert world.ask(job) == "value 1"
    assert world.commands == [READ, CLOSER, ["ms 1"]]
    assert served == ["value 0"]


def test_the_w_of_an_entry_that_was_replaced_meanwhile_is_not_used() -> None:
    """Between the two reads another has stored; his value is the one that counts."""
    world, job = filled()
    world.handle(1, b"md {} I\r\n")
    world.somebody_bumps("a", soft=True)
    reads = iter(range(9))

    def between(op: Any) -> None:
        if op.request.startswith(b"mg ") and next(reads) == 1:
            world.handle(1, b"md {}\r\n")
            world.trouble = lambda _: None
            assert world.another(job) == "value 1"

    world.trouble = between
    assert world.ask(job) == "value 1"
    assert world.called == 1


def test_a_claim_from_before_the_bump_does_not_count() -> None:
    """Who refreshes since before then stores what may be older: another is told to, and the first one's store fails."""
    world, job = filled()
    world.clock.pass_by(61.0)
    inner: list[Any] = []

    def during() -> None:
        if world.called == 1:
            world.somebody_bumps("a", soft=True)
            inner.append(world.another(job))

    world.during = during
    assert world.ask(job) == "value 1"
    assert (inner, world.called) == (["value 2"], 2)
    assert world.ask(job) == "value 2"


def test_a_hard_bump_wins_over_a_soft_one() -> None:
    """In whatever order they come: the old value is never served again, and one reader fills."""
    for order in ((True, False), (False, True), (True, False, True), (False, True, True)):
        world, job = filled()
        for soft in order:
            world.somebody_bumps("a", soft=soft)
        assert world.run(stored([job], world.env)) == {}, order
        served: list[Any] = []
        world.during = partial(lambda world, job, served: served.extend(peeked(world, job)), world, job, served)
        assert world.ask(job) == "value 1", order
        assert served == []
        assert world.called == 1


def test_a_hard_bump_of_one_tag_and_a_soft_one_of_another() -> None:
    """The hard one counts."""
    world = Tagged(stale_s=30.0)
    job = world.tagged(1, "a", "b")
    world.ask(job)
    world.somebody_bumps("a", soft=True)
    world.somebody_bumps("b")
    assert world.run(stored([job], world.env)) == {}
    assert world.ask(job) == "value 1"


def test_a_hard_bump_under_a_refresh_takes_the_old_value_away() -> None:
    """Softly expired and being refreshed: whoever comes after the hard bump waits for a value of his own."""
    world, job = filled()
    world.somebody_bumps("a", soft=True)
    inner: list[Any] = []

    def during() -> None:
        if world.called == 1:
            world.somebody_bumps("a")
            inner.append(world.another(job))

    world.during = during
    assert world.ask(job) == "value 1"
    assert inner == ["value 2"]
    assert world.ask(job) == "value 2", "the late store found another number"


def test_of_two_soft_bumps_each_asks_for_a_refresh() -> None:
    """What was computed between them is served on, and refreshed; and so is what was computed before both."""
    world, job = filled()
    old = world.tagged(3, "a")
    world.ask(old)
    world.somebody_bumps("a", soft=True)
    assert world.ask(job) == "value 2"
    world.somebody_bumps("a", soft=True)
    for each, value in ((job, "value 2"), (old, "value 1")):
        assert world.run(stored([each], world.env))[each.key].get() == value
        served: list[Any] = []
        world.during = partial(lambda each, served: served.append(world.another(each)), each, served)
        world.ask(each)
        assert served == [value]


def test_a_soft_bump_during_the_run_asks_for_another() -> None:
    """What began before it is served on, and refreshed by the next who asks."""
    world = Tagged(stale_s=30.0)
    job = world.tagged(1, "a")
    world.during = once(world, lambda: world.somebody_bumps("a", soft=True))
    assert world.ask(job) == "value 0"
    served: list[Any] = []
    world.during = lambda: served.append(world.another(job))
    assert world.ask(job) == "value 1"
    assert served == ["value 0"]


def test_too_many_soft_bumps_are_as_a_hard_one() -> None:
    """A record keeps sixteen numbers: an entry that nobody has read over so many bumps is computed anew."""
    for bumps, state in ((16, "stale"), (17, "invalidated")):
        world, job = filled()
        for _ in range(bumps):
            world.somebody_bumps("a", soft=True)
        assert world.run(explain(job, world.env)).state == state


def test_numbers_that_do_not_rise_bring_nothing_back() -> None:
    """Clients give them by their own clocks. The record was made by one that is ahead, and after a hard bump by one
    that is not: what was computed before stands under the higher number, and is void, also after a soft bump.
    """
    world, job = filled()
    key = world.groups("a")[0].key
    store = world.servers[1].server._store  # type: ignore[attr-defined]
    high = world.record(1, "a").cas or 0
    world.says[1].handle(b"md " + key + b"\r\nmg " + key + b" N0\r\n")
    store.items[key].cas = high - 1  # what an E would give it
    assert world.run(explain(job, world.env)).state == "ahead"
    world.somebody_bumps("a", soft=True)
    assert world.record(1, "a").value == b"%d" % (high - 1)
    assert world.run(stored([job], world.env)) == {}
    served: list[Any] = []
    world.during = lambda: served.extend(peeked(world, job))
    assert world.ask(job) == "value 1"
    assert served == []


def test_after_a_failed_refresh_nobody_tries_for_a_while() -> None:
    """The old value is put back as it was, still void softly: served, throttled, and then refreshed."""
    world, job = filled(stale_if_error_s=600.0, throttle_s=5.0)
    world.somebody_bumps("a", soft=True)

    def fail() -> None:
        raise LookupError("down")

    world.during = fail
    assert world.ask(job) == "value 0"
    world.during = lambda: None
    world.forget()
    assert [world.ask(job) for _ in range(3)] == ["value 0"] * 3
    assert world.called == 0
    assert world.commands == [READ, CLOSER] * 3
    world.clock.pass_by(6.0)
    assert world.ask(job) == "value 2"


def test_where_the_old_may_not_be_served_one_waits() -> None:
    """Past its ttl and its stale time: whoever finds it being refreshed waits for what comes."""
    world, job = filled(stale_s=0.0)
    world.clock.pass_by(61.0)
    world.somebody_bumps("a", soft=True)
    cas = Parser().feed(world.says[1].handle(b"mg " + job.key + b" c\r\n"))[0].cas or 0
    world.handle(1, b"md {} I C%d\r\nmg {}\r\n" % cas)

    def finish() -> None:
        world.on_sleep = lambda: None
        world.handle(1, b"md {}\r\n")
        world.another(job)

    world.on_sleep = finish
    assert world.ask(job) == "value 1"
    assert "Sleep" in world.log
    assert world.called == 1


def test_a_pass_marker_is_void_after_a_soft_bump() -> None:
    """There is no old value in it to be served; and what could not be stored before may be now."""
    world = Tagged(cache_if=lambda value: value != "value 0")
    job = world.tagged(1, "a")
    world.ask(job)
    world.forget()
    world.somebody_bumps("a", soft=True)
    assert world.ask(job) == "value 1"
    assert world.ask(job) == "value 1"
    assert world.called == 1


def test_in_the_background_all_are_served() -> None:
    """Whoever marks it is served as well, and the run goes on behind."""
    world, job = filled(background=True)
    world.somebody_bumps("a", soft=True)
    assert [world.ask(job) for _ in range(3)] == ["value 0"] * 3
    assert (world.called, len(world.spawned)) == (0, 1)
    world.run(world.spawned.pop())
    assert world.ask(job) == "value 1"


def test_a_background_run_finds_that_it_was_bumped_again() -> None:
    """Hard: it stores nothing under its old claim. Softly: what it stores is refreshed again."""
    for soft, state in ((False, "invalidated"), (True, "stale")):
        world, job = filled(background=True)
        world.somebody_bumps("a", soft=True)
        world.ask(job)
        world.during = partial(world.somebody_bumps, "a", soft=soft)
        world.run(world.spawned.pop())
        assert world.run(explain(job, world.env)).state == state


def test_a_server_that_is_lost_before_the_closer_look_costs_a_run() -> None:
    """The right to refresh may have gone down with the answer."""
    world, job = filled()
    world.handle(1, b"md {} I\r\n")
    world.somebody_bumps("a", soft=True)
    world.trouble = lambda op: Unreachable("gone") if b"tag=a c v" in op.request else None
    assert world.ask(job) == "value 1"
    world.trouble = lambda _: None
    assert world.ask(job) == "value 2", "who lost it takes over at once"
    assert "Sleep" not in world.log


def test_the_claim_is_found_by_others_in_one_closer_look() -> None:
    """Without a lease for the taking they are told so in two reads, every time."""
    world, job = filled()
    world.somebody_bumps("a", soft=True)
    seen: list[list[list[str]]] = []

    world.during = lambda: seen.append(commands_of(world, lambda: world.another(job)))
    world.ask(job)
    assert seen == [[READ, CLOSER]]


def test_refresh_under_tags_stores_under_the_numbers_of_now() -> None:
    """Hard or soft, before it or during: an invalidation during the run still wins."""
    for soft in (False, True):
        world, job = filled()
        world.somebody_bumps("a", soft=soft)
        assert world.run(refresh(job, world.env)) == "value 1"
        assert world.ask(job) == "value 1"
        world.during = partial(world.somebody_bumps, "a", soft=soft)
        assert world.run(refresh(job, world.env)) == "value 2"
        assert world.run(explain(job, world.env)).state == ("stale" if soft else "invalidated")


def test_a_refresh_that_fails_after_a_soft_bump_leaves_the_old_value() -> None:
    """The exception is its caller's; the others are served on, and may refresh."""
    world, job = filled()
    world.somebody_bumps("a", soft=True)

    def fail() -> None:
        raise LookupError("down")

    world.during = fail
    with pytest.raises(LookupError):
        world.run(refresh(job, world.env))
    world.during = lambda: None
    assert peeked(world, job) == ["value 0"]
    assert world.run(explain(job, world.env)).state == "stale"
    assert world.ask(job) == "value 2"


def test_a_server_that_takes_numbers_is_given_one_by_every_read_and_mark() -> None:
    """Whatever is made by it: stub, records, the marked entry."""
    world, job = filled()
    world.env.explicit.add(1)
    world.somebody_bumps("a", soft=True)
    assert world.ask(job) == "value 1"
    lines = [line for op in world.exchanges for line in op.request.split(b"\r\n") if line[:2] in (b"mg", b"md", b"ms")]
    assert len(lines) == 3 + 3 + 4 + 1
    assert all(b" E" in line for line in lines)
