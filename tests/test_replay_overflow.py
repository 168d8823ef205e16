"""Too many undelivered invalidations: what takes the place of those that were let go of, here and in the spool."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.memcached import Memcached
from support.outage import NEW, OLD, mortal_fixture, unprobed_fixture
from support.targets import own_prefix, url_of

from cachekit import Cache, Policy, Unreachable
from cachekit.hooks import Hooks, Trouble
from cachekit.meta import Reply
from cachekit.outbox import Outbox
from cachekit.replay import LIMIT, Item, Kind, Replay

__all__ = ["mortal_fixture", "unprobed_fixture"]

HD = Reply("HD")


def waiting(replay: Replay) -> dict[bytes, int]:
    """Kinds of what waits for the first server, by key."""
    return {item.key: item.kind for item in replay.queues[0].first(1 << 30)}


# -- the queue --------------------------------------------------------------------------------------------------------


def test_an_entry_that_is_let_go_of_leaves_the_record_over_it() -> None:
    """One key in place of many; it voids them for everybody."""
    replay = Replay(1, limit=2)
    replay.keep(0, [b"f1", b"f2", b"f3"], 1.0, group=b"gen=f")
    change = replay.keep(0, [b"g1", b"g2"], 2.0, group=b"gen=g")
    assert waiting(replay) == {b"g1": Kind.ENTRY, b"g2": Kind.ENTRY, b"gen=f": Kind.STAND_IN}
    assert [item.key for item in change.gone] == [b"f2", b"f3"]
    replay.keep(0, [b"g3"], 3.0, group=b"gen=g")
    assert waiting(replay).keys() == {b"g2", b"g3", b"gen=f", b"gen=g"}


def test_what_is_put_in_its_place_is_to_be_written() -> None:
    """Once for all that is let go of until the server is told: a full queue is no reason to write more each time."""
    replay = Replay(1, 1, lambda: [b"gen=f", b"gen=g"])
    first = replay.keep(0, [b"p1", b"p2"], 1.0, kind=Kind.PLAIN)
    assert {item.key for item in first.put} == {b"p1", b"p2", b"gen=f", b"gen=g"}
    second = replay.keep(0, [b"p3"], 2.0, kind=Kind.PLAIN)
    assert [item.key for item in second.put] == [b"p3"]
    replay.lot(0)
    third = replay.keep(0, [b"p4"], 3.0, kind=Kind.PLAIN)
    assert {item.key for item in third.put} == {b"p4", b"gen=f", b"gen=g"}


def test_a_flood_of_groups_does_not_push_out_what_stands_in() -> None:
    """They stand for more than any of those."""
    replay = Replay(1, limit=3)
    replay.keep(0, [b"f%d" % n for n in range(9)], 1.0, group=b"gen=f")
    replay.keep(0, [b"tag=%d" % n for n in range(9)], 2.0, kind=Kind.GROUP)
    assert waiting(replay) == {b"gen=f": Kind.STAND_IN, **{b"tag=%d" % n: Kind.GROUP for n in (6, 7, 8)}}


def test_what_stands_in_is_bounded() -> None:
    """Whoever has written the file, and whatever is in it."""
    replay = Replay(1, limit=5)
    replay.load(0, [Item(b"gen=%d" % n, False, Kind.STAND_IN, 1.0, n) for n in range(LIMIT + 9)], None)
    replay.keep(0, [b"e%d" % n for n in range(6)], 2.0)
    assert replay.queues[0].size == LIMIT + 5


def test_groups_that_become_known_later_are_told_as_well() -> None:
    """A module may be imported between the overflow and the server's return. They are to be written: their rows are
    found again by their marks.
    """
    known = [b"gen=f"]
    replay = Replay(1, 1, lambda: known)
    replay.keep(0, [b"a", b"b"], 1.0)
    known.append(b"gen=g")
    lot = replay.lot(0)
    assert {item.key for item in lot.items} == {b"b", b"gen=f", b"gen=g"}
    assert [item.key for item in lot.put] == [b"gen=g"]
    assert not replay.lot(0).put


def test_a_full_queue_does_not_ask_for_all_groups_each_time() -> None:
    """There may be a thousand functions: they are asked for once before the server is told, and once for that."""
    asked: list[int] = []

    def groups() -> list[bytes]:
        asked.append(1)
        return [b"gen=f"]

    replay = Replay(1, 1, groups)
    for turn in (0, 2):
        assert len(asked) == turn
        for n in range(50):
            change = replay.keep(0, [b"a%d" % n, b"b%d" % n], 1.0 + turn, group=b"gen=%d-%d" % (turn, n))
            assert len(asked) == turn + 1
            assert b"gen=%d-%d" % (turn, n) in {item.key for item in change.put}
        replay.lot(0)
        assert len(asked) == turn + 2
        replay.lot(0)
        assert len(asked) == turn + 2


def test_groups_are_asked_for_again_where_the_clock_was_put_back() -> None:
    """What was let go of after the last lot is newer than that, whatever the clock said."""
    known = [b"gen=f"]
    replay = Replay(1, 1, lambda: known)
    replay.keep(0, [b"a", b"b"], 9.0)
    replay.lot(0)
    replay.keep(0, [b"c"], 5.0)
    replay.keep(0, [b"d"], 5.0)
    known.append(b"gen=g")
    assert b"gen=g" in {item.key for item in replay.lot(0).items}


def test_everything() -> None:
    """As if it were put in just now, with the overflow."""
    replay = Replay(1, 1)
    replay.keep(0, [b"a", b"b"], 1.0, group=b"gen")
    put, gone, overflow = replay.everything(0)
    assert ({item.key for item in put}, gone) == ({b"b", b"gen"}, ())
    assert overflow == replay.queues[0].overflow is not None


# -- what is seen of it -----------------------------------------------------------------------------------------------


@pytest.fixture(name="hooks")
def hooks_fixture() -> Hooks:
    """Nobody listens yet."""
    return Hooks()


@pytest.fixture(name="outbox")
def outbox_fixture(hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> Outbox:
    """For one server; two keys are all that it holds."""
    outbox = Outbox(("a:1",), hooks, tuple, {}, lambda: 100.0)
    monkeypatch.setattr(outbox.replay, "_limit", 2)
    return outbox


def put_in(outbox: Outbox, *keys: bytes, kind: int = Kind.PLAIN) -> None:
    """Keep that."""
    outbox.save(0, outbox.keep(0, keys, soft=False, kind=kind))


def test_a_full_queue_is_told_once_until_it_is_empty(
    hooks: Hooks, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    """By one event and one line, which says what can't be mended; and once more the next time."""
    events: list[Trouble] = []
    hooks.on_trouble(events.append)
    put_in(outbox, b"a", b"b")
    assert events == []
    for time in (1, 2):
        put_in(outbox, b"c", b"d")
        put_in(outbox, b"e")
        assert [event.server for event in events] == ["a:1"] * time
        assert isinstance(events[0].error, Unreachable)
        lot = outbox.lot(0)
        assert outbox.settle(0, lot.items, [HD] * lot.expected)
        put_in(outbox, b"a", b"b")
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 2
    assert "functions that only other processes know may serve old values" in lines[0]


