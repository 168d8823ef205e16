"""The promises that threads and event loops do not share, each under its name. All others hold in both.

Each is a mark here, ``only(shells, reason=…)``, and a sentence in docs/explanation/asyncio.md. Of threads alone::

    many                one run after the other, in the order of the calls, until the first that fails
    background          refreshes run in threads named cachekit-refresh-…
    interrupts          KeyboardInterrupt ends the run of its own caller only (tests/test_stampede.py)
    StopIteration       a function may raise it, as anything else
    disabled()          counts in this thread; a thread that is begun inside is not disabled

and of event loops alone::

    many                all runs at the same time; when one fails the others are cancelled
    background          refreshes are tasks of the loop
    cancellation        a caller may be cancelled; the run goes on for the others, and ends where nobody waits for it
                        (more of it: tests/test_async_cancellation.py)
    StopIteration       becomes a RuntimeError, as Python has it for any coroutine
    disabled()          counts in this task, and in the tasks that are begun inside
    wrong arguments     those of a function raise where the call stands, as do those of any async def; those of
                        a direct verb or of a function's verb when it is awaited
    get_or_set          takes a plain function as well as a coroutine function
    many loops          each has connections of its own; aclose() closes those of its loop, close() those of no loop
"""

from __future__ import annotations

import ast
import asyncio
import threading
from pathlib import Path
from typing import Any, cast

import pytest
from support.aio import until
from support.shells import LOOPS, LoopShell, Shell, only
from support.slow import waiters_on
from support.targets import Make
from support.threads import LIMIT_S, Outcome, eventually

from cachekit import Cache, RequestError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache(make: Make) -> Cache:
    """A cache in each shell, on each kind of servers."""
    return make()


@pytest.fixture
def real(cache: Cache) -> Cache:
    """The cache behind the facade, for tests that await by themselves."""
    behind: Cache = cast("Any", cache).real
    return behind


@pytest.fixture
def running(shell: Shell) -> LoopShell:
    """The event loop of a test that is about loops alone."""
    assert isinstance(shell, LoopShell)
    return shell


# -- many -------------------------------------------------------------------------------------------------------------


@only("threads", reason="many() runs the function for one miss after the other, in the order of the calls")
def test_many_runs_in_order(make: Make) -> None:
    """The first failure ends it, and what would have come after it has not run."""
    runs: list[int] = []

    @make()
    def fails_at_three(n: int) -> int:
        runs.append(n)
        if n == 3:
            raise LookupError(n)
        return n

    with pytest.raises(LookupError):
        fails_at_three.many([fails_at_three.bind(n) for n in (5, 4, 3, 2, 1)])
    assert runs == [5, 4, 3]
    assert fails_at_three.peek(4) == 4


@only(*LOOPS, reason="many() runs the function for all misses at the same time")
def test_many_runs_side_by_side(make: Make) -> None:
    """Each run waits for the others here, so they would never end one after the other."""
    together = threading.Barrier(5)

    @make()
    def meets(n: int) -> int:
        together.wait(LIMIT_S)
        return n * n

    assert meets.many([meets.bind(n) for n in (5, 4, 3, 2, 1)]) == [25, 16, 9, 4, 1]


@only(*LOOPS, reason="when one run of many() fails, the others are cancelled")
def test_many_cancels_the_rest(real: Cache, running: LoopShell) -> None:
    """The caller gets the failure at once, and not when the slowest has ended."""
    cancelled: list[int] = []

    @real
    async def odd(n: int) -> int:
        if n == 3:
            raise LookupError(n)
        try:
            return await asyncio.sleep(LIMIT_S, n)
        except asyncio.CancelledError:
            cancelled.append(n)
            raise

    with pytest.raises(LookupError):
        running.call(odd.many, [odd.bind(n) for n in (1, 2, 3)])
    assert sorted(cancelled) == [1, 2]


# -- background -------------------------------------------------------------------------------------------------------


@only("threads", reason="refreshes in the background run in threads of the cache")
def test_the_background_is_a_thread(cache: Cache) -> None:
    """Its name says whose it is."""
    seen: list[str] = []

    @cache(ttl=60, stale=60, refresh="background")
    def number() -> int:
        seen.append(threading.current_thread().name)
        return len(seen)

    assert number() == 1
    assert number.expire()
    assert number() == 1
    assert eventually(lambda: number.peek() == 2)
    assert seen[1].startswith("cachekit-refresh-")


@only(*LOOPS, reason="refreshes in the background are tasks of the loop that found the value due")
def test_the_background_is_a_task(real: Cache, running: LoopShell) -> None:
    """It is another task than the caller's, in the same loop, and aclose() waits for it."""
    seen: list[Any] = []

    @real(ttl=60, stale=60, refresh="background")
    async def number() -> int:
        seen.append((asyncio.get_running_loop(), asyncio.current_task()))
        return len(seen)

    async def story() -> None:
        assert await number() == 1
        assert await number.expire()
        assert await number() == 1
        await real.aclose()
        assert await number() == 2

    running.call(story)
    assert [loop for loop, _ in seen] == [running.loop] * 2
    assert seen[0][1] is not seen[1][1]


# -- interrupts, cancellation, StopIteration --------------------------------------------------------------------------


