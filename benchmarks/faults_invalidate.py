"""R7: a value is invalidated while it is being computed; what was read before must not be served after.

In each schedule one caller makes an entry, in one of the ways below, and takes a millisecond over it; at a random
moment before, during or after that, what the function reads changes and another caller invalidates the entry: by its
key, by a tag, by its namespace, or with all others of the function. From the acknowledgement on, nobody may be given
what was there before. Or he does it softly: then the old value may serve the one who has it refreshed, and nobody after
that.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from benchmarks.adapters import named
from benchmarks.adapters.base import library
from benchmarks.report import Section
from benchmarks.servers import servers
from benchmarks.trial import trial

FIGURES = ("R7",)
SCHEDULES, PEER_SCHEDULES, QUICK = 10_000, 1_000, 10
CONTROL_SCHEDULES = 300
LANES = 8
FUNCTION_S = 0.001
LATEST_S, LATEST_SLIDING_S = 2.5 * FUNCTION_S, 0.0003
OLD, NEW = 1, 2
LONG_S, ENDED_S, SLIDING_S = 60.0, 0.001, 0.100
SUCCESSOR_S, YOUNG_S, LIMIT_S = 1.0, 3.5, 120.0

NOTES = (
    (
        f"the function takes {FUNCTION_S * 1000:.0f} ms; the invalidation is sent 0–{LATEST_S * 1000:.1f} ms after the"
        " caller was told to begin, half of the time by a cache with connections of its own, half by the filler's own;"
        " cachekit's is one of eight verbs (second table), the soft ones where they mean something"
    ),
    (
        "'during': acknowledged after the slow run began (or the caller, where nothing runs) and before it had ended or"
        " the caller was served"
    ),
    (
        "'stale at once': a call that began after the acknowledgement, while the fill went on perhaps, gave the old"
        " value (tried in half of the schedules); 'stale after': one that began after the fill had ended did"
    ),
    (
        "a soft one: callers may be given the old value while it is refreshed in the background, for a second at most;"
        " a call that is given it later, or after somebody was given the new one, counts as stale after"
    ),
    (
        "control: the same by a cachekit whose stores carry no CAS number ('stale after'); it must show some, or this"
        " test could not see one"
    ),
)


class Way(NamedTuple):
    """A way in which an entry is made again.

    ``policy``: what the function is decorated with. ``before``: how long the entry that stands there was made to be
    fresh, seconds; None: there is none. ``behaviour``: of the slow run. ``verb``: what the caller calls.
    ``latest_s``: the invalidation is sent so many seconds after the caller began, at most. ``soft``: whether it may be
    a soft one. ``shape``: whether the function is a plain one, a batch loader, one that names its tags in the run, or
    one around another cached one.
    """

    policy: Mapping[str, Any] = {}
    before_s: float | None = ENDED_S
    behaviour: str = "slow"
    verb: str = "call"
    latest_s: float = LATEST_S
    soft: bool = True
    shape: str = "plain"


WAYS: Mapping[str, Way] = {
    "a cold fill": Way(before_s=None),
    "a cold fill of a batch": Way(before_s=None, shape="batch"),
    "a cold fill of many()": Way(before_s=None, verb="many"),
    "a cold fill that names its tag": Way(before_s=None, shape="naming"),
    "a cold fill around another": Way(before_s=None, shape="around"),
    "a refresh under a claim": Way(),
    "a refresh around another": Way(shape="around"),
    "a refresh in the background": Way({"stale": 10, "refresh": "background"}),
    "a refresh beyond its soft timeout": Way({"stale": 10, "soft_timeout": FUNCTION_S / 2}),
    "refresh()": Way(before_s=LONG_S, verb="refresh"),
    "a refresh after expire()": Way({"stale": 10}, before_s=LONG_S),
    "a failed refresh, the old value kept": Way({"stale_if_error": 10}, behaviour="fail", soft=False),
    "not_modified()": Way(behaviour="keep"),
    "sliding": Way({"sliding": True}, SLIDING_S, "quick", latest_s=LATEST_SLIDING_S, soft=False),
}
VERBS: Sequence[tuple[str, bool]] = (
    ("invalidate", False), ("invalidate_all", False), ("invalidate_tags", False), ("invalidate_namespace", False),
    ("expire", True), ("expire_all", True), ("expire_tags", True), ("expire_namespace", True),
)  # fmt: skip
"""How cachekit's entries are invalidated, and whether that is soft."""

