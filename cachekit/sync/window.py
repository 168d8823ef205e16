"""Several servers at once: everything is sent before anything is read, so a window takes as long as its slowest server.

Requests are cut into bounded batches: a server stops reading while its own replies are not taken, so a client that
wrote some megabytes before it read would wait for the server as the server waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from cachekit.errors import DeadlineExceeded, ProtocolError, ServerError, Unreachable
from cachekit.ops import BATCH_BYTES as BATCH_BYTES
from cachekit.ops import BATCH_KEYS as BATCH_KEYS
from cachekit.ops import Exchange, LeaseVoid, Replies
from cachekit.sync.fleet import AnyConnection, Fleet

T = TypeVar("T")
Ask = tuple[int, bytes]
"""A server's index and the request that it gets in this window."""


def open_window(
    asks: Sequence[Ask],
    fleet: Fleet,
    read: Callable[[int, AnyConnection, float], T],
    leases: Sequence[float | None] | None = None,
) -> list[T | ServerError]:
    """Send every request, then call ``read(position, connection, until)`` for each; outcomes in the order of ``asks``.

    ``read`` takes the whole answer off the connection by ``until`` (monotonic seconds) and returns the outcome. A
    server's failure is its own ask's outcome and touches no other. ``leases``: ``Exchange.held_since`` of each ask.
    """
    untold, spent_s = {}, 0.0
    if fleet.suspects:
        began = time.monotonic()
        untold = fleet.tell_first({server for server, _ in asks})
        spent_s = time.monotonic() - began
    return ask_all(asks, fleet, read, leases, untold, max(fleet.deadline_s - spent_s, fleet.deadline_s / 10))


def ask_all(
    asks: Sequence[Ask],
    fleet: Fleet,
    read: Callable[[int, AnyConnection, float], T],
    leases: Sequence[float | None] | None,
    untold: Mapping[int, ServerError],
    seconds: float,
) -> list[T | ServerError]:
    """``open_window`` for servers that know everything; ``untold``: those that don't, which are not asked, and why.
    ``seconds``: for the answers.
    """
    outcomes: list[T | ServerError | None] = [untold.get(server) for server, _ in asks]
    connections: list[AnyConnection | None] = [None] * len(asks)
    try:
        for at, (server, request) in enumerate(asks):
            if outcomes[at] is not None:
                continue
            try:
                connections[at] = _send(server, request, fleet, leases[at] if leases is not None else None)
            except ServerError as error:
                outcomes[at] = error
        until = time.monotonic() + seconds
        late = False
        for at, (server, _) in enumerate(asks):
            connection = connections[at]
            if connection is None:
                continue
            try:
                # One that was silent has taken all of the time; the answers of those behind it came meanwhile.
                outcomes[at] = read(at, connection, time.monotonic() + fleet.deadline_s / 10 if late else until)
            except ServerError as error:
                fleet.failed(server, error)
                outcomes[at] = error
                late = late or isinstance(error, DeadlineExceeded)
            else:
                connection.rearm()
                fleet.put(server, connection)
            connections[at] = None
    except BaseException:
        for connection in connections:
            if connection is not None:
                connection.close()
        raise
    return outcomes  # type: ignore[return-value]


def _send(server: int, request: bytes, fleet: Fleet, held_since: float | None) -> AnyConnection:
    """Send on a connection of the shelf, or on a new one where that turns out to have been closed. What spends leases
    is sent once, on a connection as old as they are.
    """
    fleet.check_up(server)
    connection = fleet.take(server, held_since)
    try:
        if held_since is not None or not connection.closed_by_peer():
            connection.send(request)
            return connection
    except Unreachable as error:
        if held_since is not None:
            raise LeaseVoid(f"the connection of the lease was closed: {error}", server=fleet.names[server]) from error
        # The second attempt below says what is the matter, if anything is.
    except ServerError as error:
        fleet.failed(server, error)
        raise
    connection.close()
    fleet.drop(server)
    connection = fleet.connect(server)
    try:
        connection.send(request)
    except ServerError as error:
        fleet.failed(server, error)
        raise
    return connection


def gather(exchanges: Sequence[Exchange], fleet: Fleet) -> list[Replies | ServerError]:
    """Perform exchanges with different servers in one window."""
    began = time.monotonic()

    def read(at: int, connection: AnyConnection, until: float) -> Replies:
        op = exchanges[at]
        replies = connection.replies(connection.receive(until), op.expected, op.opaque, until)
        connection.rearm()
        if op.fits is not None and not op.fits(replies):
            connection.close()
            raise ProtocolError(f"{connection.name} answered another request", server=connection.name)
        # With the connection open: a lease is good on one that was opened before it.
        return Replies(replies[op.skip :], max(began, connection.opened_at))

    asks = [(op.server, op.request) for op in exchanges]
    return open_window(asks, fleet, read, [op.held_since for op in exchanges])
