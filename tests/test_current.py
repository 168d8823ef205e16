"""current(): harmless everywhere, the innermost call where there is one, and what its function says of its result."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest

from cachekit import MISS, Cache, Key, current
from cachekit.errors import ConfigurationError
from cachekit.flows import frames
from cachekit.types import UNSET


def test_outside_it_is_a_harmless_nothing() -> None:
    """Code that asks need not know whether it is cached."""
    assert not current()
    assert current().key is None
    assert repr(current()) == "<current: not inside a cached call>"


def test_inside_it_names_the_innermost_call_of_this_thread() -> None:
    """Nested calls, uncached calls and other threads each see their own."""
    cache = Cache("memory:")
    seen: list[Key | None] = []

    def look() -> None:
        seen.append(current().key)

    @cache
    def inner(n: int) -> int:
        look()
        return n

    @cache
    def outer(n: int) -> int:
        look()
        inner(n)
        look()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return n

    outer(1)
    assert seen == [outer.key(1), inner.key(1), outer.key(1), None]
    outer.uncached(2)
    assert seen[4:] == [None, inner.key(2), None, None]
    assert not current()


# -- what a running function may say of its result ---------------------------------------------------------------------


def test_outside_nothing_that_is_said_has_an_effect() -> None:
    """A function that runs uncached may say the same as when it is cached."""
    here = current()
    here.ttl = "5m"
    here.do_not_store()
    assert here.previous is MISS
    with pytest.raises(LookupError, match="previous"):
        here.not_modified()
    assert current().ttl is UNSET


def test_a_result_may_set_its_own_ttl() -> None:
    """Whatever ttl= takes, a function of the result included; the last one said counts."""
    cache = Cache("memory:")

    @cache(ttl="1h")
    def report(n: int) -> int:
        current().ttl = None
        assert current().ttl is None
        current().ttl = "5m" if n else (lambda result: result + 7)
        return n

    report(1)
    report(0)
    assert (report.explain(1).ttl_s, report.explain(0).ttl_s) == (300.0, 7.0)


@pytest.mark.parametrize("nonsense", [-1, "soon", float("nan"), True, object()])
def test_a_ttl_that_means_nothing_is_refused_where_it_is_set(nonsense: Any) -> None:
    """The function's author reads of it in his own line."""
    with pytest.raises(ConfigurationError):
        current().ttl = nonsense


def test_a_result_may_be_kept_out_of_the_cache() -> None:
    """It is returned, the next call runs again, and so does the one after."""
    cache = Cache("memory:")
    runs: list[int] = []

    @cache
    def report() -> int:
        runs.append(1)
        current().do_not_store()
        return len(runs)

    assert [report(), report(), report()] == [1, 2, 3]
    assert (report.peek(), report.info().unstored) == (MISS, 3)


def test_what_has_not_changed_is_kept() -> None:
    """not_modified(): the previous value holds on, whatever is returned; each caller has a copy of his own."""
    cache = Cache("memory:")
    seen: list[Any] = []

    @cache(ttl=60)
    def page() -> dict[str, list[int]]:
        seen.append(current().previous)
        if seen[-1] is not MISS:
            seen[-1]["v"].append(99)  # a copy: nothing that is stored changes
            kept: dict[str, list[int]] = current().not_modified()
            return {**kept, "other": []}
        return {"v": [1]}

    assert page() == {"v": [1]}
    assert page.refresh() == {"v": [1]}
    assert page() == page.peek() == {"v": [1]}
    assert (len(seen), seen[0]) == (2, MISS)


def test_who_is_expired_still_finds_the_previous_value() -> None:
    """A soft invalidation leaves it for the one who refreshes, a hard one does not."""
    cache = Cache("memory:")
    seen: list[Any] = []

    @cache(ttl=60, stale=60)
    def count() -> int:
        seen.append(current().previous)
        return len(seen)

    count()
    count.expire()
    count()
    count.invalidate()
    count()
    assert seen == [MISS, 1, MISS]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_does_not_wait_for_threads_of_its_parent() -> None:
    """One of them may say something of its run just now; in the child it never ends that."""
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with frames._LOCK:
            held.set()
            over.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        notes = frames.Notes()
        notes.name(("tag",))
        os._exit(0 if notes.said else 1)
    ended = os.waitpid(pid, 0)[1]
    over.set()
    thread.join()
    assert ended == 0
