"""Windows over several servers: sent before read, one failure is one server's, and nothing half-read is used again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_fleet import FakeConnection, FakeFleet, at, byte_by_byte
from support.memcached import Memcached

from cachekit.addresses import parse_target
from cachekit.direct import batches
from cachekit.errors import DeadlineExceeded, ProtocolError, ServerError, Unreachable
from cachekit.hooks import Hooks
from cachekit.ops import Exchange, LeaseVoid, Replies
from cachekit.sync.fleet import AnyConnection, Fleet
from cachekit.sync.window import BATCH_BYTES, BATCH_KEYS, gather, open_window

ASKS = [(0, b"mn\r\n"), (1, b"mn\r\n"), (2, b"mn\r\n")]


def read_line(_: int, connection: AnyConnection, until: float) -> bytes:
    """Take an answer of one line."""
    data = connection.receive(until)
    while not data.endswith(b"\r\n"):
        data = connection.receive_more(data, until)
    connection.rearm()
    return data


class Interrupt(BaseException):
    """What breaks in from outside: a signal's exception, a cancellation."""


def test_everything_is_sent_before_anything_is_read() -> None:
    """So a window takes as long as its slowest server, and not the sum."""
    fleet = FakeFleet()
    assert open_window(ASKS, fleet.real, read_line) == [b"MN\r\n"] * 3
    assert [what for what, _ in fleet.log] == ["send"] * 3 + ["receive"] * 3
    assert fleet.settled()
    assert len(fleet.idle()) == 3


def test_outcomes_come_in_the_order_of_the_asks() -> None:
    """Whatever that order is, and also for two asks of one server, which get a connection each."""
    fleet = FakeFleet()
    for fake, number in zip(fleet.fakes, (b"0 ", b"1 ", b"2 "), strict=True):
        fake.answer = number.__add__
    asks = [(2, b"a\r\n"), (0, b"b\r\n"), (2, b"c\r\n"), (1, b"d\r\n")]
    assert open_window(asks, fleet.real, read_line) == [b"2 a\r\n", b"0 b\r\n", b"2 c\r\n", b"1 d\r\n"]
    assert fleet.settled()
    assert [len(row) for row in fleet.rows] == [1, 1, 2]


def test_an_empty_window_is_empty() -> None:
    """No ask, no word to anybody."""
    fleet = FakeFleet()
    assert open_window([], fleet.real, read_line) == []
    assert gather([], fleet.real) == []
    assert fleet.log == []


def test_connections_are_used_again() -> None:
    """A second window opens nothing."""
    fleet = FakeFleet()
    open_window(ASKS, fleet.real, read_line)
    open_window(ASKS, fleet.real, read_line)
    assert [len(fake.connections) for fake in fleet.fakes] == [1, 1, 1]


@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize(
    "error", [DeadlineExceeded("slow"), Unreachable("closed in the middle"), ProtocolError("nonsense")]
)
def test_a_failure_while_reading_touches_no_other_server(victim: int, error: ServerError) -> None:
    """Its own outcome, told to the fleet; its connection is closed and the others go back."""
    fleet = FakeFleet()
    fleet.fakes[victim].cut = lambda answer: [answer[:1], error]
    outcomes = open_window(ASKS, fleet.real, read_line)
    assert [outcome is error for outcome in outcomes] == [index == victim for index in range(3)]
    assert [outcome == b"MN\r\n" for outcome in outcomes] == [index != victim for index in range(3)]
    assert fleet.failures == [(victim, error)]
    assert fleet.rows[victim] == []
    assert fleet.settled()


@pytest.mark.parametrize("idle", [0, 1])
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_server_that_is_down_is_not_asked(victim: int, idle: int) -> None:
    """It fails at once, an idle connection to it or none, and nobody hears of a new failure."""
    fleet = FakeFleet()
    fleet.fakes[victim].down = True
    fleet.rows[victim].extend(FakeConnection(fleet.fakes[victim]) for _ in range(idle))
    outcomes = open_window(ASKS, fleet.real, read_line)
    assert isinstance(outcomes[victim], Unreachable)
    assert fleet.fakes[victim].requests == []
    assert fleet.failures == []
    assert sum(outcome == b"MN\r\n" for outcome in outcomes) == 2
    assert fleet.settled()


def test_an_idle_connection_that_the_server_closed_is_replaced() -> None:
    """Found out before anything is sent; the others that were idle then are closed too."""
    fleet = FakeFleet()
    stale = [FakeConnection(fleet.fakes[1]) for _ in range(3)]
    fleet.rows[1].extend(stale)
    fleet.fakes[1].closed = 1
    assert open_window(ASKS, fleet.real, read_line) == [b"MN\r\n"] * 3
    assert all(connection.is_closed for connection in stale)
    assert len(fleet.fakes[1].requests) == 1
    assert fleet.failures == []
    assert fleet.settled()