def test_what_waits_is_counted_without_the_overflow(outbox: Outbox) -> None:
    """So many keys as the server is told, and not one more."""
    put_in(outbox, b"a", b"b", b"c")
    assert outbox.waiting() == {"a:1": 2}
    lot = outbox.lot(0)
    outbox.settle(0, lot.items, [HD] * lot.expected)
    assert outbox.waiting() == {}


# -- with servers -----------------------------------------------------------------------------------------------------


class Shop:
    """A cache with functions. ``with_them``: whether its process knows them. Each returns ``version``."""

    def __init__(self, url: str, prefix: str, *, with_them: bool = True, **options: Any) -> None:
        self.version = OLD
        self.cache = cache = Cache(f"{url}?deadline=500ms", prefix=prefix, **options)
        if not with_them:
            return

        @cache(ttl=600, tags=["user:{n}"])
        def tagged(n: int) -> int:
            return self.version

        @cache(ttl=600, tags=["user:{n}"], policy=Policy(group=False), namespace="space")
        def spaced(n: int) -> int:
            return self.version

        @cache(ttl=600)
        async def coroutine(n: int) -> int:
            return self.version

        @cache.batch(ttl=600, tags=lambda n: [f"user:{n}"])
        def loader(ids: list[int]) -> dict[int, int]:
            return dict.fromkeys(ids, self.version)

        self.tagged, self.spaced, self.coroutine, self.loader = tagged, spaced, coroutine, loader

    def read(self) -> set[int]:
        """What its functions give for 0 to 5."""
        return {read(n) for n in range(6) for read in (self.tagged, self.spaced)} | set(self.loader(range(6)).values())

    def full(self, limit: int = 2) -> None:
        """From now on its server can't be asked, and few invalidations are kept for it."""
        fleet = self.cache._fleet
        fleet._outbox().replay._limit = limit
        fleet.failed(0, Unreachable("the network is down"), refused=True)


