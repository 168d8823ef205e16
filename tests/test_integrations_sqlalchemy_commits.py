"""``invalidate_on_commit``: what counts as a commit, and what is read before it."""

from __future__ import annotations

import gc
import sqlite3
import threading
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session, sessionmaker
from support.database import User, World, url_fixture, world_fixture
from support.targets import own_prefix, url_of
from support.threads import Outcome

from cachekit import MISS, Cache
from cachekit.integrations.sqlalchemy import invalidate_on_commit

__all__ = ["url_fixture", "world_fixture"]

# -- what is a commit -------------------------------------------------------------------------------------------------


def test_a_commit_that_does_not_come_back_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection broke after COMMIT was sent: the row may have changed, so it is void."""
    commit = world.engine.dialect.do_commit

    def lost(connection: Any) -> None:
        commit(connection)
        raise OperationalError("COMMIT", None, Exception("connection lost"))

    with world.maker()() as session:
        session.get_one(User, 1).name = "Grace"
        monkeypatch.setattr(world.engine.dialect, "do_commit", lost)
        with pytest.raises(OperationalError, match="connection lost"):
            session.commit()
        session.rollback()
    assert world.told.take() == {"user", "user:1"}


def test_a_commit_with_open_savepoints_that_does_not_come_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the savepoints were released says nothing of the commit itself."""

    def lost(connection: Any) -> None:
        raise OperationalError("COMMIT", None, Exception("connection lost"))

    monkeypatch.setattr(world.engine.dialect, "do_commit", lost)
    with world.maker()() as session:
        session.begin_nested()
        session.get_one(User, 1).name = "Grace"
        with pytest.raises(OperationalError, match="connection lost"):
            session.commit()
        session.rollback()
    assert world.told.take() == {"user", "user:1"}
    with pytest.raises(OperationalError, match="connection lost"), world.maker().begin() as session:
        session.begin_nested()
        session.get_one(User, 2).name = "Bill"
    assert world.told.take() == {"user", "user:2"}


def test_a_released_savepoint_is_no_commit(world: World) -> None:
    """What is rolled back around it was never committed, and nobody doubts it."""
    with world.maker()() as session:
        with session.begin_nested():
            session.get_one(User, 1).name = "Grace"
        session.rollback()
    assert world.told == []


def test_a_flush_that_fails_tells_nothing(world: World) -> None:
    """It was no commit."""
    with world.maker()() as session:
        session.add(User(id=1, name="again"))
        with pytest.raises(IntegrityError):
            session.flush()
        session.rollback()
        session.commit()
    assert world.told == []


def test_autocommit_is_told_whatever_comes(url: str) -> None:
    """Where the database commits every statement, a rollback takes nothing back."""
    world = World(url, isolation_level="AUTOCOMMIT")
    with world.maker()() as session:
        session.get_one(User, 1).name = "Grace"
        session.flush()
        session.rollback()
        assert session.get_one(User, 1).name == "Grace"
        assert world.told.take() == {"user", "user:1"}
    world.engine.dispose()


def test_a_transaction_of_somebody_else(world: World) -> None:
    """A session that has joined a connection's transaction tells at its own commit, and again when that has ended."""
    with world.engine.connect() as connection:
        outer = connection.begin()
        make = invalidate_on_commit(sessionmaker(connection, join_transaction_mode="create_savepoint"), world.cache)
        with make() as session:
            session.get_one(User, 1).name = "Grace"
            session.commit()
        assert world.told.take() == {"user", "user:1"}
        outer.commit()
    assert world.told.take() == {"user", "user:1"}
    with world.engine.connect():
        pass
    assert world.told == []


def test_two_phases(postgres: Any) -> None:
    """Told after COMMIT PREPARED."""
    world = World(postgres.url())
    with world.maker(twophase=True)() as session:
        session.get_one(User, 1).name = "Grace"
        session.prepare()
        assert world.told == []
        session.commit()
    assert world.told.take() == {"user", "user:1"}
    world.engine.dispose()


def test_the_caches_transaction_around_it(world: World) -> None:
    """What a commit tells inside ``cache.transaction()`` goes out at that block's end."""
    with world.cache.transaction():
        with world.maker().begin() as session:
            session.get_one(User, 1).name = "Grace"
        assert world.told == []
    assert world.told.take() == {"user", "user:1"}


