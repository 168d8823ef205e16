"""Bumps of functions, tags and namespaces: what every server is told, and who hears how that went."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from cachekit.errors import DeadlineExceeded, ServerError, Unreachable
from cachekit.flows.tell import Group, bump, function_of, namespace_of, removal, tags_of, tell
from cachekit.hooks import Invalidate, Trouble
from cachekit.ops import BATCH_KEYS, Exchange, LeaseVoid
from cachekit.recipe import TAG_LIFE_S
from flows.tagged import Tagged, Undelivered


def dead(*servers: int, error: type[ServerError] = Unreachable) -> Callable[[Exchange], ServerError | None]:
    """Nothing reaches those servers."""
    return lambda op: error("gone") if op.server in servers else None


def keys_of(*groups: Group) -> frozenset[bytes]:
    """Their records."""
    return frozenset(group.key for group in groups)


# -- hard --------------------------------------------------------------------------------------------------------------


def test_every_server_is_told_of_every_group_in_one_window() -> None:
    """Each has a copy of its own; nothing is put off where all have acknowledged, be a record there or not."""
    world = Tagged(3)
    world.ask(world.tagged(0, "a"))
    world.forget()
    assert world.bumped("a", "b", "a") is True
    assert world.log == ["Gather"]
    assert world.commands == [["md tag=a", "md tag=b"]] * 3
    assert all(op.retry for op in world.exchanges)
    assert world.kept == []
    assert world.bumped() is True
    assert world.commands[3:] == [["md gen="]] * 3


def test_a_bump_of_nothing_asks_nobody() -> None:
    """invalidate_tags(*[]) is no error, and true at once."""
    world = Tagged()
    assert world.run(bump([], world.env, world.recipe.tally)) is True
    assert world.run(bump([], world.env, world.recipe.tally, soft=True)) is True
    assert (world.log, world.events, world.kept) == ([], [], [])


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("error", [Unreachable, DeadlineExceeded])
def test_a_server_that_does_not_answer_costs_its_own_copies(soft: bool, error: type[ServerError]) -> None:
    """The others are told all the same; what it has not acknowledged is put off in one go, and its trouble is counted
    once.
    """
    world = Tagged(3)
    world.trouble = dead(1, error=error)
    assert world.bumped("a", "b", soft=soft) is False
    tags = world.groups("a", "b")
    assert world.kept == [Undelivered(1, keys_of(*tags), soft, 2)]
    assert [event.server for event in world.heard(Trouble)] == ["server:1"]
    assert world.recipe.tally.errors == 1
    assert [(event.name, event.acknowledged) for event in world.heard(Invalidate)] == [("a", False), ("b", False)]
    assert sum(op.server == 0 for op in world.exchanges) == sum(op.server == 2 for op in world.exchanges) == 1 + soft


@pytest.mark.parametrize("soft", [False, True])
def test_when_nobody_answers_all_of_it_is_put_off(soft: bool) -> None:
    """A soft bump then has nothing to store."""
    world = Tagged()
    world.trouble = dead(0, 1)
    assert world.bumped("a", soft=soft) is False
    assert {each.server for each in world.kept} == {0, 1}


def test_what_a_server_refuses_is_not_acknowledged() -> None:
    """Command by command: only the group that it is about is put off, and only there."""
    world = Tagged()
    world.says[1].answer = lambda request, reply: re.sub(
        rb"NF (O\d+)\r\n$", rb"SERVER_ERROR out of order\r\n", reply, count=1
    )
    assert world.bumped("a", "b") is False
    assert world.kept == [Undelivered(1, keys_of(*world.groups("b")), False, 2)]
    assert [(event.name, event.acknowledged) for event in world.heard(Invalidate)] == [("a", True), ("b", False)]


def test_the_near_tier_hears_before_anything_is_sent_and_after_the_answer() -> None:
    """What is read in between may be from before: of every group, also of those that nobody acknowledged."""
    for soft in (False, True):
        world = Tagged()
        world.trouble = dead(1)
        world.bumped("a", "b", soft=soft)
        touched = [("touched", group.key) for group in world.groups("a", "b")]
        assert world.told[:2] == world.told[-2:] == touched
        asked = world.told[2:-2]
        assert {kind for kind, _ in asked} == {"asked"}
        assert len(asked) == 2 + soft


@pytest.mark.parametrize("soft", [False, True])
def test_an_interrupt_leaves_nothing_untold_or_unkept(soft: bool) -> None:
    """Nobody knows what the servers have heard: all of it is put off, and the near tier is told."""
    world = Tagged()
    world.trouble = lambda _: KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        world.bumped("a", soft=soft)
    assert sorted(world.kept) == [Undelivered(server, keys_of(*world.groups("a")), soft, 2) for server in (0, 1)]
    assert [kind for kind, _ in world.told] == ["touched", "asked", "touched"]


def test_an_interrupt_between_read_and_store_of_a_soft_bump_puts_all_of_it_off() -> None:
    """The records were read, and perhaps made; none was stored for certain."""
    world = Tagged()
    world.trouble = lambda op: KeyboardInterrupt() if op.request.startswith(b"ms ") else None
    with pytest.raises(KeyboardInterrupt):
        world.bumped("a", soft=True)
    assert {(each.server, each.soft) for each in world.kept} == {(0, True), (1, True)}
    assert world.told[-1] == ("touched", world.groups("a")[0].key)


@pytest.mark.parametrize("soft", [False, True])
def test_a_task_that_is_cancelled_leaves_its_bump_to_be_told(soft: bool) -> None:
    """Its flow is closed while the servers are asked: what they have heard nobody knows."""
    world = Tagged()
    flows = [
        bump(world.groups("a"), world.env, world.recipe.tally, soft=soft),
        tell(world.tagged(1), world.env, world.recipe.expire_request if soft else removal),
    ]
    for flow in flows:
        next(flow)
        flow.close()
    assert [(each.server, each.soft, each.kind) for each in world.kept] == [(0, soft, 2), (1, soft, 2), (1, soft, 0)]
    assert [kind for kind, _ in world.told] == ["touched"] * 4
    assert world.events == []


@pytest.mark.parametrize("soft", [False, True])
def test_many_groups_go_out_lot_by_lot(soft: bool) -> None:
    """At most so many commands before a server's answers are read; one event each, in their order."""
    world = Tagged()
    names = [f"t{number}" for number in range(2 * BATCH_KEYS + 10)]
    world.trouble = lambda op: Unreachable("gone") if op.server == 1 and b"t300 " in op.request else None
    assert world.bumped(*names, soft=soft) is False
    word = b"ms " if soft else b"md "
    told = [counts for counts in world.words(word) if any(counts)]
    late = [[BATCH_KEYS]] if soft else [[BATCH_KEYS, BATCH_KEYS]]
    assert told == [[BATCH_KEYS, BATCH_KEYS], *late, [10, 10]]
    assert [event.name for event in world.heard(Invalidate)] == names
    assert {event.name for event in world.heard(Invalidate) if not event.acknowledged} == {*names[BATCH_KEYS:-10]}
    assert [(each.server, len(each.keys)) for each in world.kept] == [(1, BATCH_KEYS)]


