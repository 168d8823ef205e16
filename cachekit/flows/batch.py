"""Many keys at once, and one run of a loader for those that are missing.

::

    one window of reads     what is plainly fresh is served
    the others, together    each by ``call`` or ``fill``, as a single call would go; see ``together``
        windows             claims on what is due, leases on what is void
        one run             of the loader, for all that this caller is to load, under a lease each or under none
        one window          of stores, each under its own lease
        waits               for those that somebody else loads, when our own are stored

An id that the loader leaves out is absent: that is stored too, as a note, and ``NOTHING`` stands for it.
"""

# Annotations are not postponed here, as in the other flows.

from collections.abc import Callable
from enum import Enum
from functools import partial
from itertools import chain
from typing import Any, Final

from cachekit.codecs import Packer
from cachekit.codecs.note import ABSENT, NOTE_FLAGS
from cachekit.env import Env, Job
from cachekit.errors import DecodeError, ServerError, Unreachable
from cachekit.expiry import Ttl, lifetime_s
from cachekit.flows.alone import inside_itself, run_uncached, run_unprotected
from cachekit.flows.call import call
from cachekit.flows.fill import fill, refresh
from cachekit.flows.lease import Lease, keep_near
from cachekit.flows.marks import hand_on
from cachekit.flows.shared import SharedEnv, lot_size
from cachekit.flows.tell import Request, tell
from cachekit.flows.together import ComputeAll, Together, nobody_runs
from cachekit.generations import numbers
from cachekit.meta import Reply
from cachekit.ops import Exchange, Flow, Gather, Replies
from cachekit.policy import Judgement, Verdict
from cachekit.recipe import Packed, Recipe
from cachekit.types import UNSET, Unset


class _Nothing(Enum):
    NOTHING = "NOTHING"


NOTHING: Final = _Nothing.NOTHING
"""The value of an id that the loader knows nothing of."""


class LoaderPacker(Packer):
    """A packer that also knows what is not there."""

    def pack(self, value: object) -> tuple[int, bytes]:
        return (NOTE_FLAGS, ABSENT) if value is NOTHING else super().pack(value)

    def unpack(self, client_flags: int, payload: bytes) -> object:
        return NOTHING if client_flags == NOTE_FLAGS and payload == ABSENT else super().unpack(client_flags, payload)


class LoaderRecipe(Recipe):
    """How a loader's entries are kept: ``base``'s way, and absent ids for ``absent_ttl``."""

    __slots__ = ("absent_ttl",)

    def __init__(self, base: Recipe, absent_ttl: Ttl) -> None:
        for name in Recipe.__slots__:
            setattr(self, name, getattr(base, name))
        packer = base.packer
        self.packer = LoaderPacker(packer.codec, packer.compression)
        # A loader's failure is the whole run's, and no answer about one id.
        self.terms = base.terms._replace(errors=())
        self.absent_ttl = absent_ttl

    def pack(
        self,
        value: Any,
        now: Callable[[], float],
        random: Callable[[], float],
        ttl: Ttl | Unset = UNSET,
    ) -> Packed:
        if value is not NOTHING:
            return super().pack(value, now, random, ttl)
        # A ttl that is a function of the value can't be asked about none.
        chosen = self.absent_ttl if ttl is UNSET or callable(ttl) else ttl
        lifetime = lifetime_s(chosen, now=now(), jitter=self.jitter, random=random)
        return Packed((NOTE_FLAGS, ABSENT), lifetime, "ttl 0" if lifetime == 0 else "")


def batch(jobs: list[Job], env: Env, compute: ComputeAll) -> Flow[list[Any]]:
    """The values of ``jobs``, all of one recipe and no key twice, in their order. ``compute`` runs the loader for those
    at the positions that it is given, at most once but where others' runs come to nothing. Raises what that raised.
    """
    if env.near is None or jobs[0].recipe.near is None:
        return (yield from _batch(jobs, env, compute))
    from cachekit.flows.nearby import near_values  # noqa: PLC0415 - few loaders have a near tier

    values = near_values(jobs, env)
    others = [position for position in range(len(jobs)) if position not in values]
    if others:
        asked = [jobs[position] for position in others]
        loaded = yield from _batch(asked, env, lambda at: compute([others[position] for position in at]))
        values.update(zip(others, loaded, strict=True))
    return [values[position] for position in range(len(jobs))]


def _batch(jobs: list[Job], env: Env, compute: ComputeAll) -> Flow[list[Any]]:
    """The same for those that are not near."""
    window = _Window(jobs, env)
    interrupt: BaseException | None = None
    try:
        yield from window.read()
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001 - raised by ``values``, when the leases won so far are given back
        interrupt = error
    values = window.values
    positions = sorted(window.flows)
    flows = [window.flows[position] for position in positions]
    loaded = yield from Together(flows, positions, window.env, compute).values(interrupt)
    for position, value in zip(positions, loaded, strict=True):
        values[position] = value
    return values


