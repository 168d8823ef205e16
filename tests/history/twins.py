"""Deliberately broken builds: each takes one guard out of the cachekit of this process. The checker must catch all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cachekit.codecs.envelope import Header
from cachekit.env import Env, Job
from cachekit.flights import Flight, Flights
from cachekit.flows import fill as fills
from cachekit.flows import lease as leases
from cachekit.flows import tell as tells
from cachekit.flows.lease import Lease
from cachekit.meta import Reply
from cachekit.ops import Exchange, Flow, Gather
from cachekit.policy import Judgement, Verdict
from cachekit.recipe import Recipe, numbers


class Twin(NamedTuple):
    """A broken build: how it is broken, the kinds of functions that show it, and the rules that must find it."""

    break_it: Callable[[], None]
    kinds: tuple[str, ...]
    rules: frozenset[str]


def store_without_cas() -> None:
    """A store goes in whatever stands there."""
    request = leases.store_request

    def careless(key: bytes, sealed: Any, cas: int, *others: Any) -> bytes:
        line, end, data = request(key, sealed, cas, *others).partition(b"\r\n")
        return b"".join([line.replace(b" C%d " % cas, b" "), end, data])

    leases.store_request = careless


def generations_after_the_run() -> None:
    """An entry is sealed under the generations that hold when it is stored, not when its run began."""
    store = leases.store

    def late(job: Job, env: Env, lease: Lease, *others: Any) -> Flow[str]:
        opaque = env.opaque()
        asked = b"".join([b"mg %b c O%d\r\n" % (key, opaque) for key in job.recipe.generations])
        replies = yield Exchange(job.server, asked, len(lease.generations), opaque, retry=True)
        now = numbers(replies.replies) or lease.generations
        return (yield from store(job, env, lease._replace(generations=now), *others))

    fills.store = late


def one_server_bumped() -> None:
    """A bump goes to the first server only."""
    tells.Gather = lambda exchanges: Gather(exchanges[:1])  # type: ignore[assignment,misc]


def joined_by_key_alone() -> None:
    """Who waits in a process joins any run for his key, also one that began before an invalidation."""

    def find(flights: Flights, key: bytes, cas: int | None) -> Flight | None:
        with flights._lock:
            for (other, _), flight in flights._flights.items():
                if other == key:
                    flight.generations = None
                    return flight.join()
        return None

    Flights.find = find  # type: ignore[method-assign]


def soft_does_nothing() -> None:
    """``expire`` is acknowledged and changes nothing."""
    Recipe.expire_request = lambda recipe, key, opaque, number=0: b"mg %b O%d\r\n" % (key, opaque)  # type: ignore[method-assign]


def no_lease() -> None:
    """Whoever finds that somebody fills an entry fills it too."""
    judge = Recipe.judge

    def hasty(recipe: Recipe, reply: Reply, *others: Any) -> Judgement:
        judgement = judge(recipe, reply, *others)
        return judgement._replace(verdict=Verdict.MINE) if judgement.verdict is Verdict.BUSY else judgement

    Recipe.judge = hasty  # type: ignore[method-assign]




TWINS: Mapping[str, Twin] = {
    "store without CAS": Twin(store_without_cas, ("plain", "batch"), frozenset({"I3", "I4"})),
    "generations after the run": Twin(generations_after_the_run, ("plain", "batch"), frozenset({"I3"})),
    "one server bumped": Twin(one_server_bumped, ("plain",), frozenset({"I3"})),
    "joined by key alone": Twin(joined_by_key_alone, ("plain",), frozenset({"I3"})),
    "soft does nothing": Twin(soft_does_nothing, ("lasting",), frozenset({"I3s"})),
    "no lease": Twin(no_lease, ("plain",), frozenset({"I5"})),
}


def break_guard(name: str) -> None:
    """Take the guard of that name out, in this process, for good; "" takes none."""
    if name:
        TWINS[name].break_it()
