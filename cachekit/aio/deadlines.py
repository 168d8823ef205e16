"""Whose time is up on a connection: one timer for all who wait there.

Who asked first is the first whose time is up, so the timer is set for him, and anew when it has rung. That is nothing
to a hit: it finds a timer that is set already.
"""

from __future__ import annotations

import asyncio
import time
from contextvars import Context
from typing import TYPE_CHECKING, Any

from cachekit.errors import DeadlineExceeded

if TYPE_CHECKING:
    from cachekit.aio.connection import AsyncConnection

_monotonic = time.monotonic


class Deadlines:
    """The deadlines of those who wait on ``connection``, which shows who they are (``waiting``), when it heard its
    server (``heard_at``), and whether it is retired. ``timer``: None while nobody waits.
    """

    def __init__(self, connection: AsyncConnection, loop: asyncio.AbstractEventLoop) -> None:
        self.timer: asyncio.TimerHandle | None = None
        self._connection = connection
        self._loop = loop
        # In a context of its own: the timer is set anew again and again, and would keep the first caller's for ever.
        self._context = Context()
        self._due_at = 0.0
        self._excused: Any = None

    def look_after(self, asked_at: float) -> None:
        """Look for those whose time is up when that of somebody is who asked at ``asked_at``."""
        self.cancel()
        if not self._connection.closed:
            left_s = max(0.001, asked_at + self._connection.deadline_s - _monotonic())
            self._due_at = _monotonic() + left_s
            self.timer = self._loop.call_later(left_s, self.check, context=self._context)

    def hasten(self, answer: Any, since: float) -> None:
        """Whoever waits for ``answer`` has waited for the connection ``since`` then. That his time is up early says
        nothing of the server.
        """
        left_s = max(self._connection.deadline_s / 10, since + self._connection.deadline_s - _monotonic())
        self._loop.call_later(left_s, self.give_up, answer, context=self._context)

    def cancel(self) -> None:
        """Look for nobody any more."""
        if self.timer is not None:
            self.timer.cancel()

    def check(self) -> None:
        """A deadline may have passed."""
        self.timer = None
        now, connection = _monotonic(), self._connection
        waiting, deadline_s = connection.waiting(), connection.deadline_s
        head = connection.head
        if head is not None and head is not self._excused and now > self._due_at + deadline_s / 50:
            # The loop was kept busy by something else, perhaps since before the request could leave it.
            self._excused = head
            self.look_after(now - 0.9 * deadline_s)
            return
        long_ago = now - deadline_s
        for slot in waiting:
            if slot[2] <= long_ago:
                self.give_up(slot[0])
        retired_at = connection.retired_at
        if retired_at is not None and retired_at <= long_ago:
            connection.abort(self._overdue())
        elif waiting and waiting[0][2] <= long_ago and retired_at is None:
            connection.overdue(silent=now - connection.heard_at > deadline_s / 2)
            retired_at = connection.retired_at
        pending = [slot[2] for slot in waiting if not slot[0].done()]
        pending += [retired_at] if retired_at is not None else [slot[2] for slot in waiting[:1]]
        if pending:
            self.look_after(min(pending))

    def give_up(self, answer: Any) -> None:
        """Whoever waits for ``answer`` waits no longer."""
        if not answer.done():
            answer.set_exception(self._overdue())

    def _overdue(self) -> DeadlineExceeded:
        name = self._connection.name
        return DeadlineExceeded(f"{name} did not answer in time", server=name)
