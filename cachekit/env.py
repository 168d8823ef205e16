"""What every flow of one cache has at hand: clocks, tokens, the flights of this process, and where to report.

Reporting is in one place so that the counts, the hooks and the log always tell the same: each failure, miss, wait and
fill passes through exactly one of the methods below, whichever shell drives the flow.
"""

# Annotations are not postponed here: a NamedTuple would compile each of them as text (docs/design/imports.md).

import itertools
import logging
import math
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from cachekit.codecs.envelope import Header
from cachekit.flights import Flights
from cachekit.hooks import Fill, Hit, Hooks, Miss, Trouble, Wait
from cachekit.meta import Reply, md
from cachekit.policy import STANDS, Judgement, Verdict
from cachekit.recipe import Recipe
from cachekit.tally import Tally

if TYPE_CHECKING:
    from cachekit.near.hub import Hub
    from cachekit.near.tier import Tier

logger = logging.getLogger("cachekit")

_WARNED_REASONS = (
    "unencodable",
    "too large",
    "refused",
    "no ttl",
    "cache_if raised",
    "too many groups",
    "other cache",
    "around",
    "plain value",
)
_hubs: "set[weakref.ref[Hub]]" = set()
"""What keeps the near tiers of this process, of all its caches but those with a memory of their own. There is no lock,
which a signal handler, the garbage collector or a forked child would find held: each is put in and taken out in one
step.
"""

_CLAIM_LOST_S = 30.0
"""Seconds for which a claim that this process sees may be the one in a reply that was lost before."""

_REMEMBERED = 4096
"""Keys of which a process remembers whose run it has seen, and keys whose reads were lost."""


class Job(NamedTuple):
    """One call: which entry it concerns, on which server, and how to compute its value. Arguments stay inside
    ``compute``. ``tags``: wire keys of the records that stand over this entry alone, its tags' first of all.
    ``ticket``: when the call began, where what it brings may be kept in the near tier.
    """

    recipe: Recipe
    key: bytes
    server: int
    compute: Callable[[], Any]
    tags: tuple[bytes, ...] = ()
    ticket: Any = None

    @property
    def groups(self) -> tuple[bytes, ...]:
        """Wire keys of all records that stand over the entry, in the order in which they are asked for."""
        return self.tags + self.recipe.generations

    @property
    def expected(self) -> int:
        """How many replies a read of the entry has."""
        return 1 + len(self.tags) + len(self.recipe.generations)


