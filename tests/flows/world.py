"""Runs flows against embedded servers under one scripted clock: real answers, and trouble where a test wants it.

Where ``scripted.Script`` says what a server answers, here servers answer what they would; a test looks at what was
asked, and changes what stands there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cachekit.embedded import EmbeddedServer
from cachekit.env import Env, Job
from cachekit.errors import ServerError
from cachekit.flows.batch import LoaderRecipe
from cachekit.flows.frames import FILLING
from cachekit.hooks import Hooks
from cachekit.meta import Parser
from cachekit.ops import Compute, Exchange, Flow, Gather, Join, Replies, Sleep, Spawn
from flows.scripted import Clock, driven, make_recipe


class World:
    """Servers, a clock, and what was asked of them. ``log``: the kinds of ops in their order; ``runs``: what the loader
    was asked for.

    ``trouble``: gives the error that an exchange meets, or None. ``during``: called by the loader while it runs.
    ``on_sleep``, ``on_join``: what happens elsewhere while the flow waits.
    """

    def __init__(self, servers: int = 2, **options: Any) -> None:
        self.clock = Clock()
        self.servers = [EmbeddedServer(clock=lambda: self.clock.now) for _ in range(servers)]
        self.hooks = Hooks()
        self.env = Env(tuple(f"server:{number}" for number in range(servers)), self.hooks)
        self.env.now = lambda: self.clock.now
        self.env.monotonic = lambda: self.clock.monotonic
        self.env.random, self.env.luck = lambda: 0.5, lambda: 0.0
        absent_ttl = options.pop("absent_ttl", 60.0)
        self.recipe = LoaderRecipe(make_recipe(**options), absent_ttl)
        self.log: list[str] = []
        self.exchanges: list[Exchange] = []
        self.windows: list[list[Exchange]] = []
        self.runs: list[list[Any]] = []
        self.spawned: list[Flow[Any]] = []
        self.room = True
        self.opened_at = 0.0
        self.trouble: Callable[[Exchange], BaseException | None] = lambda _: None
        self.during: Callable[[], Any] = lambda: None
        self.on_sleep: Callable[[], Any] = lambda: None
        self.on_join: Callable[[Join], bool | None] = lambda _: False
        self.load: Callable[[Any], Any] = lambda number: f"value {number}"

    def job(self, number: int) -> Job:
        """The entry of one id; even ids live on the first of two servers."""
        return Job(self.recipe, b"app:report:%024d" % number, number % len(self.servers), lambda: None)

    def jobs(self, *numbers: int) -> list[Job]:
        """The entries of these ids."""
        return [self.job(number) for number in numbers]

    def compute(self, *numbers: int) -> Callable[[list[int]], list[Any]]:
        """The loader, for a batch of these ids."""

        def run(positions: list[int]) -> list[Any]:
            self.runs.append([numbers[position] for position in positions])
            self.during()
            return [self.load(numbers[position]) for position in positions]

        return run

    def handle(self, number: int, line: bytes) -> list[Any]:
        """What somebody else says to the server of that id; ``{}`` in ``line`` is its key."""
        job = self.job(number)
        return Parser().feed(self.servers[job.server].handle(line.replace(b"{}", job.key)))

    def bump(self) -> None:
        """Somebody invalidates all."""
        for server in self.servers:
            server.handle(b"md " + self.recipe.generations[0] + b"\r\n")

    def run(self, flow: Flow[Any]) -> Any:
        """Drive ``flow`` to its end."""
        return driven(flow, self.perform)

    def perform(self, op: Any) -> Any:
        """What becomes of one op."""
        self.log.append(type(op).__name__)
        if isinstance(op, Exchange):
            self.windows.append([op])
            return self._exchange(op)
        if isinstance(op, Gather):
            self.windows.append(list(op.exchanges))
            return [self._outcome(each) for each in op.exchanges]
        if isinstance(op, Compute):
            token = FILLING.set((*FILLING.get(), op.frame))
            try:
                return op.call()
            finally:
                FILLING.reset(token)
        if isinstance(op, Spawn):
            if self.room:
                self.spawned.append(op.flow)
            return self.room
        if isinstance(op, Sleep):
            self.clock.pass_by(op.seconds)
            return self.on_sleep()
        assert isinstance(op, Join)
        landed = self.on_join(op)
        if landed is False:
            self.clock.pass_by(op.timeout_s)
        return landed

    def _outcome(self, op: Exchange) -> Replies | ServerError:
        try:
            return self._exchange(op)
        except ServerError as error:
            return error

    def _exchange(self, op: Exchange) -> Replies:
        self.exchanges.append(op)
        error = self.trouble(op)
        if error is not None:
            raise error
        replies = Parser().feed(self.servers[op.server].handle(op.request))
        assert sum(reply.code != "VALUE" for reply in replies) == op.expected, (op, replies)
        if op.opaque is not None:
            assert all(reply.opaque == b"%d" % op.opaque for reply in replies if reply.code != "ERROR")
        assert op.fits is None or op.fits(replies), (op, replies)
        return Replies(replies[op.skip :], self.clock.monotonic)

    def words(self, word: bytes) -> list[list[int]]:
        """For each window: how many commands ``word`` it has for each server that it asks."""
        return [[each.request.count(word) for each in window] for window in self.windows]