def test_events_tell_what_was_bumped() -> None:
    """The kind, its name, the record's key, and how softly; a function is named as in its other events."""
    world = Tagged()
    groups = [function_of(world.recipe), *tags_of(b"app", ["a b"]), namespace_of(b"app", "fr")]
    for soft in (False, True):
        world.run(bump(groups, world.env, world.recipe.tally, soft=soft))
        assert world.heard(Invalidate)[-3:] == [
            Invalidate(world.recipe.name, groups[0].key.decode(), True, "function", "", soft=soft),
            Invalidate("", groups[1].key.decode(), True, "tag", "a b", soft=soft),
            Invalidate("", "app:namespace=fr", True, "namespace", "fr", soft=soft),
        ]


@pytest.mark.parametrize("soft", [False, True])
def test_after_a_bump_nobody_joins_a_run_without_a_lease(soft: bool) -> None:
    """Which group it belongs to is not known: none of them is joined."""
    world = Tagged()
    job = world.tagged(1, "a")
    flight, _ = world.env.flights.board(job.key, None)
    world.bumped("another", soft=soft)
    other, pilot = world.env.flights.board(job.key, None)
    assert pilot
    assert other is not flight


# -- soft --------------------------------------------------------------------------------------------------------------


def test_a_soft_bump_reads_the_records_and_stores_them_anew() -> None:
    """Two windows over all servers; the store under the number that was read, over the connection it was read on, once.
    What stands in the record then are the numbers from before.
    """
    world = Tagged()
    world.ask(world.tagged(0, "a"))
    before = world.record(0, "a")
    world.forget()
    assert world.bumped("a", soft=True) is True
    assert world.log == ["Gather", "Gather"]
    assert world.commands == [["mgv tag=a"], ["mgv tag=a"], ["ms tag=a"], ["ms tag=a"]]
    reads, stores = world.exchanges[:2], world.exchanges[2:]
    assert all(op.retry and op.held_since is None for op in reads)
    assert all(not op.retry and op.held_since == world.clock.monotonic for op in stores)
    after = world.record(0, "a")
    assert before.cas is not None
    assert after.cas is not None
    assert after.cas > before.cas
    assert (after.value, after.claimed, after.won) == (b"%d" % before.cas, False, False)
    world.bumped("a", soft=True)
    assert world.record(0, "a").value == b"%d %d" % (before.cas, after.cas)
    world.bumped("a")
    assert world.record(0, "a").code == "EN"


