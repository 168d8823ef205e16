"""A stored value that is due: who won the claim refreshes it, here, in the background, or in the background after a
while.
"""

# Annotations are not postponed here, as in the other flows.

from functools import partial
from typing import Any

from cachekit.env import Env, Job
from cachekit.errors import ServerError
from cachekit.flights import Flight
from cachekit.flows.alone import join, outcome_of
from cachekit.flows.caller import Caller
from cachekit.flows.fill import fill, under_marks_now
from cachekit.flows.lease import Lease, Standing, give_back, opened, read
from cachekit.generations import numbers
from cachekit.ops import Flow, Replies, Spawn
from cachekit.policy import Verdict

_STANDING = frozenset({Verdict.FRESH, Verdict.WON, Verdict.CLAIMED, Verdict.DUE})
"""What a claimed value may be found to be when it is looked at again: it is claimed, or its claim was given back."""


def renew(job: Job, env: Env, lease: Lease, standing: Standing, caller: Caller) -> Flow[Any]:
    """Refresh the ``standing`` value under the claim on it; returns the new value, or the old one where that may be
    served and the new one takes too long. ``caller`` is told how it went.
    """
    terms = job.recipe.terms
    if terms.background and standing.judgement.servable():
        old = opened(job, standing)
        if old is not None and (yield Spawn(_behind(_detached(job), env, lease))):
            caller.old_served(standing)
            return old[0]
    elif terms.soft_timeout_s is not None and standing.rescues(env.monotonic()):
        old = opened(job, standing)
        if old is not None:
            return (yield from _renew_within(terms.soft_timeout_s, old, job, env, lease, standing, caller))
    return (yield from _renew_here(job, env, lease, standing, caller))


def _why(standing: Standing) -> str:
    header = standing.judgement.header
    if standing.reply.stale:
        return "expired by hand"
    return "early" if header is not None and standing.judgement.age_ms < header.ttl_ms else "expired"


def _renew_here(
    job: Job,
    env: Env,
    lease: Lease,
    standing: Standing,
    caller: Caller,
    flight: Flight | None = None,
) -> Flow[Any]:
    """The caller runs the function himself; whether that was a miss shows at the end."""
    rescued: list[bool] = []
    try:
        return (yield from fill(job, env, lease, standing, flight, rescued))
    finally:
        if rescued:
            caller.old_served(standing)
        else:
            caller.missed(_why(standing))


def _renew_within(
    timeout_s: float,
    old: tuple[Any],
    job: Job,
    env: Env,
    lease: Lease,
    standing: Standing,
    caller: Caller,
) -> Flow[Any]:
    """Wait so long for the new value, then serve the old one and let the run go on."""
    flight, pilot = env.flights.board(job.key, lease.cas, lease.generations)
    if pilot:
        # Joined under the lock: two who make its gate at once would shut one another out.
        env.flights.find(job.key, lease.cas)
        flight.hand_over()
        if not (yield Spawn(_behind(_detached(job), env, lease, flight))):
            return (yield from _renew_here(job, env, lease, standing, caller, flight))
    landed = yield from join(env, flight, timeout_s)
    new = flight.landed and (pilot or not flight.again)  # another's run may be from before this call
    if landed and (new or flight.error is not None):
        if flight.rescued:
            caller.old_served(standing)
        else:
            caller.missed(_why(standing))
        return (yield from outcome_of(job, env, flight))
    caller.old_served(standing)
    return old[0]


def _detached(job: Job) -> Job:
    """The job with containers of its own: its caller goes on before it is done, and may change what he passed."""
    compute = job.compute
    if not isinstance(compute, partial):
        return job
    arguments = [copied(each) for each in compute.args]
    named = {name: copied(each) for name, each in compute.keywords.items()}
    return job._replace(compute=partial(compute.func, *arguments, **named))


def copied(value: Any) -> Any:
    """Containers, at every depth, and arrays are copied. Other objects are what they are: they may be sessions."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        return kind(map(copied, value))
    if kind is dict:
        return {key: copied(each) for key, each in value.items()}
    return value.copy() if kind is bytearray or kind.__name__ == "ndarray" else value


def _behind(job: Job, env: Env, lease: Lease, flight: Flight | None = None) -> Flow[Any]:
    """The run in the background. It has connections of its own, younger than the claim perhaps, and a lease holds only
    on a connection that is older; so the run looks for itself at what it is to replace, and takes the CAS from there.

    ``flight``: one that was boarded for this run, and that others wait for.
    """
    try:
        replies: Replies = yield read(job, env, closer=True)
        mine, ours, standing = yield from _still_there(job, env, lease, replies)
    except BaseException as error:
        if flight is not None:
            env.flights.crash(job.key, lease.cas, None, flight)
        if not isinstance(error, ServerError):
            raise
        env.read_lost(job.key)
        return env.trouble(job, error)
    if ours:
        return (yield from fill(job, env, mine, standing, flight))
    # Invalidated, or refreshed by somebody who took over. Who waits here competes again.
    if flight is not None:
        env.flights.crash(job.key, lease.cas, None, flight)
    won = replies.replies[0].won
    if won and numbers(replies.replies[1:]) is not None:
        return (yield from fill(job, env, mine))
    if won:
        yield from give_back(job, env, mine.cas)
    return None


def _still_there(job: Job, env: Env, lease: Lease, replies: Replies) -> Flow[tuple[Lease, bool, Standing | None]]:
    """The lease under what was read now; whether the value that was claimed is there still; and that value, None where
    a mark of its has been voided meanwhile.
    """
    reply, generations = replies.replies[0], numbers(replies.replies[1:])
    mine = Lease(reply.cas or 0, replies.sent_at, generations or ())
    if reply.cas != lease.cas or generations is None:
        return mine, False, None
    judgement = env.judge(job, reply, generations)
    if judgement.verdict not in _STANDING:
        return mine, False, None
    standing = Standing(reply, judgement, env.monotonic(), since=replies.sent_at)
    if judgement.header is None or not judgement.header.marks:
        return mine, True, standing
    mine, held = yield from under_marks_now(job, env, mine, standing, judgement.header)
    return mine, True, held
