"""The lease on an entry, and the exchanges about it: read, claim, store, give back, void."""

# Annotations are not postponed here: a NamedTuple would compile each of them as text (docs/design/imports.md).

import math
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from cachekit import meta
from cachekit.codecs.envelope import Mark
from cachekit.env import Env, Job
from cachekit.errors import DecodeError, ServerError
from cachekit.expiry import exptime
from cachekit.generations import numbers
from cachekit.meta import Reply
from cachekit.ops import Exchange, Flow, Replies
from cachekit.policy import Judgement, Verdict
from cachekit.recipe import Recalled, Snapshot, give_back_request, store_request


class Known(NamedTuple):
    """Numbers of records that the result of a run may come to stand under, read before it: by the name of the server,
    empty for the entry's own, and the wire key. ``since``: monotonic seconds before the first of them was asked for.
    """

    numbers: Mapping[tuple[str, bytes], int]
    since: float = math.inf

    def and_also(self, others: "Known") -> "Known":
        """All of these, and ``others``, which were asked for later."""
        return Known({**self.numbers, **others.numbers}, min(self.since, others.since))


NOTHING_KNOWN = Known(MappingProxyType({}))


class Lease(NamedTuple):
    """The right to store under ``cas``. ``since``: monotonic seconds before the request that got it was sent.
    ``ours``: nobody else has it and nothing else stands there, so it is ours to give back when the run raises.
    ``known``: as in ``Known``.
    """

    cas: int
    since: float
    generations: tuple[int, ...]
    ours: bool = True
    known: Known = NOTHING_KNOWN

    def knowing(self, known: Known) -> "Lease":
        """The same with what was read of marks. It is void with those numbers, too, where the server was restarted
        between: so it counts from the earlier of the two.
        """
        return self._replace(known=known, since=min(self.since, known.since))


class Standing(NamedTuple):
    """The value that stands there while a run for its successor goes on, as judged at ``seen`` (monotonic seconds).
    ``rescue``: whether it may be served where that run fails. ``since``: monotonic seconds before it was asked for.
    """

    reply: Reply
    judgement: Judgement
    seen: float
    rescue: bool = True
    since: float = 0.0

    def is_stale(self) -> bool:
        """Whether it is past its ttl, or was invalidated softly; else it was only found due early."""
        header = self.judgement.header
        return header is None or self.reply.stale or self.judgement.age_ms >= header.ttl_ms

    def rescues(self, now: float) -> bool:
        """Whether it may still be served at ``now`` (monotonic seconds) in place of a run."""
        return self.rescue and self.judgement.rescues(now - self.seen)


class ReadFailed(Exception):
    """A read failed with ``error``. Not a ``ServerError`` itself: one of those may be the function's own answer."""

    def __init__(self, error: ServerError) -> None:
        super().__init__(str(error))
        self.error = error


def keep_near(job: Job, env: Env, reply: Reply, judgement: Judgement, value: Any) -> None:
    """Keep what was read in the near tier, where it is fresh and the function has one."""
    if job.ticket is not None and judgement.verdict is Verdict.FRESH:
        from cachekit.flows.nearby import keep_served  # noqa: PLC0415 - few functions have one

        keep_served(job, env, Standing(reply, judgement, env.monotonic()), value)


def ask(exchange: Exchange) -> Flow[Replies]:
    """The replies to a read. Raises ``ReadFailed``."""
    try:
        return (yield exchange)  # type: ignore[no-any-return]
    except ServerError as error:
        raise ReadFailed(error) from error


def read(job: Job, env: Env, *, closer: bool = False) -> Exchange:
    """Ask for the value, its generations, and the lease where there is no value. ``closer``: and for how far a soft
    bump of each generation reaches.
    """
    opaque = env.opaque()
    request = job.recipe.read(job.key, opaque, env.number(job.server), closer=closer, tags=job.tags)
    return Exchange(job.server, request, job.expected, opaque, retry=True, lost=partial(env.read_lost, job.key))


def claim(job: Job, env: Env, *, closer: bool = False) -> Exchange:
    """Read again, and ask for the right to refresh what stands there. Sent once: a second one would find the first
    one's claim. ``closer``: as for ``read``.
    """
    opaque = env.opaque()
    request = job.recipe.read(job.key, opaque, env.number(job.server), claim=True, closer=closer, tags=job.tags)
    return Exchange(job.server, request, job.expected, opaque)


def void_and_read(job: Job, env: Env, cas: int) -> Exchange:
    """A void entry has no lease yet: delete exactly what was seen and read again, in one write, so that one reader
    gets it.
    """
    opaque = env.opaque()
    again = job.recipe.read(job.key, opaque, env.number(job.server), tags=job.tags)
    request = give_back_request(job.key, cas, opaque) + again
    return Exchange(job.server, request, 1 + job.expected, opaque, skip=1)


def mark_and_read(job: Job, env: Env, cas: int) -> Exchange:
    """An entry under a generation that was bumped softly: mark exactly what was seen as stale and read again, in one
    write, so that one reader gets the right to refresh it.
    """
    opaque = env.opaque()
    number = env.number(job.server)
    again = job.recipe.read(job.key, opaque, env.number(job.server), closer=True, tags=job.tags)
    how = b"I C%d E%d O%d" % (cas, number, opaque) if number else b"I C%d O%d" % (cas, opaque)
    return Exchange(job.server, meta.md(job.key, how) + again, 1 + job.expected, opaque, skip=1)


