"""The pipelined connection of asyncio: everybody gets his own reply, whole, or an error.

Most of these tests are the server themselves and have no network between: what comes, in which pieces and when, is
theirs to say, and the clock stands.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.aio import (
    DATA,
    META,
    Line,
    Run,
    classic,
    clock_fixture,
    error_of,
    on_both_loops,
    run_on_asyncio,
    turns,
    value,
)

from cachekit.aio import connection as module
from cachekit.aio.connection import MAX_BYTES
from cachekit.errors import ProtocolError, Unreachable
from cachekit.meta import MAX_LINE_BYTES, MAX_VALUE_BYTES

__all__ = ["clock_fixture"]


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

_CLASSIC = st.lists(DATA, max_size=3).flatmap(
    lambda values: st.sampled_from([classic(*values), classic(*values, cas=b" 77")])
)
_ANSWERS = st.lists(st.lists(META | _CLASSIC, min_size=1, max_size=4), min_size=1, max_size=8)


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
        assert not connection._unclaimed.entrusted
        assert not connection._unclaimed.kept

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
