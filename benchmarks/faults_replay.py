"""R6: keys are deleted while their server can't be reached, and then it comes back with its old memory.

One process deletes, another one only reads. The server is stopped (SIGSTOP) and goes on, or the way to it is cut by a
proxy and mended. A stopped server still carries out what had come into its sockets; what was deleted after it had been
given up it has never heard of.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from benchmarks.adapters import named
from benchmarks.adapters.base import Adapter
from benchmarks.proxy import SPAWN, cutting
from benchmarks.report import Section
from benchmarks.servers import servers, stats
from benchmarks.trial import Running, side_by_side, synchronous

FIGURES = ("R6",)
KEYS = 105
VICTIM = 1
DEADLINE_S = 0.25
PAUSE_S = 0.02
"""Between two deletes, and between two rounds of reads."""

STOPPED, CUT = "stopped", "cut"
OLD = b"old"


class Spans(NamedTuple):
    """Seconds: of reading after the return, and of a value's life since it was stored."""

    reading_s: float
    life_s: int


FULL, QUICK = Spans(40.0, 60), Spans(5.0, 20)

NOTES = (
    (
        f"{KEYS} keys over three servers, 'there': those of the one that goes away; all are deleted while it is away,"
        f" one every {PAUSE_S * 1000:.0f} ms, with a time limit of {DEADLINE_S * 1000:.0f} ms an operation"
    ),
    "'stale': keys of which the process that deleted them read the old value again after the server's return, in 40 s",
    (
        "'others': for how long after its return another process, which deleted nothing, still read an old value; the"
        " values' hard expiry is 60 s after they were stored, about 55 s after the return"
    ),
    "'said so': deletes that returned something false or raised; the others told their caller that all is well",
    (
        "decorated: `invalidate` of a cached function in place of `delete`; control: cachekit without its queue, which"
        " must show some, or this test could not see one"
    ),
)


def sections(quick: bool) -> Iterator[Section]:
    spans = QUICK if quick else FULL
    columns = ("contestant", "fault", "there", "said so", "longest delete", "stale", "others: old values for")
    rows: list[tuple[str, ...]] = []
    for fault in (STOPPED, CUT):
        with ThreadPoolExecutor(len(OWN)) as pool:  # they mostly wait
            own = list(pool.map(lambda way, fault=fault: outage("cachekit", way, fault, spans), OWN))
        rows += [(way, fault, *cells) for way, cells in zip(OWN, own, strict=True)]
        peers = [adapter for adapter in synchronous("delete") if adapter.name != "cachekit"]
        found = side_by_side(lambda adapter, fault=fault: outage(adapter.name, DELETE, fault, spans), peers)  # type: ignore[misc]
        rows += [(name, fault, *cells) for name, *cells in found]
    goal = "0 stale; others within the hard expiry"
    yield Section(
        "R6", "deletes during an outage, then the server returns with its old memory", columns, tuple(rows), goal, NOTES
    )


def outage(name: str, way: str, fault: str, spans: Spans) -> tuple[str, ...]:
    with ExitStack() as stack:
        running = stack.enter_context(servers(3))
        addresses = [server.address for server in running]
        cut = None
        if fault == CUT:
            addresses[VICTIM], cut = stack.enter_context(cutting(running[VICTIM].port))
        returned = SPAWN.Value("d", 0.0)
        deleter = Running(delete, name, way, addresses, running[VICTIM].pid, cut, returned, spans)
        stack.callback(deleter.end)
        deleter.first(30.0)
        there = stats(running[VICTIM].port)["curr_items"]
        bystander = Running(look_on, name, way, addresses, returned, spans)
        stack.callback(bystander.end)
        bystander.first(30.0)
        limit = time.monotonic() + 60.0 + spans.reading_s
        hung = deleter.listen(limit)
        if hung:
            running[VICTIM].resume()
            return (there, "hung", "–", "–", "–")
        bystander.listen(time.monotonic() + spans.reading_s)
    if isinstance(deleter.told[-1], str):
        return (there, f"failed: {deleter.told[-1]}", "–", "–", "–")
    said, longest_s, stale = deleter.told[-1]
    last = bystander.told[-1]
    others = "–" if last is None else f"{last:.1f} s" if isinstance(last, float) else str(last)
    return (there, f"{said} of {KEYS}", f"{longest_s * 1000:.0f} ms", str(stale), others)


# -- the children -----------------------------------------------------------------------------------------------------

