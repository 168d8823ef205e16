"""``cachekit demo``: a cached function gets fast, one run serves a crowd, an invalidation wins. All of it measured."""

from __future__ import annotations

import argparse
import os
import random
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from cachekit.addresses import parse_target
from cachekit.cache import Cache
from cachekit.cli import chart
from cachekit.cli.command import Command
from cachekit.cli.complaint import Complaint
from cachekit.cli.crowd import across_processes, in_this_process
from cachekit.cli.stats import ask_all
from cachekit.cli.where import add_servers
from cachekit.function import CachedFunction

PREFIX = "cachekit-demo"
TTL = "10m"
_BAR = 44
_INDENT = "   "


@dataclass(frozen=True, slots=True)
class Size:
    """How much the demo does. The crowd is ``processes`` × ``threads`` callers on real servers, else ``alone``."""

    numbers: int
    requests: int
    runs: int
    alone: int
    processes: int
    threads: int


FULL = Size(numbers=5000, requests=2000, runs=10, alone=50, processes=4, threads=25)
QUICK = Size(numbers=1000, requests=400, runs=10, alone=50, processes=2, threads=10)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_servers(parser, "real servers to run on, as a URL; default: the embedded server of this process")
    parser.add_argument("--quick", action="store_true", help="a fifth of the work")


def _run(arguments: argparse.Namespace) -> int:
    size = QUICK if arguments.quick else FULL
    where = _check(arguments.servers)
    token = os.urandom(4).hex()  # each demo begins cold, whatever an earlier one left on the servers
    with Cache(arguments.servers or "memory:", prefix=PREFIX) as cache:
        print(f"cachekit on {where}")
        squares(cache, token, size)
        stampede(cache, token, size, arguments.servers)
        invalidation(cache, token)
    return 0


def _check(url: str | None) -> str:
    """Where the demo runs, in words. Raises ``Complaint`` where a server does not answer."""
    target = parse_target(url or "memory:")
    if target.scheme == "memory":
        return "the embedded server of this process (--servers URL for real ones)"
    for report in ask_all(target.servers):
        if report.trouble:
            raise Complaint(f"{report.server.name} is down: {report.trouble}", code=1)
    count = len(target.servers)
    return f"{count} Memcached server{'s' if count > 1 else ''}: {', '.join(s.name for s in target.servers)}"


def _title(number: int, text: str) -> None:
    print(f"\n{number}  {text}\n")


# -- squares ---------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """One run: its length, the share of requests that were hits, and how long each request took, in seconds."""

    seconds: float
    hit_ratio: float
    hits_s: list[float]
    misses_s: list[float]


def make_square(cache: Cache, token: str) -> CachedFunction[[int], int]:
    """The function of the experiment, with entries of its own for this demo."""

    @cache(ttl=TTL, namespace=token)
    def square(n: int) -> int:
        time.sleep(0.001)
        return n * n

    return square


def squares(cache: Cache, token: str, size: Size) -> None:
    """Random numbers, run after run: more and more of them have been squared before."""
    below, requests = chart.number(size.numbers), chart.number(size.requests)
    _title(1, f"Squares of random numbers below {below}. The function takes 1 ms;\n{_INDENT}{requests} requests a run.")
    square = make_square(cache, token)
    draw = random.Random()
    print(f"{_INDENT}run  seconds{' ' * (_BAR + 4)}hit rate")
    blocks = chart.can_draw()
    bare = one_run(square.uncached, square, draw, size)
    print(f"{_INDENT}  -   {bare.seconds:6.3f}  {chart.bar(1, 1, _BAR, blocks=blocks)}  no cache", flush=True)
    runs = []
    for number in range(1, size.runs + 1):
        runs.append(one_run(square, square, draw, size))
        drawn = chart.bar(runs[-1].seconds, bare.seconds, _BAR, blocks=blocks).ljust(_BAR)
        print(f"{_INDENT}{number:3}   {runs[-1].seconds:6.3f}  {drawn}  {100 * runs[-1].hit_ratio:6.1f} %", flush=True)
    _sum_up(square, runs, size)


