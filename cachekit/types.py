"""Small public types that every layer may use."""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal, TypeAlias


class Key(str):
    """The exact key on the wire, prefix included, as ``function.key(…)`` returns it.

    Direct verbs put the cache's prefix before any other string, but never before a ``Key``.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Key({str(self)!r})"


class _Miss(Enum):
    MISS = "MISS"

    def __repr__(self) -> str:
        return "MISS"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return False


Miss: TypeAlias = Literal[_Miss.MISS]
MISS: Final = _Miss.MISS
"""Nothing is stored there. Never equal to a stored value, ``None`` included."""


class Unset(Enum):
    """The type of ``UNSET``: not said."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
"""An option that nobody has set; None often means something."""
