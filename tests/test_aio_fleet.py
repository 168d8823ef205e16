"""The connections of an event loop: opened once for all who want them, one server's trouble is its own, and nothing is
left behind.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.aio import (
    RUNS,
    Clock,
    Listener,
    Run,
    clock_fixture,
    listening,
    on_both_loops,
    run_on_asyncio,
    turns,
    until,
)
from support.memcached import Memcached, free_port, make_certificate, start_memcached
from support.targets import unix_server_fixture
from support.threads import Outcome

from cachekit import MISS, Cache, DeadlineExceeded, ProtocolError, Refused, Unreachable
from cachekit.addresses import parse_target
from cachekit.aio import fleet as module
from cachekit.aio.connection import AsyncConnection, connect
from cachekit.aio.fleet import AsyncFleet
from cachekit.aio.loops import Loops
from cachekit.aio.tasks import BACKGROUND
from cachekit.errors import ServerError
from cachekit.hooks import Hooks
from cachekit.ops import Exchange, LeaseVoid, Replies
from cachekit.roster import Roster

__all__ = ["clock_fixture", "unix_server_fixture"]

ROOT = Path(__file__).parents[1]
MN = Exchange(0, b"mn\r\n", 1, None, retry=True)
ONCE = MN._replace(retry=False)


class Quiet(Roster):
    """A roster whose servers stay down until the test says otherwise."""

    def try_server(self, index: int) -> None:
        raise Unreachable(f"{self.names[index]} is not tried", server=self.names[index])


def roster_of(*names: str, deadline: str = "30s") -> Quiet:
    """A roster of these servers, in this order where the names are sorted."""
    return Quiet(parse_target(f"memcached://{','.join(names)}?deadline={deadline}"), Hooks())


def strikes(fleet: AsyncFleet, index: int = 0) -> int:
    """How many failures in a row are held against a server."""
    return fleet.roster.health[index].strikes


def connection_of(fleet: AsyncFleet, index: int = 0) -> AsyncConnection:
    """The open connection to a server."""
    line = fleet.lines[index]
    assert isinstance(line, AsyncConnection)
    return line


async def failure(work: Any) -> type[BaseException]:
    """The type of what ``work`` raises."""
    with pytest.raises(BaseException) as caught:
        await work
    return caught.type


def answers(*given: bytes | None) -> Callable[[bytes], bytes | None]:
    """A script: one answer after the other, the last of them for ever."""
    left = list(given)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture
def mortal() -> Iterator[Memcached]:
    """A server of the test's own, to stop and kill."""
    with start_memcached() as server:
        yield server


# -- opening ----------------------------------------------------------------------------------------------------------


@on_both_loops
def test_many_callers_share_one_connect(run: Run[None]) -> None:
    """And the version is asked once; what they ask goes out in one write, as soon as it is open."""

    async def main() -> None:
        async with listening() as server:
            fleet = AsyncFleet(roster_of(server.name))
            callers = [asyncio.create_task(fleet.exchange(MN)) for _ in range(50)]
            peer = await server.peer(0, b"mn\r\n" * 50)
            peer.say(b"MN\r\n" * 50)
            for replies in await asyncio.gather(*callers):
                assert [reply.code for reply in replies.replies] == ["MN"]
            assert (len(server.peers), server.versions) == (1, 1)
            await fleet.aclose()

    run(main())


@on_both_loops
def test_a_cancelled_caller_does_not_cancel_the_connect(run: Run[None]) -> None:
    """The others wait for the same one, and get it; and were he the only one, the next finds it open."""

    async def main() -> None:
        async with listening(answers(b"MN\r\n"), version=None) as server:
            fleet = AsyncFleet(roster_of(server.name))
            first = asyncio.create_task(fleet.exchange(MN))
            second = asyncio.create_task(fleet.exchange(MN))
            peer = await server.peer()
            await until(lambda: server.versions)
            first.cancel()
            await turns()
            assert first.cancelled()
            peer.say(b"VERSION 1.6.27\r\n")
            assert (await second).replies[0].code == "MN"
            assert len(server.peers) == 1
            await fleet.aclose()

    run(main())


