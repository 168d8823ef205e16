"""The multi-step stories, written once for threads and for asyncio: what happens when a read was not plainly fresh.

A caller with a cold key goes through ``call``: it judges the reply, and then fills, waits for whoever does, or voids
what stands there and asks for the lease again. Whoever holds a lease goes through ``fill``: run the function, store
under the lease's CAS number, or give the lease back. Nobody stores without a CAS that he held before the function
began, so nothing newer is ever overwritten.

The lease: ``mg … N<stub>`` makes an empty item, the stub, and gives the W flag to exactly one caller; an invalidation
deletes the stub, and with it the CAS number that the fill under way would store under. See memcached's protocol.txt,
"Meta Get", and "Scaling Memcache at Facebook" (NSDI 2013) §3.2.1.
"""

# Annotations are not postponed here: a NamedTuple would compile each of them as text (docs/design/imports.md).

from contextvars import ContextVar
from typing import Any, NamedTuple

from cachekit.env import Env, Job
from cachekit.errors import DecodeError, ServerError
from cachekit.flights import Flight, Flights
from cachekit.meta import Reply
from cachekit.ops import Compute, Exchange, Flow, Join, Replies, Sleep
from cachekit.policy import Judgement, Verdict, lease_age_s
from cachekit.recipe import Snapshot, give_back_request, numbers, store_request, take_over_request

_ROUNDS = 64
"""Times that a call may find something void under its hands before it stops fighting for the lease and just runs."""

_FOREVER_S = 3600.0


class Filling(NamedTuple):
    """A fill that the current context is inside of. ``ends``: monotonic seconds at which its lease may be taken
    over.
    """

    flights: Flights
    key: bytes
    ends: float


FILLING: ContextVar[tuple[Filling, ...]] = ContextVar("cachekit_filling", default=())
"""The fills around the current code, outermost first: a fill that calls itself must not wait for itself."""


class Lease(NamedTuple):
    """The right to store under ``cas``. ``since``: monotonic seconds before the request that got it was sent.
    ``ours``: nobody else has it and nothing else stands there, so it is ours to give back when the run raises.
    """

    cas: int
    since: float
    generations: tuple[int, ...]
    ours: bool = True


def call(job: Job, env: Env, replies: Replies | None) -> Flow[Any]:
    """The value of ``job``, whatever its first read said; ``replies`` None: nothing was read yet."""
    if inside_itself(job, env):
        return (yield from _run_bare(job, env))
    patience = _Patience(job, env)
    try:
        return (yield from _compete(job, env, patience, replies))
    except _ReadFailed as failure:
        env.trouble(job, failure.error)
        patience.missed("no answer")
        return (yield from run_unprotected(job, env))


def without_server(job: Job, env: Env) -> Flow[Any]:
    """The value of ``job`` when its server was asked and did not answer."""
    if inside_itself(job, env):
        return (yield from _run_bare(job, env))
    return (yield from run_unprotected(job, env))


def inside_itself(job: Job, env: Env) -> bool:
    """Whether the current code runs inside a fill of the same entry: then it must run, and not wait for itself."""
    inside = FILLING.get()
    return bool(inside) and any(outer.flights is env.flights and outer.key == job.key for outer in inside)


class _ReadFailed(Exception):
    """A read failed with ``error``. Not a ``ServerError`` itself: one of those may be the function's own answer."""

    def __init__(self, error: ServerError) -> None:
        super().__init__(str(error))
        self.error = error


def _ask(exchange: Exchange) -> Flow[Replies]:
    try:
        return (yield exchange)  # type: ignore[no-any-return]
    except ServerError as error:
        raise _ReadFailed(error) from error


