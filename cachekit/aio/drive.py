"""Runs the flows for asyncio: each op a flow yields is performed here, by awaiting.

A flow that may come to run the user's function, or to hold a lease, is driven in a task of its own, so that it can
outlive its caller. When the caller is cancelled, what happens depends on where the flow stands::

    it asks a server        the answer is heard: there may be a lease in it, and it is given back
    the function runs       it goes on for those who wait for it here, until the last of them has gone too;
                            where nobody does, it is cancelled, and the caller waits until it has ended
    it waits for others     it is cancelled

After that the flow may still say something to the servers (store what was computed, give back what was claimed), and
whatever else it wants is answered by a ``CancelledError``. So no lease is left to time out, and that story is the one
that threads have as well: an interrupt is thrown into the flow, which cleans up after itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from cachekit.aio.fleet import AsyncFleet
from cachekit.aio.tasks import unharmed
from cachekit.flights import Flight
from cachekit.flows.frames import FILLING, Filling
from cachekit.ops import Compute, Each, Exchange, Flow, Gather, Join, Op, Sleep, Spawn

R = TypeVar("R")

_TALK = (Exchange, Gather, Spawn)
"""What a flow may still do when its caller has gone."""


async def run(flow: Flow[R], fleet: AsyncFleet) -> R:
    """Drive ``flow`` to its end, in a task of its own, and return what it returns."""
    drive, task = begin(flow, fleet)
    try:
        return await unharmed(task)
    except asyncio.CancelledError:
        if not task.done():
            await drive.leave(task)
        raise
    finally:
        del task  # an exception in it refers to this frame, which refers to it


async def run_here(flow: Flow[R], fleet: AsyncFleet) -> R:
    """Drive ``flow`` to its end in the caller's own task: for flows that only ask servers, and hold no lease."""
    return await Drive(flow, fleet, patient=False).run()  # type: ignore[no-any-return]


def begin(flow: Flow[Any], fleet: AsyncFleet) -> tuple[Drive, asyncio.Task[Any]]:
    """A task that drives ``flow``. Should it be cancelled before its first step, the flow is brought to its end."""
    drive = Drive(flow, fleet)
    task = fleet.tasks.hold(drive.run())
    task.add_done_callback(drive.not_begun)
    return drive, task


def finish(flow: Flow[Any], fleet: AsyncFleet) -> None:
    """Have ``flow`` end for a caller who has gone: it may give back what was got for him, and nothing else."""
    drive, task = begin(flow, fleet)
    drive.left = True
    fleet.tasks.alone.add(task)


