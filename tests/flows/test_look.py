"""Looking at entries and telling the servers to void them, with servers that answer as scripted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cachekit.errors import ServerError, Unreachable
from cachekit.flows.batch import batch, tell_all
from cachekit.flows.look import Sight, explain, lifetime_in, stored
from cachekit.flows.tell import removal, tell, tell_every_server
from cachekit.hooks import Invalidate, Trouble
from cachekit.meta import Parser
from cachekit.ops import BATCH_KEYS, Exchange
from flows.world import World


def filled(*numbers: int, **options: Any) -> World:
    """Servers that hold the entries of these ids."""
    world = World(**options)
    world.run(batch(world.jobs(*numbers), world.env, world.compute(*numbers)))
    world.exchanges.clear()
    world.windows.clear()
    return world


def dead(server: int) -> Callable[[Exchange], ServerError | None]:
    """Nothing reaches that server."""
    return lambda op: Unreachable("gone") if op.server == server else None


# -- looking ----------------------------------------------------------------------------------------------------------


def test_a_look_asks_every_server_at_once_and_takes_no_lease() -> None:
    """One window of ``gets`` with the generation behind, one of ``me`` for what was found; no token, may go twice."""
    world = filled(1, 2)
    found = world.run(stored(world.jobs(1, 2, 3, 4), world.env))
    assert {key: each.get() for key, each in found.items()} == {
        world.job(1).key: "value 1",
        world.job(2).key: "value 2",
    }
    assert world.words(b"gets ") == [[1, 1], [0, 0]]
    assert world.words(b"mg ") == [[1, 1], [0, 0]]
    assert world.words(b"me ") == [[0, 0], [1, 1]]
    assert all(op.opaque is None and op.retry for op in world.exchanges)
    assert not any(world.handle(number, b"mg {} v N30\r\n")[0].claimed for number in (3, 4))


def test_many_keys_go_out_lot_by_lot() -> None:
    """No request asks for more keys than one server answers before it is read."""
    numbers = range(2 * BATCH_KEYS + 10)
    world = filled(*numbers, servers=1)
    assert len(world.run(stored(world.jobs(*numbers), world.env))) == len(numbers)
    gets = [op.request.split(b"\r\n")[0].split()[1:] for op in world.exchanges if op.request.startswith(b"gets")]
    assert [len(keys) for keys in gets] == [BATCH_KEYS, BATCH_KEYS, 10]
    assert [each[0] for each in world.words(b"me ") if each[0]] == [BATCH_KEYS, BATCH_KEYS, 10]


def test_a_server_that_fails_is_asked_no_more_and_costs_its_own_keys() -> None:
    """Its failure counts once, however many lots it would have been asked for."""
    numbers = range(4 * BATCH_KEYS)
    world = filled(*numbers)
    world.trouble = dead(0)
    found = world.run(stored(world.jobs(*numbers), world.env))
    assert sorted(found) == sorted(world.job(number).key for number in numbers if number % 2)
    assert [op.server for op in world.exchanges].count(0) == 1
    assert world.recipe.tally.errors == 1


def test_without_the_lifetimes_the_values_are_there_still() -> None:
    """Where ``me`` fails, the header alone tells the age."""
    world = filled(1)
    world.trouble = lambda op: Unreachable("gone") if op.request.startswith(b"me") else None
    assert [each.get() for each in world.run(stored(world.jobs(1), world.env)).values()] == ["value 1"]
    assert world.recipe.tally.errors == 0


def test_after_a_bump_nothing_is_shown() -> None:
    """A generation that is not there, or is another one, makes every entry under it void."""
    world = filled(1, 2)
    world.bump()
    assert world.run(stored(world.jobs(1, 2), world.env)) == {}
    assert world.run(explain(world.job(1), world.env)).state == "invalidated"


def test_nothing_is_asked_about_nothing() -> None:
    """No entries, no window."""
    world = World()
    assert world.run(stored([], world.env)) == {}
    assert world.windows == []


KEY = World().job(1).key


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (b"END\r\nEN\r\n", True),
        (b"END\r\nVA 0 c7 Z\r\n\r\n", True),
        (b"VALUE {} 0 1 5\r\nx\r\nEND\r\nVA 1 c7\r\n5\r\n", True),
        (b"END\r\nHD c7\r\n", False),
        (b"VALUE other 0 1 5\r\nx\r\nEND\r\nHD c7\r\n", False),
        (b"END\r\nVALUE {} 0 1 5\r\nx\r\nHD c7\r\n", False),
        (b"HD c7\r\nEND\r\n", False),
        (b"END\r\nEND\r\n", False),
        (b"SERVER_ERROR out of memory\r\nHD c7\r\n", False),
        (b"END\r\nSERVER_ERROR out of memory\r\n", False),
        (b"END\r\nNF\r\n", False),
        (b"VA 1 c5\r\nx\r\nEND\r\nEN\r\n", False),
        (b"", False),
    ],
)
def test_only_what_was_asked_for_fits(answer: bytes, right: bool) -> None:
    """Keys that nobody asked for, and any other order than VALUEs, END, generation, are no answer."""
    world = World(servers=2)
    flow = Sight(world.jobs(1), world.env).look()
    (op,) = next(flow).exchanges  # type: ignore[union-attr]
    replies = Parser().feed(answer.replace(b"{}", KEY))
    assert op.fits is not None
    assert op.fits(replies) is right
    flow.close()


@pytest.mark.parametrize(
    ("words", "seconds"),
    [(b"exp=-1 la=0", -1), (b"exp=30", 30), (b"exp=-30", 30), (b"la=0", None), (b"exp=soon", None)],
)
def test_the_lifetime_that_me_tells(words: bytes, seconds: int | None) -> None:
    """1.6.18 prints it with the wrong sign; −1 is never."""
    assert lifetime_in(words.split()) == seconds


def test_explain_says_where_it_looked() -> None:
    """An entry's server, state and measures; unreachable where that server does not answer."""
    world = filled(2)
    told = world.run(explain(world.job(2), world.env))
    assert (told.server, told.state, told.ttl_s, told.key) == ("server:0", "fresh", 60.0, world.job(2).key.decode())
    assert world.run(explain(world.job(1), world.env)).state == "absent"
    world.trouble = dead(0)
    assert world.run(explain(world.job(2), world.env)).state == "unreachable"


