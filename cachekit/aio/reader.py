"""The hit path of one decorated coroutine function: one request, one answer, one glance.

A hit never enters a generator and makes no task. Everything else is handed to the flows.
"""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any
from zlib import crc32

from cachekit.aio.connection import ROOM
from cachekit.aio.drive import finish, run
from cachekit.aio.fleet import AnyLine, AsyncFleet
from cachekit.aio.loops import Loops
from cachekit.aio.turns import Read, Turn
from cachekit.env import Env, Job
from cachekit.errors import ProtocolError, ServerError, Unreachable
from cachekit.flows.alone import run_uncached
from cachekit.flows.call import call, without_server
from cachekit.flows.fill import fill
from cachekit.flows.frames import FILLING
from cachekit.flows.lease import Lease
from cachekit.glance import EARLY, NOT_PLAIN, glance_at, plainly_mine
from cachekit.ops import Exchange, Flow, Replies
from cachekit.recipe import Recipe

Function = Callable[..., Any]
TagsOf = Callable[..., tuple[bytes, ...]]
Reader = Callable[..., Coroutine[Any, Any, Any]]
"""Takes a wire key, and the function and arguments that make its value, and perhaps a ticket under which the near tier
may keep it; the coroutine returns the stored value or a computed one.
"""


def reader(recipe: Recipe, loops: Loops, env: Env, name: str, tags: TagsOf | None = None) -> Reader:
    """The hit path of the coroutine function ``name``, whose entries ``recipe`` describes. ``tags`` gives the wire keys
    of the records that stand over one call's entry alone.
    """
    slow = _SlowPath(recipe, loops, env, tags)
    if recipe.ttl == 0:
        return slow.uncached
    if not recipe.enveloped:
        return slow.from_the_start
    one = tags is None and len(recipe.generations) == 1
    if loops.roster.embedded is not None:
        read = _in_memory(slow, one)
    else:
        read = _under_a_generation(slow) if one else _under_many(slow)
    # Its coroutines bear the user's name in the warning about a forgotten await, and in what a task shows of itself.
    read.__name__ = read.__qualname__ = name
    return read


def _under_a_generation(slow: _SlowPath) -> Reader:
    """Reads under their function's generation alone."""
    recipe, loops, env = slow.recipe, slow.loops, slow.env
    roster, fleets, generation = loops.roster, loops.fleets, recipe.generations[0]
    table, mask, suspects = roster.ring.table, roster.ring.mask, roster.suspects
    tokens, glance, explicit = env.opaques, glance_at(recipe, env), env.explicit
    inside = FILLING.get  # inside of a run, that run must know of this call: the flows tell it
    own, own_numbered = recipe.alone(), recipe.alone(explicit=True)

    async def read(
        key: bytes, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any], ticket: Any = None
    ) -> Any:
        index = table[crc32(key) & mask]
        fleet: Any = fleets.get(get_running_loop())  # whose lines are connections here
        if fleet is None or index in suspects or inside() or (line := fleet.lines[index]) is None:
            return await slow.from_the_start(key, function, args, kwargs, ticket)
        opaque = next(tokens)
        number = env.number(index) if index in explicit else 0
        turn = line.turn or line.open_turn(opaque, number)
        turn.generations[generation] = None
        answer = line.read(own_numbered % (key, number, opaque) if number else own % (key, opaque), turn)
        try:
            reply, turn = await answer
        except ServerError as error:
            job = slow.job(key, function, args, kwargs, (), ticket)
            return await slow.after_failure(job, fleet, line, answer, opaque, error)
        except BaseException:
            slow.left(slow.job(key, function, args, kwargs, (), ticket), fleet, line, answer, opaque)
            raise
        value = glance(key, reply, opaque, index, turn.numbers[generation])
        if value is not NOT_PLAIN and value is not EARLY:
            if ticket is not None:
                slow.keep(ticket, key, index, reply, value, ())
            return value
        job = slow.job(key, function, args, kwargs, (), ticket)
        data = turn.whole(reply, opaque, job.groups)
        return await slow.after_answer(job, fleet, line, data, opaque, early=value is EARLY)

    return read


