"""R14: a value of 2 MiB (the servers take 1 MiB), and lifetimes beyond 30 days, which Memcached reads as a date."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.adapters import named
from benchmarks.adapters.base import TTL_S, Adapter
from benchmarks.report import Section
from benchmarks.servers import servers
from benchmarks.trial import side_by_side, synchronous, trial

FIGURES = ("R14",)
TOO_LARGE = 2 << 20
DAY_S = 86_400
DAYS = (31, 400)
LIMIT_S = 20.0


def sections(quick: bool) -> Iterator[Section]:
    rows = side_by_side(tried, synchronous(ring=False))
    columns = (
        "contestant",
        "set of 2 MiB says",
        "then get",
        "decorated call",
        "warnings",
        *(f"ttl of {days} days" for days in DAYS),
    )
    goal = "the result returned, the old entry gone, one warning; readable after both lifetimes"
    notes = ("the key held a small value before; 'decorated call' returns 2 MiB; warnings: logging's records for it",)
    yield Section("R14", "too large, too long", columns, tuple(rows), goal, notes)


def tried(adapter: type[Adapter]) -> tuple[str, ...]:
    with servers(1) as running:
        outcome = trial(child, adapter.name, [server.address for server in running], limit_s=LIMIT_S)
    if outcome.hung or not outcome.told:
        return ("hung" if outcome.hung else "the child died", "–", "–", "–", "–", "–")
    cells: tuple[str, ...] = outcome.told[0]
    return cells


def child(pipe: Connection, name: str, addresses: Sequence[str]) -> None:
    adapter = named(name)(addresses)
    key, small, large = "limits:large", b"small", os.urandom(TOO_LARGE)
    said(lambda: adapter.set_for(key, small, TTL_S))
    answer = said(lambda: adapter.set_for(key, large, TTL_S))
    kept = said(lambda: adapter.get(key), {"b'small'": "the old value", "None": "nothing"}, large)
    result, warnings = decorated(adapter, large)
    pipe.send((answer, kept, result, warnings, *(lasting(adapter, days) for days in DAYS)))


class _Kept(logging.Handler):
    """Warnings, kept in a list."""

    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__(logging.WARNING)
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)


def said(call: Callable[[], Any], words: dict[str, str] | None = None, large: bytes | None = None) -> str:
    """What a call answered, in a word."""
    try:
        answer = call()
    except Exception as error:
        return f"raised {type(error).__name__}"
    if large is not None and answer == large:
        return "the new value"
    text = f"{answer!r:.20}"
    return (words or {}).get(text, text)


def decorated(adapter: Adapter, large: bytes) -> tuple[str, str]:
    records: list[logging.LogRecord] = []
    handler = _Kept(records)
    logging.getLogger().addHandler(handler)

    def download(number: int) -> bytes:
        return large

    cached = adapter.decorate(download)
    try:
        result = "returned" if cached(1) == large else "another value"
    except Exception as error:
        result = f"raised {type(error).__name__}"
    return result, str(len(records))


def lasting(adapter: Adapter, days: int) -> str:
    """Store with a lifetime in days and read at once."""
    key, value = f"limits:{days}", b"kept"
    stored = said(lambda: adapter.set_for(key, value, days * DAY_S))
    try:
        got = adapter.get(key)
    except Exception as error:
        return f"set says {stored}, get raised {type(error).__name__}"
    return "readable" if got == value else f"set says {stored}, expired at once"
