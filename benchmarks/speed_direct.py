"""P1, P2, P3, P3s and P13: the direct verbs against the raw socket."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

from benchmarks.adapters.base import Adapter
from benchmarks.entrants import entrants, with_verb
from benchmarks.harness import Contestant, Race, on_one_core, race
from benchmarks.report import Section, ratio_section
from benchmarks.servers import MemcachedProcess, servers

FIGURES = ("P1", "P2", "P3", "P3s", "P13")
KEYS = 50
MANY = 100
MANY_CALLS = 4
STALL_S = 0.25
SMALL = 100
LARGE = 100 * 1024
GROWTH = (1, 3, 10, 30)
ONE_CORE = (
    "client and servers share one core (harness.on_one_core says why: the stricter measure on a small virtual machine)"
)
FREE_CORES = "the scheduler places client and servers, so that servers can work side by side"

Builder = Callable[[Adapter], Contestant]


def sections(quick: bool) -> Iterator[Section]:
    with servers(1) as one:
        yield from single_server(one, quick)
    with servers(3) as three:
        yield ring_gets(three, quick)
        yield from bulk(three, quick)
    yield growth(quick)


def single_server(running: list[MemcachedProcess], quick: bool) -> Iterator[Section]:
    for size, goal in ((SMALL, "≤ 1.20"), (LARGE, "≤ 1.15")):
        rounds = (6 if quick else 21) if size == SMALL else (5 if quick else 15)
        for verb in ("get", "set", "delete"):
            if verb == "delete" and size == LARGE:
                continue  # a delete carries no value
            entered = [adapter for adapter in with_verb(verb) if adapter.name != "raw ring"]
            result = run(running, entered, single(verb, size), rounds=rounds, one_core=True)
            yield ratio_section(
                "P1", f"{verb}, {_size(size)}, one server", result, ["raw"], goal=goal, notes=(ONE_CORE,)
            )


def ring_gets(running: list[MemcachedProcess], quick: bool) -> Section:
    entered = [adapter for adapter in with_verb("get") if adapter.ring]
    result = run(running, entered, single("get", SMALL), rounds=6 if quick else 21, one_core=True)
    return ratio_section(
        "P2", "get of single keys, 100 B, ring of 3", result, ["raw ring"], goal="≤ 1.20", notes=(ONE_CORE,)
    )


def bulk(running: list[MemcachedProcess], quick: bool) -> Iterator[Section]:
    baselines = ["raw, server by server", "raw ring"]
    titles = {"get_many": ("P3", "≤ 1.0"), "set_many": ("P3s", "≤ 1.2")}
    note = "'raw ring' sends every server's request before it reads the first reply: the strictest baseline"
    for verb, (figure, goal) in titles.items():
        entered = [adapter for adapter in with_verb(verb) if adapter.ring]
        result = run(running, entered, many(verb), rounds=8 if quick else 25, samples=3, one_core=False)
        title = f"{verb} of {MANY} values of 100 B over 3 servers"
        yield ratio_section(figure, title, result, baselines, goal=goal, notes=(note, FREE_CORES))


def growth(quick: bool) -> Section:
    """How much one get costs as the ring grows: each library against itself on one server."""
    entered = [adapter for adapter in with_verb("get") if adapter.ring and not adapter.asynchronous]
    with servers(max(GROWTH), memory_mb=16) as running, on_one_core([server.pid for server in running]):
        contestants: list[Contestant] = []
        failed: dict[str, str] = {}
        opened: list[Adapter] = []
        for adapter in entered:
            for count in GROWTH:
                try:
                    opened.append(adapter([server.address for server in running[:count]]))
                    made = single("get", SMALL)(opened[-1])
                except Exception as error:
                    failed[adapter.name] = f"{type(error).__name__}: {error}"[:120]
                else:
                    contestants.append(Contestant(f"{adapter.name}/{count}", made.run, made.calls))
        result = race(contestants, rounds=5 if quick else 15, samples=2 if quick else 3)
        for each in opened:
            each.close()
    return growth_section(result, [adapter.name for adapter in entered], failed)


def growth_section(result: Race, names: Sequence[str], failed: dict[str, str]) -> Section:
    rows: list[tuple[str, ...]] = []
    for name in names:
        if name in failed or any(f"{name}/{count}" not in result.times for count in GROWTH):
            rows.append((name, *("–" for _ in GROWTH), failed.get(name, "failed")))
            continue
        ratios = [result.ratio(f"{name}/{count}", f"{name}/{GROWTH[0]}").median for count in GROWTH]
        micros = result.median_us(f"{name}/{GROWTH[-1]}")
        rows.append((name, *(f"{ratio:.2f}" for ratio in ratios), f"{micros:.1f}"))
    columns = ("contestant", *(f"{count} servers" for count in GROWTH), f"µs here, {GROWTH[-1]}")
    goal = "no faster growth than raw"
    return Section(
        "P13", "get, 100 B, as the servers grow (over the same library on one)", columns, tuple(rows), goal, (ONE_CORE,)
    )


def run(
    running: Sequence[MemcachedProcess],
    classes: Sequence[type[Adapter]],
    build: Builder,
    *,
    rounds: int,
    samples: int = 4,
    one_core: bool,
) -> Race:
    """Open, check, race, close."""
    place = on_one_core([server.pid for server in running]) if one_core else nullcontext()
    with place, entrants(running, classes) as entered:
        contestants: list[Contestant] = []
        for adapter in entered.adapters:
            try:
                contestants.append(build(adapter))
            except Exception as error:
                entered.failed[adapter.name] = f"{type(error).__name__}: {error}"[:120]
        result = race(contestants, rounds=rounds, samples=samples)
    return Race(result.times, {**entered.failed, **result.failed})


def single(verb: str, size: int) -> Builder:
    """A contestant for one verb on single keys; raises when its answer is wrong."""
    value = os.urandom(size)

    def build(adapter: Adapter) -> Contestant:
        keys = [adapter.key(f"{adapter.name.replace(' ', '-')}:{number}") for number in range(KEYS)]
        store = adapter.sets(keys, value)
        store()
        check(adapter, keys[0], value)
        if verb == "get":
            return Contestant(adapter.name, adapter.gets(keys), KEYS)
        if verb == "set":
            return Contestant(adapter.name, store, KEYS)
        return Contestant(adapter.name, adapter.deletes(keys), KEYS, before=store)

    return build


def check(adapter: Adapter, key: object, value: bytes) -> None:
    """One get has to bring the value back, and soon: a peer that stalls for seconds is named instead of raced."""
    start = time.perf_counter()
    got = adapter.result(adapter.get(key))
    took_s = time.perf_counter() - start
    if got != value:
        raise RuntimeError(f"get answered {got!r:.40}")
    if took_s > STALL_S:
        raise RuntimeError(f"one get took {took_s:.1f} s")


def many(verb: str) -> Builder:
    value = os.urandom(SMALL)

    def build(adapter: Adapter) -> Contestant:
        keys = [
            adapter.key(f"{adapter.name.replace(' ', '-').replace(',', '')}:many:{number}") for number in range(MANY)
        ]
        values = dict.fromkeys(keys, value)
        one = adapter.once(adapter.get_many, keys)
        if verb == "set_many":
            one = adapter.once(adapter.set_many, values)
        adapter.sets(keys, value)()
        if len(adapter.result(adapter.get_many(keys))) != MANY:
            raise RuntimeError("get_many did not return every value")

        def sample() -> None:
            for _ in range(MANY_CALLS):
                one()

        return Contestant(adapter.name, sample, MANY_CALLS)

    return build


def _size(count: int) -> str:
    return f"{count} B" if count < 1024 else f"{count // 1024} KiB"
