"""Drives the flows of the direct verbs against embedded servers, or against answers that a test scripts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cachekit.addresses import parse_target
from cachekit.codecs import Packer, Registry, resolve
from cachekit.direct import Direct
from cachekit.embedded import EmbeddedServer
from cachekit.env import Env
from cachekit.errors import ProtocolError, ServerError, Unreachable
from cachekit.flows import direct as flows
from cachekit.hooks import Hooks, Trouble
from cachekit.meta import Parser
from cachekit.ops import Compute, Exchange, Flow, Gather, Replies
from cachekit.roster import Roster
from cachekit.sync.connection import count_ends
from cachekit.tally import Tally
from flows.scripted import Clock, driven

DOWN = Unreachable("down")


class Servers(Direct):
    """A cache without a shell, and servers that answer what they would, unless ``answers`` has something for them: the
    bytes of an answer, in which ``O?`` becomes the token of the request, or an exception to raise.

    Whatever comes back is checked as the shells do it.
    """

    def __init__(self, servers: int = 3, *, raises: bool = False, max_value_bytes: int = 1 << 20) -> None:
        hooks = Hooks()
        names = ",".join(f"10.0.0.{number}" for number in range(servers))
        self.clock = Clock()
        self._fleet = Roster(parse_target(f"memcached://{names}"), hooks)
        self._env = Env(self._fleet.names, hooks)
        self._env.now = lambda: self.clock.now
        self._packer = Packer(resolve(None, registry=Registry()))
        self._prefix, self._ttl = b"app", 60.0
        self._raises, self._max_value_bytes = raises, max_value_bytes
        self._tally = Tally()
        self.behind = [EmbeddedServer(clock=lambda: self.clock.now) for _ in range(servers)]
        self.answers: list[bytes | Exception | None] = []
        self.broken: set[int] = set()
        self.rounds: list[list[Exchange]] = []
        self.troubles: list[Trouble] = []
        hooks.on_trouble(self.troubles.append)

    @property
    def asked(self) -> list[Exchange]:
        """Every exchange, in order."""
        return [op for window in self.rounds for op in window]

    def server(self, key: str) -> int:
        """Who holds it."""
        return self._fleet.ring.index(b"app:" + key.encode())

    def drive(self, flow: Flow[Any]) -> Any:
        """Drive ``flow`` to its end."""
        return driven(flow, self._perform)

    def _perform(self, op: Any) -> Any:
        if isinstance(op, Gather):
            servers = [each.server for each in op.exchanges]
            assert len(set(servers)) == len(servers)
            self.rounds.append(list(op.exchanges))
            return [self._outcome(each) for each in op.exchanges]
        if isinstance(op, Compute):
            return op.call()
        assert isinstance(op, Exchange)
        self.rounds.append([op])
        return self._exchange(op)

    def _outcome(self, op: Exchange) -> Replies | ServerError:
        try:
            return self._exchange(op)
        except ServerError as error:
            return error

    def _exchange(self, op: Exchange) -> Replies:
        if op.server in self.broken:
            raise DOWN
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            answer = self.behind[op.server].handle(op.request)
        replies = Parser().feed(answer.replace(b"O?", b"O%d" % (op.opaque or 0)))
        assert count_ends(replies) == op.expected, (op, replies)
        if op.opaque is not None:
            assert all(reply.opaque == b"%d" % op.opaque for reply in replies if reply.code != "ERROR")
        elif op.fits is None or not op.fits(replies):
            raise ProtocolError("answered another request")
        return Replies(replies, self.clock.monotonic)

    # What the verbs of a shell are, in short.

    def get(self, key: str, default: Any = None) -> Any:
        """Read one."""
        return self.drive(flows.read_one(self, key, default))

    def gets(self, key: str, default: Any = None) -> Any:
        """Read one, with its token."""
        return self.drive(flows.read_with_token(self, key, default))

    def get_many(self, keys: Iterable[str]) -> Any:
        """Read many."""
        return self.drive(flows.read_many(self, keys))

    def set(self, key: str, value: Any, ttl: Any = 60, how: bytes = b"") -> Any:
        """Store one."""
        return self.drive(flows.store(self, key, value, ttl, how))

    def delete(self, key: str) -> Any:
        """Remove one."""
        return self.drive(flows.remove(self, key))

    def touch(self, key: str, ttl: Any = 60) -> Any:
        """Give one a new ttl."""
        return self.drive(flows.touch(self, key, ttl))

    def incr(self, key: str, delta: Any = 1, initial: Any = None, ttl: Any = 60) -> Any:
        """Count."""
        return self.drive(flows.count(self, key, delta, initial, ttl, b"MI"))

    def set_many(self, values: Any, ttl: Any = 60) -> Any:
        """Store many."""
        return self.drive(flows.store_many(self, values, ttl))

    def delete_many(self, keys: Iterable[str]) -> Any:
        """Remove many."""
        return self.drive(flows.remove_many(self, keys))


def values(count: int, value: Any = "v") -> dict[str, Any]:
    """So many keys."""
    return {f"key-{number}": value for number in range(count)}
