"""The off switch: the blocks that the current thread or task is inside of, in which a cache's functions just run.

Those of ``Cache.disabled()``, and of transactions in which something is to be invalidated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Block:
    """One block. ``over``: it has ended, or has no effect; tasks that were begun inside keep it in their contexts."""

    __slots__ = ("cache_id", "over")

    def __init__(self, cache: object, *, over: bool = False) -> None:
        self.cache_id, self.over = id(cache), over


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


@contextmanager
def block(cache: object) -> Iterator[None]:
    """Inside, ``cache`` is off, in this thread or task and in tasks that begin here, until the block ends."""
    mine = Block(cache)
    enter(mine)
    try:
        yield
    finally:
        leave(mine)


def is_inside(cache: object) -> bool:
    """Whether the current code is inside a block of ``cache``."""
    return any(each.cache_id == id(cache) and not each.over for each in _BLOCKS.get())
