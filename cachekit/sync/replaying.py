"""Tell servers what they have not been told, by blocking; see ``roster.py``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

from cachekit.errors import DeadlineExceeded, ServerError
from cachekit.meta import Reply
from cachekit.replay import Lot
from cachekit.sync.connection import Connection
from cachekit.sync.fleet import AnyConnection, Fleet
from cachekit.sync.window import ask_all


def tell(fleet: Fleet, servers: Sequence[int]) -> dict[int, ServerError]:
    """Tell ``servers``, all at once, and lot after bounded lot; which of them could not be told all by the deadline,
    and why.

    One thread tells a server while the others wait for it. When this returns without an error for a server, nothing is
    left that it has to be told: whatever one of them sends after that comes behind.
    """
    until = time.monotonic() + fleet.deadline_s
    failures: dict[int, ServerError] = {}
    with ExitStack() as held:
        for server in sorted(servers):  # in one order, so that no two threads wait for each other
            lock = fleet.telling(server)
            if lock.acquire(timeout=max(0.0, until - time.monotonic())):
                held.callback(lock.release)
            else:
                failures[server] = _late(fleet, server)
        while untold := [server for server in servers if server not in failures and fleet.waiting(server)]:
            failures.update(_tell_some(fleet, untold, until))
    return failures


def _tell_some(fleet: Fleet, servers: Sequence[int], until: float) -> dict[int, ServerError]:
    """Tell each of ``servers`` the next lot."""
    left_s = until - time.monotonic()
    if left_s <= 0:
        return {server: _late(fleet, server) for server in servers}
    lots: list[Lot] = []
    asks: list[tuple[int, bytes]] = []
    for server in servers:
        lot = fleet.lot(server)
        if lot:
            lots.append(lot)
            asks.append((server, lot.request()))
        else:
            fleet.settle(server, (), ())

    def read(at: int, connection: AnyConnection, until: float) -> list[Reply]:
        return connection.replies(connection.receive(until), lots[at].expected, lots[at].opaque, until)

    failures: dict[int, ServerError] = {}
    outcomes = ask_all(asks, fleet, read, None, {}, left_s)
    for (server, _), lot, outcome in zip(asks, lots, outcomes, strict=True):
        if isinstance(outcome, ServerError):
            failures[server] = outcome
            continue
        try:
            fleet.settle(server, lot.items, outcome)
        except ServerError as error:
            fleet.failed(server, error)
            failures[server] = error
    return failures


def tell_over(connection: Connection, fleet: Fleet, server: int) -> None:
    """Tell a server all over this connection. Raises ``ServerError``."""
    while fleet.waiting(server):
        lot = fleet.lot(server)
        fleet.settle(server, lot.items, connection.exchange(lot.request(), lot.expected, lot.opaque) if lot else ())


def _late(fleet: Fleet, server: int) -> DeadlineExceeded:
    name = fleet.names[server]
    return DeadlineExceeded(f"{name} could not be told what was invalidated before in time", server=name)
