"""P14: what it costs to invalidate a tag with 10 000 entries, and what two tags cost on every hit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from unittest import mock

from benchmarks.adapters import load
from benchmarks.adapters.base import Adapter, AsyncAdapter, Function, library
from benchmarks.adapters.cachekit import Cachekit
from benchmarks.entrants import entrants
from benchmarks.harness import Contestant, Race, race
from benchmarks.raw import decorated_key
from benchmarks.report import Section, ratio_section
from benchmarks.servers import MemcachedProcess, servers
from benchmarks.speed_asyncio import CROWD
from benchmarks.speed_asyncio import hits as asyncio_hits
from benchmarks.speed_decorated import hits
from benchmarks.speed_direct import FREE_CORES, ONE_CORE, run

FIGURES = ("P14",)
ENTRIES = 10_000
VALUE = b"x" * 100
HARD, SOFT = "cachekit, invalidate_tags", "cachekit, expire_tags"
TAGS = ("user:{user_id}", "month:{month}")
KINDS: Mapping[str, Mapping[str, Any]] = {
    "no generation": {"group": False},
    "the function's": {},
    "and one tag's": {"tags": TAGS[:1]},
    "and two tags'": {"tags": TAGS},
    "and two tags', by a function": {"tags": lambda user_id, month, **_: (f"user:{user_id}", f"month:{month}")},
    "and a namespace's": {"namespace": "fr"},
}
"""The generations over a hit, and what the decorator is told for them."""
BASELINES = ("no generation", "the function's")


def sections(quick: bool) -> Iterator[Section]:
    with servers(3, memory_mb=256) as ring:
        yield invalidation(ring, quick)
    with servers(1) as one:
        rounds = 7 if quick else 25
        result = run(one, [*variants(Cachekit), *by_hand()], hits, rounds=rounds, samples=4, one_core=True)
        goal = "two tags and the function's over one without ≤ 1.2"
        notes = ("by hand: the versions of both tags are read first, and stand in the key", *against(result), ONE_CORE)
        yield ratio_section("P14", "decorated hit under tags", result, BASELINES, goal=goal, notes=notes)
        for adapter in crowds():
            result = run(one, variants(adapter), asyncio_hits, rounds=rounds, samples=3, one_core=True)
            title = f"asyncio, decorated hits under tags, {adapter.name}"
            yield ratio_section("P14", title, result, BASELINES, notes=(CROWD, ONE_CORE))


# -- invalidation ------------------------------------------------------------------------------------------------------


def invalidation(running: Sequence[MemcachedProcess], quick: bool) -> Section:
    """Everybody voids ten thousand entries, stored anew before each sample."""
    addresses = [server.address for server in running]
    tagged = Tagged(addresses)
    contestants = [
        Contestant(HARD, partial(tagged.cache.invalidate_tags, "all"), 1, tagged.fill),
        Contestant(SOFT, partial(tagged.cache.expire_tags, "all"), 1, tagged.fill),
    ]
    windows, left = tagged.check()
    loops = [kind for kind in load()[0] if {"delete", "set_many"} <= kind.verbs and not kind.asynchronous and kind.ring]
    with entrants(running, loops) as entered:
        for adapter in entered.adapters:
            keys = [adapter.key(f"{adapter.part}:{number}") for number in range(ENTRIES)]
            store = partial(store_all, adapter, keys)
            contestants.append(Contestant(f"{adapter.name}, delete in a loop", adapter.deletes(keys), 1, store))
            if isinstance(adapter, Cachekit):
                many = partial(adapter.cache.delete_many, keys)
                contestants.append(Contestant(f"{adapter.name}, delete_many", many, 1, store))
        result = race(contestants, rounds=3 if quick else 7, samples=1)
    tagged.cache.close()
    notes = (
        f"each void of the tag took {windows} window over {len(running)} servers, and {left} entries were served after",
        "a loop needs to know the keys; nobody who deletes them stops a run under way from storing an old value",
        FREE_CORES,
    )
    title = f"a tag with {ENTRIES} entries on {len(running)} servers is invalidated"
    failed = {**entered.failed, **result.failed}
    return ratio_section("P14", title, Race(result.times, failed), [HARD], goal="one window", notes=notes)


class Tagged:
    """Ten thousand entries that bear one tag."""

    def __init__(self, addresses: Sequence[str]) -> None:
        cachekit = library("cachekit")
        self.cache: Any = cachekit.Cache(f"memcached://{','.join(addresses)}?deadline=5s", prefix="bench")

        @self.cache.batch(ttl=300, stale=300, tags=["all"])
        def values(ids: list[int]) -> dict[int, bytes]:
            return dict.fromkeys(ids, VALUE)

        self.values: Any = values
        self.ids = range(ENTRIES)

    def fill(self) -> None:
        """Have all of them fresh."""
        self.values(self.ids)

    def check(self) -> tuple[int, int]:
        """How many windows an invalidation takes, and how many entries are served after it."""
        self.fill()
        if len(self.values.peek(self.ids)) != ENTRIES:
            raise RuntimeError("not all entries are stored")
        window: Any = library("cachekit.sync.window")
        with mock.patch.object(window, "open_window", side_effect=window.open_window) as opened:
            self.cache.invalidate_tags("all")
        return opened.call_count, len(self.values.peek(self.ids))


def store_all(adapter: Adapter, keys: Sequence[Any]) -> None:
    """Store every key, a thousand at a time: some clients time out on more."""
    for at in range(0, len(keys), 1000):
        adapter.set_many(dict.fromkeys(keys[at : at + 1000], VALUE))


# -- hits --------------------------------------------------------------------------------------------------------------


def variants(base: type[Adapter]) -> list[type[Adapter]]:
    """cachekit under every kind of generations."""
    found: list[type[Adapter]] = []
    for name, told in KINDS.items():
        options: dict[str, Any] = dict(told)
        if "group" in options:
            options["policy"] = library("cachekit").Policy(group=options.pop("group"))
        found.append(type(base.__name__, (base,), {"name": name, "options": options}))
    return found


def crowds() -> list[type[AsyncAdapter]]:
    """cachekit's coroutines on each loop; none where a loop is missing."""
    try:
        kinds: Any = library("benchmarks.adapters.cachekit_aio")
    except ImportError:
        return []
    return [kinds.CachekitAio, kinds.CachekitUvloop]