def _compete(job: Job, env: Env, patience: "_Patience", replies: Replies | None) -> Flow[Any]:
    """Read, judge and act until there is a value: a stored one, somebody else's, or one's own."""
    while patience.rounds < _ROUNDS:
        if replies is None:
            replies = yield from _ask(_read(job, env))
        reply, generations = replies.replies[0], numbers(replies.replies[1:])
        if reply.cas == 0:
            env.without_cas(job)
            patience.missed("no CAS")
            break
        judgement = job.recipe.judge(reply, generations, job.key, env.now())
        if judgement.verdict is Verdict.FRESH:
            try:
                value = job.recipe.open(reply, judgement)
            except DecodeError:
                judgement = Judgement(Verdict.GARBAGE)
            else:
                patience.served(judgement)
                return value
        verdict = judgement.verdict
        patience.missed(verdict.value)
        if verdict is Verdict.MINE and reply.cas is not None and generations is not None:
            return (yield from fill(job, env, Lease(reply.cas, replies.sent_at, generations)))
        if verdict is Verdict.MINE and reply.cas is not None:
            # Nothing can be stored without the generations, and whoever waits for the lease would wait for nothing.
            yield from _give_back(job, env, reply.cas, env.flights)
            break
        if verdict is Verdict.BUSY:
            outcome = yield from patience.wait(reply, replies.sent_at, generations)
            if outcome is not None:
                return outcome[0]
            replies = None
        elif verdict is Verdict.AHEAD and not patience.rounds:
            patience.rounds += 1
            replies = None
        elif verdict in _VOIDABLE and reply.cas is not None:
            patience.rounds += 1
            replies = yield from _ask(_void_and_read(job, env, reply.cas))
        else:
            break
    return (yield from run_unprotected(job, env))


_VOIDABLE = frozenset({Verdict.EXPIRED, Verdict.VOID, Verdict.GARBAGE, Verdict.AHEAD})


class _Patience:
    """How one caller waits for another's fill: first for a flight of this process, else by asking again with growing
    pauses.
    """

    __slots__ = ("_missed", "_seen", "began", "env", "job", "limit", "rounds")

    def __init__(self, job: Job, env: Env) -> None:
        self.job, self.env = job, env
        self.began: float | None = None
        self.rounds = 0
        self._missed = False
        self._seen: tuple[int | None, float] = (None, 0.0)
        self.limit = _FOREVER_S
        # Inside another fill, wait at most half of what is left of its lease: two processes whose fills want each
        # other's value would otherwise wait for ever.
        outer = FILLING.get()
        if outer:
            self.limit = max(0.0, (min(frame.ends for frame in outer) - env.monotonic()) / 2)

    def missed(self, reason: str) -> None:
        """Nothing usable is stored; counted once a call."""
        if not self._missed:
            self._missed = True
            self.env.missed(self.job, reason)

    def served(self, judgement: Judgement) -> None:
        """A stored value came in the end: after a wait, or as an ordinary hit that took the long way."""
        if self.began is not None:
            self.env.waited(self.job, self.env.monotonic() - self.began)
        elif not self._missed:
            self.env.hit(self.job, judgement.header)

    def wait(self, reply: Reply, sent_at: float, generations: tuple[int, ...] | None) -> Flow[tuple[Any] | None]:
        """One turn of waiting. Returns a value in a 1-tuple, or None: read again."""
        job, env = self.job, self.env
        now = env.monotonic()
        if self.began is None:
            self.began = now
        waited = now - self.began
        if waited >= self.limit:
            return ((yield from run_unprotected(job, env)),)
        flight = env.flights.find(job.key, reply.cas)
        # invalidate_all leaves the stub as it is; a run under the generations before it is not for this caller.
        if flight is not None and flight.generations in (None, generations):
            return (yield from self._join(flight, reply.cas, self.limit - waited))
        if reply.cas != self._seen[0]:
            self._seen = (reply.cas, now)
        # The server's clock ticks in whole seconds. A stub that was touched, or another program's empty value, does not
        # tell its age: then what counts is how long this caller has seen the same one.
        age_s = max(lease_age_s(reply, job.recipe.stub_s) - 1, now - self._seen[1])
        if age_s >= job.recipe.lease_s and reply.cas is not None and generations is not None:
            outcome = yield from self._take_over(Lease(reply.cas, sent_at, generations))
            if outcome is not None:
                return outcome
        yield Sleep(min(0.05, max(0.001, waited / 16)) * (0.5 + env.random()))
        return None

    def _join(self, flight: Flight, cas: int | None, timeout_s: float) -> Flow[tuple[Any] | None]:
        job, env = self.job, self.env
        lease_s = job.recipe.lease_s
        landed = yield Join(flight, min(timeout_s, lease_s))
        if landed is None or (not landed and timeout_s <= lease_s):
            return ((yield from run_unprotected(job, env)),)
        if not landed:
            # The pilot is slow, or waits for this very caller in a way that nobody sees (a thread of his own making).
            return ((yield from _relieve(job, env, flight, cas)),) if env.flights.relieve(flight) else None
        if flight.landed or flight.error is not None:
            env.waited(job, env.monotonic() - (self.began or 0.0))
            return ((yield from outcome_of(job, env, flight)),)
        return None

    def _take_over(self, lease: Lease) -> Flow[tuple[Any] | None]:
        """The filler is dead or slow: one waiter runs in his place, and stores under the same CAS, so the first
        store counts.
        """
        job, env = self.job, self.env
        opaque = env.opaque()
        request = take_over_request(job.key, job.recipe.lease_s, opaque)
        replies = yield from _ask(Exchange(job.server, request, 1, opaque))
        if replies.replies[0].code != "HD":
            return None
        return ((yield from fill(job, env, lease)),)


