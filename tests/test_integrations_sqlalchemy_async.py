"""``invalidate_on_commit`` in event loops: AsyncSession, with aiosqlite and with psycopg."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session
from support.aio import Run, on_both_loops
from support.database import Team, Told, User, World, begin_by_ourselves, url_fixture, world_fixture
from support.gathers import no_blocking
from support.targets import own_prefix, url_of

from cachekit import MISS, Cache
from cachekit.integrations.sqlalchemy import invalidate_on_commit

__all__ = ["url_fixture", "world_fixture"]


@asynccontextmanager
async def engine_of(world: World) -> AsyncIterator[AsyncEngine]:
    """The world's database, asynchronous."""
    url = world.engine.url
    engine = create_async_engine(url.set(drivername="sqlite+aiosqlite") if url.drivername == "sqlite" else url)
    if url.drivername == "sqlite":
        begin_by_ourselves(engine.sync_engine)
    try:
        yield engine
    finally:
        await engine.dispose()


@on_both_loops
def test_an_async_session_tells_after_its_commit(world: World, server: Any, run: Run[None]) -> None:
    """Rows, statements and savepoints as ever; the invalidation is awaited and blocks no loop."""

    async def main() -> None:
        async with engine_of(world) as engine, Cache(url_of(server) + "?deadline=5s", prefix=own_prefix()) as cache:
            told = Told(cache)

            @cache(tags=["user:{user_id}"])
            async def name(user_id: int) -> str:
                async with AsyncSession(engine) as session:
                    return (await session.get_one(User, user_id)).name

            make = async_sessionmaker(engine)
            assert invalidate_on_commit(make, cache) is make
            no_blocking(cache)
            assert await name(1) == "Ada"
            async with make() as session:
                (await session.get_one(User, 1)).name = "Grace"
                await session.flush()
                async with session.begin_nested():
                    await session.execute(update(Team).values(name="pink"))
                with pytest.raises(LookupError):
                    async with session.begin_nested():
                        (await session.get_one(User, 2)).name = "Bill"
                        await session.flush()
                        raise LookupError
                assert await name.peek(1) == "Ada"
                assert told == []
                await session.commit()
            assert told.take() == {"user", "user:1", "team"}
            assert await name.peek(1) is MISS
            assert await name(1) == "Grace"
            async with make() as session:
                (await session.get_one(User, 1)).name = "Ada"
                await session.flush()
                assert cache.is_disabled()
                await session.rollback()
                assert not cache.is_disabled()
            assert told == []

    run(main())


@pytest.mark.parametrize("kind", ["session", "scoped", "class"])
def test_other_async_targets(world: World, kind: str) -> None:
    """A session, a registry, and the class of sync sessions that a class of async ones has."""

    class Own(Session):
        """What ``OwnAsync`` works on."""

    class OwnAsync(AsyncSession):
        """A class of the test's own."""

        sync_session_class = Own

    async def main() -> None:
        async with engine_of(world) as engine:
            maker: Any = async_sessionmaker(engine, class_=OwnAsync)
            scoped = async_scoped_session(maker, scopefunc=asyncio.current_task)
            targets: dict[str, Callable[[], Any]] = {
                "session": maker,
                "scoped": lambda: scoped,
                "class": lambda: Own,
            }
            target = invalidate_on_commit(targets[kind](), world.cache)
            async with target if kind == "session" else maker() if kind == "class" else target() as session:
                (await session.get_one(User, 1)).name = "Grace"
                await session.commit()
            await scoped.remove()
            assert world.told.take() == {"user", "user:1"}
            async with AsyncSession(engine) as session:
                (await session.get_one(User, 1)).name = "Ada"
                await session.commit()
            assert world.told == []
            await world.cache.aclose()

    asyncio.run(main())


def test_a_cancelled_commit_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task is cancelled while it waits for the answer to COMMIT: nobody knows, so it is void."""

    async def main() -> None:
        async with engine_of(world) as engine:
            make = invalidate_on_commit(async_sessionmaker(engine), world.cache)
            commit = engine.sync_engine.dialect.do_commit

            def cancelled(connection: Any) -> None:
                commit(connection)
                raise asyncio.CancelledError

            async with make() as session:
                (await session.get_one(User, 1)).name = "Grace"
                await session.flush()
                monkeypatch.setattr(engine.sync_engine.dialect, "do_commit", cancelled)
                with pytest.raises(asyncio.CancelledError):
                    await session.commit()
                monkeypatch.undo()
            assert world.told.take() == {"user", "user:1"}
            await world.cache.aclose()

    asyncio.run(main())


def test_sessions_side_by_side_are_apart(world: World) -> None:
    """One task's flush does not switch the cache off for another."""

    async def main() -> None:
        async with engine_of(world) as engine:
            make = invalidate_on_commit(async_sessionmaker(engine), world.cache)
            flushed, looked = asyncio.Event(), asyncio.Event()

            async def writer() -> None:
                async with make() as session:
                    (await session.get_one(User, 1)).name = "Grace"
                    await session.flush()
                    assert world.cache.is_disabled()
                    flushed.set()
                    await looked.wait()
                    await session.rollback()

            async def reader() -> None:
                await flushed.wait()
                assert not world.cache.is_disabled()
                looked.set()

            await asyncio.gather(writer(), reader())
            assert (world.told, world.cache.off) == ([], 0)
            await world.cache.aclose()

    asyncio.run(main())
