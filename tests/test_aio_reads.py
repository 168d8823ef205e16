"""The reads that go out together: plain ones as one command, those under one generation with one question for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.aio import (
    DATA,
    META,
    Clock,
    Line,
    Run,
    clock_fixture,
    on_both_loops,
    run_on_asyncio,
    turns,
    value,
)

from cachekit.aio.connection import MAX_BYTES
from cachekit.errors import DeadlineExceeded, ProtocolError, Refused, Unreachable
from cachekit.meta import MAX_LINE_BYTES, MAX_VALUE_BYTES
from cachekit.ops import BATCH_KEYS

__all__ = ["clock_fixture"]


# -- plain reads ------------------------------------------------------------------------------------------------------

_FOUND = st.dictionaries(st.sampled_from([b"k%d" % n for n in range(6)]), st.none() | DATA, min_size=1)
_ITEMS = st.lists(st.lists(META, min_size=1, max_size=3) | _FOUND, min_size=1, max_size=6)


@given(_ITEMS, st.lists(st.integers(1, 40), max_size=60), st.sets(st.integers(0, 5)))
def test_plain_reads_stand_in_line_with_others(
    items: list[list[bytes] | dict[bytes, bytes | None]], cuts: list[int], cancelled: set[int]
) -> None:
    """Those of one turn are one request; everybody gets his own value, however the stream is cut."""

    async def main() -> None:
        line = Line()
        asked: list[tuple[asyncio.Future[Any], Any]] = []
        stream = b""
        for at, item in enumerate(items):
            mine: list[tuple[asyncio.Future[Any], Any]] = []
            if isinstance(item, list):
                mine.append((line.connection.ask(b"x\r\n", len(item)), b"".join(item)))
                stream += b"".join(item)
            else:
                for key, data in [*item.items(), *item.items()]:
                    mine.append((line.connection.get(key), None if data is None else (7, data)))
                found = [(key, data) for key, data in reversed(item.items()) if data is not None]
                stream += b"".join(b"VALUE %b 7 %d\r\n%b\r\n" % (key, len(data), data) for key, data in found)
                stream += b"END\r\n"
            await turns(2)
            if at in cancelled:
                mine.pop()[0].cancel()
            asked += mine
        for cut in [*cuts, len(stream)]:
            line.say(stream[:cut])
            stream = stream[cut:]
        assert [future.result() for future, _ in asked] == [expected for _, expected in asked]
        assert not line.connection.closed
        assert line.sent.count(b"\r\n") == len(items)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"VALUE other 0 3\r\nabc\r\nEND\r\n", ProtocolError),
        (b"VALUE k 0 3\r\nabc\r\nVALUE k 0 3\r\nabc\r\nEND\r\n", ProtocolError),
        (b"VALUE k 0 3\r\nabcdeEND\r\n", ProtocolError),
        (b"VALUE k 0 -3\r\nabc\r\nEND\r\n", ProtocolError),
        (b"VALUE k 0 -2\r\nEND\r\n", ProtocolError),
        (b"VALUE k 0 -20\r\nabc\r\nEND\r\n", ProtocolError),
        (b"VALUE k 0 3 77\r\nabc\r\nEND\r\n", ProtocolError),
        (b"VALUE k 0 %d\r\n" % (MAX_VALUE_BYTES + 1), ProtocolError),
        (b"VALUE k 0 3\r\nabc\r\nHD\r\n", ProtocolError),
        (b"VALUE " + b"k" * MAX_LINE_BYTES * 2, ProtocolError),
        (b"k" * (MAX_LINE_BYTES + 1), ProtocolError),
        (b"CLIENT_ERROR bad command line format\r\n", ProtocolError),
        (b"END\r\nEND\r\n", ProtocolError),
        (b"SERVER_ERROR out of memory\r\n", Refused),
        (b"VALUE k 0 3\r\nabc\r\nSERVER_ERROR out of memory\r\n", Refused),
    ],
    ids=lambda part: repr(part[:40]) if isinstance(part, bytes) else "",
)
def test_what_is_no_answer_to_a_plain_read(answer: bytes, error: type[Exception]) -> None:
    """Nothing of it is used, but what SERVER_ERROR leaves whole; but for that the connection is closed."""

    async def main() -> None:
        line = Line()
        one, other = line.connection.get(b"k"), line.connection.get(b"l")
        await turns()
        late = line.connection.ask(b"get x\r\n", 1)
        line.say(answer)
        if answer == b"END\r\nEND\r\n":
            assert (one.result(), other.result(), late.result()) == (None, None, b"END\r\n")
            return
        assert type(other.exception()) is error
        assert line.connection.closed is (error is ProtocolError)
        if error is ProtocolError:
            assert type(one.exception()) is type(late.exception()) is error
            assert ("broken", ProtocolError) in line.events
        else:
            assert one.exception() is not None or one.result() == (0, b"abc")
            line.say(b"END\r\n")
            assert late.result() == b"END\r\n"

    run_on_asyncio(main())


@on_both_loops
def test_plain_reads_of_one_turn_are_bounded(run: Run[None]) -> None:
    """So many keys a command, each once; cancelled readers' keys are not asked for when nobody else reads."""

    async def main() -> None:
        line = Line()
        futures = [line.connection.get(b"k%d" % (n % 300)) for n in range(600)]
        await turns()
        assert line.sent.count(b"get ") == len(line.pipe.writes[0].split(b"\r\n")) - 1 >= 2
        assert max(command.count(b" ") for command in line.sent.split(b"\r\n")) <= BATCH_KEYS
        line.say(b"END\r\n" * line.sent.count(b"get "))
        assert [await future for future in futures] == [None] * 600
        written = len(line.sent)
        line.connection.get(b"gone").cancel()
        await turns()
        assert len(line.sent) == written

    run(main())


