"""The reads of one loop turn, and the records that they stand under: each is asked for once, behind all of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.aio import DATA, META, Clock, Line, clock_fixture, run_on_asyncio, turns, value

from cachekit.aio.connection import MAX_BYTES, ROOM
from cachekit.aio.turns import Turn
from cachekit.errors import DeadlineExceeded, Unreachable
from cachekit.ops import BATCH_KEYS

__all__ = ["clock_fixture"]

GEN = b"app:f:gen"
TAGS = [b"app:t:%d" % n for n in range(4)]


def read(connection: Any, request: bytes, tags: tuple[bytes, ...] = (), *generations: bytes) -> Any:
    """One read in the connection's open turn, or in a new one under the token 7."""
    connection.make_room(1 + len(tags) + len(generations))
    turn = connection.turn or connection.open_turn(7, 0)
    turn.tags.update(dict.fromkeys(tags))
    turn.generations.update(dict.fromkeys(generations))
    return connection.read(request, turn)


def plain(number: int, opaque: int = 7) -> bytes:
    """What a server tells of a record that stands."""
    return b"HD c%d O%d Z\r\n" % (number, opaque)


# -- on the wire ------------------------------------------------------------------------------------------------------


def test_records_are_asked_for_once_behind_all_reads() -> None:
    """In one write: first every read, then tags and generations, each with its own kind of question."""

    async def main() -> None:
        line = Line()
        read(line.connection, b"mg a\r\n", (TAGS[0], TAGS[1]), GEN)
        read(line.connection, b"mg b\r\n", (TAGS[1],), GEN)
        read(line.connection, b"mg c\r\n", (), b"app:other")
        await turns()
        expected = b"mg a\r\nmg b\r\nmg c\r\n"
        expected += b"mg app:t:0 c N2592000 O7\r\nmg app:t:1 c N2592000 O7\r\n"
        expected += b"mg app:f:gen c N0 O7\r\nmg app:other c N0 O7\r\n"
        assert line.pipe.writes == [expected]
        assert line.connection.turn is None

    asyncio.run(main())


def test_questions_bear_a_number_where_the_server_takes_one() -> None:
    """A record that a question makes gets it."""
    turn = Turn(7, 99)
    turn.tags[TAGS[0]] = turn.generations[GEN] = None
    assert turn.request() == b"mg app:t:0 c N2592000 E99 O7\r\nmg app:f:gen c N0 E99 O7\r\n"
    assert Turn(7).request() == b""


_REPLY = st.builds(value, DATA) | st.sampled_from([b"EN\r\n", b"HD c5 O7 W\r\n"])
_READS = st.lists(st.tuples(_REPLY, st.lists(st.sampled_from(TAGS), max_size=3, unique=True)), min_size=1, max_size=4)
_TAIL = st.sampled_from([b" Z\r\n", b" W\r\n", b"\r\n"])


@given(
    st.lists(st.tuples(_READS, st.lists(META, max_size=2), _TAIL), min_size=1, max_size=4),
    st.lists(st.integers(1, 60), max_size=40),
    st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3))),
)
def test_each_read_has_its_own_reply_and_the_numbers_of_its_records(
    rounds: list[tuple[list[tuple[bytes, list[bytes]]], list[bytes], bytes]],
    cuts: list[int],
    cancelled: set[tuple[int, int]],
) -> None:
    """However the stream is cut; what a cancelled one would have had goes to whom he left in charge."""

    async def main() -> None:
        line = Line()
        connection = line.connection
        asked: list[tuple[asyncio.Future[Any], Any]] = []
        late: list[tuple[list[Any], Any]] = []
        stream = b""
        for number, (replies, others, tail) in enumerate(rounds):
            turn = connection.open_turn(number, 0)
            reads = [read(connection, b"mg k\r\n", tuple(tags), GEN) for _, tags in replies]
            beside = connection.ask(b"mn\r\n", len(others)) if others else None
            await turns(2)
            records = [*turn.tags, GEN]
            told = [b"HD c%d O%d" % (100 * number + at, number) + tail for at in range(len(records))]
            stream += b"".join([*others, *[reply for reply, _ in replies], *told])
            for at, (each, (reply, _)) in enumerate(zip(reads, replies, strict=True)):
                if (number, at) in cancelled:
                    each.cancel()
                    late.append(([], (reply, turn)))
                    connection.entrust(each, late[-1][0].append)
                else:
                    asked.append((each, (reply, turn)))
            if beside is not None:
                asked.append((beside, b"".join(others)))
        for cut in [*cuts, len(stream)]:
            line.say(stream[:cut])
            stream = stream[cut:]
        assert [future.result() for future, _ in asked] == [expected for _, expected in asked]
        assert [heard for heard, _ in late] == [[expected] for _, expected in late]
        for _, expected in asked:
            if isinstance(expected, tuple):
                turn = expected[1]
                first = 100 * turn.opaque
                assert list(turn.numbers.items()) == [(each, first + at) for at, each in enumerate((*turn.tags, GEN))]
        assert not connection.closed
        assert not connection._unclaimed.entrusted

    asyncio.run(main())