@on_both_loops
def test_a_refused_connect_marks_down_at_once(run: Run[None]) -> None:
    """One failure, however many callers; those who come later fail at once, without a connect."""

    async def main() -> None:
        fleet = AsyncFleet(roster_of(f"127.0.0.1:{free_port()}"))
        downs: list[bool] = []
        fleet.roster.hooks.on_server(lambda state: downs.append(state.up))
        outcomes = await asyncio.gather(*(fleet.exchange(MN) for _ in range(20)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {Unreachable}
        assert strikes(fleet) == 1
        assert downs == [False]
        assert await failure(fleet.exchange(MN)) is Unreachable
        assert strikes(fleet) == 1
        assert (await fleet.gather([MN]))[0].__class__ is Unreachable
        await fleet.aclose()
        fleet.roster.stop_probing()

    run(main())


@on_both_loops
def test_a_stopped_server_costs_its_callers_one_deadline_together(run: Run[None], mortal: Memcached) -> None:
    """It accepts connections and says nothing. Whoever asks meanwhile fails with the others, not after them."""

    async def main() -> None:
        fleet = AsyncFleet(roster_of(mortal.name, deadline="300ms"))
        await fleet.exchange(MN)
        line = connection_of(fleet)
        mortal.pause()
        try:
            # One on the open connection; then many on one that is accepted, and never answered on.
            for callers, expected in ((1, 1), (20, 2)):
                began = time.monotonic()
                outcomes = await asyncio.gather(*(fleet.exchange(MN) for _ in range(callers)), return_exceptions=True)
                assert {type(outcome) for outcome in outcomes} == {DeadlineExceeded}
                assert time.monotonic() - began < 3  # 20 deadlines in a row would be 6 s
                assert strikes(fleet) == expected
            assert fleet.lines == [None]
            assert not fleet.roster.health[0].up
            await until(lambda: line.closed)
        finally:
            mortal.resume()
        fleet.roster.succeeded(0)
        assert (await fleet.exchange(MN)).replies[0].code == "MN"
        await fleet.aclose()
        fleet.roster.stop_probing()

    run(main())


@on_both_loops
@pytest.mark.parametrize("callers", [1, 20])
def test_a_silent_connection_is_one_strike(run: Run[None], clock: Clock, callers: int) -> None:
    """However many wait on it: one stalled connection says less of the server than two. The next one is opened at once,
    and should that be silent too the server is down.
    """

    async def main() -> None:
        async with listening() as server:
            fleet = AsyncFleet(roster_of(server.name))
            asked = [asyncio.create_task(fleet.exchange(ONCE)) for _ in range(callers)]
            await server.peer(0, b"mn\r\n" * callers)
            connection = connection_of(fleet)
            clock.now += 30
            connection._check()
            assert {await failure(each) for each in asked} == {DeadlineExceeded}
            assert fleet.roster.health[0].up
            assert fleet.roster.health[0].strikes == 1
            await until(lambda: fleet.lines[0] is not None)
            assert connection_of(fleet) is not connection
            await fleet.aclose()

    run(main())


@on_both_loops
def test_time_spent_on_opening_counts(run: Run[None], clock: Clock) -> None:
    """The deadline is one for the connect and the answer, also for what is gathered."""

    async def main() -> None:
        async with listening(version=None) as server:
            fleet = AsyncFleet(roster_of(server.name))
            asked = asyncio.create_task(fleet.exchange(ONCE))
            gathered = asyncio.create_task(fleet.gather([ONCE]))
            await until(lambda: server.versions)
            clock.now += 20
            server.peers[0].say(b"VERSION 1.6.18\r\n")
            await server.peer(0, b"mn\r\n" * 2)
            connection = connection_of(fleet)
            clock.now += 9
            connection._check()
            await turns()
            assert not asked.done()
            clock.now += 1
            connection._check()
            assert await failure(asked) is DeadlineExceeded
            (outcome,) = await gathered
            assert isinstance(outcome, DeadlineExceeded)
            await fleet.aclose()

    run(main())


@on_both_loops
def test_a_connection_that_was_lost_at_once_is_never_used(run: Run[None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it kept, nobody would ever open another."""

    async def main() -> None:

        async def lost(connection: AsyncConnection) -> None:
            await connect(connection)
            connection.connection_lost(None)

        async with listening(answers(b"MN\r\n")) as server:
            roster = roster_of(server.name)
            roster.versions_known.add(0)
            fleet = AsyncFleet(roster)
            with monkeypatch.context() as patch:
                patch.setattr(module, "connect", lost)
                assert await failure(fleet.exchange(ONCE)) is Unreachable
            assert fleet.lines == [None]
            assert strikes(fleet) == 1
            assert (await fleet.exchange(ONCE)).replies[0].code == "MN"
            await fleet.aclose()

    run(main())


@on_both_loops
@pytest.mark.parametrize(
    ("version", "explicit"),
    [
        (b"VERSION 1.6.18\r\n", False),
        (b"VERSION 1.6.27\r\n", True),
        (b"VERSION 1.10.0-x\r\n", True),
    ],
)
def test_the_version_says_who_chooses_cas_numbers(run: Run[None], version: bytes, explicit: bool) -> None:
    """Asked on the first connection, and again on the one after a loss: it may have been another server's restart."""

    async def main() -> None:
        async with listening(answers(b"MN\r\n", None, b"MN\r\n"), version=version) as server:
            fleet = AsyncFleet(roster_of(server.name))
            await fleet.exchange(MN)
            assert (0 in fleet.roster.explicit) is explicit
            server.version = b"VERSION 1.6.18\r\n"
            await fleet.exchange(MN)
            assert server.versions == 2
            assert 0 not in fleet.roster.explicit
            await fleet.aclose()

    run(main())


@on_both_loops
def test_no_version_is_a_strike(run: Run[None]) -> None:
    """A server at its limit of connections says ERROR, and hangs up: the second time it is down."""

    async def main() -> None:
        async with listening(version=b"ERROR Too many open connections\r\n") as server:
            fleet = AsyncFleet(roster_of(server.name))
            assert await failure(fleet.exchange(ONCE)) is Refused
            assert strikes(fleet) == 1
            assert await failure(fleet.exchange(ONCE)) is Refused
            assert not fleet.roster.health[0].up
            assert 0 not in fleet.roster.explicit
            await fleet.aclose()
            fleet.roster.stop_probing()

    run(main())


# -- the answers ------------------------------------------------------------------------------------------------------


@on_both_loops
def test_a_connection_that_lay_idle_costs_one_repetition(run: Run[None]) -> None:
    """Where the request may be sent twice; else its caller hears of it. Nobody's health suffers."""

    async def main() -> None:
        async with listening(answers(b"MN\r\n")) as server:
            fleet = AsyncFleet(roster_of(server.name))
            await fleet.exchange(MN)
            for retry in (True, False):
                server.script = answers(None, b"MN\r\n")
                line = connection_of(fleet)
                if retry:
                    assert (await fleet.exchange(MN)).replies[0].code == "MN"
                    server.script = answers(None, b"MN\r\n")
                    (outcome,) = await fleet.gather([MN])
                    assert isinstance(outcome, Replies)
                else:
                    assert await failure(fleet.exchange(ONCE)) is Unreachable
                    await fleet.exchange(MN)
                    server.script = answers(None, b"MN\r\n")
                    (outcome,) = await fleet.gather([ONCE])
                    assert isinstance(outcome, Unreachable)
                assert line.closed
            assert strikes(fleet) == 0
            await fleet.aclose()

    run(main())


@on_both_loops
def test_a_server_that_always_hangs_up_is_down_the_second_time(run: Run[None]) -> None:
    """It answers the version and closes at every request: the caller is told, and the next ones cost nothing."""

    async def main() -> None:
        async with listening(answers(None)) as server:
            fleet = AsyncFleet(roster_of(server.name))
            assert await failure(fleet.exchange(MN)) is Unreachable
            assert not fleet.roster.health[0].up
            (outcome,) = await fleet.gather([MN])
            assert isinstance(outcome, Unreachable)
            assert len(server.peers) == 2
            await fleet.aclose()
            fleet.roster.stop_probing()

    run(main())


@on_both_loops
def test_a_lease_is_void_on_a_younger_connection(run: Run[None], mortal: Memcached) -> None:
    """held_since: only a connection opened before that will do; after a restart there is none."""

    async def main() -> None:
        fleet = AsyncFleet(roster_of(mortal.name))
        request = Exchange(0, b"mg k c N30 O1\r\n", 1, 1, retry=True)
        replies = await fleet.exchange(request)
        assert replies.replies[0].won
        spend = Exchange(0, b"mg k c O2\r\n", 1, 2, held_since=replies.sent_at)
        assert (await fleet.exchange(spend)).replies[0].code == "HD"
        assert isinstance((await fleet.gather([spend]))[0], Replies)
        mortal.restart()
        assert issubclass(await failure(fleet.exchange(spend)), Unreachable)
        assert (await fleet.exchange(request)).replies[0].won
        assert await failure(fleet.exchange(spend)) is LeaseVoid
        assert isinstance((await fleet.gather([spend]))[0], LeaseVoid)
        await fleet.aclose()

    run(main())


@on_both_loops
@pytest.mark.parametrize(
    ("answer", "closes"),
    [
        (b"CLIENT_ERROR bad data chunk\r\n", True),
        (b"ERROR\r\n", True),
        (b"SERVER_ERROR out of memory\r\n", False),
    ],
)
def test_an_error_line_is_the_answer(run: Run[None], answer: bytes, closes: bool) -> None:
    """After CLIENT_ERROR and ERROR the stream may be out of step; after SERVER_ERROR it is not."""

    async def main() -> None:
        async with listening(answers(answer)) as server:
            fleet = AsyncFleet(roster_of(server.name))
            op = Exchange(0, b"mg k O5\r\n", 1, 5)
            outcome = await fleet.exchange(op)
            assert outcome.replies[0].error == answer.decode().strip()
            assert (fleet.lines[0] is None) is closes
            await fleet.exchange(op)
            assert len(server.peers) == (2 if closes else 1)
            assert strikes(fleet) == 0
            await fleet.aclose()

    run(main())


@on_both_loops
@pytest.mark.parametrize(
    ("op", "answer"),
    [
        (Exchange(0, b"mg k O5\r\n", 1, 5), b"HD O6\r\n"),
        (Exchange(0, b"mg k O5\r\n", 1, 5), b"HD\r\n"),
        (Exchange(0, b"mg k O5\r\n", 1, 5), b"HTTP/1.1 400 Bad Request\r\n"),
        (Exchange(0, b"mg k O5\r\n", 1, 5), b"VA 99999999999\r\n"),
        (Exchange(0, b"get k\r\n", 1, None, fits=lambda _: False), b"END\r\n"),
    ],
    ids=["other token", "no token", "no protocol", "no size", "does not fit"],
)
def test_an_answer_to_something_else_is_held_against_the_server(run: Run[None], op: Exchange, answer: bytes) -> None:
    """The connection is closed, nobody gets a value from it, and the second time in a row marks the server down."""

    async def main() -> None:
        async with listening(answers(answer)) as server:
            fleet = AsyncFleet(roster_of(server.name))
            for strike in (1, 2):
                callers = await asyncio.gather(fleet.exchange(op), fleet.exchange(op), return_exceptions=True)
                kinds = {type(caller) for caller in callers}
                assert kinds == {ProtocolError}
                assert fleet.lines == [None]
                assert strikes(fleet) == strike
            assert not fleet.roster.health[0].up
            await fleet.aclose()
            fleet.roster.stop_probing()

    run(main())


@on_both_loops
@pytest.mark.parametrize(
    "version",
    [b"VA x\r\n", b"what?\r\n", b"x" * 10_000, b"VERSION 1.6.18\r\nmore\r\n"],
    ids=lambda data: repr(data[:9]),
)
def test_nonsense_for_a_version_is_one_failure_a_connection(run: Run[None], version: bytes) -> None:
    """Of a server that speaks another protocol; the second connection marks it down."""

    async def main() -> None:
        async with listening(version=version) as server:
            fleet = AsyncFleet(roster_of(server.name))
            for strike in (1, 2):
                assert issubclass(await failure(fleet.exchange(ONCE)), ProtocolError | Unreachable)
                assert (strikes(fleet), server.versions) == (strike, strike)
                assert fleet._open == set()
                assert fleet.lines == [None]
            assert not fleet.roster.health[0].up
            await fleet.aclose()
            fleet.roster.stop_probing()

    run(main())


@on_both_loops
def test_a_good_answer_makes_up_for_a_failure(run: Run[None]) -> None:
    """Failures count in a row only."""

    async def main() -> None:
        async with listening(answers(b"HD O6\r\n", b"HD O5\r\n", b"HD O6\r\n", b"HD O5\r\n")) as server:
            fleet = AsyncFleet(roster_of(server.name))
            op = Exchange(0, b"mg k O5\r\n", 1, 5)
            for _ in range(2):
                assert await failure(fleet.exchange(op)) is ProtocolError
                assert fleet.roster.suspects == {0}
                await fleet.exchange(op)
                assert fleet.roster.suspects == set()
            assert fleet.roster.health[0].up
            await fleet.aclose()

    run(main())


# -- several servers --------------------------------------------------------------------------------------------------


def each_of(fleet: AsyncFleet, *, retry: bool = False) -> list[Exchange]:
    """The same request to every server."""
    return [MN._replace(server=index, retry=retry) for index in range(len(fleet.lines))]


def numbered(fleet: AsyncFleet, server: Listener) -> int:
    """Which server of the fleet that is."""
    return fleet.roster.names.index(server.name)


@on_both_loops
def test_one_servers_failure_is_its_own(run: Run[None]) -> None:
    """One refuses, one answers nonsense, one is well: three outcomes, in order."""

    async def main() -> None:
        async with listening(answers(b"MN\r\n")) as well, listening(answers(b"HD O6\r\n")) as odd:
            fleet = AsyncFleet(roster_of(well.name, odd.name, f"127.0.0.1:{free_port()}"))
            for _ in range(2):
                ops = [op._replace(opaque=5) if op.server == numbered(fleet, odd) else op for op in each_of(fleet)]
                outcomes = await fleet.gather(ops)
                kinds = {fleet.roster.names[index]: type(outcome) for index, outcome in enumerate(outcomes)}
                assert kinds.pop(well.name) is Replies
                assert kinds.pop(odd.name) is ProtocolError
                assert list(kinds.values()) == [Unreachable]
            await fleet.aclose()
            fleet.roster.stop_probing()

    run(main())


@on_both_loops
def test_a_silent_server_does_not_hold_up_the_others(run: Run[None]) -> None:
    """Neither connects nor requests wait for one another: what a server is asked goes out while another is silent."""

    async def main() -> None:
        async with listening() as one, listening() as two, listening(version=None) as silent:
            fleet = AsyncFleet(roster_of(one.name, two.name, silent.name, deadline="500ms"))
            gathering = asyncio.create_task(fleet.gather(each_of(fleet)))
            for server in (one, two):
                (await server.peer(0, b"mn\r\n")).say(b"MN\r\n")
            assert not gathering.done()
            outcomes = await gathering
            for index, outcome in enumerate(outcomes):
                expected = DeadlineExceeded if index == numbered(fleet, silent) else Replies
                assert isinstance(outcome, expected)
            await fleet.aclose()

    run(main())


@on_both_loops
def test_repetitions_do_not_wait_for_one_another(run: Run[None]) -> None:
    """All connections were closed while they lay idle: every server is asked again at once."""

    async def main() -> None:
        async with listening(answers(b"MN\r\n")) as one, listening(answers(b"MN\r\n")) as two:
            fleet = AsyncFleet(roster_of(one.name, two.name))
            await fleet.gather(each_of(fleet))
            for server in (one, two):
                server.script = answers(None, b"")
            gathering = asyncio.create_task(fleet.gather(each_of(fleet, retry=True)))
            peers = [await server.peer(1, b"mn\r\n") for server in (one, two)]
            for peer in peers:
                peer.say(b"MN\r\n")
            assert all(isinstance(outcome, Replies) for outcome in await gathering)
            await fleet.aclose()

    run(main())


@on_both_loops
def test_a_cancelled_gather_leaves_nothing_to_complain_of(run: Run[None]) -> None:
    """Whatever becomes of the other answers, nobody logs an exception that was never retrieved."""

    async def main() -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with listening(answers(b"MN\r\n")) as one, listening(answers(b"MN\r\n")) as two:
            fleet = AsyncFleet(roster_of(one.name, two.name))
            await fleet.gather(each_of(fleet))
            one.script = two.script = answers(b"")
            gathering = asyncio.create_task(fleet.gather(each_of(fleet)))
            await one.peer(0, b"mn\r\nmn\r\n")
            await two.peer(0, b"mn\r\nmn\r\n")
            gathering.cancel()
            await turns()
            assert gathering.cancelled()
            await fleet.aclose()
            del gathering
            gc.collect()
            await turns()
        assert complaints == []

    run(main())


# -- pressure ---------------------------------------------------------------------------------------------------------


@on_both_loops
def test_a_huge_value_that_comes_slowly_does_not_stall_later_callers(run: Run[None], clock: Clock) -> None:
    """They get a new connection once it has taken a deadline, and the server is not blamed."""

    async def main() -> None:
        async with listening() as server:
            fleet = AsyncFleet(roster_of(server.name))
            callers = [asyncio.create_task(fleet.exchange(ONCE)) for _ in range(5)]
            slow = await server.peer(0, b"mn\r\n" * 5)
            connection = connection_of(fleet)
            slow.say(b"VA 1000000\r\n" + b"x" * 1000)
            clock.now += 31
            await until(lambda: connection._heard_at == clock.now)
            connection._check()
            assert {await failure(caller) for caller in callers} == {DeadlineExceeded}
            later = asyncio.create_task(fleet.exchange(ONCE))
            (await server.peer(1, b"mn\r\n")).say(b"MN\r\n")
            assert (await later).replies[0].code == "MN"
            assert strikes(fleet) == 0
            slow.say(b"x" * 999_000 + b"\r\n" + b"MN\r\n" * 4)
            await until(lambda: connection.closed and slow.lost)
            assert connection_of(fleet) is not connection
            await fleet.aclose()

    run(main())


@on_both_loops
def test_a_server_that_does_not_read_holds_up_what_it_has_no_room_for(run: Run[None]) -> None:
    """Nothing more is given to the transport; when the server reads again all goes out, and everybody is answered."""

    async def main() -> None:
        async with listening(lambda data: b"MN\r\n" * data.count(b"mn\r\n")) as server:
            fleet = AsyncFleet(roster_of(server.name))
            await fleet.exchange(ONCE)
            peer = await server.peer()
            peer.transport.pause_reading()
            connection = connection_of(fleet)
            large = ONCE._replace(request=b"x" * 20_000_000 + b"mn\r\n")
            callers = [asyncio.create_task(fleet.exchange(large))]
            await until(lambda: connection._held)
            callers += [asyncio.create_task(fleet.exchange(ONCE)) for _ in range(100)]
            await turns(10)
            assert len(connection._queue) == 100
            callers[50].cancel()
            peer.transport.resume_reading()
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
            assert sum(isinstance(outcome, Replies) for outcome in outcomes) == 100
            assert len(server.peers) == 1
            await fleet.aclose()

    run(main())


@on_both_loops
def test_cancelled_at_random_points(run: Run[None], server: Memcached) -> None:
    """Whoever is not cancelled gets the value of his own key, over one connection that nobody has to close."""

    async def main() -> None:
        rng = random.Random(7)
        cache = Cache(f"memcached://{server.name}?deadline=20s", prefix=f"cancel{id(run)}", on_error="raise")

        @cache(ttl=60)
        async def square(n: int) -> int:
            return n * n

        await cache.aio.set_many({f"k{n}": n for n in range(50)})
        line = cache._loops.here().lines[0]

        async def one(n: int) -> None:
            assert await cache.aio.get(f"k{n}") == n
            assert await cache.aio.gets(f"k{n}", MISS) != (MISS, None)
            assert await square(n) == n * n

        finished = 0
        for _ in range(60):
            tasks = [asyncio.create_task(one(rng.randrange(50))) for _ in range(30)]
            for _ in range(4):
                await turns(rng.randrange(4))
                rng.choice(tasks).cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            wrong = [error for error in outcomes if not isinstance(error, asyncio.CancelledError | None)]
            assert wrong == []
            finished += outcomes.count(None)
        assert finished > 1000
        assert cache._loops.here().lines[0] is line
        await cache.aclose()

    run(main())


# -- the real thing ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Memcached, str]]:
    """A real server that speaks TLS, and the path of the certificate to believe."""
    folder = tmp_path_factory.mktemp("tls")
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
    certificate = make_certificate(folder)
    with start_memcached(*certificate.options) as server:
        yield server, certificate.cert


async def every_size(cache: Cache) -> None:
    """Values of all sizes, read and written by many tasks at once."""
    values = {f"k{n}": bytes([n]) * size for n, size in enumerate([0, 1, 1000, 70_000, 300_000, 900_000])}

    async def one(key: str) -> None:
        assert await cache.aio.set(key, values[key])
        assert await cache.aio.get(key) == values[key]

    await asyncio.gather(*(one(key) for key in list(values) * 4))
    assert await cache.aio.get_many(values) == values
    assert await cache.aio.set_many(values) == []
    many = {f"m{n}": n for n in range(2000)}
    assert await cache.aio.set_many(many) == []
    assert await asyncio.gather(*(cache.aio.get(key) for key in many)) == list(many.values())
    assert cache.stats().direct.errors == 0


@on_both_loops
def test_over_tls(run: Run[None], tls_server: tuple[Memcached, str]) -> None:
    """Everything works over TLS with our own authority; a certificate that nobody vouches for is trouble."""
    server, ca = tls_server

    async def main() -> None:
        async with Cache(f"memcached+tls://{server.name}?ca={ca}&deadline=10s", prefix="p") as cache:
            await every_size(cache)
        async with Cache(f"memcached+tls://{server.name}?deadline=10s", on_error="raise") as cache:
            with pytest.raises(ServerError, match="TLS"):
                await cache.aio.get("k")
            cache._fleet.stop_probing()

    run(main())


@on_both_loops
def test_a_lost_tls_connection_is_opened_again(run: Run[None], tls_server: tuple[Memcached, str]) -> None:
    """After a restart the next call goes over a new one."""
    server, ca = tls_server

    async def main() -> None:
        async with Cache(f"memcached+tls://{server.name}?ca={ca}&deadline=10s", prefix="p", on_error="raise") as cache:
            assert await cache.aio.set("k", 1)
            server.restart()
            assert await cache.aio.get("k", MISS) is MISS
            assert await cache.aio.set("k", 2)
            assert await cache.aio.get("k") == 2

    run(main())


@on_both_loops
def test_over_a_unix_socket(run: Run[None], unix_server: Memcached) -> None:
    """Everything works there too."""

    async def main() -> None:
        async with Cache(f"unix://{unix_server.path}?deadline=10s", prefix="p") as cache:
            await every_size(cache)

    run(main())


@on_both_loops
def test_over_tcp(run: Run[None], server: Memcached) -> None:
    """And over TCP."""

    async def main() -> None:
        async with Cache(f"memcached://{server.name}?deadline=10s", prefix=f"aio{id(run)}") as cache:
            await every_size(cache)

    run(main())


# -- loops, threads, processes ----------------------------------------------------------------------------------------


def test_each_loop_has_its_own_connections(server: Memcached) -> None:
    """Two loops in two threads use one cache at once; each opens its own, and a closed loop is forgotten."""
    loops = Loops(roster_of(server.name))
    together = threading.Barrier(2)

    async def main() -> AsyncFleet:
        fleet = loops.here()
        assert loops.here() is fleet
        together.wait(20)
        for _ in range(100):
            replies = await asyncio.gather(*(fleet.exchange(MN) for _ in range(10)))
            assert all(each.replies[0].code == "MN" for each in replies)
        together.wait(20)
        assert set(loops.fleets) >= {asyncio.get_running_loop()}
        await loops.aclose()
        return fleet

    threads = [Outcome(run, main()) for run in (run_on_asyncio, [*RUNS.values()][-1])]
    fleets = {thread.result() for thread in threads}
    assert len(fleets) == 2

    async def third() -> int:
        loops.here()
        return len(loops.fleets)

    assert run_on_asyncio(third()) == 1
    assert {len(fleet._open) for fleet in fleets} == {0}


def test_no_loop_runs() -> None:
    """Asked outside of any, it says so."""
    with pytest.raises(RuntimeError):
        Loops(roster_of("127.0.0.1:1")).here()


def test_abandon_outside_of_the_loops(server: Memcached) -> None:
    """It asks every loop to cancel what goes on in its background, and passes over closed ones."""
    loops = Loops(roster_of(server.name))

    async def main() -> bool:
        fleet = loops.here()
        assert fleet.tasks.refresh(partial(asyncio.sleep, 60))
        (task,) = fleet.tasks._refreshes
        await asyncio.to_thread(loops.abandon)
        await asyncio.wait([task], timeout=20)
        return task.cancelled()

    assert run_on_asyncio(main())
    loops.abandon()
    assert [*RUNS.values()][-1](main())


PROGRAM = """
import asyncio, os, sys
from cachekit import Cache

cache = Cache(sys.argv[1], prefix="p")

@cache(ttl=60)
async def identity(n):
    return {"n": n}

async def use():
    asyncio.get_running_loop().slow_callback_duration = 60  # -X dev tells of those that took 0.1 s
    for _ in range(3):
        assert await asyncio.gather(*(identity(n) for n in range(20))) == [{"n": n} for n in range(20)]
    await cache.aio.set("k", 1)
    assert await cache.aio.get("k") == 1
    assert await cache.aio.get_many(["k"]) == {"k": 1}

def run(main):
    if sys.argv[2] == "uvloop":
        import uvloop
        uvloop.run(main)
    else:
        asyncio.run(main)
"""


def run_program(text: str, *arguments: str) -> str:
    """What a program prints, which must end well and complain of nothing."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONASYNCIODEBUG": "0"}
    options = ["-X", "dev", "-W", "error", "-W", "ignore::DeprecationWarning"]
    done = subprocess.run(
        [sys.executable, *options, "-c", PROGRAM + text, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("where", ["tcp", "tls"])
def test_a_program_that_forgets_aclose_leaves_nothing_open(
    kind: str, where: str, server: Memcached, tls_server: tuple[Memcached, str]
) -> None:
    """asyncio.run(main()) ends without a ResourceWarning or a task that was destroyed; twice in one process."""
    url = f"memcached://{server.name}?deadline=10s"
    if where == "tls":
        url = f"memcached+tls://{tls_server[0].name}?ca={tls_server[1]}&deadline=10s"
    text = """
async def main():
    await use()
    asyncio.get_running_loop().create_task(identity(77))  # is on its way when the loop ends
    await asyncio.sleep(0)
run(main())
run(main())
print("done")
"""
    assert run_program(text, url, kind) == "done"


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("where", ["loop", "thread"])
def test_a_fork_in_a_program_with_a_loop(kind: str, where: str, server: Memcached) -> None:
    """The child runs a loop of its own with connections of its own; the parent goes on with his."""
    text = """
async def in_child():
    assert cache._loops.fleets == {}
    await use()
    await cache.aclose()

def fork():
    child = os.fork()
    if not child:
        run(in_child())
        os._exit(0)
    return child

async def parent():
    await use()
    fleet = cache._loops.here()
    line = fleet.lines[0]
    asked = [asyncio.ensure_future(cache.aio.get("k")) for _ in range(3)]
    child = await asyncio.to_thread(fork) if sys.argv[3] == "thread" else fork()
    await use()
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert status == 0, status
    await use()
    assert await asyncio.gather(*asked) == [1, 1, 1]
    assert fleet.lines[0] is line and not line.closed
    assert cache._loops.here() is fleet
    await cache.aclose()

run(parent())
print("done")
"""
    assert run_program(text, f"memcached://{server.name}?deadline=10s", kind, where) == "done"


# -- the end ----------------------------------------------------------------------------------------------------------


@on_both_loops
def test_aclose_is_idempotent_and_a_later_use_opens_again(run: Run[None], mortal: Memcached) -> None:
    """No connection is left on the server."""
    idle = int(mortal.stats()["curr_connections"])

    async def main() -> None:
        loops = Loops(roster_of(mortal.name))
        await loops.aclose()
        fleet = loops.here()
        await fleet.aclose()
        for _ in range(3):
            await fleet.exchange(MN)
            assert isinstance((await fleet.gather([MN]))[0], Replies)
            await loops.aclose()
            await loops.aclose()
            await asyncio.gather(loops.aclose(), loops.aclose())
            assert fleet.lines == [None]
            assert fleet._open == set()
        await until(lambda: int(mortal.stats()["curr_connections"]) == idle)

    run(main())


@on_both_loops
def test_aclose_waits_for_what_goes_on(run: Run[None], server: Memcached) -> None:
    """Background work ends first, also what it starts itself; then the connections are closed."""

    async def main() -> None:
        fleet = AsyncFleet(roster_of(server.name))
        await fleet.exchange(MN)
        over: list[str] = []
        go = asyncio.Event()

        async def second() -> None:
            await fleet.exchange(MN)
            over.append("second")

        async def first() -> None:
            await go.wait()
            await fleet.exchange(MN)
            over.append("first")
            fleet.tasks.refresh(second)

        fleet.tasks.alone.add(fleet.tasks.hold(first()))
        closing = asyncio.create_task(fleet.aclose())
        await turns()
        assert not closing.done()
        go.set()
        await closing
        assert over == ["first", "second"]
        assert not fleet.tasks._refreshes
        assert not fleet.tasks.alone
        assert not fleet.tasks.all

    run(main())


@on_both_loops
def test_aclose_ends_what_does_not_end(run: Run[None], server: Memcached, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cancelled, and may still ask the server something."""
    monkeypatch.setattr(module, "EXIT_S", 0.05)

    async def main() -> None:
        fleet = AsyncFleet(roster_of(server.name))
        said: list[str] = []

        async def endless() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                said.append((await fleet.exchange(MN)).replies[0].code)

        assert fleet.tasks.refresh(endless)
        (task,) = fleet.tasks._refreshes
        await fleet.exchange(MN)
        await fleet.aclose()
        assert task.cancelled()
        assert said == ["MN"]
        assert fleet.lines == [None]

    run(main())


@on_both_loops
def test_aclose_while_others_wait_for_a_connection(run: Run[None], monkeypatch: pytest.MonkeyPatch) -> None:
    """They hear that it was closed; only who is cancelled is told that he was."""
    monkeypatch.setattr(module, "EXIT_S", 0.05)

    async def main() -> None:
        async with listening(version=None) as server:
            fleet = AsyncFleet(roster_of(server.name))
            asked = asyncio.create_task(fleet.exchange(ONCE))
            await until(lambda: server.versions)
            await fleet.aclose()
            assert await failure(asked) is Unreachable
            assert strikes(fleet) == 0
            await until(lambda: server.peers[0].lost)

    run(main())


def test_a_task_that_nobody_waits_for_may_fail() -> None:
    """Whoever is interested has heard of it; the loop does not complain of an exception that was never retrieved."""

    async def main() -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        fleet = AsyncFleet(roster_of("127.0.0.1:1"))

        async def fails() -> None:
            raise LookupError

        assert fleet.tasks.refresh(fails)
        await turns()
        gc.collect()
        assert not fleet.tasks.all
        assert complaints == []

    run_on_asyncio(main())


def test_there_is_room_for_so_many_in_the_background() -> None:
    """And there is again, when one has ended."""

    async def main() -> None:
        fleet = AsyncFleet(roster_of("127.0.0.1:1"))
        over = asyncio.Event()
        for _ in range(BACKGROUND):
            assert fleet.tasks.refresh(over.wait)
        assert not fleet.tasks.refresh(over.wait)
        over.set()
        await turns()
        assert fleet.tasks.refresh(over.wait)
        await fleet.aclose()

    run_on_asyncio(main())
