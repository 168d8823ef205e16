"""The spool: invalidations that could not be delivered outlive the process, and no fault of the file is anybody's."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.memcached import Memcached, free_port, start_memcached
from support.outage import mortal_fixture, unprobed_fixture
from support.targets import own_prefix, url_of
from support.threads import Outcome, eventually

from cachekit import MISS, Cache, ConfigurationError
from cachekit.replay import Change, Item, Kind, Overflow
from cachekit.spool import FORGOTTEN_S, Spool
from cachekit.testing import isolated

ROOT = Path(__file__).parents[1]
NOW = 1_800_000_000.0
HOUR_S = 3600.0
INSERT = "INSERT INTO undelivered_2 (server, key, soft, kind, at, mark) VALUES"

__all__ = ["mortal_fixture", "unprobed_fixture"]


@pytest.fixture(name="path")
def path_fixture(tmp_path: Path) -> str:
    """Where a spool may be."""
    return str(tmp_path / "spool.db")


@pytest.fixture(name="spool")
def spool_fixture(path: str) -> Iterator[Spool]:
    """A spool by a clock that stands."""
    spool = Spool(path, lambda: NOW)
    yield spool
    spool.close()


def item(key: bytes, mark: int = 1, *, soft: bool = False, kind: int = Kind.ENTRY, at: float = NOW) -> Item:
    """An item to keep."""
    return Item(key, soft, kind, at, mark)


def rows(path: str) -> list[tuple[Any, ...]]:
    """What is in the file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT server, key FROM undelivered_2 ORDER BY server, key").fetchall()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages of warnings."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- rows -------------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(spool: Spool, path: str) -> None:
    """By another process, item by item, for the servers that it asks for."""
    kept = [item(b"a", 1), item(b"b", 2, soft=True), item(b"g", 2**62 + 5, kind=Kind.GROUP)]
    assert spool.save("one:1", Change(kept))
    assert spool.save("two:1", Change([item(b"c", 4)], (), Overflow(5.5, 9)))
    other = Spool(path)
    loaded = other.load(["one:1", "two:1", "three:1"])
    assert loaded == {
        "one:1": (kept, None),
        "two:1": ([item(b"c", 4)], Overflow(5.5, 9)),
        "three:1": ([], None),
    }
    other.close()


def test_only_the_row_that_was_delivered_is_dropped(spool: Spool) -> None:
    """A key that was invalidated again, by whichever process, stays."""
    spool.save("s", Change([item(b"a", 1), item(b"b", 2)], (), Overflow(1.0, 3)))
    spool.save("s", Change([item(b"a", 7)]))
    spool.drop("s", [item(b"a", 1), item(b"b", 2)], None)
    assert spool.load(["s"]) == {"s": ([item(b"a", 7)], Overflow(1.0, 3))}
    spool.drop("s", [item(b"a", 7)], Overflow(1.0, 3))
    assert spool.load(["s"]) == {"s": ([], None)}


@pytest.mark.parametrize("first", [False, True])
def test_another_process_does_not_soften_what_is_hard(spool: Spool, path: str, first: bool) -> None:
    """Of two processes that invalidate one key, the harder holds."""
    other = Spool(path)
    spool.save("s", Change([item(b"a", 1, soft=first)]))
    other.save("s", Change([item(b"a", 2, soft=not first)]))
    assert spool.load(["s"]) == {"s": ([item(b"a", 2, soft=False)], None)}
    other.close()


def test_what_a_full_queue_lets_go_of_is_let_go_of_here(spool: Spool, path: str) -> None:
    """The file is as bounded as the queues of those who write it."""
    spool.save("s", Change([item(b"a", 1)]))
    spool.save("s", Change([item(b"b", 2)], [item(b"a", 1)], Overflow(3.0, 5)))
    assert [row[1] for row in rows(path)] == [b"", b"b"]


def test_rows_of_servers_long_gone_are_dropped(spool: Spool) -> None:
    """After 30 days, where the server is in the ring of whoever starts no more; those of its own servers never are."""
    old = NOW - FORGOTTEN_S - 1
    spool.save("gone:1", Change([item(b"a", 1, at=old)]))
    spool.save("gone:2", Change([item(b"a", 1, at=old + HOUR_S)]))
    spool.save("here:1", Change([item(b"a", 1, at=old)]))
    spool.load(["here:1"])
    assert {name: len(found) for name, (found, _) in spool.load(["gone:1", "gone:2", "here:1"]).items()} == {
        "gone:1": 0,
        "gone:2": 1,
        "here:1": 1,
    }