@pytest.fixture(name="reader")
def reader_fixture(unprobed: None, mortal: Memcached) -> Iterator[Shop]:
    """A cache as another process has it, which has stored the old values, and would compute the new ones."""
    shop = Shop(url_of(mortal), own_prefix())
    assert shop.read() == {OLD}
    shop.version = NEW
    assert shop.read() == {OLD}
    yield shop
    shop.cache.close()


def another(reader: Shop, mortal: Memcached, **options: Any) -> Shop:
    """A cache as one more process has it, under the same prefix."""
    return Shop(url_of(mortal), reader.cache.prefix, **options)


def test_functions_that_were_never_called_here_are_voided(reader: Shop, mortal: Memcached) -> None:
    """A process that only invalidates tags knows what it has decorated."""
    worker = another(reader, mortal)
    worker.full()
    assert worker.cache.invalidate_tags(*[f"user:{n}" for n in range(6)]) is False
    worker.cache._fleet.succeeded(0)
    worker.cache.get("anything")
    assert reader.read() == {NEW}
    assert worker.cache.stats().replay == {}
    worker.cache.close()


def test_a_function_that_cant_be_told_does_not_stop_the_others(reader: Shop, mortal: Memcached) -> None:
    """Whatever it is that makes it so."""
    worker = another(reader, mortal)

    @worker.cache
    def broken(n: int) -> int:
        return n

    del broken._keys
    worker.full()
    worker.cache.invalidate_tags(*[f"user:{n}" for n in range(6)])
    worker.cache._fleet.succeeded(0)
    worker.cache.get("anything")
    assert reader.read() == {NEW}
    worker.cache.close()


def test_tags_of_unknown_functions_are_lost(reader: Shop, mortal: Memcached) -> None:
    """As the docs say: nobody here knows what to void; so it is told by the log, and not hidden."""
    worker = another(reader, mortal, with_them=False)
    worker.full()
    worker.cache.invalidate_tags(*[f"user:{n}" for n in range(6)])
    worker.cache._fleet.succeeded(0)
    worker.cache.get("anything")
    assert reader.read() == {OLD, NEW}
    assert worker.cache.stats().replay_dropped == 4
    worker.cache.close()


@pytest.mark.parametrize("what", ["entries", "tags"])
def test_an_heir_without_the_functions_voids_them(reader: Shop, mortal: Memcached, tmp_path: Path, what: str) -> None:
    """What was let go of is told by whoever has the spool next, whatever he knows himself and by whichever prefix."""
    spool = tmp_path / "undelivered.db"
    worker = another(reader, mortal, spool=spool)
    worker.full()
    if what == "entries":
        assert {verb.invalidate(n) for n in range(6) for verb in (worker.tagged, worker.spaced)} == {False}
        worker.loader.invalidate(range(6))
    else:
        worker.cache.invalidate_tags(*[f"user:{n}" for n in range(6)])
    worker.cache.close()
    with Shop(url_of(mortal), "another", with_them=False, spool=spool).cache as heir:
        assert heir.get("anything") is None
        assert heir.stats().replay == {}
    assert reader.read() == {NEW}
    with Cache(url_of(mortal), spool=spool) as next_one:
        assert next_one.stats().replay == {}


def test_an_heir_that_is_full_voids_what_it_lets_go_of(reader: Shop, mortal: Memcached, tmp_path: Path) -> None:
    """Of another process's entries, it has the records over them from the spool."""
    spool = tmp_path / "undelivered.db"
    worker = another(reader, mortal, spool=spool)
    worker.full(100)
    assert {verb.invalidate(n) for n in range(6) for verb in (worker.tagged, worker.spaced)} == {False}
    worker.loader.invalidate(range(6))
    worker.cache.close()
    heir = Shop(url_of(mortal), "another", with_them=False, spool=spool)
    heir.full()
    heir.cache.delete_many(["a", "b", "c"])
    heir.cache._fleet.succeeded(0)
    assert heir.cache.get("anything") is None
    assert heir.cache.stats().replay == {}
    assert reader.read() == {NEW}
    heir.cache.close()


def test_no_row_is_left_of_what_two_processes_put_in(reader: Shop, mortal: Memcached, tmp_path: Path) -> None:
    """An heir that knows the same functions bumps them once, and the rows of the one before are gone with that."""
    spool = tmp_path / "undelivered.db"
    worker = another(reader, mortal, spool=spool)
    worker.full()
    worker.cache.invalidate_tags(*[f"user:{n}" for n in range(6)])
    worker.cache.close()
    heir = another(reader, mortal, spool=spool)
    assert heir.cache.get("anything") is None
    heir.cache.close()
    with Cache(url_of(mortal), spool=spool) as next_one:
        assert next_one.stats().replay == {}
