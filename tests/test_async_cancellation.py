"""A cancelled caller harms nobody: others get their replies and their values, and no lease is left to time out."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest
import uvloop
from support.memcached import Memcached
from support.targets import own_prefix, url_of

from cachekit import MISS, Cache, Policy, current
from cachekit.aio.connection import AsyncConnection
from cachekit.aio.drive import Drive
from cachekit.aio.tasks import Tasks
from cachekit.hooks import Fill

Make = Callable[..., Cache]
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(name="run", params=["asyncio", "uvloop"])
def run_fixture(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine to its end on each kind of loop."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else None

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main)

    return run


@pytest.fixture(name="make")
def make_fixture(server: Memcached) -> Make:
    """Makes caches on a real server. A lease is as long as a test may take: one that is lost makes it fail."""

    def make(**options: Any) -> Cache:
        policy = Policy(lease=60, **options)
        return Cache(f"{url_of(server)}?deadline=5s", prefix=own_prefix(), policy=policy)

    return make


class Report:
    """A cached coroutine function whose runs the test ends. ``begun`` and ``ended`` count them."""

    def __init__(self, cache: Cache, **options: Any) -> None:
        self.begun = self.cancelled = 0
        self.running = asyncio.Event()
        self.gate = asyncio.Event()

        @cache(**options)
        async def report(n: int) -> int:
            self.begun += 1
            self.running.set()
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            return n * self.begun

        self.call = report


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks go on until it holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0.001)


def waiters(cache: Cache) -> int:
    """How many callers wait for runs of this process."""
    return sum(flight.awaited for flight in cache._env.flights._flights.values())


def test_a_run_goes_on_for_those_who_wait_for_it(run: Run, make: Make) -> None:
    """The caller who began it is cancelled; the others get what he computed, of one run, and it is stored."""

    async def main() -> None:
        async with make() as cache:
            report = Report(cache)
            first = asyncio.create_task(report.call(3))
            await report.running.wait()
            others = [asyncio.create_task(report.call(3)) for _ in range(5)]
            await until(lambda: waiters(cache) == 5)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            report.gate.set()
            assert await asyncio.gather(*others) == [3] * 5
            assert (report.begun, report.cancelled) == (1, 0)
            assert await report.call.peek(3) == 3

    run(main())


def test_a_run_for_nobody_is_cancelled_and_its_lease_given_back(run: Run, make: Make) -> None:
    """All who waited have gone: the function is cancelled, and the next caller, anywhere, runs at once."""

    async def main() -> None:
        async with make() as cache:
            report = Report(cache)
            first = asyncio.create_task(report.call(3))
            await report.running.wait()
            others = [asyncio.create_task(report.call(3)) for _ in range(3)]
            await until(lambda: waiters(cache) == 3)
            for task in (first, *others):
                task.cancel()
            outcomes = await asyncio.gather(first, *others, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 4
            await until(lambda: report.cancelled == 1)
            report.gate.set()
            async with asyncio.timeout(20):
                assert await report.call(3) == 6
            assert report.call.info().errors == 0

    run(main())


def test_the_function_has_ended_when_its_only_caller_hears_of_his_cancellation(run: Run, make: Make) -> None:
    """What it does in its ``finally`` is done, as if there were no cache; also where it is cancelled twice."""

    async def main() -> None:
        async with make() as cache:
            running, ending, leave, ended = asyncio.Event(), asyncio.Event(), asyncio.Event(), list[int]()

            @cache
            async def slow_to_end(n: int) -> int:
                running.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    ending.set()
                    await leave.wait()
                    ended.append(n)
                return n

            task = asyncio.create_task(slow_to_end(1))
            await running.wait()
            task.cancel()
            await ending.wait()
            assert not task.done()
            leave.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ended == [1]

    run(main())


def test_a_lease_in_a_reply_that_nobody_waits_for_is_given_back(run: Run, make: Make) -> None:
    """Cancelled between the request and the reply, at the first call and at later ones: the function never ran, and
    whoever comes next need not wait for a lease to end.
    """

    async def main() -> None:
        async with make() as cache:
            report = Report(cache)
            report.gate.set()
            await report.call(0)
            for n in range(1, 40):
                task = asyncio.create_task(report.call(n))
                for _ in range(n % 4):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            async with asyncio.timeout(20):
                assert all([await report.call(n) for n in range(1, 40)])

    run(main())


def test_a_refresh_that_is_cancelled_leaves_its_claim_to_the_next(run: Run, make: Make) -> None:
    """The old value stays, and the next caller may refresh it at once."""

    async def main() -> None:
        async with make(stale=60) as cache:
            report = Report(cache)
            report.gate.set()
            assert await report.call(3) == 3
            assert await report.call.expire(3)
            report.gate.clear()
            report.running.clear()
            task = asyncio.create_task(report.call(3))
            await report.running.wait()
            assert await report.call(3) == 3, "others are served meanwhile"
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await report.call.peek(3) == 3
            report.gate.set()
            await until(lambda: cache._env.flights._flights == {})
            async with asyncio.timeout(20):
                while await report.call(3) == 3:  # noqa: ASYNC110 - the claim is given back behind our back
                    await asyncio.sleep(0)
            assert await report.call(3) == 9

    run(main())


def test_a_wait_that_is_cancelled_ends_at_once_and_the_run_goes_on(run: Run, make: Make) -> None:
    """Neither the one who runs nor the other waiters notice."""

    async def main() -> None:
        async with make() as cache:
            report = Report(cache)
            first = asyncio.create_task(report.call(3))
            await report.running.wait()
            bored, patient = (asyncio.create_task(report.call(3)) for _ in range(2))
            await until(lambda: waiters(cache) == 2)
            bored.cancel()
            with pytest.raises(asyncio.CancelledError):
                await bored
            await until(lambda: waiters(cache) == 1)
            report.gate.set()
            assert [await first, await patient] == [3, 3]
            assert report.begun == 1

    run(main())


def test_a_cancellation_of_the_functions_own_making_reaches_its_caller_alone(run: Run, make: Make) -> None:
    """The function raised ``CancelledError`` itself, and nobody cancelled the caller: he hears of it, and whoever waits
    runs for himself.
    """

    async def main() -> None:
        async with make() as cache:
            runs, running, gate = list[int](), asyncio.Event(), asyncio.Event()

            @cache
            async def moody(n: int) -> int:
                runs.append(n)
                if len(runs) == 1:
                    running.set()
                    await gate.wait()
                    raise asyncio.CancelledError
                return n

            first = asyncio.create_task(moody(7))
            await running.wait()
            second = asyncio.create_task(moody(7))
            await until(lambda: waiters(cache) == 1)
            gate.set()
            outcomes = await asyncio.gather(first, second, return_exceptions=True)
            assert isinstance(outcomes[0], asyncio.CancelledError)
            assert outcomes[1] == 7

    run(main())


def test_a_function_that_ignores_its_cancellation_is_stored(run: Run, make: Make) -> None:
    """Its result is as good as any; the caller is cancelled all the same."""

    async def main() -> None:
        async with make() as cache:
            running = asyncio.Event()

            @cache
            async def stubborn(n: int) -> int:
                running.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    return n
                return 0

            task = asyncio.create_task(stubborn(5))
            await running.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: cache._env.flights._flights == {})
            assert await stubborn(5) == 5

    run(main())


def test_a_batch_goes_on_for_those_who_wait_for_one_of_its_ids(run: Run, make: Make) -> None:
    """The caller of the batch is cancelled; a caller of one of its ids still gets the value that it loads."""

    async def main() -> None:
        async with make() as cache:
            runs, running, gate = list[list[int]](), asyncio.Event(), asyncio.Event()

            @cache.batch
            async def squares(ids: list[int]) -> dict[int, int]:
                runs.append(ids)
                running.set()
                await gate.wait()
                return {each: each * each for each in ids}

            many = asyncio.create_task(squares([1, 2, 3]))
            await running.wait()
            one = asyncio.create_task(squares([2]))
            await until(lambda: waiters(cache) > 0)
            many.cancel()
            with pytest.raises(asyncio.CancelledError):
                await many
            gate.set()
            assert await one == {2: 4}
            assert runs == [[1, 2, 3]]
            await until(lambda: cache._env.flights._flights == {})
            assert await squares.peek([1, 3]) == {1: 1, 3: 9}

    run(main())


def test_refreshes_in_the_background_are_drained(run: Run, make: Make) -> None:
    """``aclose`` waits for them; their results are stored."""

    async def main() -> Cache:
        cache: Cache = make(stale=60, refresh="background")
        report = Report(cache)
        report.gate.set()
        assert await report.call(3) == 3
        assert await report.call.expire(3)
        report.gate.clear()
        report.running.clear()
        assert await report.call(3) == 3
        await report.running.wait()
        asyncio.get_running_loop().call_later(0.05, report.gate.set)
        await cache.aclose()
        assert await report.call(3) == 6
        await cache.aclose()
        return cache

    run(main())


def test_the_background_is_bounded(run: Run, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room, the caller refreshes himself."""
    monkeypatch.setattr("cachekit.aio.tasks.BACKGROUND", 1)

    async def main() -> None:
        async with make(stale=60, refresh="background") as cache:
            report = Report(cache)
            report.gate.set()
            assert [await report.call(1), await report.call(2)] == [1, 4]
            assert await report.call.expire(1)
            assert await report.call.expire(2)
            report.gate.clear()
            assert await report.call(1) == 1
            inline = asyncio.create_task(report.call(2))
            await until(lambda: report.begun == 4)
            assert not inline.done()
            report.gate.set()
            assert await inline == 8

    run(main())


