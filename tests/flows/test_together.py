"""Flows that are driven together: what they ask goes out in common windows, in the order that is promised."""

from __future__ import annotations

from typing import Any

import pytest

from cachekit.codecs.envelope import open_envelope
from cachekit.errors import DeadlineExceeded, ServerError
from cachekit.flights import Flight
from cachekit.flows.batch import LoaderRecipe, batch
from cachekit.flows.frames import Filling, Notes
from cachekit.flows.shared import SharedEnv
from cachekit.flows.together import Together
from cachekit.ops import BATCH_KEYS, Compute, Exchange, Flow, Gather, Join, Sleep, Spawn
from flows.world import World


def setting() -> tuple[World, SharedEnv]:
    """A world of two servers, and its surroundings as they are shared."""
    world = World()
    return world, SharedEnv(world.env, world.recipe)


def drive(world: World, env: SharedEnv, *flows: Flow[Any]) -> Any:
    """What the flows return; each result of a run is its position."""
    return world.run(Together(flows, range(len(flows)), env, lambda positions: positions).values())


def ask(env: SharedEnv, server: int, *, since: float | None = None, retry: bool = False) -> Exchange:
    """A read of something that is not there."""
    return Exchange(server, b"mg nothing O%d v\r\n" % env.token, 1, env.token, retry, since)


def compute(world: World, env: SharedEnv, key: bytes = b"k") -> Compute:
    """A run in a frame of its own."""
    return Compute(lambda: None, Filling(env.flights, key, world.clock.monotonic + 10.0, Notes()))


def test_what_flows_want_is_done_in_the_order_that_is_promised() -> None:
    """Exchanges, then background tasks, then one run; whoever waits waits last, whatever came first."""
    world, env = setting()

    def sleeper() -> Flow[str]:
        yield Sleep(1.0)
        return "slept"

    def runner() -> Flow[Any]:
        value = yield compute(world, env)
        yield ask(env, 0)
        return value

    def spawner() -> Flow[Any]:
        return (yield Spawn(sleeper()))

    def asker() -> Flow[Any]:
        yield ask(env, 0)
        yield ask(env, 1)
        return (yield compute(world, env))

    assert drive(world, env, sleeper(), runner(), spawner(), asker()) == ["slept", 1, True, 3]
    assert world.log == ["Exchange", "Exchange", "Spawn", "Compute", "Exchange", "Sleep"]


def test_nothing_wants_nothing() -> None:
    """No flows, no ops."""
    world, env = setting()
    assert drive(world, env) == []
    assert world.log == []


def test_only_what_may_go_together_does() -> None:
    """Not what spends leases of another age, and not what may be sent again with what may not."""
    world, env = setting()

    def asker(exchange: Exchange) -> Flow[str]:
        replies = yield exchange
        return str(replies.replies[0].code)

    wanted = [ask(env, 0), ask(env, 0, since=5.0), ask(env, 0), ask(env, 0, retry=True), ask(env, 0, since=6.0)]
    assert drive(world, env, *map(asker, wanted)) == ["EN"] * 5
    assert [(op.expected, op.held_since, op.retry) for op in world.exchanges] == [
        (2, None, False),
        (1, 5.0, False),
        (1, None, True),
        (1, 6.0, False),
    ]


def test_a_failed_exchange_is_thrown_into_the_flows_that_it_concerns() -> None:
    """And into no others; each may go on after it."""
    world, env = setting()
    world.trouble = lambda op: DeadlineExceeded("slow") if op.server == 1 else None

    def asker(server: int) -> Flow[str]:
        try:
            yield ask(env, server)
        except ServerError:
            return "failed"
        return "answered"

    assert drive(world, env, asker(0), asker(1), asker(0), asker(1)) == ["answered", "failed", "answered", "failed"]


def test_the_first_exception_is_raised_when_all_have_ended() -> None:
    """First by position: the others finish what they have to say to the servers."""
    world, env = setting()
    ended: list[int] = []

    def failing(number: int) -> Flow[None]:
        yield ask(env, number % 2)
        yield ask(env, number % 2)
        ended.append(number)
        raise LookupError(number)

    with pytest.raises(LookupError, match="0"):
        drive(world, env, failing(0), failing(1))
    assert ended == [0, 1]


def test_a_cycle_of_waits_ends_at_once() -> None:
    """The shell says so by None, and that flow goes on."""
    world, env = setting()
    world.on_join = lambda _: None

    def joiner() -> Flow[Any]:
        return (yield Join(Flight(), 5.0))

    assert drive(world, env, joiner(), joiner()) == [None, None]


def test_a_landing_wakes_those_whose_flights_have_landed() -> None:
    """The others wait on, each for what is left of his own time."""
    world, env = setting()
    flights = [Flight() for _ in range(4)]
    landed = {id(flights[0]), id(flights[1])}
    waits: list[float] = []

    def join(op: Join) -> bool:
        waits.append(op.timeout_s)
        if id(op.flight) in landed:
            world.clock.pass_by(1.0 if op.timeout_s else 0.0)
            return True
        return False

    world.on_join = join

    def joiner(flight: Flight, seconds: float) -> Flow[Any]:
        return (yield Join(flight, seconds))

    flows = [joiner(flight, seconds) for flight, seconds in zip(flights, (9.0, 9.0, 3.0, 4.0), strict=True)]
    assert drive(world, env, *flows) == [True, True, False, False]
    assert waits[0] == 3.0, "not beyond the shortest"
    assert world.clock.monotonic == 1004.0


