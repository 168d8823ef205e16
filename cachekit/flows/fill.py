"""Run the function under a lease: store what it returns, hand it to the waiters, and settle the lease however the run
ends.

::

    the run                       the entry                                  this caller, and who waits in this process
    ----------------------------  -----------------------------------------  ------------------------------------------
    returned                      stored under the lease                     the result
    returned, can't be stored     a pass marker, for a short while           the result
    said ``not_modified``         the old value, with a new freshness        the old value
    raised one of ``errors``      the failure, for ``error_ttl``             the exception
    raised, old value may serve   the old value, throttled                   the old value
    raised                        the lease is given back                    the exception
    was interrupted               the lease is given back                    the interrupt; the others compete again
"""

# Annotations are not postponed here, as in the other flows.

from functools import partial
from typing import Any, NamedTuple

from cachekit.codecs.envelope import Header, Mark
from cachekit.codecs.note import NOTE_FLAGS, PASS
from cachekit.env import Env, Job
from cachekit.errors import ServerError, Unreachable
from cachekit.flights import Flight
from cachekit.flows.alone import run_bare
from cachekit.flows.frames import Filling, Notes
from cachekit.flows.lease import Lease, Standing, claim, give_back, opened, put_back, read, store
from cachekit.flows.marks import TOO_MANY, confirmed, gathered, hand_on, hand_up, has_room, notes_for, snapshot
from cachekit.generations import numbers
from cachekit.ops import Compute, Flow, Replies
from cachekit.policy import Verdict
from cachekit.recipe import Packed

_NO_STANDING = frozenset({Verdict.VOID, Verdict.AHEAD, Verdict.PASS, Verdict.CLOSER})
_SETTLED = frozenset({"", "superseded"})
"""Outcomes of a store after which the lease is nobody's any more."""


_NO_MARKS: tuple[tuple[Mark, ...], str] = ((), "")


class _Run(NamedTuple):
    """A run under way: its lease, the value that its result is to replace, its flight (None where another pilots it),
    what it says of its result, and when it ``began`` (monotonic seconds).
    """

    lease: Lease
    standing: Standing | None
    flight: Flight | None
    notes: Notes
    began: float


def fill(
    job: Job,
    env: Env,
    lease: Lease,
    standing: Standing | None = None,
    flight: Flight | None = None,
    rescued: list[bool] | None = None,
) -> Flow[Any]:
    """Run the function under ``lease``, store what it returns, and hand it to the waiters of this process.

    ``standing``: the value that the result is to replace. ``flight``: one that was boarded for this run before.
    ``rescued``: told when the run failed and what is returned is the old value.
    """
    flights, notes = env.flights, notes_for(job, lease)
    # Another thread may pilot a flight under the same CAS (a refresh beside a fill): its waiters are then his.
    flight, pilot = (flight.fly(), True) if flight else flights.board(job.key, lease.cas, lease.generations)
    if standing is not None:
        notes.look = partial(opened, job, standing)
    began = env.monotonic()
    run = _Run(lease, standing, flight if pilot else None, notes, began)
    try:
        value = yield Compute(job.compute, Filling(flights, job.key, began + job.recipe.lease_s, notes, flight))
    except BaseException as error:
        if env.flights is not flights:
            raise  # as below
        ending = _ended_by(error, job, env, run)
        del flight, run  # they will refer to the error, whose traceback refers to this frame
        saved = yield from ending
        if saved is None:
            raise
        if rescued is not None:
            rescued.append(True)
        return saved[0]
    if env.flights is flights:
        yield from _returned(value, job, env, run)
    else:  # a child that was forked in the middle of the run leaves the lease to its parent
        env.filled(job, env.monotonic() - began, "lost")
    return value if notes.kept is None else notes.kept[0]


