"""A spool that is broken: how one of several processes gives it another name, and what can still be read of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from cachekit.spool import LOCK, identity

if TYPE_CHECKING:
    import sqlite3

BESIDE = ("", "-wal", "-shm")
"""The files that make up a SQLite database."""

PATIENCE_S = 2.0
"""Seconds to look for rows: whoever could not deliver something waits for it."""

ROW_BYTES = 8
"""No row takes less; and so their numbers, which are given again, are hardly higher than there is room for."""

_ROWS = "SELECT server, key, soft, kind, at, mark, over FROM undelivered_2 NOT INDEXED WHERE id BETWEEN ? AND ?"


def set_aside(path: str, broken: tuple[int, int] | None, now: int, patience_s: float) -> str | None:
    """Give the file another name, which is returned; None: it is not the ``broken`` one any more (device and inode),
    since another process has done so. ``now``: seconds since 1970. ``patience_s``: seconds to wait for that process.
    Raises ``OSError``.
    """
    with locked(path, patience_s):
        if identity(path) != broken:
            return None
        aside = _unused(f"{path}.broken-{now}")
        os.replace(path, aside)
        for beside in BESIDE[1:]:
            with suppress(OSError):
                os.replace(path + beside, aside + beside)
        return aside


@contextmanager
def locked(path: str, patience_s: float) -> Iterator[None]:
    """Inside no other process sets the spool aside. Raises ``OSError``."""
    import sqlite3  # noqa: PLC0415 - few programs have a spool

    with ExitStack() as stack:
        try:
            # A lock that no process leaves behind, on every system. Its file stays: to remove it would take another.
            lock = sqlite3.connect(path + LOCK, timeout=patience_s, isolation_level=None)
            stack.enter_context(closing(lock))
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            raise OSError(str(error)) from error
        yield


def _unused(name: str) -> str:
    """``name``, or one like it where there is something of that name."""
    numbered, number = name, 1
    while any(os.path.lexists(numbered + beside) for beside in BESIDE):
        number += 1
        numbered = f"{name}-{number}"
    return numbered


def salvaged(path: str) -> list[tuple[Any, ...]]:
    """The rows of a broken spool that can still be read. The file is not written."""
    import sqlite3  # noqa: PLC0415 - as above
    from pathlib import Path  # noqa: PLC0415 - as above

    rows: list[tuple[Any, ...]] = []
    with suppress(sqlite3.Error, OSError):
        source = sqlite3.connect(f"{Path(path).as_uri()}?mode=ro", uri=True, isolation_level=None)
        with closing(source):
            source.execute("PRAGMA writable_schema = ON")  # and so what is there of a truncated file is read
            source.execute(_ROWS, (0, 0))  # raises where it is no spool at all
            for found in _ranges(source, os.path.getsize(path) // ROW_BYTES, time.monotonic() + PATIENCE_S):
                rows += found
    return rows


def _ranges(source: sqlite3.Connection, last: int, until: float) -> Iterator[list[tuple[Any, ...]]]:
    """The rows up to number ``last``, range after range; one that can't be read is halved, down to single rows."""
    import sqlite3  # noqa: PLC0415 - as above

    ranges = [(1, last)]
    while ranges and time.monotonic() < until:
        low, high = ranges.pop()
        try:
            found = source.execute(_ROWS, (low, high)).fetchall()
        except sqlite3.DatabaseError:
            if low < high:
                middle = (low + high) // 2
                ranges += [(middle + 1, high), (low, middle)]
        else:
            yield found
