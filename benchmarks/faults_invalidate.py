"""R7: a value is invalidated while it is being computed; what was read before must not be served after.

In each schedule one caller makes an entry, in one of the ways below, and takes a millisecond over it; at a random
moment before, during or after that, what the function reads changes and another caller invalidates the entry, by its
key or with all others of the function. From the acknowledgement on, nobody may be given what was there before.
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
LIMIT_S = 120.0

NOTES = (
    (
        f"the function takes {FUNCTION_S * 1000:.0f} ms; the invalidation is sent 0–{LATEST_S * 1000:.1f} ms after the"
        " caller was told to begin, half of the time by a cache with connections of its own, half by the filler's own;"
        " half of cachekit's invalidations are invalidate_all"
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
        "control: the same by a cachekit whose stores carry no CAS number ('stale after'); it must show some, or this"
        " test could not see one"
    ),
)


class Way(NamedTuple):
    """A way in which an entry is made again.

    ``policy``: what the function is decorated with. ``before``: how long the entry that stands there was made to be
    fresh, seconds; None: there is none. ``behaviour``: of the slow run. ``verb``: what the caller calls.
    ``latest_s``: the invalidation is sent so many seconds after the caller began, at most.
    """

    policy: Mapping[str, Any] = {}
    before_s: float | None = ENDED_S
    behaviour: str = "slow"
    verb: str = "call"
    latest_s: float = LATEST_S


WAYS: Mapping[str, Way] = {
    "a cold fill": Way(before_s=None),
    "a refresh under a claim": Way(),
    "a refresh in the background": Way({"stale": 10, "refresh": "background"}),
    "a refresh beyond its soft timeout": Way({"stale": 10, "soft_timeout": FUNCTION_S / 2}),
    "refresh()": Way(before_s=LONG_S, verb="refresh"),
    "a refresh after expire()": Way({"stale": 10}, before_s=LONG_S),
    "a failed refresh, the old value kept": Way({"stale_if_error": 10}, behaviour="fail"),
    "not_modified()": Way(behaviour="keep"),
    "sliding": Way({"sliding": True}, SLIDING_S, "quick", latest_s=LATEST_SLIDING_S),
}
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
    rows = []
    for way in WAYS:
        row = measured("cachekit", way, SCHEDULES // share // len(WAYS) + 1)
        control = measured(CONTROL, way, CONTROL_SCHEDULES)
        rows.append((*row, f"{control[-1]} of {control[3]}" if len(control) == len(columns) - 1 else control[-1]))
    total = sum(int(row[2]) for row in rows if len(row) == len(columns))
    rows += [(*measured(name, "a cold fill", PEER_SCHEDULES // share), "–") for name in PEERS]
    title = f"invalidation against slow fills, {total} schedules"
    yield Section("R7", title, columns, tuple(rows), "0 stale", NOTES)


def measured(name: str, way: str, schedules: int) -> tuple[str, ...]:
    with servers(1) as (server,):
        done = trial(child, name, way, server.address, schedules, limit_s=LIMIT_S)
    if done.hung or not done.told:
        return (name, way, "hung" if done.hung else "failed: the child died")
    if isinstance(done.told[0], str):
        return (name, way, f"failed: {done.told[0]}")
    return (name, way, *map(str, done.told[0]))


def child(pipe: Connection, name: str, way: str, address: str, schedules: int) -> None:
    """All lanes at once; tells the sums of their counts."""
    if name == CONTROL:
        store_anyway()
    shares = [schedules // LANES + (lane < schedules % LANES) for lane in range(LANES)]
    try:
        with ThreadPoolExecutor(LANES) as lanes:
            counts = list(lanes.map(lambda lane: Lane(lane, name, WAYS[way], address).run(shares[lane]), range(LANES)))
        pipe.send([sum(column) for column in zip(*counts, strict=True)])
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
        if behaviour == "keep":
            current = library("cachekit").current()
            current.ttl = LONG_S
            with suppress(LookupError):  # the old value is gone
                current.not_modified()
        return [version, self.lifetimes[key]]


class Side(NamedTuple):
    """One client of the cache: the function as it sees it, and ways to invalidate."""

    call: Callable[[int], Any]
    invalidations: Sequence[Callable[[int], Any]]
    decorated: Any = None


def side_of(name: str, address: str, lane: int, way: Way, origin: Origin) -> Side:
    def report(key: int) -> list[float]:
        return origin.report(key)

    report.__qualname__ = f"report_{lane}"
    if name.startswith("cachekit"):
        return _cachekit(report, address, way, origin)
    if name.startswith("dogpile"):
        decorated: Any = named(name)([address]).decorate(report)
        return Side(decorated, [lambda key: decorated.invalidate(key) is None])
    client: Any = named("pymemcache PooledClient")([address])

    def call(key: int) -> list[float]:
        stored = client.get(f"{lane}-{key}")
        if stored is not None:
            return [float(stored), 0.0]
        result = report(key)
        client.set_for(f"{lane}-{key}", str(result[0]).encode(), 60)
        return result

    return Side(call, [lambda key: client.delete(f"{lane}-{key}") in (True, False)])


def _cachekit(report: Any, address: str, way: Way, origin: Origin) -> Side:
    cachekit = library("cachekit")
    cache = named("cachekit")([address]).cache  # type: ignore[attr-defined]
    cache.hooks.on_fill(lambda event: origin.ended.append(time.monotonic()))
    policy = cachekit.Policy(ttl=lambda result: result[1], **way.policy)
    decorated = cache(policy=policy)(report)
    return Side(decorated, [decorated.invalidate, lambda key: decorated.invalidate_all()], decorated)


class Lane:
    """Schedules one after the other: this thread invalidates, another one fills."""

    def __init__(self, number: int, name: str, way: Way, address: str) -> None:
        self.way, self.origin = way, Origin()
        self.dice = random.Random(number)
        self.sides = [side_of(name, address, number, way, self.origin) for _ in range(2)]
        self.told = name.startswith("cachekit")

    def run(self, schedules: int) -> tuple[int, int, int, int, int]:
        """Schedules, acknowledged invalidations, those during the fill, stale calls at once, and after."""
        acknowledged = during = at_once = after = 0
        with ThreadPoolExecutor(1) as filler:
            for key in range(schedules):
                self._prepare(key)
                begun = threading.Event()
                done = filler.submit(self._fill, key, begun)
                begun.wait()
                time.sleep(self.dice.random() * self.way.latest_s)
                answer, seen, moment = self._invalidate(key)
                served = done.result()
                self._settle()
                acknowledged += answer
                if not answer:
                    continue
                began, ended = self.origin.slow
                during += began <= moment < max(served, ended)
                at_once += seen == OLD
                after += any(side.call(key)[0] == OLD for side in self.sides)
        return schedules, acknowledged, during, at_once, after

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
            (side.call if self.way.verb == "call" else side.decorated.refresh)(key)
        return time.monotonic()

    def _invalidate(self, key: int) -> tuple[bool, float | None, float]:
        """Change the origin, invalidate, and perhaps call at once: whether it was acknowledged, what the call gave,
        and the moment between them.
        """
        side = self.dice.choice(self.sides)
        self.origin.versions[key] = NEW
        acknowledged = bool(self.dice.choice(side.invalidations)(key))
        moment, seen = time.monotonic(), None
        if self.dice.random() < 0.5:
            with suppress(OSError):  # this call was the one to run, and to fail
                seen = self.dice.choice(self.sides).call(key)[0]
        return acknowledged, seen, moment

    def _settle(self) -> None:
        """Wait until what goes on in the background has been stored too."""
        while self.told and len(self.origin.ended) < len(self.origin.began):
            time.sleep(0.0002)