def one_run(call: Callable[[int], int], square: CachedFunction[[int], int], draw: random.Random, size: Size) -> Run:
    """Make one run's requests through ``call``; hits are told by the function's own count."""
    hits_s: list[float] = []
    misses_s: list[float] = []
    hits = square.info().hits
    began = time.perf_counter()
    for _ in range(size.requests):
        n = draw.randrange(size.numbers)
        asked = time.perf_counter()
        if call(n) != n * n:
            raise Complaint(f"a wrong answer for {n}: please report this", code=1)
        took = time.perf_counter() - asked
        now = square.info().hits
        (hits_s if now > hits else misses_s).append(took)
        hits = now
    return Run(time.perf_counter() - began, len(hits_s) / size.requests, hits_s, misses_s)


def _sum_up(square: CachedFunction[[int], int], runs: list[Run], size: Size) -> None:
    info = square.info()
    hits_s = [each for run in runs for each in run.hits_s]
    misses_s = [each for run in runs for each in run.misses_s]
    requests, fills = chart.number(size.requests * size.runs), chart.number(info.fills)
    saved = chart.span(info.seconds_saved)
    print(f"\n{_INDENT}{requests} requests, {fills} runs of the function; the others saved {saved} of it.")
    hit, miss = (chart.span(statistics.median(each)) if each else "-" for each in (hits_s, misses_s))
    print(f"{_INDENT}A hit took {hit}, a miss with its run {miss} (medians).")
    if info.errors:
        print(f"{_INDENT}{info.errors} exchanges with a server failed; the function ran instead.")


# -- the crowd, the invalidation -------------------------------------------------------------------------------------


def stampede(cache: Cache, token: str, size: Size, url: str | None) -> None:
    """Many callers on one cold key at the same moment."""
    if url is None or parse_target(url).scheme == "memory":
        _title(2, f"A stampede: {size.alone} threads want one cold value at once. It takes 300 ms.")
        crowd = in_this_process(cache, token, size.alone)
    else:
        _title(
            2,
            f"A stampede: {size.processes} processes of {size.threads} threads want one cold value at once.\n"
            f"{_INDENT}It takes 300 ms.",
        )
        crowd = across_processes(url, PREFIX, token, size.processes, size.threads)
    times = "once" if crowd.runs == 1 else f"{crowd.runs} times"
    print(f"{_INDENT}{crowd.callers} callers; the function ran {times};")
    print(f"{_INDENT}the slowest caller had his answer after {chart.span(crowd.slowest_s)}.")


def invalidation(cache: Cache, token: str) -> None:
    """The stored price is served until it is invalidated, and a slow run under way can't bring it back."""
    _title(3, "An invalidation.")
    prices = {"tea": 4.50}
    reading, go_on = threading.Event(), threading.Event()
    go_on.set()

    @cache(ttl=TTL, namespace=token)
    def price(item: str) -> float:
        found = prices[item]
        reading.set()
        go_on.wait(10)
        return found

    def show(what: str, outcome: object) -> None:
        print(f"{_INDENT}{what:<48}{outcome}".rstrip())

    show("price('tea')", price("tea"))
    prices["tea"] = 4.90
    show("the price is changed to 4.9;  price('tea')", f"{price('tea')}   served from the cache")
    show("price.invalidate('tea')", price.invalidate("tea"))
    show("price('tea')", price("tea"))
    price.invalidate("tea")
    reading.clear()
    go_on.clear()
    slow = threading.Thread(target=price, args=("tea",))
    slow.start()
    reading.wait(10)
    prices["tea"] = 5.20
    show("a slow run reads 4.9; the price becomes 5.2,", "")
    show("and price.invalidate('tea') comes in between:", price.invalidate("tea"))
    go_on.set()
    slow.join()
    show("the slow run has ended;  price('tea')", f"{price('tea')}   not the slow run's 4.9")


COMMAND = Command(
    "watch a cached function get fast",
    """Watch a cached function get fast, a crowd on one cold key, and an invalidation. Runs on the embedded
server of this process, or on real servers; what it stores there is gone after ten minutes.""",
    _add_arguments,
    _run,
)
