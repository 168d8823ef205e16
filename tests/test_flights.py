"""Fills under way in this process, boarded and waited for by threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from cachekit.flights import Flight, Flights

KEY, OTHER = b"app:report:AAAA", b"app:report:BBBB"
LONG_S = 30.0
"""Longer than any test: a wait that is not woken fails by its result, not by its time."""


class Crew:
    """Threads whose results and errors are kept."""

    def __init__(self, size: int, work: Callable[[int], Any]) -> None:
        self.results: list[Any] = [None] * size
        self.errors: list[BaseException] = []
        self._work = work
        self._threads = [threading.Thread(target=self._run, args=(at,), daemon=True) for at in range(size)]
        for thread in self._threads:
            thread.start()

    def _run(self, at: int) -> None:
        try:
            self.results[at] = self._work(at)
        except BaseException as error:
            self.errors.append(error)

    def join(self) -> list[Any]:
        """All results, once every thread has ended."""
        for thread in self._threads:
            thread.join(LONG_S)
        assert not any(thread.is_alive() for thread in self._threads)
        assert self.errors == []
        return self.results


def test_the_first_on_board_is_the_pilot() -> None:
    """One runs the function, the others find his flight."""
    flights = Flights()
    flight, pilot = flights.board(KEY, 7)
    assert pilot
    assert flights.board(KEY, 7) == (flight, False)
    assert flights.find(KEY, 7) is flight
    assert len(flights) == 1


def test_a_flight_is_known_by_key_and_cas() -> None:
    """Who arrives after an invalidation holds another CAS number, and must not join a run that began before it."""
    flights = Flights()
    boarded = [flights.board(key, cas) for key in (KEY, OTHER) for cas in (7, 8, None)]
    assert all(pilot for _, pilot in boarded)
    assert len({id(flight) for flight, _ in boarded}) == len(flights) == 6
    assert flights.find(KEY, 9) is None
    assert flights.find(b"app:report:CCCC", 7) is None


def test_waiters_are_counted_and_the_pilot_is_none() -> None:
    """A run without waiters need not be packed for them."""
    flights = Flights()
    flight, _ = flights.board(KEY, 7)
    assert flight.waiters == 0
    flights.board(KEY, 7)
    flights.find(KEY, 7)
    assert flight.waiters == 2
    assert flights.find(KEY, 8) is None
    assert flight.waiters == 2


def test_landing_wakes_every_waiter_with_the_result() -> None:
    """Twenty threads wait for one run."""
    flights = Flights()
    flight, _ = flights.board(KEY, 7)
    begun = threading.Barrier(21)

    def wait(_: int) -> tuple[bool, Any]:
        joined, pilot = flights.board(KEY, 7)
        begun.wait(LONG_S)
        assert (joined, pilot) == (flight, False)
        return joined.wait(LONG_S), joined.payload

    crew = Crew(20, wait)
    begun.wait(LONG_S)
    flights.land(KEY, 7, (3, b"packed"))
    assert crew.join() == [(True, (3, b"packed"))] * 20
    assert (flight.landed, flight.error, len(flights)) == (True, None, 0)


@pytest.mark.parametrize("error", [LookupError("gone"), None])
def test_a_crash_wakes_every_waiter_with_the_error(error: BaseException | None) -> None:
    """None: the run was interrupted, which is nobody's answer, so they compete again."""
    flights = Flights()
    flight, _ = flights.board(KEY, 7)
    begun = threading.Barrier(6)

    def wait(_: int) -> tuple[bool, bool, BaseException | None]:
        joined = flights.find(KEY, 7)
        begun.wait(LONG_S)
        assert joined is flight
        return joined.wait(LONG_S), joined.landed, joined.error

    crew = Crew(5, wait)
    begun.wait(LONG_S)
    flights.crash(KEY, 7, error)
    assert crew.join() == [(True, False, error)] * 5
    assert len(flights) == 0


def test_a_wait_ends_at_its_time() -> None:
    """False when the flight is still in the air; the waiter may ask again, and is woken by the landing."""
    flights = Flights()
    flights.board(KEY, 7)
    flight, _ = flights.board(KEY, 7)
    assert flight.wait(0.0) is False
    assert flight.wait(0.001) is False
    assert not flight.landed
    flights.land(KEY, 7, (0, b"1"))
    assert flight.wait(0.0) is True