@only(*LOOPS, reason="a caller may be cancelled, and the run goes on for those who wait")
def test_a_cancelled_caller_leaves_the_run_to_the_others(real: Cache, running: LoopShell) -> None:
    """It was he who ran the function; the others get its result, and nobody runs it again."""
    runs: list[int] = []

    async def story() -> list[int]:
        go_on = asyncio.Event()
        began = asyncio.Event()

        @real
        async def slow(n: int) -> int:
            runs.append(n)
            began.set()
            await go_on.wait()
            return n * n

        first = asyncio.ensure_future(slow(3))
        await began.wait()
        others = [asyncio.ensure_future(slow(3)) for _ in range(4)]
        await until(lambda: waiters_on(real) == len(others))
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        go_on.set()
        return list(await asyncio.gather(*others))

    assert running.call(story) == [9] * 4
    assert runs == [3]


@only("threads", reason="a function may raise StopIteration")
def test_stop_iteration_reaches_the_caller(cache: Cache) -> None:
    """Though the stories inside are generators."""
    with pytest.raises(StopIteration, match="mine"):
        cache(_stops)()


@only(*LOOPS, reason="StopIteration becomes a RuntimeError, as in any coroutine")
def test_stop_iteration_is_pythons_own_error(real: Cache, running: LoopShell) -> None:
    """Without the cache it would be so too."""

    async def stops() -> None:
        raise StopIteration("mine")

    for call in (real(stops), stops):
        with pytest.raises(RuntimeError, match="StopIteration"):
            running.call(call)


def _stops() -> None:
    raise StopIteration("mine")


# -- disabled() -------------------------------------------------------------------------------------------------------


@only("threads", reason="disabled() counts in this thread, not in threads that are begun inside")
def test_disabled_is_about_this_thread(cache: Cache) -> None:
    """A thread begins with a context of its own."""
    with cache.disabled():
        assert cache.is_disabled()
        assert Outcome(cache.is_disabled).result() is False


@only(*LOOPS, reason="disabled() counts in this task, and in the tasks that are begun inside")
def test_disabled_is_about_this_task(real: Cache, running: LoopShell) -> None:
    """A task begins with a copy of the context, and so does asyncio.to_thread; a task that was there is not touched."""

    async def asked(when: asyncio.Event) -> bool:
        await when.wait()
        return real.is_disabled()

    async def story() -> tuple[bool, bool, bool]:
        at_once, later = asyncio.Event(), asyncio.Event()
        at_once.set()
        before = asyncio.ensure_future(asked(later))
        with real.disabled():
            inside = await asyncio.ensure_future(asked(at_once))
            later.set()
            return await before, inside, await asyncio.to_thread(real.is_disabled)

    assert running.call(story) == (False, True, True)
    assert not real.is_disabled()


# -- calling ----------------------------------------------------------------------------------------------------------


@only(*LOOPS, reason="wrong arguments of a call raise where the call stands, those of a verb when it is awaited")
def test_when_wrong_arguments_raise(real: Cache, running: LoopShell) -> None:
    """As with any async def: what does not fit its parameters raises before there is a coroutine."""

    @real
    async def square(n: int) -> int:
        return n * n

    async def story() -> None:
        with pytest.raises(TypeError):
            square(1, 2)  # type: ignore[call-arg, unused-coroutine]
        with pytest.raises(TypeError):
            square.bind()  # type: ignore[call-arg]
        for wrong in (square.peek(1, 2), square.invalidate()):  # type: ignore[call-arg]
            with pytest.raises(TypeError):
                await wrong
        for refused in (real.aio.get("a b"), real.aio.set("a b", 1), real.aio.incr("n", -1)):
            with pytest.raises(RequestError):
                await refused

    running.call(story)


@only(*LOOPS, reason="cache.aio.get_or_set takes plain functions too")
def test_get_or_set_takes_functions_of_both_kinds(real: Cache, running: LoopShell) -> None:
    """A plain one blocks the loop while it runs, as it would anywhere."""

    async def compute() -> int:
        return 7

    assert running.call(real.aio.get_or_set, "awaited", compute) == 7
    assert running.call(real.aio.get_or_set, "plain", lambda: 8) == 8
    assert running.call(real.aio.get_many, ["awaited", "plain"]) == {"awaited": 7, "plain": 8}


# -- several loops ----------------------------------------------------------------------------------------------------


@only(*LOOPS, reason="aclose() closes what its own loop has open, close() what its own thread has")
def test_who_closes_what(real: Cache, running: LoopShell) -> None:
    """A loop's connections are nobody else's: after close() in a thread it has them still."""
    assert running.call(real.aio.set, "k", 1)
    fleet = real._loops.fleets[running.loop]
    lines = list(fleet.lines)
    real.close()
    assert fleet.lines == lines
    assert not any(line is not None and line.closed for line in lines)
    running.call(real.aclose)
    assert [line for line in lines if line is not None and not line.closed and line.name != "memory:"] == []
    assert running.call(real.aio.get, "k") == 1


def test_the_docs_name_every_difference() -> None:
    """What is tested in some shells alone is said on the page about asyncio, in the same words."""
    page = (ROOT / "docs/explanation/asyncio.md").read_text()
    reasons: list[str] = []
    for module in sorted((ROOT / "tests/contract").glob("*.py")):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "only":
                (reason,) = (keyword.value for keyword in node.keywords if keyword.arg == "reason")
                reasons.append(ast.literal_eval(reason))
    assert len(reasons) > 10
    assert [reason for reason in reasons if reason not in page] == []