def _under_many(slow: _SlowPath) -> Reader:
    """Reads that stand under records of their own tags and of a namespace, too; or under none at all."""
    recipe, loops, env, tags_of = slow.recipe, slow.loops, slow.env, slow.tags_of
    roster, fleets, generations = loops.roster, loops.fleets, recipe.generations
    table, mask, suspects = roster.ring.table, roster.ring.mask, roster.suspects
    tokens, glance, explicit, common = env.opaques, glance_at(recipe, env), env.explicit, 1 + len(generations)
    inside = FILLING.get  # as above
    own, own_numbered = recipe.alone(), recipe.alone(explicit=True)

    async def read(
        key: bytes, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any], ticket: Any = None
    ) -> Any:
        tags = tags_of(*args, **kwargs) if tags_of is not None else ()
        index = table[crc32(key) & mask]
        fleet: Any = fleets.get(get_running_loop())  # whose lines are connections here
        if fleet is None or index in suspects or inside() or (line := fleet.lines[index]) is None:
            return await slow.unread(slow.job(key, function, args, kwargs, tags, ticket))
        opaque = next(tokens)
        number = env.number(index) if index in explicit else 0
        if len(tags) + common > ROOM:
            line.make_room(len(tags) + common)
        turn = line.turn or line.open_turn(opaque, number)
        for tag in tags:
            turn.tags[tag] = None
        for generation in generations:
            turn.generations[generation] = None
        answer = line.read(own_numbered % (key, number, opaque) if number else own % (key, opaque), turn)
        try:
            reply, turn = await answer
        except ServerError as error:
            job = slow.job(key, function, args, kwargs, tags, ticket)
            return await slow.after_failure(job, fleet, line, answer, opaque, error)
        except BaseException:
            slow.left(slow.job(key, function, args, kwargs, tags, ticket), fleet, line, answer, opaque)
            raise
        told = tuple(map(turn.numbers.__getitem__, (*tags, *generations)))
        value = glance(key, reply, opaque, index, told, len(told))
        if value is not NOT_PLAIN and value is not EARLY:
            if ticket is not None:
                slow.keep(ticket, key, index, reply, value, tags)
            return value
        job = slow.job(key, function, args, kwargs, tags, ticket)
        data = turn.whole(reply, opaque, job.groups)
        return await slow.after_answer(job, fleet, line, data, opaque, early=value is EARLY)

    return read


def _in_memory(slow: _SlowPath, one: bool) -> Reader:
    """Reads from the embedded server: nothing is sent, so there is nothing to share and nothing to wait for. ``one``:
    under a generation alone.
    """
    recipe, fleets, env, tags_of = slow.recipe, slow.loops.fleets, slow.env, slow.tags_of
    tokens, glance, explicit = env.opaques, glance_at(recipe, env), env.explicit
    asking, common, inside = recipe.read_tagged, len(recipe.generations), FILLING.get

    async def read(
        key: bytes, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any], ticket: Any = None
    ) -> Any:
        tags = tags_of(*args, **kwargs) if tags_of is not None else ()
        fleet = fleets.get(get_running_loop())
        if fleet is None or inside() or (line := fleet.lines[0]) is None:
            return await slow.unread(slow.job(key, function, args, kwargs, tags, ticket))
        opaque, many = next(tokens), 0 if one else len(tags) + common
        request = recipe.read(key, opaque, env.number(0), tags=tags) if explicit else asking(key, opaque, tags)
        data = await line.ask(request, 1 + many)
        value = glance(key, data, opaque, 0, None, many)
        if value is not NOT_PLAIN and value is not EARLY:
            if ticket is not None:
                slow.keep(ticket, key, 0, data, value, tags)
            return value
        job = slow.job(key, function, args, kwargs, tags, ticket)
        return await slow.after_answer(job, fleet, line, data, opaque, early=value is EARLY)

    return read


