"""The hit path of one decorated function: one write, one read, one glance.

A hit never enters a generator and makes no object that it does not need. Everything else is handed to the flows.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any
from zlib import crc32

from cachekit.env import Env, Job
from cachekit.errors import ServerError, Unreachable
from cachekit.flows.alone import run_uncached
from cachekit.flows.call import call, without_server
from cachekit.flows.fill import fill
from cachekit.flows.frames import FILLING
from cachekit.flows.lease import Lease
from cachekit.glance import EARLY, NOT_PLAIN, glance_at, plainly_mine
from cachekit.ops import Replies
from cachekit.recipe import Recipe
from cachekit.sync.drive import run
from cachekit.sync.fleet import AnyConnection, Fleet

Function = Callable[..., Any]
TagsOf = Callable[..., tuple[bytes, ...]]
Reader = Callable[..., Any]
"""Takes a wire key, and the function and arguments that make its value, and perhaps a ticket under which the near tier
may keep it; returns the stored value or a computed one.
"""


def reader(recipe: Recipe, fleet: Fleet, env: Env, tags: TagsOf | None = None) -> Reader:
    """The hit path of the function whose entries ``recipe`` describes. ``tags`` gives the wire keys of the records that
    stand over one call's entry alone.
    """
    slow = _SlowPath(recipe, fleet, env, tags)
    if recipe.ttl == 0:
        return slow.uncached
    if not recipe.enveloped:
        return slow.from_the_start
    if tags is not None or len(recipe.generations) > 1:
        return _under_many(slow)
    table, mask, suspects, getpid = fleet.ring.table, fleet.ring.mask, fleet.suspects, os.getpid
    template, tokens, glance = recipe.read_template, env.opaques, glance_at(recipe, env)
    explicit, inside = env.explicit, FILLING.get  # inside of a run, that run must know of this call: the flows tell it
    grouped = len(recipe.generations) == 1

    def read(key: bytes, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any], ticket: Any = None) -> Any:
        index = table[crc32(key) & mask]
        if index in suspects or inside() or getpid() != fleet.pid:
            return slow.from_the_start(key, function, args, kwargs, ticket)
        row = fleet.shelves.rows[index]
        connection: AnyConnection | None = None
        try:
            connection = row.pop() if row else fleet.connect(index)
            opaque = next(tokens)
            if index in explicit:
                request = recipe.read(key, opaque, env.number(index))
            else:
                request = template % ((key, opaque, opaque) if grouped else (key, opaque))
            data = connection.ask(request)
            if not data.endswith(b"\r\n"):
                data = connection.complete(data, and_more=grouped)
        except ServerError as error:
            return slow.after_failure(slow.job(key, index, function, args, kwargs, ticket), connection, error)
        except BaseException:
            env.read_lost(key)  # an interrupt; the reply that will never be read may hold a lease
            raise
        value = glance(key, data, opaque, index)
        if value is not NOT_PLAIN and value is not EARLY:
            row.append(connection)
            if ticket is not None:
                slow.keep(ticket, key, index, data, value, ())
            return value
        job = slow.job(key, index, function, args, kwargs, ticket)
        return slow.after_reply(job, connection, data, opaque, early=value is EARLY)

    return read


def _under_many(slow: _SlowPath) -> Reader:
    """The same for entries that bear tags or a namespace."""
    recipe, fleet, env, tags_of = slow.recipe, slow.fleet, slow.env, slow.tags_of
    table, mask, suspects, getpid = fleet.ring.table, fleet.ring.mask, fleet.suspects, os.getpid
    tokens, glance, explicit, own = env.opaques, glance_at(recipe, env), env.explicit, len(recipe.generations)
    asking, inside = recipe.read_tagged, FILLING.get

    def read(key: bytes, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any], ticket: Any = None) -> Any:
        tags = tags_of(*args, **kwargs) if tags_of is not None else ()
        index = table[crc32(key) & mask]
        if index in suspects or inside() or getpid() != fleet.pid:
            return slow.from_the_start(key, function, args, kwargs, ticket)
        row = fleet.shelves.rows[index]
        connection: AnyConnection | None = None
        try:
            connection = row.pop() if row else fleet.connect(index)
            opaque = next(tokens)
            if index in explicit:
                request = recipe.read(key, opaque, env.number(index), tags=tags)
            else:
                request = asking(key, opaque, tags)
            data = connection.ask(request)
            if not data.endswith(b"\r\n"):
                data = connection.complete(data, and_more=bool(own or tags))
        except ServerError as error:
            job = Job(recipe, key, index, partial(function, *args, **kwargs), tags, ticket)
            return slow.after_failure(job, connection, error)
        except BaseException:
            env.read_lost(key)  # an interrupt; the reply that will never be read may hold a lease
            raise
        value = glance(key, data, opaque, index, None, len(tags) + own)
        if value is not NOT_PLAIN and value is not EARLY:
            row.append(connection)
            if ticket is not None:
                slow.keep(ticket, key, index, data, value, tags)
            return value
        job = Job(recipe, key, index, partial(function, *args, **kwargs), tags, ticket)
        return slow.after_reply(job, connection, data, opaque, early=value is EARLY)

    return read


class _SlowPath:
    """Where the hit path hands over: the same read, told to the flows."""

    def __init__(self, recipe: Recipe, fleet: Fleet, env: Env, tags_of: TagsOf | None) -> None:
        self.recipe, self.fleet, self.env, self.tags_of = recipe, fleet, env, tags_of
        self._keep_plain: Callable[..., None] | None = None

    def job(
        self, key: bytes, index: int, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any], ticket: Any
    ) -> Job:
        """The call as the flows want it."""
        tags = self.tags_of(*args, **kwargs) if self.tags_of is not None else ()
        return Job(self.recipe, key, index, partial(function, *args, **kwargs), tags, ticket)

    def keep(self, ticket: Any, key: bytes, index: int, data: bytes, value: Any, tags: tuple[bytes, ...]) -> None:
        """Keep a plain hit in the near tier."""
        if self._keep_plain is None:
            from cachekit.flows.nearby import keep_plain  # noqa: PLC0415 - few functions have one

            self._keep_plain = keep_plain
        self._keep_plain(self.recipe, self.env, ticket, key, index, data, value, tags)

    def from_the_start(
        self, key: bytes, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any], ticket: Any = None
    ) -> Any:
        """Nothing has been asked yet."""
        job = self.job(key, self.fleet.ring.index(key), function, args, kwargs, ticket)
        return run(call(job, self.env, None), self.fleet)

    def uncached(self, key: bytes, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The ttl is 0."""
        job = self.job(key, self.fleet.ring.index(key), function, args, kwargs, None)
        return run(run_uncached(job, self.env), self.fleet)

    def after_reply(self, job: Job, connection: AnyConnection, data: bytes, opaque: int, *, early: bool) -> Any:
        """A reply came that is not plainly fresh; ``data`` is its beginning or all of it. ``early``: this reader has
        drawn, and is to refresh the value before its ttl.
        """
        mine = plainly_mine(data, opaque, bool(self.recipe.generations)) if job.expected <= 2 else None
        if mine is not None:
            since = connection.opened_at  # and not now: a handler or listener may have opened another meanwhile
            self.fleet.put(job.server, connection)
            self.env.missed(job, "absent")
            cas, generations = mine
            return run(fill(job, self.env, Lease(cas, since, generations)), self.fleet)
        try:
            replies = connection.replies(data, job.expected, opaque)
        except ServerError as error:
            return self.after_failure(job, connection, error)
        since = connection.opened_at
        self.fleet.put(job.server, connection)
        return run(call(job, self.env, Replies(replies, since), early=early), self.fleet)

    def after_failure(self, job: Job, connection: AnyConnection | None, error: ServerError) -> Any:
        """The read failed. On a ``connection`` that the server had closed it is made once more, on a new one."""
        if connection is not None:
            self.env.read_lost(job.key)
        if connection is not None and isinstance(error, Unreachable):
            self.fleet.drop(job.server)
            return run(call(job, self.env, None), self.fleet)
        if connection is not None:
            self.fleet.failed(job.server, error)
        self.env.trouble(job, error)
        self.env.missed(job, "no answer")
        return run(without_server(job, self.env), self.fleet)
