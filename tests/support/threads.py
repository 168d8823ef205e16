"""Threads of a test: started together, waited for with a bound, their outcomes collected."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

LIMIT_S = 20.0


class Outcome(threading.Thread):
    """One call in a thread of its own; ``result()`` is its value, or raises what it raised."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self._call, self._args = call, args
        self.value: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.value = self._call(*self._args)
        except BaseException as error:
            self.error = error

    def result(self, limit_s: float = LIMIT_S) -> Any:
        self.join(limit_s)
        if self.is_alive():
            raise TimeoutError(f"no end after {limit_s} s: a deadlock, or nearly one")
        if self.error is not None:
            raise self.error
        return self.value


def eventually(condition: Callable[[], object], limit_s: float = LIMIT_S) -> bool:
    """Whether ``condition`` comes true within the limit."""
    end = time.monotonic() + limit_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > end:
            return False
        pause.wait(0.005)
    return True
