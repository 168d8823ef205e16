"""A spool that breaks, or goes, while several processes use it: nothing is lost that is still known to anybody."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cachekit import Cache, ConfigurationError, salvage
from cachekit.replay import Change, Item, Kind, Overflow
from cachekit.spool import Spool

NOW = 1_700_000_000.0
GARBAGE = b"garbage!" * 2000
NOWHERE = "memcached://127.0.0.1:1?deadline=50ms"
SERVER = "127.0.0.1:1"
PAGE = 4096


@pytest.fixture(name="path")
def path_fixture(tmp_path: Path) -> str:
    """Where a spool may be."""
    return str(tmp_path / "spool.db")


@pytest.fixture(name="cache")
def cache_fixture(path: str) -> Iterator[Cache]:
    """A cache whose server nobody can reach, with a spool in which two keys are."""
    with Cache(NOWHERE, spool=path) as cache:
        assert cache.delete("a") is False
        assert cache.delete("b") is False
        cache._fleet.stop_probing()
        yield cache


def item(key: bytes, mark: int = 1, **how: Any) -> Item:
    """An item to keep."""
    return Item(key, False, how.pop("kind", Kind.ENTRY), how.pop("at", NOW), mark, **how)


def keys(path: str, server: str = SERVER) -> set[bytes]:
    """What whoever starts next finds in the file."""
    with closing(Spool(path)) as heir:
        found = heir.load([server])
    return {each.key for each in found[server][0]}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages of warnings about a spool."""
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and "spool" in r.getMessage()]


def closed(cache: Cache) -> None:
    """Have the file closed, as a fork does, or an error."""
    outbox = cache._fleet.outbox
    assert outbox is not None
    assert outbox.spool is not None
    outbox.spool.close()


# -- what is still in memory ------------------------------------------------------------------------------------------