def test_the_end_of_the_loop_gives_leases_back(run: Run, make: Make) -> None:
    """A program that ends in the middle of a run, without ``aclose``: the next one need not wait for its lease."""
    cache, other = make(), None

    async def killed() -> None:
        report = Report(cache)
        task = asyncio.create_task(report.call(3))
        await report.running.wait()
        assert not task.done()

    run(killed())

    async def again() -> None:
        nonlocal other
        other = Report(cache)
        other.gate.set()
        async with asyncio.timeout(20):
            assert await other.call(3) == 3
        await cache.aclose()

    run(again())
    assert other is not None


def test_what_the_function_says_of_its_result_holds_in_its_task(run: Run, make: Make) -> None:
    """``current()`` works inside, and in tasks of the function's own; outside it is harmless."""

    async def main() -> None:
        async with make() as cache:
            fills: list[Fill] = []
            cache.hooks.on_fill(fills.append)

            async def say() -> None:
                current().do_not_store()

            @cache
            async def unstored(n: int) -> bool:
                await asyncio.gather(say())
                return bool(current())

            assert await unstored(1) is True
            assert not current()
            assert await unstored.peek(1) is MISS
            assert [fill.reason for fill in fills] == ["do_not_store"]

    run(main())


def test_runs_that_gather_one_another_do_not_wait_for_ever(run: Run, make: Make) -> None:
    """A waits for b, whose function calls a, both in tasks of their own: the cycle is seen, and somebody just runs."""

    async def main() -> None:
        async with make() as cache:
            inside_b = asyncio.Event()

            @cache
            async def a(n: int) -> int:
                if n == 0:
                    return 1
                (value,) = await asyncio.gather(b(n - 1))
                return value + 1

            @cache
            async def b(n: int) -> int:
                inside_b.set()
                (value,) = await asyncio.gather(a(n))
                return value + 1

            @cache
            async def left(deep: bool = True) -> int:
                return (await asyncio.gather(right()))[0] + 1 if deep and len(seen) < 4 else 0

            @cache
            async def right() -> int:
                seen.append(1)
                return (await asyncio.gather(left()))[0] + 1 if len(seen) < 4 else 0

            seen: list[int] = []
            async with asyncio.timeout(20):
                assert await a(3) == 7
                assert await asyncio.gather(left(), right())

    run(main())


