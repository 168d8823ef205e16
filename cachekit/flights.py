"""Fills under way in this process, so that its threads and tasks wait for one another and not each for the server.

A flight is known by the key *and* the CAS number of the lease it runs under: a caller who arrives after an invalidation
finds a new lease on the server, with another number, and so can never join a run that began before it. Only while
a key's server can't be asked, flights are known by the key alone. Where it answers but gives no lease (it runs with -C,
or has no room left for a stub), each caller has a run of his own: nothing would tell one who arrives after another
process's invalidation from those who were there before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cachekit.codecs.envelope import Mark


class Flight:
    """One run of the function that others may wait for. ``payload`` is the packed result (client flags, bytes), of
    which each waiter unpacks a copy of his own; None where it could not be packed, and then nobody shares it.
    """

    # Defaults stand on the class, and the gate is made by the first who waits: most flights have no waiters, and every
    # miss makes a flight.
    gate: threading.Lock | None = None
    waiters = 0
    landed = False
    payload: tuple[int, bytes] | None = None
    error: BaseException | None = None
    generations: tuple[int, ...] | None = None
    stands: tuple[tuple[int, ...], float, tuple[Mark, ...]] | None = None
    """What its value stands under: the generations, the monotonic seconds before they were asked for, and the marks;
    None where that is not known.
    """
    again = False
    """Whether its waiters are to read again: something that its value stands under may have been bumped since it began,
    and the lease does not tell.
    """
    pilot = 0
    relieved = 0
    rescued = False
    """Whether what landed is the old value, the run itself having failed."""
    ended = False
    awaits: tuple[Flight, ...] = ()
    """The flights that the run itself waits for, where its function has called other cached ones; several, where it
    gathers them.
    """
    awaited = 0
    """How many callers wait for it just now."""
    on_deserted: Callable[[], None] | None = None
    """Told when nobody waits any more. Set where the caller whose run this is has gone, and it goes on for others."""

    def join(self) -> Flight:
        """Count a waiter, and shut the gate for him; under the lock of the ``Flights``."""
        if self.gate is None:
            self.gate = threading.Lock()
            self.gate.acquire()
        self.waiters += 1
        return self

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; False when it has not come within ``timeout_s`` seconds. Only after ``join``."""
        gate = self.gate
        if gate is None or not gate.acquire(timeout=timeout_s):
            return False
        gate.release()
        return True

    def hand_over(self) -> None:
        """Another thread will fly it: whoever boarded it may wait for it."""
        self.pilot = 0

    def fly(self) -> Flight:
        """The current thread is its pilot now, whoever boarded it."""
        self.pilot = threading.get_ident()
        return self

    def listen(self, wake: Callable[[], None]) -> bool:
        """Have ``wake`` called when the flight ends, by whoever ends it; False: it has ended. For a waiter that can't
        block its thread.
        """
        # Without the lock: who ends it marks that first, and then looks who listens.
        self.__dict__.setdefault("listeners", []).append(wake)
        return not self.ended

    def end(self) -> None:
        """Let the waiters go on, one thread after the other. Once."""
        if self.gate is not None:
            self.gate.release()
        for wake in self.__dict__.get("listeners", ()):
            wake()


class Flights:
    """The flights of one cache. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may come here while its thread is in here
        self._flights: dict[tuple[bytes, int | None], Flight] = {}

    def board(self, key: bytes, cas: int | None, generations: tuple[int, ...] | None = None) -> tuple[Flight, bool]:
        """The flight of this key and lease, and whether the caller is its pilot: the one who runs the function.
        ``generations``: those that the run begins under.
        """
        mine = Flight()
        mine.generations, mine.pilot = generations, threading.get_ident()
        if self._flights.setdefault((key, cas), mine) is mine:
            return mine, True
        flight = self.find(key, cas)
        return (flight, False) if flight is not None else self.board(key, cas, generations)

    def find(self, key: bytes, cas: int | None) -> Flight | None:
        """The flight of this key and lease, if it is under way here."""
        with self._lock:
            flight = self._flights.get((key, cas))
            return None if flight is None else flight.join()

    def land(
        self, key: bytes, cas: int | None, payload: tuple[int, bytes] | None, flight: Flight | None = None
    ) -> None:
        """The function returned: wake the waiters with its result.

        ``flight``: end this one and no other. A late pilot whose flight was landed for him may find another's under the
        same lease, begun after an invalidation that his own result is older than.
        """
        with self._lock:
            flight = self._take_off_the_board(key, cas, flight)
            if flight is None:
                return
            flight.payload, flight.landed, flight.ended = payload, True, True
        flight.end()

    def crash(self, key: bytes, cas: int | None, error: BaseException | None, flight: Flight | None = None) -> None:
        """The run ended without a result: its waiters raise ``error``, or compete again where it is None."""
        with self._lock:
            flight = self._take_off_the_board(key, cas, flight)
            if flight is None:
                return
            if flight.waiters:  # an error kept for nobody would keep its frames, which refer to the flight, in a cycle
                flight.error = error
            flight.ended = True
        flight.end()

    def forget(self, key: bytes | None = None, cas: int | None = None) -> None:
        """Let nobody else join the runs without a lease, of ``key`` or of every key, that began before now: an
        invalidation was acknowledged, and what they bring is older. Who waits for them already is still woken.
        ``cas``: as the run was boarded.
        """
        if not self._flights:
            return
        with self._lock:
            if key is not None:
                self._flights.pop((key, cas), None)
                return
            for each in list(self._flights):  # a copy: boarding takes no lock
                if each[1] is None:
                    del self._flights[each]

    def depart(self, around: list[Flight], flight: Flight) -> bool:
        """The code inside the runs ``around`` is going to wait for ``flight``. False where that would be for ever:
        the flight waits, perhaps by way of others, for one of those runs.
        """
        with self._lock:
            if around and _leads_to(flight, around):
                return False
            for outer in around:
                outer.awaits += (flight,)
            flight.awaited += 1
        return True

    def arrive(self, around: list[Flight], flight: Flight) -> None:
        """The wait is over."""
        with self._lock:
            for outer in around:
                at = outer.awaits.index(flight)
                outer.awaits = outer.awaits[:at] + outer.awaits[at + 1 :]
            flight.awaited -= 1
            deserted = flight.on_deserted if not flight.awaited else None
        if deserted is not None:
            deserted()

    def relieve(self, flight: Flight, turn: int = 1) -> bool:
        """Whether the caller, tired of waiting, is the one to run in the pilot's place; the first who asks is.
        ``turn``: how often he has been tired of this flight; in each turn there is a first.
        """
        with self._lock:
            first = flight.relieved < turn
            if first:
                flight.relieved = turn
            return first

    def _take_off_the_board(self, key: bytes, cas: int | None, flight: Flight | None) -> Flight | None:
        """The flight to end now; None where it has ended already. Under the lock."""
        known = self._flights.get((key, cas))
        if flight is None or flight is known:
            flight = self._flights.pop((key, cas), None)
        return None if flight is None or flight.ended else flight

    def __len__(self) -> int:
        return len(self._flights)


def _leads_to(flight: Flight, ends: list[Flight]) -> bool:
    """Whether ``flight`` is one of ``ends`` or waits for one, perhaps by way of others."""
    ahead, seen = [flight], set[int]()
    while ahead:
        at = ahead.pop()
        if any(at is end for end in ends):
            return True
        if id(at) not in seen:
            seen.add(id(at))
            ahead.extend(at.awaits)
    return False