# -- answers of every kind --------------------------------------------------------------------------------------------


def told(*answers: bytes) -> Turn:
    """A turn with one read and a record for each of the ``answers``, which have come."""

    async def main() -> Turn:
        turn = Turn(7)
        turn.tags.update(dict.fromkeys([b"r%d" % n for n in range(len(answers))]))
        turn.reads.append(asyncio.get_running_loop().create_future())
        data = b"EN\r\n" + b"".join(answers)
        assert turn.take(data + b"EN\r\n", 0) == (len(data), 0)
        assert turn.done()
        return turn

    return asyncio.run(main())


ODD = {
    b"SERVER_ERROR out of memory\r\n": b"SERVER_ERROR out of memory\r\n",
    b"EN\r\n": b"EN\r\n",
    plain(5, 8): plain(5, 8),
    b"HD c5 Z\r\n": b"HD c5 Z\r\n",
    b"HD c-5 O7 Z\r\n": b"HD c-5 O21 Z\r\n",
    b"HD c5 O7 X Z\r\n": b"HD c5 O21 X Z\r\n",
    b"HD c5 O7 W X\r\n": b"HD c5 O21 W X\r\n",
    b"HD c%d O7 Z\r\n" % 10**20: b"HD c%d O21 Z\r\n" % 10**20,
    b"HD c O7 Z\r\n": b"HD c O21 Z\r\n",
    b"HD k5 O7 Z\r\n": b"HD k5 O21 Z\r\n",
    b"HD c 5 O7 Z\r\n": b"HD c 5 O21 Z\r\n",
    b"HD c5_0 O7 Z\r\n": b"HD c5_0 O21 Z\r\n",
    b"VA 2 c5 O7\r\nab\r\n": b"VA 2 c5 O7\r\nab\r\n",
}
"""Answers that tell no number, and what who asks under token 21 is to judge."""


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("answer", ODD)
def test_an_answer_that_is_no_plain_one_tells_no_number(answer: bytes, place: int) -> None:
    """And takes nothing from the other records."""
    answers = [plain(10 + n) for n in range(3)]
    answers[place] = answer
    turn = told(*answers)
    expected = [10, 11, 12]
    expected[place] = -1
    assert list(turn.numbers.values()) == expected
    whole = [b"HD c%d O21 Z\r\n" % (10 + n) for n in range(3)]
    whole[place] = ODD[answer]
    assert turn.whole(b"EN\r\n", 21, (b"r2", b"r0", b"r1")) == b"EN\r\n" + whole[2] + whole[0] + whole[1]
    assert turn.whole(b"EN\r\n", 21, ()) == b"EN\r\n"


@pytest.mark.parametrize("tail", [b" Z", b" W", b""])
def test_what_an_answer_tells_of_the_last_bump_is_kept(tail: bytes) -> None:
    """Who made the record, and whether it was bumped softly, is a matter of the flows."""
    turn = told(plain(4), b"HD c9 O7" + tail + b"\r\n", plain(5))
    assert list(turn.numbers.values()) == [4, 9, 5]
    assert turn.whole(b"", 21, (b"r1", b"r2")) == b"HD c9 O21" + tail + b"\r\n" + plain(5, 21)


_FOUND = st.tuples(st.integers(0, 2**64 - 1), st.sampled_from([b" Z", b" W", b"", b" X Z"]))