@pytest.mark.parametrize(("tags", "life"), [(("a",), TAG_LIFE_S), ((), -1)])
def test_a_record_lives_as_long_as_if_a_reader_had_made_it(tags: tuple[str, ...], life: int) -> None:
    """A tag's for thirty days, by which its age is told; a function's for ever."""
    world = Tagged()
    world.bumped(*tags, soft=True)
    assert world.record(0, *tags).ttl == life
    world.clock.pass_by(1000.0)
    world.bumped(*tags, soft=True)
    assert world.record(0, *tags).ttl == life


def test_a_record_with_garbage_is_as_one_after_a_hard_bump() -> None:
    """Only what was computed from here on is void softly."""
    world = Tagged(1)
    world.says[0].handle(b"ms app:tag=a 7 T0\r\ngarbage\r\n")
    before = world.record(0, "a")
    assert world.bumped("a", soft=True) is True
    assert world.record(0, "a").value == b"%d" % (before.cas or 0)


@pytest.mark.parametrize("meanwhile", [b"md app:tag=a\r\n", b"ms app:tag=a 1 T0\r\n7\r\n", b"mg app:tag=b N0\r\n"])
def test_who_was_overtaken_is_content(meanwhile: bytes) -> None:
    """The record has changed since it was read: somebody else has bumped it, which is as good. EX and NF at the store
    are acknowledged.
    """
    world = Tagged()

    def overtake(op: Exchange) -> None:
        if op.request.startswith(b"ms ") and op.server == 1:
            world.says[1].server.handle(meanwhile)

    world.trouble = overtake
    assert world.bumped("a", soft=True) is True
    assert world.kept == []
    assert all(event.acknowledged for event in world.heard(Invalidate))


def test_a_store_whose_connection_is_gone_is_put_off() -> None:
    """Numbers begin anew with a restarted server: what was read on another connection is not spent."""
    world = Tagged()
    world.trouble = lambda op: LeaseVoid("another connection") if op.server == 1 and op.held_since else None
    assert world.bumped("a", soft=True) is False
    assert world.kept == [Undelivered(1, keys_of(*world.groups("a")), True, 2)]
    assert [type(event.error) for event in world.heard(Trouble)] == [LeaseVoid]
    assert world.record(0, "a").value


def test_a_record_that_a_server_can_not_make_costs_no_other() -> None:
    """Out of memory it makes none (EN in spite of N): that one is put off, the others are stored."""
    world = Tagged()

    def full(request: bytes, reply: bytes) -> bytes:
        return re.sub(rb"VA 0 c\d+ (O\d+) W\r\n\r\n", rb"EN \1\r\n", reply, count=1) if request[:2] == b"mg" else reply

    world.says[1].answer = full
    assert world.bumped("a", "b", soft=True) is False
    assert world.kept == [Undelivered(1, keys_of(*world.groups("a")), True, 2)]
    assert world.commands[2:] == [["ms tag=a", "ms tag=b"], ["ms tag=b"]]
    assert [event.acknowledged for event in world.heard(Invalidate)] == [False, True]


def test_a_server_without_numbers_has_nothing_to_bump_softly() -> None:
    """Started with -C it gives every item the number 0, and C0 means no condition at all."""
    world = Tagged()
    world.says[1].answer = lambda request, reply: re.sub(rb" c\d+", b" c0", reply)
    assert world.bumped("a", soft=True) is False
    assert [each.server for each in world.kept] == [1]
    assert len(world.exchanges) == 3, "nothing is stored there"


def test_a_server_that_takes_numbers_is_given_them() -> None:
    """Each record that is made or stored gets one of its own, and a delete needs none."""
    world = Tagged()
    world.env.explicit.add(1)
    assert world.bumped("a", "b", soft=True) is True
    numbers = [re.findall(rb" E(\d+)", op.request) for op in world.exchanges]
    assert [len(each) for each in numbers] == [0, 1 + 1, 0, 2]
    assert len(set(numbers[3])) == 2
    assert not set(numbers[3]) & set(numbers[1])
    world.forget()
    assert world.bumped("a") is True
    assert not any(b" E" in op.request for op in world.exchanges)


# -- one entry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
def test_an_invalidation_of_one_entry_is_heard_of_and_kept_likewise(soft: bool) -> None:
    """Before and after, and where its server has not acknowledged; other servers are not asked."""
    world = Tagged()
    job = world.tagged(1, "a")
    request: Any = world.recipe.expire_request if soft else removal
    assert world.run(tell(job, world.env, request)) is True
    assert world.told == [("touched", job.key), ("asked", 1), ("touched", job.key)]
    assert world.kept == []
    world.trouble = dead(1)
    assert world.run(tell(job, world.env, request)) is False
    assert world.kept == [Undelivered(1, frozenset({job.key}), soft, 0)]
    world.forget()
    world.trouble = lambda _: KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        world.run(tell(job, world.env, request))
    assert world.told[-1] == ("touched", job.key)
    assert [each.server for each in world.kept] == [1]
