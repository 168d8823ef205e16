"""A near tier on a watched ring: what others change is gone long before ``near.ttl``, and nothing else is watched."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from support.apart import as_another_process
from support.ears import Ear, listening, watch_of
from support.memcached import Memcached
from support.targets import own_prefix, url_of
from support.threads import eventually
from support.watching import mortal_fixture, needs_fork, short_pauses_fixture, threads

from cachekit import Cache, Near

__all__ = ["mortal_fixture", "short_pauses_fixture"]

LONG = Near(ttl="1h")
"""An entry that is gone sooner was heard of."""

runs = itertools.count(1)


def watched(*servers: Memcached, prefix: str, options: str = "&watch=yes") -> Cache:
    """A cache as one of several processes has it: with a near tier of its own."""
    return as_another_process(Cache(f"{url_of(*servers)}?deadline=5s{options}", prefix=prefix))


def reporting(cache: Cache, **options: Any) -> Any:
    """A function whose every run gives another result."""

    @cache(ttl="1h", tags=["report:{n}"], **{"near": LONG, **options})
    def report(n: int) -> int:
        return next(runs)

    return report


def kept(report: Any, n: int) -> int:
    """The result for ``n``, once it comes out of the near tier."""
    found: list[int] = []

    def is_near() -> bool:
        before = report.info().near
        found.append(report(n))
        return bool(report.info().near > before)

    assert eventually(is_near)
    return found[-1]


CHANGES: dict[str, Callable[[Cache, Any], object]] = {
    "invalidate": lambda cache, report: report.invalidate(1),
    "invalidate_all": lambda cache, report: report.invalidate_all(),
    "invalidate_tags": lambda cache, report: cache.invalidate_tags("report:1"),
    "expire": lambda cache, report: report.expire(1),
    "expire_all": lambda cache, report: report.expire_all(),
    "expire_tags": lambda cache, report: cache.expire_tags("report:1"),
    "refresh": lambda cache, report: report.refresh(1),
    "delete": lambda cache, report: cache.delete(report.key(1)),
    "delete_many": lambda cache, report: cache.delete_many([report.key(1)]),
    "flush_all": lambda cache, report: None,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_others_change_is_gone(mortal: Memcached, change: str) -> None:
    """Whatever another cache does to an entry, or to what it stands under, ends it here in milliseconds."""
    prefix = own_prefix()
    with watched(mortal, prefix=prefix) as here, watched(mortal, prefix=prefix) as there:
        report, others = reporting(here), reporting(there, near=None)
        old = kept(report, 1)
        assert others(1) == old
        CHANGES[change](there, others)
        if change == "flush_all":
            mortal.flush()
        assert eventually(lambda: report(1) != old)


def test_what_others_change_stays_without_watch(mortal: Memcached) -> None:
    """The control: with near.ttl alone, the entry is served on, and no thread is there."""
    prefix = own_prefix()
    with (
        watched(mortal, prefix=prefix, options="") as here,
        watched(mortal, prefix=prefix, options="") as there,
    ):
        report, others = reporting(here), reporting(there)
        old = kept(report, 1)
        assert others.invalidate(1) is True
        assert not threads()
        assert [report(1) for _ in range(100)] == [old] * 100


def test_another_process(mortal: Memcached) -> None:
    """It needs no more than the address and the key."""
    prefix = own_prefix()
    with watched(mortal, prefix=prefix) as cache:
        report = reporting(cache)
        old = kept(report, 1)
        program = (
            "from cachekit import Cache, Key\n"
            f"cache = Cache({url_of(mortal) + '?deadline=5s&watch=yes'!r}, prefix={prefix!r})\n"
            f"assert cache.delete(Key({str(report.key(1))!r}))\n"
        )
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
        assert eventually(lambda: report(1) != old)


def test_an_async_function(mortal: Memcached) -> None:
    """The near tier of a coroutine function hears of the same."""
    prefix = own_prefix()

    async def main() -> None:
        async with watched(mortal, prefix=prefix) as here, watched(mortal, prefix=prefix) as there:

            @here(ttl="1h", near=LONG, key="n={n}", namespace="shared")
            async def report(n: int) -> int:
                return next(runs)

            results = [await report(1)]
            deleted = False
            async with asyncio.timeout(20):
                while results[-1] == results[0]:
                    await asyncio.sleep(0.005)
                    results.append(await report(1))
                    if report.info().near and not deleted:
                        deleted = await there.aio.delete(report.key(1))
            assert deleted

    asyncio.run(main())


def test_a_restarted_server(mortal: Memcached) -> None:
    """What was kept of a server that went is not served once that is known, whatever its ttl."""
    with watched(mortal, prefix=own_prefix()) as cache:
        report = reporting(cache)
        old = kept(report, 1)
        mortal.restart()
        assert eventually(lambda: report(1) != old)
        again = kept(report, 1)
        assert report(1) == again


def test_only_the_server_that_went(servers3: tuple[Memcached, ...], mortal: Memcached) -> None:
    """The others' entries stay."""
    ring, ear = (*servers3[:2], mortal), Ear()
    with watched(*ring, prefix=own_prefix()) as cache, listening(watch_of(ear, *ring)):
        report = reporting(cache)
        old = {n: report(n) for n in range(30)}
        for number, server in enumerate(ring):  # behind the lines of these fills, which drop what was filled
            server.ask(b"ms end:%d 1\r\nx\r\n" % number)
            assert ear.hears(b"end:%d" % number)
        old = {n: kept(report, n) for n in old}
        gone = {n for n in old if cache.server_of(report.key(n)) == mortal.name}
        assert 0 < len(gone) < 30
        mortal.restart()
        assert eventually(lambda: all(report(n) != old[n] for n in gone))
        near = report.info().near
        assert {n: report(n) for n in old if n not in gone} == {n: old[n] for n in old if n not in gone}
        assert report.info().near == near + 30 - len(gone)


