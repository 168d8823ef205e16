"""How soon an invalidation in one process has reached the near tier of another; and what watchers cost a server."""

from __future__ import annotations

import selectors
import socket
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from benchmarks.herd import Herd, Serve, await_moment, quantile, soon
from benchmarks.report import Section
from benchmarks.servers import HOST, MemcachedProcess, servers

FIGURES = ("watch",)
NEAR_TTL_S = 1.0
PAUSE_S = 0.0005  # between two looks of the reader: a thread that never pauses would keep the watcher from the GIL
LIMIT_S = 60.0
BATCH = 100
IDLE, BUSY = "idle", "busy"

NOTES = (
    (
        "one process invalidates, another calls the same function all the time; from the return of `invalidate` in the"
        " one to the first call in the other that runs the function; each round another moment, the keys in turn"
    ),
    f"near.ttl is {NEAR_TTL_S:g} s; without the accelerator it is all that ends a near entry elsewhere",
    "idle: nothing else is asked of the server; busy: two more connections store and read, a hundred commands a write",
    "0.0: the reader was quicker than the reply to the invalidation, which had happened by then",
)
COST_NOTES = (
    "one connection, a hundred commands a write; ratios inside one interleaved round, over the same without watchers",
    "CPU: what all threads of the server have run for, by /proc",
    "a store is a line in each stream, a read is none; the watchers' own work is done on the other core",
    "twenty is the most that a server takes",
)


def sections(quick: bool) -> Iterator[Section]:
    rounds = {False: 12 if quick else 40, True: 25 if quick else 100}
    rows = [delays(watched, load, rounds[watched]) for load in (IDLE, BUSY) for watched in (False, True)]
    columns = ("near tier", "server", "invalidations", "p50", "p95", "p99", "longest")
    goal = "milliseconds with the accelerator, at most near.ttl without"
    yield Section("watch", "from an invalidation to another process's near tier", columns, tuple(rows), goal, NOTES)
    yield cost(8 if quick else 25)


# -- delays -----------------------------------------------------------------------------------------------------------


def delays(watched: bool, load: str, rounds: int) -> tuple[str, ...]:
    """A row of the first table."""
    name = "near.ttl and the accelerator" if watched else "near.ttl alone"
    late: list[float] = []
    try:
        with servers(1) as (server,), ExitStack() as stack:
            if load == BUSY:
                stack.enter_context(Herd(1, busy, server.port))
            herd = stack.enter_context(Herd(2, member, server.address, watched))
            time.sleep(2.0)  # the server's log thread and both caches come to rest
            for number in range(rounds):
                gone, seen = herd.ask((number, soon() + 0.1 + number * 0.618 % 1 * NEAR_TTL_S), LIMIT_S)
                late.append(max(0.0, seen - gone))
    except Exception as error:
        return (name, load, f"failed: {type(error).__name__}: {error}")
    late.sort()
    figures = (quantile(late, 0.5), quantile(late, 0.95), quantile(late, 0.99), late[-1])
    return (name, load, str(len(late)), *(f"{each * 1000:.1f} ms" for each in figures))


def member(number: int, address: str, watched: bool) -> Serve:
    """The one who invalidates, 0, or the one who reads: tells the moment at which that was done, or found out."""
    from cachekit import Cache, Near

    cache = Cache(f"memcached://{address}?deadline=2s{'&watch=yes' if watched else ''}", prefix="bench")
    runs: list[float] = []

    @cache(ttl="10m", near=Near(ttl=NEAR_TTL_S))
    def report(key: int) -> int:
        runs.append(time.monotonic())
        return len(runs)

    report(0)

    def serve(message: tuple[int, float]) -> float:
        turn, moment = message
        key = turn % 4
        if number == 0:
            await_moment(moment)
            assert report.invalidate(key)
            return time.monotonic()
        while time.monotonic() < moment:  # the entry is filled, kept, and kept again
            report(key)
            time.sleep(PAUSE_S)
        runs.clear()
        while not runs:
            report(key)
            time.sleep(PAUSE_S)
        return runs[0]

    return serve


def busy(number: int, port: int) -> Serve:
    """Two connections that are never done."""
    for offset in range(2):
        threading.Thread(target=ask_for_ever, args=(port, 1000 * offset), daemon=True).start()
    return lambda message: message


def ask_for_ever(port: int, offset: int) -> None:
    with socket.create_connection((HOST, port)) as connection:
        stores = stores_of(offset)
        reads = b"".join(b"mg other:%d v\r\n" % (offset + n) for n in range(BATCH)) * 4
        while True:
            connection.sendall(stores + reads + b"mn\r\n")
            until_mn(connection)
            time.sleep(0.002)


