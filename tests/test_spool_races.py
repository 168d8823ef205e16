"""A spool in the narrow places: signal handlers, interrupts, forks, and processes that do the same at once."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.threads import LIMIT_S, Outcome, eventually

from cachekit import salvage
from cachekit import spool as module
from cachekit.hooks import Hooks
from cachekit.outbox import MARGIN_S, Outbox
from cachekit.replay import Change, Item, Kind, Overflow
from cachekit.spool import LOCK, Spool

NOW = 1_800_000_000.0
GARBAGE = b"garbage!" * 2000

OLD_TABLE = """
CREATE TABLE undelivered_1 (
    server TEXT, key BLOB, soft INTEGER, kind INTEGER, at REAL, mark INTEGER, PRIMARY KEY (server, key)
) WITHOUT ROWID
"""


@pytest.fixture(name="path")
def path_fixture(tmp_path: Path) -> str:
    """Where a spool may be."""
    return str(tmp_path / "spool.db")


@pytest.fixture(name="spool")
def spool_fixture(path: str) -> Iterator[Spool]:
    """A spool with one key in it."""
    with closing(Spool(path, lambda: NOW)) as spool:
        assert spool.save("s", Change([item(b"first")]))
        yield spool


def item(key: bytes) -> Item:
    """An item to keep."""
    return Item(key, False, Kind.ENTRY, NOW, 1)


def keys(path: str) -> set[bytes]:
    """What whoever starts next finds in the file."""
    with closing(Spool(path, lambda: NOW)) as heir:
        return {each.key for each in heir.load(["s"])["s"][0]}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages of warnings."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def ended(child: int) -> int:
    """The exit code of a child process; one that does not end is killed."""
    status: list[int] = []

    def over() -> bool:
        pid, code = os.waitpid(child, os.WNOHANG)
        status.extend([code] * bool(pid))
        return bool(pid)

    if not eventually(over, 10.0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise TimeoutError("the child hangs")
    return os.waitstatus_to_exitcode(status[0])


# -- what could not be written ----------------------------------------------------------------------------------------


class Disk:
    """Stands for a spool. ``then``: what each write does, and whether it succeeds."""

    def __init__(self, *then: Callable[[], bool]) -> None:
        self._then = list(then)
        self.written: list[set[bytes]] = []

    def save(self, server: str, change: Change) -> bool:
        """Write, by the script."""
        then = self._then.pop(0)
        self.written.append({each.key for each in change.put})
        return then()


def outbox_on(disk: Any) -> Outbox:
    """An outbox for one server."""
    outbox = Outbox(("s",), Hooks(), tuple, {}, lambda: NOW)
    outbox.spool = disk
    return outbox


def undelivered(outbox: Outbox, key: bytes) -> None:
    """One more for the server."""
    outbox.save(0, outbox.keep(0, [key], soft=False, kind=Kind.PLAIN))


def test_a_write_that_fails_during_another_threads_is_made_up_for() -> None:
    """The one that succeeds has not had it in it, so it is still to be written with the next."""

    def meanwhile() -> bool:
        Outcome(undelivered, outbox, b"c").result()
        return True

    disk = Disk(lambda: False, meanwhile, lambda: False, lambda: True, lambda: True)
    outbox = outbox_on(disk)
    for key in (b"a", b"b", b"d", b"e"):
        undelivered(outbox, key)
    assert disk.written == [{b"a"}, {b"a", b"b"}, {b"c"}, {b"a", b"b", b"c", b"d"}, {b"e"}]


def test_a_write_that_is_interrupted_is_made_up_for() -> None:
    """It was kept in memory before, and nobody knows whether it is on disk."""

    def interrupted() -> bool:
        raise KeyboardInterrupt

    disk = Disk(interrupted, lambda: True)
    outbox = outbox_on(disk)
    with pytest.raises(KeyboardInterrupt):
        undelivered(outbox, b"a")
    undelivered(outbox, b"b")
    assert disk.written[1] == {b"a", b"b"}


# -- signal handlers and interrupts -----------------------------------------------------------------------------------


def once_inside(monkeypatch: pytest.MonkeyPatch, handler: Callable[[], object]) -> list[object]:
    """Have ``handler`` come into the middle of the next transaction, as one of a signal does; what it gave."""
    write, gave = module._write, []

    def interrupted(connection: sqlite3.Connection, server: str, change: Change) -> None:
        monkeypatch.setattr(module, "_write", write)
        write(connection, server, change)
        gave.append(handler())

    monkeypatch.setattr(module, "_write", interrupted)
    return gave


def test_a_handler_that_writes_inside_of_a_write(
    spool: Spool, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told that it could not; what it has come into is written, and nothing is complained of."""
    gave = once_inside(monkeypatch, lambda: spool.save("s", Change([item(b"inner")])))
    assert spool.save("s", Change([item(b"outer")]))
    assert gave == [False]
    assert keys(path) == {b"first", b"outer"}
    assert spool.save("s", Change([item(b"inner")]))
    assert warnings(caplog) == []