@given(st.lists(_FOUND, max_size=6))
@example([(1, b" Z"), (2, b" Z")])
def test_the_quick_way_and_the_slow_one_say_the_same(found: list[tuple[int, bytes]]) -> None:
    """All in one piece or byte by byte."""
    answers = [b"HD c%d O7%b\r\n" % each for each in found]
    whole = told(*answers)

    async def piecemeal() -> Turn:
        turn = Turn(7)
        turn.tags.update(dict.fromkeys(whole.tags))
        stream, at = b"".join(answers), 0
        for end in range(len(stream) + 1):
            at, _ = turn.take(stream[:end], at)
        return turn

    slow = asyncio.run(piecemeal())
    assert (
        slow.numbers
        == whole.numbers
        == {b"r%d" % n: -1 if tail == b" X Z" else number for n, (number, tail) in enumerate(found)}
    )
    assert slow.whole(b"", 3, tuple(slow.tags)) == whole.whole(b"", 3, tuple(whole.tags))


# -- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [0, 1, 5, 100, 254])
def test_reads_and_records_of_one_request_are_bounded(own: int) -> None:
    """At most so many commands, the records' questions among them; whatever comes then goes in the next request."""

    async def main() -> None:
        line = Line()
        connection = line.connection
        for n in range(300):
            read(connection, b"mg k%d\r\n" % n, tuple([b"t%d.%d" % (n, at) for at in range(own)]), GEN)
            if connection.turn is not None:
                assert len(connection.turn.reads) + len(connection.turn.tags) + 1 <= BATCH_KEYS - ROOM
        await turns()
        opened = [slot[0] for slot in connection.waiting()]
        assert max(turn.request().count(b"\r\n") for turn in opened) <= BATCH_KEYS
        assert sum(len(turn.reads) for turn in opened) == 300
        assert all(GEN in turn.generations for turn in opened)
        assert min(turn.request().count(b"\r\n") for turn in opened[:-1]) > (BATCH_KEYS - ROOM if own < 5 else 0)

    asyncio.run(main())


def test_the_questions_stay_behind_reads_that_wait_for_room() -> None:
    """In the queue as well: a generation told before the value would prove nothing."""

    async def main() -> None:
        line = Line()
        connection = line.connection
        large = connection.ask(b"x" * (MAX_BYTES + 1), 1)
        connection.ask(b"y" * MAX_BYTES, 1)
        one = read(connection, b"read\r\n", (TAGS[0],), GEN)
        await turns()
        assert b"mg" not in line.sent
        line.say(b"HD\r\n")
        await turns()
        assert large.done()
        line.say(b"HD\r\n")
        await turns()
        assert line.sent.endswith(b"y" + b"read\r\nmg app:t:0 c N2592000 O7\r\nmg app:f:gen c N0 O7\r\n")
        line.say(b"EN\r\n" + plain(8) + plain(9))
        reply, turn = one.result()
        assert (reply, turn.numbers) == (b"EN\r\n", {TAGS[0]: 8, GEN: 9})

    run_on_asyncio(main())


@pytest.mark.parametrize("heard", [0, 1, 2, 3])
@pytest.mark.parametrize("end", ["deadline", "lost"])
def test_reads_whose_records_are_not_told(clock: Clock, heard: int, end: str) -> None:
    """Nobody gets an answer, also those whose own reply has come; late answers go to whom they left in charge."""

    async def main() -> None:
        line = Line()
        connection = line.connection
        reads = [read(connection, b"mg k\r\n", (TAGS[0],), GEN) for _ in range(2)]
        turn = connection.turn
        if heard == 0 and end == "lost":
            connection.connection_lost(None)  # before the questions were asked
            assert all(each.done() for each in reads)
        await turns()
        stream = [b"HD 1\r\n", b"HD 2\r\n", plain(5), plain(6)]
        line.say(b"".join(stream[:heard]))
        late: list[Any] = []
        clock.now += 100
        connection._deadlines.check() if end == "deadline" else connection.connection_lost(None)
        expected = DeadlineExceeded if end == "deadline" else Unreachable
        assert [type(each.exception()) for each in reads] == [expected] * 2
        for each in reads:
            connection.entrust(each, late.append)
        line.say(b"".join(stream[heard:]))
        assert late == ([(b"HD 1\r\n", turn), (b"HD 2\r\n", turn)] if end == "deadline" else [None, None])
        assert connection.closed

    run_on_asyncio(main())
