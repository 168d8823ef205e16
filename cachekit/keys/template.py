"""Key templates: ``key="user:{user.id}"``.

A template names what counts. Its fields are evaluated for every call and enter the digest as typed values; the
filled-in text is only for the reader, so neither ``1`` and ``"1"`` nor a colon inside a value can be confused.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime
from enum import Enum
from typing import NamedTuple

from cachekit.errors import ConfigurationError

_SHOWN = frozenset({str, int, bool, float, type(None), date, datetime})
_MAX_SHOWN_BITS = 1024


class Template(NamedTuple):
    """A parsed template. ``fields`` are the fields as written, ``expressions`` the same as Python source."""

    fields: tuple[str, ...]
    expressions: tuple[str, ...]
    literals: tuple[str, ...]

    def text(self, values: tuple[object, ...], room: int) -> str:
        """Fill the template in for a reader; ``room`` bounds what is taken of every value, in characters."""
        filled = (_show(value)[: room + 1] + literal for value, literal in zip(values, self.literals[1:], strict=True))
        return self.literals[0] + "".join(filled)


def _show(value: object) -> str:
    """Show only values whose text is the same in every process; others might print an address or a set's order."""
    if type(value) is int and value.bit_length() > _MAX_SHOWN_BITS:
        return "int"  # str() refuses more than 4300 digits
    if type(value) in _SHOWN or type(value).__module__ == "uuid":
        return str(value)
    return str(value._name_) if isinstance(value, Enum) else type(value).__name__


def parse_template(template: str, parameters: Collection[str], option: str = "key") -> Template:
    """Parse a ``str.format`` template whose fields begin with a parameter's name; attributes and indexes may follow.

    Raises ``ConfigurationError`` for an unknown name, a field without a name, a conversion or format spec (neither
    could change what the key stands for), and a key's template without fields. ``option``: which option it is for.
    """
    fields, expressions, literals = [], [], [""]
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigurationError(f"{option}={template!r}: {error}") from None
    for literal, field, spec, conversion in parts:
        literals[-1] += literal
        if field is None:
            continue
        if spec or conversion:
            what = option.removesuffix("s")
            raise ConfigurationError(
                f"{option}={template!r}: a conversion or format spec in {{{field}}} does not change what the {what} "
                f"stands for; use a callable to {what} by something coarser"
            )
        fields.append(field)
        expressions.append(_expression(f"{option}={template!r}", field, parameters))
        literals.append("")
    if not fields and option == "key":
        raise ConfigurationError(f"key={template!r} names no argument, so all calls would share one entry")
    return Template(tuple(fields), tuple(expressions), tuple(literals))


PATH_FAULTS = (AttributeError, LookupError, TypeError)
"""What a field such as ``{user.id}`` or ``{row[0]}`` raises of an argument that has no such thing."""


def misfit(
    error: Exception, function: str, template: str, field: str, arguments: Mapping[str, object]
) -> ConfigurationError:
    """What is raised where ``field`` of ``template`` (with the option's name) can't be taken of a call's arguments."""
    first = str(_split(template, field)[0])
    kind = type(arguments[first]).__qualname__ if first in arguments else "none"
    return ConfigurationError(
        f"{function}(): {{{field}}} in {template} can't be taken of the argument {first!r}, here of type {kind}: "
        f"{type(error).__name__}: {error}"
    )


def _expression(what: str, field: str, parameters: Collection[str]) -> str:
    first, rest = _split(what, field)
    if first not in parameters:
        known = ", ".join(parameters) or "none"
        raise ConfigurationError(f"{what}: {{{field}}} begins with no argument of the function (it has: {known})")
    source = str(first)
    for is_attribute, name in rest:
        if not is_attribute:
            source += f"[{name!r}]"
        elif isinstance(name, str) and name.isidentifier():
            source += f".{name}"
        else:
            raise ConfigurationError(f"{what}: {name!r} in {{{field}}} is no attribute's name")
    return source


def _split(what: str, field: str) -> tuple[object, list[tuple[bool, object]]]:
    """Split "user.tags[0]" into "user" and its steps with the standard library's own parser of field names."""
    split: Callable[[str], tuple[object, list[tuple[bool, object]]]] = string._string.formatter_field_name_split  # type: ignore[attr-defined]
    try:
        first, rest = split(field)
        return first, list(rest)
    except ValueError as error:
        raise ConfigurationError(f"{what}: {{{field}}}: {error}") from None
