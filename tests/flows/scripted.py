"""Runs a flow against a list of scripted answers: no socket, no loop, no sleep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cachekit.codecs import Packer, Registry, resolve
from cachekit.env import Env, Job
from cachekit.expiry import Ttl
from cachekit.hooks import Hooks
from cachekit.meta import Parser
from cachekit.ops import Compute, Exchange, Flow, Join, Replies, Sleep
from cachekit.recipe import Recipe, Snapshot

KEY = b"app:report:AAAAAAAAAAAAAAAAAAAAAAAA"
GENERATION = b"app:report:gen="


def make_recipe(ttl: Ttl = 60.0, **options: Any) -> Recipe:
    """The recipe of a function ``report`` with one generation."""
    registry = Registry()
    settings: dict[str, Any] = {"generations": (GENERATION,), "lease_s": 10.0, **options}
    return Recipe(name="app:report", packer=Packer(resolve(None, registry=registry)), ttl=ttl, **settings)


class Clock:
    """Stands where the clocks stand; a scripted Sleep moves it."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now
        self.monotonic = 1000.0

    def pass_by(self, seconds: float) -> None:
        """Let time go on."""
        self.now += seconds
        self.monotonic += seconds


class Script:
    """Answers a flow's ops in order. ``exchanges`` are bytes as a server would send them, or a ServerError to raise.

    ``O?`` in an answer becomes the opaque token of the request it answers. ``log`` says what the flow asked for.
    """

    def __init__(self, *exchanges: bytes | Exception, clock: Clock | None = None) -> None:
        self.answers = list(exchanges)
        self.clock = clock or Clock()
        self.log: list[str] = []
        self.requests: list[bytes] = []
        self.hooks = Hooks()
        self.env = Env(("server:1",), self.hooks)
        self.env.now = lambda: self.clock.now
        self.env.monotonic = lambda: self.clock.monotonic
        self.env.random = lambda: 0.5
        self.on_join: Callable[[Join], bool] = lambda _: True

    def run(self, flow: Flow[Any]) -> Any:
        """Drive ``flow`` to its end."""
        outcome: Any = None
        error: BaseException | None = None
        while True:
            try:
                op = flow.send(outcome) if error is None else flow.throw(error)
            except StopIteration as end:
                return end.value
            outcome = error = None
            try:
                outcome = self._perform(op)
            except BaseException as raised:
                error = raised

    def _perform(self, op: Any) -> Any:
        self.log.append(type(op).__name__)
        if isinstance(op, Exchange):
            self.requests.append(op.request)
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            replies = Parser().feed(answer.replace(b"O?", b"O%d" % op.opaque))
            assert len(replies) == op.expected
            assert all(r.opaque == b"%d" % op.opaque for r in replies if r.code != "ERROR")
            return Replies(replies[op.skip :], self.clock.monotonic)
        if isinstance(op, Compute):
            return op.call()
        if isinstance(op, Sleep):
            return self.clock.pass_by(op.seconds)
        assert isinstance(op, Join)
        return self.on_join(op)


def job(recipe: Recipe, compute: Callable[[], Any]) -> Job:
    """A call of ``report``."""
    return Job(recipe, KEY, 0, compute)


def entry(recipe: Recipe, value: Any, *, created: float, generation: int = 5, ttl: float | None = 60.0) -> bytes:
    """The bytes stored for ``value``, and the client flags, as the head of a VA reply and its data."""
    flags, data, _ = recipe.seal(KEY, recipe.packer.pack(value), ttl, Snapshot((generation,), created), 0.25)
    return b"%d f%d|" % (len(data), flags) + data


def va(stored: bytes, *, cas: int = 9, t: int = 50, more: bytes = b"", generation: int = 5) -> bytes:
    """A whole reply to a read: the value ``stored`` and the generation behind it."""
    head, _, data = stored.partition(b"|")
    size, flags = head.split()
    return b"VA %b c%d %b t%d O?%b\r\n%b\r\nHD c%d O? Z\r\n" % (size, cas, flags, t, more, data, generation)


LOST = b"VA 0 c7 f0 t-1 O? W\r\n\r\nHD c5 O? Z\r\n"
BUSY = b"VA 0 c7 f0 t30 O? Z\r\n\r\nHD c5 O? Z\r\n"