class Drive:
    """One flow on its way. ``left``: its caller has gone. ``patient``: what was asked is heard, whoever cancels the
    task meanwhile; there may be a lease in it.
    """

    def __init__(self, flow: Flow[Any], fleet: AsyncFleet, *, patient: bool = True) -> None:
        self._flow, self._fleet = flow, fleet
        self._patient = patient
        self.left = self._begun = self._cancelled = False
        self._talking = True  # before its first op it holds what it was begun with, a lease perhaps
        self._frame: Filling | None = None
        self._ended: asyncio.Future[None] | None = None

    async def run(self) -> Any:
        """Drive the flow; whatever interrupts is thrown into it."""
        flow, outcome, self._begun = self._flow, None, True
        error: BaseException | None = None
        op: Any = None
        try:
            while True:
                op = flow.send(outcome) if error is None else flow.throw(error)
                outcome, error, self._talking = None, None, isinstance(op, _TALK)
                if self.left and not self._talking:
                    error = asyncio.CancelledError()
                    continue
                try:
                    outcome = await self._perform(op)
                except BaseException as raised:  # noqa: BLE001
                    error = raised
        except StopIteration as end:
            if self._cancelled:
                raise asyncio.CancelledError from None
            return end.value
        finally:
            flow.close()
            op = error = None  # an exception that refers to this frame, which refers to it, waits for the collector

    async def _perform(self, op: Op) -> Any:
        if isinstance(op, Exchange | Gather):
            patience = self._be_patient if self._patient else None
            if isinstance(op, Exchange):
                return await self._fleet.exchange(op, patience)
            return await self._fleet.gather(op.exchanges, patience)
        if isinstance(op, Compute):
            return await self._compute(op)
        return await _OTHERS[type(op)](op, self._fleet)

    def not_begun(self, _: object) -> None:
        """The task is over; where it was cancelled before its first step, the flow is brought to its end by another."""
        if not self._begun:
            finish(self._flow, self._fleet)

    def _be_patient(self) -> None:
        self.left = self._cancelled = True

    async def _compute(self, op: Compute) -> Any:
        self._frame = op.frame
        token = FILLING.set((*FILLING.get(), op.frame))
        try:
            return await op.call()
        finally:
            op.frame.notes.over = True
            FILLING.reset(token)
            self._frame = None
            if self.left:
                self._stand_alone()
            if self._ended is not None and not self._ended.done():
                self._ended.set_result(None)

    async def leave(self, task: asyncio.Task[Any]) -> None:
        """The caller has been cancelled. Returns when the function runs no more, or runs for others."""
        self.left = True
        if self._frame is not None and self._wanted():
            for flight in _flights(self._frame):
                flight.on_deserted = self._deserted(task)
            if self._wanted():  # else the last of them, in another thread, went before he could tell
                return
        self._fleet.tasks.alone.add(task)
        if self._frame is None:
            if not self._talking:
                task.cancel()
            return
        self._ended = self._fleet.loop.create_future()
        task.cancel()
        while not self._ended.done():
            try:
                await unharmed(self._ended)
            except asyncio.CancelledError:
                if not self._ended.done():
                    task.cancel()

    def _stand_alone(self) -> None:
        """Those who wanted the result have it soon; for what is still to be stored only ``aclose`` waits."""
        task = asyncio.current_task()
        if task is not None:
            self._fleet.tasks.alone.add(task)

    def _wanted(self) -> bool:
        """Whether somebody in this process waits for the run."""
        return self._frame is not None and any(flight.awaited for flight in _flights(self._frame))

    def _deserted(self, task: asyncio.Task[Any]) -> Callable[[], None]:
        def cancel() -> None:
            if self._frame is not None and self._ended is None and not self._wanted():
                self._fleet.tasks.alone.add(task)
                task.cancel()

        return lambda: _in(self._fleet.loop, cancel)


def _flights(frame: Filling) -> list[Flight]:
    return [flight for flight in (frame.flight, *frame.wings) if flight is not None]


def _in(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Have ``call`` called in that loop, from whichever thread."""
    with suppress(RuntimeError):  # the loop is closed, and nobody waits there any more
        loop.call_soon_threadsafe(call)


async def _sleep(op: Sleep, fleet: AsyncFleet) -> None:
    await asyncio.sleep(op.seconds)


async def _join(op: Join, fleet: AsyncFleet) -> bool:
    loop = fleet.loop
    landed: asyncio.Future[bool] = loop.create_future()

    def settle(outcome: bool) -> None:
        if not landed.done():
            landed.set_result(outcome)

    if not op.flight.listen(lambda: _in(loop, lambda: settle(True))):
        return True
    timer = loop.call_later(op.timeout_s, settle, False)
    try:
        return await landed
    finally:
        timer.cancel()


async def _spawn(op: Spawn, fleet: AsyncFleet) -> bool:
    drive = Drive(op.flow, fleet)

    async def work() -> None:
        FILLING.set(())  # nothing outside waits for this run, so it is inside of nothing
        await drive.run()

    task = fleet.tasks.refresh(work)
    if task is not None:
        task.add_done_callback(drive.not_begun)
    return task is not None


async def _each(op: Each, fleet: AsyncFleet) -> list[Any]:
    begun = [begin(flow, fleet) for flow in op.flows]
    try:
        done, _ = await asyncio.wait([task for _, task in begun], return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()  # raises what one of them has raised
        return [task.result() for _, task in begun]
    except BaseException:
        await asyncio.gather(*(drive.leave(task) for drive, task in begun if not task.done()))
        raise


_OTHERS: dict[type, Any] = {Sleep: _sleep, Join: _join, Spawn: _spawn, Each: _each}
