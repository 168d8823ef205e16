"""Answers for which nobody waits any more: they are given to who was left in charge of them, or dropped.

A task that is cancelled, or whose time is up, goes on at once; the answer comes later, and a lease may be in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

Late = Callable[[Any], None]
"""Is given an answer for which nobody waits any more: what its future would have been given, None where it won't come.
"""


class Unclaimed:
    """The answers of one connection that come too late. ``call_soon`` is the loop's."""

    def __init__(self, call_soon: Callable[..., object]) -> None:
        self.entrusted: dict[asyncio.Future[Any], Late] = {}
        self.kept: dict[asyncio.Future[Any], Any] = {}
        self._call_soon = call_soon

    def entrust(self, answer: asyncio.Future[Any], to: Late, *, closed: bool) -> None:
        """Have ``to`` called with ``answer`` when it comes; with None if it won't: the connection is ``closed``."""
        data = self.kept.get(answer)
        if data is not None or closed:
            to(data)
        else:
            self.entrusted[answer] = to

    def come(self, answer: asyncio.Future[Any], data: Any) -> None:
        """``data`` has come for ``answer``, which is done."""
        if answer in self.entrusted:
            self.entrusted.pop(answer)(data)
        elif answer.cancelled():
            # Cancelled in this very turn of the loop, perhaps: its task runs before what is called soon from here.
            self.kept[answer] = data
            self._call_soon(self.kept.pop, answer, None)

    def end(self) -> None:
        """No answer comes any more."""
        entrusted, self.entrusted = self.entrusted, {}
        for gone in entrusted.values():
            gone(None)