def test_a_blocking_call_in_the_loops_own_thread_never_waits_for_a_task(run: Run, make: Make) -> None:
    """The task could not go on while its thread is blocked: the blocking call runs for itself."""

    async def main() -> None:
        async with make() as cache:
            running, gate = asyncio.Event(), asyncio.Event()

            async def slow() -> str:
                running.set()
                await gate.wait()
                return "task"

            task = asyncio.create_task(cache.aio.get_or_set("k", slow))
            await running.wait()
            assert cache.get_or_set("k", lambda: "blocking") == "blocking"
            gate.set()
            assert await task == "task"

    run(main())


def test_threads_and_loops_share_one_run(run: Run, make: Make) -> None:
    """Whoever begins it, thread or task, the others wait for his value."""
    cache: Cache = make()
    begun, gate = threading.Event(), threading.Event()
    results: list[str] = []

    def compute() -> str:
        begun.set()
        gate.wait(20)
        return "thread"

    thread = threading.Thread(target=lambda: results.append(cache.get_or_set("k", compute)))
    thread.start()
    assert begun.wait(20)

    async def main() -> None:
        async with cache:
            task = asyncio.create_task(cache.aio.get_or_set("k", lambda: "task"))
            await until(lambda: waiters(cache) == 1)
            gate.set()
            assert await task == "thread"

    run(main())
    thread.join(20)
    assert results == ["thread"]


