"""Frozen values that cost next to nothing to define.

They read like frozen dataclasses, and that is what a type checker takes them for (PEP 681). But ``dataclasses`` loads
``inspect`` and its train, 5 ms, and then takes 0.3 ms for each class, of which cachekit has twenty; whoever imports
it would wait for all of them. Here a class takes 10 µs, since nothing is generated: one ``__init__`` serves them all.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn, Self, dataclass_transform


@dataclass_transform(frozen_default=True)
class Frozen:
    """A value: made of its annotated fields, equal by class and fields, hashable as they are, and never changed.

    A field's default stands in the class body; it is shared, so it must be a value that never changes itself. With
    ``kw_only=True`` as a class argument the fields are given by name only. ``__post_init__`` may refuse what it was
    given.
    """

    __match_args__: ClassVar[tuple[str, ...]] = ()
    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, *, kw_only: bool = False) -> None:
        super().__init_subclass__()  # a generic value's parameters are told to Generic
        own = [name for name, kind in cls.__annotations__.items() if not str(kind).startswith("ClassVar")]
        cls._fields = (*cls._fields, *own)
        cls.__match_args__ = () if kw_only else cls._fields  # type: ignore[misc]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = dict(zip(self.__match_args__, args, strict=False))
        unknown = [name for name in kwargs if name in given or name not in self._fields]
        if unknown or len(args) > len(given):
            what = f"a second or unknown argument {unknown[0]!r}" if unknown else f"{len(args)} positional arguments"
            raise TypeError(f"{type(self).__qualname__}() takes {', '.join(self._fields)}; got {what}")
        given.update(kwargs)
        for name in self._fields:
            if name not in given:
                try:
                    given[name] = getattr(type(self), name)
                except AttributeError:
                    raise TypeError(f"{type(self).__qualname__}() needs an argument {name!r}") from None
        self.__dict__.update(given)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Nothing to check."""

    def _replace(self, **changes: Any) -> Self:
        """This value with some fields changed, as ``NamedTuple`` calls it."""
        return type(self)(**{**self.__dict__, **changes})

    __replace__ = _replace  # copy.replace(), Python 3.13

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in self._fields])

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"{type(self).__qualname__}({shown})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a {type(self).__qualname__} is never changed: {name!r} can't be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a {type(self).__qualname__} is never changed: {name!r} can't be deleted")