PLAIN, VERSIONED = "pylibmc by hand", "pylibmc by hand, two tags"


def by_hand() -> list[type[Adapter]]:
    """What people write on pylibmc, without tags and with the versions of two in the key."""
    pylibmc = next((kind for kind in load()[0] if kind.name == "pylibmc"), None)
    if pylibmc is None:
        return []
    plain = {"name": PLAIN, "decorated_by_hand": False}
    return [
        type("Plain", (pylibmc,), plain),
        type("Versioned", (pylibmc,), {**plain, "name": VERSIONED, "decorate": versioned}),
    ]


def versioned(adapter: Any, function: Function) -> Function:
    """A decorator whose keys hold the versions of two tags, which it has to read first."""
    pickle = library("pickle")
    get_many, get, put = adapter.get_many, adapter.get_or_none, adapter.put

    def wrapper(user_id: int, part: str, *, month: str) -> Any:
        tags = [f"user-{user_id}", f"month-{month}"]
        found = get_many(tags)
        if len(found) < len(tags):
            adapter.set_many({tag: b"1" for tag in tags if tag not in found})
            found = get_many(tags)
        key = decorated_key((user_id, part, *[found[tag] for tag in tags]), {"month": month}).decode()
        payload = get(key)
        if payload is not None:
            return pickle.loads(payload)
        result = function(user_id, part, month=month)
        put(key, pickle.dumps(result, 5))
        return result

    return wrapper


def against(result: Race) -> list[str]:
    """What two tags cost the others, over their own hit without."""
    if not {PLAIN, VERSIONED} <= set(result.times):
        return []
    return [f"pylibmc by hand with two tags over without: {result.ratio(VERSIONED, PLAIN).median:.2f}"]
