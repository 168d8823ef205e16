"""``invalidate_on_commit``: what a session has changed is void after its commit, on SQLite and on PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import create_engine, delete, insert, select, update
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from support.database import Admin, Badge, Team, Told, User, World, team_of, url_fixture, world_fixture

from cachekit import ConfigurationError
from cachekit.integrations.sqlalchemy import invalidate_on_commit
from cachekit.testing import make_cache

__all__ = ["url_fixture", "world_fixture"]

# -- what is told -----------------------------------------------------------------------------------------------------


def test_each_row_gives_its_table_and_itself(world: World) -> None:
    """Inserted with a key that the database made, updated, deleted: after the commit, and once."""
    with world.maker()() as session:
        session.add(Team(name="green"))
        session.commit()
        assert world.told.take() == {"team", "team:3"}
        session.get_one(User, 1).name = "Grace"
        session.commit()
        assert world.told.take() == {"user", "user:1"}
        session.delete(session.get_one(User, 2))
        session.flush()
        assert world.told == []
        session.commit()
        assert world.told.take() == {"user", "user:2"}


def test_nothing_changed_nothing_told(world: World) -> None:
    """Reads, and values set to what they are."""
    with world.maker()() as session:
        user = session.get_one(User, 1)
        user.name = "Ada"
        session.commit()
    assert world.told == []


def test_a_rollback_drops_all(world: World) -> None:
    """By the session, by an exception, or since it is closed without a commit."""
    make = world.maker()
    with make() as session:
        session.get_one(User, 1).name = "Grace"
        session.flush()
        session.rollback()
        session.commit()
        session.get_one(User, 1).name = "Grace"
        session.flush()
    with pytest.raises(LookupError), make.begin() as session:
        session.get_one(User, 1).name = "Grace"
        session.flush()
        raise LookupError
    assert world.told == []
    with make.begin() as session:
        session.get_one(User, 2).name = "Bill"
    assert world.told.take() == {"user", "user:2"}


def test_a_savepoint_that_is_rolled_back_drops_its_own(world: World) -> None:
    """What was changed before and after it, and in a savepoint that was released, is told."""
    with world.maker().begin() as session:
        session.get_one(User, 1).name = "Grace"
        session.flush()
        with pytest.raises(LookupError), session.begin_nested():
            session.get_one(User, 2).name = "Bill"
            session.flush()
            with session.begin_nested():
                session.get_one(Team, 2).name = "black"
            raise LookupError
        with session.begin_nested():
            session.get_one(Team, 1).name = "pink"
        assert world.told == []
    assert world.told.take() == {"user", "user:1", "team", "team:1"}


def test_a_commit_ends_open_savepoints(world: World) -> None:
    """They are released with it."""
    with world.maker()() as session:
        session.begin_nested()
        session.get_one(User, 1).name = "Grace"
        session.begin_nested()
        session.get_one(User, 2).name = "Bill"
        session.commit()
    assert world.told.take() == {"user", "user:1", "user:2"}


def test_statements_give_their_tables(world: World) -> None:
    """``update``, ``delete`` and ``insert``, of classes and of tables: nobody knows which rows they concern."""
    with world.maker()() as session:
        session.execute(update(User).where(User.id == 1).values(name="Grace"))
        session.commit()
        assert world.told.take() == {"user"}
        session.execute(delete(Badge.__table__))  # type: ignore[arg-type]
        session.execute(insert(Team), [{"name": "green"}])
        assert world.told == []
        session.commit()
        assert world.told.take() == {"badge", "team"}
        session.query(User).filter_by(id=2).update({"name": "Bill"})
        session.rollback()
        session.execute(select(User))
        session.commit()
    assert world.told == []


def test_orphans_and_composite_keys(world: World) -> None:
    """A row that a flush deletes of its own accord is told as well; a key of two columns has a colon in it."""
    with world.maker().begin() as session:
        team = session.get_one(Team, 1)
        team.badges.clear()
    assert {"badge", "badge:1:star"} <= world.told.take()


def test_a_joined_class_gives_both_its_tables(world: World) -> None:
    """Its row stands in two."""
    make = world.maker()
    with make.begin() as session:
        session.add(Admin(id=7, name="Eve"))
    assert world.told.take() == {"user", "user:7", "admin", "admin:7"}
    with make.begin() as session:
        session.execute(update(Admin).values(scope="none"))
    assert world.told.take() == {"user", "admin"}


# -- a mapping of one's own -------------------------------------------------------------------------------------------


def test_a_mapping_is_asked_for_old_and_new_values(world: World) -> None:
    """A user who changes the team was in one and is in another."""
    with world.maker(tags=team_of).begin() as session:
        session.get_one(User, 1).team_id = 2
    assert world.told.take() == {"members:1", "members:2"}


def test_an_old_value_that_was_never_loaded_is_looked_up(world: World) -> None:
    """Set on an object whose attributes had expired: the session does not know the old one, the database does."""
    with world.maker(tags=team_of)() as session:
        user = session.get_one(User, 1)
        session.commit()
        user.team_id = 2
        session.commit()
        assert world.told.take() == {"members:1", "members:2"}
        session.delete(user)
        session.commit()
    assert world.told.take() == {"members:2"}


def test_a_changed_relationship_counts(world: World) -> None:
    """The column follows it at the flush."""
    with world.maker(tags=team_of)() as session:
        session.get_one(User, 1).team = session.get_one(Team, 2)
        session.commit()
        assert world.told.take() == {"members:1", "members:2"}
        session.get_one(User, 2).team = None
        session.commit()
    assert world.told.take() == {"members:1", "members:None"}


def test_properties_and_methods_of_old_values(world: World) -> None:
    """What is worked out from columns is worked out from the old ones."""

    def tags(row: Any) -> list[str]:
        return [row.label, row.tagged("team"), f"old {row.team.name}"]

    with world.maker(tags=tags).begin() as session:
        user = session.get_one(User, 1)
        user.name, user.team = "Grace", session.get_one(Team, 2)
    assert world.told.take() == {"Ada@1", "Grace@2", "team:1", "team:2", "old red", "old blue"}


def test_a_primary_key_that_changes(world: World) -> None:
    """Both rows are told."""
    with world.maker().begin() as session:
        session.get_one(User, 1).id = 11
    assert world.told.take() == {"user", "user:1", "user:11"}


def test_a_mapping_for_statements(world: World) -> None:
    """``bulk`` says what a statement that changes a table makes void."""
    with world.maker(tags=team_of, bulk=lambda table: f"all of {table.name}").begin() as session:
        session.execute(update(User).values(name="Grace"))
    assert world.told.take() == {"all of user"}


def test_a_mapping_that_raises_stops_the_commit(world: World) -> None:
    """It is a programmer's error: nothing is committed whose invalidation nobody knows."""

    def broken(row: Any) -> list[str]:
        return [""]

    with world.maker(tags=broken)() as session:
        session.get_one(User, 1).name = "Grace"
        with pytest.raises(ConfigurationError, match="empty"):
            session.commit()
        session.rollback()
        assert session.get_one(User, 1).name == "Ada"
    assert world.told == []


