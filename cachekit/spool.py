"""Undelivered invalidations on disk, so that they outlive the process: one SQLite file, which several may share.

A row is written and synced before the verb that could not deliver it returns, and is deleted when its server has
acknowledged it. Whoever starts loads what others have left. Rows are told again where a process ended between the two;
that is harmless, as every invalidation is.

Nothing that happens to the file reaches a caller. A file that is no database, or a broken one, is *set aside* under
another name and begun anew (``salvage.py``): with those of its rows that can still be read, and with what each process
that has it open still keeps in memory. One that can't be opened or written is tried again at the next need. Either is
logged, once. What is kept in memory is not touched by it.

A file has a number of its own, by which a process sees that it is not the one that it has written into.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from cachekit.errors import RequestError
from cachekit.meta import check_key
from cachekit.replay import Change, Item, Kind, Overflow

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")
logger = logging.getLogger("cachekit")

BUSY_S = 1.0
"""Seconds to wait for another process that is writing."""

FORGOTTEN_S = 30 * 86_400.0
"""Seconds after which rows are dropped that are meant for a server of no ring any more."""

LOCK = ".lock"
"""What the name of the file ends with that is locked while a broken spool is given another name."""

TRIES = 4
"""How often one piece of work is begun, where others set the file aside, or it is broken again."""

# A table of rows by number, which can be read around a broken page, and not one in the order of its keys.
_TABLE = """
CREATE TABLE IF NOT EXISTS undelivered_2 (
    id INTEGER PRIMARY KEY, server TEXT, key BLOB, soft INTEGER, kind INTEGER, at REAL, mark INTEGER, over BLOB,
    UNIQUE (server, key)
)
"""
_FILE = "CREATE TABLE IF NOT EXISTS undelivered_file (number INTEGER)"
_PUT = """
INSERT INTO undelivered_2 (server, key, soft, kind, at, mark, over) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    soft = min(soft, excluded.soft), kind = max(kind, excluded.kind),
    at = max(at, excluded.at), mark = excluded.mark, over = excluded.over
"""
_DROP = "DELETE FROM undelivered_2 WHERE server = ? AND key = ? AND mark = ?"
_LOAD = "SELECT key, soft, kind, at, mark, over FROM undelivered_2 WHERE server = ? ORDER BY at"
_OVERFLOW = b""
"""The key of the row that says that a server's queue has overflowed."""


Rows = list[tuple[str, Change]]
"""What to write, by name of the server."""


