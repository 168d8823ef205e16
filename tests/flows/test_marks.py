"""What an entry stands under beside its own generations: found when the run ends, asked for when it is read.

Entry 0 and the even ones live on the first of two servers, the odd ones on the second.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest

from cachekit.codecs.envelope import MAX_MARKS, Mark, open_envelope
from cachekit.codecs.note import NOTE_FLAGS, PASS
from cachekit.errors import DeadlineExceeded
from cachekit.flights import Flight
from cachekit.flows.alone import relieve, run_uncached
from cachekit.flows.batch import batch
from cachekit.flows.boots import BOOT, boot_in, boot_of
from cachekit.flows.fill import refresh
from cachekit.flows.frames import FILLING, Filling, Notes, Stood, around
from cachekit.flows.look import stored
from cachekit.flows.many import many
from cachekit.flows.marks import hand_on, has_room
from cachekit.keys.tags import tag_key
from cachekit.meta import Reply
from cachekit.ops import Exchange, LeaseVoid
from flows.nests import TAG, Nests

GENERATION = b"app:report:gen="


def one_in_another(**options: Any) -> Nests:
    """Entry 0, on the first server, whose run calls entry 1, on the second, which bears the tag."""
    world = Nests(**options)
    world.tags[1] = (TAG,)
    world.inside[0] = lambda: world.call(1)
    return world


def tagged_inside(**options: Any) -> Nests:
    """Entry 0, whose run names the tag; its record is old, and was known before."""
    world = Nests(**options)
    world.inside[0] = lambda: world.name("x")
    world.make_old(0, 1)
    return world


def header_of(world: Nests, number: int) -> Any:
    """The header of an entry, as it stands on its server."""
    [reply] = world.handle(number, b"mg {} v f\r\n")
    return open_envelope(reply.value)[0]


def is_marker(world: Nests, number: int) -> bool:
    """Whether a pass marker stands there."""
    [reply] = world.handle(number, b"mg {} v f\r\n")
    return (reply.client_flags or 0) & NOTE_FLAGS == NOTE_FLAGS and reply.value.endswith(PASS)


# -- nested calls: who is asked ----------------------------------------------------------------------------------------


def test_a_bump_is_seen_where_the_inner_value_was_valid() -> None:
    """The copies of a record are bumped one by one: the one on the inner entry's server counts, and no other."""
    world = one_in_another()
    assert world.call(0) == world.call(0) == "0.1(1.1)"
    world.bump_one(0)
    assert world.call(0) == "0.1(1.1)"
    world.bump_one(1)
    assert world.call(0) == "0.2(1.2)"
    assert world.call(0) == "0.2(1.2)"


def test_a_hit_on_an_outer_entry_takes_one_more_window() -> None:
    """Whatever it stands under, on however many servers."""
    world = Nests(servers=3)
    world.inside[0] = lambda: (world.call(1), world.call(2))
    world.call(0)
    assert world.windows_of(0) == [[0], [1, 2]]


def test_what_every_read_asks_anyway_is_no_mark() -> None:
    """An inner entry on the same server under the same records costs the outer one nothing."""
    world = Nests(servers=1)
    world.inside[0] = lambda: world.call(1)
    world.call(0)
    assert header_of(world, 0).marks == ()
    assert world.windows_of(0) == [[0]]
    world.bump()
    assert world.call(0) == "0.2(1.2)"


def test_entries_without_marks_are_read_as_ever() -> None:
    """One window, version 1."""
    world = Nests()
    world.call(1)
    assert world.windows_of(1) == [[1]]
    [reply] = world.handle(1, b"mg {} v\r\n")
    assert reply.value[0] == 1


def test_depth_does_not_matter() -> None:
    """The innermost tag voids the outermost entry, though only the innermost names it."""
    world = Nests(servers=4)
    world.tags[3] = (TAG,)
    for outer, inner in ((0, 1), (1, 2), (2, 3)):
        world.inside[outer] = partial(world.call, inner)
    assert world.call(0) == world.call(0) == "0.1(1.1(2.1(3.1)))"
    world.bump_one(3)
    assert world.call(0) == "0.2(1.2(2.2(3.2)))"


def test_a_hit_inside_counts_as_much_as_a_run() -> None:
    """What was stored before the outer run began stands under its marks as well."""
    world = one_in_another()
    world.call(1)
    assert world.call(0) == "0.1(1.1)"
    world.bump_one(1)
    assert world.call(0) == "0.2(1.2)"


def test_a_bump_between_the_inner_read_and_the_outer_store_voids_the_outer_entry() -> None:
    """The mark's number is the one that the inner value was valid under, not the one at the end."""
    world = one_in_another()

    def inside() -> Any:
        value = world.call(1)
        if world.counts[0] == 1:
            world.bump_one(1)
        return value

    world.inside[0] = inside
    assert world.call(0) == "0.1(1.1)"
    assert world.call(0) == "0.2(1.2)"
    assert world.call(0) == "0.2(1.2)"