def _returned(value: Any, job: Job, env: Env, run: _Run) -> Flow[None]:
    """The function returned ``value``: store it with what it stands under, land the run's flight, and tell the run
    around this one.
    """
    # In one piece, for speed: every miss passes here.
    lease, standing, flight, notes, began = run
    seconds, said = env.monotonic() - began, notes.said
    packed, marks, unmarked = None, *_NO_MARKS
    try:
        packed, lifetime_s, reason = _packed(value, job, env, notes, standing)
        if job.recipe.enveloped and (said or notes.kept is not None):
            marks, unmarked = yield from _marks(job, env, run)
            reason = reason or unmarked
        if packed is not None and not reason:
            reason = yield from store(job, env, lease, packed, lifetime_s, seconds, marks)
        if env.near is not None:
            kept = value if notes.kept is None else notes.kept[0]
            keep_near(job, env, kept, None if reason else packed, lifetime_s, marks, seconds)
        if reason not in _SETTLED:
            yield from _not_stored(job, env, lease, reason, seconds, marks)
    except BaseException as error:
        packed, unmarked = None, "interrupted"
        yield from _interrupted(error, job, env, run)
        raise
    finally:
        if flight is not None:
            if not unmarked:
                flight.stands = lease.generations, lease.since, marks
            flight.again = job.recipe.enveloped and notes.said
            env.flights.land(job.key, lease.cas, packed, flight)
    if not job.recipe.enveloped:
        hand_up(env, notes)  # a plain value has no place for marks
    hand_on(job, env, None if unmarked else lease.generations, lease.since, marks)
    env.filled(job, seconds, reason)


def _marks(job: Job, env: Env, run: _Run) -> Flow[tuple[tuple[Mark, ...], str]]:
    """What the result stands under beside the lease's generations, and why that forbids to store it, "" if it does not.
    A value that is kept stands under what it stood under before, too.
    """
    standing = run.standing
    marks, reason = yield from gathered(job, env, run.notes, run.lease, run.began)
    header = standing.judgement.header if standing is not None and run.notes.kept is not None else None
    if header is not None and header.marks:
        told, known = {(mark.server, mark.key) for mark in marks}, run.lease.known.numbers
        for mark in header.marks:
            at = mark.server, mark.key
            if at not in told:
                # After a soft bump of what a call inside stood under: the function has found the value to be right.
                marks += (mark._replace(number=known.get(at, 0 if mark.named else mark.number)),)
        if not has_room(marks):
            return (), TOO_MANY
    return marks, reason


def keep_near(job: Job, env: Env, value: Any, *how: Any) -> None:
    """Let the near tier know what became of a run: see ``nearby.keep_filled``."""
    from cachekit.flows.nearby import keep_filled  # noqa: PLC0415 - few functions have one

    keep_filled(job, env, value, *how)


def _interrupted(error: BaseException, job: Job, env: Env, run: _Run) -> Flow[None]:
    """``error`` came while the result was stored. The store may not have gone out yet, in a batch of many; where it
    has, what gives the lease back finds another CAS number.
    """
    lease, standing = run.lease, run.standing
    if lease.ours and not isinstance(error, GeneratorExit):
        yield from give_back(job, env, lease.cas) if standing is None else put_back(job, env, lease, standing)


def _packed(value: Any, job: Job, env: Env, notes: Notes, standing: Standing | None) -> Packed:
    """The result as it is to be stored, by what the function returned and by what it said."""
    if notes.kept is None:
        result = job.recipe.pack(value, env.now, env.random, notes.ttl)
    else:
        result = job.recipe.pack(notes.kept[0], env.now, env.random, notes.ttl)
        if standing is not None and result.packed is not None:
            result = result._replace(packed=job.recipe.payload(standing.reply, standing.judgement))
    if not notes.store and not result.reason:
        return result._replace(reason="do_not_store")
    if notes.tags and not job.recipe.enveloped:
        return result._replace(reason="plain value: tags can't stand over it; decorate the function in its place")
    return result


