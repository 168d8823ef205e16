"""The way of one call whose first read was not plainly fresh: judge, and act, until there is a value."""

# Annotations are not postponed here, as in the other flows.

from typing import Any, NamedTuple

from cachekit.env import Env, Job
from cachekit.errors import DecodeError
from cachekit.flows.alone import ROUNDS, inside_itself, run_bare, run_inside_itself, run_unprotected
from cachekit.flows.fill import fill, pass_by
from cachekit.flows.lease import (
    NOTHING_KNOWN,
    Known,
    Lease,
    ReadFailed,
    Standing,
    ask,
    claim,
    give_back,
    keep_near,
    mark_and_read,
    put_back,
    read,
    slide,
    void_and_read,
)
from cachekit.flows.marks import confirmed, hand_on, snapshot
from cachekit.flows.refresh import renew
from cachekit.flows.wait import Patience
from cachekit.generations import numbers
from cachekit.ops import Flow, Replies
from cachekit.policy import CERTAIN, Verdict, softened
from cachekit.recipe import Recalled


def call(job: Job, env: Env, replies: Replies | None, *, early: bool = False) -> Flow[Any]:
    """The value of ``job``, whatever its first read said; ``replies`` None: nothing was read yet.

    ``early``: the reader has drawn already, and found the entry due before its ttl.
    """
    if inside_itself(job, env):
        return (yield from run_inside_itself(job, env))
    patience = Patience(job, env)
    try:
        return (yield from _compete(job, env, patience, replies, early))
    except ReadFailed as failure:
        env.trouble(job, failure.error)
        env.read_lost(job.key)
        patience.missed("no answer")
        return (yield from run_unprotected(job, env))


def without_server(job: Job, env: Env) -> Flow[Any]:
    """The value of ``job`` when its server was asked and did not answer."""
    if inside_itself(job, env):
        return (yield from run_inside_itself(job, env))
    return (yield from run_unprotected(job, env))


class _Sight(NamedTuple):
    """What a read showed: the value as judged, the lease under its CAS number, and the generations, None where they
    could not be read.
    """

    standing: Standing
    lease: Lease
    generations: tuple[int, ...] | None

    @property
    def verdict(self) -> Verdict:
        """What the read means."""
        return self.standing.judgement.verdict


_READABLE = frozenset({Verdict.FRESH, Verdict.THROTTLED})
_WAITED = frozenset({Verdict.BUSY, Verdict.CLAIMED})
_HOPELESS = frozenset({Verdict.MINE, Verdict.NO_LEASE})
_JUDGED_BY_MARKS = frozenset(
    {Verdict.FRESH, Verdict.DUE, Verdict.WON, Verdict.CLAIMED, Verdict.THROTTLED, Verdict.SOFT}
)
"""Verdicts on an entry that stands, as far as its own generations tell."""
_FOLLOWED_BY_A_RUN = frozenset({Verdict.VOID, Verdict.PASS})


def _compete(job: Job, env: Env, patience: Patience, replies: Replies | None, early: bool) -> Flow[Any]:
    """Read, judge and act until there is a value: a stored one, somebody else's, or one's own."""
    eagerness, claimed = CERTAIN if early else env.draw(job.recipe.terms.beta), False
    closer, known = False, NOTHING_KNOWN
    while patience.rounds < ROUNDS:
        if replies is None:
            replies = yield from ask(read(job, env, closer=closer))
        if replies.replies[0].cas == 0:
            env.without_cas(job)
            patience.missed("no CAS")
            break
        sight = _look(job, env, replies, eagerness)
        if known.numbers or _marked(sight):
            sight, known = yield from _under_marks(job, env, sight, known)
        verdict = sight.verdict
        if verdict is Verdict.DUE and not claimed:
            try:
                replies, claimed = (yield from ask(claim(job, env))), True
            except ReadFailed as failure:
                return (yield from _unclaimed(job, env, patience, sight.standing, failure))
            eagerness = CERTAIN if replies.replies[0].won else 0.0
            continue
        if verdict is Verdict.CLOSER and not closer:
            closer, replies = True, (yield from _look_closer(job, env, sight))
            continue
        outcome = yield from _answer(job, env, patience, sight)
        if outcome is not None:
            return outcome[0]
        eagerness, claimed = 0.0, False
        if verdict in _WAITED and sight.generations is not None:
            replies = None
            continue
        if verdict is Verdict.SOFT:
            patience.rounds += 1
            replies = yield from ask(mark_and_read(job, env, sight.lease.cas))
            continue
        patience.missed("garbage" if verdict in _READABLE else verdict.value)
        if verdict in _HOPELESS or sight.generations is None:
            break
        patience.rounds += 1
        if verdict is Verdict.AHEAD and patience.rounds == 1 and not sight.standing.reply.won:
            replies = None
        else:
            # Void: invalidated, unreadable, or due and not to be claimed (somebody's touch took its end away).
            replies = yield from ask(void_and_read(job, env, sight.lease.cas))
    # The server is there, and may have acknowledged an invalidation to another process: so nobody joins this run, for
    # it has no lease that would tell whether it began before.
    return (yield from run_bare(job, env))


