"""A load at a steady pace over a ring, watched from outside: the ground of faults_stop and faults_kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection

from benchmarks.adapters import named
from benchmarks.servers import MemcachedProcess, stats
from benchmarks.speed_decorated import MONTH, report
from benchmarks.trial import Running

USERS = 120
SLOW_S = 0.1
READY_LIMIT_S = 30.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Call:
    start: float
    end: float
    outcome: str  # "ok", "wrong", or the name of the error

    @property
    def took_s(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Load:
    """The calls of a run, when it began (monotonic seconds), and how soon the victim served again (None: not seen)."""

    calls: Sequence[Call]
    began: float
    back_s: float | None
    hung: bool

    def within(self, start_s: float, stop_s: float) -> list[Call]:
        """The calls that ended inside that part of the run, in seconds since it began."""
        return [call for call in self.calls if self.began + start_s <= call.end <= self.began + stop_s]

    def errors(self) -> int:
        return sum(call.outcome not in ("ok", "wrong") for call in self.calls)

    def wrong(self) -> int:
        return sum(call.outcome == "wrong" for call in self.calls)

    def slow(self) -> int:
        return sum(call.took_s > SLOW_S for call in self.calls) + self.hung

    def longest(self) -> str:
        return "hung" if self.hung else f"{max(call.took_s for call in self.calls) * 1000:.0f} ms"

    def back(self, limit_s: float) -> str:
        return f"not within {limit_s:.0f} s" if self.back_s is None else f"{self.back_s:.1f} s"


def caller(pipe: Connection, name: str, addresses: Sequence[str], per_second: float) -> None:
    """The child: calls of a decorated function, each due at its time; one that is late is made at once."""
    adapter = named(name)(addresses)
    decorated = adapter.decorate(report)
    for user in range(USERS):
        decorated(user, adapter.part, month=MONTH)
    began = time.monotonic()
    pipe.send(began)
    for number in count():
        due = began + number / per_second
        time.sleep(max(0.0, due - time.monotonic()))
        user = number % USERS
        start = time.monotonic()
        try:
            right = decorated(user, adapter.part, month=MONTH)["user_id"] == user
            outcome = "ok" if right else "wrong"
        except Exception as error:
            outcome = type(error).__name__
        pipe.send(Call(start, time.monotonic(), outcome))


def load(
    name: str,
    running: Sequence[MemcachedProcess],
    per_second: float,
    hurt: Callable[[Running], None],
    back_limit_s: float,
) -> Load:
    """Run the load through a fault.

    Args:
        name: the adapter's.
        running: the ring; its second server is the victim.
        per_second: calls a second.
        hurt: makes the fault and undoes it, and returns when the victim could serve again.
        back_limit_s: seconds to wait for the victim's next request.
    """
    child = Running(caller, name, [server.address for server in running], per_second)
    try:
        began: float = child.first(READY_LIMIT_S)
        hurt(child)
        back_s = _used_again(child, running[1].port, back_limit_s)
        stopped = time.monotonic()
        calls = [told for told in child.told if isinstance(told, Call)]
        hung = not calls or stopped - calls[-1].end > 1.0
        return Load(calls, began, back_s, hung)
    finally:
        child.end()


def _used_again(child: Running, port: int, limit_s: float) -> float | None:
    """Seconds until the server's count of reads and writes grows; the whole limit is always listened to."""
    start = time.monotonic()
    child.listen(start + POLL_S)  # what was sent while the server was stopped is answered in these first moments
    before, seen = requests(port), None
    while time.monotonic() < start + limit_s:
        child.listen(time.monotonic() + POLL_S)
        if seen is None and requests(port) > before:
            seen = time.monotonic() - start
    return seen


def requests(port: int) -> int:
    told = stats(port)
    return int(told["cmd_get"]) + int(told["cmd_set"])
