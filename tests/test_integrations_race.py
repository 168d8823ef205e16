"""Writers and readers of one PostgreSQL row, side by side: no read begun after an acknowledged commit sees less."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from support.database import Team, World
from support.targets import own_prefix, url_of
from support.threads import Outcome, eventually

from cachekit import MISS, Cache
from cachekit.integrations.sqlalchemy import invalidate_on_commit

READERS, WRITES = 4, 60


class Race:
    """One row that counts up, readers that ask the cache for it without end, and what they saw that was too old."""

    def __init__(self, url: str, servers: str) -> None:
        self.world = World(url)
        self.cache = Cache(servers + "?deadline=5s", prefix=own_prefix())
        self.acknowledged = 0
        self.violations: list[tuple[int, int]] = []
        self.reads = 0
        self._over = threading.Event()
        engine = self.world.engine

        @self.cache(ttl="1h", tags=["team:{team_id}"])
        def number(team_id: int) -> int:
            with engine.connect() as connection:
                found = connection.execute(text("SELECT name FROM team WHERE id = :id"), {"id": team_id}).scalar_one()
                return int(found)

        self.number = number
        with Session(engine) as session, session.begin():
            session.get_one(Team, 1).name = "0"

    def run(self, write: Callable[[int], None]) -> None:
        """Count up, one write after the other, while the readers read."""
        readers = [Outcome(self._read) for _ in range(READERS)]
        try:
            for n in range(1, WRITES + 1):
                before = self.reads
                write(n)
                self.acknowledged = n
                assert eventually(lambda: self.reads > before)  # noqa: B023 - called at once
        finally:
            self._over.set()
            for reader in readers:
                reader.result()

    def _read(self) -> None:
        while not self._over.is_set():
            floor = self.acknowledged
            seen = self.number(1)
            self.reads += 1
            if seen < floor:
                self.violations.append((floor, seen))


@pytest.fixture(name="race")
def race_fixture(postgres: Any, servers3: Any) -> Iterator[Race]:
    """A race on a real database and three real servers."""
    race = Race(postgres.url(), url_of(*servers3))
    yield race
    race.cache.close()
    race.world.engine.dispose()


def test_invalidated_after_the_commit_nobody_sees_less(race: Race) -> None:
    """Whatever readers store in the meantime is void when the writer goes on."""
    make = invalidate_on_commit(sessionmaker(race.world.engine), race.cache)

    def write(n: int) -> None:
        with make.begin() as session:
            session.get_one(Team, 1).name = str(n)

    race.run(write)
    assert race.reads >= WRITES
    assert race.violations == []
    assert race.number(1) == WRITES


def test_a_transaction_around_it_holds_the_same(race: Race) -> None:
    """By ``invalidates`` and ``cache.transaction()``, without the integration."""

    @race.cache.invalidates(tags=["team:{team_id}"])
    def rename(connection: Any, team_id: int, to: str) -> None:
        connection.execute(text("UPDATE team SET name = :to WHERE id = :id"), {"id": team_id, "to": to})

    def write(n: int) -> None:
        with race.cache.transaction() as block, race.world.engine.begin() as connection:
            rename(connection, 1, str(n))
        assert block.acknowledged is True

    race.run(write)
    assert race.violations == []
    assert race.number(1) == WRITES


def test_invalidated_before_the_commit_they_do(race: Race) -> None:
    """The twin that is broken on purpose: it shows that the two above can fail."""

    def write(n: int) -> None:
        with race.world.engine.begin() as connection:
            connection.execute(text("UPDATE team SET name = :to WHERE id = 1"), {"to": str(n)})
            race.cache.invalidate_tags("team:1")
            eventually(lambda: race.number.peek(1) is not MISS, 5.0)

    race.run(write)
    assert race.violations != []
