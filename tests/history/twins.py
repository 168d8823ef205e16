"""Deliberately broken builds: each takes one guard out of the cachekit of this process. The checker must catch all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cachekit import policy as policies
from cachekit.env import Env, Job
from cachekit.flights import Flight, Flights
from cachekit.flows import call as calls
from cachekit.flows import fill as fills
from cachekit.flows import lease as leases
from cachekit.flows import look as looks
from cachekit.flows import many as manys
from cachekit.flows import marks
from cachekit.flows import tell as tells
from cachekit.flows.frames import Notes
from cachekit.flows.lease import Lease
from cachekit.function import Decorated
from cachekit.generations import numbers
from cachekit.meta import Reply
from cachekit.near.hub import Hub
from cachekit.near.tier import Tier
from cachekit.ops import Exchange, Flow, Gather, Replies
from cachekit.policy import Judgement, Verdict
from cachekit.recipe import Recipe


def _replace(owner: Any, name: str, instead: Any) -> None:
    """Put something else in a guard's place."""
    setattr(owner, name, instead)


class Twin(NamedTuple):
    """A broken build: how it is broken, the kinds of functions that show it, and the rules that must find it.
    ``outages``: whether it shows only where servers are cut off.
    """

    break_it: Callable[[], None]
    kinds: tuple[str, ...]
    rules: frozenset[str]
    outages: bool = False


def store_without_cas() -> None:
    """A store goes in whatever stands there."""
    request: Any = leases.__dict__["store_request"]

    def careless(key: bytes, sealed: Any, cas: int, *others: Any) -> bytes:
        line, end, data = request(key, sealed, cas, *others).partition(b"\r\n")
        return b"".join([line.replace(b" C%d " % cas, b" "), end, data])

    _replace(leases, "store_request", careless)


def generations_after_the_run() -> None:
    """An entry is sealed under the generations that hold when it is stored, not when its run began."""
    store = leases.store

    def late(job: Job, env: Env, lease: Lease, *others: Any) -> Flow[str]:
        opaque = env.opaque()
        groups = (*job.tags, *job.recipe.generations)
        asked = b"".join([b"mg %b c O%d\r\n" % (key, opaque) for key in groups])
        replies = yield Exchange(job.server, asked, len(groups), opaque, retry=True)
        now = numbers(replies.replies) or lease.generations
        return (yield from store(job, env, lease._replace(generations=now), *others))

    _replace(fills, "store", late)


def one_server_bumped() -> None:
    """A bump goes to the first server only."""
    _replace(tells, "Gather", lambda exchanges: Gather(exchanges[:1]))
    _replace(tells, "_tick_off", lambda server, lot, replies, waiting, codes: waiting.clear())


def joined_by_key_alone() -> None:
    """Who waits in a process joins any run for his key, also one that began before an invalidation."""

    def find(flights: Flights, key: bytes, cas: int | None) -> Flight | None:
        with flights._lock:
            for (other, _), flight in flights._flights.items():
                if other == key:
                    flight.generations = None
                    return flight.join()
        return None

    _replace(Flights, "find", find)


def soft_does_nothing() -> None:
    """``expire`` is acknowledged and changes nothing: it is of a key that nobody has."""
    _replace(Recipe, "expire_request", lambda recipe, key, opaque, number=0: b"md nobody O%d\r\n" % opaque)


def no_lease() -> None:
    """Whoever finds that somebody fills an entry fills it too."""
    judge = Recipe.judge

    def hasty(recipe: Recipe, reply: Reply, *others: Any) -> Judgement:
        judgement = judge(recipe, reply, *others)
        return judgement._replace(verdict=Verdict.MINE) if judgement.verdict is Verdict.BUSY else judgement

    _replace(Recipe, "judge", hasty)