def test_all_that_is_in_memory_is_in_the_new_file(
    cache: Cache, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Found broken and set aside, it is begun anew with everything that this process still has to tell."""
    outbox = cache._fleet.outbox
    assert outbox is not None
    monkeypatch.setattr(outbox.replay, "_limit", 2)
    cache.delete("c")
    closed(cache)
    Path(path).write_bytes(GARBAGE)
    assert cache.delete("d") is False
    assert keys(path) == {b"c", b"d"}
    with closing(Spool(path)) as heir:
        assert heir.load([SERVER])[SERVER][1] == outbox.queues[0].overflow
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("how", ["set aside", "removed"])
def test_what_another_process_did_to_the_file_is_seen(cache: Cache, path: str, how: str) -> None:
    """The connection leads to a file that nobody will read; so this process goes on in the one that is there now."""
    if how == "set aside":
        os.rename(path, path + ".elsewhere")
        with closing(Spool(path)) as other:
            assert other.save(SERVER, Change([item(b"theirs")]))
    else:
        for beside in salvage.BESIDE:
            Path(path + beside).unlink(missing_ok=True)
    assert cache.delete("c") is False
    assert keys(path) == {b"a", b"b", b"c"} | ({b"theirs"} if how == "set aside" else set())


def test_a_file_of_the_same_inode_is_told_from_the_one_before(cache: Cache, path: str) -> None:
    """Removed while it was closed: its number in the file system may be given to the new one."""
    closed(cache)
    with closing(sqlite3.connect(path)) as connection:  # the same inode, with nothing in it
        connection.execute("DELETE FROM undelivered_2")
        connection.execute("DELETE FROM undelivered_file")
        connection.commit()
    cache.delete("c")
    assert keys(path) == {b"a", b"b", b"c"}


def test_what_was_delivered_does_not_come_back(path: str) -> None:
    """The new file is begun with what is kept, and without what the server has just acknowledged."""
    kept = [item(b"a", 1), item(b"b", 2)]
    spool = Spool(path, lambda: NOW, kept=lambda: [("s", Change(kept[1:]))])
    assert spool.save("s", Change(kept))
    spool.close()
    Path(path).write_bytes(GARBAGE)
    spool.drop("s", kept[:1], None)
    spool.close()
    assert keys(path, "s") == {b"b"}


# -- what can still be read -------------------------------------------------------------------------------------------


def broken(path: str, rows: int, *, cut: bool = False) -> None:
    """A spool with ``rows`` rows, a page of which is garbage; or the file ends in the middle."""
    with closing(Spool(path)) as spool:
        assert spool.save("s", Change([item(b"key-%d" % n, n + 1, group=b"gen=f") for n in range(rows)]))
        assert spool.save("t", Change([item(b"other", 7)], (), Overflow(NOW, 9)))
    if cut:
        os.truncate(path, os.path.getsize(path) // 2)
    else:
        garble(path)


def garble(path: str) -> None:
    """Write over a page of rows (not of their index) in the middle."""
    data = bytearray(Path(path).read_bytes())
    pages = [at for at in range(0, len(data), PAGE) if data[at] == 13]  # sqlite.org/fileformat2.html, 1.6
    at = pages[len(pages) // 2]
    data[at : at + PAGE] = b"\xff" * PAGE
    Path(path).write_bytes(data)


@pytest.mark.parametrize("cut", [False, True], ids=["garbage in the middle", "truncated"])
def test_rows_that_can_be_read_are_saved(path: str, cut: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Those on the pages that are whole; the file that was set aside keeps all of its bytes."""
    broken(path, 2000, cut=cut)
    content = Path(path).read_bytes()
    spool = Spool(path, lambda: NOW + 60)
    loaded, overflow = spool.load(["s"])["s"]
    spool.close()
    assert 500 < len(loaded) < 2000
    assert overflow is None
    assert {(each.at, each.group) for each in loaded} == {(NOW, b"gen=f")}
    assert all(each.key == b"key-%d" % (each.mark - 1) for each in loaded)
    assert f" {len(loaded) + (0 if cut else 2)} of its rows were saved" in warnings(caplog)[0]
    assert Path(f"{path}.broken-{int(NOW + 60)}").read_bytes() == content
    if not cut:
        with closing(Spool(path)) as heir:
            assert heir.load(["t"]) == {"t": ([item(b"other", 7)], Overflow(NOW, 9))}


def test_saved_rows_are_checked(path: str) -> None:
    """What is read of a broken file goes onto the wire; and nothing was invalidated in the future."""
    with closing(Spool(path)) as spool:
        assert spool.save("s", Change([item(b"key-%d" % n, n) for n in range(2000)]))
    with closing(sqlite3.connect(path)) as connection:
        insert = "INSERT INTO undelivered_2 (server, key, soft, kind, at, mark, over) VALUES (?, ?, 0, 0, ?, 1, ?)"
        rows = [("x", b"a\r\nflush_all", NOW, b""), ("x", b"b", NOW, b"a b"), (b"\xff", b"c", NOW, b"")]
        rows += [("x", b"late", 9e99, b""), ("x", b"good", NOW, b"gen")]
        connection.executemany(insert, rows)
        connection.commit()
    garble(path)
    with closing(Spool(path, lambda: NOW + 60)) as spool:
        loaded, _ = spool.load(["x"])["x"]
    assert {each.key: each.at for each in loaded} == {b"good": NOW, b"late": NOW + 60}


def test_saving_is_bounded_in_time(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever could not deliver something waits for it."""
    broken(path, 2000)
    monkeypatch.setattr(salvage, "PATIENCE_S", 0.0)
    with closing(Spool(path)) as spool:
        assert spool.load(["s"]) == {"s": ([], None)}
        assert spool.save("s", Change([item(b"new")]))


# -- several processes ------------------------------------------------------------------------------------------------


def test_two_processes_that_find_one_broken_file(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second does not set aside what the first has begun anew."""
    Path(path).write_bytes(GARBAGE)
    one, two = Spool(path, lambda: NOW), Spool(path, lambda: NOW)
    original = two._set_aside

    def later(why: str) -> bool:
        assert one.save("s", Change([item(b"one", 1)]))
        return original(why)

    monkeypatch.setattr(two, "_set_aside", later)
    assert two.save("s", Change([item(b"two", 2)]))
    one.close()
    two.close()
    assert keys(path, "s") == {b"one", b"two"}
    assert len(warnings(caplog)) == 1


def test_no_file_that_was_set_aside_is_overwritten(path: str) -> None:
    """Also within one second."""
    for content in (GARBAGE, GARBAGE[::-1], GARBAGE[1:]):
        Path(path).write_bytes(content)
        with closing(Spool(path, lambda: NOW)) as spool:
            assert spool.save("s", Change([item(b"k")]))
        for beside in salvage.BESIDE:
            Path(path + beside).unlink(missing_ok=True)
    aside = f"{path}.broken-{int(NOW)}"
    assert [Path(aside + end).read_bytes() for end in ("", "-2", "-3")] == [GARBAGE, GARBAGE[::-1], GARBAGE[1:]]


def test_who_sets_aside_waits_for_another(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """But not for ever: what could not be written is kept in memory."""
    monkeypatch.setattr("cachekit.spool.BUSY_S", 0.05)
    Path(path).write_bytes(GARBAGE)
    with closing(sqlite3.connect(path + ".lock", isolation_level=None)) as holder, closing(Spool(path)) as spool:
        holder.execute("BEGIN EXCLUSIVE")
        assert not spool.save("s", Change([item(b"k")]))
        assert Path(path).read_bytes() == GARBAGE
        holder.execute("ROLLBACK")
        assert spool.save("s", Change([item(b"k")]))
    assert len(warnings(caplog)) == 2


def test_a_lock_that_cant_be_made_reaches_nobody(path: str) -> None:
    """A directory stands where its file should be."""
    Path(path).write_bytes(GARBAGE)
    Path(path + ".lock").mkdir()
    with closing(Spool(path)) as spool:
        assert not spool.save("s", Change([item(b"k")]))
    assert Path(path).read_bytes() == GARBAGE


# -- options ----------------------------------------------------------------------------------------------------------


def test_a_spool_in_memory_is_none() -> None:
    """SQLite's name for it would be taken for that of a file."""
    with pytest.raises(ConfigurationError, match="name a file, or leave it out"):
        Cache(spool=":memory:")
    with pytest.raises(ConfigurationError, match="name a file, or leave it out"):
        Cache().configure(spool=":memory:")