def _relieve(job: Job, env: Env, flight: Flight, cas: int | None) -> Flow[Any]:
    """Run beside the pilot, and land his flight for everybody who waits for it."""
    try:
        value = yield from _run_bare(job, env)
    except Exception as error:
        env.flights.crash(job.key, cas, error, flight)
        del flight  # as in fill
        raise
    env.flights.land(job.key, cas, job.recipe.pack(value, env.now, env.random)[0], flight)
    return value


def outcome_of(job: Job, env: Env, flight: Flight) -> Flow[Any]:
    """What an ended flight gives its waiters: a copy of their own, or its exception.

    A value that can't be copied is the pilot's alone (a generator can be read but once, a connection used by one
    thread), so there each waiter runs the function himself, all at the same time.
    """
    if flight.error is not None:
        raise flight.error
    if flight.payload is not None:
        try:
            return job.recipe.packer.unpack(*flight.payload)
        except DecodeError:
            pass  # what can be packed but not unpacked is a codec's fault, and no reason to fail
    return (yield from _run_bare(job, env))


def fill(job: Job, env: Env, lease: Lease) -> Flow[Any]:
    """Run the function under ``lease``, store what it returns, and hand it to the waiters of this process."""
    flights = env.flights
    # Another thread may pilot a flight under the same CAS (a refresh beside a fill): its waiters are then his to serve.
    flight, pilot = flights.board(job.key, lease.cas, lease.generations)
    began = env.monotonic()
    try:
        value = yield Compute(job.compute, Filling(flights, job.key, began + job.recipe.lease_s))
    except BaseException as error:
        if pilot:
            # Only an Exception is the function's answer; an interrupt is this caller's own, and the others compete
            # again.
            flights.crash(job.key, lease.cas, error if isinstance(error, Exception) else None, flight)
        del flight  # it refers to the error, whose traceback refers to this frame
        if not isinstance(error, GeneratorExit):
            env.filled(job, env.monotonic() - began, "raised")
            if lease.ours:
                yield from _give_back(job, env, lease.cas, flights)
        raise
    seconds = env.monotonic() - began
    packed: tuple[int, bytes] | None = None
    try:
        packed, lifetime, reason = job.recipe.pack(value, env.now, env.random)
        if packed is not None and not reason:
            snapshot = Snapshot(lease.generations, env.now())
            reason = yield from _store(job, env, lease, job.recipe.seal(job.key, packed, lifetime, snapshot, seconds))
        if reason not in ("", "superseded"):
            yield from _give_back(job, env, lease.cas, flights)
    finally:
        if pilot:
            flights.land(job.key, lease.cas, packed, flight)
    env.filled(job, seconds, reason)
    return value