def test_one_thread_a_server_however_many_caches(servers3: tuple[Memcached, ...]) -> None:
    """Caches and functions share the streams, and the last one to close ends them."""
    caches = [watched(*servers3, prefix=own_prefix()) for _ in range(3)]
    for cache in caches:
        kept(reporting(cache), 1)
        kept(reporting(cache, near=Near(ttl="2h")), 1)
    assert len(threads()) == 3
    for cache in caches[:-1]:
        cache.close()
    assert len(threads()) == 3
    caches[-1].close()
    assert eventually(lambda: not threads())


def test_closed_and_used_again(mortal: Memcached) -> None:
    """What was kept before is not served while nobody listens; a later use begins anew."""
    prefix = own_prefix()
    with watched(mortal, prefix=prefix) as here, watched(mortal, prefix=prefix) as there:
        report, others = reporting(here), reporting(there, near=None)
        old = kept(report, 1)
        here.close()
        assert eventually(lambda: not threads())
        others.invalidate(1)
        assert report(1) != old
        newer = kept(report, 1)
        others.invalidate(1)
        assert eventually(lambda: report(1) != newer)


def test_watched_only_where_something_is_kept(mortal: Memcached) -> None:
    """Without near= there is nothing to drop, and nobody takes a place."""
    with watched(mortal, prefix=own_prefix()) as cache:
        report = reporting(cache, near=None)
        assert report(1) == report(1)
        assert cache.set("k", 1)
        assert not threads()
        assert mortal.stats()["log_watchers"] == "0"


def test_the_embedded_server_is_not_watched() -> None:
    """Nobody else can change what is in this process."""
    with Cache("memory:?watch=yes") as cache:
        report = reporting(cache)
        old = kept(report, 1)
        assert not threads()
        assert report.invalidate(1) is True
        assert report(1) != old


def test_a_full_server_costs_no_caller_anything(mortal: Memcached, caplog: pytest.LogCaptureFixture) -> None:
    """With twenty watchers there already, near values are kept and served, for their ttl."""
    others = [mortal.connect() for _ in range(20)]
    for other in others:
        other.sendall(b"watch evictions\r\n")
        assert other.recv(100) == b"OK\r\n"
    with watched(mortal, prefix=own_prefix()) as cache:
        report = reporting(cache)
        old = kept(report, 1)
        assert eventually(lambda: "WATCHER_TOO_MANY" in caplog.text)
        assert [report(1) for _ in range(10)] == [old] * 10
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    for other in others:
        other.close()


@needs_fork
def test_a_forked_child_hears_for_itself(mortal: Memcached) -> None:
    """Parent and child each have near values, and each hears of what the other changes."""
    with watched(mortal, prefix=own_prefix()) as cache:
        report = reporting(cache)
        old = kept(report, 1)
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                mine = kept(report, 1)
                os.write(tell, b"k")
                seen = eventually(lambda: report(1) != mine)
                assert report.invalidate(2)
                os.write(tell, b"1" if seen and mine == old and len(threads()) == 1 else b"0")
            finally:
                os._exit(0)
        os.close(tell)
        other = kept(report, 2)
        assert os.read(told, 1) == b"k"
        assert report.invalidate(1)
        assert os.read(told, 1) == b"1"
        os.waitpid(child, 0)
        os.close(told)
        assert eventually(lambda: report(2) != other)
