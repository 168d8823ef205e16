"""Event loops of both makes, a connection without a network, a TCP server that says what the test tells it to say, and
a clock that stands.

::

    @on_both_loops
    def test_something(run: Run) -> None:
        async def main() -> None: ...
        run(main())
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st

from cachekit.aio import connection as module
from cachekit.aio import deadlines, fleet
from cachekit.aio.connection import AsyncConnection
from cachekit.errors import ProtocolError, ServerError
from cachekit.servers import Server

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]

LIMIT_S = 20.0
"""How long a test waits for what must come."""


def run_on_asyncio(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` on asyncio's own loop."""
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(asyncio.wait_for(main, 3 * LIMIT_S))


def run_on_uvloop(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` on uvloop's loop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(main, 3 * LIMIT_S))


RUNS: dict[str, Callable[[Coroutine[Any, Any, Any]], Any]] = {"asyncio": run_on_asyncio}
if importlib.util.find_spec("uvloop") is not None:  # not to be had for PyPy, nor for Windows
    RUNS["uvloop"] = run_on_uvloop

on_both_loops = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())


async def until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Let the loop turn until ``condition`` holds. Raises ``TimeoutError`` where it does not come to hold."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - anything can be a condition
            await asyncio.sleep(0.001)


async def turns(count: int = 3) -> None:
    """Let the loop turn a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


# -- time -------------------------------------------------------------------------------------------------------------


class Clock:
    """The monotonic time that connections see; ``now`` stands until the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(name="clock")
def clock_fixture(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock in the place of the one that connections and fleets read."""
    clock = Clock()
    monkeypatch.setattr(module, "_monotonic", clock)
    monkeypatch.setattr(deadlines, "_monotonic", clock)
    monkeypatch.setattr(fleet, "time", SimpleNamespace(monotonic=clock))
    return clock


# -- a connection without a network -----------------------------------------------------------------------------------


class Pipe(asyncio.Transport):
    """The transport of a ``Line``: keeps what is written, and never gets rid of it by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.aborted = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def abort(self) -> None:
        self.aborted = True


class Line:
    """An open connection whose other end is the test, and the owner who hears what becomes of it."""

    def __init__(self, deadline_s: float = 100.0) -> None:
        self.events: list[tuple[str, type[ServerError] | int | None]] = []
        self.pipe = Pipe()
        self.connection = AsyncConnection(0, Server("h:1", host="h", port=1), deadline_s, self)
        self.connection.connection_made(self.pipe)

    @property
    def sent(self) -> bytes:
        """All that was written so far."""
        return b"".join(self.pipe.writes)

    def say(self, data: bytes, piece: int = 1 << 30) -> None:
        """Have the server say ``data``, in pieces of at most ``piece`` bytes; what comes after the end is lost."""
        at = 0
        while at < len(data) and not self.connection.closed:
            room = self.connection.get_buffer(-1)
            length = min(len(room), piece, len(data) - at)
            assert length > 0
            room[:length] = data[at : at + length]
            room.release()
            self.connection.buffer_updated(length)
            at += length

    def overdue(self, connection: AsyncConnection, silent: bool) -> None:
        self.events.append(("overdue", silent))

    def broken(self, connection: AsyncConnection, error: ProtocolError) -> None:
        connection.abort(error)
        self.events.append(("broken", type(error)))

    def lost(self, connection: AsyncConnection, asked: bool) -> None:
        self.events.append(("lost", None))


# -- a server ---------------------------------------------------------------------------------------------------------


class Peer(asyncio.Protocol):
    """One connection as the server sees it: ``heard`` holds what came, but for the ``version`` that opens it."""

    def __init__(self, listener: Listener) -> None:
        self.heard = b""
        self.lost = False
        self._listener = listener
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._listener.peers.append(self)

    def data_received(self, data: bytes) -> None:
        if data == b"version\r\n":
            self._listener.versions += 1
            if self._listener.version is not None:
                self.say(self._listener.version)
            return
        self.heard += data
        if self._listener.script is not None:
            answer = self._listener.script(data)
            self.hang_up() if answer is None else self.say(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def say(self, data: bytes) -> None:
        self.transport.write(data)

    def hang_up(self) -> None:
        self.transport.close()


class Listener:
    """A TCP server in the test's own loop. ``version``: what it answers to ``version``, None for nothing; ``script``:
    the answer to what came, None to hang up; without one the test itself speaks, by ``peers``.
    """

    def __init__(self, script: Callable[[bytes], bytes | None] | None, version: bytes | None) -> None:
        self.script, self.version = script, version
        self.versions = 0
        self.peers: list[Peer] = []
        self.port = 0

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def peer(self, number: int = 0, having_heard: bytes = b"") -> Peer:
        """The connection that was accepted as the ``number``th, once it has heard that much."""
        await until(lambda: len(self.peers) > number and having_heard in self.peers[number].heard)
        return self.peers[number]


@asynccontextmanager
async def listening(
    script: Callable[[bytes], bytes | None] | None = None, *, version: bytes | None = b"VERSION 1.6.18\r\n"
) -> AsyncIterator[Listener]:
    """A ``Listener``, until the block ends."""
    listener = Listener(script, version)
    server = await asyncio.get_running_loop().create_server(lambda: Peer(listener), "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    try:
        yield listener
    finally:
        server.close()
        for peer in listener.peers:
            peer.transport.abort()
        await asyncio.sleep(0)


# -- replies ----------------------------------------------------------------------------------------------------------

TRAPS = [b"", b"x", b"\r\n", b"\r\nEND\r\n", b"VA 5 f0\r\nhello\r\n", b"VALUE k 0 3\r\nabc\r\nEND\r\n", b"HD\r\n" * 3]
"""Values that look like replies."""


def value(data: bytes, tail: bytes = b" f0 c1 O7") -> bytes:
    """A meta reply with ``data``."""
    return b"VA %d%b\r\n%b\r\n" % (len(data), tail, data)


def classic(*values: bytes, cas: bytes = b"") -> bytes:
    """The answer to a classic read of so many keys."""
    lines = [b"VALUE k%d 0 %d%b\r\n%b\r\n" % (at, len(data), cas, data) for at, data in enumerate(values)]
    return b"".join(lines) + b"END\r\n"


def error_of(answer: asyncio.Future[bytes]) -> type[BaseException] | None:
    """The type of the error in a future that must be done."""
    assert answer.done()
    error = answer.exception()
    return None if error is None else type(error)


DATA = st.sampled_from(TRAPS) | st.binary(max_size=40)
META = st.one_of(
    st.sampled_from(
        [b"HD\r\n", b"HD c5 O7 W\r\n", b"EN\r\n", b"NF O3\r\n", b"MN\r\n", b"VERSION 1.6.18\r\n", b"5\r\n"]
    ),
    st.sampled_from([b"ME k exp=-1 la=0 cas=3 fetch=no cls=1 size=63\r\n", b"SERVER_ERROR out of memory\r\n"]),
    st.builds(value, DATA),
    st.builds(value, DATA, st.just(b"")),
)
"""What one meta reply may look like; ``DATA``: what a value may hold."""
