"""R1, the part of synchronous code: operations interrupted half-way, and what later ones answer.

Interrupted by a signal whose handler raises an Exception or a BaseException (KeyboardInterrupt's kind) at a random
moment of the operation, and by the library's own timeout, while the reply is under way and comes later (proxy.py).
Every key is always there and its value
names it, so a value of another key is *wrong*, and a miss in an operation or after it is *false*.
"""

from __future__ import annotations

import gc
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from multiprocessing.connection import Connection
from typing import Any

from benchmarks import tally
from benchmarks.adapters import named
from benchmarks.adapters.base import Adapter
from benchmarks.proxy import delaying
from benchmarks.report import Section
from benchmarks.servers import servers, stats
from benchmarks.trial import Running, side_by_side, synchronous

FIGURES = ("R1",)
EVERY_S = (2e-6, 50e-6)
SHARE = 0.4
TIMEOUT_S = 0.020
DELAY_S = 0.040
DELAY_EVERY = 8
SETTLE_S = 0.3
PATIENCE_S = 5.0
OPERATIONS, PEER_OPERATIONS, FULL_OPERATIONS = 100_000, 20_000, 1_000_000
INTERRUPTED = 1  # a slot of its own in the counts: DONE there is the number of interrupts


class Interruption(Exception):
    """What a signal handler of an application raises."""


class Bail(BaseException):
    """The same, past every `except Exception`."""


def sections(quick: bool, *, full: bool = False) -> Iterator[Section]:
    ours = FULL_OPERATIONS if full else (5_000 if quick else OPERATIONS)
    peers = 3_000 if quick else PEER_OPERATIONS
    for how, title in (("signal", "signals whose handler raises"), ("timeout", "timeouts, replies come late")):
        share = 1.0 if how == "signal" else 0.05
        work = _work(how, int(ours * share), int(peers * share))
        rows = side_by_side(work, synchronous(ring=False))
        columns = (
            "contestant",
            "operations",
            "interrupted",
            "wrong",
            "false misses",
            "errors",
            "connections leaked",
            "hung",
        )
        goal = "0 wrong; false misses ≤ interrupted; 0 leaked"
        yield Section("R1", f"operations interrupted by {title}", columns, tuple(rows), goal, (_note(how),))


def _note(how: str) -> str:
    if how == "signal":
        low, high = (round(bound * 1e6) for bound in EVERY_S)
        return (
            f"{SHARE:.0%} of the operations set a timer of {low}–{high} µs; 'interrupted': the signal came"
            " before the end; Exception and BaseException alternate"
        )
    return (
        f"timeout {TIMEOUT_S * 1e3:.0f} ms; every {DELAY_EVERY}th reply comes after {DELAY_S * 1e3:.0f} ms;"
        " 'interrupted' counts operations that took as long as the timeout; after a miss the run waits until the server"
        f" is used again, {PATIENCE_S:.0f} s in all"
    )


def _work(how: str, ours: int, peers: int) -> Callable[[type[Adapter]], tuple[str, ...]]:
    def work(adapter: type[Adapter]) -> tuple[str, ...]:
        operations = ours if adapter.name == "cachekit" else peers
        return interrupted(adapter, how, operations, limit_s=14.0 + operations * (0.0005 if how == "signal" else 0.02))

    return work


def interrupted(adapter: type[Adapter], how: str, operations: int, limit_s: float) -> tuple[str, ...]:
    counts = tally.shared(2)
    with servers(1) as (server,):
        place = delaying(server.port, DELAY_EVERY, DELAY_S) if how == "timeout" else nullcontext(server.address)
        with place as address:
            running = Running(child, adapter.name, [server.address, address], how, operations, counts)
            try:
                hung = running.listen(time.monotonic() + limit_s)
                leaked = "–" if len(running.told) < 2 else str(max(0, running.told[1] - running.told[0]))
            finally:
                running.end()
    if not hung and counts[tally.DONE] < operations:
        raise RuntimeError(f"the child died after {counts[tally.DONE]} operations")
    row = counts[: tally.FIELDS]
    told = (row[tally.DONE], counts[INTERRUPTED * tally.FIELDS], row[tally.WRONG], row[tally.MISSED], row[tally.ERRORS])
    return (*map(str, told), leaked, "yes" if hung else "no")


def child(pipe: Connection, name: str, addresses: Sequence[str], how: str, operations: int, counts: Any) -> None:
    direct, address = addresses
    filler = named(name)([direct])
    keys = tally.keys_of(filler)
    tally.fill(filler, keys)
    filler.close()
    adapter = named(name)([address], timeout_s=TIMEOUT_S if how == "timeout" else None)
    port = int(direct.rpartition(":")[2])
    with suppress(Exception):
        adapter.get(keys[0])
    pipe.send(connections(port))
    (_signals if how == "signal" else _timeouts)(adapter, keys, operations, counts)
    gc.collect()
    time.sleep(SETTLE_S)
    pipe.send(connections(port))


def connections(port: int) -> int:
    """Open connections at the server, without the one that asks; the proxy opens one for each of the client's."""
    return int(stats(port)["curr_connections"]) - 1


def _signals(adapter: Adapter, keys: Sequence[Any], operations: int, counts: Any) -> None:
    dice = random.Random(1)
    kinds: list[type[BaseException]] = [Interruption, Bail]

    def handler(number: int, frame: object) -> None:
        counts[INTERRUPTED * tally.FIELDS] += 1
        raise kinds[counts[INTERRUPTED * tally.FIELDS] % 2]

    signal.signal(signal.SIGALRM, handler)
    for turn in range(operations):
        number = turn % len(keys)
        try:
            if dice.random() < SHARE:
                signal.setitimer(signal.ITIMER_REAL, dice.uniform(*EVERY_S))
            try:
                _operate(adapter, keys, number, turn, counts)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except (Interruption, Bail):
            pass
        except Exception:
            counts[tally.ERRORS] += 1
        counts[tally.DONE] += 1


def _timeouts(adapter: Adapter, keys: Sequence[Any], operations: int, counts: Any) -> None:
    patience_s, before = PATIENCE_S, 0
    for turn in range(operations):
        start = time.perf_counter()
        try:
            _operate(adapter, keys, turn % len(keys), turn, counts)
        except Exception:
            counts[tally.ERRORS] += 1
        counts[INTERRUPTED * tally.FIELDS] += time.perf_counter() - start >= TIMEOUT_S
        counts[tally.DONE] += 1
        missed, before = counts[tally.MISSED] > before, counts[tally.MISSED]
        if missed and patience_s > 0:
            patience_s -= _served_again(adapter, keys[0], patience_s)


def _served_again(adapter: Adapter, key: Any, limit_s: float) -> float:
    """Wait while the library leaves the server alone after a timeout, as it may; returns the seconds that took."""
    start = time.monotonic()
    while time.monotonic() < start + limit_s:
        time.sleep(0.02)
        with suppress(Exception):
            if adapter.get(key) is not None:
                break
    return time.monotonic() - start


def _operate(adapter: Adapter, keys: Sequence[Any], number: int, turn: int, counts: Any) -> None:
    """Four gets, then a set of what is there already."""
    if turn % 5 == 4:
        adapter.set(keys[number], tally.value_of(number))
        return
    got = adapter.get(keys[number])
    if got is None:
        counts[tally.MISSED] += 1
    elif got != tally.value_of(number):
        counts[tally.WRONG] += 1
