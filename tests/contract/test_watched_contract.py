"""On a ring with ``watch=yes`` invalidations mean the same, and every process that watches the servers sees each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.ears import Ear, listening, watch_of
from support.shells import Shell
from support.targets import own_prefix

from cachekit import Cache


@pytest.fixture(name="cache")
def cache_fixture(target: str, shell: Shell) -> Iterator[Cache]:
    """A cache on a watched ring, with a long deadline, since test machines are slow now and then."""
    cache = shell.around(Cache(f"{target}?deadline=5s&watch=yes", prefix=own_prefix()))
    yield cache
    cache.close()


@pytest.fixture(name="ear")
def ear_fixture(target: str, cache: Cache) -> Iterator[Ear | None]:
    """Who watches the servers as another process would; None where the server is this process's own."""
    if target == "memory:":
        yield None
        return
    ear = Ear()
    with listening(watch_of(ear, url=target, prefix=cache.prefix.encode())):
        yield ear


def counted(cache: Cache, **options: Any) -> tuple[Any, list[int]]:
    """A cached function, and the list of its runs."""
    runs: list[int] = []

    @cache(ttl="5m", **options)
    def report(n: int) -> int:
        runs.append(n)
        return len(runs)

    return report, runs


def seen(ear: Ear | None, key: str) -> bool:
    """Whether others have seen that ``key`` was touched; it is forgotten again."""
    if ear is None:
        return True
    found = ear.hears(key.encode())
    ear.keys.clear()
    return found


def test_invalidate(cache: Cache, ear: Ear | None) -> None:
    """True, also where nothing is stored, and the next call runs the function; others see it both times."""
    report, runs = counted(cache)
    assert (report(1), report(1)) == (1, 1)
    assert seen(ear, report.key(1))
    for _ in range(2):
        assert report.invalidate(1) is True
        assert seen(ear, report.key(1))
    assert report(1) == 2
    assert runs == [1, 1]


def test_an_invalidation_during_the_run(cache: Cache) -> None:
    """What ran meanwhile is not stored."""
    runs: list[int] = []

    @cache(ttl="5m")
    def report(n: int) -> int:
        runs.append(n)
        if len(runs) == 1:
            assert report.invalidate(n) is True
        return len(runs)

    assert [report(1), report(1), report(1)] == [1, 2, 2]
    assert report.info().unstored == 1


def test_expire(cache: Cache, ear: Ear | None) -> None:
    """A soft invalidation keeps the old value for the others, and is shown, which on its own it would not be."""
    report, runs = counted(cache, stale="5m")
    assert report(1) == 1
    assert seen(ear, report.key(1))
    assert report.expire(1) is True
    assert seen(ear, report.key(1))
    assert report.peek(1) == 1
    assert report(1) == 2
    assert runs == [1, 1]
    assert report.expire(2) is True
    assert seen(ear, report.key(2))


def test_every_entry_of_a_function(cache: Cache, ear: Ear | None) -> None:
    """The record behind them is bumped by a tombstone, as often as one likes."""
    report, runs = counted(cache)
    for turn in range(3):
        assert [report(n) for n in range(5)] == [5 * turn + n + 1 for n in range(5)]
        if ear is not None:
            ear.keys.clear()
        assert report.invalidate_all() is True
        assert ear is None or ear.hears_any()
    assert len(runs) == 15


def test_tags(cache: Cache, ear: Ear | None) -> None:
    """A tag's record is seen under the key that entries stand under."""
    for verb in (cache.invalidate_tags, cache.expire_tags):
        assert verb("user:42") is True
        assert seen(ear, f"{cache.prefix}:tag=user:42")


def test_delete(cache: Cache, ear: Ear | None) -> None:
    """True where something was there, False where not; others see it either way."""
    cache.set("k", "v")
    assert seen(ear, f"{cache.prefix}:k")
    assert [cache.delete("k"), cache.delete("k")] == [True, False]
    assert seen(ear, f"{cache.prefix}:k")
    assert cache.get("k") is None
    assert cache.delete("absent") is False
    assert seen(ear, f"{cache.prefix}:absent")


def test_delete_many(cache: Cache, ear: Ear | None) -> None:
    """Nothing is left out of what the servers acknowledged, whether it was there or not."""
    cache.set_many({f"k{n}": n for n in range(20)})
    assert cache.delete_many([f"k{n}" for n in range(30)]) == []
    assert cache.get_many([f"k{n}" for n in range(30)]) == {}
    assert seen(ear, f"{cache.prefix}:k29")