@pytest.mark.parametrize("op", [Exchange, Gather, Compute, Spawn, Sleep, Join])
def test_an_interrupt_reaches_every_flow_and_they_may_still_clean_up(op: type) -> None:
    """By words to the servers alone: nobody runs or waits after it."""
    world, env = setting()
    ops: dict[type, Any] = {
        Exchange: ask(env, 0),
        Compute: compute(world, env),
        Spawn: Spawn(None),
        Sleep: Sleep(1.0),
        Join: Join(Flight(), 1.0),
    }
    cleaned: list[int] = []

    def flow(number: int, wants: Any) -> Flow[None]:
        try:
            yield wants
        except KeyboardInterrupt:
            yield ask(env, number % 2)
            cleaned.append(number)
            yield Sleep(1.0)
            raise

    perform, waiting = world.perform, [op]

    def interrupt(op: Any) -> Any:
        if type(op) in waiting:
            waiting.clear()
            raise KeyboardInterrupt
        return perform(op)

    world.perform = interrupt  # type: ignore[method-assign]
    first = ops.get(op, ask(env, 0))
    flows = [flow(0, first), flow(1, ask(env, 1) if op is Gather else first), flow(2, Sleep(9.0))]
    with pytest.raises(KeyboardInterrupt):
        drive(world, env, *flows)
    assert sorted(cleaned) == [0, 1, 2]
    assert "Sleep" not in world.log


def test_closed_together_they_are_closed_each() -> None:
    """And nothing more is asked."""
    _, env = setting()
    closed: list[int] = []

    def flow(number: int) -> Flow[None]:
        try:
            yield ask(env, number % 2)
        finally:
            closed.append(number)

    together = Together([flow(0), flow(1)], [0, 1], env, list).values()
    next(together)
    together.close()
    assert closed == [0, 1]


def load(world: World, *numbers: int) -> Any:
    """One batch of these ids."""
    return world.run(batch(world.jobs(*numbers), world.env, world.compute(*numbers)))


@pytest.mark.parametrize("before", [0.0, 61.0])
def test_an_interrupt_of_the_stores_gives_the_leases_back(before: float) -> None:
    """Those whose stores had not gone out yet too, whether a value stood there or not: nobody waits for them."""
    world = World(stale_s=100.0) if before else World()
    numbers = range(3 * BATCH_KEYS)
    if before:
        load(world, *numbers)
        world.clock.pass_by(before)

    def trouble(op: Exchange) -> BaseException | None:
        interrupted = b"ms " in op.request
        world.trouble = (lambda _: None) if interrupted else trouble
        return KeyboardInterrupt() if interrupted else None

    world.trouble = trouble
    with pytest.raises(KeyboardInterrupt):
        load(world, *numbers)
    world.runs.clear()
    assert len(load(world, *numbers)) == len(numbers)
    assert "Sleep" not in world.log
    assert world.runs == [list(numbers)], "and whoever comes next may load them all"


def test_leases_in_an_answer_that_an_interrupt_lost_are_taken_over_at_once() -> None:
    """By this process, which knows that they may be nobody's."""
    world = World()
    perform = world.perform

    def lose(op: Any) -> Any:
        world.perform = perform  # type: ignore[method-assign]
        perform(op)
        raise KeyboardInterrupt

    world.perform = lose  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        load(world, 1, 2)
    assert load(world, 1, 2) == ["value 1", "value 2"]
    assert "Sleep" not in world.log


def test_hits_of_one_call_save_one_run_whatever_way_they_take() -> None:
    """Stale, or stored again since they slide: also where a value is no plain hit."""
    for options, seconds in (({"stale_s": 100.0, "background": True}, 70.0), ({"sliding": True}, 30.0)):
        world = World(**options)
        world.during = lambda world=world: world.clock.pass_by(2.0)  # type: ignore[misc]
        load(world, 1, 2, 3)
        world.clock.pass_by(seconds)
        load(world, 1, 2, 3)
        tally = world.recipe.tally
        assert (tally.hits, tally.saved_us) == (3, 2_000_000), options


def test_to_write_down_what_others_loaded_is_no_part_of_the_running_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each entry says how long the loader ran, for early refresh goes by it; and not how many came before in line."""
    world = World()
    pack = world.recipe.pack

    def slowly(*args: Any) -> Any:
        world.clock.pass_by(0.5)
        return pack(*args)

    monkeypatch.setattr(LoaderRecipe, "pack", lambda _, *args: slowly(*args))
    world.during = lambda: world.clock.pass_by(2.0)
    load(world, *range(20))
    found = [world.handle(number, b"mg {} v O1\r\n")[0].value for number in range(20)]
    assert {open_envelope(value or b"")[0].delta_us for value in found} == {2_000_000}
    assert world.env.monotonic() == 1012.0


def test_thousands_who_wait_look_in_turn() -> None:
    """Each look at all of them would take longer than the pause before it; what one finds has the others look too."""
    world, env = setting()
    one, other = range(BATCH_KEYS), range(BATCH_KEYS, 2 * BATCH_KEYS)
    turns: list[int] = []

    def waiter(number: int) -> Flow[int]:
        while len(turns) < 4 * BATCH_KEYS:
            yield Sleep(0.01)
            turns.append(number)
            yield ask(env, 0)
        return number

    assert drive(world, env, *(waiter(number) for number in (*one, *other))) == [*one, *other]
    assert turns == [*one, *other, *one, *other, *one], "all of them, in turn, and at the end who has not ended yet"
    assert world.log.count("Sleep") == 4
