"""The pipelined connection of asyncio: everybody gets his own reply, whole and in time, or an error.

Most of these tests are the server themselves and have no network between: what comes, in which pieces and when, is
theirs to say, and the clock stands.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.aio import Clock, Line, Run, clock_fixture, on_both_loops, run_on_asyncio, turns

from cachekit.aio import connection as module
from cachekit.aio.connection import MAX_BYTES, MAX_REQUESTS
from cachekit.errors import DeadlineExceeded, ProtocolError, Refused, Unreachable
from cachekit.meta import MAX_LINE_BYTES, MAX_VALUE_BYTES
from cachekit.ops import BATCH_KEYS

__all__ = ["clock_fixture"]

TRAPS = [b"", b"x", b"\r\n", b"\r\nEND\r\n", b"VA 5 f0\r\nhello\r\n", b"VALUE k 0 3\r\nabc\r\nEND\r\n", b"HD\r\n" * 3]
"""Values that look like replies."""


def value(data: bytes, tail: bytes = b" f0 c1 O7") -> bytes:
    """A meta reply with ``data``."""
    return b"VA %d%b\r\n%b\r\n" % (len(data), tail, data)


def classic(*values: bytes, cas: bytes = b"") -> bytes:
    """The answer to a classic read of so many keys."""
    lines = [b"VALUE k%d 0 %d%b\r\n%b\r\n" % (at, len(data), cas, data) for at, data in enumerate(values)]
    return b"".join(lines) + b"END\r\n"


def error_of(answer: asyncio.Future[bytes]) -> type[BaseException] | None:
    """The type of the error in a future that must be done."""
    assert answer.done()
    error = answer.exception()
    return None if error is None else type(error)


# -- writing ----------------------------------------------------------------------------------------------------------


@on_both_loops
def test_one_write_for_all_that_is_asked_in_one_turn(run: Run[None]) -> None:
    """However many tasks ask in one turn of the loop, small requests and large ones, in order."""

    async def main() -> None:
        line = Line()
        requests = [b"mg k%d v\r\n" % n if n % 5 else b"ms k%d 2000\r\n%b\r\n" % (n, b"x" * 2000) for n in range(50)]

        async def ask(request: bytes) -> bytes:
            return await line.connection.ask(request, 1)

        tasks = [asyncio.create_task(ask(request)) for request in requests]
        await turns()
        assert line.pipe.writes == [b"".join(requests)]
        line.say(b"".join(b"HD O%d\r\n" % n for n in range(50)))
        assert await asyncio.gather(*tasks) == [b"HD O%d\r\n" % n for n in range(50)]

    run(main())


# -- replies ----------------------------------------------------------------------------------------------------------

_DATA = st.sampled_from(TRAPS) | st.binary(max_size=40)
_META = st.one_of(
    st.sampled_from(
        [b"HD\r\n", b"HD c5 O7 W\r\n", b"EN\r\n", b"NF O3\r\n", b"MN\r\n", b"VERSION 1.6.18\r\n", b"5\r\n"]
    ),
    st.sampled_from([b"ME k exp=-1 la=0 cas=3 fetch=no cls=1 size=63\r\n", b"SERVER_ERROR out of memory\r\n"]),
    st.builds(value, _DATA),
    st.builds(value, _DATA, st.just(b"")),
)
_CLASSIC = st.lists(_DATA, max_size=3).flatmap(
    lambda values: st.sampled_from([classic(*values), classic(*values, cas=b" 77")])
)
_ANSWERS = st.lists(st.lists(_META | _CLASSIC, min_size=1, max_size=4), min_size=1, max_size=8)


@given(_ANSWERS, st.lists(st.integers(1, 60), max_size=60), st.sets(st.integers(0, 7)))
def test_replies_cut_anywhere_reach_who_asked(answers: list[list[bytes]], cuts: list[int], cancelled: set[int]) -> None:
    """However the stream is cut, everybody gets the bytes of his own replies, also those behind cancelled ones."""

    async def main() -> None:
        line = Line()
        asked = [line.connection.ask(b"x\r\n", len(answer)) for answer in answers]
        for at in cancelled & set(range(len(asked))):
            asked[at].cancel()
        stream = b"".join(b"".join(answer) for answer in answers)
        for cut in [*cuts, len(stream)]:
            line.say(stream[:cut])
            stream = stream[cut:]
        for at, (answer, future) in enumerate(zip(answers, asked, strict=True)):
            assert future.cancelled() if at in cancelled else future.result() == b"".join(answer)
        assert not line.connection.closed
        last = line.connection.ask(b"mn\r\n", 1)
        line.say(b"MN\r\n")
        assert last.result() == b"MN\r\n"

    asyncio.run(main())


@pytest.mark.parametrize("piece", [1, 7, 1000, 65_536, 1 << 30])
def test_a_large_value_makes_the_buffer_grow_and_small_ones_make_it_shrink(piece: int) -> None:
    """The room for a large value is not kept for ever, nor made over and over."""

    async def main() -> None:
        line = Line()
        connection = line.connection
        size = 3 << 20 if piece > 1000 else 100_000
        large = value(bytes(range(256)) * (size // 256))
        asked = [connection.ask(b"x\r\n", 1) for _ in range(3)]
        line.say(b"HD\r\n" + large + b"EN\r\n", piece)
        assert [answer.result() for answer in asked] == [b"HD\r\n", large, b"EN\r\n"]
        last = connection.ask(b"x\r\n", 1)
        line.say(b"HD\r\n")
        assert last.result() == b"HD\r\n"
        assert len(connection._buffer) <= 1 << 20

    run_on_asyncio(main())


def test_an_answer_of_many_large_values_is_copied_twice_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work grows with the bytes, not with bytes times values: what was looked through is not copied again."""
    copied = 0

    def counted(part: bytes | memoryview) -> bytes:
        nonlocal copied
        copied += len(part)
        return bytes(part)

    async def main() -> None:
        line = Line()
        answer = line.connection.ask(b"x\r\n", 60)
        data = value(b"x" * 100_000) * 60
        monkeypatch.setattr(module, "bytes", counted, raising=False)
        line.say(data, 50_000)
        assert answer.result() == data
        assert len(data) < copied < 3 * len(data)

    run_on_asyncio(main())