def _look_closer(job: Job, env: Env, sight: _Sight) -> Flow[Replies]:
    """Read again, with how far a soft bump of each generation reaches."""
    replies = yield from ask(read(job, env, closer=True))
    reply = replies.replies[0]
    if sight.standing.reply.won and reply.cas == sight.lease.cas:
        reply.won, reply.claimed = True, False  # the first read was given the right to refresh it
    return replies


def _unclaimed(job: Job, env: Env, patience: Patience, standing: Standing, failure: ReadFailed) -> Flow[Any]:
    """The server was lost between the read and the claim: what the read showed is still in hand."""
    env.trouble(job, failure.error)
    env.read_lost(job.key)
    if standing.judgement.servable():
        old = patience.serve_old(standing)
        if old is not None:
            return old[0]
    try:
        value = yield from run_unprotected(job, env)
    except Exception:
        old = patience.serve_old(standing) if standing.rescues(env.monotonic()) else None
        if old is None:
            patience.missed("no answer")
            raise
        return old[0]
    patience.missed("no answer")
    return value


def _look(job: Job, env: Env, replies: Replies, eagerness: float) -> _Sight:
    reply, generations = replies.replies[0], numbers(replies.replies[1:])
    judgement = env.judge(job, reply, generations, eagerness)
    lease = Lease(reply.cas or 0, replies.sent_at, generations or ())
    return _Sight(Standing(reply, judgement, env.monotonic(), since=replies.sent_at), lease, generations)


def _marked(sight: _Sight) -> bool:
    header = sight.standing.judgement.header
    return header is not None and bool(header.marks)


def _under_marks(job: Job, env: Env, sight: _Sight, known: Known) -> Flow[tuple[_Sight, Known]]:
    """The same sight, with what the marks in the entry tell; and ``known`` with their numbers, for a run that may
    follow.
    """
    standing, judgement = sight.standing, sight.standing.judgement
    header, verdict = judgement.header, judgement.verdict
    try:
        if header is None or not header.marks:
            pass
        elif verdict in _FOLLOWED_BY_A_RUN:
            known = known.and_also((yield from snapshot(job, env, header)))
            if not all(mark.number for mark in header.marks):
                # Nothing but the age of its tags was in the way: one run under the lease will do.
                verdict = Verdict.VOID
        elif verdict in _JUDGED_BY_MARKS:
            held, numbers = yield from confirmed(job, env, header)
            known = known.and_also(numbers)
            if held is not Verdict.FRESH:
                soft = held is Verdict.SOFT
                verdict = softened(standing.reply, header, judgement.age_ms) if soft else Verdict.VOID
    except BaseException:
        if standing.reply.won:
            env.read_lost(job.key)  # who calls next need not wait for the one who was interrupted
        raise
    standing = standing._replace(judgement=judgement._replace(verdict=verdict))
    return sight._replace(standing=standing, lease=sight.lease.knowing(known)), known


def _answer(job: Job, env: Env, patience: Patience, sight: _Sight) -> Flow[tuple[Any] | None]:
    """Do what the verdict says; the call's value in a 1-tuple, or None: look again."""
    standing, lease, generations = sight
    judgement = standing.judgement
    verdict = judgement.verdict
    if verdict is Verdict.FRESH:
        return (yield from _serve(job, env, patience, lease, standing))
    if verdict is Verdict.CLAIMED:
        outcome = yield from patience.take_over_if_due(lease, standing, generations)
        if outcome is None and judgement.servable():
            outcome = patience.serve_old(standing)
        return outcome or (yield from patience.wait(lease, standing, generations))
    if verdict is Verdict.BUSY and generations is not None:
        return (yield from patience.wait(lease, standing, generations))
    if verdict is Verdict.THROTTLED:
        return patience.serve_old(standing)
    if verdict is Verdict.WON:
        return ((yield from renew(job, env, lease, standing, patience)),)
    if verdict is Verdict.PASS and judgement.header is not None:
        patience.missed(verdict.value)
        return ((yield from pass_by(job, env, lease, judgement.age_ms, judgement.header.ttl_ms)),)
    if verdict is Verdict.MINE and generations is not None:
        patience.missed(verdict.value)
        return ((yield from fill(job, env, lease)),)
    if verdict is Verdict.MINE:
        # Nothing can be stored without the generations, and whoever waits for the lease would wait for nothing.
        yield from give_back(job, env, lease.cas)
    return None


def _serve(job: Job, env: Env, patience: Patience, lease: Lease, standing: Standing) -> Flow[tuple[Any] | None]:
    """A fresh value: return it, and what else its policy or a needless claim asks for; None: it can't be read."""
    recalled: Exception | None = None
    value: Any = None
    try:
        value = job.recipe.open(standing.reply, standing.judgement)
    except DecodeError:
        return None
    except Recalled as recall:
        recalled = recall.error
        env.outdated(job.key)  # a value that is kept near is older
    patience.served(standing.judgement)
    if recalled is None:
        keep_near(job, env, standing.reply, standing.judgement, value)
    if standing.judgement.header is not None:
        hand_on(job, env, standing.judgement.header.generations, standing.since, standing.judgement.header.marks)
    if standing.reply.won:
        # The claim came too late, the value is new. The next who finds it due must be able to claim it.
        yield from put_back(job, env, lease, standing)
    elif job.recipe.terms.sliding:
        yield from slide(job, env, lease, standing)
    if recalled is not None:
        raise recalled
    return (value,)
