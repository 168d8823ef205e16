"""A function whose entries bear tags, for the tests of the contract."""

from __future__ import annotations

import threading
from typing import Any

from cachekit import Cache

USERS = range(20)
MONTHS = ("jan", "feb")


class Reports:
    """A function whose entries bear tags; ``runs``: the calls that it ran for. Shut, its runs wait to be let go on."""

    def __init__(self, cache: Cache, **options: Any) -> None:
        self.cache = cache
        self.runs: list[tuple[int, str]] = []
        self.error: Exception | None = None
        self.open = threading.Event()
        self.open.set()
        settings = {"tags": ["user:{user}", "month:{month}"], **options}

        @cache(**settings)
        def report(user: int, month: str = "jan") -> str:
            self.runs.append((user, month))
            mine = len(self.runs)
            assert self.open.wait(20)
            if self.error is not None:
                raise self.error
            return f"{user} in {month}, run {mine}"

        self.call = report

    def ask(self, users: Any = USERS) -> list[tuple[int, str]]:
        """Ask for all of them; those that it ran for."""
        self.runs.clear()
        for user in users:
            for month in MONTHS:
                self.call(user, month)
        return self.runs

    def state(self, user: int = 1, month: str = "jan") -> str:
        """What is the matter with an entry."""
        return str(self.call.explain(user, month).state)