def test_many_small_replies_in_one_answer_grow_the_buffer() -> None:
    """An answer of 20 000 lines, longer than the buffer; none of them says how long the whole is."""

    async def main() -> None:
        line = Line()
        answer = line.connection.ask(b"x\r\n", 20_000)
        other = line.connection.ask(b"x\r\n", 1)
        lines = b"HD O12345\r\n" * 20_000
        line.say(lines + b"EN\r\n")
        assert answer.result() == lines
        assert other.result() == b"EN\r\n"

    run_on_asyncio(main())


@pytest.mark.parametrize(
    "nonsense",
    [
        b"VA\r\n",
        b"VA \r\n",
        b"VA x f0\r\n",
        b"VA -1\r\n",
        b"VA +5\r\n",
        b"VA %d\r\n" % (MAX_VALUE_BYTES + 1),
        b"VA 99999999999999999999\r\n",
        b"VALUE k 0\r\n",
        b"VALUE k 0 x\r\n",
        b"VALUE k 0 -5 7\r\n",
        b"VALUE k 0 99999999999999999999\r\n",
        b"x" * (MAX_LINE_BYTES + 1),
        b"VA 5 " + b"x" * MAX_LINE_BYTES,
        b"HD\r\n" * 4 + b"x",
    ],
    ids=lambda data: repr(data[:30]),
)
def test_what_makes_no_sense_closes_the_connection_for_everybody(nonsense: bytes) -> None:
    """Sizes that can't be, lines without end, bytes that nobody asked for: behind them nothing can be told apart."""

    async def main() -> None:
        line = Line()
        asked = [line.connection.ask(b"x\r\n", 1) for _ in range(4)]
        given_out = nonsense.count(b"HD\r\n")
        line.say(nonsense)
        if not line.connection.closed:  # "VA" without a blank is a line like any other; its reader sees to it
            assert nonsense == b"VA\r\n"
            return
        assert [error_of(answer) for answer in asked[given_out:]] == [ProtocolError] * (4 - given_out)
        assert line.pipe.aborted
        assert ("lost", None) in line.events
        assert ("broken", ProtocolError) in line.events
        errors = [answer.exception() for answer in asked[given_out:]]
        assert len({id(error) for error in errors}) == len(errors)  # each who raises one adds his frames to it
        late = line.connection.ask(b"x\r\n", 1)
        assert error_of(late) is Unreachable

    run_on_asyncio(main())