def test_a_send_that_finds_the_connection_closed_is_made_once_more() -> None:
    """On a new connection, since nothing can have been answered."""
    fleet = FakeFleet()
    fleet.fakes[1].on_send = [Unreachable("reset")]
    assert open_window(ASKS, fleet.real, read_line) == [b"MN\r\n"] * 3
    assert (len(fleet.fakes[1].requests), fleet.failures) == (2, [])
    assert fleet.settled()


def test_a_send_is_made_twice_at_most() -> None:
    """The second failure is the server's."""
    fleet = FakeFleet()
    again = Unreachable("reset again")
    fleet.fakes[1].on_send = [Unreachable("reset"), again]
    outcomes = open_window(ASKS, fleet.real, read_line)
    assert outcomes == [b"MN\r\n", again, b"MN\r\n"]
    assert (len(fleet.fakes[1].requests), fleet.failures) == (2, [(1, again)])
    assert fleet.settled()


def test_a_send_that_ran_out_of_time_is_not_made_again() -> None:
    """The deadline is over; a second try would double it."""
    fleet = FakeFleet()
    late = DeadlineExceeded("the buffers are full")
    fleet.fakes[1].on_send = [late]
    outcomes = open_window(ASKS, fleet.real, read_line)
    assert outcomes == [b"MN\r\n", late, b"MN\r\n"]
    assert (len(fleet.fakes[1].requests), fleet.failures) == (1, [(1, late)])
    assert fleet.settled()


@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("kind", [Interrupt, KeyboardInterrupt, SystemExit, RuntimeError, MemoryError])
def test_an_interrupt_while_sending_closes_what_was_sent(victim: int, kind: type[BaseException]) -> None:
    """Answers are on their way that nobody will take."""
    fleet = FakeFleet()
    fleet.fakes[victim].on_send = [kind()]
    with pytest.raises(kind):
        open_window(ASKS, fleet.real, read_line)
    assert [len(fake.connections) for fake in fleet.fakes] == [1] * (victim + 1) + [0] * (2 - victim)
    assert fleet.idle() == []
    assert fleet.settled()


@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("kind", [Interrupt, KeyboardInterrupt, SystemExit, RuntimeError, MemoryError])
@pytest.mark.parametrize("pieces", [0, 1])
def test_an_interrupt_while_reading_closes_all_that_was_not_read(
    victim: int, kind: type[BaseException], pieces: int
) -> None:
    """Those before it had their full reply and stay; it and those behind it are dirty."""
    fleet = FakeFleet()
    fleet.fakes[victim].cut = lambda answer: [*[answer[:1]] * pieces, kind()]
    with pytest.raises(kind):
        open_window(ASKS, fleet.real, read_line)
    assert [len(row) for row in fleet.rows] == [1] * victim + [0] * (3 - victim)
    assert all(fake.connections[0].is_closed for fake in fleet.fakes[victim:])
    assert fleet.settled()


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_an_error_in_the_reader_itself_closes_them_too(victim: int) -> None:
    """A callback that raises in the middle leaves its connection dirty."""
    fleet = FakeFleet()

    def read(position: int, connection: AnyConnection, until: float) -> bytes:
        if position == victim:
            raise ZeroDivisionError
        return read_line(position, connection, until)

    with pytest.raises(ZeroDivisionError):
        open_window(ASKS, fleet.real, read)
    assert [len(row) for row in fleet.rows] == [1] * victim + [0] * (3 - victim)
    assert fleet.settled()


def test_a_timer_cut_short_is_set_anew() -> None:
    """A late server must not cost the next exchange of another one a part of its deadline."""
    fleet = FakeFleet()

    def read(_: int, connection: AnyConnection, until: float) -> bytes:
        return connection.receive(until)  # and leaves the timer short

    open_window(ASKS, fleet.real, read)
    assert [connection.timer_is_short for connection in fleet.idle()] == [False] * 3


# -- gather ------------------------------------------------------------------------------------------------------------


def exchanges(**options: Any) -> list[Exchange]:
    """A delete and a read on every server, under a token of its own."""
    return [
        Exchange(index, b"md k O%d\r\nmg k v N30 O%d\r\n" % (token, token), 2, token, **options)
        for index, token in ((0, 7), (1, 8), (2, 9))
    ]


def test_gather_gives_the_replies_of_each() -> None:
    """In order, with the time before the first was sent."""
    fleet = FakeFleet()
    outcomes = gather(exchanges(), fleet.real)
    assert all(isinstance(outcome, Replies) for outcome in outcomes)
    assert [[reply.code for reply in outcome.replies] for outcome in outcomes if isinstance(outcome, Replies)] == [
        ["NF", "VA"]
    ] * 3
    assert fleet.settled()


