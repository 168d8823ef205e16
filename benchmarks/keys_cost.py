"""P5: what the key of a call with three arguments costs, over BLAKE2b of a repr.

Run with ``python -m benchmarks.keys_cost``; prints Markdown. Rounds are interleaved, so the ratios hold on a busy
machine.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import inspect
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from cachekit.keys import wire_key
from cachekit.keys.compile import compile_keys

ROUNDS = 101
CALLS = 2_000
GOAL = 0.6


@dataclass(frozen=True)
class Place:
    """A frozen dataclass as an argument."""

    x: int
    y: int


def report(user_id: object, name: object = "abc", *, month: object) -> None:
    """The function whose keys are made."""


def baseline(*args: object, **kwargs: object) -> str:
    """BLAKE2b of a repr: no types told apart, no names bound, and a memory address for an object."""
    return hashlib.blake2b(repr((args, sorted(kwargs.items()))).encode(), digest_size=16).hexdigest()


_bind = inspect.signature(report).bind


def by_signature(*args: object, **kwargs: object) -> str:
    """What most libraries do: Signature.bind, then the same digest."""
    bound = _bind(*args, **kwargs)
    bound.apply_defaults()
    return baseline(*bound.arguments.items())


def cases() -> dict[str, Callable[[], object]]:
    """Return one call per contestant; the first is the baseline."""
    make = compile_keys(report, prefix="shop").make
    template = compile_keys(report, prefix="shop", key="user:{user_id}").make
    day = dt.date(2026, 11, 1)
    place = Place(1, 2)
    return {
        "blake2b(repr)": lambda: baseline(42, "abc", month="2026-11"),
        "cachekit, three scalars": lambda: make(42, "abc", month="2026-11"),
        "cachekit, a default, a float": lambda: make(42, month=1.5),
        "cachekit, a list of strings": lambda: make(42, "abc", month=["2026-11", "2026-12"]),
        "cachekit, a date": lambda: make(42, "abc", month=day),
        "cachekit, a dict": lambda: make(42, "abc", month={"a": 1, "b": 2}),
        "cachekit, a frozen dataclass": lambda: make(42, "abc", month=place),
        'cachekit, key="user:{user_id}"': lambda: template(42, "abc", month="2026-11"),
        "inspect.Signature.bind + blake2b(repr)": lambda: by_signature(42, "abc", month="2026-11"),
        "wire_key of a direct verb": lambda: wire_key(b"shop", "user:42:profile"),
    }


def measure(rounds: int = ROUNDS, calls: int = CALLS) -> dict[str, tuple[float, float]]:
    """Return of each contestant microseconds a call, and the median of its ratios to the baseline of the same round."""
    times: dict[str, list[float]] = {name: [] for name in cases()}
    contestants = cases()
    for _ in range(rounds):
        for name, call in contestants.items():
            started = time.perf_counter()
            for _ in range(calls):
                call()
            times[name].append((time.perf_counter() - started) / calls * 1e6)
    base = times[next(iter(times))]
    ratios = {name: [mine / theirs for mine, theirs in zip(own, base, strict=True)] for name, own in times.items()}
    return {name: (statistics.median(times[name]), statistics.median(ratios[name])) for name in times}


def rows(rounds: int = ROUNDS) -> list[str]:
    """Return the Markdown table, the figure P5 first."""
    results = measure(rounds)
    p5 = results["cachekit, three scalars"][1]
    verdict = "met" if p5 <= GOAL else f"missed by {p5 - GOAL:.2f}"
    python = f"CPython {sys.version.split()[0]}"
    return [
        f"P5, key of 3 arguments over blake2b(repr(…)), {python}: **{p5:.2f}** (goal ≤ {GOAL}, {verdict})",
        "",
        "| key of a call | µs | over blake2b(repr) |",
        "|---|---:|---:|",
        *(f"| {name} | {cost:.2f} | {ratio:.2f} |" for name, (cost, ratio) in results.items()),
    ]


if __name__ == "__main__":
    print("\n".join(rows()))