def test_unasked_bytes_on_an_idle_connection_close_it() -> None:
    """The next to ask must not take them for his reply."""

    async def main() -> None:
        line = Line()
        line.say(b"END\r\n")
        assert line.connection.closed

    run_on_asyncio(main())


def test_unasked_bytes_are_not_given_to_who_stands_in_the_queue() -> None:
    """What came behind the last reply was there before the next request was sent."""

    async def main() -> None:
        line = Line()
        large = line.connection.ask(b"x" * (MAX_BYTES + 1), 1)
        waiting = line.connection.ask(b"y" * MAX_BYTES, 1)
        await turns()
        line.say(b"HD\r\nEND\r\n")
        assert error_of(waiting) is ProtocolError
        assert large.result() == b"HD\r\n"
        assert line.connection.closed

    run_on_asyncio(main())


# -- plain reads ------------------------------------------------------------------------------------------------------

_FOUND = st.dictionaries(st.sampled_from([b"k%d" % n for n in range(6)]), st.none() | _DATA, min_size=1)
_ITEMS = st.lists(st.lists(_META, min_size=1, max_size=3) | _FOUND, min_size=1, max_size=6)


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

_READS = st.lists(st.builds(value, _DATA) | st.sampled_from([b"EN\r\n", b"HD c5 O7 W\r\n"]), min_size=1, max_size=4)