class _Window:
    """The first look at every key: values that are plainly fresh, and flows for all the others, by position."""

    def __init__(self, jobs: list[Job], env: Env) -> None:
        self.jobs = jobs
        self.recipe = jobs[0].recipe
        self.env = SharedEnv(env, self.recipe)
        self.values: list[Any] = [NOTHING] * len(jobs)
        self.flows: dict[int, Flow[Any]] = {}

    def read(self) -> Flow[None]:
        """Ask every server for its keys, batch after bounded batch, with one question for the generations in each."""
        waiting = self._by_server()
        size = lot_size(self.jobs)
        while waiting:
            lots = {server: positions[:size] for server, positions in waiting.items()}
            waiting = {server: rest for server, all_ in waiting.items() if (rest := all_[size:])}
            try:
                outcomes = yield Gather(tuple(self._exchange(server, lot) for server, lot in lots.items()))
                for lot, outcome in zip(lots.values(), outcomes, strict=True):
                    if isinstance(outcome, ServerError):
                        self._lost(lot, outcome)
                    else:
                        self._look(lot, outcome)
            except BaseException:
                # Interrupted: leases may have been in what nobody looks at any more.
                for position in chain(*lots.values()):
                    if position not in self.flows:
                        self.env.read_lost(self.jobs[position].key)
                raise

    def _by_server(self) -> dict[int, list[int]]:
        waiting: dict[int, list[int]] = {}
        for position, job in enumerate(self.jobs):
            if self.recipe.ttl == 0:
                self.flows[position] = run_uncached(job, self.env)
            elif inside_itself(job, self.env):
                self.flows[position] = call(job, self.env, None)
            else:
                waiting.setdefault(job.server, []).append(position)
        return waiting

    def _exchange(self, server: int, lot: list[int]) -> Exchange:
        env, jobs, read = self.env, [self.jobs[position] for position in lot], self.recipe.read
        asked = [(read(job.key, env.token, env.number(server), tags=job.tags), job.expected) for job in jobs]
        request, expected = env.together(asked)
        lost = partial(self._read_lost, lot)
        return Exchange(server, request, expected, env.token, retry=True, lost=lost)

    def _read_lost(self, lot: list[int]) -> None:
        for position in lot:
            self.env.read_lost(self.jobs[position].key)

    def _lost(self, lot: list[int], error: ServerError) -> None:
        """A server did not answer: it costs its own keys, and no others."""
        for position in lot:
            job = self.jobs[position]
            self.env.read_lost(job.key)
            if isinstance(error, Unreachable):
                # A connection that had lain idle was closed, perhaps. If it was not that, the second time says so.
                self.flows[position] = call(job, self.env, None)
                continue
            self.env.trouble(job, error)
            self.env.missed(job, "no answer")
            self.flows[position] = run_unprotected(job, self.env)

    def _look(self, lot: list[int], outcome: Replies) -> None:
        """Serve what is plainly fresh; what is plainly ours is filled, and all else goes the way of a single call."""
        env, sent_at, beta = self.env, outcome.sent_at, self.recipe.terms.beta
        for position, replies in zip(lot, env.apart(self.jobs, lot, outcome), strict=True):
            job, reply, early = self.jobs[position], replies.replies[0], False
            generations = numbers(replies.replies[1:])
            if reply.cas:
                judgement = env.judge(job, reply, generations, env.draw(beta))
                if judgement.verdict is Verdict.FRESH and self._serve(position, reply, judgement, sent_at):
                    continue
                if judgement.verdict is Verdict.MINE and generations is not None:
                    env.missed(job, "absent")
                    self.flows[position] = fill(job, env, Lease(reply.cas, sent_at, generations))
                    continue
                early = judgement.verdict is Verdict.DUE
            self.flows[position] = call(job, env, replies, early=early)

    def _serve(self, position: int, reply: Reply, judgement: Judgement, sent_at: float) -> bool:
        """Serve a fresh value, if there is nothing else to do about it."""
        if reply.won or self.recipe.terms.sliding or (judgement.header is not None and judgement.header.marks):
            return False
        try:
            self.values[position] = self.recipe.open(reply, judgement)
        except DecodeError:
            return False
        job = self.jobs[position]
        keep_near(job, self.env, reply, judgement, self.values[position])
        hand_on(job, self.env, judgement.header.generations if judgement.header is not None else (), sent_at)
        self.env.hit(job, judgement.header)
        return True


def refresh_all(jobs: list[Job], env: Env, compute: ComputeAll) -> Flow[list[Any]]:
    """Run the loader for all of ``jobs`` now, store each result under the CAS number that stood there before, and
    return them.
    """
    shared = SharedEnv(env, jobs[0].recipe)
    flows = [refresh(job, shared) for job in jobs]
    return (yield from Together(flows, range(len(jobs)), shared, compute).values())


def tell_all(jobs: list[Job], env: Env, request: Request) -> Flow[list[bool]]:
    """Send an invalidation of each entry, in common windows; whether its server has acknowledged it."""
    shared = SharedEnv(env, jobs[0].recipe)
    flows = [tell(job, shared, request) for job in jobs]
    return (yield from Together(flows, range(len(jobs)), shared, nobody_runs).values())
