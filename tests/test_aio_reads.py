"""The plain reads of one loop turn: they go out together, as one command."""

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
)

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
        line.connection._deadlines.check()
        assert type(first.exception()) is DeadlineExceeded
        assert not second.done()
        third = line.connection.get(b"k")
        line.connection.close()
        await turns()
        assert type(second.exception()) is type(third.exception()) is Unreachable

    run_on_asyncio(main())
