"""Run without a lease, and store nothing: the server can't be asked, or gives no lease."""

# Annotations are not postponed here, as in the other flows.

from typing import Any

from cachekit.env import Env, Job
from cachekit.errors import DecodeError
from cachekit.flights import Flight
from cachekit.flows.frames import Filling, Notes, around
from cachekit.flows.marks import hand_on, hand_up
from cachekit.ops import Compute, Flow, Join

ROUNDS = 64
"""Times that a call may find something void under its hands before it stops fighting for the lease and just runs."""

FOREVER_S = 3600.0


def run_uncached(job: Job, env: Env) -> Flow[Any]:
    """The ttl is 0: nothing is asked, and nothing stored."""
    env.missed(job, "ttl 0")
    return (yield from run_bare(job, env, reason="ttl 0"))


def run_bare(
    job: Job, env: Env, flight: Flight | None = None, reason: str = "no lease", *, itself: bool = False
) -> Flow[Any]:
    """Just run the function, and count it. ``flight``: the one that this run flies. ``itself``: it runs inside of a run
    of the same entry, which stands under all that this one does.
    """
    began, notes = env.monotonic(), Notes()
    try:
        value = yield Compute(job.compute, Filling(env.flights, job.key, began + job.recipe.lease_s, notes, flight))
    finally:
        hand_up(notes)
        if reason == "no lease" and not itself:
            hand_on(job, env, None, began)
    env.filled(job, env.monotonic() - began, reason)
    return value


def longest_wait_s(env: Env) -> float:
    """Seconds that the current code may wait for another's run: inside a fill, half of what is left of its lease. Two
    processes whose fills want each other's value would otherwise wait for ever.
    """
    outer = around()
    return max(0.0, (min(frame.ends for frame in outer) - env.monotonic()) / 2) if outer else FOREVER_S


def join(env: Env, flight: Flight, timeout_s: float) -> Flow[bool | None]:
    """Wait for a run of this process, as ``ops.Join`` says; None also where that run waits for this very caller,
    perhaps by way of others.
    """
    outer = [each for frame in around() for each in (frame.flight, *frame.wings) if each is not None]
    if not env.flights.depart(outer, flight):
        return None
    try:
        return (yield Join(flight, timeout_s))  # type: ignore[no-any-return]
    finally:
        env.flights.arrive(outer, flight)


def run_unprotected(job: Job, env: Env) -> Flow[Any]:
    """Run without a lease and store nothing: the server can't be asked. Still once among the threads of this
    process.
    """
    flight, pilot = env.flights.board(job.key, None)
    if not pilot:
        return (yield from _wait_unprotected(job, env, flight))
    try:
        value = yield from run_bare(job, env, flight)
    except BaseException as error:
        env.flights.crash(job.key, None, error if isinstance(error, Exception) else None, flight)
        del flight  # it refers to the error, whose traceback refers to this frame
        raise
    packed = None
    env.flights.forget(job.key)  # for who joined after the next line nothing would be packed
    if flight.waiters:
        packed = job.recipe.pack(value, env.now, env.random).packed
    env.flights.land(job.key, None, packed, flight)
    return value


def _wait_unprotected(job: Job, env: Env, flight: Flight) -> Flow[Any]:
    """Wait for a run without a lease; where it takes long, one more waiter a lease stops waiting and runs himself."""
    began, lease_s, left = env.monotonic(), job.recipe.lease_s, longest_wait_s(env)
    for turn in range(1, ROUNDS):
        landed = yield from join(env, flight, min(left, lease_s))
        if landed and (flight.landed or flight.error is not None):
            env.waited(job, env.monotonic() - began)
            return (yield from outcome_of(job, env, flight))
        if landed is not False or left <= lease_s:
            break
        if env.flights.relieve(flight, turn):
            return (yield from relieve(job, env, flight, None))
        left -= lease_s
    return (yield from run_bare(job, env))


def relieve(job: Job, env: Env, flight: Flight, cas: int | None) -> Flow[Any]:
    """Run beside the pilot, and land his flight for everybody who waits for it."""
    try:
        value = yield from run_bare(job, env)
    except Exception as error:
        env.flights.crash(job.key, cas, error, flight)
        del flight  # as above
        raise
    env.flights.land(job.key, cas, job.recipe.pack(value, env.now, env.random).packed, flight)
    return value


def outcome_of(job: Job, env: Env, flight: Flight) -> Flow[Any]:
    """What an ended flight gives its waiters: a copy of their own, or its exception.

    A value that can't be copied is the pilot's alone (a generator can be read but once, a connection used by one
    thread), so there each waiter runs the function himself, all at the same time.
    """
    hand_on(job, env, *(flight.stands or (None, 0.0)))
    if flight.error is not None:
        raise flight.error
    if flight.payload is not None:
        try:
            return job.recipe.packer.unpack(*flight.payload)
        except DecodeError:
            pass  # what can be packed but not unpacked is a codec's fault, and no reason to fail
    return (yield from run_bare(job, env))
