"""What can be asked of threads' objects can be asked of asyncio's: the same names, the same parameters."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from support.shells import VERBS, Shell

from cachekit import Cache
from cachekit.aio.client import AsyncVerbs
from cachekit.async_batch import AsyncBatchFunction
from cachekit.async_function import (
    AsyncBoundFunction,
    AsyncCachedClassMethod,
    AsyncCachedFunction,
    AsyncCachedStaticMethod,
    AsyncCall,
)
from cachekit.batch import BatchFunction
from cachekit.function import CachedFunction, CachedStaticMethod, Call
from cachekit.methods import BoundFunction, CachedClassMethod
from cachekit.sync.client import Verbs

PAIRS = [
    (Verbs, AsyncVerbs),
    (CachedFunction, AsyncCachedFunction),
    (CachedStaticMethod, AsyncCachedStaticMethod),
    (CachedClassMethod, AsyncCachedClassMethod),
    (BoundFunction, AsyncBoundFunction),
    (BatchFunction, AsyncBatchFunction),
    (Call, AsyncCall),
]

ASK_NOBODY = {"bind", "info", "key"}
"""What is a plain function in asyncio too: it sends nothing."""


def public(kind: type) -> dict[str, Any]:
    """What users find on the objects of a class."""
    names = [name for name in dir(kind) if not name.startswith("_") or name == "__call__"]
    return {name: inspect.getattr_static(kind, name) for name in names}


@pytest.mark.parametrize(("threads", "loops"), PAIRS, ids=lambda kind: kind.__name__)
def test_both_have_the_same_verbs(threads: type, loops: type) -> None:
    """No verb is missing or called otherwise, and arguments mean the same."""
    ours, theirs = public(threads), public(loops)
    assert theirs.keys() == ours.keys()
    for name, found in theirs.items():
        if inspect.isfunction(found):
            asked = [list(inspect.signature(one).parameters.values()) for one in (ours[name], found)]
            plain, awaited = ([(each.name, each.kind, each.default) for each in one] for one in asked)
            assert awaited == plain, name


@pytest.mark.parametrize(("threads", "loops"), PAIRS, ids=lambda kind: kind.__name__)
def test_what_asks_a_server_is_awaited(threads: type, loops: type) -> None:
    """A verb that blocks a thread is a coroutine function for asyncio; what sends nothing is the same in both."""
    assert not any(inspect.iscoroutinefunction(found) for found in public(threads).values())
    verbs = {name for name, found in public(loops).items() if inspect.isfunction(found)} - {"__call__"}
    awaited = {name for name in verbs if inspect.iscoroutinefunction(getattr(loops, name))}
    assert verbs - awaited == verbs & ASK_NOBODY


def test_the_facade_awaits(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests could not tell a facade that blocks: so its verbs must be those of cache.aio, and its functions
    asyncio's, with the keys of the plain ones.
    """
    real = Cache("memory:")
    cache: Any = shell.around(real)
    in_loop = shell.name != "threads"
    for name in VERBS:
        monkeypatch.setattr(AsyncVerbs, name, _refuse)
        if not in_loop:
            assert not inspect.iscoroutinefunction(getattr(cache, name))
            continue
        with pytest.raises(AwaitedError):
            getattr(cache, name)("k", int)

    def double(n: int) -> int:
        return 2 * n

    def load(ids: list[int]) -> dict[int, int]:
        return {each: each for each in ids}

    cached, loader = cache(double), cache.batch(load)
    assert type(getattr(cached, "real", cached)) is (AsyncCachedFunction if in_loop else CachedFunction)
    assert type(getattr(loader, "real", loader)) is (AsyncBatchFunction if in_loop else BatchFunction)
    assert cached.key(3) == real(double).key(3)
    assert [cached(3), cached.peek(3), real(double).peek(3)] == [6, 6, 6]
    cache.close()


class AwaitedError(Exception):
    pass


async def _refuse(*args: object) -> None:
    asyncio.get_running_loop()
    raise AwaitedError