def store(
    job: Job,
    env: Env,
    lease: Lease,
    packed: tuple[int, bytes],
    lifetime_s: float | None,
    ran_s: float,
    marks: tuple[Mark, ...] = (),
) -> Flow[str]:
    """Store a result under the lease; "" or the reason why it was not stored."""
    # No generator of its own: this is on every miss's way.
    snapshot = Snapshot(lease.generations, env.now(), marks)
    return send(job, env, lease, job.recipe.seal(job.key, packed, lifetime_s, snapshot, ran_s))


def send(job: Job, env: Env, lease: Lease, sealed: tuple[int, bytes, int]) -> Flow[str]:
    """Store what was sealed under the lease; "" or the reason why it was not stored. Never retried: it may have gone
    through.
    """
    if len(sealed[1]) > job.recipe.max_value_bytes:
        return f"too large: {len(sealed[1])} bytes, and max_value is {job.recipe.max_value_bytes}"
    opaque = env.opaque()
    request = store_request(job.key, sealed, lease.cas, opaque, env.number(job.server))
    try:
        replies: Replies = yield Exchange(job.server, request, 1, opaque, False, lease.since)
    except ServerError as error:
        env.trouble(job, error)
        return "lost"
    reply = replies.replies[0]
    if reply.code == "HD":
        return ""
    return f"refused: {reply.error}" if reply.code == "ERROR" else "superseded"


def give_back(job: Job, env: Env, cas: int) -> Flow[None]:
    """Let the next reader fill: nothing will be stored under this lease, and what stood there is outdated.

    Unlike a store it may go over a new connection: whatever it deletes by mistake is only computed again.
    """
    opaque = env.opaque()
    request = give_back_request(job.key, cas, opaque)
    try:
        yield Exchange(job.server, request, 1, opaque, retry=True)
    except ServerError as error:
        env.trouble(job, error)


def put_back(job: Job, env: Env, lease: Lease, standing: Standing, throttle_s: float = 0.0) -> Flow[None]:
    """Give the claim on a value back, and keep the value: stored again as it is, it can be claimed by the next reader,
    at the earliest in ``throttle_s`` seconds.
    """
    if (sealed := _as_it_was(job, env, standing, throttle_s)) is None:
        return (yield from give_back(job, env, lease.cas))
    if (yield from send(job, env, lease, sealed)) != "lost":
        return
    # The connection that the claim was given on is gone, perhaps. Where the same value stands there still, under the
    # same number, what we see of it on another one will do.
    try:
        replies: Replies = yield read(job, env)
    except ServerError as error:
        return env.trouble(job, error)
    reply, header = replies.replies[0], standing.judgement.header
    again = job.recipe.judge(reply, numbers(replies.replies[1:]), job.key, env.now()).header
    if reply.cas == lease.cas and again is not None and header is not None and again.created_ms == header.created_ms:
        yield from send(job, env, lease._replace(since=replies.sent_at), sealed)
    elif reply.won and reply.cas:
        yield from give_back(job, env, reply.cas)


def _as_it_was(job: Job, env: Env, standing: Standing, throttle_s: float) -> tuple[int, bytes, int] | None:
    """The standing entry as it is to be stored again; None: its time is over."""
    reply, judgement = standing.reply, standing.judgement
    header, waited_s, told_s = judgement.header, env.monotonic() - standing.seen, reply.ttl or 0
    left_s = told_s - int(waited_s)
    if header is None or (header.hard_s and left_s < 1):
        return None
    age_ms = judgement.age_ms + waited_s * 1000.0
    if header.hard_s:
        # Its end is set anew, so the age that the server sees is told anew, in step with it. It never gets less, also
        # where this machine's clock is behind and can't tell what part of a second has passed by the server's.
        behind = env.now() * 1000.0 - header.created_ms < age_ms - 500.0
        known_s = header.hard_s - told_s + int(waited_s + behind)
        header = header._replace(hard_s=min(left_s + max(known_s, round(age_ms / 1000.0)), 2**32 - 1))
    if throttle_s:
        header = header._replace(retry_ms=int(age_ms + throttle_s * 1000.0))
    if reply.stale:
        # Storing takes the mark of a soft invalidation off. Ending the ttl here keeps the value due.
        over = max(0, header.ttl_ms - int(age_ms))
        header = header._replace(ttl_ms=header.ttl_ms - over, stale_ms=header.stale_ms + over)
    until = exptime(left_s if header.hard_s else None, env.now())
    return job.recipe.reseal(reply, header, judgement.payload_at, until)


def slide(job: Job, env: Env, lease: Lease, standing: Standing) -> Flow[None]:
    """Store the same bytes again with the whole ttl before them, at most once in a tenth of it. Not by ``mg T``, which
    stretches stubs and hides a due refresh.
    """
    header, age_ms = standing.judgement.header, standing.judgement.age_ms
    if header is None or not header.slide_ms or header.ttl_ms - age_ms > 0.9 * header.slide_ms:
        return
    if standing.reply.claimed:
        return  # a new CAS number would void the refresh under way
    sealed = job.recipe.slid(standing.reply, header, standing.judgement.payload_at, age_ms, env.now())
    yield from send(job, env, lease, sealed)


def opened(job: Job, standing: Standing) -> tuple[Any] | None:
    """The standing value in a 1-tuple; None where it can't be read, or is a failure."""
    if standing.judgement.verdict is Verdict.GARBAGE:
        return None
    try:
        return (job.recipe.open(standing.reply, standing.judgement),)
    except (DecodeError, Recalled):
        return None