def test_an_ended_flight_can_be_waited_for_any_number_of_times() -> None:
    """Whoever found it before it ended may come late to the wait."""
    flights = Flights()
    flights.board(KEY, 7)
    flight = flights.find(KEY, 7)
    assert flight is not None
    flights.land(KEY, 7, (0, b"1"))
    assert [flight.wait(0.0) for _ in range(5)] == [True] * 5


def test_after_the_landing_comes_a_new_flight() -> None:
    """Results are not kept here: the server does that."""
    flights = Flights()
    first, _ = flights.board(KEY, 7)
    flights.land(KEY, 7, (0, b"1"))
    assert flights.find(KEY, 7) is None
    second, pilot = flights.board(KEY, 7)
    assert pilot
    assert second is not first
    assert not second.landed


def test_what_is_not_in_the_air_can_neither_land_nor_crash() -> None:
    """A child that was forked in the middle of a run has no flights; ending one there is no error."""
    flights = Flights()
    flight, _ = flights.board(KEY, 7)
    flights.land(KEY, 8, (0, b"1"))
    flights.crash(OTHER, 7, LookupError())
    assert flights.find(KEY, 7) is flight
    flights.land(KEY, 7, (0, b"1"))
    flights.land(KEY, 7, (0, b"2"))
    flights.crash(KEY, 7, LookupError())
    assert (flight.payload, flight.error) == ((0, b"1"), None)


def test_of_many_threads_exactly_one_is_the_pilot() -> None:
    """Round after round, thirty-two threads board at once; one pilots, and all get what he brought."""
    flights, rounds, size = Flights(), 50, 32
    gate = threading.Barrier(size)
    pilots: list[int] = []

    def call(at: int) -> list[Any]:
        got: list[Any] = []
        for turn in range(rounds):
            gate.wait(LONG_S)
            flight, pilot = flights.board(KEY, turn)
            gate.wait(LONG_S)
            if pilot:
                pilots.append(turn)
                flights.land(KEY, turn, (turn, b""))
            else:
                assert flight.wait(LONG_S)
            gate.wait(LONG_S)
            got.append(flight.payload)
        return got

    assert Crew(size, call).join() == [[(turn, b"") for turn in range(rounds)]] * size
    assert sorted(pilots) == list(range(rounds))
    assert len(flights) == 0


def test_a_wait_that_ran_out_takes_nobody_elses_turn_away() -> None:
    """One waiter gives up, the other is still woken, and so is the first when he asks again."""
    flight = Flight().join().join()
    assert flight.wait(0.0) is False
    flight.end()
    assert flight.wait(0.0) is True
    assert flight.wait(0.0) is True


def test_a_flight_without_waiters_ends_quietly() -> None:
    """Most have none, and then there is no gate to open."""
    flight = Flight()
    flight.end()
    assert flight.waiters == 0


def test_a_late_pilot_lands_his_own_flight_only() -> None:
    """His was landed for him; the one that is in the air now, under the same lease, began after an invalidation."""
    flights = Flights()
    late, _ = flights.board(KEY, 7, (1,))
    flights.land(KEY, 7, (0, b"relief"), late)
    newer, _ = flights.board(KEY, 7, (2,))
    flights.land(KEY, 7, (0, b"old"), late)
    flights.crash(KEY, 7, LookupError(), late)
    assert (late.payload, late.error, newer.landed, newer.error) == ((0, b"relief"), None, False, None)
    assert flights.find(KEY, 7) is newer


def test_after_an_invalidation_nobody_joins_a_run_without_a_lease_from_before_it() -> None:
    """It is known by its key alone, so only this tells it from a newer one; who waits already is still woken."""
    flights = Flights()
    old, _ = flights.board(KEY, None)
    leased, _ = flights.board(KEY, 7)
    other, _ = flights.board(OTHER, None)
    assert flights.board(KEY, None) == (old, False)
    flights.forget(KEY)
    new, pilot = flights.board(KEY, None)
    assert pilot
    assert (flights.find(KEY, 7), flights.find(OTHER, None)) == (leased, other)
    flights.land(KEY, None, (0, b"old"), old)
    assert old.wait(0.0)
    assert flights.find(KEY, None) is new
    flights.forget()
    assert flights.find(OTHER, None) is None