# -- telling ----------------------------------------------------------------------------------------------------------


def test_an_invalidation_is_announced_with_its_outcome() -> None:
    """Acknowledged by HD and NF alike; not where the server can't be asked, which is counted as trouble."""
    world = filled(1)
    heard: list[Any] = []
    world.hooks.on_invalidate(heard.append)
    world.hooks.on_trouble(heard.append)
    key = world.job(1).key
    assert world.run(tell(world.job(1), world.env, removal)) is True
    assert world.run(tell(world.job(1), world.env, removal)) is True
    world.trouble = dead(1)
    assert world.run(tell(world.job(1), world.env, removal)) is False
    name = world.recipe.name
    said = [Invalidate(name, key.decode(), True)] * 2
    assert heard[:2] == said
    assert [type(each) for each in heard[2:]] == [Trouble, Invalidate]
    assert heard[3] == Invalidate(name, key.decode(), False)
    assert world.recipe.tally.errors == 1


def test_all_are_voided_in_one_window() -> None:
    """Every server's own copy of the generation; all must acknowledge, and each that does not is named."""
    world = filled(1, 2)
    heard: list[Any] = []
    world.hooks.on_invalidate(heard.append)
    world.hooks.on_trouble(heard.append)
    assert world.run(tell_every_server(world.recipe, world.env)) is True
    assert world.words(b"md ") == [[1, 1]]
    assert world.run(stored(world.jobs(1, 2), world.env)) == {}
    world.trouble = dead(1)
    assert world.run(tell_every_server(world.recipe, world.env)) is False
    generation = world.recipe.generations[0].decode()
    assert [each for each in heard if isinstance(each, Invalidate)] == [
        Invalidate(world.recipe.name, generation, acknowledged, "function") for acknowledged in (True, False)
    ]
    assert [each.server for each in heard if isinstance(each, Trouble)] == ["server:1"]


@pytest.mark.parametrize("every", [False, True])
def test_runs_without_a_lease_are_joined_no_more(every: bool) -> None:
    """Whoever comes after an invalidation boards a flight of his own, not one that began before."""
    world = World()
    job = world.job(1)
    flight, _ = world.env.flights.board(job.key, None)
    world.run(tell_every_server(world.recipe, world.env) if every else tell(job, world.env, removal))
    other, pilot = world.env.flights.board(job.key, None)
    assert pilot
    assert other is not flight


@pytest.mark.parametrize("every", [False, True])
def test_also_where_the_invalidation_was_interrupted(every: bool) -> None:
    """It may have gone through: whoever comes later boards a flight of his own."""
    world = World()
    job = world.job(1)
    flight, _ = world.env.flights.board(job.key, None)
    flow = tell_every_server(world.recipe, world.env) if every else tell(job, world.env, removal)
    next(flow)
    with pytest.raises(KeyboardInterrupt):
        flow.throw(KeyboardInterrupt())
    other, pilot = world.env.flights.board(job.key, None)
    assert pilot
    assert other is not flight


def test_many_invalidations_are_announced_one_by_one() -> None:
    """Each key's own outcome reaches the hook."""
    world = filled(1, 2)
    heard: list[Invalidate] = []
    world.hooks.on_invalidate(heard.append)
    world.trouble = dead(1)
    assert world.run(tell_all(world.jobs(1, 2), world.env, removal)) == [False, True]
    assert {each.key: each.acknowledged for each in heard} == {
        world.job(1).key.decode(): False,
        world.job(2).key.decode(): True,
    }
