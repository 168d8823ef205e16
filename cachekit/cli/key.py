"""``cachekit key``: the key of a call, and the server that holds it."""

from __future__ import annotations

import argparse

from cachekit.cli import chart
from cachekit.cli.command import Command
from cachekit.cli.complaint import Complaint
from cachekit.cli.imports import AnyCached, find_function, parse_arguments
from cachekit.cli.where import add_servers, target
from cachekit.methods import Bound
from cachekit.ring import Ring
from cachekit.types import Key


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_servers(parser, "a ring to place the key on; default: the one that the function's cache says")
    parser.add_argument("function", metavar="MODULE:FUNCTION", help="where the cached function is, such as shop:report")
    parser.add_argument(
        "words", nargs="*", default=[], metavar="ARG", help="its arguments, as Python literals: 42, name='\"Ada\"'"
    )


def _run(arguments: argparse.Namespace) -> int:
    function = find_function(arguments.function)
    positional, named = parse_arguments(arguments.words)
    try:
        key = function.key(*positional, **named)
    except TypeError as error:  # an UnkeyableError too: it says what to do
        raise Complaint(str(error)) from error
    print("\n".join(chart.facts([("key", str(key)), ("server", _server_of(function, key, arguments))])))
    return 0


def _server_of(function: AnyCached, key: Key, arguments: argparse.Namespace) -> str:
    if arguments.servers:
        ring = Ring(target(arguments).servers)
    else:
        cached = function.__func__ if isinstance(function, Bound) else function
        ring = cached._cache._fleet.ring
    name = ring.servers[ring.index(key.encode())].name
    return "the embedded server of each process" if name == "memory:" else name


COMMAND = Command(
    "show the key of a call, and its server",
    """Show the key under which a call's result is stored, and the server that holds it. The function's
module is imported; the function is not run, and no server is asked.

  cachekit key shop.reports:report 42 month='"2026-11"'""",
    _add_arguments,
    _run,
)
