"""The connections of an event loop under pressure, and before real servers that stop, restart and hang up."""

from __future__ import annotations

import asyncio
import random

import pytest
from support.aio import (
    Clock,
    Run,
    clock_fixture,
    listening,
    on_both_loops,
    turns,
    until,
)
from support.aio_fleet import ONCE, connection_of, failure, mortal_fixture, roster_of, strikes, tls_server_fixture
from support.memcached import Memcached
from support.targets import unix_server_fixture

from cachekit import MISS, Cache, DeadlineExceeded
from cachekit.aio.fleet import AsyncFleet
from cachekit.errors import ServerError
from cachekit.ops import Replies

__all__ = ["clock_fixture", "mortal_fixture", "tls_server_fixture", "unix_server_fixture"]


# -- pressure ---------------------------------------------------------------------------------------------------------


@on_both_loops
def test_a_huge_value_that_comes_slowly_does_not_stall_later_callers(run: Run[None], clock: Clock) -> None:
    """They get a new connection once it has taken a deadline, and the server is not blamed."""

    async def main() -> None:
        async with listening() as server:
            fleet = AsyncFleet(roster_of(server.name))
            callers = [asyncio.create_task(fleet.exchange(ONCE)) for _ in range(5)]
            slow = await server.peer(0, b"mn\r\n" * 5)
            connection = connection_of(fleet)
            slow.say(b"VA 1000000\r\n" + b"x" * 1000)
            clock.now += 31
            await until(lambda: connection.heard_at == clock.now)
            connection._deadlines.check()
            assert {await failure(caller) for caller in callers} == {DeadlineExceeded}
            later = asyncio.create_task(fleet.exchange(ONCE))
            (await server.peer(1, b"mn\r\n")).say(b"MN\r\n")
            assert (await later).replies[0].code == "MN"
            assert strikes(fleet) == 0
            slow.say(b"x" * 999_000 + b"\r\n" + b"MN\r\n" * 4)
            await until(lambda: connection.closed and slow.lost)
            assert connection_of(fleet) is not connection
            await fleet.aclose()

    run(main())


@on_both_loops
def test_a_server_that_does_not_read_holds_up_what_it_has_no_room_for(run: Run[None]) -> None:
    """Nothing more is given to the transport; when the server reads again all goes out, and everybody is answered."""

    async def main() -> None:
        async with listening(lambda data: b"MN\r\n" * data.count(b"mn\r\n")) as server:
            fleet = AsyncFleet(roster_of(server.name))
            await fleet.exchange(ONCE)
            peer = await server.peer()
            peer.transport.pause_reading()
            connection = connection_of(fleet)
            large = ONCE._replace(request=b"x" * 20_000_000 + b"mn\r\n")
            callers = [asyncio.create_task(fleet.exchange(large))]
            await until(lambda: connection._held)
            callers += [asyncio.create_task(fleet.exchange(ONCE)) for _ in range(100)]
            await turns(10)
            assert len(connection._queue) == 100
            callers[50].cancel()
            peer.transport.resume_reading()
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
            assert sum(isinstance(outcome, Replies) for outcome in outcomes) == 100
            assert len(server.peers) == 1
            await fleet.aclose()

    run(main())


@on_both_loops
def test_cancelled_at_random_points(run: Run[None], server: Memcached) -> None:
    """Whoever is not cancelled gets the value of his own key, over one connection that nobody has to close."""

    async def main() -> None:
        rng = random.Random(7)
        cache = Cache(f"memcached://{server.name}?deadline=20s", prefix=f"cancel{id(run)}", on_error="raise")

        @cache(ttl=60)
        async def square(n: int) -> int:
            return n * n

        await cache.aio.set_many({f"k{n}": n for n in range(50)})
        line = cache._loops.here().lines[0]

        async def one(n: int) -> None:
            assert await cache.aio.get(f"k{n}") == n
            assert await cache.aio.gets(f"k{n}", MISS) != (MISS, None)
            assert await square(n) == n * n

        finished = 0
        for _ in range(60):
            tasks = [asyncio.create_task(one(rng.randrange(50))) for _ in range(30)]
            for _ in range(4):
                await turns(rng.randrange(4))
                rng.choice(tasks).cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            wrong = [error for error in outcomes if not isinstance(error, asyncio.CancelledError | None)]
            assert wrong == []
            finished += outcomes.count(None)
        assert finished > 1000
        assert cache._loops.here().lines[0] is line
        await cache.aclose()

    run(main())


# -- the real thing ---------------------------------------------------------------------------------------------------


async def every_size(cache: Cache) -> bool:
    """Whether values of all sizes, read and written by many tasks at once, come back without one error."""
    values = {f"k{n}": bytes([n]) * size for n, size in enumerate([0, 1, 1000, 70_000, 300_000, 900_000])}

    async def one(key: str) -> None:
        assert await cache.aio.set(key, values[key])
        assert await cache.aio.get(key) == values[key]

    await asyncio.gather(*(one(key) for key in list(values) * 4))
    assert await cache.aio.get_many(values) == values
    assert await cache.aio.set_many(values) == []
    many = {f"m{n}": n for n in range(2000)}
    assert await cache.aio.set_many(many) == []
    assert await asyncio.gather(*(cache.aio.get(key) for key in many)) == list(many.values())
    return cache.stats().direct.errors == 0


@on_both_loops
def test_over_tls(run: Run[None], tls_server: tuple[Memcached, str]) -> None:
    """Everything works over TLS with our own authority; a certificate that nobody vouches for is trouble."""
    server, ca = tls_server

    async def main() -> None:
        async with Cache(f"memcached+tls://{server.name}?ca={ca}&deadline=10s", prefix="p") as cache:
            assert await every_size(cache)
        async with Cache(f"memcached+tls://{server.name}?deadline=10s", on_error="raise") as cache:
            with pytest.raises(ServerError, match="TLS"):
                await cache.aio.get("k")
            cache._fleet.stop_probing()

    run(main())


@on_both_loops
def test_a_lost_tls_connection_is_opened_again(run: Run[None], tls_server: tuple[Memcached, str]) -> None:
    """After a restart the next call goes over a new one."""
    server, ca = tls_server

    async def main() -> None:
        async with Cache(f"memcached+tls://{server.name}?ca={ca}&deadline=10s", prefix="p", on_error="raise") as cache:
            assert await cache.aio.set("k", 1)
            server.restart()
            assert await cache.aio.get("k", MISS) is MISS
            assert await cache.aio.set("k", 2)
            assert await cache.aio.get("k") == 2

    run(main())


@on_both_loops
def test_over_a_unix_socket(run: Run[None], unix_server: Memcached) -> None:
    """Everything works there too."""

    async def main() -> None:
        async with Cache(f"unix://{unix_server.path}?deadline=10s", prefix="p") as cache:
            assert await every_size(cache)

    run(main())


@on_both_loops
def test_over_tcp(run: Run[None], server: Memcached) -> None:
    """And over TCP."""

    async def main() -> None:
        async with Cache(f"memcached://{server.name}?deadline=10s", prefix=f"aio{id(run)}") as cache:
            assert await every_size(cache)

    run(main())
