"""Many flows at once: what they ask of the servers goes out in common windows, and one run computes for them all.

Each flow tells the story of one entry, as if it were alone. Driven together they go on side by side, and what they want
is done in this order::

    exchanges   in one window over the servers, bounded batch after batch, until nobody has anything to ask
    Spawn       one background task for all who want one
    Compute     one run for all who want one
    waits       last: by then whatever was computed here is stored, and whoever waits holds no lease

So nobody waits for another's run while others wait for his own: two batches that overlap can't wait for each other.
"""

# Annotations are not postponed here, as in the other flows.

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import attrgetter
from typing import Any

from cachekit.errors import ServerError
from cachekit.flows.alone import join
from cachekit.flows.frames import Filling, Notes
from cachekit.flows.shared import COMMANDS, SharedEnv
from cachekit.ops import BATCH_BYTES, BATCH_KEYS, Compute, Exchange, Flow, Gather, Join, Replies, Sleep, Spawn

ComputeAll = Callable[[list[int]], list[Any]]
"""Computes the values at these positions, in their order, in one run."""

_Lot = tuple[int, float | None, bool]
"""What can go out as one exchange: the same server, the same age of the lease, the same leave to be sent again."""


class Strand:
    """One flow among several: where it belongs, what it wants now, and how it ended."""

    __slots__ = ("ended", "error", "flow", "op", "position", "reads", "until", "value")

    def __init__(self, flow: Flow[Any], position: int) -> None:
        self.flow, self.position = flow, position
        self.op: Any = None
        self.reads = False
        self.until = 0.0
        self.ended = False
        self.value: Any = None
        self.error: BaseException | None = None