def _not_stored(
    job: Job, env: Env, lease: Lease, reason: str, seconds: float, marks: tuple[Mark, ...] = ()
) -> Flow[None]:
    """Let the next readers know that the result can't be stored, and by ``marks`` which tags it named; where nothing
    can be said, let one of them run.
    """
    if not job.recipe.enveloped or reason == "lost":
        yield from give_back(job, env, lease.cas)
    else:
        # A server that refuses a value drops what stood there, and its CAS number with it.
        left = lease._replace(cas=0) if reason.startswith("refused") else lease
        yield from pass_on(job, env, left, seconds, marks)


def pass_on(job: Job, env: Env, lease: Lease, seconds: float, marks: tuple[Mark, ...] = ()) -> Flow[None]:
    """Leave a pass marker: whoever waits runs at once, and so do those who come soon, none after the other."""
    lifetime_s = min(max(1.0, 2.0 * seconds), job.recipe.lease_s)
    named = tuple([mark for mark in marks if mark.named])
    outcome = yield from store(job, env, lease, (NOTE_FLAGS, PASS), lifetime_s, 0.0, named)
    if outcome not in _SETTLED and lease.cas:
        yield from give_back(job, env, lease.cas)


def _ended_by(error: BaseException, job: Job, env: Env, run: _Run) -> Flow[tuple[Any] | None]:
    """The run raised ``error``. A value to return in its place, in a 1-tuple, or None: raise it."""
    lease, standing, flight, notes, began = run
    flights, recipe, seconds = env.flights, job.recipe, env.monotonic() - began
    hand_up(env, notes)
    hand_on(job, env, lease.generations, lease.since)
    if flight is not None:
        flight.again = notes.said
    if isinstance(error, Exception):
        if isinstance(error, recipe.terms.errors):
            yield from _answered(error, job, env, run)
            return None
        if standing is not None and standing.rescues(env.monotonic()):
            old = opened(job, standing)
            if old is not None:
                yield from _rescued(job, env, run, standing)
                env.filled(job, seconds, "raised")
                return old
    if flight is not None:
        # Only an Exception is the function's answer; an interrupt is this caller's own, and the others compete again.
        flights.crash(job.key, lease.cas, error if isinstance(error, Exception) else None, flight)
    if not isinstance(error, GeneratorExit):
        env.filled(job, seconds, "raised" if isinstance(error, Exception) else "interrupted")
        if standing is not None and lease.ours and not (isinstance(error, Exception) and standing.rescue):
            yield from put_back(job, env, lease, standing)
        elif lease.ours:
            yield from give_back(job, env, lease.cas)
    return None


def _answered(error: Exception, job: Job, env: Env, run: _Run) -> Flow[None]:
    """The function raised one of those failures that are answers: it is cached, and raised."""
    lease, _, flight, notes, began = run
    seconds, answer = env.monotonic() - began, None if notes.said else error
    try:
        packed, lifetime_s, reason = job.recipe.pack_failure(error)
        marks, unmarked = yield from gathered(job, env, notes, lease, began)
        reason = reason or unmarked
        if packed is not None and not reason:
            reason = yield from store(job, env, lease, packed, lifetime_s, seconds, marks)
        env.outdated(job.key)
        if reason not in _SETTLED:
            yield from _not_stored(job, env, lease, reason, seconds, marks)
        if flight is not None and not unmarked:
            flight.stands = lease.generations, lease.since, marks
    finally:
        if flight is not None:  # an answer under marks may be older than who waits for it: he reads again
            env.flights.crash(job.key, lease.cas, answer, flight)
    env.filled(job, seconds, f"raised: {reason}" if reason else "")


def _rescued(job: Job, env: Env, run: _Run, standing: Standing) -> Flow[None]:
    """The function failed, and the old value may serve: it does, and nobody tries again for a while (RFC 5861 §4)."""
    lease, flight = run.lease, run.flight
    try:
        yield from put_back(job, env, lease, standing, job.recipe.terms.throttle_s)
    finally:
        if flight is not None:
            packed = job.recipe.payload(standing.reply, standing.judgement)
            flight.rescued = True
            if standing.judgement.header is not None:
                header = standing.judgement.header
                flight.stands = header.generations, standing.since, header.marks
            env.flights.land(job.key, lease.cas, packed, flight)


