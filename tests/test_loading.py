"""What a cache loads, and when: all that it may need at its first use, so that no child of a fork has to import."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.memcached import start_memcached

if not hasattr(os, "fork"):
    pytest.skip("no fork here", allow_module_level=True)

BEGIN = """
import os, sys, time
from cachekit import Cache, Policy, current
cache = Cache(URL + OPTIONS, prefix="loading")

def ask(what):
    print(what, flush=True)
    input()

def until(true):
    ends = time.monotonic() + 20
    while not true():
        assert time.monotonic() < ends, "it takes too long"
        time.sleep(0.01)

def report_new(before):
    print("loaded", *sorted(set(sys.modules) - before), flush=True)
"""

SYNC = """
@cache(ttl=600)
def first(n):
    return n

@cache(ttl=600, tags=["tag:{n}"], namespace="space")
def report(n):
    current().tag("named")
    return {"n": n, "inside": first(n)}

@cache(ttl=600, policy=Policy(errors=(LookupError,)))
def failing(n):
    raise (LookupError if n else ValueError)("no")

@cache(ttl=0.001, stale=600, refresh="background")
def old(n):
    return n

@cache(ttl=0)
def never(n):
    return first(n)

class Shop:
    @cache(ttl=600, ignore=["self"])
    def price(self, n):
        return n

def raised(call, *args):
    try:
        call(*args)
    except (LookupError, ValueError):
        pass

def calls():
    for n in 1, 2, 2:
        report(n), never(n), Shop().price(n), old(n)
        raised(failing, 0), raised(failing, 1)
    time.sleep(0.005)
    old(2), report.refresh(1), report.peek(1), report.explain(1)
    report.many([report.bind(1), report.bind(3)])
    report.expire(1), report(1), report.invalidate(1), report(1), Shop().price.invalidate(1)
    report.expire_all(), report(1), report.invalidate_all(), report(1)
    cache.expire_tags("tag:1"), report(1), cache.invalidate_tags("tag:1"), report(1)
    cache.expire_namespace("space"), report(1), cache.invalidate_namespace("space"), report(1)
    cache.set("a", 1), cache.get("a"), cache.gets("a"), cache.touch("a"), cache.incr("n", initial=1), cache.delete("a")
    cache.set_many({"a": [1]}), cache.get_many(["a", "b"]), cache.delete_many(["a"]), cache.get_or_set("c", lambda: 1)
    cache.stats(), report.info()
    with cache.disabled():
        report(1)

first(1)  # the warm-up
before = set(sys.modules)
calls()
"""

SYNC_OPTIONS = """
from cachekit import Near

@cache(ttl=600)
def first(n):
    return n

@cache.batch(ttl=600)
def loader(ids):
    return {each: first(each) for each in ids}

@cache(ttl=600, near=Near(ttl=0.001))
def near(n):
    return n

@cache(ttl=600, codec="json")
def readable(n):
    return [n]

@cache.invalidates(near)
def writer(n):
    return n

def calls():
    loader([1, 2]), loader([2, 3]), loader.refresh([1]), loader.peek([1]), loader.explain(1)
    loader.expire([1]), loader([1]), loader.invalidate([1]), loader([1]), loader.invalidate_all()
    near(1), near(1), near(1.5), near.invalidate(1), near(1), writer(1), near(1)
    time.sleep(0.005)
    near(1), near.refresh(1), near.expire(1), near(1), near.invalidate_all()
    readable(1), readable(1), readable.invalidate(1)
    with cache.transaction():
        near.invalidate(1), near(1)

with cache.transaction():
    first(1), loader([1]), near(1), readable(1)
before = set(sys.modules)
calls()
"""

SYNC_OUTAGE = """
ask("stop")
calls()
assert cache.stats().servers and not all(cache.stats().servers.values())
ask("start")
until(lambda: not cache.stats().replay)
calls()
"""

SYNC_FORK = """
pid = os.fork()
if not pid:
    calls()
    report_new(before)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""

END = """
cache.close()
report_new(before)
"""

