"""What a function may know of the cached call that it runs inside of."""

from __future__ import annotations

from cachekit.flows import FILLING
from cachekit.types import Key


class Current:
    """The cached call around the current code; true inside of one, false outside, where it is harmless.

    ``key``: the key of the entry that is being computed, None outside.
    """

    __slots__ = ("key",)

    def __init__(self, key: Key | None) -> None:
        self.key = key

    def __bool__(self) -> bool:
        return self.key is not None

    def __repr__(self) -> str:
        return f"<current {self.key!r}>" if self.key is not None else "<current: not inside a cached call>"


def current() -> Current:
    """The innermost cached call that is being computed here, in this thread or task.

    >>> from cachekit import Cache, current
    >>> cache = Cache("memory:")
    >>> @cache
    ... def report(n: int) -> bool:
    ...     return current().key == report.key(n)
    >>> report(1), bool(current())
    (True, False)
    """
    inside = FILLING.get()
    return Current(Key(inside[-1].key.decode()) if inside else None)