def test_a_handler_that_closes_inside_of_a_write(
    spool: Spool, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The file is not broken: the write is begun anew in it."""
    once_inside(monkeypatch, spool.close)
    assert spool.save("s", Change([item(b"outer")]))
    assert keys(path) == {b"first", b"outer"}
    assert not list(Path(path).parent.glob("*.broken*"))
    assert warnings(caplog) == []


class Interrupted:
    """A connection; an interrupt comes when it is told ``word``: ``before`` that is carried out, or right after."""

    def __init__(self, connection: sqlite3.Connection, word: str, *, before: bool) -> None:
        self._real, self._word, self._before = connection, word, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, statement: str, *values: Any) -> Any:
        """Carry it out, or not."""
        now = statement.startswith(self._word)
        if now and self._before:
            raise KeyboardInterrupt
        result = self._real.execute(statement, *values)
        if now:
            raise KeyboardInterrupt
        return result


@pytest.mark.parametrize(("word", "before"), [("BEGIN", False), ("COMMIT", True), ("COMMIT", False)])
def test_an_interrupt_leaves_no_transaction_open(spool: Spool, path: str, word: str, before: bool) -> None:
    """The file would be locked for everybody, until this process ends."""
    real: Any = spool._connection
    spool._connection = Interrupted(real, word, before=before)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        spool.save("s", Change([item(b"a")]))
    spool._connection = real
    assert not real.in_transaction
    assert spool.save("s", Change([item(b"b")]))
    assert keys(path) >= {b"first", b"b"}


# -- forks ------------------------------------------------------------------------------------------------------------


def test_a_child_that_was_forked_in_the_middle_of_a_write(
    spool: Spool, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps things in memory only: neither the connection nor SQLite's own locks are of use in it."""
    monkeypatch.setattr(module, "BUSY_S", 0.02)
    inside, go_on = threading.Event(), threading.Event()

    def inside_of_sqlite() -> int:
        inside.set()
        return int(go_on.wait(LIMIT_S))

    def work(connection: sqlite3.Connection) -> Any:
        connection.create_function("wait", 0, inside_of_sqlite)
        return connection.execute("SELECT wait()").fetchone()[0]

    writer = Outcome(spool._do, work)
    assert inside.wait(LIMIT_S)
    child = os.fork()
    if not child:
        mine, other = spool.save("s", Change([item(b"child")])), Spool(path).save("s", Change([item(b"child")]))
        why = spool._complained == {"this process was forked in the middle of a write"}  # and not that it is locked
        os._exit(0 if (mine, other, spool._connection, why) == (False, False, None, True) else 1)
    try:
        assert ended(child) == 0
    finally:
        go_on.set()
    assert writer.result() == 1
    assert spool.save("s", Change([item(b"parent")]))
    assert keys(path) == {b"first", b"parent"}


def test_threads_that_fork_at_once_give_back_what_they_hold(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not what the other does, whose child would find a file that is being written."""
    monkeypatch.setattr(module, "_spools", {spool})
    held, go_on = threading.Event(), threading.Event()

    def fork() -> None:
        module._before_fork()
        held.set()
        go_on.wait(LIMIT_S)
        module._in_parent()

    one = Outcome(fork)
    assert held.wait(LIMIT_S)
    try:
        module._in_parent()
    finally:
        go_on.set()
        one.result()
        free = Outcome(spool._lock.acquire, False).result()
        spool.renew_lock()
    assert free


# -- a file that is being set aside -----------------------------------------------------------------------------------


def test_who_opens_while_another_sets_aside_waits(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """His new file's WAL would be taken for that of the broken one, with what he has written."""
    Path(path).write_bytes(GARBAGE)
    one, two = Spool(path, lambda: NOW), Spool(path, lambda: NOW)
    locked, replace, waits = salvage.locked, os.replace, threading.Event()
    second: list[Outcome] = []

    def seen(*args: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            waits.set()
        return locked(*args)

    def between(source: str, target: str) -> None:
        replace(source, target)
        if source == path:
            second.append(Outcome(two.save, "s", Change([item(b"two")])))
            assert eventually(lambda: waits.is_set() or not second[0].is_alive())

    monkeypatch.setattr(salvage, "locked", seen)
    monkeypatch.setattr("cachekit.salvage.os.replace", between)
    assert one.save("s", Change([item(b"one")]))
    assert second[0].result() is True
    for beside in ("", "-wal"):  # what is found if both are killed now
        shutil.copy(path + beside, tmp_path / f"killed{beside}")
    assert keys(str(tmp_path / "killed")) == {b"one", b"two"}
    assert not list(tmp_path.glob("*.broken*-wal"))
    one.close()
    two.close()


def test_no_file_is_made_where_another_has_begun_to_set_it_aside(
    spool: Spool, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it was there a moment ago; it is made once the other is ready."""
    monkeypatch.setattr(module, "BUSY_S", 0.05)
    spool.close()
    with closing(sqlite3.connect(path + LOCK, isolation_level=None)) as holder:
        identity = module.identity

        def and_then_it_goes(of: str) -> tuple[int, int] | None:
            found = identity(of)
            if os.path.exists(of):
                holder.execute("BEGIN EXCLUSIVE")
                os.replace(of, of + ".aside")
            return found

        monkeypatch.setattr(module, "identity", and_then_it_goes)
        assert not spool.save("s", Change([item(b"a")]))
        assert not os.path.exists(path)
        monkeypatch.setattr(module, "identity", identity)
        holder.execute("ROLLBACK")
    assert spool.save("s", Change([item(b"a")]))
    assert b"a" in keys(path)


# -- what is in the file ----------------------------------------------------------------------------------------------


def test_an_overflow_of_a_clock_that_runs_ahead(path: str) -> None:
    """Nothing was let go of later than now; else all that this process stores would be void until then."""
    with closing(Spool(path)) as spool:
        assert spool.save("s", Change((), (), Overflow(NOW + 3600, 1)))
    outbox = outbox_on(None)
    assert outbox.open_spool(path) == [0]
    assert outbox.distrust == {0: NOW + MARGIN_S}
    assert outbox.spool is not None
    outbox.spool.close()


def test_a_file_with_the_table_of_before(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """It had other columns, so it is another table; the file is used, and that table is left alone."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(OLD_TABLE)
        connection.execute("INSERT INTO undelivered_1 VALUES ('s', x'6f6c64', 0, 0, ?, 5)", (NOW,))
        connection.commit()
    with closing(Spool(path, lambda: NOW)) as spool:
        assert spool.load(["s"]) == {"s": ([], None)}
        assert spool.save("s", Change([item(b"a")]))
    assert keys(path) == {b"a"}
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM undelivered_1").fetchone() == (1,)
    assert warnings(caplog) == []