def _store(job: Job, env: Env, lease: Lease, sealed: tuple[int, bytes, int]) -> Flow[str]:
    """Store under the lease; "" or the reason why it was not stored. Never retried: it may have gone through."""
    if len(sealed[1]) > job.recipe.max_value_bytes:
        return f"too large: {len(sealed[1])} bytes, and max_value is {job.recipe.max_value_bytes}"
    opaque = env.opaque()
    request = store_request(job.key, sealed, lease.cas, opaque)
    try:
        replies: Replies = yield Exchange(job.server, request, 1, opaque, False, lease.since)
    except ServerError as error:
        env.trouble(job, error)
        return "lost"
    reply = replies.replies[0]
    if reply.code == "HD":
        return ""
    return f"refused: {reply.error}" if reply.code == "ERROR" else "superseded"


def _give_back(job: Job, env: Env, cas: int, flights: Flights) -> Flow[None]:
    """Let the next reader fill: nothing will be stored under this lease, and what stood there is outdated.

    Unlike a store it may go over a new connection: whatever it deletes by mistake is only computed again. A child that
    was forked in the middle of the run leaves the lease to its parent.
    """
    if env.flights is not flights:
        return
    opaque = env.opaque()
    request = give_back_request(job.key, cas, opaque)
    try:
        yield Exchange(job.server, request, 1, opaque, retry=True)
    except ServerError as error:
        env.trouble(job, error)


def run_unprotected(job: Job, env: Env) -> Flow[Any]:
    """Run without a lease and store nothing: the server can't be asked. Still once among the threads of this
    process.
    """
    flight, pilot = env.flights.board(job.key, None)
    if not pilot:
        return (yield from _wait_unprotected(job, env, flight))
    try:
        value = yield from _run_bare(job, env)
    except BaseException as error:
        env.flights.crash(job.key, None, error if isinstance(error, Exception) else None, flight)
        del flight  # as in fill
        raise
    packed = None
    env.flights.forget(job.key)  # for who joined after the next line nothing would be packed
    if flight.waiters:
        packed, _, _ = job.recipe.pack(value, env.now, env.random)
    env.flights.land(job.key, None, packed, flight)
    return value


def _wait_unprotected(job: Job, env: Env, flight: Flight) -> Flow[Any]:
    """Wait for a run without a lease; where it takes long, one more waiter a lease stops waiting and runs himself."""
    began, lease_s, left = env.monotonic(), job.recipe.lease_s, _Patience(job, env).limit
    for turn in range(1, _ROUNDS):
        landed = yield Join(flight, min(left, lease_s))
        if landed and (flight.landed or flight.error is not None):
            env.waited(job, env.monotonic() - began)
            return (yield from outcome_of(job, env, flight))
        if landed is not False or left <= lease_s:
            break
        if env.flights.relieve(flight, turn):
            return (yield from _relieve(job, env, flight, None))
        left -= lease_s
    return (yield from _run_bare(job, env))


def _run_bare(job: Job, env: Env) -> Flow[Any]:
    """Just run the function, and count it."""
    began = env.monotonic()
    value = yield Compute(job.compute, Filling(env.flights, job.key, began + job.recipe.lease_s))
    env.filled(job, env.monotonic() - began, "no lease")
    return value


def refresh(job: Job, env: Env) -> Flow[Any]:
    """Run now, whatever is stored, and store the result under the CAS number that stood there before the run."""
    try:
        replies: Replies = yield _read(job, env)
    except ServerError as error:
        env.trouble(job, error)
        return (yield from _run_bare(job, env))
    reply, generations = replies.replies[0], numbers(replies.replies[1:])
    if not reply.cas or generations is None:
        if reply.won and reply.cas:
            yield from _give_back(job, env, reply.cas, env.flights)
        return (yield from _run_bare(job, env))
    return (yield from fill(job, env, Lease(reply.cas, replies.sent_at, generations, ours=reply.won)))


def _read(job: Job, env: Env) -> Exchange:
    opaque = env.opaque()
    request = job.recipe.read(job.key, opaque)
    return Exchange(job.server, request, 1 + len(job.recipe.generations), opaque, retry=True)


def _void_and_read(job: Job, env: Env, cas: int) -> Exchange:
    """A void entry has no lease yet: delete exactly what was seen and read again, in one write, so that one reader
    gets it.
    """
    opaque = env.opaque()
    request = give_back_request(job.key, cas, opaque) + job.recipe.read(job.key, opaque)
    return Exchange(job.server, request, 2 + len(job.recipe.generations), opaque, skip=1)