@pytest.mark.parametrize("numbers", [(5000, 4000), (4000, 5000)], ids=["clock behind", "clock ahead"])
def test_of_two_numbers_of_one_record_both_are_kept(numbers: tuple[int, int]) -> None:
    """Clients that give numbers go by their clocks: the number after a bump may be the lower one. A result of which one
    part is from before it and another from after is void, whichever was higher.
    """
    world = Nests()
    world.tags[1], world.tags[3] = (TAG,), (TAG,)
    given = iter([numbers[0]] * 2 + [numbers[1]] * 90)
    world.env.explicit = {1}
    world.env.number = lambda server: next(given) + 2**61 if server == 1 else 0  # type: ignore[method-assign]

    def inside() -> Any:
        first = world.call(1)
        if world.counts[0] == 1:
            world.bump_one(1)
        return first, world.call(3)

    world.inside[0] = inside
    world.call(0)
    first, second = [mark.number - 2**61 for mark in header_of(world, 0).marks if mark.key == TAG]
    assert (first > second) is (numbers[0] > numbers[1])
    world.call(0)
    assert world.counts[0] == 2, "a part of it was from before the bump"


def test_threads_of_one_run_do_not_lose_what_they_heard() -> None:
    """A function may call others from threads of its own, each in a copy of its context."""
    notes, start = Notes(), threading.Barrier(8)

    def hear(thread: int) -> None:
        start.wait(10)
        for number in range(300):
            notes.inherit(Stood("server:1", b"k%d" % number, thread), 5.0)
            notes.name((f"{thread}.{number}",))

    threads = [threading.Thread(target=hear, args=(each,)) for each in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(notes.heard()) == len(notes.tags) == 2400


def test_the_earliest_question_counts() -> None:
    """How old a number is decides whether a restart can have come between."""
    notes, stood = Notes(), Stood("server:1", b"k", 7)
    for since in (5.0, 3.0, 8.0):
        notes.inherit(stood, since)
    assert notes.heard() == [(stood, 3.0)]


def test_a_run_that_is_over_hears_nothing() -> None:
    """A thread that the function has left behind calls on: that is no part of its result."""
    world = one_in_another()
    frames = []
    world.inside[0] = lambda: frames.extend(around())
    world.call(0)
    frames[0].notes.over = True
    token = FILLING.set(tuple(frames))
    try:
        world.call(1)
    finally:
        FILLING.reset(token)
    assert not frames[0].notes.said


# -- nested calls: what can't be told ----------------------------------------------------------------------------------


def test_what_was_computed_inside_without_its_server_is_not_stored() -> None:
    """No number is known that it would be void under."""
    world = one_in_another()
    world.trouble = lambda op: DeadlineExceeded("down") if op.server == 1 else None
    assert world.call(0) == "0.1(1.1)"
    assert world.reasons[-1].startswith("nested")
    assert is_marker(world, 0)
    world.trouble = lambda _: None
    assert world.call(0) == "0.2(1.2)"
    assert world.call(0) == "0.2(1.2)"


def test_a_server_that_can_not_be_asked_makes_the_outer_entry_void() -> None:
    """Its records may have been bumped; and the failure is counted."""
    world = one_in_another()
    world.call(0)
    world.trouble = lambda op: DeadlineExceeded("down") if op.server == 1 else None
    assert world.call(0) == "0.2(1.2)"
    assert world.recipe.tally.errors > 0


def test_a_server_that_is_gone_from_the_ring_makes_it_void() -> None:
    """Nobody can be asked."""
    world = one_in_another()
    world.call(0)
    world.env.server_names = ("server:0", "server:new")
    assert world.call(0) != "0.1(1.1)"


def test_invalidations_that_this_process_has_lost_void_what_was_made_before() -> None:
    """Also where the server that they were for is not the entry's own."""
    world = one_in_another()
    world.call(0)
    world.env.distrust = {1: world.clock.now + 1}
    assert world.call(0) == "0.2(1.2)"
    world.env.distrust = {1: world.clock.now - 60}
    assert world.call(0) == "0.2(1.2)"


def test_too_many_groups_are_not_stored() -> None:
    """One reason, which is warned of once; the result is the caller's all the same."""
    world = Nests()
    world.inside[0] = lambda: world.hear(*[Stood("server:1", b"k%d" % each, 2**61) for each in range(MAX_MARKS + 1)])
    assert world.call(0) == "0.1"
    assert world.reasons == ["too many groups: at most 128 beside its own, those of the calls inside among them"]
    assert is_marker(world, 0)
    assert world.recipe.warned == {"too many groups"}


def test_as_many_as_fit_are_stored() -> None:
    """128 marks with the longest keys."""
    world = Nests()
    keys = [b"%0250d" % each for each in range(MAX_MARKS)]
    world.inside[0] = lambda: world.hear(*[Stood("server:1", key, 2**61) for key in keys])
    world.call(0)
    assert [mark.key for mark in header_of(world, 0).marks] == keys


def test_marks_that_no_header_holds_are_refused() -> None:
    """Its length is a number of two bytes."""
    assert has_room((Mark("s" * 200, b"k" * 250, 1),) * MAX_MARKS)
    assert not has_room((Mark("s" * 300, b"k" * 250, 1),) * MAX_MARKS)


def test_another_cache_in_memory_can_not_be_asked() -> None:
    """Its server is in this process, for itself alone; the reason names the way out."""
    world, other = Nests(), Nests(servers=1)
    other.env.private = True
    world.inside[0] = lambda: other.call(0)
    assert world.call(0) == "0.1(0.1)"
    assert world.reasons[-1].startswith("other cache: app:report inside")
    assert "inherit=False" in world.reasons[-1]
    assert is_marker(world, 0)


def test_a_server_of_another_ring_can_not_be_asked() -> None:
    """The name says whose it is."""
    world, other = Nests(), Nests(servers=1)
    other.env.server_names = ("elsewhere:1",)
    world.inside[0] = lambda: other.call(0)
    assert world.call(0) == "0.1(0.1)"
    assert world.reasons[-1] == "other cache: a call inside is kept on elsewhere:1, no server of this one's"


def test_who_does_not_inherit_is_told_nothing() -> None:
    """inherit=False: no second window, no doubt, and no invalidation either."""
    world = one_in_another(inherit=False)
    world.call(0)
    assert header_of(world, 0).marks == ()
    world.bump_one(1)
    assert world.call(0) == "0.1(1.1)"
    world.trouble = lambda op: DeadlineExceeded("down") if op.server == 1 else None
    world.bump()
    assert world.call(0).startswith("0.2")
    assert world.reasons[-1] == ""


def test_a_batch_that_does_not_inherit_is_told_nothing() -> None:
    """Its one run stands for all of its entries."""
    world = one_in_another(inherit=False)
    world.during = lambda: world.call(1)
    world.run(batch(world.jobs(0, 2), world.env, world.compute(0, 2)))
    assert world.counts[1] == 1
    assert header_of(world, 0).marks == header_of(world, 2).marks == ()


# -- calls inside that go other ways -----------------------------------------------------------------------------------


def test_looks_inside_count() -> None:
    """A peek gives what is stored, and that is valid under something."""
    world = one_in_another()
    world.call(1)
    world.inside[0] = lambda: world.run(stored([world.nested(1)], world.env))[world.nested(1).key].get()
    assert world.call(0) == "0.1(1.1)"
    assert [mark.key for mark in header_of(world, 0).marks] == [TAG, GENERATION]


def test_a_failure_inside_that_is_caught_counts() -> None:
    """What the outer function makes of it is as old as the failure."""
    world = one_in_another()

    def fail() -> Any:
        world.name("y")
        raise LookupError

    def inside() -> str:
        try:
            return str(world.call(1))
        except LookupError:
            return "nobody"

    world.make_old(0, key=tag_key(b"", "y"))
    world.inside[1], world.inside[0] = fail, inside
    assert world.call(0) == "0.1(nobody)"
    assert {mark.key for mark in header_of(world, 0).marks} == {TAG, GENERATION, tag_key(b"", "y")}


def test_a_failure_beside_a_pass_marker_counts() -> None:
    """The inner run holds no lease there, and stands under the same records all the same."""
    world = one_in_another()
    world.recipe.terms = world.recipe.terms._replace(cache_if=lambda value: value == "never")
    world.call(1)
    assert is_marker(world, 1)
    world.recipe.terms = world.recipe.terms._replace(cache_if=None)

    def fail() -> Any:
        raise LookupError

    def inside() -> str:
        try:
            return str(world.call(1))
        except LookupError:
            return "nobody"

    world.inside[1], world.inside[0] = fail, inside
    assert world.call(0) == "0.1(nobody)"
    assert TAG in {mark.key for mark in header_of(world, 0).marks}


def test_a_function_without_a_ttl_counts_inside_of_another() -> None:
    """It stores nothing; its groups are asked for there, and only there."""
    world = one_in_another()
    uncached = world.nested(1)
    world.run(run_uncached(uncached, world.env))
    assert world.windows == []
    world.inside[0] = lambda: world.run(run_uncached(world.nested(1), world.env))
    assert world.call(0) == "0.1(1.2)"
    assert [mark.key for mark in header_of(world, 0).marks] == [TAG, GENERATION]
    world.bump_one(1)
    assert world.call(0) == "0.2(1.3)"


def test_tags_named_without_an_entry_go_to_the_run_around() -> None:
    """An uncached function inside names a tag: the outer entry bears it."""
    world = Nests()
    world.make_old(0)
    world.inside[1] = lambda: world.name("x")
    world.inside[0] = lambda: world.run(run_uncached(world.nested(1), world.env))
    world.call(0)
    assert (
        Mark("", TAG, 1, named=True)._replace(number=header_of(world, 0).marks[0].number) in header_of(world, 0).marks
    )


def test_a_group_of_none_hands_on_its_tags() -> None:
    """A function without generations whose tag is too young is known to stand under nothing else; yet the outer result
    must not be stored without the tag.
    """
    world = Nests(generations=())
    world.inside[1] = lambda: world.name("x")
    world.inside[0] = lambda: world.call(1)
    world.call(0)
    assert world.reasons[-2] == "young tag"
    assert is_marker(world, 0)


def test_a_loader_that_fails_hands_on_what_it_heard() -> None:
    """The batch inside is caught, too."""
    world = one_in_another()

    def during() -> None:
        world.call(1)
        raise LookupError

    world.during = during

    def inside() -> str:
        try:
            return str(world.run(batch(world.jobs(2, 4), world.env, world.compute(2, 4))))
        except LookupError:
            return "nobody"

    world.inside[0] = inside
    assert world.call(0) == "0.1(nobody)"
    assert TAG in {mark.key for mark in header_of(world, 0).marks}


def test_a_cycle_voids_what_is_inside_of_it() -> None:
    """Entry 0 calls entry 1, which calls entry 0: that runs without an entry of its own, and what it stands under holds
    for entry 1.
    """
    world = Nests()
    world.tags[0] = (TAG,)
    world.inside[0] = lambda: world.call(1) if world.counts[0] == 1 else None
    world.inside[1] = lambda: world.call(0)
    assert world.call(0) == "0.1(1.1(0.2))"
    assert world.call(1) == "1.1(0.2)"
    world.bump_one(0)
    assert world.call(1).startswith("1.2")


def test_a_run_inside_of_its_own_entry_need_not_be_told() -> None:
    """It stands under all that the one around it does."""
    world = Nests()
    world.tags[0] = (TAG,)
    world.inside[0] = lambda: world.call(0) if world.counts[0] == 1 else None
    assert world.call(0) == "0.1(0.2)"
    assert header_of(world, 0).marks == ()
    assert world.call(0) == "0.1(0.2)"


def test_many_outer_entries_are_confirmed_in_one_window() -> None:
    """Not one after the other."""
    world = Nests(servers=3)
    world.tags[1] = (TAG,)
    numbers = [0, 3, 6, 9]
    for number in numbers:
        world.inside[number] = lambda: world.call(1)
        world.call(number)
    world.windows.clear()
    jobs = [world.nested(number) for number in numbers]
    values = world.run(many(jobs, world.env))
    assert values == [f"{number}.1(1.1)" for number in numbers]
    assert [[each.server for each in window] for window in world.windows] == [[0], [1]]
    world.windows.clear()
    assert len(world.run(stored(jobs, world.env))) == 4
    assert len(world.windows) == 3, "values, lifetimes, marks"
    world.windows.clear()
    assert world.run(batch(jobs, world.env, world.compute(*numbers))) == values
    assert len(world.windows) == 2


def test_many_entries_inside_hand_on_what_they_stand_under() -> None:
    """Values that came plainly fresh out of one window count as well."""
    world = one_in_another()
    world.call(1)
    world.inside[0] = lambda: world.run(many([world.nested(1)], world.env))[0]
    assert world.call(0) == "0.1(1.1)"
    world.bump_one(1)
    world.inside[0] = lambda: world.call(1)
    assert world.call(0) == "0.2(1.2)"


def test_a_batch_inside_hands_on_what_it_serves() -> None:
    """Plainly fresh values out of one window, under the function's records and the entries' own."""
    world = one_in_another()
    jobs = [world.nested(1), world.nested(3)._replace(tags=(tag_key(b"", "y"),))]
    world.run(batch(jobs, world.env, world.compute(1, 3)))
    world.inside[0] = lambda: world.run(batch(jobs, world.env, world.compute(1, 3)))[0]
    assert world.call(0) == "0.1(value 1)"
    assert [mark.key for mark in header_of(world, 0).marks] == [TAG, GENERATION, tag_key(b"", "y")]
    assert len(world.runs) == 1


def test_a_failing_server_is_counted_once_for_many() -> None:
    """One exchange failed, however many entries wanted something of it."""
    world = Nests()
    world.tags[1] = (TAG,)
    for number in (0, 2, 4):
        world.inside[number] = lambda: world.call(1)
        world.call(number)
    world.trouble = lambda op: DeadlineExceeded("down") if op.server == 1 else None
    before = world.recipe.tally.errors
    reading = many([world.nested(number) for number in (0, 2, 4)], world.env)
    op = next(reading)
    while type(op).__name__ != "Each":
        op = reading.send(world.perform(op))
    reading.close()
    assert world.recipe.tally.errors == before + 1


# -- restarts ----------------------------------------------------------------------------------------------------------


def numbers_on(world: Nests, server: int) -> dict[bytes, int]:
    """The numbers of the tag and of the function there."""
    said = {key: world.servers[server].handle(b"mg " + key + b" c\r\n") for key in (TAG, GENERATION)}
    return {key: int(line.split(b" c")[1].split()[0]) for key, line in said.items()}


def restarted_with_the_same_numbers(world: Nests, server: int, numbers: dict[bytes, int]) -> None:
    """A restarted server on which those records have come to have the numbers that they had before."""
    world.restart(server)
    wanted = {number: key for key, number in numbers.items()}
    for at in range(1, max(wanted) + 1):
        key = wanted.get(at, b"filler%d" % at)
        line = world.servers[server].handle(b"mg " + key + b" c N0\r\n")
        assert b"c%d" % at in line


def test_numbers_that_coincide_after_a_restart_prove_nothing() -> None:
    """The mark tells the boot, too, which is lost with the restart."""
    world = one_in_another()
    world.call(0)
    numbers = {mark.key: mark.number for mark in header_of(world, 0).marks}
    restarted_with_the_same_numbers(world, 1, numbers)
    assert world.call(0) == "0.2(1.2)"


def test_a_restart_between_the_inner_read_and_the_outer_store_is_found_out() -> None:
    """The first who asks for the boot must have been connected since; and nothing is stored where he was not."""
    world = one_in_another()

    def inside() -> Any:
        value = world.call(1)
        if world.counts[0] == 1:
            restarted_with_the_same_numbers(world, 1, numbers_on(world, 1))
        return value

    world.inside[0] = inside
    assert world.call(0) == "0.1(1.1)"
    assert world.reasons[-1] == "lost"
    assert world.call(0) == "0.2(1.2)"
    assert world.call(0) == "0.2(1.2)"


def test_the_same_where_the_boot_was_known_before() -> None:
    """It stands there no more: so the numbers that were read before are of another boot."""
    world = one_in_another()
    world.call(0)
    world.clock.pass_by(5)
    world.handle(0, b"md {}\r\n")

    def inside() -> Any:
        value = world.call(1)
        if world.counts[0] == 2:
            restarted_with_the_same_numbers(world, 1, numbers_on(world, 1))
        return value

    world.inside[0] = inside
    assert world.call(0) == "0.2(1.1)"
    assert world.reasons[-1] == "lost"
    assert world.call(0) == "0.3(1.2)"


def test_a_boot_that_was_evicted_costs_a_run() -> None:
    """Or two. Fail closed: nobody can tell a restart from an eviction."""
    world = one_in_another()
    world.call(0)
    world.clock.pass_by(1)
    world.bump_one(1, BOOT)
    assert world.call(0) == "0.2(1.1)"
    assert world.reasons[-1] == "lost"
    assert world.call(0) == world.call(0) == "0.3(1.1)"


def test_numbers_that_clients_give_need_no_boot() -> None:
    """They rise with time, whatever the server counts."""
    world = one_in_another()
    world.env.explicit = {0, 1}
    world.call(0)
    assert all(mark.number > 2**60 and not mark.boot for mark in header_of(world, 0).marks)
    assert b"boot=" not in b"".join(each.request for each in world.exchanges)
    assert world.call(0) == "0.1(1.1)"
    world.bump_one(1)
    assert world.call(0) == "0.2(1.2)"


def test_a_number_that_the_server_counted_needs_a_boot_wherever_it_is_found() -> None:
    """A record may be older than the server's upgrade, or made by a client that gave no number."""
    world = one_in_another()
    for key in (TAG, GENERATION):
        world.servers[1].handle(b"mg " + key + b" c N0\r\n")
    world.env.explicit = {0, 1}
    world.call(0)
    assert all(mark.boot for mark in header_of(world, 0).marks)


def test_what_is_no_boot_is_none() -> None:
    """Somebody else's value under that key is not made part of a header."""
    assert boot_in([Reply("VA", b"x" * 65)]) == b""
    assert boot_in([Reply("EN")]) == b""
    assert boot_in([]) == b""
    world = one_in_another()
    world.servers[1].handle(b"ms " + BOOT + b" 300 T0\r\n" + b"x" * 300 + b"\r\n")
    assert world.call(0) == "0.1(1.1)"
    assert world.reasons[-1] == "lost"


def test_a_boot_that_was_learnt_since_tells_nothing_of_before() -> None:
    """Another thread may have asked for it after a restart that this one's numbers are older than."""
    world = Nests()
    since = world.clock.monotonic
    assert world.run(boot_of(world.env, 1, since)) == world.run(boot_of(world.env, 1, since))
    world.restart(1)
    after = world.clock.monotonic
    world.clock.pass_by(1)
    world.env.boots.clear()
    assert world.run(boot_of(world.env, 1, after))
    with pytest.raises(LeaseVoid):
        world.run(boot_of(world.env, 1, since))


def test_numbers_known_from_before_a_restart_are_not_stored_after_it() -> None:
    """The tag's number was read, then the server is restarted, then it gives the lease: CAS numbers may coincide."""
    world = tagged_inside()
    world.call(0)
    world.bump_one(0)

    def trouble(op: Exchange) -> None:
        if op.request.startswith(b"md ") and not seen:
            seen.append(op)
            world.restart(0)

    seen: list[Exchange] = []
    world.trouble = trouble
    assert world.call(0).startswith("0.2")
    assert seen
    assert world.reasons[-1] == "lost"


# -- tags named in the run ---------------------------------------------------------------------------------------------


def test_a_tag_that_was_there_before_the_run_is_stored() -> None:
    """And voids the entry when it is bumped, on its own server."""
    world = tagged_inside()
    assert world.call(0) == world.call(0) == "0.1"
    assert world.windows_of(0) == [[0], [0]]
    world.bump_one(1)
    assert world.call(0) == "0.1"
    world.bump_one(0)
    assert world.call(0) == "0.2"
    assert world.call(0) == "0.2"


def test_a_tag_that_was_made_just_now_is_stored_at_the_second_run() -> None:
    """The first leaves a pass marker with its name, and who finds that reads the tag before he runs."""
    world = Nests()
    world.inside[0] = lambda: world.name("x")
    assert world.call(0) == "0.1"
    assert world.reasons == ["young tag"]
    assert is_marker(world, 0)
    assert world.call(0) == world.call(0) == "0.2"


@pytest.mark.parametrize("how", ["bumped", "bumped and made anew", "bumped softly"])
def test_a_tag_that_is_bumped_while_the_function_runs(how: str) -> None:
    """What it read may be older: the result is returned, and not stored."""
    world = tagged_inside()

    def inside() -> None:
        world.name("x")
        world.clock.pass_by(5)
        if world.counts[0] == 1:
            if how == "bumped softly":
                world.soften(0)
            else:
                world.bump_one(0)
            if how == "bumped and made anew":
                world.servers[0].handle(b"mg " + TAG + b" c N2592000\r\n")
        world.clock.pass_by(5)

    world.inside[0] = inside
    assert world.call(0) == "0.1"
    assert world.reasons == ["young tag"]
    assert world.call(0) == "0.2"


@pytest.mark.parametrize(("before_s", "stored_"), [(0.5, False), (1.9, False), (4.0, True)])
def test_the_age_of_a_tag_is_known_to_a_second_only(before_s: float, stored_: bool) -> None:
    """The server's clock ticks in whole seconds: what looks a little older than the run may be younger."""
    world = Nests()
    world.servers[0].handle(b"mg " + TAG + b" c N2592000\r\n")
    world.clock.pass_by(before_s)

    def inside() -> None:
        world.name("x")
        world.clock.pass_by(3)

    world.inside[0] = inside
    world.call(0)
    assert (world.reasons == [""]) is stored_


def test_the_time_until_the_answer_counts_as_part_of_the_run() -> None:
    """The record is made after the run has begun, and the question comes late: its age when the server answers is no
    older than the run was then.
    """
    world = Nests()

    def late(op: Exchange) -> None:
        if op.request.startswith(b"mg " + TAG) and b" t " in op.request and not op.request.count(b"E"):
            world.servers[0].handle(b"mg " + TAG + b" c N2592000\r\n")
            world.clock.pass_by(30)

    world.trouble = late
    world.inside[0] = lambda: world.name("x")
    world.call(0)
    assert world.reasons == ["young tag"]


def test_a_number_that_was_read_before_the_run_is_the_one_that_counts() -> None:
    """A bump during the run leaves the entry under the old one."""
    world = tagged_inside()
    world.call(0)
    world.bump_one(0)

    def inside() -> None:
        world.name("x")
        if world.counts[0] == 2:
            world.bump_one(0)

    world.inside[0] = inside
    assert world.call(0) == "0.2"
    assert world.call(0) == "0.3"
    assert world.call(0) == "0.3"


def test_tags_that_the_decorator_has_told_are_no_marks() -> None:
    """They are asked for with every read anyway."""
    world = tagged_inside()
    world.tags[0] = (TAG,)
    world.call(0)
    assert header_of(world, 0).marks == ()


def test_a_server_lost_while_the_tags_are_asked_for() -> None:
    """The result is the caller's, and the next one runs."""
    world = tagged_inside()
    world.trouble = lambda op: DeadlineExceeded("late") if b" t N" in op.request else None
    assert world.call(0) == "0.1"
    assert world.reasons == ["lost"]
    assert world.call(0) == "0.2"


def test_a_failure_that_is_cached_stands_under_the_tags_of_its_run() -> None:
    """``errors=``: the answer that nobody is there is void when somebody comes."""
    world = tagged_inside(errors=(LookupError,), error_ttl_s=60.0)
    world.recipe.terms = world.recipe.terms._replace(errors=(LookupError,))

    def inside() -> Any:
        world.name("x")
        raise LookupError

    world.inside[0] = inside
    for _ in range(2):
        with pytest.raises(LookupError):
            world.call(0)
    assert world.counts[0] == 1
    world.bump_one(0)
    world.inside[0] = lambda: world.name("x")
    assert world.call(0) == "0.2"


# -- who waits for such a run ------------------------------------------------------------------------------------------


def test_who_waited_reads_again() -> None:
    """He may have come after an invalidation that the run is older than: the lease does not tell, as it does of an
    entry's own generations.
    """
    world = tagged_inside()
    flights: list[Flight] = []

    def inside() -> None:
        flights.extend(world.env.flights._flights.values())
        world.name("x")

    world.inside[0] = inside
    world.call(0)
    assert [flight.again for flight in flights] == [True]


def test_who_waited_for_a_run_in_the_pilots_place_reads_again() -> None:
    """The same holds where somebody was tired of the pilot, and landed his flight for him."""
    world = tagged_inside()
    flight = Flight()
    world.run(relieve(world.nested(0), world.env, flight, 7))
    assert flight.again
    flight = Flight()
    world.inside.clear()
    world.run(relieve(world.nested(0), world.env, flight, 7))
    assert not flight.again


def test_who_waited_for_an_answer_that_is_a_failure_reads_again() -> None:
    """It is as old as its run, like a value."""
    world = tagged_inside()
    world.recipe.terms = world.recipe.terms._replace(errors=(LookupError,), error_ttl_s=60.0)

    def inside() -> Any:
        world.name("x")
        [flight] = world.env.flights._flights.values()
        flights.append(flight.join())
        raise LookupError

    flights: list[Flight] = []
    world.inside[0] = inside
    with pytest.raises(LookupError):
        world.call(0)
    assert flights[0].ended
    assert flights[0].error is None


# -- refreshes ---------------------------------------------------------------------------------------------------------


def test_refresh_shows_no_value_that_a_mark_has_voided() -> None:
    """``previous`` is what may be kept: nothing that was invalidated."""
    world = tagged_inside()
    world.call(0)
    seen: list[Any] = []

    def inside() -> None:
        world.name("x")
        seen.append(around()[-1].notes.look is not None)

    world.inside[0] = inside
    world.run(refresh(world.nested(0), world.env))
    world.bump_one(0)
    world.run(refresh(world.nested(0), world.env))
    assert seen == [True, False]
    assert world.call(0) == "0.3"


def test_a_run_in_the_background_shows_no_value_that_a_mark_has_voided_meanwhile() -> None:
    """It begins later than the call that it is for, and looks for itself."""
    world = one_in_another(stale_s=60.0, background=True)
    world.call(0)
    seen: list[bool] = []

    def inside() -> Any:
        seen.append(around()[-1].notes.look is not None)
        return world.call(1)

    world.inside[0] = inside
    for bumped in (False, True):
        world.handle(0, b"md {} I\r\n")
        world.call(0)
        if bumped:
            world.bump_one(1)
        world.run(world.spawned.pop())
    assert seen == [True, False]
    assert world.call(0) == "0.3(1.2)"


@pytest.mark.parametrize("outer", [0, 2])
def test_what_is_kept_stands_under_what_it_stood_under(outer: int) -> None:
    """``not_modified``: the run has called nobody inside, and the old value's marks hold on."""
    world = one_in_another()
    world.inside[outer] = lambda: world.call(1)
    world.call(outer)

    def keep() -> None:
        notes = around()[-1].notes
        assert notes.look is not None
        notes.kept = notes.look()

    world.inside[outer] = keep
    assert world.run(refresh(world.nested(outer), world.env)) == f"{outer}.1(1.1)"
    assert world.call(outer) == f"{outer}.1(1.1)"
    world.bump_one(1)
    world.inside[outer] = lambda: world.call(1)
    assert world.call(outer) == f"{outer}.3(1.2)"


def test_a_value_that_is_kept_after_a_soft_bump_is_fresh_again() -> None:
    """Else every reader would refresh it once more."""
    world = one_in_another(stale_s=60.0)
    world.call(0)
    world.soften(1)

    def keep() -> None:
        notes = around()[-1].notes
        assert notes.look is not None
        notes.kept = notes.look()

    world.inside[0] = keep
    assert world.call(0) == "0.1(1.1)"
    assert world.counts[0] == 2
    assert world.call(0) == "0.1(1.1)"
    assert world.counts[0] == 2


def test_a_soft_bump_of_what_is_inside_has_one_caller_refresh_the_outer_entry() -> None:
    """The others are served the old value meanwhile, and what stands under an old number is refreshed once more."""
    world = one_in_another(stale_s=60.0)
    world.call(0)
    world.soften(1)
    second: list[Any] = []

    def inside() -> Any:
        token = FILLING.set(())
        second.append(world.call(0))
        FILLING.reset(token)
        return world.call(1)

    world.inside[0] = inside
    assert world.call(0) == "0.2(1.2)"
    assert second == ["0.1(1.1)"]
    assert world.call(0) == "0.2(1.2)"


def test_an_old_value_of_the_inner_function_leaves_the_outer_one_under_the_old_number() -> None:
    """It was served softly void: the outer entry is due as long as that."""
    world = one_in_another(stale_s=60.0)
    world.call(1)
    world.soften(1)
    old = world.nested(1)
    world.servers[1].handle(b"md " + old.key + b" I\r\n")
    world.servers[1].handle(b"mg " + old.key + b" v\r\n")  # somebody is refreshing it
    assert world.call(0) == "0.1(1.1)"
    [mark] = [mark for mark in header_of(world, 0).marks if mark.key == TAG]
    assert b" c%d" % mark.number not in world.servers[1].handle(b"mg " + TAG + b" c\r\n").replace(b"\r", b" ")


# -- interrupts --------------------------------------------------------------------------------------------------------


def test_an_interrupt_while_the_marks_are_asked_for_leaves_the_claim_to_the_next() -> None:
    """Who was given the right to refresh and is gone must not be waited for."""
    world = one_in_another(stale_s=60.0)
    world.call(0)
    world.handle(0, b"md {} I\r\n")
    world.trouble = lambda op: KeyboardInterrupt() if op.server == 1 else None
    with pytest.raises(KeyboardInterrupt):
        world.call(0)
    world.trouble = lambda _: None
    assert world.call(0) == "0.2(1.1)"


def test_an_interrupt_at_the_beginning_of_a_refresh_leaves_its_claim_to_the_next() -> None:
    """The same for who runs whatever is stored."""
    world = one_in_another()
    world.call(0)
    world.trouble = lambda op: KeyboardInterrupt() if op.server == 1 else None
    with pytest.raises(KeyboardInterrupt):
        world.run(refresh(world.nested(0), world.env))
    assert world.env.lost_with(world.nested(0).key, None)


def test_an_interrupt_while_the_tags_are_asked_for_gives_the_lease_back() -> None:
    """The next caller runs at once."""
    world = tagged_inside()
    world.trouble = lambda op: KeyboardInterrupt() if b" t N" in op.request else None
    with pytest.raises(KeyboardInterrupt):
        world.call(0)
    world.trouble = lambda _: None
    assert world.call(0) == "0.2"
    assert "Sleep" not in world.log
    assert len(world.env.flights) == 0


# -- the frame ---------------------------------------------------------------------------------------------------------


def test_outside_of_a_run_nothing_is_handed_on() -> None:
    """There is nobody to hear it."""
    world = Nests()
    hand_on(world.nested(0), world.env, None, 0.0)
    assert around() == []


def test_a_number_for_each_group_or_doubt() -> None:
    """What does not fit is not guessed."""
    world = Nests()
    notes = Notes()
    token = FILLING.set((Filling(world.env.flights, b"k", 0.0, notes),))
    try:
        hand_on(world.nested(0), world.env, (1, 2), 0.0)
    finally:
        FILLING.reset(token)
    assert notes.unsure.startswith("nested")


def test_with_a_soft_timeout_another_callers_run_is_not_taken_for_ones_own() -> None:
    """A refresh beside a fill, under the same lease: it may have begun before the last bump of its tag. What stands
    there was just confirmed.
    """
    world = tagged_inside(stale_s=60.0, soft_timeout_s=5.0)
    world.call(0)
    job = world.nested(0)
    world.handle(0, b"md {} I\r\n")
    cas = int(world.servers[0].handle(b"gets " + job.key + b"\r\n").split(b"\r\n")[0].split()[-1])
    flight, _ = world.env.flights.board(job.key, cas)

    def land(_: Any) -> bool:
        flight.again = True
        world.env.flights.land(job.key, cas, world.recipe.packer.pack("older"), flight)
        return True

    world.on_join = land
    assert world.call(0) == "0.1"