# -- what can be watched ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["class", "session", "scoped"])
def test_classes_sessions_and_registries(world: World, kind: str) -> None:
    """A class of sessions, a session, and a scoped_session are watched as a sessionmaker is."""

    class Own(Session):
        """A class of the test's own."""

    maker, one = sessionmaker(world.engine), Own(world.engine)
    targets: dict[str, Any] = {"class": Own, "session": one, "scoped": scoped_session(maker)}
    assert invalidate_on_commit(targets[kind], world.cache) is targets[kind]
    with maker() if kind == "scoped" else one as session:
        session.get_one(User, 1).name = "Grace"
        session.commit()
    assert world.told.take() == {"user", "user:1"}
    with Session(world.engine) as another:
        another.get_one(User, 1).name = "Ada"
        another.commit()
    assert world.told == []


def test_a_session_may_have_begun_already(world: World) -> None:
    """Watched from there on."""
    with Session(world.engine) as session:
        user = session.get_one(User, 1)
        invalidate_on_commit(session, world.cache)
        user.name = "Grace"
        session.commit()
    assert world.told.take() == {"user", "user:1"}


def test_two_caches_hear_of_one_session(world: World) -> None:
    """Each has its own mapping."""
    other = make_cache()
    told = Told(other)
    make = invalidate_on_commit(world.maker(), other, tags=team_of)
    with make.begin() as session:
        session.get_one(User, 1).name = "Grace"
    assert (world.told.take(), told.take()) == ({"user", "user:1"}, {"members:1"})


@pytest.mark.parametrize("target", [3, "session", create_engine("sqlite://"), User, None])
def test_other_targets_are_refused(target: Any) -> None:
    """With what it takes."""
    with pytest.raises(ConfigurationError, match="takes a sessionmaker, a scoped_session"):
        invalidate_on_commit(target, make_cache())


@pytest.mark.parametrize("cache", [None, {}, "memory:", Session])
def test_other_caches_are_refused(cache: Any) -> None:
    """At once, and not at the first commit."""
    with pytest.raises(ConfigurationError, match="takes a Cache of cachekit's second"):
        invalidate_on_commit(sessionmaker(), cache)


@pytest.mark.parametrize("option", ["tags", "bulk"])
def test_mappings_take_what_has_changed(option: str) -> None:
    """At once, and not at the first flush."""
    options: dict[str, Any] = {option: lambda: ["user"]}
    with pytest.raises(ConfigurationError, match=f"{option}= is called with one argument, the (changed object|table),"):
        invalidate_on_commit(sessionmaker(), make_cache(), **options)
    makers, options[option] = sessionmaker(), sorted
    assert invalidate_on_commit(makers, make_cache(), **options) is makers


def test_mappings_are_functions() -> None:
    """A list of tags is none."""
    tags: Any = ["user"]
    with pytest.raises(ConfigurationError, match="tags=.*a function"):
        invalidate_on_commit(sessionmaker(), make_cache(), tags=tags)