class Env:
    """The surroundings of one cache's flows.

    ``now`` gives seconds since the epoch, ``monotonic`` seconds of a clock that never jumps, ``random`` numbers from 0
    to below 1, ``luck`` draws of the exponential distribution with mean 1.
    """

    def __init__(self, server_names: tuple[str, ...], hooks: Hooks) -> None:
        self.server_names = server_names
        self.hooks = hooks
        self.flights = Flights()
        self.now = time.time
        self.monotonic = time.monotonic
        import random  # noqa: PLC0415 - at first need: a fiftieth of what importing the package takes

        self.random, self._bits = random.random, random.getrandbits
        self.luck: Callable[[], float] = partial(_exponential, random.random)
        self.opaques = itertools.count(1)
        self._waits_by: Callable[[], float] | None = None
        self.near: Hub | None = None
        """What keeps the near tiers, where a function has one."""
        self.explicit: set[int] = set()
        """Indexes of the servers that take a CAS number from their client."""
        self.conditional: set[int] = set()
        """Indexes of the servers that don't send what has not changed."""
        self.keep: Callable[..., None] = _keep_nothing
        self.distrust: dict[int, float] = {}
        """Seconds since 1970, by index of the server: invalidations of before then were lost, so what was created there
        before then is void for this process.
        """
        self.boots: dict[int, tuple[bytes, float]] = {}
        """By index of the server: the text that tells its numbers from those after a restart, and the monotonic seconds
        at which it was seen first.
        """
        self.private = False
        """Whether the server is the embedded one of this cache, which no other cache can ask."""
        self.watched = False
        """Whether other processes may watch the servers, so that invalidations have to show there (tombstones.py)."""
        self._without_cas: set[int] = set()
        self._seen: dict[bytes, tuple[int, float]] = {}
        self._lost: dict[bytes, float] = {}

    def leave_nothing_to_chance(self, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        """For tests: go by these clocks, and have every draw come out at its mean. Before the first read only."""
        self.now, self.monotonic = now, monotonic
        self.random, self.luck = lambda: 0.5, lambda: 1.0
        self._waits_by = time.monotonic

    def waiting(self) -> float:
        """Monotonic seconds to measure a wait by: real ones, for threads wait also where a test stops the clock."""
        return (self._waits_by or self.monotonic)()

    def opaque(self) -> int:
        """A token that no other request in flight bears."""
        return next(self.opaques)

    def number(self, server: int) -> int:
        """A CAS number for what a request makes, on servers that take one from their client (1.6.27, the E flag); else
        0. Unique in the fleet, and rising with time: such a number means the same after a restart of the server,
        whose own count begins anew.
        """
        return (time.time_ns() // 1000 << 12 | self._bits(12)) if server in self.explicit else 0

    def nonce(self) -> bytes:
        """A text that nobody else thinks of."""
        return b"%032x" % self._bits(128)

    def draw(self, beta: float) -> float:
        """How eagerly a reader refreshes early: ``β·Exp(1)``."""
        return beta * self.luck() if beta else 0.0

    def seen_for_s(self, key: bytes, cas: int) -> float:
        """Seconds since this process first saw ``key`` under the CAS number of a run that has not ended."""
        now, seen = self.monotonic(), self._seen.get(key)
        if seen is not None and seen[0] == cas:
            return now - seen[1]
        _remember(self._seen, key, (cas, now))
        return 0.0

    def forget_seen(self, key: bytes) -> None:
        """Somebody took over from that run: his own counts from now."""
        self._seen.pop(key, None)

    def read_lost(self, key: bytes) -> None:
        """A read of ``key`` was sent and its reply lost; a lease may have been in it."""
        _remember(self._lost, key, self.monotonic())

    def lost_with(self, key: bytes, age_s: float | None) -> bool:
        """Whether the lease on a stub of ``key`` that was made ``age_s`` whole seconds ago, or the claim on its value
        (None: when that was made can't be seen), may have been in a lost reply. Once.
        """
        at = self._lost.pop(key, None)
        if at is None:
            return False
        ago_s = self.monotonic() - at
        return ago_s <= _CLAIM_LOST_S if age_s is None else abs(ago_s - age_s) <= 1.5

    def judge(self, job: Job, reply: Reply, generations: tuple[int, ...] | None, eagerness: float = 0.0) -> Judgement:
        """What ``reply`` to a read of ``job`` means now, under ``generations``."""
        judgement = job.recipe.judge(reply, generations, job.key, self.now(), eagerness)
        if not self.distrust or judgement.header is None or judgement.verdict not in STANDS:
            return judgement
        lost = judgement.header.created_ms < self.distrust.get(job.server, 0.0) * 1000.0
        return judgement._replace(verdict=Verdict.VOID) if lost else judgement

    def touched(self, *keys: bytes) -> None:
        """An invalidation of ``keys``, entries' or group records', is under way or was acknowledged: nothing that this
        process keeps of them holds any more, also in the near tiers of other caches: those may have the same servers.
        """
        if self.near is not None or _hubs:
            self.outdated(*keys)
            self.replaced(*keys)

    def replaced(self, *keys: bytes) -> None:
        """Something else stands under ``keys`` now, which this cache knows, but the others of this process don't."""
        if not self.private:
            for hub in _all_hubs():
                if hub is not self.near:
                    for key in keys:
                        hub.touch(key)

    def outdated(self, *keys: bytes) -> None:
        """What was read of ``keys`` now may be newer than what this cache keeps near."""
        if self.near is not None:
            for key in keys:
                self.near.touch(key)

    def reconnected(self, server: int) -> None:
        """The connection to that server was lost, and there is a new one: it may have been restarted meanwhile."""
        if self.near is not None:
            self.near.touch_server(server)

    def near_tier(self, near: Any) -> "Tier | None":
        """The store that ``near=`` means, made at first need; None where it is off."""
        if near is None or near is False:
            return None
        from cachekit.near.hub import Hub  # noqa: PLC0415 - few programs have one (docs/design/imports.md)
        from cachekit.near.option import near_of  # noqa: PLC0415

        if self.near is None:
            self.near = Hub(self.opaques, self.monotonic)
            if not self.private:
                _hubs.add(weakref.ref(self.near, _hubs.discard))
        chosen = near_of(near)
        return None if chosen is None else self.near.tier(chosen)

    def removal(self, key: bytes, opaque: int) -> bytes:
        """A request that removes what stands under ``key``, visibly where somebody may watch."""
        if not self.watched:
            return md(key, b"O%d" % opaque)
        from cachekit.tombstones import tombstone  # noqa: PLC0415 - few rings are watched

        return tombstone(key, opaque)

    def undelivered(self, server: int, *keys: bytes, soft: bool, kind: int = 0, group: bytes = b"") -> None:
        """That server has not acknowledged the invalidation of ``keys``: it is told again before it is asked anything
        else (``roster.py``). ``soft``: their entries may be served while somebody refreshes them. ``kind``: that
        of ``replay.Kind``: 0 for entries, 1 for plain values, 2 for the records of groups. ``group``: wire key of a
        record over these entries, to be bumped where there are too many to keep.
        """
        self.keep(server, keys, soft=soft, kind=kind, group=group)

    def close(self) -> None:
        """Hear nothing more of other processes, until the next call."""
        if self.near is not None and self.near.watch is not None:
            self.near.watch.close()
            self.near.touch_all()

    def forked(self) -> None:
        """This is a child process now: the parent's runs under way will never land here."""
        if self.near is not None:
            self.near.forked()
        self.flights = Flights()

    def trouble(self, job: Job, error: Exception) -> None:
        """An exchange for ``job`` failed; its caller will not notice."""
        self.failed_at(job.server, job.recipe.tally, error)

    def failed_at(self, server: int, tally: Tally, error: Exception) -> None:
        """An exchange with that server failed, on behalf of whoever counts in ``tally``."""
        tally.errors += 1
        if self.hooks.on_trouble.listeners:
            self.hooks.on_trouble.emit(Trouble(self.server_names[server], error))

    def without_cas(self, job: Job) -> None:
        """The server was started with -C: without CAS numbers there are no leases and no generations."""
        job.recipe.tally.errors += 1
        if job.server not in self._without_cas:
            self._without_cas.add(job.server)
            name = self.server_names[job.server]
            logger.warning("memcached server %s runs with -C, without CAS numbers: nothing is cached there", name)

    def hit(self, job: Job, header: Header | None, *, stale: bool = False) -> None:
        """A stored value was served that did not come by the hit path."""
        tally = job.recipe.tally
        tally.hits += 1
        tally.stale += stale
        if header is not None:
            tally.saved_us += header.delta_us
        if self.hooks.on_hit.listeners:
            age_s = 0.0 if header is None else max(0.0, self.now() - header.created_ms / 1000.0)
            self.hooks.on_hit.emit(Hit(job.recipe.name, job.key.decode(), self.server_names[job.server], age_s, stale))

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
        job.recipe.tally.fills += 1
        self.settled(job, seconds, reason)

    def settled(self, job: Job, seconds: float, reason: str) -> None:
        """What became of one result of a run; a batch loader's run has many."""
        tally = job.recipe.tally
        if reason != "interrupted":  # how long the function takes, that run does not tell
            job.recipe.delta_s = seconds
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


def _all_hubs() -> "list[Hub]":
    while True:
        with suppress(RuntimeError):  # a hub came or went meanwhile
            return [hub for ref in tuple(_hubs) if (hub := ref()) is not None]


def _keep_nothing(server: int, keys: tuple[bytes, ...], *, soft: bool, kind: int, group: bytes) -> None:
    """The embedded server hears everything."""


def _exponential(random: Callable[[], float]) -> float:
    return -math.log(1.0 - random())


def _remember(table: dict[bytes, Any], key: bytes, what: Any) -> None:
    """Put it in, at the cost of the oldest where there is no room."""
    if len(table) >= _REMEMBERED and key not in table:
        with suppress(RuntimeError):  # another thread came between
            table.pop(next(iter(table)), None)
    table[key] = what
