"""Somebody else runs the function: wait for him, take over from him, or stop waiting."""

# Annotations are not postponed here, as in the other flows.

from typing import Any

from cachekit.env import Env, Job
from cachekit.flights import Flight
from cachekit.flows.alone import join, longest_wait_s, outcome_of, relieve, run_unprotected
from cachekit.flows.caller import Caller
from cachekit.flows.fill import fill
from cachekit.flows.lease import Lease, Standing, ask, opened
from cachekit.flows.refresh import renew
from cachekit.ops import Exchange, Flow, Sleep
from cachekit.policy import Judgement, lease_age_s
from cachekit.recipe import take_over_request


class Patience(Caller):
    """How one caller waits for another's run: first for a flight of this process, else by asking again with growing
    pauses.
    """

    __slots__ = ("began", "limit_s", "rounds")

    def __init__(self, job: Job, env: Env) -> None:
        super().__init__(job, env)
        self.began: float | None = None
        self.rounds = 0
        self.limit_s = longest_wait_s(env)

    def served(self, judgement: Judgement) -> None:
        """A stored value came in the end: after a wait, or as an ordinary hit that took the long way."""
        if self.began is not None:
            self.missed("being filled")
            self.env.waited(self.job, self.env.waiting() - self.began)
        elif not self._counted:
            self.env.hit(self.job, judgement.header)

    def wait(self, lease: Lease, standing: Standing, generations: tuple[int, ...] | None) -> Flow[tuple[Any] | None]:
        """One turn of waiting for the run under ``lease``. Returns a value in a 1-tuple, or None: read again.

        ``standing``: what was read; an old value among it may be served after the policy's soft timeout.
        """
        job, env = self.job, self.env
        now = env.waiting()
        if self.began is None:
            self.began = now
        waited = now - self.began
        if waited >= self.limit_s:
            self.missed("being filled")
            return ((yield from run_unprotected(job, env, lease)),)
        left = self.limit_s - waited
        soft = job.recipe.terms.soft_timeout_s
        softly = soft is not None and standing.rescues(env.monotonic()) and opened(job, standing) is not None
        if soft is not None and softly:
            if waited >= soft:
                return self.serve_old(standing)
            left = min(left, soft - waited)
        else:
            self.missed("being filled")
        flight = env.flights.find(job.key, lease.cas)
        # invalidate_all leaves the stub as it is; a run under the generations before it is not for this caller.
        if flight is not None and flight.generations in (None, generations):
            return (yield from self._join(flight, lease, left, softly))
        outcome = yield from self.take_over_if_due(lease, standing, generations)
        if outcome is not None:
            return outcome
        yield Sleep(self._pause_s(waited, standing))
        return None

    def _pause_s(self, waited: float, standing: Standing) -> float:
        """Seconds to the next look: short at first, growing with the wait, and short again about when the run should
        end, by how long it took the last time.
        """
        header = standing.judgement.header
        delta_s = header.delta_us / 1e6 if header is not None else self.job.recipe.delta_s
        pause = min(0.05, max(0.001, waited / 50))
        if delta_s:
            pause = min(pause, max(0.002, abs(delta_s - waited) / 8))
        return pause * (0.5 + self.env.random())

    def _join(self, flight: Flight, lease: Lease, timeout_s: float, softly: bool) -> Flow[tuple[Any] | None]:
        """Wait for a run of this process. ``softly``: there is something to serve when the time is up."""
        job, env = self.job, self.env
        lease_s = job.recipe.lease_s
        landed = yield from join(env, flight, min(timeout_s, lease_s))
        if landed is False and softly:
            return None
        if landed is None or (not landed and timeout_s <= lease_s):
            return ((yield from run_unprotected(job, env, lease)),)
        if not landed:
            # The pilot is slow, or waits for this very caller in a way that nobody sees (a thread of his own making).
            return ((yield from relieve(job, env, flight, lease.cas)),) if env.flights.relieve(flight) else None
        if (flight.landed and not flight.again) or flight.error is not None:
            self.missed("being filled")
            env.waited(job, env.waiting() - (self.began or 0.0))
            return ((yield from outcome_of(job, env, flight)),)
        return None

    def take_over_if_due(
        self, lease: Lease, standing: Standing, generations: tuple[int, ...] | None
    ) -> Flow[tuple[Any] | None]:
        """Run in the place of a filler or refresher who is dead or slow, if this caller is the one to do it. The run
        stores under the same CAS, so the first store counts.
        """
        job, env = self.job, self.env
        reply, header = standing.reply, standing.judgement.header
        # The server's clock ticks in whole seconds. A stub that was touched, another program's empty value, and a
        # claimed value do not tell the lease's age: then what counts is how long this process has seen the same one.
        age_s = env.seen_for_s(job.key, lease.cas)
        delta_s = job.recipe.delta_s if header is None else header.delta_us / 1e6
        if header is None and not reply.stale:  # an expired stub is given anew, long after it was made
            age_s = max(lease_age_s(reply, job.recipe.stub_s) - 1, age_s)
        if generations is None:
            return None
        lost = env.lost_with(job.key, lease_age_s(reply, job.recipe.stub_s) if header is None else None)
        if age_s < max(job.recipe.lease_s, 3 * delta_s) and not lost:
            return None
        # A run that outlasts the lease outlasts its heirs' leases too; so each of those is longer than the one before.
        lease_s = max(job.recipe.lease_s, 3 * delta_s, 0 if lost else 2 * age_s)
        opaque = env.opaque()
        request = take_over_request(job.key, lease_s, opaque)
        replies = yield from ask(Exchange(job.server, request, 1, opaque))
        if replies.replies[0].code != "HD":
            return None
        env.forget_seen(job.key)
        if header is not None:
            return ((yield from renew(job, env, lease, standing, self)),)
        self.missed("being filled")
        return ((yield from fill(job, env, lease)),)
