"""Functions that a test holds up, for what happens while they run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from cachekit import Cache, Policy


class Slow:
    """A function that says when it runs and ends when it is told to; its results are 0, 1, 2 … by run."""

    def __init__(self, cache: Cache, **options: Any) -> None:
        self.started = threading.Event()
        self.go_on = threading.Event()
        self.runs = 0
        self.error: BaseException | None = None
        self.result: Any = None
        self._lock = threading.Lock()

        @cache(**options)
        def slow(n: int) -> Any:
            with self._lock:
                mine, self.runs = self.runs, self.runs + 1
            self.started.set()
            assert self.go_on.wait(20)
            if self.error is not None:
                raise self.error
            return [mine] if self.result is None else self.result

        self.call = slow


def waiters_on(cache: Cache) -> int:
    """How many callers wait for runs of this process."""
    return sum(flight.waiters for flight in list(cache._env.flights._flights.values()))


class Source:
    """A function whose runs a test opens and shuts: its results are 0, 1, 2 … by run."""

    def __init__(self, cache: Cache, **policy: Any) -> None:
        self.runs = 0
        self.error: BaseException | None = None
        self.open = threading.Event()
        self.open.set()
        self.threads: list[str] = []
        self._lock = threading.Lock()

        @cache(policy=Policy(**policy))
        def source(n: int) -> int:
            with self._lock:
                mine, self.runs = self.runs, self.runs + 1
            self.threads.append(threading.current_thread().name)
            assert self.open.wait(20)
            if self.error is not None:
                raise self.error
            return mine

        self.call = source

    def shut(self) -> None:
        """The next runs wait until ``open`` is set."""
        self.open.clear()

    def is_(self, *states: str) -> Callable[[], bool]:
        """Whether the entry is in one of those states."""
        return lambda: self.call.explain(1).state in states
