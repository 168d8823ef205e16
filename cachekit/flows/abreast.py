"""Flows that only ask servers, driven side by side: what they want goes out in common windows.

For invalidations of different functions, tags and namespaces at once. ``together.py`` is for stories that may come to
run something, and of one function only.
"""

# Annotations are not postponed here, as in the other flows.

from collections.abc import Callable, Sequence
from typing import Any

from cachekit.env import Env
from cachekit.errors import ServerError
from cachekit.ops import BATCH_BYTES, BATCH_KEYS, Exchange, Flow, Gather, Op, Replies
from cachekit.tally import Tally

Teller = Callable[[Env], Flow[bool]]
"""Makes the flow of one invalidation, for the surroundings that it is told in."""


class OneToken(Env):
    """The surroundings ``env`` of flows whose requests share exchanges: one token for all of them, and an exchange that
    failed is told once.
    """

    def __init__(self, env: Env) -> None:
        self.__dict__.update(env.__dict__)
        self.origin = env
        self.token = env.opaque()
        self._told: list[Exception] = []

    def opaque(self) -> int:
        """The token that all of them share."""
        return self.token

    def failed_at(self, server: int, tally: Tally, error: Exception) -> None:
        """An exchange failed; told by the first of the flows that it concerns."""
        if not any(error is told for told in self._told):
            self._told.append(error)
            self.origin.failed_at(server, tally, error)


def tell_abreast(tellers: Sequence[Teller], env: Env) -> Flow[bool]:
    """Send several invalidations, in as few windows as they need; whether every server concerned acknowledged all."""
    if len(tellers) == 1:
        return (yield from tellers[0](env))
    shared = OneToken(env)
    outcomes = yield from _abreast([tell(shared) for tell in tellers], shared.token)
    return all(outcomes)


class _Lane:
    """One of the flows: the exchanges that it wants now, and their outcomes."""

    __slots__ = ("flow", "outcomes", "single", "value", "wants")

    def __init__(self, flow: Flow[Any]) -> None:
        self.flow = flow
        self.value: Any = None
        self.wants: tuple[Exchange, ...] = ()
        self.single = False
        self.outcomes: list[Replies | ServerError | None] = []

    def go_on(self) -> bool:
        """Let it run to what it wants next; False: it has ended."""
        try:
            op = self._next()
            while isinstance(op, Gather) and not op.exchanges:
                op = self.flow.send([])
        except StopIteration as end:
            self.value = end.value
            return False
        if not isinstance(op, Exchange | Gather):
            raise TypeError(f"an invalidation only asks servers: {type(op).__name__}")
        self.single = isinstance(op, Exchange)
        self.wants = (op,) if isinstance(op, Exchange) else op.exchanges
        self.outcomes = [None] * len(self.wants)
        return True

    def _next(self) -> Op:
        """Give it the outcomes of what it wanted last."""
        outcomes: Any = self.outcomes
        if not self.wants:
            return next(self.flow)
        if not self.single:
            return self.flow.send(outcomes)
        if isinstance(outcomes[0], ServerError):
            return self.flow.throw(outcomes[0])
        return self.flow.send(outcomes[0])


def _abreast(flows: Sequence[Flow[Any]], token: int) -> Flow[list[Any]]:
    """Drive ``flows``, all of which send ``token``, to their ends; what they returned."""
    lanes = [_Lane(flow) for flow in flows]
    going = list(lanes)
    try:
        while going := [lane for lane in going if lane.go_on()]:
            asking = [(lane, at) for lane in going for at in range(len(lane.wants))]
            while asking:
                asking = yield from _window(asking, token)
    except BaseException as interrupt:
        for lane in going:
            _interrupted(lane.flow, interrupt)
        raise
    return [lane.value for lane in lanes]


def _window(asking: list[tuple[_Lane, int]], token: int) -> Flow[list[tuple[_Lane, int]]]:
    """Ask every server for as much as it can take before its answers are read; what is left to be asked."""
    batches: dict[int, list[tuple[_Lane, int]]] = {}
    sizes: dict[int, int] = {}
    left: list[tuple[_Lane, int]] = []
    for lane, at in asking:
        op = lane.wants[at]
        batch = batches.setdefault(op.server, [])
        size = sizes.get(op.server, 0) + len(op.request)
        first = batch[0][0].wants[batch[0][1]] if batch else op
        alike = (op.retry, op.held_since) == (first.retry, first.held_since)
        if batch and not (alike and size <= BATCH_BYTES and len(batch) < BATCH_KEYS):
            left.append((lane, at))
            continue
        batch.append((lane, at))
        sizes[op.server] = size
    exchanges = [_merged(server, [lane.wants[at] for lane, at in batch], token) for server, batch in batches.items()]
    for batch, outcome in zip(batches.values(), (yield Gather(tuple(exchanges))), strict=True):
        begin = 0
        for lane, at in batch:
            if isinstance(outcome, ServerError):
                lane.outcomes[at] = outcome
            else:
                end = begin + lane.wants[at].expected
                lane.outcomes[at] = outcome._replace(replies=outcome.replies[begin:end])
                begin = end
    return left


def _merged(server: int, wants: list[Exchange], token: int) -> Exchange:
    """The requests to one server in one; they are alike in what may become of them."""
    request = b"".join([op.request for op in wants])
    expected = sum([op.expected for op in wants])
    return Exchange(server, request, expected, token, retry=wants[0].retry, held_since=wants[0].held_since)


def _interrupted(flow: Flow[Any], interrupt: BaseException) -> None:
    """Let the flow hear of it; what it wants to ask now, nobody asks."""
    try:
        flow.throw(interrupt)
        flow.close()
    except BaseException:  # noqa: BLE001 - the interrupt itself is raised by who drives
        pass