class Spool:
    """The file at ``path``. Thread-safe. ``now``: seconds since 1970. ``kept`` gives all that this process keeps in
    memory, by name of the server: it is written where the file has become another one.
    """

    def __init__(
        self,
        path: str,
        now: Callable[[], float] = time.time,
        kept: Callable[[], Iterable[tuple[str, Change]]] = tuple,
    ) -> None:
        self.path = os.path.abspath(path)
        self._now, self._kept = now, kept
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._number: Any = 0
        self._salvaged: Rows = []
        self._complained: set[str] = set()
        self.renew_lock()
        _spools.add(self)

    def renew_lock(self) -> None:
        """After a fork: the lock may be held by a thread that is not here."""
        self._lock = threading.RLock()

    def load(self, servers: Sequence[str]) -> dict[str, tuple[list[Item], Overflow | None]]:
        """What is kept for ``servers``; rows that other servers will hardly ask for any more are dropped."""

        def work(connection: sqlite3.Connection) -> dict[str, tuple[list[Item], Overflow | None]]:
            marks = ", ".join("?" * len(servers))
            connection.execute(
                f"DELETE FROM undelivered_2 WHERE at < ? AND server NOT IN ({marks})",
                (self._now() - FORGOTTEN_S, *servers),
            )
            return {name: _rows(connection, name) for name in servers}

        if not os.path.exists(self.path):  # and SQLite need not even be loaded
            return {}
        return self._do(work) or {}

    def save(self, server: str, change: Change) -> bool:
        """Write what has changed in the queue of a server; on disk when it returns True."""

        def work(connection: sqlite3.Connection) -> bool:
            _write(connection, server, change)
            return True

        return bool(self._do(work))

    def drop(self, server: str, items: Iterable[Item], overflow: Overflow | None) -> None:
        """Delete what a server has acknowledged, unless somebody has written it anew."""
        marks = [(server, item.key, item.mark) for item in items]
        if overflow is not None:
            marks.append((server, _OVERFLOW, overflow.mark))
        if marks:
            self._do(lambda connection: connection.executemany(_DROP, marks))

    def close(self) -> None:
        """Close the file; a later use opens it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def __del__(self) -> None:
        # The cache was dropped without a ``close``.
        with suppress(Exception):
            self.close()

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """``work`` in one transaction; None where that can't be."""
        try:
            import sqlite3  # noqa: PLC0415 - few programs have a spool, and some builds of Python have no SQLite
        except ImportError:
            self._complain("this Python has no sqlite3")
            return None
        if _inherited:
            self._complain("this process was forked in the middle of a write")
            return None
        why = ""
        with self._lock:
            for _ in range(TRIES):
                try:
                    return self._transaction(work)
                except (sqlite3.OperationalError, OSError) as error:  # locked, full, no rights: another time perhaps
                    self._abandon()
                    folder = os.path.dirname(self.path)
                    self._complain(str(error) if os.path.isdir(folder) else f"there is no directory {folder}")
                    return None
                except sqlite3.ProgrammingError as error:  # a signal handler has closed it: nothing is broken
                    why = str(error)
                    self._abandon()
                except sqlite3.DatabaseError as error:
                    why = str(error)
                    self._abandon()
                    if not self._set_aside(why):
                        break
            self._complain(why)
        return None

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        connection = self._open()
        if connection.in_transaction:
            return None  # a signal handler has come into a transaction of its own thread: written with the next one
        try:
            connection.execute("BEGIN IMMEDIATE")
            number = self._filled(connection)
            done = work(connection)
            connection.execute("COMMIT")
        except BaseException:  # an interrupt as well, wherever it comes: an open transaction would lock out everybody
            with suppress(Exception):
                connection.execute("ROLLBACK")
            raise
        self._number, self._salvaged = number, []
        return done

    def _filled(self, connection: sqlite3.Connection) -> Any:
        """The file's number; where it is not the one that this process has written into, what that had is in it."""
        row = connection.execute("SELECT number FROM undelivered_file").fetchone()
        number = row[0] if row else random.getrandbits(62) | 1
        if not row:
            connection.execute("INSERT INTO undelivered_file VALUES (?)", (number,))
        lost = self._kept() if self._number not in (0, number) else ()
        for server, change in (*self._salvaged, *lost):
            _write(connection, server, change)
        return number

    def _open(self) -> sqlite3.Connection:
        found_there = identity(self.path)
        if self._connection is not None:
            if found_there == self._opened:
                return self._connection
            self._abandon()  # somebody has set it aside, or removed it
        if not os.path.exists(self.path + LOCK):
            return self._opened_as(found_there)
        from cachekit.salvage import locked  # noqa: PLC0415 - hardly ever needed

        # Who sets a file aside may not have come to its WAL yet; and of several that begin a file at once, SQLite
        # tells some that it is locked, without waiting.
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path, BUSY_S))
                found_there = identity(self.path)
            except OSError:
                if found_there is None:
                    raise
            return self._opened_as(found_there)

    def _opened_as(self, found_there: tuple[int, int] | None) -> sqlite3.Connection:
        """``found_there``: the file's identity; None where it is to be made."""
        import sqlite3  # noqa: PLC0415 - as above

        self._opened = found_there
        connection = self._connect()
        try:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(f"broken: {found}")
            connection.execute("PRAGMA journal_mode = WAL")  # one sync a commit, and readers are in nobody's way
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(_TABLE)
            connection.execute(_FILE)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._opened = identity(self.path) if found_there is None else found_there
        return connection

    def _connect(self) -> sqlite3.Connection:
        """Makes no file where there was one just now: who is setting that aside may not have come to its WAL yet."""
        import sqlite3  # noqa: PLC0415 - as above
        from pathlib import Path  # noqa: PLC0415 - as above

        uri = f"{Path(self.path).as_uri()}?mode={'rwc' if self._opened is None else 'rw'}"
        try:
            return sqlite3.connect(uri, timeout=BUSY_S, isolation_level=None, check_same_thread=False, uri=True)
        except sqlite3.OperationalError as error:
            if identity(self.path) == self._opened:
                raise
            raise sqlite3.DatabaseError("it has gone") from error

    def _abandon(self) -> None:
        with suppress(Exception):
            self.close()
        self._connection = None

    def _set_aside(self, why: str) -> bool:
        """Give a broken file another name, unless another process has done so; whether to begin anew."""
        from cachekit.salvage import salvaged, set_aside  # noqa: PLC0415 - hardly ever needed

        try:
            aside = set_aside(self.path, self._opened, int(self._now()), BUSY_S)
        except OSError:
            return False
        if aside is not None:
            rows = _by_server(salvaged(aside), self._now())
            self._salvaged += rows
            saved = sum([len(change.put) + (change.overflow is not None) for _, change in rows])
            logger.warning(
                "the spool %s could not be read (%s); it was set aside as %s, and %d of its rows were saved",
                self.path, why, aside, saved,
            )  # fmt: skip
        return True

    def _complain(self, why: str) -> None:
        if why not in self._complained:
            self._complained.add(why)
            logger.warning("the spool %s can't be used (%s): invalidations are kept in memory only", self.path, why)