def pass_by(job: Job, env: Env, lease: Lease, age_ms: float, lifetime_ms: float) -> Flow[Any]:
    """A pass marker stands there: run beside whoever else does, and store if this result can be stored.

    Who can't either renews a marker that has passed half of its life, so that no caller ever waits for it to end.
    """
    began, notes = env.monotonic(), notes_for(job, lease)
    try:
        value = yield Compute(job.compute, Filling(env.flights, job.key, began + job.recipe.lease_s, notes))
    except BaseException:
        hand_up(env, notes)
        hand_on(job, env, lease.generations, lease.since)
        raise
    seconds = env.monotonic() - began
    result = _packed(value, job, env, notes, None)
    marks, unmarked = yield from gathered(job, env, notes, lease, began)
    reason = result.reason or unmarked
    if not reason and result.packed is not None:
        reason = yield from store(job, env, lease, result.packed, result.lifetime_s, seconds, marks)
    if env.near is not None:
        keep_near(job, env, value, None if reason else result.packed, result.lifetime_s, marks, seconds)
    if reason and reason not in _SETTLED and age_ms + seconds * 1000.0 > lifetime_ms / 2:
        yield from pass_on(job, env, lease, seconds, marks)
    hand_on(job, env, None if unmarked else lease.generations, lease.since, marks)
    env.filled(job, seconds, reason)
    return value


def _claimed(job: Job, env: Env) -> Flow[Replies]:
    """What stands there, claimed: nobody else is to refresh it meanwhile, nor let it slide. The claim is sent once;
    where the connection turns out to have been closed, the read alone is made on another. Raises ``ServerError``.
    """
    try:
        return (yield claim(job, env, closer=True))  # type: ignore[no-any-return]
    except Unreachable:
        return (yield read(job, env, closer=True))  # type: ignore[no-any-return]


def refresh(job: Job, env: Env) -> Flow[Any]:
    """Run now, whatever is stored, and store the result under the CAS number that stood there before the run."""
    env.touched(job.key)
    if env.near is not None:
        job = job._replace(ticket=job.ticket and env.near.ticket())
    try:
        replies: Replies = yield from _claimed(job, env)
    except ServerError as error:
        env.trouble(job, error)
        env.read_lost(job.key)
        return (yield from run_bare(job, env))
    reply, generations = replies.replies[0], numbers(replies.replies[1:])
    if not reply.cas or generations is None:
        if reply.won and reply.cas:
            yield from give_back(job, env, reply.cas)
        return (yield from run_bare(job, env))
    judgement = env.judge(job, reply, generations)
    known = judgement.header is not None and judgement.verdict not in _NO_STANDING
    standing = Standing(reply, judgement, env.monotonic(), rescue=False, since=replies.sent_at) if known else None
    lease = Lease(reply.cas, replies.sent_at, generations, ours=reply.won)
    if judgement.header is not None and judgement.header.marks:
        try:
            lease, standing = yield from under_marks_now(job, env, lease, standing, judgement.header)
        except BaseException:
            if reply.won:
                env.read_lost(job.key)  # who calls next need not wait for the one who was interrupted
            raise
    try:
        return (yield from fill(job, env, lease, standing))
    finally:
        env.replaced(job.key)


def under_marks_now(
    job: Job, env: Env, lease: Lease, standing: Standing | None, header: Header
) -> Flow[tuple[Lease, Standing | None]]:
    """The same before a run that is to replace an entry with ``header``: a value whose marks hold no more is none to
    keep, and the numbers of its marks are known.
    """
    if standing is None:
        return lease.knowing((yield from snapshot(job, env, header))), None
    held, known = yield from confirmed(job, env, header)
    return lease.knowing(known), None if held is Verdict.VOID else standing