def test_gather_leaves_out_what_is_of_no_interest() -> None:
    """``skip`` replies at the front."""
    outcomes = gather(exchanges(skip=1), FakeFleet().real)
    assert [[reply.code for reply in outcome.replies] for outcome in outcomes if isinstance(outcome, Replies)] == [
        ["VA"]
    ] * 3


@pytest.mark.parametrize("place", range(1, 40))
def test_gather_takes_answers_in_any_pieces(place: int) -> None:
    """Cut at each byte in turn, and byte by byte."""
    for cut in (at(place), at(place, place + 1), byte_by_byte):
        fleet = FakeFleet()
        for fake in fleet.fakes:
            fake.cut = cut
        outcomes = gather(exchanges(), fleet.real)
        assert [len(outcome.replies) for outcome in outcomes if isinstance(outcome, Replies)] == [2, 2, 2]
        assert fleet.settled()


@pytest.mark.parametrize(
    "answer",
    [
        b"NF O99\r\nNF O99\r\n",
        b"NF O8\r\nNF O99\r\n",
        b"NF\r\nNF\r\n",
        b"NF O8\r\nNF O8\r\nNF O8\r\n",
        b"NF O8\r\nNF O8\r\nN",
        b"\x00\x01\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
def test_an_answer_to_another_question_is_a_protocol_error(answer: bytes) -> None:
    """The token is not ours, or there is more than was asked for; that connection is closed."""
    fleet = FakeFleet()
    fleet.fakes[1].answer = lambda _: answer
    outcomes = gather(exchanges(), fleet.real)
    assert [type(outcome) for outcome in outcomes] == [Replies, ProtocolError, Replies]
    assert [index for index, _ in fleet.failures] == [1]
    assert fleet.fakes[1].connections[0].is_closed
    assert fleet.settled()


# -- batches -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2 * BATCH_BYTES).map(bytes) | st.binary(max_size=5), max_size=20))
def test_batches_keep_every_command_in_order_and_are_bounded(commands: list[bytes]) -> None:
    """Nothing lost, nothing empty; a batch over the limit is one large command alone."""
    cut = batches(commands)
    assert [command for batch in cut for command in batch] == commands
    for batch in cut if commands else []:
        assert 0 < len(batch) <= BATCH_KEYS
        assert sum(map(len, batch)) <= BATCH_BYTES or len(batch) == 1


@pytest.mark.parametrize("count", [1, BATCH_KEYS - 1, BATCH_KEYS, BATCH_KEYS + 1, 3 * BATCH_KEYS, 3 * BATCH_KEYS + 1])
def test_batches_are_as_full_as_they_may_be(count: int) -> None:
    """Small commands: as few batches as the number of keys allows."""
    assert [len(batch) for batch in batches([b"mn\r\n"] * count)] == [
        min(BATCH_KEYS, count - start) for start in range(0, count, BATCH_KEYS)
    ]


def test_a_lease_is_good_on_the_connection_that_it_was_given_on(server: Memcached) -> None:
    """Also on one that the window itself has opened; a connection that is younger than the lease spends it not."""
    fleet = Fleet(parse_target(f"memcached://{server.name}?deadline=5s"), Hooks())
    (read,) = gather([Exchange(0, b"mg held v c N30 O1\r\n", 1, 1)], fleet)
    assert isinstance(read, Replies)
    store = b"ms held 1 C%d O2\r\n1\r\n" % (read.replies[0].cas or 0)
    fleet.drop(0)
    (late,) = gather([Exchange(0, store, 1, 2, False, read.sent_at)], fleet)
    assert isinstance(late, LeaseVoid)
    (read,) = gather([Exchange(0, b"mg other v c N30 O3\r\n", 1, 3)], fleet)
    assert isinstance(read, Replies)
    store = b"ms other 1 C%d O4\r\n1\r\n" % (read.replies[0].cas or 0)
    (stored,) = gather([Exchange(0, store, 1, 4, False, read.sent_at)], fleet)
    assert isinstance(stored, Replies)
    assert stored.replies[0].code == "HD"
    fleet.close()


def test_what_spends_leases_is_sent_once() -> None:
    """It may have gone through; and a new connection may lead to a server whose numbers begin anew."""
    fleet = FakeFleet()
    fleet.fakes[1].on_send = [Unreachable("reset")]
    asks = [Exchange(index, b"ms k 1 C7\r\n1\r\n", 1, 1, False, 5.0) for index in range(3)]
    outcomes = gather(asks, fleet.real)
    assert isinstance(outcomes[1], LeaseVoid)
    assert [len(fake.requests) for fake in fleet.fakes] == [1, 1, 1]
