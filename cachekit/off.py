"""The off switch: the blocks that the current thread or task is inside of, in which a cache's functions just run.

Those of ``Cache.disabled()``, and of transactions in which something is to be invalidated.
"""

from __future__ import annotations

import os
import threading
from contextvars import ContextVar


class Block:
    """One block. ``over``: it has ended, or has no effect; tasks that were begun inside keep it in their contexts.

    ``pid``: the process whose it is, 0 where a child that is forked inside stays inside. ``thread``: the one in which
    it was made.
    """

    __slots__ = ("cache_id", "over", "pid", "thread")

    def __init__(self, cache: object, *, over: bool = False) -> None:
        self.cache_id, self.over, self.pid = id(cache), over, 0
        self.thread = threading.get_ident()

    def goes_on(self) -> bool:
        """Whether it has an effect here and now."""
        return not self.over and self.pid in (0, os.getpid())

    def goes_on_in_child(self) -> bool:
        """The same in a child that was just forked: of blocks of threads that exist no more only those that the thread
        which forked is inside of, in a copy of their context.
        """
        return self.goes_on() and (self.thread == threading.get_ident() or any(each is self for each in _BLOCKS.get()))


_BLOCKS: ContextVar[tuple[Block, ...]] = ContextVar("cachekit_disabled", default=())


def enter(block: Block) -> None:
    """From here on, in this thread or task and in tasks that begin here, ``block`` counts."""
    inside = _BLOCKS.get()
    if not any(each is block for each in inside):
        _BLOCKS.set((*inside, block))


def leave(block: Block) -> None:
    """The block has ended. Not by a token: an asynchronous generator may end in another context than it began in."""
    block.over = True
    _BLOCKS.set(tuple([each for each in _BLOCKS.get() if each is not block]))


def is_inside(cache: object) -> bool:
    """Whether the current code is inside a block of ``cache``."""
    return any(each.cache_id == id(cache) and each.goes_on() for each in _BLOCKS.get())