# -- what it costs ----------------------------------------------------------------------------------------------------


def cost(rounds: int) -> Section:
    """The second table: rates with watchers over rates without."""
    kinds = {"stores": stores_of(0), "reads": b"".join(b"mg other:%d v\r\n" % n for n in range(BATCH))}
    rates: dict[tuple[str, str], list[Pace]] = {}
    with servers(1) as (server,), Herd(1, watcher, server.address) as herd:
        for _ in range(rounds):
            for who in ("nobody", "cachekit", "twenty"):
                herd.ask(who, LIMIT_S)
                for kind, batch in kinds.items():
                    rates.setdefault((who, kind), []).append(pace(server, batch))
    rows = []
    for kind in kinds:
        alone = rates["nobody", kind]
        for who in ("cachekit", "twenty"):
            pairs = list(zip(rates[who, kind], alone, strict=True))
            count = "one of cachekit's" if who == "cachekit" else "twenty"
            rows.append(
                (kind, count, *ratio([a.cpu / b.cpu for a, b in pairs]), *ratio([a.rate / b.rate for a, b in pairs]))
            )
    columns = ("commands", "watchers", "CPU a command", "quartiles", "rate", "quartiles")
    return Section("watch", "what watchers cost a server", columns, tuple(rows), "", COST_NOTES)


class Pace(NamedTuple):
    """Batches a second, and the server's CPU seconds for each."""

    rate: float
    cpu: float


def ratio(ratios: list[float]) -> tuple[str, str]:
    """The median and the quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2f}", f"{low:.2f}–{high:.2f}"


def cpu_s(server: MemcachedProcess) -> float:
    """Seconds for which the server's threads have run."""
    threads = Path(f"/proc/{server.pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def pace(server: MemcachedProcess, batch: bytes, seconds: float = 0.3) -> Pace:
    """How fast batches are answered over one connection."""
    with socket.create_connection((HOST, server.port)) as connection:
        before, begin, count = cpu_s(server), time.perf_counter(), 0
        while (spent := time.perf_counter() - begin) < seconds:
            connection.sendall(batch + b"mn\r\n")
            until_mn(connection)
            count += 1
        return Pace(count / spent, (cpu_s(server) - before) / count)


def watcher(number: int, address: str) -> Serve:
    """Watches as nobody, as one of cachekit's, or as twenty that only read."""
    from cachekit.addresses import parse_target
    from cachekit.watch import Watch

    watch = Watch(parse_target(f"memcached://{address}").servers, len, lambda index: None, prefix=b"bench:")
    crowd = Crowd(address)

    def serve(who: str) -> str:
        watch.close()
        crowd.close()
        if who == "cachekit":
            watch.ensure()
            while not watch.is_watching(0):
                time.sleep(0.01)
        elif who == "twenty":
            crowd.open(20)
        time.sleep(0.1)
        return who

    return serve


class Crowd:
    """Raw watchers whose lines are read and thrown away."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.partition(":")
        self._port = int(port)
        self._sockets: list[socket.socket] = []

    def open(self, count: int) -> None:
        chosen = selectors.DefaultSelector()
        while len(self._sockets) < count:
            connection = socket.create_connection((self._host, self._port))
            connection.sendall(b"watch mutations\r\n")
            answer = connection.recv(4)
            if answer != b"OK\r\n":  # the places of the round before are not free yet
                connection.close()
                time.sleep(0.05)
                continue
            self._sockets.append(connection)
            chosen.register(connection, selectors.EVENT_READ)
        threading.Thread(target=self._drain, args=(chosen, list(self._sockets)), daemon=True).start()

    def _drain(self, chosen: selectors.BaseSelector, sockets: Sequence[socket.socket]) -> None:
        open_ = len(sockets)
        while open_:
            for key, _ in chosen.select():
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if not connection.recv(1 << 16):
                    chosen.unregister(connection)
                    connection.close()
                    open_ -= 1
        chosen.close()

    def close(self) -> None:
        for connection in self._sockets:
            connection.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()


# -- both -------------------------------------------------------------------------------------------------------------


def stores_of(offset: int) -> bytes:
    return b"".join(b"ms other:%d 10 T60\r\n0123456789\r\n" % (offset + n) for n in range(BATCH))


def until_mn(connection: socket.socket) -> None:
    tail = b""
    while not tail.endswith(b"MN\r\n"):
        data = connection.recv(1 << 16)
        if not data:
            raise ConnectionError("the server closed the connection")
        tail = tail[-4:] + data
