"""The off switch: the blocks of ``Cache.disabled()`` that the current thread or task is inside of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class _Block:
    """One block. ``over``: it has ended; tasks that were begun inside keep it in their contexts."""

    __slots__ = ("cache_id", "over")

    def __init__(self, cache_id: int) -> None:
        self.cache_id, self.over = cache_id, False


_BLOCKS: ContextVar[tuple[_Block, ...]] = ContextVar("cachekit_disabled", default=())


@contextmanager
def block(cache: object) -> Iterator[None]:
    """Inside, ``cache`` is off, in this thread or task and in tasks that begin here, until the block ends."""
    mine = _Block(id(cache))
    token = _BLOCKS.set((*_BLOCKS.get(), mine))
    try:
        yield
    finally:
        mine.over = True
        _BLOCKS.reset(token)


def is_inside(cache: object) -> bool:
    """Whether the current code is inside a block of ``cache``."""
    return any(each.cache_id == id(cache) and not each.over for each in _BLOCKS.get())