def test_plain_reads_have_their_deadline_and_their_end(clock: Clock) -> None:
    """As every other request has."""

    async def main() -> None:
        line = Line()
        first = line.connection.get(b"k")
        await turns()
        clock.now += 60
        second = line.connection.get(b"k")
        await turns()
        clock.now += 40
        line.connection._check()
        assert type(first.exception()) is DeadlineExceeded
        assert not second.done()
        third = line.connection.get(b"k")
        line.connection.close()
        await turns()
        assert type(second.exception()) is type(third.exception()) is Unreachable

    run_on_asyncio(main())


# -- reads under one generation ---------------------------------------------------------------------------------------

_READS = st.lists(st.builds(value, DATA) | st.sampled_from([b"EN\r\n", b"HD c5 O7 W\r\n"]), min_size=1, max_size=4)


@given(
    st.lists(st.tuples(_READS, st.lists(META, max_size=2)), min_size=1, max_size=4),
    st.lists(st.integers(1, 60), max_size=40),
    st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3))),
)
def test_reads_of_one_turn_ask_for_their_generation_once(
    rounds: list[tuple[list[bytes], list[bytes]]], cuts: list[int], cancelled: set[tuple[int, int]]
) -> None:
    """The question goes out behind them; each has his own reply and the group's answer, however the stream is cut; what
    a cancelled one would have had goes to whom he left in charge.
    """

    async def main() -> None:
        line = Line()
        connection = line.connection
        asked: list[tuple[asyncio.Future[Any], Any]] = []
        late: list[tuple[list[Any], bytes, Any]] = []
        stream = b""
        for number, (replies, others) in enumerate(rounds):
            group = connection.open_group(b"gen", number, b"mg gen O%d\r\n" % number)
            assert connection.groups[b"gen"] is group
            reads = [connection.read(b"mg k\r\n", group) for _ in replies]
            beside = connection.ask(b"mn\r\n", len(others)) if others else None
            await turns(2)
            assert b"gen" not in connection.groups
            stream += b"".join(others) + b"".join(replies) + b"HD c%d O%d Z\r\n" % (number + 70, number)
            for at, (read, reply) in enumerate(zip(reads, replies, strict=True)):
                if (number, at) in cancelled:
                    read.cancel()
                    heard: list[Any] = []
                    connection.entrust(read, heard.append)
                    late.append((heard, reply, group))
                else:
                    asked.append((read, (reply, group)))
            if beside is not None:
                asked.append((beside, b"".join(others)))
        assert line.sent.count(b"mg gen") == len(rounds)
        for cut in [*cuts, len(stream)]:
            line.say(stream[:cut])
            stream = stream[cut:]
        assert [future.result() for future, _ in asked] == [expected for _, expected in asked]
        assert [heard for heard, _, _ in late] == [[(reply, group)] for _, reply, group in late]
        groups = [expected[1] for _, expected in asked if isinstance(expected, tuple)]
        assert all(group.number == group.opaque + 70 for group in groups)
        assert not connection.closed
        assert not connection._entrusted

    asyncio.run(main())


@pytest.mark.parametrize("heard", [0, 1, 2])
@pytest.mark.parametrize("end", ["deadline", "lost"])
def test_reads_whose_generation_does_not_come(clock: Clock, heard: int, end: str) -> None:
    """Nobody gets an answer, also those whose own reply has come; late answers go to whom they left in charge."""

    async def main() -> None:
        line = Line()
        connection = line.connection
        group = connection.open_group(b"gen", 1, b"mg gen\r\n")
        reads = [connection.read(b"mg k\r\n", group) for _ in range(2)]
        if heard == 0 and end == "lost":
            connection.connection_lost(None)  # before the question was asked
        await turns()
        line.say(b"HD 1\r\nHD 2\r\n"[: 6 * heard])
        late: list[Any] = []
        clock.now += 100
        connection._check() if end == "deadline" else connection.connection_lost(None)
        expected = DeadlineExceeded if end == "deadline" else Unreachable
        assert [type(read.exception()) for read in reads] == [expected] * 2
        for read in reads:
            connection.entrust(read, late.append)
        line.say(b"HD 1\r\nHD 2\r\nHD c5 O1 Z\r\n"[6 * heard :])
        assert late == ([(b"HD 1\r\n", group), (b"HD 2\r\n", group)] if end == "deadline" else [None, None])
        assert connection.closed

    run_on_asyncio(main())


def test_the_question_stays_behind_reads_that_wait_for_room() -> None:
    """In the queue as well: a generation told before the value would prove nothing."""

    async def main() -> None:
        line = Line()
        connection = line.connection
        large = connection.ask(b"x" * (MAX_BYTES + 1), 1)
        connection.ask(b"y" * MAX_BYTES, 1)
        group = connection.open_group(b"gen", 1, b"question\r\n")
        read = connection.read(b"read\r\n", group)
        await turns()
        assert b"question" not in line.sent
        line.say(b"HD\r\n")
        await turns()
        assert large.done()
        line.say(b"HD\r\n")
        await turns()
        assert line.sent.endswith(b"y" + b"read\r\nquestion\r\n")
        line.say(b"EN\r\nHD c9 O1 W\r\n")
        assert read.result() == (b"EN\r\n", group)
        assert group.number == 9

    run_on_asyncio(main())