def test_two_loops_share_one_run(run: Run, make: Make) -> None:
    """Loops in different threads have connections of their own, and wait for one another's runs."""
    cache: Cache = make()
    begun, gate, results = threading.Event(), threading.Event(), list[int]()

    @cache
    async def slow(n: int) -> int:
        results.append(n)
        begun.set()
        await asyncio.to_thread(gate.wait, 20)
        return n * n

    async def elsewhere() -> int:
        try:
            return await slow(4)
        finally:
            await cache.aclose()

    outcome: list[int] = []
    thread = threading.Thread(target=lambda: outcome.append(asyncio.run(elsewhere())))
    thread.start()
    assert begun.wait(20)

    async def main() -> None:
        async with cache:
            task = asyncio.create_task(slow(4))
            await until(lambda: waiters(cache) == 1)
            gate.set()
            assert await task == 16

    run(main())
    thread.join(20)
    assert (outcome, results) == ([16], [4])


# -- moments that a review found ---------------------------------------------------------------------------------------


def in_the_turn_of_the_next_bytes(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Have ``action`` called in the very turn of the loop in which bytes come next, as a timer that is due then."""
    taken = AsyncConnection.buffer_updated

    def hooked(self: AsyncConnection, nbytes: int) -> None:
        monkeypatch.setattr(AsyncConnection, "buffer_updated", taken)
        asyncio.get_running_loop().call_soon(action)
        taken(self, nbytes)

    monkeypatch.setattr(AsyncConnection, "buffer_updated", hooked)


def test_many_calls_that_never_began_leave_their_claims(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """``many`` is cancelled in the turn in which its window is answered: the claims in it are given back."""

    async def main() -> None:
        async with make(stale=60) as cache:

            @cache
            async def square(n: int) -> int:
                return n * n

            for n in range(3):
                await square(n)
                assert await square.expire(n)
            task = asyncio.create_task(square.many([square.bind(n) for n in range(3)]))
            await asyncio.sleep(0)
            in_the_turn_of_the_next_bytes(monkeypatch, task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await task
            fills: list[Fill] = []
            cache.hooks.on_fill(fills.append)
            async with asyncio.timeout(20):
                while len(fills) < 3:
                    assert [await square(n) for n in range(3)] == [0, 1, 4]

    asyncio.run(main())  # uvloop holds on to the methods of a protocol


def test_a_refresh_that_never_began_leaves_its_claim(run: Run, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task is cancelled before the first step, as at the end of a loop: the next caller refreshes."""

    async def main() -> None:
        async with make(stale=60, refresh="background") as cache:
            report = Report(cache)
            report.gate.set()
            assert await report.call(3) == 3
            assert await report.call.expire(3)
            hold = Tasks.hold

            def cancelled(self: Tasks, *work: Any) -> Any:
                task = hold(self, *work)
                if work[0].__name__ == "work":
                    monkeypatch.setattr(Tasks, "hold", hold)
                    task.cancel()
                return task

            monkeypatch.setattr(Tasks, "hold", cancelled)
            assert await report.call(3) == 3
            await until(lambda: cache._env.flights._flights == {})
            async with asyncio.timeout(20):
                while await report.call(3) == 3:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0)

    run(main())