# -- reads meanwhile --------------------------------------------------------------------------------------------------


def test_the_writer_reads_around_the_cache(world: World) -> None:
    """Between its flush and its end cached functions run for it, and store nothing of what is not committed."""
    with world.maker()() as session:

        @world.cache(tags=["user:{user_id}"])
        def name(user_id: int) -> str:
            return session.get_one(User, user_id).name

        assert (name(1), name.peek(1), name.peek(2)) == ("Ada", "Ada", MISS)
        session.get_one(User, 1).name = "Grace"
        session.flush()
        assert (name(1), name(2)) == ("Grace", "Bob")
        assert (name.peek(1), name.peek(2)) == ("Ada", MISS)
        session.rollback()
        assert (name(1), name.info().hits) == ("Ada", 1)
        session.get_one(User, 1).name = "Grace"
        session.commit()
        assert (name(1), name.peek(1), world.cache.off) == ("Grace", "Grace", 0)


def test_a_savepoint_that_is_rolled_back_gives_the_cache_back(world: World) -> None:
    """Nothing of this transaction is uncommitted any more."""
    with world.maker().begin() as session:
        with pytest.raises(LookupError), session.begin_nested():
            session.get_one(User, 1).name = "Grace"
            session.flush()
            assert world.cache.is_disabled()
            raise LookupError
        assert (world.cache.is_disabled(), world.cache.off) == (False, 0)
        session.get_one(User, 2).name = "Bill"
        session.flush()
        assert world.cache.is_disabled()
    assert (world.told.take(), world.cache.off) == ({"user", "user:2"}, 0)


def test_a_session_that_is_dropped_gives_the_cache_back(world: World) -> None:
    """Nobody closes it: the cache is not off for ever."""
    session = world.maker()()
    session.get_one(User, 1).name = "Grace"
    session.flush()
    assert world.cache.is_disabled()
    connection = session.connection()
    del session
    connection.close()
    gc.collect()
    assert (world.cache.off, world.cache.is_disabled()) == (0, False)


def test_a_reader_between_the_write_and_the_commit(world: World, server: Any) -> None:
    """He fills the cache with the old row, which is the committed one; the invalidation comes after, so it is void.
    One sent at the flush would have left it there.
    """
    with Cache(url_of(server) + "?deadline=5s", prefix=own_prefix()) as cache:

        @cache(ttl="1h", tags=["user:{user_id}"])
        def name(user_id: int) -> str:
            with Session(world.engine) as session:
                return session.get_one(User, user_id).name

        make = invalidate_on_commit(sessionmaker(world.engine), cache)
        if path := world.engine.url.database if world.engine.dialect.name == "sqlite" else None:
            with closing(sqlite3.connect(path)) as connection:  # else a reader waits for the writer's commit
                connection.execute("PRAGMA journal_mode=WAL")
        with make() as session:
            session.get_one(User, 1).name = "Grace"
            session.flush()
            assert Outcome(name, 1).result() == "Ada"
            assert name.peek(1) == "Ada"
            session.commit()
        assert name.peek(1) is MISS
        assert Outcome(name, 1).result() == "Grace"


def test_a_fill_that_is_under_way_at_the_commit(postgres: Any, server: Any) -> None:
    """A reader who has read the old row, and stores it only after the invalidation, stores nothing."""
    world = World(postgres.url())
    with Cache(url_of(server) + "?deadline=5s", prefix=own_prefix()) as cache:
        has_read, go_on = threading.Event(), threading.Event()

        @cache(ttl="1h", tags=["user:{user_id}"])
        def name(user_id: int) -> str:
            with Session(world.engine) as session:
                found = session.get_one(User, user_id).name
            has_read.set()
            assert go_on.wait(20)
            return found

        reader = Outcome(name, 1)
        assert has_read.wait(20)
        with invalidate_on_commit(sessionmaker(world.engine), cache).begin() as session:
            session.get_one(User, 1).name = "Grace"
        go_on.set()
        assert reader.result() == "Ada"
        assert name.peek(1) is MISS
        assert name(1) == "Grace"
    world.engine.dispose()