def identity(path: str) -> tuple[int, int] | None:
    """What tells the file at ``path`` from others that were or will be there; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _write(connection: sqlite3.Connection, server: str, change: Change) -> None:
    connection.executemany(_PUT, [(server, *_columns(item)) for item in change.put])
    connection.executemany(_DROP, [(server, item.key, item.mark) for item in change.gone])
    if change.overflow is not None:
        at, mark = change.overflow
        connection.execute(_PUT, (server, _OVERFLOW, 0, 0, at, mark, b""))


def _columns(item: Item) -> tuple[Any, ...]:
    return item.key, int(item.soft), int(item.kind), item.at, item.mark, item.group


def _rows(connection: sqlite3.Connection, server: str) -> tuple[list[Item], Overflow | None]:
    return _checked(connection.execute(_LOAD, (server,)))


def _checked(rows: Iterable[tuple[Any, ...]]) -> tuple[list[Item], Overflow | None]:
    """What those rows of one server say; without those that were written into the file by somebody else."""
    items: list[Item] = []
    overflow = None
    for key, soft, kind, at, mark, over in rows:
        with suppress(RequestError, TypeError, ValueError):
            if key == _OVERFLOW:
                overflow = Overflow(float(at), int(mark))
                continue
            group = check_key(over) if over else b""
            items.append(Item(check_key(key), bool(soft), Kind(kind), float(at), int(mark), group))
    return items, overflow


def _by_server(rows: Iterable[tuple[Any, ...]], now: float) -> Rows:
    """What rows of a broken file say; ``now``: nothing can have been invalidated later."""
    servers: dict[str, list[tuple[Any, ...]]] = {}
    for server, key, soft, kind, at, mark, over in rows:
        if isinstance(server, str) and isinstance(at, float):
            servers.setdefault(server, []).append((key, soft, kind, min(at, now), mark, over))
    found = {server: _checked(of_server) for server, of_server in servers.items()}
    return [(server, Change(items, (), overflow)) for server, (items, overflow) in found.items()]


_spools: weakref.WeakSet[Spool] = weakref.WeakSet()
_held: dict[int, list[Spool]] = {}
"""By the thread that forks: several may."""

_inherited: list[tuple[Spool, sqlite3.Connection | None]] = []
"""In a child: spools that a thread was in the middle of, which is not here. SQLite's own locks may be held, and what it
knows of the file is wrong here: no file is opened any more, and the connections not even closed, nor collected.
"""


def _before_fork() -> None:
    """SQLite's connections must not get into a child: each process opens its own (sqlite.org, "How To Corrupt")."""
    held = _held[threading.get_ident()] = []
    for spool in list(_spools):
        if spool._lock.acquire(timeout=2 * BUSY_S):
            held.append(spool)
            spool._abandon()


def _in_parent() -> None:
    for spool in _held.pop(threading.get_ident(), ()):
        spool._lock.release()


def _in_child() -> None:
    held = _held.get(threading.get_ident(), ())
    for spool in list(_spools):
        if spool not in held:
            _inherited.append((spool, spool._connection))
            spool._connection = None
        spool.renew_lock()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