def tags_not_compared() -> None:
    """An entry holds whatever has become of its tags, as long as its function's generation does."""
    compare = policies.compare

    def careless(entry: tuple[int, ...], now: tuple[int, ...] | None) -> Verdict:
        return compare(entry[-1:], None if now is None else tuple(now[-1:]))

    _replace(policies, "compare", careless)


def marks_not_asked() -> None:
    """What an entry inherited, and the tags that its function named, are not asked for when it is read."""

    def careless(*args: Any, **how: Any) -> Flow[tuple[Verdict, Any]]:
        _, known = yield from marks.confirmed(*args, **how)
        return Verdict.FRESH, known

    for module in (calls, fills, looks, manys):
        _replace(module, "confirmed", careless)


def young_tags_trusted() -> None:
    """A result is stored under the number that a tag has after the run, however young that is."""

    def numbers_of(keys: list[bytes], replies: Replies, ran_s: float) -> dict[bytes, int]:
        return {key: reply.cas for key, reply in zip(keys, replies.replies, strict=True) if reply.cas}

    _replace(marks, "_old_enough", numbers_of)


def nothing_inherited() -> None:
    """An outer entry stands under its own groups only."""
    _replace(Notes, "inherit", lambda *_: None)


def argument_left_out() -> None:
    """The key leaves an argument out, so that different calls share an entry."""
    init = Decorated.__init__

    def careless(self: Any, *args: Any) -> None:
        init(self, *args)
        make = self._make
        self._make = lambda schedule, key: make(schedule, 0)

    _replace(Decorated, "__init__", careless)


def replay_taken_out() -> None:
    """What a server has not acknowledged is not told again."""
    _replace(Env, "undelivered", lambda *_, **__: None)


def near_not_told() -> None:
    """The near tier does not hear of this process's own invalidations."""
    _replace(Env, "touched", lambda *_: None)


def near_epochs_not_compared() -> None:
    """What a read brings goes into the near tier also where its key was invalidated since the read was sent."""
    _replace(Hub, "_touched_since", lambda *_: False)


def near_for_longer() -> None:
    """The near tier keeps its entries for five times as long as it says."""
    init = Tier.__init__

    def lax(self: Tier, *args: Any) -> None:
        init(self, *args)
        self.ttl_s *= 5

    _replace(Tier, "__init__", lax)


TWINS: Mapping[str, Twin] = {
    "store without CAS": Twin(store_without_cas, ("plain", "batch"), frozenset({"I3", "I4"})),
    "generations after the run": Twin(generations_after_the_run, ("plain", "batch"), frozenset({"I3"})),
    "one server bumped": Twin(one_server_bumped, ("plain",), frozenset({"I3"})),
    "tags not compared": Twin(tags_not_compared, ("tagged", "tagged batch"), frozenset({"I3"})),
    "marks not asked": Twin(marks_not_asked, ("named", "nested"), frozenset({"I3"})),
    "young tags trusted": Twin(young_tags_trusted, ("named",), frozenset({"I3"})),
    "nothing inherited": Twin(nothing_inherited, ("nested", "nested batch"), frozenset({"I3"})),
    "argument left out": Twin(argument_left_out, ("plain",), frozenset({"I1"})),
    "replay taken out": Twin(replay_taken_out, ("kept",), frozenset({"I3r"}), outages=True),
    "near not told": Twin(near_not_told, ("near",), frozenset({"I3"})),
    "near epochs not compared": Twin(near_epochs_not_compared, ("near", "near batch"), frozenset({"I3"})),
    "near for longer": Twin(near_for_longer, ("near",), frozenset({"I3", "I4"})),
    "joined by key alone": Twin(joined_by_key_alone, ("plain",), frozenset({"I3"})),
    "soft does nothing": Twin(soft_does_nothing, ("lasting",), frozenset({"I3s"})),
    "no lease": Twin(no_lease, ("plain",), frozenset({"I5"})),
}


def break_guard(name: str) -> None:
    """Take the guard of that name out, in this process, for good; "" takes none."""
    if name:
        TWINS[name].break_it()
