"""How soon a process that waits for another one's run learns that it has ended."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.adapters import named, variants
from benchmarks.adapters.base import Function
from benchmarks.herd import Herd, Serve, await_moment, quantile, soon
from benchmarks.report import Section
from benchmarks.servers import servers

FIGURES = ("wait",)
PROCESSES = 9
FUNCTION_S = 0.300
EXPIRED_TTL_S = 0.05  # shorter than the pause between two rounds
LIMIT_S = 60.0
UNKNOWN, KNOWN, EXPIRED = "running time unknown", "running time known", "an expired entry tells it"

NOTES = (
    f"the function sleeps {FUNCTION_S * 1000:.0f} ms; {PROCESSES - 1} processes wait for one; each round another key",
    (
        "the wait is counted from the moment at which the filler's store was acknowledged (cachekit: its on_fill hook;"
        " the others: the return of his call) to the return of the waiter's call, on the system's one monotonic clock"
    ),
    (
        f"'{UNKNOWN}': no process has run the function before; '{KNOWN}': each has; '{EXPIRED}': the same key again,"
        " after its ttl, without stale"
    ),
)


class Told(NamedTuple):
    """One process in one round, monotonic seconds: when its call returned, and when its own fill was stored, if any."""

    returned: float
    stored: float | None


def sections(quick: bool) -> Iterator[Section]:
    rounds = 12 if quick else 40
    rows = [measured("cachekit", how, rounds) for how in (UNKNOWN, KNOWN, EXPIRED)]
    peers = [kind.name for kind in variants() if not kind.name.startswith("cachekit")]
    rows += [measured(name, KNOWN, rounds // 4) for name in peers]
    columns = ("contestant", "case", "waits", "p50", "p95", "longest", "runs a round")
    goal = "p95 ≤ 10 ms"
    yield Section("wait", "from the end of a fill to a waiter's return", columns, tuple(rows), goal, NOTES)


def measured(name: str, how: str, rounds: int) -> tuple[str, ...]:
    late: list[float] = []
    runs = 0
    try:
        with servers(1) as (server,), Herd(PROCESSES, member, name, server.address) as herd:
            if how != UNKNOWN:  # each runs it once for himself; or all make the entry that is to expire
                herd.ask((how, 0, soon()), LIMIT_S)
            for number in range(1, 1 + rounds):
                told = herd.ask((how, number, soon()), LIMIT_S)
                runs += sum(each.stored is not None for each in told)
                late += waits(told)
    except Exception as error:
        return (name, how, f"failed: {type(error).__name__}: {error}")
    late.sort()
    figures = (quantile(late, 0.5), quantile(late, 0.95), late[-1])
    return (name, how, str(len(late)), *(f"{each * 1000:.1f} ms" for each in figures), f"{runs / rounds:.2f}")


def waits(told: Sequence[Told]) -> list[float]:
    """The seconds between the first store and each waiter's return; a waiter who was quicker than its reply: 0."""
    stored = min(each.stored for each in told if each.stored is not None)
    return [max(0.0, each.returned - stored) for each in told if each.stored is None]


def member(number: int, name: str, address: str) -> Serve:
    adapter: Any = named(name)([address])
    filled: list[float] = []
    ran: list[int] = []
    if name == "cachekit":
        adapter.cache.hooks.on_fill(lambda event: filled.append(time.monotonic()))
    steady = adapter.decorate(function(ran, 0))
    expiring = adapter.cache(ttl=EXPIRED_TTL_S)(function(ran, 0)) if name == "cachekit" else steady

    def serve(message: tuple[str, int, float]) -> Told:
        how, turn, moment = message
        decorated = {EXPIRED: expiring, UNKNOWN: steady, KNOWN: steady}[how]
        if how == UNKNOWN:
            decorated = adapter.decorate(function(ran, turn))
        argument = 0 if how == EXPIRED else turn or -number
        ran.clear()
        filled.clear()
        await_moment(moment)
        decorated(argument)
        returned = time.monotonic()
        return Told(returned, (filled[-1] if filled else returned) if ran else None)

    return serve


def function(ran: list[int], turn: int) -> Function:
    """The function; another one, which nobody has run yet, for each `turn`."""

    def report(key: int) -> list[int]:
        ran.append(key)
        time.sleep(FUNCTION_S)
        return [key]

    report.__qualname__ = f"report_{turn}"
    return report