def test_one_waiter_a_turn_relieves_the_pilot() -> None:
    """Not all at once, and not only one ever: he may be interrupted in his turn."""
    flights = Flights()
    flight, _ = flights.board(KEY, 7)
    assert [flights.relieve(flight, turn) for turn in (1, 1, 2, 1, 2, 3)] == [True, False, True, False, False, True]


# -- runs that wait for runs -------------------------------------------------------------------------------------------


def test_a_wait_that_would_be_for_ever_is_refused() -> None:
    """The flight waits, perhaps by way of others, for a run that the caller is inside of."""
    flights = Flights()
    first, second, third = (flights.board(KEY, cas)[0] for cas in (1, 2, 3))
    assert not flights.depart([first], first)
    assert flights.depart([first], second)
    assert flights.depart([second], third)
    assert not flights.depart([third], first)
    assert not flights.depart([third], second)
    assert third.awaits == (), "a refused wait leaves no trace"


def test_every_run_around_the_caller_waits_with_him() -> None:
    """A function in a function in a function: whoever waits for the outermost waits for all of it."""
    flights = Flights()
    outer, inner, other = (flights.board(KEY, cas)[0] for cas in (1, 2, 3))
    assert flights.depart([outer, inner], other)
    assert not flights.depart([other], outer)
    assert not flights.depart([other], inner)
    flights.arrive([outer, inner], other)
    assert (outer.awaits, inner.awaits) == ((), ())
    assert flights.depart([other], outer)


def test_a_run_may_wait_for_several_at_once() -> None:
    """A coroutine gathers: as long as one of its waits goes on, whoever that run waits for must not wait for it."""
    flights = Flights()
    outer, one, other = (flights.board(KEY, cas)[0] for cas in (1, 2, 3))
    assert flights.depart([outer], one)
    assert flights.depart([outer], other)
    flights.arrive([outer], one)
    assert flights.depart([one], outer)
    assert not flights.depart([other], outer)


def test_a_run_for_nobody_is_told_so() -> None:
    """Who goes on for others only hears when the last of them has gone; not before."""
    flights, told = Flights(), list[str]()
    flight, _ = flights.board(KEY, 7)
    assert flights.depart([], flight)
    assert flights.depart([], flight)
    flight.on_deserted = lambda: told.append("deserted")
    flights.arrive([], flight)
    assert (told, flight.awaited) == ([], 1)
    flights.arrive([], flight)
    assert (told, flight.awaited) == (["deserted"], 0)


def test_a_waiter_that_can_not_block_is_woken_once() -> None:
    """It listens; a flight that has ended is not listened to, and has its outcome already."""
    flights, woken = Flights(), list[str]()
    flight, _ = flights.board(KEY, 7)
    assert flight.listen(lambda: woken.append("woken"))
    flights.land(KEY, 7, (0, b"value"), flight)
    flights.land(KEY, 7, (0, b"again"), flight)
    assert woken == ["woken"]
    assert not flight.listen(lambda: woken.append("late"))
    assert flight.payload == (0, b"value")


def test_outside_of_every_run_one_may_wait_for_any() -> None:
    """Nobody waits for a caller who computes nothing."""
    flights = Flights()
    flight, _ = flights.board(KEY, 7)
    assert flights.depart([], flight)


def test_an_error_is_kept_for_waiters_only() -> None:
    """Kept for nobody it would keep its traceback, whose frames refer to the flight: a cycle for the collector."""
    flights, error = Flights(), LookupError("gone")
    alone, _ = flights.board(KEY, 7)
    flights.crash(KEY, 7, error, alone)
    assert alone.error is None
    shared, _ = flights.board(KEY, 8)
    assert flights.find(KEY, 8) is shared
    flights.crash(KEY, 8, error, shared)
    assert shared.error is error


def test_who_flies_a_flight_that_another_boarded_is_its_pilot() -> None:
    """A refresh in the background: the thread that runs it, and not the one that asked for it, must not wait for it."""
    flights = Flights()
    flight, _ = flights.board(KEY, 7)
    boarded_by = flight.pilot
    assert boarded_by == threading.get_ident()
    crew = Crew(1, lambda _: (flight.fly() is flight, threading.get_ident()))
    assert crew.join() == [(True, flight.pilot)]
    assert flight.pilot != boarded_by
