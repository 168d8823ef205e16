"""A world whose entries bear tags, and what its surroundings hear of bumps."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from cachekit.embedded import EmbeddedServer
from cachekit.env import Job
from cachekit.flows.call import call
from cachekit.flows.frames import FILLING
from cachekit.flows.tell import Group, bump, function_of, tags_of
from cachekit.meta import Parser, Reply
from flows.world import World


class Undelivered(NamedTuple):
    """What was put off."""

    server: int
    keys: frozenset[bytes]
    soft: bool
    kind: int


class Numbering:
    """A server that takes CAS numbers from its clients, as far as it is needed here: an E is taken off, and the numbers
    that this leaves are the server's own. ``answer`` may change what it says to a request.
    """

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server
        self.answer: Callable[[bytes, bytes], bytes] = lambda request, reply: reply

    def handle(self, request: bytes) -> bytes:
        """The answers to ``request``."""
        reply = self.server.handle(re.sub(rb" E\d+", b"", request))
        return self.answer(request, reply)


class Tagged(World):
    """Entries of ids that bear ``tags``: the record of each, and what happens is noted.

    ``told``: what the surroundings were told, in order: ("touched", key), ("asked", server). ``kept``: what could not
    be delivered.
    """

    def __init__(self, servers: int = 2, **options: Any) -> None:
        super().__init__(servers, **options)
        self.says = [Numbering(server) for server in self.servers]
        self.servers = self.says  # type: ignore[assignment]
        self.told: list[tuple[str, Any]] = []
        self.kept: list[Undelivered] = []
        self.events: list[Any] = []
        for listen in (self.hooks.on_invalidate, self.hooks.on_trouble, self.hooks.on_hit, self.hooks.on_miss):
            listen(self.events.append)
        self.env.touched = self._touched  # type: ignore[method-assign]
        self.env.keep = self._keep
        self.results = iter(f"value {number}" for number in range(10_000))
        self.called = 0

    def _touched(self, *keys: bytes) -> None:
        self.told += [("touched", key) for key in keys]

    def _keep(self, server: int, keys: tuple[bytes, ...], *, soft: bool, kind: int, group: bytes) -> None:
        self.kept.append(Undelivered(server, frozenset(keys), soft, kind))

    def _exchange(self, op: Any) -> Any:
        self.told.append(("asked", op.server))
        return super()._exchange(op)

    def tagged(self, number: int, *tags: str) -> Job:
        """The entry of an id that bears those tags; each run gives another value."""
        return self.job(number)._replace(tags=tuple([group.key for group in self.groups(*tags)]), compute=self._run)

    def _run(self) -> Any:
        self.called += 1
        value = next(self.results)
        self.during()
        return value

    def groups(self, *tags: str) -> list[Group]:
        """The tags' groups."""
        return tags_of(b"app", tags)

    def bumped(self, *tags: str, soft: bool = False) -> Any:
        """Bump those tags, or the function's own record where there are none."""
        groups = self.groups(*tags) if tags else [function_of(self.recipe)]
        return self.run(bump(groups, self.env, self.recipe.tally, soft=soft))

    def ask(self, job: Job) -> Any:
        """Make the call."""
        return self.run(call(job, self.env, None))

    def aside(self, flow: Any) -> Any:
        """Drive a flow in the middle of another's, and leave no trace of what it asks."""
        kept = [list(each) for each in (self.log, self.exchanges, self.windows, self.told)]
        try:
            return self.run(flow)
        finally:
            for each, before in zip((self.log, self.exchanges, self.windows, self.told), kept, strict=True):
                each[:] = before  # type: ignore[index]

    def another(self, job: Job) -> Any:
        """Somebody else makes the call, in another process."""
        return self.elsewhere(call(job, self.env, None))

    def elsewhere(self, flow: Any) -> Any:
        """Drive a flow as if in another process, in the middle of one of this."""
        flights, self.env.flights = self.env.flights, type(self.env.flights)()
        token = FILLING.set(())
        try:
            return self.aside(flow)
        finally:
            FILLING.reset(token)
            self.env.flights = flights

    def somebody_bumps(self, *tags: str, soft: bool = False) -> None:
        """Another process bumps them; nobody here hears of it."""
        events, kept = list(self.events), list(self.kept)
        groups = self.groups(*tags) if tags else [function_of(self.recipe)]
        self.aside(bump(groups, self.env, self.recipe.tally, soft=soft))
        self.events[:], self.kept[:] = events, kept

    def forget(self) -> None:
        """What was asked and heard so far is of no interest."""
        for each in (self.log, self.exchanges, self.windows, self.runs, self.told, self.kept, self.events):
            each.clear()
        self.called = 0

    @property
    def commands(self) -> list[list[str]]:
        """What was asked, request by request: each command and its key's last part, a lease's fields left out."""
        return [
            [_short(line) for line in op.request.split(b"\r\n") if line[:3] in (b"mg ", b"md ", b"ms ")]
            for op in self.exchanges
        ]

    def record(self, server: int, tag: str = "") -> Reply:
        """The record of a tag, or of the function, as that server has it."""
        key = self.groups(tag)[0].key if tag else self.recipe.generations[0]
        return Parser().feed(self.servers[server].handle(b"mg " + key + b" c t v\r\n"))[0]

    def heard(self, kind: type) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


def filled(**options: Any) -> tuple[Tagged, Any]:
    """An entry under the tag a, with the value 0; and what was asked for it is forgotten."""
    world = Tagged(**{"ttl": 60.0, "stale_s": 30.0, **options})
    job = world.tagged(1, "a")
    assert world.ask(job) == "value 0"
    world.forget()
    return world, job


def _short(line: bytes) -> str:
    words = line.decode().split()
    what = words[0] + ("I" if "I" in words[2:] else "") + ("v" if words[0] == "mg" and "v" in words[2:] else "")
    return f"{what} {words[1].removeprefix('app:').rpartition('report:')[2].lstrip('0') or '0'}"
