"""How one class travels: the name that stands for it in stored values, and the way to data and back."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from cachekit.frozen import Frozen


class Carrier(Frozen):
    """One class and its two functions.

    identity: what a stored value begins with: the name, and for a class with fields ``#`` and a digest of their
    names, so that a value of an older shape is a miss and not an object with a hole.
    fields: names of the parts where ``encode`` gives a list of them (for error messages).
    """

    type: type
    identity: bytes
    encode: Callable[[Any], object]
    decode: Callable[[Any], object]
    fields: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The readable part of the identity."""
        return self.identity.split(b"#")[0].decode()

    @property
    def type_name(self) -> str:
        """The class as error messages name it."""
        return full_name(self.type)


def identity(name: str, fields: tuple[str, ...] | None = None) -> bytes:
    """The bytes that stand for a class: its name, and a digest of its field names where it has fields."""
    wire = name.encode()
    if fields is None:
        return wire
    return wire + b"#" + blake2b("\n".join(fields).encode(), digest_size=4).hexdigest().encode()


def wire_name(cls: type) -> str:
    """Module and qualified name; ``__main__`` by the name that other processes import it under."""
    module = cls.__module__
    if module == "__main__":
        main = sys.modules.get("__main__")
        spec = getattr(main, "__spec__", None)
        file = getattr(main, "__file__", None)
        module = spec.name if spec is not None else os.path.splitext(os.path.basename(file))[0] if file else module
    return f"{module}:{cls.__qualname__}"


def full_name(cls: type) -> str:
    """The class as error messages name it."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
