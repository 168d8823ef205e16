"""What processes write down of what they do: one line of JSON for each event, in a file for each process.

Times are seconds of the monotonic clock, which is one for all processes of a machine. An event is written when it has
ended, by one write of the operating system: who is killed loses what he was at, and nothing else.

A *cell* is something that the cached function reads: the row of its key (``k0``), what a tag stands for (``t0``), what
all entries of a function (``f``) or of a namespace (``ns``) rest on. Each has a version, which only ever rises. A value
carries the versions that its run has read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

Cells: TypeAlias = Mapping[str, int]


class Value(NamedTuple):
    """What the function returns: the entry that it was made for, the number of the run, and the versions it read."""

    entry: str
    run: int
    cells: Cells


class Run(NamedTuple):
    """The function ran for an entry. ``outcome``: returned or raised. ``of``: the process."""

    schedule: int
    of: int
    entry: str
    run: int
    began: float
    ended: float
    cells: Cells
    outcome: str = "returned"


class Read(NamedTuple):
    """A caller asked for an entry. ``outcome``: returned, miss (of a peek), raised, cancelled or interrupted.

    ``by``: who it was in his process. ``verb``: by what. ``value``: what he was given, None where he got nothing.
    """

    schedule: int
    of: int
    by: str
    verb: str
    entry: str
    began: float
    ended: float
    outcome: str
    value: Value | None = None


class Told(NamedTuple):
    """An invalidation: of the ``entry`` alone, or ("") of each whose value bears one of the ``cells``, which had these
    versions just before it was sent. ``soft``: old values may be served while somebody refreshes them. ``outcome``:
    returned, cancelled or interrupted.
    """

    schedule: int
    of: int
    by: str
    verb: str
    entry: str
    cells: Cells
    soft: bool
    began: float
    ended: float
    acknowledged: bool
    outcome: str = "returned"


Event: TypeAlias = Run | Read | Told
_KINDS: Mapping[str, type[Run] | type[Read] | type[Told]] = {kind.__name__: kind for kind in (Run, Read, Told)}


def entry_of(kind: str, schedule: int, key: int) -> str:
    """The name of an entry."""
    return f"{kind}:{schedule}:{key}"


def kind_of(entry: str) -> str:
    """The kind of function that an entry is of: entries are named ``kind:schedule:key``."""
    return entry.partition(":")[0]


class Log:
    """The file of one process. Threads, tasks and forked children may write at the same time."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, *events: Event) -> None:
        """Write the events down, at once."""
        lines = [json.dumps([type(event).__name__, *event], separators=(",", ":")) for event in events]
        os.write(self._file, ("\n".join(lines) + "\n").encode())


def load(paths: Iterable[Path]) -> list[Event]:
    """The events in the files, in the order of their ends."""
    events: list[Event] = []
    for path in paths:
        for line in path.read_text().splitlines():
            name, *fields = json.loads(line)
            event = _KINDS[name](*fields)
            if isinstance(event, Read) and event.value is not None:
                event = event._replace(value=Value(*event.value))
            events.append(event)
    return sorted(events, key=lambda event: event.ended)


def save(path: Path, events: Iterable[Event]) -> None:
    """Write a history down for who is to look at it."""
    path.unlink(missing_ok=True)
    Log(path).write(*events)