class _SlowPath:
    """Where the hit path hands over: the same read, told to the flows."""

    def __init__(self, recipe: Recipe, loops: Loops, env: Env, tags_of: TagsOf | None) -> None:
        self.recipe, self.loops, self.env, self.tags_of = recipe, loops, env, tags_of
        self._keep_plain: Callable[..., None] | None = None

    def job(
        self,
        key: bytes,
        function: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tags: tuple[bytes, ...],
        ticket: Any = None,
    ) -> Job:
        """The call as the flows want it."""
        index = self.loops.roster.ring.index(key)
        return Job(self.recipe, key, index, partial(function, *args, **kwargs), tags, ticket)

    def keep(self, ticket: Any, key: bytes, index: int, data: bytes, value: Any, tags: tuple[bytes, ...]) -> None:
        """Keep a plain hit in the near tier."""
        if self._keep_plain is None:
            from cachekit.flows.nearby import keep_plain  # noqa: PLC0415 - few functions have one

            self._keep_plain = keep_plain
        self._keep_plain(self.recipe, self.env, ticket, key, index, data, value, tags)

    async def from_the_start(
        self, key: bytes, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any], ticket: Any = None
    ) -> Any:
        """Nothing has been asked yet, also not for tags."""
        tags = self.tags_of(*args, **kwargs) if self.tags_of is not None else ()
        return await self.unread(self.job(key, function, args, kwargs, tags, ticket))

    async def unread(self, job: Job) -> Any:
        """No server has been asked yet."""
        return await run(call(job, self.env, None), self.loops.here())

    async def uncached(self, key: bytes, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The ttl is 0."""
        tags = self.tags_of(*args, **kwargs) if self.tags_of is not None else ()
        return await run(run_uncached(self.job(key, function, args, kwargs, tags), self.env), self.loops.here())

    async def after_answer(
        self, job: Job, fleet: AsyncFleet, line: AnyLine, data: bytes, opaque: int, *, early: bool
    ) -> Any:
        """An answer came that is not plainly fresh. ``early``: this reader has drawn, and is to refresh the value
        before its ttl.
        """
        mine = plainly_mine(data, opaque, bool(self.recipe.generations)) if job.expected <= 2 else None
        if mine is not None:
            self.env.missed(job, "absent")
            cas, generations = mine
            return await run(fill(job, self.env, Lease(cas, line.opened_at, generations)), fleet)
        try:
            flow = self._judged(job, fleet, line, data, opaque, early)
        except ProtocolError as error:
            self.env.read_lost(job.key)
            return await self.without_answer(job, fleet, error)
        return await run(flow, fleet)

    def _judged(self, job: Job, fleet: AsyncFleet, line: AnyLine, data: bytes, opaque: int, early: bool) -> Flow[Any]:
        """The way of a call whose first read brought ``data``. Raises ``ProtocolError``."""
        asked = Exchange(job.server, b"", job.expected, opaque)
        replies: Replies = fleet.understood(asked, line, data, line.opened_at)
        return call(job, self.env, replies, early=early)

    async def after_failure(
        self, job: Job, fleet: AsyncFleet, line: AnyLine, answer: Read, opaque: int, error: ServerError
    ) -> Any:
        """The read failed. On a connection that the server had closed it is made once more, on a new one."""
        self.left(job, fleet, line, answer, opaque)
        if isinstance(error, Unreachable):
            return await run(call(job, self.env, None), fleet)
        return await self.without_answer(job, fleet, error)

    async def without_answer(self, job: Job, fleet: AsyncFleet, error: ServerError) -> Any:
        """The server can't be asked, or makes no sense."""
        self.env.trouble(job, error)
        self.env.missed(job, "no answer")
        return await run(without_server(job, self.env), fleet)

    def left(self, job: Job, fleet: AsyncFleet, line: AnyLine, answer: Read, opaque: int) -> None:
        """The caller went on without the answer. Should one come, with a lease in it, the lease is given back."""

        def heard(told: tuple[bytes, Turn] | None) -> None:
            data = b"" if told is None else told[1].whole(told[0], opaque, job.groups)
            if told is None:
                self.env.read_lost(job.key)
            elif b" W" in data:
                try:
                    finish(self._judged(job, fleet, line, data, opaque, early=False), fleet)
                except ProtocolError:
                    self.env.read_lost(job.key)

        if answer.done() and not answer.cancelled() and answer.exception() is None:
            heard(answer.result())
        else:
            line.entrust(answer, heard)
