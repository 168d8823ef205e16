"""A connection of asyncio under load and before a silent server: everybody has his deadline, and nothing piles up."""

from __future__ import annotations

import asyncio

import pytest
from support.aio import (
    Clock,
    Line,
    Run,
    clock_fixture,
    error_of,
    on_both_loops,
    run_on_asyncio,
    turns,
)

from cachekit.aio.connection import MAX_BYTES, MAX_REQUESTS
from cachekit.errors import DeadlineExceeded, Unreachable

__all__ = ["clock_fixture"]


# -- deadlines --------------------------------------------------------------------------------------------------------


def test_a_silent_server_costs_each_asker_his_own_deadline(clock: Clock) -> None:
    """The first late reply retires the connection; who asked later still has his time."""

    async def main() -> None:
        line = Line()
        connection = line.connection
        first = connection.ask(b"x\r\n", 1)
        await turns()
        clock.now += 60
        second = connection.ask(b"x\r\n", 1)
        await turns()
        clock.now += 39
        connection._deadlines.check()
        assert not first.done()
        clock.now += 1
        connection._deadlines.check()
        assert error_of(first) is DeadlineExceeded
        assert not second.done()
        assert line.events == [("overdue", 1)]
        assert not connection.closed
        clock.now += 10
        connection._deadlines.check()
        assert not second.done()
        line.say(b"HD\r\n" * 2)
        assert second.result() == b"HD\r\n"
        assert connection.closed  # all that was asked is answered
        assert line.events == [("overdue", 1), ("lost", None)]

    run_on_asyncio(main())


def test_a_retired_connection_is_closed_a_deadline_later(clock: Clock) -> None:
    """And whoever was left in charge of an answer hears that it won't come."""

    async def main() -> None:
        line = Line()
        connection = line.connection
        heard: list[bytes | None] = []
        first, gone = connection.ask(b"x\r\n", 1), connection.ask(b"x\r\n", 1)
        gone.cancel()
        connection.entrust(gone, heard.append)
        clock.now += 100
        connection._deadlines.check()
        clock.now += 99
        connection._deadlines.check()
        assert not connection.closed
        clock.now += 1
        connection._deadlines.check()
        assert connection.closed
        assert heard == [None]
        assert error_of(first) is DeadlineExceeded

    run_on_asyncio(main())


def test_late_replies_on_a_retired_connection_reach_who_was_entrusted(clock: Clock) -> None:
    """A lease in a reply that came too late can still be given back."""

    async def main() -> None:
        line = Line()
        connection = line.connection
        heard: list[bytes | None] = []
        first, gone, late = (connection.ask(b"x\r\n", 1) for _ in range(3))
        gone.cancel()
        connection.entrust(gone, heard.append)
        clock.now += 100
        connection._deadlines.check()
        connection.entrust(late, heard.append)
        line.say(b"HD 1\r\nHD 2\r\nHD 3\r\n")
        assert heard == [b"HD 2\r\n", b"HD 3\r\n"]
        assert error_of(first) is error_of(late) is DeadlineExceeded
        assert connection.closed

    run_on_asyncio(main())


def test_a_huge_value_that_comes_slowly_is_no_silence(clock: Clock) -> None:
    """Who stands behind it runs out of time, the connection is retired, and the server is not blamed."""

    async def main() -> None:
        line = Line()
        connection = line.connection
        huge, behind = connection.ask(b"x\r\n", 1), connection.ask(b"x\r\n", 1)
        line.say(b"VA 1000000\r\n")
        for _ in range(10):
            clock.now += 10
            line.say(b"x" * 50_000)
            connection._deadlines.check()
        assert error_of(huge) is error_of(behind) is DeadlineExceeded
        assert line.events == [("overdue", 0)]
        assert "retired" in repr(connection)
        line.say(b"x" * 500_000 + b"\r\nHD\r\n")
        assert connection.closed
        assert "closed" in repr(connection)

    run_on_asyncio(main())


def test_a_cancelled_asker_does_not_hide_a_silent_server(clock: Clock) -> None:
    """Nobody waits any more, but what comes next should not stand behind that slot."""

    async def main() -> None:
        line = Line()
        line.connection.ask(b"x\r\n", 1).cancel()
        clock.now += 100
        line.connection._deadlines.check()
        assert line.events == [("overdue", 1)]

    run_on_asyncio(main())


def test_who_has_waited_for_the_connection_gives_up_alone(clock: Clock) -> None:
    """His time is up early: that says nothing of the server, and the connection serves on."""

    async def main() -> None:
        line = Line()
        early = line.connection.ask(b"x\r\n", 1, clock.now - 100)
        other = line.connection.ask(b"x\r\n", 1)
        line.connection._deadlines.give_up(early)  # as its timer does
        assert error_of(early) is DeadlineExceeded
        assert not other.done()
        assert line.events == []
        line.say(b"HD 1\r\nHD 2\r\n")
        assert other.result() == b"HD 2\r\n"
        assert not line.connection.closed

    run_on_asyncio(main())


def test_the_queue_counts_for_the_deadline(clock: Clock) -> None:
    """Who waited for room all his time is told so, and never sent."""

    async def main() -> None:
        line = Line()
        connection = line.connection
        connection.ask(b"1" * (MAX_BYTES + 1), 1)
        waiting = connection.ask(b"2" * MAX_BYTES, 1)
        clock.now += 99
        connection._deadlines.check()
        assert not waiting.done()
        clock.now += 1
        connection._deadlines.check()
        assert error_of(waiting) is DeadlineExceeded
        line.say(b"HD\r\n")
        await turns()
        assert b"2" not in line.sent

    run_on_asyncio(main())


