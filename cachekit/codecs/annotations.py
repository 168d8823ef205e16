"""The classes that a return annotation names, at any depth.

These, beside the registry's, are the only ones that stored bytes may become.
Forward references are resolved as far as they can be; what can't be resolved yet is tried again at the next need.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, Final, ForwardRef, TypeVar

from cachekit.frozen import Frozen

_MAX_CLASSES: Final = 10_000


class Returns(Frozen):
    """A return annotation and the names that its forward references may use.

    annotation: any type expression, also as text. names: what its text is looked up in.
    function: the function that bears it; its globals and closure are looked up at need, since classes are often
    defined later.
    """

    annotation: object = None
    function: Callable[..., object] | None = None

    def resolve(self) -> tuple[object, dict[str, object]]:
        """The annotation as it reads now, and the names around it."""
        if self.function is None:
            return self.annotation, {}
        return self.annotation, _names_around(self.function)


def returns_of(function: Callable[..., object]) -> Returns:
    """The return annotation of a function, to be resolved when it is needed first."""
    inner: Any = function
    while hasattr(inner, "__wrapped__"):
        inner = inner.__wrapped__
    inner = getattr(inner, "__func__", inner)
    return Returns(_raw_return(inner), inner)


def _raw_return(function: Callable[..., object]) -> object:
    try:
        return getattr(function, "__annotations__", {}).get("return")
    except NameError:  # Python 3.14 evaluates annotations when they are read
        return None


def _names_around(function: Callable[..., object]) -> dict[str, object]:
    names: dict[str, object] = dict(getattr(function, "__globals__", {}))
    code = getattr(function, "__code__", None)
    for name, cell in zip(getattr(code, "co_freevars", ()), getattr(function, "__closure__", None) or (), strict=False):
        try:
            names[name] = cell.cell_contents
        except ValueError:
            continue
    return names


def classes_in(returns: Returns) -> tuple[list[type], bool]:
    """Every class in the annotation and in those classes' fields; and whether every reference could be resolved."""
    annotation, names = returns.resolve()
    if returns.function is not None and annotation is None:
        annotation = _raw_return(returns.function)
    walk = _Walk()
    walk.visit(annotation, names)
    return list(walk.classes), walk.complete


class _Walk:
    def __init__(self) -> None:
        self.classes: dict[type, None] = {}
        self.complete = True
        self._seen: set[int] = set()
        self._kept: list[object] = []  # keeps ids in _seen from being used twice

    def visit(self, start: object, names: dict[str, object]) -> None:
        todo: list[tuple[object, dict[str, object]]] = [(start, names)]
        while todo and len(self._kept) < _MAX_CLASSES:
            hint, names = todo.pop()
            if isinstance(hint, str | ForwardRef):
                hint = self._evaluate(hint, names)
            if hint is None or id(hint) in self._seen:
                continue
            self._seen.add(id(hint))
            self._kept.append(hint)
            todo.extend((part, names) for part in _parts(hint))
            if isinstance(hint, type) and not isinstance(hint, types.GenericAlias) and hint.__module__ != "builtins":
                self.classes[hint] = None
                todo.extend(_field_hints(hint, names))

    def _evaluate(self, hint: str | ForwardRef, names: dict[str, object]) -> object:
        text = hint if isinstance(hint, str) else hint.__forward_arg__
        module = None if isinstance(hint, str) else getattr(hint, "__forward_module__", None)
        around = dict(vars(sys.modules[module])) if isinstance(module, str) and module in sys.modules else names
        try:
            return eval(text, dict(around))  # the program's own annotation, never stored bytes
        except Exception:  # noqa: BLE001 - whatever an annotation may raise, it is not known yet
            self.complete = False
            return None


def _parts(hint: Any) -> Iterator[object]:
    """What a type expression is made of."""
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    if origin is typing.Literal:
        yield from (type(arg) for arg in args)
        return
    if origin is typing.Annotated:
        yield args[0]  # the rest may be any text, which is no type
        return
    if origin is not None:
        yield origin
    for arg in args:
        yield from arg if isinstance(arg, list) else (arg,)
    if isinstance(hint, TypeVar):
        yield from (hint.__bound__, *hint.__constraints__)
    elif not isinstance(hint, type):
        yield getattr(hint, "__supertype__", None)  # NewType
        yield _alias_value(hint)


def _alias_value(hint: object) -> object:
    """What ``type X = …`` (Python 3.12) stands for."""
    if type(hint).__name__ != "TypeAliasType":
        return None
    try:
        return getattr(hint, "__value__", None)
    except NameError:
        return None


def _field_hints(cls: type, names: dict[str, object]) -> Iterator[tuple[object, dict[str, object]]]:
    """The annotations of a class's fields, its bases' included, each with the names of its own module around it."""
    for base in cls.__mro__:
        if base.__module__ in ("builtins", "typing", "abc", "enum"):
            continue
        around = {**names, **vars(sys.modules.get(base.__module__, typing)), cls.__name__: cls}
        try:
            hints = dict(getattr(base, "__annotations__", {}))
        except NameError:
            continue
        for hint in hints.values():
            yield hint, around
