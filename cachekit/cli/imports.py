"""From ``module:function 42 month='"2026-11"'`` to a cached function and its arguments."""

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, TypeAlias

from cachekit.cli.complaint import Complaint
from cachekit.function import Decorated
from cachekit.methods import Bound

AnyCached: TypeAlias = Decorated[..., Any] | Bound[Any, ..., Any]

_NAMED = re.compile(r"([^\W\d]\w*)=(?!=)(.*)", re.DOTALL)


def find_function(path: str) -> AnyCached:
    """The cached function at ``module:function`` or ``module:Class.method``; its module is imported.

    Raises ``Complaint`` for a path that leads to none.
    """
    module_name, colon, attributes = path.partition(":")
    if not colon or not module_name or not attributes:
        raise Complaint(f"{path!r}: write module:function, such as shop.reports:report")
    found: Any = _import(module_name)
    for name in attributes.split("."):
        if not hasattr(found, name):
            near = get_close_matches(name, dir(found), n=1)
            raise Complaint(f"{module_name} has no {attributes!r}{f'; did you mean {near[0]}?' if near else ''}")
        found = getattr(found, name)
    if not isinstance(found, Decorated | Bound):
        raise Complaint(f"{path} is of type {type(found).__name__} and not a cached function: decorate it with @cache")
    return found


def _import(name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does; a console script looks only beside itself
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise Complaint(f"no module named {error.name!r}, neither in {here} nor where Python looks") from error
        raise Complaint(f"{name} can't be imported: {error}") from error
    except (Exception, SystemExit) as error:  # whatever that module does when it is imported
        raise Complaint(f"{name} can't be imported: {type(error).__name__}: {error}") from error


def parse_arguments(words: Iterable[str]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and named arguments, each a Python literal. Raises ``Complaint`` for what is none."""
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for word in words:
        match = _NAMED.fullmatch(word)
        if match is None:
            if named:
                raise Complaint(f"{word}: an argument without a name can't stand behind one with a name")
            positional.append(_literal(word, ""))
        elif match[1] in named:
            raise Complaint(f"{match[1]} is given twice")
        else:
            named[match[1]] = _literal(match[2], f"{match[1]}=")
    return positional, named


def _literal(text: str, before: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        quoted = repr(text).replace("'", '"') if "'" not in text and '"' not in text else repr(text)
        raise Complaint(
            f"{before}{text} is no Python literal (a number, text in quotes, True, None, a list …); "
            f"for text, quote it for the shell as well: {before}'{quoted}'"
        ) from None
