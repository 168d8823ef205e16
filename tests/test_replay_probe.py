"""The probe that finds a server up again: what was kept near of it is from before, and is dropped at once."""

from __future__ import annotations

import asyncio

import pytest
from support.memcached import Memcached
from support.outage import mortal_fixture
from support.targets import url_of
from support.threads import eventually

from cachekit import Cache

__all__ = ["mortal_fixture"]


def up(cache: Cache) -> bool:
    """Whether its server is."""
    return all(cache.stats().servers.values())


def down(cache: Cache) -> bool:
    """Whether its server is; and a request that may find that out."""
    cache.get("another")
    return not up(cache)


def test_near_values_end_with_an_outage(mortal: Memcached) -> None:
    """No call has connected since; the server lost all that it had, and so has the near tier."""
    version = 1
    with Cache(f"{url_of(mortal)}?deadline=500ms") as cache:

        @cache(ttl="1h", near="1h")
        def function(n: int) -> int:
            return version

        assert [function(1), function(1)] == [1, 1]
        assert function.info().near == 1
        version = 2
        mortal.kill()
        assert eventually(lambda: down(cache))
        assert function(1) == 1
        mortal.restart()
        assert eventually(lambda: up(cache))
        assert function(1) == 2


def test_near_values_of_an_event_loop_end_with_an_outage(mortal: Memcached) -> None:
    """The probe is a thread; what it finds holds for loops too."""
    version = 1
    cache = Cache(f"{url_of(mortal)}?deadline=500ms")

    @cache(ttl="1h", near="1h")
    async def function(n: int) -> int:
        return version

    async def is_down() -> bool:
        await cache.aio.get("another")
        return not up(cache)

    async def main() -> None:
        nonlocal version
        assert [await function(1), await function(1)] == [1, 1]
        version = 2
        await asyncio.to_thread(mortal.kill)
        for _ in range(9):
            if await is_down():
                break
        assert not up(cache)
        assert await function(1) == 1
        await asyncio.to_thread(mortal.restart)
        assert await asyncio.to_thread(eventually, lambda: up(cache))
        assert await function(1) == 2
        await cache.aclose()

    asyncio.run(main())


def test_a_probe_learns_the_version(mortal: Memcached, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server can may have changed with its restart; whoever connects next asks once more all the same."""
    with Cache(url_of(mortal)) as cache:
        fleet = cache._fleet
        cache.get("k")
        learnt: list[int] = []
        monkeypatch.setattr(fleet, "on_reconnect", learnt.append)
        known = set(fleet.explicit)
        fleet.explicit.symmetric_difference_update({0})
        fleet.try_server(0)
        assert (learnt, fleet.explicit) == ([0], known)
        assert fleet.versions_known == set()
