"""A world in which calls are made inside of runs, and servers are restarted."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from cachekit.embedded import EmbeddedServer
from cachekit.env import Job
from cachekit.flows.call import call
from cachekit.flows.frames import Stood, around
from cachekit.keys.tags import tag_key
from cachekit.ops import Exchange, LeaseVoid, Replies
from flows.world import World

TAG = tag_key(b"", "x")
_GIVEN = re.compile(rb" E(\d+)(?= )")


class Nests(World):
    """Each entry counts its runs: its value says which one made it. ``inside``: what a run of that entry calls.

    Connections are as old as their server, and what spends a lease goes only over one that is older than the lease.
    """

    def __init__(self, servers: int = 2, **options: Any) -> None:
        super().__init__(servers, **options)
        self.born = [0.0] * servers
        self.counts: dict[int, int] = {}
        self.inside: dict[int, Callable[[], Any]] = {}
        self.tags: dict[int, tuple[bytes, ...]] = {}
        self.reasons: list[str] = []
        self.hooks.on_fill(lambda fill: self.reasons.append(fill.reason))

    def nested(self, number: int) -> Job:
        """The entry of ``number`` with what it computes."""

        def compute() -> str:
            count = self.counts[number] = self.counts.get(number, 0) + 1
            inner = self.inside[number]() if number in self.inside else None
            return f"{number}.{count}" + (f"({inner})" if inner is not None else "")

        return self.job(number)._replace(compute=compute, tags=self.tags.get(number, ()))

    def call(self, number: int) -> Any:
        """One call, on the long way."""
        return self.run(call(self.nested(number), self.env, None))

    def name(self, *tags: str) -> None:
        """What ``current().tag`` does."""
        around()[-1].notes.name(tags)

    def hear(self, *stood: Stood) -> None:
        """What calls inside do when they have come to something."""
        for each in stood:
            around()[-1].notes.inherit(each, 0.0)

    def bump_one(self, server: int, key: bytes = TAG) -> None:
        """A hard bump has reached that server, and no other yet."""
        self.servers[server].handle(b"md " + key + b"\r\n")

    def soften(self, server: int, key: bytes = TAG) -> None:
        """A soft bump has."""
        self.servers[server].handle(b"mg " + key + b" c v N2592000\r\n")
        line = self.servers[server].handle(b"mg " + key + b" c\r\n")
        number = line.split(b" c")[1].split(b"\r")[0].split(b" ")[0]
        stored = b"ms %b %d C%b T2592000\r\n%b\r\n" % (key, len(number), number, number)
        assert self.servers[server].handle(stored) == b"HD\r\n"

    def make_old(self, *servers: int, key: bytes = TAG) -> None:
        """The tag's record is there, and has been for a while."""
        for server in servers:
            self.servers[server].handle(b"mg " + key + b" c N2592000\r\n")
        self.clock.pass_by(10)

    def restart(self, server: int) -> None:
        """All is lost there, CAS numbers begin anew, and connections are closed."""
        self.servers[server] = EmbeddedServer(clock=lambda: self.clock.now)
        self.clock.pass_by(0.01)
        self.born[server] = self.clock.monotonic
        self.clock.pass_by(0.01)

    def _exchange(self, op: Exchange) -> Replies:
        if op.held_since is not None and op.held_since < self.born[op.server]:
            raise LeaseVoid("restarted", server=self.env.server_names[op.server])
        if op.server in self.env.explicit:
            return super()._exchange(op._replace(request=self._numbered(op)))
        return super()._exchange(op)

    def _numbered(self, op: Exchange) -> bytes:
        """The request without its numbers, of which the server will give the first: it takes none from a client."""
        given = [int(word) for word in _GIVEN.findall(op.request)]
        if given:
            self.servers[op.server]._store._last_cas = max(given) - 1
        return _GIVEN.sub(b"", op.request)

    def windows_of(self, number: int) -> list[list[int]]:
        """The servers that each window of one call asks."""
        self.windows.clear()
        self.call(number)
        return [[each.server for each in window] for window in self.windows]
