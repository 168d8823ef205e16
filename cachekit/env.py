"""What every flow of one cache has at hand: clocks, tokens, the flights of this process, and where to report.

Reporting is in one place so that the counts, the hooks and the log always tell the same: each failure, miss, wait and
fill passes through exactly one of the methods below, whichever shell drives the flow.
"""

# Annotations are not postponed here: a NamedTuple would compile each of them as text (docs/design/imports.md).

import itertools
import logging
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from cachekit.codecs.envelope import Header
from cachekit.flights import Flights
from cachekit.hooks import Fill, Hit, Hooks, Miss, Trouble, Wait
from cachekit.recipe import Recipe

logger = logging.getLogger("cachekit")

_WARNED_REASONS = ("unencodable", "too large", "refused", "no ttl")


class Job(NamedTuple):
    """One call: which entry it concerns, on which server, and how to compute its value. Arguments stay inside
    ``compute``.
    """

    recipe: Recipe
    key: bytes
    server: int
    compute: Callable[[], Any]


class Env:
    """The surroundings of one cache's flows.

    ``now`` gives seconds since the epoch, ``monotonic`` seconds of a clock that never jumps, ``random`` numbers from 0
    to below 1.
    """

    def __init__(self, server_names: tuple[str, ...], hooks: Hooks) -> None:
        self.server_names = server_names
        self.hooks = hooks
        self.flights = Flights()
        self.now = time.time
        self.monotonic = time.monotonic
        self.random = random.random
        self.opaques = itertools.count(1)
        self._without_cas: set[int] = set()

    def opaque(self) -> int:
        """A token that no other request in flight bears."""
        return next(self.opaques)

    def forked(self) -> None:
        """This is a child process now: the parent's runs under way will never land here."""
        self.flights = Flights()

    def trouble(self, job: Job, error: Exception) -> None:
        """An exchange for ``job`` failed; its caller will not notice."""
        job.recipe.tally.errors += 1
        if self.hooks.on_trouble.listeners:
            self.hooks.on_trouble.emit(Trouble(self.server_names[job.server], error))

    def without_cas(self, job: Job) -> None:
        """The server was started with -C: without CAS numbers there are no leases and no generations."""
        job.recipe.tally.errors += 1
        if job.server not in self._without_cas:
            self._without_cas.add(job.server)
            name = self.server_names[job.server]
            logger.warning("memcached server %s runs with -C, without CAS numbers: nothing is cached there", name)

    def hit(self, job: Job, header: Header | None) -> None:
        """A stored value was served that did not come by the hit path."""
        tally = job.recipe.tally
        tally.hits += 1
        if header is not None:
            tally.saved_us += header.delta_us
        if self.hooks.on_hit.listeners:
            age_s = 0.0 if header is None else max(0.0, self.now() - header.created_ms / 1000.0)
            self.hooks.on_hit.emit(Hit(job.recipe.name, job.key.decode(), self.server_names[job.server], age_s))

    def missed(self, job: Job, reason: str) -> None:
        """Nothing stored could be used."""
        job.recipe.tally.misses += 1
        if self.hooks.on_miss.listeners:
            self.hooks.on_miss.emit(Miss(job.recipe.name, job.key.decode(), self.server_names[job.server], reason))

    def waited(self, job: Job, seconds: float) -> None:
        """The caller was served by somebody else's run, after ``seconds``."""
        job.recipe.tally.waits += 1
        if self.hooks.on_wait.listeners:
            self.hooks.on_wait.emit(Wait(job.recipe.name, job.key.decode(), seconds))

    def filled(self, job: Job, seconds: float, reason: str) -> None:
        """The function ran for ``seconds``; its result was stored, or not for ``reason``."""
        tally = job.recipe.tally
        tally.fills += 1
        if reason:
            tally.unstored += 1
            self._warn_once(job, reason)
        if self.hooks.on_fill.listeners:
            self.hooks.on_fill.emit(Fill(job.recipe.name, job.key.decode(), seconds, not reason, reason))

    def _warn_once(self, job: Job, reason: str) -> None:
        kind = reason.partition(":")[0]
        if kind in _WARNED_REASONS and kind not in job.recipe.warned:
            job.recipe.warned.add(kind)
            logger.warning("a result of %s was not stored under %s: %s", job.recipe.name, job.key.decode(), reason)
