"""Run without a lease, and store nothing: the server can't be asked, or gives no lease.

While it can't be asked, the threads of this process still share one run. Where it answers, each caller runs: the server
may have acknowledged an invalidation to another process meanwhile, and only a lease would tell.
"""

# Annotations are not postponed here, as in the other flows.

from typing import Any

from cachekit.env import Env, Job
from cachekit.errors import DecodeError, ServerError
from cachekit.flights import Flight
from cachekit.flows.frames import Filling, Notes, around
from cachekit.flows.lease import Lease
from cachekit.flows.marks import hand_on, hand_up, notes_for
from cachekit.generations import numbers
from cachekit.ops import Compute, Exchange, Flow, Join, Replies

ROUNDS = 64
"""Times that a call may find something void under its hands before it stops fighting for the lease and just runs."""

FOREVER_S = 3600.0

Stands = tuple[tuple[int, ...], float]
"""Generations, and the monotonic seconds before they were asked for."""
NO_GROUPS: Stands = (), 0.0
"""There are none, or none that anybody need be told of."""


def run_uncached(job: Job, env: Env) -> Flow[Any]:
    """The ttl is 0: nothing is stored, and nothing asked, but for the sake of a run that this one is inside of."""
    env.missed(job, "ttl 0")
    stands = (yield from _groups_now(job, env)) if job.groups and around() else NO_GROUPS
    return (yield from run_bare(job, env, reason="ttl 0", stands=stands))


def _groups_now(job: Job, env: Env) -> Flow[Stands | None]:
    """The generations over an entry that is not asked for; None where they can't be had."""
    opaque = env.opaque()
    _, _, behind = job.recipe.read(job.key, opaque, env.number(job.server), tags=job.tags).partition(b"\r\n")
    try:
        replies: Replies = yield Exchange(job.server, behind, len(job.groups), opaque, retry=True)
    except ServerError as error:
        env.trouble(job, error)
        return None
    found = numbers(replies.replies)
    return None if found is None else (found, replies.sent_at)


def run_bare(
    job: Job,
    env: Env,
    flight: Flight | None = None,
    reason: str = "no lease",
    *,
    stands: Stands | None = None,
    notes: Notes | None = None,
) -> Flow[Any]:
    """Just run the function, and count it. ``flight``: the one that this run flies. ``stands``: the generations that it
    stands under, where they are known. ``notes``: who reads what it says.
    """
    began, notes = env.monotonic(), notes or notes_for(job)
    try:
        value = yield Compute(job.compute, Filling(env.flights, job.key, began + job.recipe.lease_s, notes, flight))
    finally:
        if flight is not None:
            flight.again = notes.said
        hand_up(env, notes)
        if stands is not NO_GROUPS:
            hand_on(job, env, *(stands or (None if job.groups else (), began)))
    env.filled(job, env.monotonic() - began, reason)
    return value


def inside_itself(job: Job, env: Env) -> bool:
    """Whether the current code runs inside a fill of the same entry: then it must run, and not wait for itself."""
    return any(outer.flights is env.flights and outer.fills(job.key) for outer in around())


def run_inside_itself(job: Job, env: Env) -> Flow[Any]:
    """Run inside of a run of the same entry. What that one stands under was asked for before this one began."""
    outer = around()
    same = next(each for each in reversed(outer) if each.flights is env.flights and each.fills(job.key))
    stands = None if same.more else same.notes.under
    if same is outer[-1] and (len(same.more) < 2 or not job.tags):
        stands = NO_GROUPS  # all that stands over this run stands over that one
    return (yield from run_bare(job, env, stands=stands))


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


def run_unprotected(job: Job, env: Env, lease: Lease | None = None) -> Flow[Any]:
    """Run without a lease and store nothing: the server can't be asked. Still once among the threads of this
    process.

    ``lease``: somebody else's, for whom this caller waits no longer. The server is there, so who comes after an
    invalidation finds another one, and does not join what was begun beside this one.
    """
    cas, generations = (None, None) if lease is None else (-lease.cas, lease.generations)
    flight, pilot = env.flights.board(job.key, cas, generations)
    if not pilot and flight.generations == generations:
        return (yield from _wait_unprotected(job, env, flight, cas))
    if not pilot:
        return (yield from run_bare(job, env))
    try:
        value = yield from run_bare(job, env, flight)
    except BaseException as error:
        env.flights.crash(job.key, cas, error if isinstance(error, Exception) else None, flight)
        del flight  # it refers to the error, whose traceback refers to this frame
        raise
    packed = None
    env.flights.forget(job.key, cas)  # for who joined after the next line nothing would be packed
    if flight.waiters:
        packed = job.recipe.pack(value, env.now, env.random).packed
    env.flights.land(job.key, cas, packed, flight)
    return value


def _wait_unprotected(job: Job, env: Env, flight: Flight, cas: int | None) -> Flow[Any]:
    """Wait for a run without a lease; where it takes long, one more waiter a lease stops waiting and runs himself."""
    began, lease_s, left = env.monotonic(), job.recipe.lease_s, longest_wait_s(env)
    for turn in range(1, ROUNDS):
        landed = yield from join(env, flight, min(left, lease_s))
        shared = flight.landed and (cas is None or not flight.again)  # as of any flight while the server is there
        if landed and (shared or flight.error is not None):
            env.waited(job, env.monotonic() - began)
            return (yield from outcome_of(job, env, flight))
        if landed is not False or left <= lease_s:
            break
        if env.flights.relieve(flight, turn):
            return (yield from relieve(job, env, flight, cas))
        left -= lease_s
    return (yield from run_bare(job, env))


def relieve(job: Job, env: Env, flight: Flight, cas: int | None) -> Flow[Any]:
    """Run beside the pilot, and land his flight for everybody who waits for it."""
    notes = notes_for(job)
    try:
        value = yield from run_bare(job, env, notes=notes)
    except Exception as error:
        env.flights.crash(job.key, cas, error, flight)
        del flight  # as above
        raise
    flight.again = notes.said
    env.flights.land(job.key, cas, job.recipe.pack(value, env.now, env.random).packed, flight)
    return value


def outcome_of(job: Job, env: Env, flight: Flight) -> Flow[Any]:
    """What an ended flight gives its waiters: a copy of their own, or its exception.

    A value that can't be copied is the pilot's alone (a generator can be read but once, a connection used by one
    thread), so there each waiter runs the function himself, all at the same time.
    """
    if flight.stands is not None:
        hand_on(job, env, *flight.stands)
    else:
        hand_on(job, env, None if job.groups or flight.again else (), 0.0)
    if flight.error is not None:
        raise flight.error
    if flight.payload is not None:
        try:
            return job.recipe.packer.unpack(*flight.payload)
        except DecodeError:
            pass  # what can be packed but not unpacked is a codec's fault, and no reason to fail
    return (yield from run_bare(job, env))
