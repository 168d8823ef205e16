"""What tags a call comes to bear, and values that have a text of their own or not."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import pytest

from cachekit import ConfigurationError
from cachekit.keys.compile import compile_keys


class Colour(enum.Enum):
    """A member stands for its value."""

    RED = "red"
    BLUE = 2
    MIXED = ("red", 2)


class Kind(str, enum.Enum):  # noqa: UP042 - it is not the same as a StrEnum
    """Text that shows something else when it is asked for."""

    BOOK = "book"


class Level(enum.IntEnum):
    """A number that shows its name in some versions."""

    HIGH = 3


class Loud(str):
    """A text with opinions of its own."""

    def __str__(self) -> str:
        return "LOUD"

    def __format__(self, spec: str) -> str:
        return "LOUD"


def bears(function: Callable[..., Any], *args: Any, tags: Any, **kwargs: Any) -> list[str]:
    """The records over a call, without the prefix."""
    namespace = kwargs.pop("_namespace", None)
    maker = compile_keys(function, prefix="shop", tags=tags, namespace=namespace)
    assert maker.tags is not None
    return [key.decode().removeprefix("shop:") for key in maker.tags(*args, **kwargs)]


def refused(function: Callable[..., Any], tags: Any) -> str:
    """What is said at decoration."""
    with pytest.raises(ConfigurationError) as raised:
        compile_keys(function, prefix="shop", tags=tags)
    return str(raised.value)


def report(user_id: Any, /, part: Any = "all", *more: Any, month: Any = None, **rest: Any) -> None:
    """A function with every kind of parameter."""
