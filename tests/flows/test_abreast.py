"""Several invalidations at once: common windows, each with its own outcome."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from cachekit.errors import Unreachable
from cachekit.flows.abreast import tell_abreast
from cachekit.flows.tell import bump, namespace_of, removal, tags_of, tell
from cachekit.hooks import Invalidate
from cachekit.ops import BATCH_KEYS, Compute, Flow
from flows.world import World


def entries(world: World, *numbers: int) -> list[Any]:
    """Removals of these entries."""
    return [partial(tell, job, request=removal) for job in world.jobs(*numbers)]


def groups(world: World, *tags: str, soft: bool = False) -> Any:
    """A bump of these tags."""
    return partial(bump, tags_of(b"app", tags), tally=world.recipe.tally, soft=soft)


def test_entries_and_groups_share_a_window() -> None:
    """Each server is asked once, whatever for; all bear one token, as the replies must."""
    world = World(3)
    space = partial(bump, [namespace_of(b"app", "shop")], tally=world.recipe.tally)
    tellers = [*entries(world, 0, 1, 2, 3), groups(world, "a", "b"), space]
    assert world.run(tell_abreast(tellers, world.env)) is True
    assert world.log == ["Gather"]
    assert world.words(b"md ") == [[5, 4, 4]]


def test_windows_are_bounded() -> None:
    """No server gets more than a batch before its answers are read."""
    world = World(1)
    assert world.run(tell_abreast(entries(world, *range(600)), world.env)) is True
    assert world.words(b"md ") == [[BATCH_KEYS], [BATCH_KEYS], [600 - 2 * BATCH_KEYS]]
    long = [partial(tell, world.job(0)._replace(key=b"k" * 240), request=removal)] * 100
    world.windows.clear()
    assert world.run(tell_abreast(long * 6, world.env)) is True
    assert all(len(each.request) <= 131_072 for window in world.windows for each in window)


def test_a_store_under_a_number_goes_apart() -> None:
    """The second step of a soft bump spends numbers that the first has read, so it may go only over a connection as
    old, and only once; what is beside it is bound by neither.
    """
    world = World(1)
    done: list[Invalidate] = []
    world.hooks.on_invalidate(done.append)

    def twice(env: Any) -> Flow[bool]:
        first = yield from tell(world.job(0), env, removal)
        second = yield from tell(world.job(1), env, removal)
        return first and second

    assert world.run(tell_abreast([groups(world, "a", soft=True), twice], world.env)) is True
    told = [(each.retry, each.held_since is not None, each.request[:2]) for each in world.exchanges]
    assert told == [(True, False, b"mg"), (False, True, b"ms"), (True, False, b"md")]
    assert [each.acknowledged for each in done] == [True, True, True]


def test_each_has_its_own_outcome() -> None:
    """A server in trouble costs what it holds; told once."""
    world = World(2)
    world.trouble = lambda op: Unreachable("down") if op.server else None
    done: list[Invalidate] = []
    troubles: list[Any] = []
    world.hooks.on_invalidate(done.append)
    world.hooks.on_trouble(troubles.append)
    assert world.run(tell_abreast([*entries(world, 0, 1), groups(world, "a")], world.env)) is False
    assert [each.acknowledged for each in done] == [True, False, False]
    assert (len(troubles), world.recipe.tally.errors) == (1, 1)


def test_a_soft_bump_that_no_server_hears_of() -> None:
    """It has nothing to store then, and what is beside it goes on."""
    world = World(2)
    world.trouble = lambda op: Unreachable("down")
    done: list[Invalidate] = []
    world.hooks.on_invalidate(done.append)
    assert world.run(tell_abreast([groups(world, "a", soft=True), *entries(world, 0)], world.env)) is False
    assert [each.acknowledged for each in done] == [False, False]


def test_one_alone_is_told_as_it_is() -> None:
    """Without a window around it."""
    world = World(2)
    assert world.run(tell_abreast(entries(world, 1), world.env)) is True
    assert world.log == ["Exchange"]


def test_an_interrupt_reaches_each_of_them() -> None:
    """What was asked may not have arrived, so each says that it is undelivered; and the interrupt goes on."""
    world = World(2)
    lost: list[tuple[int, bytes]] = []
    env: Any = world.env
    env.undelivered = lambda server, *keys, **_: lost.extend((server, key) for key in keys)
    world.trouble = lambda op: KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        world.run(tell_abreast(entries(world, 0, 1), world.env))
    assert lost == [(0, world.job(0).key), (1, world.job(1).key)]


def test_only_servers_are_asked() -> None:
    """A flow that wants to run something does not belong here."""
    world = World(1)

    def runs(env: Any) -> Flow[bool]:
        yield Compute(lambda: None, None)
        return True

    with pytest.raises(TypeError, match="Compute"):
        world.run(tell_abreast([runs, runs], world.env))