ASYNC = """
import asyncio

@cache(ttl=600)
async def first(n):
    return n

@cache(ttl=600, tags=["tag:{n}"], namespace="space")
async def report(n):
    current().tag("named")
    return {"n": n, "inside": await first(n)}

@cache(ttl=600, policy=Policy(errors=(LookupError,)))
async def failing(n):
    raise (LookupError if n else ValueError)("no")

@cache(ttl=0.001, stale=600, refresh="background")
async def old(n):
    return n

@cache(ttl=0)
async def never(n):
    return await first(n)

class Shop:
    @cache(ttl=600, ignore=["self"])
    async def price(self, n):
        return n

async def raised(call, *args):
    try:
        await call(*args)
    except (LookupError, ValueError):
        pass

async def calls():
    for n in 1, 2, 2:
        await report(n), await never(n), await Shop().price(n), await old(n)
        await raised(failing, 0), await raised(failing, 1)
    await asyncio.sleep(0.005)
    await old(2), await report.refresh(1), await report.peek(1), await report.explain(1)
    await report.many([report.bind(1), report.bind(3)])
    await report.expire(1), await report(1), await report.invalidate(1), await report(1)
    await report.expire_all(), await report(1), await report.invalidate_all(), await report(1)
    await Shop().price.invalidate(1)
    verbs = cache.aio
    await verbs.expire_tags("tag:1"), await report(1), await verbs.invalidate_tags("tag:1"), await report(1)
    await verbs.expire_namespace("space"), await report(1), await verbs.invalidate_namespace("space")
    await verbs.set("a", 1), await verbs.get("a"), await verbs.gets("a"), await verbs.touch("a")
    await verbs.incr("n", initial=1), await verbs.delete("a"), await verbs.set_many({"a": [1]})
    await verbs.get_many(["a", "b"]), await verbs.delete_many(["a"])
    with cache.disabled():
        await report(1)

async def warm_up():
    await first(1)

asyncio.run(warm_up())
before = set(sys.modules)
asyncio.run(calls())
"""

ASYNC_OPTIONS = """
import asyncio
from cachekit import Near

@cache(ttl=600)
async def first(n):
    return n

@cache.batch(ttl=600)
async def loader(ids):
    return {each: await first(each) for each in ids}

@cache(ttl=600, near=Near(ttl=0.001))
async def near(n):
    return n

@cache.invalidates(near)
async def writer(n):
    return n

async def calls():
    await loader([1, 2]), await loader([2, 3]), await loader.refresh([1]), await loader.peek([1])
    await loader.explain(1), await loader.expire([1]), await loader([1]), await loader.invalidate([1])
    await loader([1]), await loader.invalidate_all()
    await near(1), await near(1), await near(1.5), await near.invalidate(1), await near(1), await writer(1)
    await asyncio.sleep(0.005)
    await near(1), await near.refresh(1), await near.expire(1), await near(1), await near.invalidate_all()
    async with cache.transaction():
        await near.invalidate(1), await near(1)

async def warm_up():
    async with cache.transaction():
        await first(1), await loader([1]), await near(1)

asyncio.run(warm_up())
before = set(sys.modules)
asyncio.run(calls())
"""

ASYNC_OUTAGE = """
ask("stop")
asyncio.run(calls())
ask("start")
until(lambda: not cache.stats().replay)
asyncio.run(calls())
"""

ASYNC_FORK = """
pid = os.fork()
if not pid:
    asyncio.run(calls())
    report_new(before)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""

LAZY_IN_PYTHON = {"concurrent.futures.thread"}
"""What asyncio itself loads late: for the pool of threads that looks up the names of servers."""


def loaded_late(script: str, url: str, options: str = "", tell: Callable[[str], Any] = print) -> list[set[str]]:
    """What ``script`` says it has loaded after the warm-up: in the child of its fork, if it has one, and itself."""
    code = f"URL, OPTIONS = {url!r}, {options!r}\n{BEGIN}{script}"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    found = []
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        for line in child.stdout:
            word, *rest = line.split()
            if word == "loaded":
                found.append(set(rest))
                continue
            tell(word)
            child.stdin.write("\n")
            child.stdin.flush()
    assert child.returncode == 0
    return found


def late(modules: set[str]) -> set[str]:
    """Those that cachekit is to blame for."""
    return modules - LAZY_IN_PYTHON


SHELLS = pytest.mark.parametrize(
    ("script", "outage", "fork"),
    [
        (SYNC, SYNC_OUTAGE, SYNC_FORK),
        (SYNC_OPTIONS, SYNC_OUTAGE, SYNC_FORK),
        (ASYNC, ASYNC_OUTAGE, ASYNC_FORK),
        (ASYNC_OPTIONS, ASYNC_OUTAGE, ASYNC_FORK),
    ],
    ids=["threads", "threads, options", "asyncio", "asyncio, options"],
)


@SHELLS
@pytest.mark.parametrize("options", ["", "&watch=yes"], ids=["plain", "watched"])
def test_nothing_is_imported_after_the_first_call(script: str, outage: str, fork: str, options: str) -> None:
    """Calls, invalidations, a server that fails and comes back, and a child that was forked import nothing more."""
    with start_memcached() as server:

        def tell(word: str) -> None:
            server.kill() if word == "stop" else server.restart()

        url = f"memcached://{server.name}?deadline=500ms"
        found = loaded_late(script + outage + fork + END, url, options, tell)
    assert [late(modules) for modules in found] == [set(), set()]


@SHELLS
def test_nothing_is_imported_after_the_first_call_of_the_embedded_server(script: str, outage: str, fork: str) -> None:
    """The same in memory."""
    found = loaded_late(script + fork + END, "memory:")
    assert [late(modules) for modules in found] == [set(), set()]
