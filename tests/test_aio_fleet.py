"""The connections of an event loop: opened once for all who want them, and one server's trouble is its own."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest
from support.aio import (
    Clock,
    Listener,
    Run,
    clock_fixture,
    listening,
    on_both_loops,
    turns,
    until,
)
from support.aio_fleet import (
    MN,
    ONCE,
    answers,
    connection_of,
    failure,
    mortal_fixture,
    roster_of,
    strikes,
    tls_server_fixture,
)
from support.memcached import Memcached, free_port
from support.targets import unix_server_fixture

from cachekit import DeadlineExceeded, ProtocolError, Refused, Unreachable
from cachekit.aio import fleet as module
from cachekit.aio.connect import connect
from cachekit.aio.connection import AsyncConnection
from cachekit.aio.fleet import AsyncFleet
from cachekit.ops import Exchange, LeaseVoid, Replies

__all__ = ["clock_fixture", "mortal_fixture", "tls_server_fixture", "unix_server_fixture"]


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
            connection._deadlines.check()
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
            connection._deadlines.check()
            await turns()
            assert not asked.done()
            clock.now += 1
            connection._deadlines.check()
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