def test_rows_that_nobody_could_have_written_are_passed_over(spool: Spool, path: str) -> None:
    """What stands in the file goes onto the wire; so no key of it may be a command."""
    spool.save("s", Change([item(b"good", 1)]))
    with closing(sqlite3.connect(path)) as connection:
        for key in (b"a\r\nflush_all\r\n", b"a b", b"x" * 251, "text", 5):
            connection.execute(f"{INSERT} ('s', ?, 0, 0, 1.0, 1)", (key,))
        connection.execute(f"{INSERT} ('s', ?, 0, 77, 1.0, 1)", (b"kind",))
        connection.execute(f"{INSERT} ('s', ?, 0, 0, 'soon', 1)", (b"time",))
        connection.execute(f"{INSERT} ('s', ?, 0, 0, 'then', 1)", (b"",))
        connection.commit()
    assert spool.load(["s"]) == {"s": ([item(b"good", 1)], None)}


# -- faults of the file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"this is no database, but it is a file of somebody's" * 100, b"SQLite format 3\0" * 400]
)
def test_a_broken_file_is_set_aside(path: str, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Kept under another name and begun anew; one warning."""
    Path(path).write_bytes(content)
    spool = Spool(path, lambda: NOW)
    assert spool.load(["s"]) == {"s": ([], None)}
    assert spool.save("s", Change([item(b"a")]))
    assert spool.load(["s"]) == {"s": ([item(b"a")], None)}
    aside = f"{path}.broken-{int(NOW)}"
    assert Path(aside).read_bytes() == content
    (warning,) = warnings(caplog)
    assert path in warning
    assert aside in warning
    spool.close()


def test_a_file_that_breaks_while_it_is_used(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Found at the next opening; what is kept after that is on disk again."""
    spool = Spool(path, lambda: NOW)
    spool.save("s", Change([item(b"k%d" % n, n) for n in range(2000)]))
    spool.close()
    data = bytearray(Path(path).read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    Path(path).write_bytes(data)
    assert spool.save("s", Change([item(b"new", 7)]))
    assert spool.load(["s"]) == {"s": ([item(b"new", 7)], None)}
    assert len(warnings(caplog)) == 1
    spool.close()


@pytest.mark.parametrize("where", ["no such folder", "a folder"])
def test_a_file_that_cant_be_is_complained_of_once(
    tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is raised; once the file can be made, it is."""
    folder = tmp_path / "later"
    path = folder / "spool.db"
    if where == "a folder":
        path.mkdir(parents=True)
    spool = Spool(str(path))
    for _ in range(3):
        assert spool.load(["s"]) == {}
        assert not spool.save("s", Change([item(b"a")]))
        spool.drop("s", [item(b"a")], None)
    assert len(warnings(caplog)) == 1
    path.rmdir() if where == "a folder" else folder.mkdir()
    assert spool.save("s", Change([item(b"a")]))
    spool.close()


def test_a_broken_file_that_cant_be_set_aside(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left as it is; one warning, and nothing is on disk."""

    def refuse(*_: object) -> None:
        raise PermissionError("not yours")

    Path(path).write_bytes(b"garbage" * 1000)
    monkeypatch.setattr("cachekit.spool.os.replace", refuse)
    spool = Spool(path)
    assert [spool.save("s", Change([item(b"a")])) for _ in range(3)] == [False] * 3
    assert Path(path).read_bytes() == b"garbage" * 1000
    assert len(warnings(caplog)) == 1


def test_a_python_without_sqlite(path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """One warning; everything else works."""
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    spool = Spool(path)
    assert [spool.save("s", Change([item(b"a")])) for _ in range(3)] == [False] * 3
    assert "no sqlite3" in warnings(caplog)[0]
    assert len(warnings(caplog)) == 1


def test_work_that_is_interrupted_is_undone(spool: Spool, path: str) -> None:
    """Half of a transaction is none, and the next one is not in its way."""

    def work(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM undelivered_2")
        raise KeyboardInterrupt

    spool.save("s", Change([item(b"a")]))
    with pytest.raises(KeyboardInterrupt):
        spool._do(work)
    assert len(rows(path)) == 1
    assert spool.save("s", Change([item(b"b")]))


def test_a_file_that_somebody_holds(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is waited for a while, and then given up; not for ever."""
    monkeypatch.setattr("cachekit.spool.BUSY_S", 0.05)
    spool = Spool(path)
    assert spool.save("s", Change([item(b"a", 1)]))
    spool.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        assert not spool.save("s", Change([item(b"b", 2)]))
        holder.execute("ROLLBACK")
    assert spool.save("s", Change([item(b"c", 3)]))
    assert "locked" in warnings(caplog)[0]
    spool.close()


def test_what_could_not_be_written_goes_with_the_next(
    unprobed: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once the file can be written again, all that waits is in it."""
    path = tmp_path / "later" / "spool.db"
    cache = Cache(f"memcached://127.0.0.1:{free_port()}", spool=path)
    assert cache.delete("a") is False
    assert cache.delete("b") is False
    path.parent.mkdir()
    assert cache.delete("c") is False
    assert [row[1] for row in rows(str(path))] == [b"a", b"b", b"c"]
    cache.close()


def test_threads_share_a_spool(spool: Spool, path: str) -> None:
    """What they write at once is all there."""

    def write(share: int) -> None:
        for n in range(20):
            spool.save("s", Change([item(b"%d-%d" % (share, n), share * 100 + n)]))

    for each in [Outcome(write, share) for share in range(4)]:
        each.result()
    assert len(rows(path)) == 80


# -- with servers -----------------------------------------------------------------------------------------------------

SCRIPT = """
import os, sys, time
from cachekit import Cache
from cachekit.roster import Roster
Roster._watch = lambda self: None  # nothing is told but by those who ask
cache = Cache(sys.argv[1], prefix=sys.argv[2], spool=sys.argv[3])
print("ready", flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
"""


class Process:
    """A process with a cache of its own, which does as it is told."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def do(self, expression: str) -> str:
        """What that gives there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{expression}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def kill(self) -> None:
        """End it at once."""
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()


DOWN = "cache._fleet.failed(0, __import__('cachekit').Unreachable('down'), refused=True)"
"""Have the process take its server for unreachable, so that nothing is even sent."""


@pytest.mark.parametrize("verb", ["delete", "invalidate_tags"])
def test_an_invalidation_outlives_its_process(unprobed: None, mortal: Memcached, path: str, verb: str) -> None:
    """Killed after its verb had returned False: the next process with that spool tells the server before it reads."""
    prefix = own_prefix()
    with Cache(url_of(mortal), prefix=prefix) as bystander:
        assert bystander.set("k", 1)
        process = Process(url_of(mortal), prefix, path)
        assert process.do("cache.get('k')") == "1"
        process.do(DOWN)
        assert process.do("cache.delete('k')" if verb == "delete" else "cache.invalidate_tags('a', 'b')") == "False"
        process.kill()
        assert bystander.get("k") == 1
        with Cache(url_of(mortal), prefix=prefix, spool=path) as heir:
            expected = {"delete": 1, "invalidate_tags": 2}[verb]
            assert heir.stats().replay == {mortal.name: expected}
            assert heir.get("k", MISS) == (MISS if verb == "delete" else 1)
            assert heir.stats().replayed == expected
            assert heir.stats().replay == {}
        assert rows(path) == []


def test_without_the_spool_it_would_be_read(mortal: Memcached, path: str) -> None:
    """The test above can see what it is for."""
    prefix = own_prefix()
    with Cache(url_of(mortal), prefix=prefix) as heir:
        assert heir.set("k", 1)
        process = Process(url_of(mortal), prefix, path)
        process.do(DOWN)
        assert process.do("cache.delete('k')") == "False"
        process.kill()
        assert heir.get("k", MISS) == 1


def test_whoever_starts_tells_the_server_without_being_asked(mortal: Memcached, path: str) -> None:
    """The probe does, as soon as the cache is used at all."""
    prefix = own_prefix()
    with Cache(url_of(mortal), prefix=prefix, spool=path) as cache:
        process = Process(url_of(mortal), prefix, path)
        process.do(DOWN)
        process.do("cache.delete('k')")
        process.kill()
        assert cache.stats().replay != {} or cache.stats().replayed == 1
        assert eventually(lambda: cache.stats().replayed == 1)
        assert eventually(lambda: rows(path) == [])


def test_processes_share_a_spool(unprobed: None, mortal: Memcached, path: str) -> None:
    """Each tells its own; what a dead one has left is told by the next."""
    prefix = own_prefix()
    one, two = (Process(url_of(mortal), prefix, path) for _ in range(2))
    for process in (one, two):
        process.do(DOWN)
    assert one.do("cache.delete_many(['a', 'both'])") == "['a', 'both']"
    assert two.do("cache.delete_many(['b', 'both'])") == "['b', 'both']"
    assert len(rows(path)) == 3
    one.do("cache._fleet.succeeded(0)")
    assert one.do("cache.get('a')") == "None"
    assert {row[1] for row in rows(path)} == {f"{prefix}:b".encode(), f"{prefix}:both".encode()}
    one.kill()
    two.kill()
    with Cache(url_of(mortal), prefix=prefix, spool=path) as heir:
        assert heir.get("b") is None
        assert heir.stats().replayed == 2
    assert rows(path) == []


def test_an_overflow_outlives_its_process(unprobed: None, mortal: Memcached, path: str) -> None:
    """The next process bumps the groups that it knows, and distrusts what is older."""
    cache = Cache(url_of(mortal), spool=path)
    cache._fleet._outbox().replay._limit = 1
    cache._fleet.failed(0, _down(), refused=True)
    cache.delete_many(["a", "b", "c"])
    cache.close()
    heir = Cache(url_of(mortal), spool=path)
    assert heir.stats().replay == {mortal.name: 1}
    assert heir._env.distrust.keys() == {0}
    assert heir._env.distrust == cache._env.distrust
    assert heir.get("k") is None
    assert rows(path) == []
    heir.close()


def _down() -> Any:
    from cachekit import Unreachable

    return Unreachable("down")


def test_a_child_has_a_connection_of_its_own(unprobed: None, mortal: Memcached, path: str) -> None:
    """SQLite's must not be carried into it; both write on."""
    prefix = own_prefix()
    process = Process(url_of(mortal), prefix, path)
    process.do(DOWN)
    process.do("cache.delete('before')")
    assert process.do("os.waitpid(os.fork() or (cache.delete('child'), os._exit(0)), 0)[1]") == "0"
    assert process.do("cache.delete('parent')") == "False"
    keys = [row[1].decode().partition(":")[2] for row in rows(path)]
    assert keys == ["before", "child", "parent"]
    process.kill()


def test_a_fork_waits_for_who_is_writing(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread's transaction is over before the process forks, and the file is closed."""
    spool.save("s", Change([item(b"a")]))
    inside, go_on = threading.Event(), threading.Event()

    def work(connection: sqlite3.Connection) -> bool:
        inside.set()
        return go_on.wait(20)

    writer = Outcome(spool._do, work)
    assert inside.wait(20)
    threading.Timer(0.05, go_on.set).start()
    child = os.fork()
    if not child:
        os._exit(0 if spool._connection is None and spool._lock.acquire(blocking=False) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert writer.result() is True
    assert spool.save("s", Change([item(b"b")]))


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", b"bytes", 5, True])
def test_what_is_no_path_is_refused(path: Any) -> None:
    """At once, with the option's name."""
    with pytest.raises(ConfigurationError, match="spool="):
        Cache(spool=path)
    with pytest.raises(ConfigurationError, match="spool="):
        Cache().configure(spool=path)


def test_a_directory_is_no_spool(tmp_path: Path) -> None:
    """A path without the file's name is refused at once, and not found out when something could not be delivered."""
    with pytest.raises(ConfigurationError, match="is a directory; name a file in it"):
        Cache(spool=tmp_path)
    with pytest.raises(ConfigurationError, match="is a directory; name a file in it"):
        Cache().configure(spool=tmp_path)


def test_a_directory_that_is_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log names it, which SQLite's own message does not."""
    assert not Spool(str(tmp_path / "nowhere" / "spool.db")).save("s", Change([item(b"a")]))
    assert f"there is no directory {tmp_path / 'nowhere'}" in caplog.text


def test_configure(tmp_path: Path, mortal: Memcached) -> None:
    """Before the first use; to say the same again is harmless. No file is made before there is something to keep."""
    cache = Cache(url_of(mortal))
    cache.configure(spool=tmp_path / "a.db")
    cache.configure(spool=str(tmp_path / "a.db"))
    assert not (tmp_path / "a.db").exists()
    assert cache.get("k") is None
    assert not (tmp_path / "a.db").exists()
    cache._env.undelivered(0, b"k", soft=False)
    assert (tmp_path / "a.db").exists()
    with pytest.raises(ConfigurationError):
        cache.configure(spool=tmp_path / "b.db")
    cache.close()


def test_the_embedded_server_needs_none(tmp_path: Path) -> None:
    """Its values end with the process, and so do its invalidations; the same holds inside ``isolated``."""
    cache = Cache("memory:", spool=tmp_path / "a.db")
    assert cache.set("k", 1)
    with Cache("memcached://127.0.0.1:1", spool=tmp_path / "b.db") as other, isolated(other):
        assert other.set("k", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_corrupt_spool_costs_callers_nothing(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """The cache works from the first call on; invalidations are kept in the new file."""
    Path(path).write_bytes(b"garbage" * 1000)
    with start_memcached() as server, Cache(url_of(server), spool=path) as cache:
        assert cache.set("k", 1)
        assert cache.get("k") == 1
        assert cache.delete("k")
        cache._env.undelivered(0, b"x", soft=False)
        assert [row[1] for row in rows(path)] == [b"x"]
        assert cache.get("k") is None
        assert rows(path) == []
    assert len(warnings(caplog)) == 1