class Together:
    """Drives ``flows``, all made with ``env``; ``positions`` are what ``compute`` knows them by."""

    def __init__(
        self, flows: Iterable[Flow[Any]], positions: Iterable[int], env: SharedEnv, compute: ComputeAll
    ) -> None:
        self._env, self._compute = env, compute
        self._strands = [Strand(flow, position) for flow, position in zip(flows, positions, strict=True)]
        self._new = self._strands[::-1]
        self._asking: dict[_Lot, list[Strand]] = {}
        self._gathering: list[Strand] = []
        self._spawning: list[Strand] = []
        self._running: list[Strand] = []
        self._waiting: list[Strand] = []
        self._looked: list[Strand] = []
        self._interrupt: BaseException | None = None
        self._failures: list[tuple[BaseException, Any]] = []

    def values(self, interrupt: BaseException | None = None) -> Flow[list[Any]]:
        """What each flow returned; raises the first exception that one of them raised, when all have ended.

        ``interrupt``: it has happened already, before the flows could begin.
        """
        yield from self._drive(interrupt)
        error = next((_own(strand.error) for strand in self._strands if strand.error is not None), None)
        if error is not None:
            self._forget_errors()
            try:
                raise error
            finally:
                del error
        return [strand.value for strand in self._strands]

    def _drive(self, interrupt: BaseException | None) -> Flow[None]:
        while True:
            try:
                if self._new:
                    self._begin()
                elif interrupt is not None:
                    self._interrupted(interrupt)
                    interrupt = None
                elif self._asking:
                    yield from self._ask()
                elif self._gathering:
                    yield from self._gather()
                elif self._spawning:
                    yield from self._spawn()
                elif self._running:
                    yield from self._run()
                elif self._waiting and not any(strand.error is not None for strand in self._strands):
                    yield from self._wait()
                else:
                    break
            except GeneratorExit:
                self._close()
                raise
            except BaseException as error:  # noqa: BLE001 - raised below, when the flows have cleaned up
                interrupt = error
        self._close()
        if self._interrupt is not None:
            interrupt, self._interrupt = self._interrupt, None
            self._forget_errors()
            try:
                raise interrupt
            finally:
                del interrupt

    def _close(self) -> None:
        """Who waits for another's run need not go on where the caller gets an exception anyway."""
        for strand in self._strands:
            if not strand.ended:
                strand.flow.close()

    def _forget_errors(self) -> None:
        """What is raised from here refers to frames that refer to them; else all of it would wait for the collector."""
        for strand in self._strands:
            strand.error = None
        self._failures = []

    def _begin(self) -> None:
        while self._new:
            strand = self._new.pop()
            self._go_on(strand, strand.flow.send, None)

    def _interrupted(self, error: BaseException) -> None:
        """Every flow hears of it, and may still say something to the servers; then all is over."""
        self._interrupt = error
        self._failures.append((error, error.__traceback__))
        self._asking, self._gathering, self._spawning, self._running, self._waiting = {}, [], [], [], []
        self._throw([strand for strand in self._strands if not strand.ended], error)

    # -- going on ----------------------------------------------------------------------------------------------------

    def _go_on(self, strand: Strand, resume: Callable[[Any], Any], what: Any) -> None:
        """Let the flow run to its next op."""
        try:
            op = resume(what)
        except StopIteration as end:
            strand.ended, strand.value = True, end.value
        except BaseException as error:
            strand.ended, strand.error = True, error
            for failure, traceback in self._failures:
                if failure is error:
                    error.__traceback__ = traceback  # each flow that it passes through would add its frames
            if not isinstance(error, Exception) and self._interrupt is None:
                raise
        else:
            self._queue(strand, op)

    def _throw(self, strands: list[Strand], error: BaseException) -> None:
        """Let the flows run on with ``error``."""
        for strand in strands:
            self._go_on(strand, strand.flow.throw, error)

    def _queue(self, strand: Strand, op: Any) -> None:
        strand.op = op
        if isinstance(op, Exchange):
            self._asking.setdefault((op.server, op.held_since, op.retry), []).append(strand)
        elif self._interrupt is not None:
            strand.ended = True
            strand.flow.close()
        elif isinstance(op, Gather):
            self._gathering.append(strand)
        elif isinstance(op, Compute):
            self._running.append(strand)
        elif isinstance(op, Spawn):
            self._spawning.append(strand)
        else:
            strand.until = self._env.waiting() + (op.seconds if isinstance(op, Sleep) else op.timeout_s)
            self._waiting.append(strand)

    # -- exchanges ---------------------------------------------------------------------------------------------------

    def _ask(self) -> Flow[None]:
        """One batch for each server that anything is asked of."""
        chosen: dict[int, _Lot] = {}
        for lot in self._asking:
            chosen.setdefault(lot[0], lot)
        batches = [self._cut(lot) for lot in chosen.values()]
        exchanges = [self._merged(lot, batch) for lot, batch in zip(chosen.values(), batches, strict=True)]
        outcomes: list[Any]
        if len(exchanges) == 1:
            try:
                outcomes = [(yield exchanges[0])]
            except ServerError as error:
                outcomes = [error]
        else:
            outcomes = yield Gather(tuple(exchanges))
        for batch, outcome in zip(batches, outcomes, strict=True):
            if isinstance(outcome, ServerError):
                self._throw(batch, outcome)
            else:
                self._answer(batch, outcome)

    def _cut(self, lot: _Lot) -> list[Strand]:
        """Take from the front as many as one server can take before its answers are read."""
        waiting = self._asking[lot]
        size = count = 0
        for strand in waiting[:BATCH_KEYS]:
            size += len(strand.op.request)
            if count and size > BATCH_BYTES:
                break
            count += 1
        if count == len(waiting):
            del self._asking[lot]
        else:
            self._asking[lot] = waiting[count:]
        return waiting[:count]

    def _merged(self, lot: _Lot, batch: list[Strand]) -> Exchange:
        """The requests of ``batch`` in one, with one question for the generations behind all its reads."""
        for strand in batch:
            strand.reads = bool(self._env.cut(strand.op.request, strand.op.expected)[1])
        request, expected = self._env.together((strand.op.request, strand.op.expected) for strand in batch)
        lost = [strand.op.lost for strand in batch if strand.op.lost is not None]
        return Exchange(
            lot[0],
            request,
            expected,
            self._env.token,
            retry=lot[2],
            held_since=lot[1],
            lost=partial(_tell_all, lost) if lost else None,
        )

    def _answer(self, batch: list[Strand], outcome: Replies) -> None:
        """Give each flow its own replies, and those for the generations."""
        replies, at = outcome.replies, 0
        behind = replies[len(replies) - self._env.groups :]
        for strand in batch:
            op = strand.op
            end = at + op.expected - (self._env.groups if strand.reads else 0)
            own = replies[at + op.skip : end]
            at = end
            self._go_on(strand, strand.flow.send, Replies(own + behind if strand.reads else own, outcome.sent_at))

    def _gather(self) -> Flow[None]:
        """What some flows ask of several servers each, in one window."""
        size = count = 0
        for strand in self._gathering:
            size += sum(ask.expected for ask in strand.op.exchanges)
            if count and size > COMMANDS:
                break
            count += 1
        strands, self._gathering = self._gathering[:count], self._gathering[count:]
        asks: dict[int, list[Exchange]] = {}
        for strand in strands:
            for ask in strand.op.exchanges:
                asks.setdefault(ask.server, []).append(ask)
        outcomes = yield Gather(tuple([self._in_one(server, each) for server, each in asks.items()]))
        apart = {server: _split(each, outcome) for (server, each), outcome in zip(asks.items(), outcomes, strict=True)}
        for strand in strands:
            own = [next(apart[ask.server]) for ask in strand.op.exchanges]
            self._go_on(strand, strand.flow.send, own)

    def _in_one(self, server: int, asks: list[Exchange]) -> Exchange:
        request, expected = b"".join([ask.request for ask in asks]), sum(ask.expected for ask in asks)
        return Exchange(server, request, expected, self._env.token, retry=all(ask.retry for ask in asks))

    # -- runs --------------------------------------------------------------------------------------------------------

    def _spawn(self) -> Flow[None]:
        strands, self._spawning = self._spawning, []
        flows = [strand.op.flow for strand in strands]
        inner = Together(flows, [strand.position for strand in strands], self._env, self._compute)
        taken = yield Spawn(inner.values())
        for strand in strands:
            self._go_on(strand, strand.flow.send, taken)

    def _run(self) -> Flow[None]:
        strands, self._running = sorted(self._running, key=attrgetter("position")), []
        frames: list[Filling] = [strand.op.frame for strand in strands]
        notes = Notes()
        notes.hears = frames[0].notes.hears
        together = frames[0]._replace(
            ends=min(frame.ends for frame in frames),
            notes=notes,
            more=frozenset(frame.key for frame in frames),
            wings=tuple(frame.flight for frame in frames if frame.flight is not None),
        )
        self._env.recipe.tally.fills += 1
        try:
            values = yield Compute(partial(self._compute, [strand.position for strand in strands]), together)
        except BaseException as error:
            for frame in frames:
                frame.notes.take(notes)
            if not isinstance(error, Exception):
                raise
            self._failures.append((error, error.__traceback__))  # it is theirs, and reaches the caller by them
            self._throw(strands, error)
            return
        finally:
            self._env.flights = self._env.origin.flights  # new ones, where the function has forked
        ended = self._env.monotonic()
        self._env.monotonic = lambda: ended  # to write down what others loaded is no part of anybody's running time
        try:
            for strand, frame, value in zip(strands, frames, values, strict=True):
                frame.notes.take(notes)
                self._go_on(strand, strand.flow.send, value)
        finally:
            self._env.monotonic = self._env.origin.monotonic

    # -- waits -------------------------------------------------------------------------------------------------------

    def _wait(self) -> Flow[None]:
        """Wait for the first who waits for a run of this process, but not beyond anybody's time; those who sleep wake
        together, so that they ask in one window.
        """
        env, waiting = self._env, self._waiting
        asleep = self._asleep()
        soonest = min(strand.until for strand in waiting)
        left = max(0.0, soonest - env.waiting())
        joining = [strand for strand in waiting if isinstance(strand.op, Join)]
        landed: bool | None = False
        if joining:
            landed = yield from join(env, joining[0].op.flight, left)
        else:
            yield Sleep(left)
        now = env.waiting() if landed is not False else max(soonest, env.waiting())
        ready: list[tuple[Strand, Any]] = []
        if any(strand.until <= now for strand in asleep):
            self._looked, ready = asleep, [(strand, None) for strand in asleep]
        ready += yield from self._landed(joining, landed, now)
        going = {id(strand) for strand, _ in ready}
        self._waiting = [strand for strand in waiting if id(strand) not in going]
        for strand, outcome in ready:
            self._go_on(strand, strand.flow.send, outcome)

    def _asleep(self) -> list[Strand]:
        """Who is to wake next, of those who sleep: all of them, or one batch in turn after a look that found nothing
        new. To look at thousands takes longer than the pause, and a run that makes them ends for all at about one time.
        """
        asleep = [strand for strand in self._waiting if isinstance(strand.op, Sleep)]
        still = [strand.until for strand in self._looked if not strand.ended and isinstance(strand.op, Sleep)]
        if not still or len(still) < len(self._looked):
            return asleep
        rested = min(still)
        for strand in asleep:
            strand.until = max(strand.until, rested)
        return sorted(asleep, key=attrgetter("until"))[:BATCH_KEYS]

    def _landed(self, joining: list[Strand], landed: bool | None, now: float) -> Flow[list[tuple[Strand, Any]]]:
        """Those of ``joining`` who need not wait any more, with the outcomes of their waits; ``landed``: the first's.

        The flights of one batch land one right after the other, so behind the first that has not landed few have.
        """
        ready: list[tuple[Strand, Any]] = []
        for number, strand in enumerate(joining):
            if number and (landed is not False or strand.until <= now):
                landed = yield Join(strand.op.flight, 0.0)
            if landed is not False or strand.until <= now:
                ready.append((strand, landed))
        return ready


def _split(asks: list[Exchange], outcome: Replies | ServerError) -> Iterator[Replies | ServerError]:
    """The outcome of several requests that went out as one, for each of them."""
    at = 0
    for ask in asks:
        if isinstance(outcome, ServerError):
            yield outcome
        else:
            yield Replies(outcome.replies[at : at + ask.expected], outcome.sent_at)
            at += ask.expected


def nobody_runs(positions: list[int]) -> list[Any]:
    """The run of flows that only ask servers."""
    raise AssertionError(f"{len(positions)} of them want to run a function")


def _tell_all(lost: list[Callable[[], None]]) -> None:
    for tell in lost:
        tell()


def _own(error: BaseException) -> BaseException:
    """A generator turns a StopIteration that passes through it into a RuntimeError (PEP 479); the function's own."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, StopIteration):
        return error.__cause__
    return error
