"""Runs a flow against a list of scripted answers: no socket, no loop, no sleep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cachekit.codecs import Packer, Registry, resolve
from cachekit.codecs.envelope import Header, open_envelope, seal
from cachekit.codecs.flags import ENVELOPED
from cachekit.codecs.note import NOTE_FLAGS
from cachekit.env import Env, Job
from cachekit.expiry import Ttl
from cachekit.flows.frames import FILLING
from cachekit.hooks import Hooks
from cachekit.meta import Parser, Reply
from cachekit.ops import Compute, Exchange, Flow, Join, Replies, Sleep, Spawn
from cachekit.policy import Terms
from cachekit.recipe import Recipe, Snapshot

KEY = b"app:report:AAAAAAAAAAAAAAAAAAAAAAAA"
GENERATION = b"app:report:gen="


def make_recipe(ttl: Ttl = 60.0, **options: Any) -> Recipe:
    """The recipe of a function ``report`` with one generation. ``options``: the recipe's, and its terms'."""
    registry = Registry()
    terms = Terms(**{name: options.pop(name) for name in list(options) if name in Terms.__annotations__})
    settings: dict[str, Any] = {"generations": (GENERATION,), "lease_s": 10.0, "terms": terms, **options}
    return Recipe(name="app:report", packer=Packer(resolve(None, registry=registry)), ttl=ttl, **settings)


def driven(flow: Flow[Any], perform: Callable[[Any], Any]) -> Any:
    """What ``flow`` returns where ``perform`` does what it asks for, or raises what comes of that."""
    outcome: Any = None
    error: BaseException | None = None
    while True:
        try:
            op = flow.send(outcome) if error is None else flow.throw(error)
        except StopIteration as end:
            return end.value
        outcome = error = None
        try:
            outcome = perform(op)
        except BaseException as raised:
            error = raised


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
    ``spawned``: the flows that it put into the background, where ``room`` is left for them; the test runs them.
    """

    def __init__(self, *exchanges: bytes | Exception, clock: Clock | None = None) -> None:
        self.answers = list(exchanges)
        self.clock = clock or Clock()
        self.log: list[str] = []
        self.exchanges: list[Exchange] = []
        self.hooks = Hooks()
        self.env = Env(("server:1",), self.hooks)
        self.env.now = lambda: self.clock.now
        self.env.monotonic = lambda: self.clock.monotonic
        self.env.random = lambda: 0.5
        self.env.luck = lambda: 0.0
        self.room = True
        self.spawned: list[Flow[Any]] = []
        self.on_join: Callable[[Join], bool] = lambda _: True

    @property
    def requests(self) -> list[bytes]:
        """What was sent."""
        return [exchange.request for exchange in self.exchanges]

    @staticmethod
    def parse(answer: bytes, opaque: int = 1) -> list[Reply]:
        """The replies in an answer."""
        return Parser().feed(answer.replace(b"O?", b"O%d" % opaque))

    def run(self, flow: Flow[Any]) -> Any:
        """Drive ``flow`` to its end."""
        return driven(flow, self._perform)

    def _perform(self, op: Any) -> Any:
        self.log.append(type(op).__name__)
        if isinstance(op, Exchange):
            self.exchanges.append(op)
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            assert op.opaque is not None, "what bears no token is scripted in world.py"
            replies = self.parse(answer, op.opaque)
            assert len(replies) == op.expected
            assert all(r.opaque == b"%d" % op.opaque for r in replies if r.code != "ERROR")
            return Replies(replies[op.skip :], self.clock.monotonic)
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
            return self.clock.pass_by(op.seconds)
        assert isinstance(op, Join)
        return self.on_join(op)


def job(recipe: Recipe, compute: Callable[[], Any]) -> Job:
    """A call of ``report``."""
    return Job(recipe, KEY, 0, compute)


def entry(
    recipe: Recipe, value: Any, *, created: float, generation: int = 5, ttl: float | None = 60.0, **changes: Any
) -> bytes:
    """The bytes stored for ``value``, and the client flags, as the head of a VA reply and its data. ``changes``: other
    fields of the header.
    """
    flags, data, _ = recipe.seal(KEY, recipe.packer.pack(value), ttl, Snapshot((generation,), created), 0.25)
    if changes:
        header, at = open_envelope(data)
        data = seal(header._replace(**changes), data[at:])
    return b"%d f%d|" % (len(data), flags) + data


def note(recipe: Recipe, letter: bytes, *, created: float, ttl: float = 10.0) -> bytes:
    """A note as ``entry`` gives a value."""
    flags, data, _ = recipe.seal(KEY, (NOTE_FLAGS, letter), ttl, Snapshot((5,), created), 0.25)
    return b"%d f%d|" % (len(data), flags) + data


def va(stored: bytes, *, cas: int = 9, t: int | None = None, more: bytes = b"", generation: int = 5) -> bytes:
    """A whole reply to a read at the hour that ``Clock`` begins with: the value ``stored`` and the generation behind
    it. ``t``: by default what a server would say of an entry that was stored when its header says.
    """
    head, _, data = stored.partition(b"|")
    size, flags = head.split()
    left_s = _left_s(data) if t is None else t
    return b"VA %b c%d %b t%d O?%b\r\n%b\r\nHD c%d O? Z\r\n" % (size, cas, flags, left_s, more, data, generation)


def _left_s(data: bytes) -> int:
    header, _ = open_envelope(data)
    if not header.hard_s:
        return -1
    left_s = header.hard_s - int(Clock().now - header.created_ms / 1000.0)
    assert left_s > 0, "the server would have dropped it"
    return left_s


class Stored:
    """What a request stores: its command line, client flags, header and payload. No other request will do.

    ``again``: the same, as ``va`` takes it.
    """

    def __init__(self, request: bytes) -> None:
        line, _, data = request.partition(b"\r\n")
        self.words = line.decode().split()
        assert self.words[0] == "ms", request
        self.cas, self.until = self._number("C"), self._number("T")
        self.flags = self._number("F")
        self.header: Header
        self.header, at = open_envelope(data[:-2])
        self.payload = data[at:-2]
        self.again = b"%d f%d|" % (len(data) - 2, self.flags) + data[:-2]

    def _number(self, letter: str) -> int:
        return next(int(word[1:]) for word in self.words[3:] if word[0] == letter)

    def value(self, recipe: Recipe) -> Any:
        """The value in it."""
        return recipe.packer.unpack(self.flags & ~ENVELOPED, self.payload)


def never() -> Any:
    """The function, where it must not run."""
    raise AssertionError("the function ran")


DONE = b"HD O?\r\n"
LOST = b"VA 0 c7 f0 t-1 O? W\r\n\r\nHD c5 O? Z\r\n"
BUSY = b"VA 0 c7 f0 t299 O? Z\r\n\r\nHD c5 O? Z\r\n"
"""A stub that another reader got a second ago; stubs live 300 s."""
