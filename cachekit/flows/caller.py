"""How one call ends in the counts: as one hit or one miss, whatever it went through."""

from __future__ import annotations

from typing import Any

from cachekit.env import Env, Job
from cachekit.flows.lease import Standing, opened
from cachekit.flows.marks import hand_on


class Caller:
    """One call, counted once."""

    __slots__ = ("_counted", "env", "job")

    def __init__(self, job: Job, env: Env) -> None:
        self.job, self.env = job, env
        self._counted = False

    def missed(self, reason: str) -> None:
        """Nothing usable is stored."""
        if not self._counted:
            self._counted = True
            self.env.missed(self.job, reason)

    def serve_old(self, standing: Standing) -> tuple[Any] | None:
        """The standing value in a 1-tuple, served while somebody refreshes it; None: it can't be read."""
        old = opened(self.job, standing)
        if old is not None:
            self.old_served(standing)
        return old

    def old_served(self, standing: Standing) -> None:
        """The standing value was served, perhaps after a wait that was counted as a miss."""
        stale, header = standing.is_stale(), standing.judgement.header
        if header is not None:
            hand_on(self.job, self.env, header.generations, standing.since, header.marks)
        if self._counted:
            self.job.recipe.tally.stale += stale
        else:
            self._counted = True
            self.env.hit(self.job, standing.judgement.header, stale=stale)