@given(
    st.lists(st.tuples(_READS, st.lists(_META, max_size=2)), min_size=1, max_size=4),
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


# -- cancelling -------------------------------------------------------------------------------------------------------


@on_both_loops
def test_a_cancelled_askers_reply_goes_to_nobody_else(run: Run[None]) -> None:
    """His slot is kept, before the write and after it, and his reply dropped."""

    async def main() -> None:
        line = Line()
        tasks = [asyncio.ensure_future(line.connection.ask(b"mg k%d\r\n" % n, 1)) for n in range(9)]
        tasks[1].cancel()
        await turns()
        tasks[4].cancel()
        line.say(b"".join(b"HD O%d\r\n" % n for n in range(5)))
        tasks[7].cancel()
        line.say(b"".join(b"HD O%d\r\n" % n for n in range(5, 9)))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for n, outcome in enumerate(outcomes):
            if n in (1, 4, 7):
                assert isinstance(outcome, asyncio.CancelledError)
            else:
                assert outcome == b"HD O%d\r\n" % n
        assert line.sent.count(b"mg") == 9
        assert not line.connection.closed

    run(main())


@pytest.mark.parametrize("moment", ["before", "with", "lost", "lost before"])
@on_both_loops
def test_the_answer_of_who_was_cancelled_can_be_entrusted(run: Run[None], moment: str) -> None:
    """There may be a lease in it: it is handed on when it comes, and when it came in the turn of the cancelling; None
    tells that it won't come.
    """

    async def main() -> None:
        line = Line()
        connection = line.connection
        heard: list[bytes | None] = []

        async def ask() -> None:
            answer = connection.ask(b"mg k\r\n", 1)
            try:
                await answer
            except asyncio.CancelledError:
                connection.entrust(answer, heard.append)
                raise

        task = asyncio.create_task(ask())
        await turns()
        other = asyncio.ensure_future(connection.ask(b"mg l\r\n", 1))
        await turns()
        task.cancel()
        if moment in ("with", "lost before"):
            line.say(b"HD W\r\n") if moment == "with" else connection.connection_lost(None)
        await turns()
        assert task.cancelled()
        if moment == "before":
            assert heard == []
            line.say(b"HD W\r\n")
        elif moment == "lost":
            connection.connection_lost(None)
        assert heard == [b"HD W\r\n" if moment in ("with", "before") else None]
        if not connection.closed:
            line.say(b"EN\r\n")
            assert await other == b"EN\r\n"
        else:
            assert error_of(other) is Unreachable
        await turns()
        assert not connection._entrusted
        assert not connection._unclaimed

    run(main())


def test_who_is_cancelled_in_the_queue_is_never_sent() -> None:
    """Nothing of his request goes out, and what he left does not stand in the way of others."""

    async def main() -> None:
        line = Line()
        connection = line.connection
        first = connection.ask(b"1" * (MAX_BYTES // 2), 1)
        second = connection.ask(b"2" * MAX_BYTES, 1)
        third = connection.ask(b"3" * (MAX_BYTES // 4), 1)
        await turns()
        second.cancel()
        fourth = connection.ask(b"4" * 10, 1)
        await turns()
        assert line.sent == b"1" * (MAX_BYTES // 2) + b"3" * (MAX_BYTES // 4) + b"4" * 10
        line.say(b"HD 1\r\nHD 3\r\nHD 4\r\n")
        assert [answer.result() for answer in (first, third, fourth)] == [b"HD 1\r\n", b"HD 3\r\n", b"HD 4\r\n"]

    run_on_asyncio(main())


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
        connection._check()
        assert not first.done()
        clock.now += 1
        connection._check()
        assert error_of(first) is DeadlineExceeded
        assert not second.done()
        assert line.events == [("overdue", 1)]
        assert not connection.closed
        clock.now += 10
        connection._check()
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
        connection._check()
        clock.now += 99
        connection._check()
        assert not connection.closed
        clock.now += 1
        connection._check()
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
        connection._check()
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
            connection._check()
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
        line.connection._check()
        assert line.events == [("overdue", 1)]

    run_on_asyncio(main())


def test_who_has_waited_for_the_connection_gives_up_alone(clock: Clock) -> None:
    """His time is up early: that says nothing of the server, and the connection serves on."""

    async def main() -> None:
        line = Line()
        early = line.connection.ask(b"x\r\n", 1, clock.now - 100)
        other = line.connection.ask(b"x\r\n", 1)
        line.connection._give_up(early)  # as its timer does
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
        connection._check()
        assert not waiting.done()
        clock.now += 1
        connection._check()
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
        connection._check()
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
        assert line.connection._timer is not None
        line.say(b"HD\r\n")
        clock.now += 100
        line.connection._timer.cancel()
        line.connection._check()
        assert line.connection._timer is None
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


# -- the end ----------------------------------------------------------------------------------------------------------


def test_the_end_reaches_everybody_once() -> None:
    """Those under way and those in the queue; what comes afterwards changes nothing."""

    async def main() -> None:
        line = Line()
        connection = line.connection
        asked = [connection.ask(b"x" * MAX_BYTES, 1), connection.ask(b"y" * MAX_BYTES, 1), connection.ask(b"z", 1)]
        connection.eof_received()
        connection.connection_lost(None)
        connection.connection_lost(OSError("again"))
        connection.close()
        connection.resume_writing()
        assert [error_of(answer) for answer in asked] == [Unreachable] * 3
        assert [event for event, _ in line.events] == ["lost"]
        await turns()
        assert line.sent == b""
        late = connection.ask(b"x", 1)
        assert error_of(late) is Unreachable
        heard: list[Any] = []
        connection.entrust(late, heard.append)
        assert heard == [None]

    run_on_asyncio(main())


def test_the_last_word_of_the_server_closes_at_once() -> None:
    """Whatever is still to be written would be written to nobody."""

    async def main() -> None:
        line = Line()
        asked = line.connection.ask(b"x", 1)
        line.connection.eof_received()
        assert error_of(asked) is Unreachable
        assert line.pipe.aborted

    run_on_asyncio(main())


def test_who_was_entrusted_may_close_the_connection() -> None:
    """In the middle of giving out; the others hear of it."""

    async def main() -> None:
        line = Line()
        connection = line.connection
        gone, other = connection.ask(b"x", 1), connection.ask(b"x", 1)
        gone.cancel()
        connection.entrust(gone, lambda _: connection.close())
        line.say(b"HD\r\nHD\r\n")
        assert error_of(other) is Unreachable
        assert line.events == [("lost", None)]  # the rest of the bytes is not held against the server

    run_on_asyncio(main())
