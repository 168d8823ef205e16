"""A database with a team of two users, on SQLite and on PostgreSQL, and a cache that hears of what changes in it.

A test module takes the fixtures ``url`` and ``world`` by importing their functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, ForeignKey, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, sessionmaker

from cachekit import Cache
from cachekit.integrations.sqlalchemy import invalidate_on_commit
from cachekit.testing import make_cache


class Base(DeclarativeBase):
    """The tables of these tests."""


class Team(Base):
    """Has users, and badges that go with it."""

    __tablename__ = "team"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    badges: Mapped[list[Badge]] = relationship(cascade="all, delete-orphan")


class Badge(Base):
    """Has no way back to its team."""

    __tablename__ = "badge"
    team_id: Mapped[int] = mapped_column(ForeignKey("team.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)


class User(Base):
    """Belongs to a team."""

    __tablename__ = "user"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    team_id: Mapped[int | None] = mapped_column(ForeignKey("team.id"))
    team: Mapped[Team | None] = relationship()
    kind: Mapped[str] = mapped_column(default="user")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "user"}  # noqa: RUF012

    @property
    def label(self) -> str:
        """Worked out from two columns."""
        return f"{self.name}@{self.team_id}"

    def tagged(self, what: str) -> str:
        """A method that a mapping may call."""
        return f"{what}:{self.team_id}"


class Admin(User):
    """Has a table of its own beside that of users."""

    __tablename__ = "admin"
    id: Mapped[int] = mapped_column(ForeignKey("user.id"), primary_key=True)
    scope: Mapped[str] = mapped_column(default="all")
    __mapper_args__ = {"polymorphic_identity": "admin"}  # noqa: RUF012


class Told(list[str]):
    """The tags that a cache has been told of."""

    def __init__(self, cache: Cache) -> None:
        super().__init__()
        cache.hooks.on_invalidate(lambda told: self.append(told.name))

    def take(self) -> set[str]:
        """What was told since the last time."""
        tags = set(self)
        self.clear()
        return tags


class World:
    """A database with a team of two users, and a cache that hears of it."""

    def __init__(self, url: str, **options: Any) -> None:
        self.engine = create_engine(url, **options)
        Base.metadata.drop_all(self.engine)
        Base.metadata.create_all(self.engine)
        with Session(self.engine) as session, session.begin():
            session.add_all([Team(name="red", badges=[Badge(kind="star")]), Team(name="blue")])
            session.flush()
            session.add_all([User(name="Ada", team_id=1), User(name="Bob", team_id=1)])
        self.cache = make_cache()
        self.told = Told(self.cache)

    def maker(self, **options: Any) -> sessionmaker[Session]:
        """Sessions that tell the cache. ``tags``, ``bulk``: the integration's."""
        own = {name: options.pop(name) for name in ("tags", "bulk") if name in options}
        return invalidate_on_commit(sessionmaker(self.engine, **options), self.cache, **own)


@pytest.fixture(name="url", params=["sqlite", "postgresql"])
def url_fixture(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    found: str = request.getfixturevalue("postgres").url()
    return found


@pytest.fixture(name="world")
def world_fixture(url: str) -> Iterator[World]:
    """A world on each kind of database."""
    world = World(url)
    if url.startswith("sqlite"):
        begin_by_ourselves(world.engine)
    yield world
    world.engine.dispose()


def begin_by_ourselves(engine: Engine) -> None:
    """Savepoints of SQLite need this before Python 3.12; as SQLAlchemy's documentation has it."""

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    engine.dispose()


def team_of(row: Any) -> list[str] | None:
    """The members of a team are cached by the team."""
    return [f"members:{row.team_id}"] if isinstance(row, User) else None