DELETE = "cachekit"
DECORATED = "cachekit, decorated"
ASYNCIO = "cachekit, asyncio, decorated"
CONTROL = "cachekit without its queue (control)"
OWN = (DELETE, DECORATED, ASYNCIO, CONTROL)


class Side(NamedTuple):
    """One process's view of the cache. ``read`` tells whether the old value was read."""

    read: Callable[[int], bool]
    void: Callable[[int], Any]


def side_of(name: str, way: str, addresses: Sequence[str], life_s: int, *, first: bool) -> Side:
    """``first``: this side stores the old values; what the other one would compute is new."""
    adapter = named(name)(addresses, timeout_s=DEADLINE_S)
    if way == CONTROL:
        adapter.cache._env.keep = lambda *_, **__: None  # type: ignore[attr-defined]
    if way in (DECORATED, ASYNCIO):
        return _decorated(adapter, life_s, awaited=way == ASYNCIO, first=first)
    if first:
        _store_all(adapter, life_s)

    def read(number: int) -> bool:
        try:
            return bool(adapter.get(f"key-{number}") == OLD)
        except Exception:
            return False

    return Side(read, lambda number: adapter.delete(f"key-{number}"))


def _store_all(adapter: Adapter, life_s: int) -> None:
    """Patiently: on a busy machine the first connection may take longer than the time limit."""
    for number in range(KEYS):
        for left in reversed(range(5)):
            try:
                adapter.set_for(f"key-{number}", OLD, life_s)
                break
            except Exception:
                if not left:
                    raise
                time.sleep(0.1)


def _decorated(adapter: Any, life_s: int, *, awaited: bool, first: bool) -> Side:
    version = [OLD if first else b"new"]

    def value(number: int) -> bytes:
        return version[0]

    async def coroutine(number: int) -> bytes:
        return version[0]

    value.__module__ = coroutine.__module__ = "shop"
    value.__qualname__ = coroutine.__qualname__ = "value"
    decorated = adapter.cache(ttl=life_s)(coroutine if awaited else value)
    loop = asyncio.new_event_loop()

    def done(result: Any) -> Any:
        return loop.run_until_complete(result) if awaited else result

    for number in range(KEYS):
        done(decorated(number))
    version[0] = b"new"
    return Side(lambda number: done(decorated(number)) == OLD, lambda number: done(decorated.invalidate(number)))


def delete(
    pipe: Connection, name: str, way: str, addresses: Sequence[str], pid: int, cut: Any, returned: Any, spans: Spans
) -> None:
    """Stores, has the server go away, deletes, has it return, and reads: how many deletes said that they failed, the
    longest, and the keys of which an old value was read.
    """
    try:
        side = side_of(name, way, addresses, spans.life_s, first=True)
        pipe.send("ready")
        time.sleep(1.0)  # until the other one has read everything once
        cut.set() if cut is not None else os.kill(pid, signal.SIGSTOP)
        try:
            said, longest_s = _delete_all(side)
        finally:
            cut.clear() if cut is not None else os.kill(pid, signal.SIGCONT)
        returned.value = time.monotonic()
        stale: set[int] = set()
        while time.monotonic() < returned.value + spans.reading_s:
            stale.update(number for number in range(KEYS) if side.read(number))
            time.sleep(PAUSE_S)
        pipe.send((said, longest_s, len(stale)))
    except Exception as error:
        pipe.send(" ".join(f"{type(error).__name__}: {error}".split())[:100])


def _delete_all(side: Side) -> tuple[int, float]:
    said, longest_s = 0, 0.0
    for number in range(KEYS):
        began = time.monotonic()
        try:
            said += not side.void(number)
        except Exception:
            said += 1
        longest_s = max(longest_s, time.monotonic() - began)
        time.sleep(PAUSE_S)
    return said, longest_s


def look_on(pipe: Connection, name: str, way: str, addresses: Sequence[str], returned: Any, spans: Spans) -> None:
    """Reads all the time; for how many seconds after the server's return an old value was seen; None: never."""
    try:
        side = side_of(name, way, addresses, spans.life_s, first=False)
        for number in range(KEYS):
            side.read(number)
        pipe.send("ready")
        last: float | None = None
        while not returned.value or time.monotonic() < returned.value + spans.reading_s:
            old = sum(side.read(number) for number in range(KEYS))
            if old and returned.value:
                last = time.monotonic() - returned.value
            time.sleep(PAUSE_S)
        pipe.send(f"over {spans.reading_s:.0f} s" if last is not None and last > spans.reading_s - 1 else last)
    except Exception as error:
        pipe.send(f"failed: {type(error).__name__}")