def test_a_transport_that_is_stuck_retires_the_connection(clock: Clock) -> None:
    """All is answered, but the server reads no more: who waits in the queue runs out of time, and so does the rest."""

    async def main() -> None:
        line = Line()
        connection = line.connection
        refused = connection.ask(b"1" * (MAX_BYTES + 1), 1)
        await turns()
        connection.pause_writing()
        line.say(b"SERVER_ERROR object too large for cache\r\n")
        assert refused.done()
        waiting = connection.ask(b"mn\r\n", 1)
        clock.now += 100
        connection._deadlines.check()
        assert error_of(waiting) is DeadlineExceeded
        assert line.events[0] == ("overdue", 1)
        assert connection.closed

    run_on_asyncio(main())


@on_both_loops
def test_the_deadline_counts_from_when_the_asker_came(run: Run[None]) -> None:
    """Time that went by before a connection was open is not given twice, even if nobody else is under way."""

    async def main() -> None:
        line = Line(deadline_s=30.0)
        loop = asyncio.get_running_loop()
        answer = line.connection.ask(b"x\r\n", 1, loop.time() - 29.9)
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(answer, 20)
        later = line.connection.ask(b"x\r\n", 1)
        late = line.connection.ask(b"x\r\n", 1, loop.time() - 29.9)
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(late, 20)
        assert not later.done()
        line.connection.close()
        assert error_of(later) is Unreachable

    run(main())


@on_both_loops
def test_the_timer_runs_by_itself_and_ends(run: Run[None]) -> None:
    """It is set by the first to ask, tells everybody in his time, and leaves nothing behind."""

    async def main() -> None:
        line = Line(deadline_s=0.02)
        answers = [line.connection.ask(b"x\r\n", 1) for _ in range(3)]
        for answer in answers:
            with pytest.raises(DeadlineExceeded):
                await answer
        closing = asyncio.Event()
        line.lost = lambda connection, asked: closing.set()  # type: ignore[method-assign]
        if not line.connection.closed:
            await asyncio.wait_for(closing.wait(), 20)
        assert line.connection.closed

    run(main())


def test_an_idle_connection_has_no_timer(clock: Clock) -> None:
    """Once all is answered nothing is looked for any more."""

    async def main() -> None:
        line = Line()
        line.connection.ask(b"x\r\n", 1)
        assert line.connection._deadlines.timer is not None
        line.say(b"HD\r\n")
        clock.now += 100
        line.connection._deadlines.timer.cancel()
        line.connection._deadlines.check()
        assert line.connection._deadlines.timer is None
        assert line.events == []

    run_on_asyncio(main())


# -- back-pressure ----------------------------------------------------------------------------------------------------


def test_at_most_so_many_requests_are_under_way() -> None:
    """The others leave in their order, as replies come."""

    async def main() -> None:
        line = Line()
        asked = [line.connection.ask(b"%d\r\n" % n, 1) for n in range(MAX_REQUESTS + 10)]
        await turns()
        assert line.sent.count(b"\r\n") == MAX_REQUESTS
        line.say(b"HD\r\n" * 4)
        await turns()
        assert line.sent.count(b"\r\n") == MAX_REQUESTS + 4
        asked.append(line.connection.ask(b"last\r\n", 1))
        line.say(b"HD\r\n" * MAX_REQUESTS)
        await turns()
        line.say(b"HD\r\n" * 7)
        await turns()
        assert all(answer.result() == b"HD\r\n" for answer in asked)
        assert line.sent == b"".join(b"%d\r\n" % n for n in range(MAX_REQUESTS + 10)) + b"last\r\n"
        assert not line.connection.closed

    run_on_asyncio(main())


def test_at_most_so_many_bytes_are_under_way() -> None:
    """Large requests wait for room, those behind them too, and what is larger than all of it goes alone."""

    async def main() -> None:
        line = Line()
        third = MAX_BYTES // 3
        sizes = [third, third, third, third, MAX_BYTES * 2, third, 10]
        asked = [line.connection.ask(b"%d" % n * size, 1) for n, size in enumerate(sizes)]

        async def sent() -> list[int]:
            await turns()
            return [line.sent.count(b"%d" % n) for n in range(len(sizes))]

        assert await sent() == [third, third, third, 0, 0, 0, 0]
        line.say(b"HD\r\n")
        assert await sent() == [third, third, third, third, 0, 0, 0]
        line.say(b"HD\r\n" * 2)
        assert (await sent())[4:] == [0, 0, 0]
        line.say(b"HD\r\n")
        assert (await sent())[4:] == [MAX_BYTES * 2, 0, 0]
        line.say(b"HD\r\n")
        assert (await sent())[4:] == [MAX_BYTES * 2, third, 10]
        line.say(b"HD\r\n" * 2)
        assert all(answer.done() for answer in asked)
        assert line.connection._bytes == 0

    run_on_asyncio(main())


def test_nothing_is_given_to_a_transport_that_has_enough() -> None:
    """While it is paused all wait; afterwards they leave in one write, in their order."""

    async def main() -> None:
        line = Line()
        line.connection.ask(b"0\r\n", 1)
        await turns()
        line.connection.pause_writing()
        asked = [line.connection.ask(b"%d\r\n" % n, 1) for n in range(1, 5)]
        await turns()
        assert line.sent == b"0\r\n"
        asked[1].cancel()
        line.connection.resume_writing()
        await turns()
        assert line.pipe.writes == [b"0\r\n", b"1\r\n3\r\n4\r\n"]
        line.say(b"HD\r\n" * 4)
        assert [answer.result() for answer in asked if not answer.cancelled()] == [b"HD\r\n"] * 3

    run_on_asyncio(main())
