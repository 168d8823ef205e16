"""P16: the CPU time of one decorated hit with a faked socket: what the library itself computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from benchmarks.adapters import named
from benchmarks.adapters.base import Adapter, Function
from benchmarks.adapters.raw import Raw
from benchmarks.fake import Recorder
from benchmarks.harness import Contestant, Race, race
from benchmarks.report import Section
from benchmarks.servers import MemcachedProcess, servers
from benchmarks.speed_decorated import MONTH, display, report

FIGURES = ("P16",)
CALLS = 200
PEERS = ("raw", "cachekit", "pymemcache Client", "dogpile.cache + pymemcache")


def sections(quick: bool) -> Iterator[Section]:
    failed: dict[str, str] = {}
    with servers(1) as (server,):
        contestants: list[Contestant] = []
        for name in PEERS:
            try:
                contestants += faked(name, server)
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"[:120]
        result = race(contestants, rounds=7 if quick else 25, samples=5, clock=time.thread_time)
    yield section(result, failed)


def section(result: Race, failed: dict[str, str]) -> Section:
    rows: list[tuple[str, ...]] = []
    for name in result.times:
        if name.endswith("/socket"):
            continue
        whole, fake = result.median_us(name), result.median_us(f"{name}/socket")
        ratio = result.ratio(name, "raw")
        rows.append((name, f"{whole - fake:.1f}", f"{whole:.1f}", f"{fake:.1f}", f"{ratio.median:.2f}"))
    rows += [(name, "–", "–", "–", f"failed: {error}") for name, error in {**failed, **result.failed}.items()]
    columns = ("contestant", "µs of CPU a hit", "with the faked socket", "the faked socket alone", "over raw (with it)")
    notes = ("thread CPU time; the faked socket answers what the server had answered, under the request's own token",)
    return Section("P16", "CPU of one decorated hit, faked socket", columns, tuple(rows), "≤ 8 µs", notes)


def faked(name: str, server: MemcachedProcess) -> list[Contestant]:
    """The contestant, and beside it the faked socket by itself."""
    adapter = named(name)([server.address])
    decorated = adapter.decorate(report)
    recorder = Recorder()
    decorated(1, adapter.part, month=MONTH)
    with recorder.listening(adapter.sockets()):
        decorated(1, adapter.part, month=MONTH)
    recorder.replay(adapter.sockets())
    before = server.stats()["cmd_get"]
    check(adapter, decorated)
    if server.stats()["cmd_get"] != before:
        raise RuntimeError("the server was asked: the socket was not faked")
    shown = "raw" if isinstance(adapter, Raw) else display(adapter)
    return [
        Contestant(shown, calls(lambda: decorated(1, adapter.part, month=MONTH)), CALLS),
        Contestant(f"{shown}/socket", calls(recorder.trip), CALLS),
    ]


def check(adapter: Adapter, decorated: Function) -> None:
    for _ in range(3):
        if decorated(1, adapter.part, month=MONTH) != report(1, adapter.part, month=MONTH):
            raise RuntimeError("another result behind the faked socket")


def calls(call: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        for _ in range(CALLS):
            call()

    return run
