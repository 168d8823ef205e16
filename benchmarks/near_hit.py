"""P11: a near hit, against a dict with an expiry in a closure, and what others keep in the process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import import_module
from threading import RLock
from typing import Any

from benchmarks.harness import Contestant, race
from benchmarks.report import Section, ratio_section
from cachekit import Cache, Near

FIGURES = ("P11",)
TTL_S = 300
ENTRIES = 10_000
USERS = 50
ROUNDS_A_SAMPLE = 20
CALLS = USERS * ROUNDS_A_SAMPLE
MONTH = "2026-11"
CLOSURE = "dict + expiry in a closure"
BY_POSITION = "the same, for positional arguments alone"

Function = Callable[..., Any]

NOTES = (
    (
        "each call has three arguments, two by position and one by name: `report(7, 'sales', month='2026-11')`; 50"
        " different calls in turn; the result is a text, but where a dict is named"
    ),
    (
        "the closure's key is `(args, tuple(sorted(kwargs.items())))`, as most write it: 1, 1.0 and True are one call,"
        " nothing is ever evicted, and nobody else is told of anything"
    ),
    "lru_cache has no expiry; cachebox and cachetools evict; only cachekit hears of invalidations",
    (
        "a dict (ten fields) is unpacked anew for every caller, so that none can change it under another's feet; the"
        " others hand out one object to all"
    ),
    "CPU time of the thread: the µs are also P16's figure for a near hit, at most 2",
)


def text(user_id: int, part: str, *, month: str) -> str:
    """A function whose result never changes."""
    return f"{user_id} {part} {month}"


def fields(user_id: int, part: str, *, month: str) -> dict[str, object]:
    """A function whose result somebody may change."""
    return {
        "user_id": user_id, "part": part, "month": month, "name": "Ada Lovelace", "visits": 1815, "score": 0.75,
        "active": True, "note": None, "tags": ["engine", "notes", "table"], "address": "12 St James's Square, London",
    }  # fmt: skip


async def later(user_id: int, part: str, *, month: str) -> str:
    """The first of them as a coroutine function."""
    return text(user_id, part, month=month)


def closure(function: Function) -> Function:
    """What one writes without a library."""
    kept: dict[Any, tuple[Any, float]] = {}

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        key = (args, tuple(sorted(kwargs.items())))
        found = kept.get(key)
        if found is not None and found[1] > time.monotonic():
            return found[0]
        value = function(*args, **kwargs)
        kept[key] = value, time.monotonic() + TTL_S
        return value

    return wrapper


def by_position(function: Function) -> Function:
    """The same for a function that takes no argument by name."""
    kept: dict[Any, tuple[Any, float]] = {}

    def wrapper(*args: Any) -> Any:
        found = kept.get(args)
        if found is not None and found[1] > time.monotonic():
            return found[0]
        value = function(*args)
        kept[args] = value, time.monotonic() + TTL_S
        return value

    return wrapper


def cachekit_near(function: Function) -> Function:
    """Everything on: typed keys, expiry, eviction, threads, counts, generations."""
    return Cache("memory:")(ttl=TTL_S, near=Near(ttl=TTL_S, entries=ENTRIES))(function)


def cachebox(function: Function) -> Function:
    library: Any = import_module("cachebox")
    decorated: Function = library.cached(library.TTLCache(ENTRIES, TTL_S))(function)
    return decorated


def cachetools(function: Function) -> Function:
    library: Any = import_module("cachetools")
    decorated: Function = library.cached(library.TTLCache(ENTRIES, TTL_S), lock=RLock())(function)
    return decorated


def theine(function: Function) -> Function:
    library: Any = import_module("theine")
    from datetime import timedelta

    memoized: Any = library.Memoize(ENTRIES, timedelta(seconds=TTL_S))(function)

    @memoized.key  # type: ignore[untyped-decorator, unused-ignore]
    def _(user_id: int, part: str, *, month: str) -> str:
        return f"{user_id}:{part}:{month}"

    return memoized  # type: ignore[no-any-return]


def dogpile(function: Function) -> Function:
    library: Any = import_module("dogpile.cache")
    keys: Any = import_module("dogpile.cache.util").kwarg_function_key_generator
    region = library.make_region().configure("dogpile.cache.memory", expiration_time=TTL_S)
    decorated: Function = region.cache_on_arguments(function_key_generator=keys)(function)
    return decorated


def cashews(function: Function) -> Function:
    library: Any = import_module("cashews")
    cache = library.Cache()
    cache.setup("mem://", size=ENTRIES)
    decorated: Function = cache(ttl=TTL_S)(function)
    return decorated


SYNC: dict[str, tuple[Callable[[Function], Function], Function]] = {
    CLOSURE: (closure, text),
    "cachekit near": (cachekit_near, text),
    "cachekit near, a dict": (cachekit_near, fields),
    "functools.lru_cache (no expiry)": (lru_cache(ENTRIES, typed=True), text),
    "cachebox": (cachebox, text),
    "cachetools + lock": (cachetools, text),
    "theine": (theine, text),
    "dogpile.cache.memory": (dogpile, text),
}
ASYNC: dict[str, Callable[[Function], Function]] = {
    "cachekit near, async def": cachekit_near,
    "cashews, async def": cashews,
}


def sections(quick: bool) -> Iterator[Section]:
    failed: dict[str, str] = {}
    contestants: list[Contestant] = []
    loop = asyncio.new_event_loop()
    builders: dict[str, Callable[[], Contestant]] = {}
    for name, (decorate, function) in SYNC.items():
        builders[name] = lambda name=name, decorate=decorate, function=function: calling(name, decorate(function))  # type: ignore[misc]
    builders[BY_POSITION] = positional
    for name, decorate in ASYNC.items():
        builders[name] = lambda name=name, decorate=decorate: awaiting(name, decorate(later), loop)  # type: ignore[misc]
    for name, build in builders.items():
        try:
            contestants.append(build())
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"[:120]
    result = race(contestants, rounds=9 if quick else 51, samples=5, clock=time.thread_time)
    loop.close()
    result = type(result)(result.times, {**failed, **result.failed})
    yield ratio_section("P11", "a near hit", result, [CLOSURE], goal="≤ 1.0 for an immutable value", notes=NOTES)


def calling(name: str, decorated: Function) -> Contestant:
    """A sample calls it for each user, some rounds."""

    def sample() -> None:
        for _ in range(ROUNDS_A_SAMPLE):
            for user in range(USERS):
                decorated(user, "sales", month=MONTH)

    sample()
    if decorated(7, "sales", month=MONTH) not in (text(7, "sales", month=MONTH), fields(7, "sales", month=MONTH)):
        raise RuntimeError("another result than the function's")
    return Contestant(name, sample, CALLS)


def positional() -> Contestant:
    """The closure that knows of no names."""
    decorated = by_position(lambda user_id, part, month: text(user_id, part, month=month))

    def sample() -> None:
        for _ in range(ROUNDS_A_SAMPLE):
            for user in range(USERS):
                decorated(user, "sales", MONTH)

    return Contestant(BY_POSITION, sample, CALLS)


def awaiting(name: str, decorated: Function, loop: asyncio.AbstractEventLoop) -> Contestant:
    """The same inside of one coroutine."""

    async def all_of_them() -> None:
        for _ in range(ROUNDS_A_SAMPLE):
            for user in range(USERS):
                await decorated(user, "sales", month=MONTH)

    def sample() -> None:
        loop.run_until_complete(all_of_them())

    sample()
    return Contestant(name, sample, CALLS)
