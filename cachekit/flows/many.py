"""Many calls of one function: one window of reads over all servers, then each call that was not served by itself."""

from __future__ import annotations

from typing import Any

from cachekit.env import Env, Job
from cachekit.errors import DecodeError, ServerError
from cachekit.flows.call import call
from cachekit.flows.lease import Lease, Standing, keep_near, put_back
from cachekit.flows.marks import confirmed, hand_on
from cachekit.flows.shared import SharedEnv, lot_size
from cachekit.flows.together import Together, nobody_runs
from cachekit.generations import numbers
from cachekit.ops import Each, Exchange, Flow, Gather, Replies
from cachekit.policy import Judgement, Verdict
from cachekit.recipe import Recalled


def many(jobs: list[Job], env: Env) -> Flow[list[Any]]:
    """The values of ``jobs``, all of one recipe and no key twice, in their order. Raises what the function raises;
    calls that have not begun by then are not made.
    """
    reading = _Reading(jobs, env)
    yield from reading.read()
    values = reading.values
    missing = [position for position in range(len(jobs)) if position not in values]
    if missing:
        try:
            values.update(zip(missing, (yield Each(map(reading.call, missing))), strict=True))
        except GeneratorExit:
            raise
        except BaseException:
            yield from reading.give_back()
            raise
    return [values[position] for position in range(len(jobs))]


class _Reading:
    """What the window brought: ``values`` that are fresh, by position, and of the ``others`` what is known of them."""

    def __init__(self, jobs: list[Job], env: Env) -> None:
        self.jobs, self.env = jobs, env
        self.recipe = jobs[0].recipe
        self.values: dict[int, Any] = {}
        self.others: dict[int, tuple[Replies | None, bool]] = {}
        self._marked: dict[int, tuple[Replies, Judgement]] = {}
        self._shared = SharedEnv(env, self.recipe)

    def read(self) -> Flow[None]:
        """Ask every server for its keys, batch after bounded batch. No leases are asked for: whoever is to run holds
        one for as long as he runs, and not while others do.
        """
        waiting: dict[int, list[int]] = {}
        for position, job in enumerate(self.jobs):
            waiting.setdefault(job.server, []).append(position)
        size = lot_size(self.jobs)
        while waiting:
            lots = {server: positions[:size] for server, positions in waiting.items()}
            waiting = {server: rest for server, all_ in waiting.items() if (rest := all_[size:])}
            outcomes = yield Gather(tuple(self._exchange(server, lot) for server, lot in lots.items()))
            for lot, outcome in zip(lots.values(), outcomes, strict=True):
                if not isinstance(outcome, ServerError):  # else each call hears of it for itself
                    self._look(lot, outcome)
        if self._marked:
            yield from self._confirm()

    def _exchange(self, server: int, lot: list[int]) -> Exchange:
        shared = self._shared
        jobs, number, look = [self.jobs[position] for position in lot], self.env.number, self.recipe.look
        asked = [(look(job.key, shared.token, number(server), job.tags), job.expected) for job in jobs]
        request, expected = shared.together(asked)
        return Exchange(server, request, expected, shared.token, retry=True)

    def _look(self, lot: list[int], outcome: Replies) -> None:
        env, recipe = self.env, self.recipe
        for position, replies in zip(lot, self._shared.apart(self.jobs, lot, outcome), strict=True):
            reply = replies.replies[0]
            if reply.code != "VA":
                continue
            job = self.jobs[position]
            generations = numbers(replies.replies[1:])
            judgement = env.judge(job, reply, generations, env.draw(recipe.terms.beta))
            if judgement.verdict is not Verdict.FRESH or recipe.terms.sliding:
                self.others[position] = replies, judgement.verdict is Verdict.DUE
            elif judgement.header is not None and judgement.header.marks:
                self._marked[position] = replies, judgement
            else:
                self._serve(position, replies, judgement)

    def _confirm(self) -> Flow[None]:
        """Ask for the marks of all fresh entries that stand under some, in one more window."""
        marked, shared = self._marked, self._shared
        headers = {position: each.header for position, (_, each) in marked.items() if each.header is not None}
        flows = [confirmed(self.jobs[position], shared, header) for position, header in headers.items()]
        told = yield from Together(flows, headers, shared, nobody_runs).values()
        for position, (held, _) in zip(headers, told, strict=True):
            replies, judgement = marked[position]
            if held is Verdict.FRESH:
                self._serve(position, replies, judgement)
            else:
                self.others[position] = replies, False

    def _serve(self, position: int, replies: Replies, judgement: Judgement) -> None:
        """Serve a fresh value; where that can't be, its own call will say what is to be done."""
        job, header = self.jobs[position], judgement.header
        try:
            self.values[position] = self.recipe.open(replies.replies[0], judgement)
        except (DecodeError, Recalled):
            self.others[position] = replies, False
            return
        keep_near(job, self.env, replies.replies[0], judgement, self.values[position])
        numbers = () if header is None else header.generations
        hand_on(job, self.env, numbers, replies.sent_at, () if header is None else header.marks)
        self.env.hit(job, header)

    def call(self, position: int) -> Flow[Any]:
        """The way of one call that was not served."""
        replies, early = self.others.pop(position, (None, False))
        return call(self.jobs[position], self.env, replies, early=early)

    def give_back(self) -> Flow[None]:
        """A read may hand over the right to refresh what was invalidated softly: those calls are not made now."""
        for position, (replies, _) in self.others.items():
            job, generations = self.jobs[position], None if replies is None else numbers(replies.replies[1:])
            if replies is not None and replies.replies[0].won and generations is not None:
                reply = replies.replies[0]
                judgement = self.env.judge(job, reply, generations)
                lease = Lease(reply.cas or 0, replies.sent_at, generations)
                yield from put_back(job, self.env, lease, Standing(reply, judgement, self.env.monotonic()))