CONTROL = "cachekit, storing without its CAS"
PEERS = (
    "by hand on pymemcache: get, compute, set",
    "dogpile.cache + pylibmc",
    "dogpile.cache + pylibmc, distributed_lock",
)


def sections(quick: bool) -> Iterator[Section]:
    share = QUICK if quick else 1
    columns = (
        "contestant", "what goes on", "schedules", "acknowledged", "during", "stale at once", "stale after",
        "control: stale of acknowledged",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    tallies: list[Tally] = []
    for way in WAYS:
        row = measured("cachekit", way, SCHEDULES // share // len(WAYS) + 1)
        control = measured(CONTROL, way, CONTROL_SCHEDULES)
        if isinstance(row, str) or isinstance(control, str):
            rows.append(("cachekit", way, f"{row if isinstance(row, str) else control}"))
            continue
        tallies.append(row)
        against = _total(control)
        rows.append(("cachekit", way, *map(str, _total(row)), f"{against[-1]} of {against[1]}"))
    total = sum(_total(tally)[0] for tally in tallies)
    for name in PEERS:
        peer = measured(name, "a cold fill", PEER_SCHEDULES // share)
        rows.append((name, "a cold fill", *((peer,) if isinstance(peer, str) else map(str, _total(peer))), "–"))
    title = f"invalidation against slow fills, {total} schedules"
    yield Section("R7", title, columns, tuple(rows), "0 stale", NOTES)
    by_verb = [
        (verb, *map(str, _total([{verb: tally[verb]} for tally in tallies if verb in tally]))) for verb, _ in VERBS
    ]
    yield Section("R7", "the same schedules by how they were invalidated", ("verb", *columns[2:7]), tuple(by_verb))


Tally = dict[str, list[int]]
"""By verb: schedules, acknowledged invalidations, those during the fill, stale calls at once, and after."""


def _total(tally: Tally | Sequence[Tally]) -> list[int]:
    tallies = [tally] if isinstance(tally, dict) else tally
    return [sum(column) for column in zip(*([0] * 5, *(row for each in tallies for row in each.values())), strict=True)]


def measured(name: str, way: str, schedules: int) -> Tally | str:
    """What was counted, or why nothing was."""
    with servers(1) as (server,):
        done = trial(child, name, way, server.address, schedules, limit_s=LIMIT_S)
    if done.hung or not done.told:
        return "hung" if done.hung else "failed: the child died"
    told: Tally | str = done.told[0]
    return f"failed: {told}" if isinstance(told, str) else told


def child(pipe: Connection, name: str, way: str, address: str, schedules: int) -> None:
    """All lanes at once; tells the sums of their counts."""
    if name == CONTROL:
        store_anyway()
    shares = [schedules // LANES + (lane < schedules % LANES) for lane in range(LANES)]
    try:
        with ThreadPoolExecutor(LANES) as lanes:
            counts = list(lanes.map(lambda lane: Lane(lane, name, WAYS[way], address).run(shares[lane]), range(LANES)))
        verbs = {verb for tally in counts for verb in tally}
        pipe.send({verb: _total([{verb: tally[verb]} for tally in counts if verb in tally]) for verb in verbs})
    except Exception as error:
        pipe.send(" ".join(f"{type(error).__name__}: {error}".split()))


def store_anyway() -> None:
    """Have cachekit, in this process, store whatever stands there, as it must not."""
    lease = library("cachekit.flows.lease")
    request = lease.store_request

    def careless(key: bytes, sealed: Any, cas: int, *others: Any) -> bytes:
        line, end, data = request(key, sealed, cas, *others).partition(b"\r\n")
        return b"".join([line.replace(b" C%d " % cas, b" "), end, data])

    lease.store_request = careless


class Origin:
    """Where the function gets its values from: a version for each key. The run after `arm` takes its time."""

    def __init__(self) -> None:
        self.versions: dict[int, int] = {}
        self.lifetimes: dict[int, float] = {}
        self.behaviours: dict[int, str] = {}
        self.began: list[float] = []
        self.ended: list[float] = []
        self.slow = (0.0, 0.0)

    def report(self, key: int) -> list[float]:
        """The version, and for how many seconds it is to be kept."""
        self.began.append(time.monotonic())
        version, behaviour = self.versions[key], self.behaviours.pop(key, "quick")
        if behaviour != "quick":
            time.sleep(FUNCTION_S)
            self.slow = (self.began[-1], time.monotonic())
        if behaviour == "fail":
            raise OSError("the origin is down")
        if behaviour == "keep" and version == OLD:  # as a function that has looked says it
            current = library("cachekit").current()
            current.ttl = LONG_S
            with suppress(LookupError):  # the old value is gone
                current.not_modified()
        return [version, self.lifetimes[key]]


class Side(NamedTuple):
    """One client of the cache: the function as it sees it, and ways to invalidate, by their verbs."""

    call: Callable[[int], Any]
    invalidations: Mapping[str, Callable[[int], Any]]
    decorated: Any = None
    prepare: Callable[[int], None] = lambda keys: None


def side_of(name: str, address: str, lane: int, way: Way, origin: Origin) -> Side:
    def report(key: int) -> list[float]:
        return origin.report(key)

    report.__qualname__ = f"report_{lane}"
    if name.startswith("cachekit"):
        return _cachekit(report, address, way, origin)
    if name.startswith("dogpile"):
        decorated: Any = named(name)([address]).decorate(report)
        return Side(decorated, {"invalidate": lambda key: decorated.invalidate(key) is None})
    client: Any = named("pymemcache PooledClient")([address])

    def call(key: int) -> list[float]:
        stored = client.get(f"{lane}-{key}")
        if stored is not None:
            return [float(stored), 0.0]
        result = report(key)
        client.set_for(f"{lane}-{key}", str(result[0]).encode(), 60)
        return result

    return Side(call, {"invalidate": lambda key: client.delete(f"{lane}-{key}") in (True, False)})


def _cachekit(report: Any, address: str, way: Way, origin: Origin) -> Side:
    cachekit = library("cachekit")
    cache = named("cachekit")([address]).cache  # type: ignore[attr-defined]
    cache.hooks.on_fill(lambda event: origin.ended.append(time.monotonic()))
    policy = cachekit.Policy(ttl=lambda result: result[1], **way.policy)
    lane = report.__qualname__
    options = {"policy": policy, "namespace": f"space-{lane}", "tags": [f"{lane}-{{key}}", lane]}
    make = {"batch": _batch, "naming": _naming, "around": _around}.get(way.shape)
    if make is not None:
        return make(report, cache, lane, options)
    decorated = cache(**options)(report)

    def call(key: int) -> Any:
        return decorated.many([decorated.bind(key)])[0] if way.verb == "many" else decorated(key)

    return Side(call, _verbs(cache, decorated, lane, decorated.invalidate, decorated.expire), decorated)


def _naming(report: Any, cache: Any, lane: str, options: Mapping[str, Any]) -> Side:
    def naming(key: int) -> Any:
        library("cachekit").current().tag(f"{lane}-{key}", lane)
        return report(key)

    naming.__qualname__ = lane
    decorated = cache(policy=options["policy"], namespace=options["namespace"])(naming)

    # A tag that is younger than the run is a case of its own: nothing is stored. These are made before.
    @cache.batch(tags=[f"{lane}-{{keys}}", lane])  # type: ignore[untyped-decorator]
    def bearing(keys: list[int]) -> dict[int, int]:
        return dict.fromkeys(keys, 0)

    def prepare(keys: int) -> None:
        bearing(range(keys))
        time.sleep(YOUNG_S)

    return Side(decorated, _verbs(cache, decorated, lane, decorated.invalidate, decorated.expire), decorated, prepare)


def _around(report: Any, cache: Any, lane: str, options: Mapping[str, Any]) -> Side:
    inner = cache(**options)(report)

    def outer(key: int) -> Any:
        return inner(key)

    outer.__qualname__ = f"outer_{lane}"
    decorated = cache(policy=options["policy"])(outer)
    one, softly = (
        lambda key: inner.invalidate(key) and decorated.invalidate(key),
        lambda key: inner.expire(key) and decorated.expire(key),
    )
    return Side(decorated, _verbs(cache, inner, lane, one, softly), decorated)


def _batch(report: Any, cache: Any, lane: str, options: Mapping[str, Any]) -> Side:
    def loader(key: list[int]) -> dict[int, Any]:
        return {each: report(each) for each in key}

    loader.__qualname__ = lane
    decorated = cache.batch(**options)(loader)
    one, softly = (lambda key: decorated.invalidate([key])), (lambda key: decorated.expire([key]))
    return Side(lambda key: decorated([key])[key], _verbs(cache, decorated, lane, one, softly), decorated)


def _verbs(cache: Any, decorated: Any, lane: str, one: Any, softly: Any) -> Mapping[str, Callable[[int], Any]]:
    """How an entry of ``lane`` is invalidated: ``one`` and ``softly`` are about it alone."""
    return {
        "invalidate": one,
        "invalidate_all": lambda key: decorated.invalidate_all(),
        "invalidate_tags": lambda key: cache.invalidate_tags(f"{lane}-{key}"),
        "invalidate_namespace": lambda key: cache.invalidate_namespace(f"space-{lane}"),
        "expire": softly,
        "expire_all": lambda key: decorated.expire_all(),
        "expire_tags": lambda key: cache.expire_tags(lane),
        "expire_namespace": lambda key: cache.expire_namespace(f"space-{lane}"),
    }


class Lane:
    """Schedules one after the other: this thread invalidates, another one fills."""

    def __init__(self, number: int, name: str, way: Way, address: str) -> None:
        self.way, self.origin = way, Origin()
        self.dice = random.Random(number)
        self.sides = [side_of(name, address, number, way, self.origin) for _ in range(2)]
        self.told = name.startswith("cachekit")
        self.verbs = [verb for verb, soft in VERBS if verb in self.sides[0].invalidations and (way.soft or not soft)]

    def run(self, schedules: int) -> Tally:
        """Do so many."""
        tally: Tally = {}
        for side in self.sides:
            side.prepare(schedules)
        with ThreadPoolExecutor(1) as filler:
            for key in range(schedules):
                self._prepare(key)
                begun = threading.Event()
                done = filler.submit(self._fill, key, begun)
                begun.wait()
                time.sleep(self.dice.random() * self.way.latest_s)
                verb = self.dice.choice(self.verbs)
                soft = dict(VERBS)[verb]
                answer, seen, moment = self._invalidate(key, verb)
                served = done.result()
                self._settle()
                began, ended = self.origin.slow
                row = tally.setdefault(verb, [0] * 5)
                row[0] += 1
                if answer:
                    row[1] += 1
                    row[2] += began <= moment < max(served, ended)
                    row[3] += seen == OLD and not soft
                    row[4] += self._stale_after(key, soft)
        return tally

    def _stale_after(self, key: int, soft: bool) -> bool:
        """Whether the old value is served now. ``soft``: once somebody has refreshed it."""
        limit = time.monotonic() + SUCCESSOR_S
        while soft and self.sides[0].call(key)[0] == OLD and time.monotonic() < limit:
            time.sleep(FUNCTION_S)
        return any(side.call(key)[0] == OLD for side in self.sides)

    def _prepare(self, key: int) -> None:
        """What stands there before the schedule, and the behaviour of the next run."""
        origin, way, first = self.origin, self.way, self.sides[0]
        origin.versions[key] = OLD
        if way.before_s is not None:
            origin.lifetimes[key] = way.before_s
            first.call(key)
            if way.before_s < LONG_S:
                time.sleep(0.12 * way.before_s if way.policy.get("sliding") else 2 * way.before_s)
            elif way.verb == "call":
                first.decorated.expire(key)
        origin.lifetimes[key] = LONG_S if not way.policy.get("sliding") else SLIDING_S
        origin.behaviours[key] = way.behaviour
        origin.slow = (time.monotonic(), 0.0)

    def _fill(self, key: int, begun: threading.Event) -> float:
        begun.set()
        side = self.sides[0]
        with suppress(OSError):
            (side.decorated.refresh if self.way.verb == "refresh" else side.call)(key)
        return time.monotonic()

    def _invalidate(self, key: int, verb: str) -> tuple[bool, float | None, float]:
        """Change the origin, invalidate, and perhaps call at once: whether it was acknowledged, what the call gave,
        and the moment between them.
        """
        side = self.dice.choice(self.sides)
        self.origin.versions[key] = NEW
        acknowledged = bool(side.invalidations[verb](key))
        moment, seen = time.monotonic(), None
        if self.dice.random() < 0.5:
            with suppress(OSError):  # this call was the one to run, and to fail
                seen = self.dice.choice(self.sides).call(key)[0]
        return acknowledged, seen, moment

    def _settle(self) -> None:
        """Wait until what goes on in the background has been stored too."""
        while self.told and len(self.origin.ended) < len(self.origin.began):
            time.sleep(0.0002)