@pytest.mark.parametrize("turns", range(12))
def test_wherever_calls_stand_when_the_loop_ends(make: Make, turns: int) -> None:
    """``asyncio.run`` ends some turns after they began, without ``aclose``: no lease is left behind."""
    cache: Cache = make()

    def function(cache: Cache) -> Any:
        @cache(key="{n}", namespace="n")
        async def square(n: int) -> int:
            await asyncio.sleep(0.001)
            return n * n

        return square

    async def ends() -> None:
        square = function(cache)
        await square(0)
        calls = [asyncio.ensure_future(square(n)) for n in range(1, 9)]
        for _ in range(turns):
            await asyncio.sleep(0)
        assert calls

    async def another() -> None:
        async with asyncio.timeout(20):
            assert await asyncio.gather(*map(function(cache), range(9))) == [n * n for n in range(9)]
        await cache.aclose()

    asyncio.run(ends())
    asyncio.run(another())


def test_a_claim_whose_reply_was_lost_is_taken_over(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks while the answer to a claim is under way: who comes next need not wait for its lease."""

    async def main() -> None:
        async with make(ttl=0.2, beta=0) as cache:
            report = Report(cache)
            report.gate.set()
            await report.call(1)
            await asyncio.sleep(0.25)  # past the ttl, which is the server's and this machine's business
            taken, seen = AsyncConnection.buffer_updated, list[int]()

            def cut(self: AsyncConnection, nbytes: int) -> None:
                seen.append(nbytes)
                if len(seen) == 2:  # the first is the read, the second the claim
                    monkeypatch.setattr(AsyncConnection, "buffer_updated", taken)
                    self.close()
                else:
                    taken(self, nbytes)

            monkeypatch.setattr(AsyncConnection, "buffer_updated", cut)
            async with asyncio.timeout(20):
                assert await report.call(1) == 2
                assert await report.call(1) == 3

    asyncio.run(main())  # uvloop holds on to the methods of a protocol


def test_a_read_whose_reply_was_lost_is_remembered(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is repeated on another connection, where its own stub stands in its way: it takes over from itself."""

    async def main() -> None:
        async with make() as cache:
            report = Report(cache)
            report.gate.set()
            await report.call(1)
            in_the_turn_of_the_next_bytes(monkeypatch, lambda: None)
            line: Any = cache._loops.here().lines[0]
            monkeypatch.setattr(AsyncConnection, "buffer_updated", lambda self, nbytes: self.close())
            task = asyncio.create_task(report.call(2))
            await until(lambda: line.closed)
            monkeypatch.undo()
            async with asyncio.timeout(20):
                assert await task == 4

    asyncio.run(main())  # uvloop holds on to the methods of a protocol


def test_no_caller_is_kept_by_what_he_left_behind(run: Run, make: Make) -> None:
    """Neither the connection that his call opened, nor an exception, holds his objects after that."""

    class Request:
        pass

    context: ContextVar[Request | None] = ContextVar("request", default=None)

    async def main() -> None:
        async with make() as cache:

            @cache(key="{n}")
            async def fails(n: int, request: Request) -> int:
                raise LookupError(n)

            async def call() -> weakref.ref[Request]:
                request = Request()
                context.set(request)
                try:
                    await fails(1, request)
                except LookupError:
                    return weakref.ref(request)
                raise AssertionError("it has not failed")

            gc.disable()
            try:
                gone = await asyncio.create_task(call())
                await asyncio.sleep(0)
                assert gone() is None
            finally:
                gc.enable()

    run(main())


def test_the_last_waiter_may_go_while_the_caller_leaves(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another thread, just before he could tell: the run is for nobody then, and ends all the same."""

    async def main() -> None:
        async with make() as cache:
            report = Report(cache)
            first = asyncio.create_task(report.call(3))
            await report.running.wait()
            (flight,) = cache._env.flights._flights.values()
            flight.awaited = 1
            deserted = Drive._deserted

            def gone(self: Drive, task: asyncio.Task[Any]) -> Callable[[], None]:
                flight.awaited = 0
                return deserted(self, task)

            monkeypatch.setattr(Drive, "_deserted", gone)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert report.cancelled == 1

    asyncio.run(main())
