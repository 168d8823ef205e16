"""Which servers the command line talks to: --servers, else CACHEKIT_URL."""

from __future__ import annotations

import argparse
import os

from cachekit.addresses import parse_target
from cachekit.cli.complaint import Complaint
from cachekit.servers import Target

_HINT = "write --servers memcached://127.0.0.1:11211, or set CACHEKIT_URL"


def add_servers(parser: argparse.ArgumentParser, what: str = "the servers, as a URL; default: CACHEKIT_URL") -> None:
    """Give a command the option --servers."""
    parser.add_argument("--servers", metavar="URL", help=what)


def target(arguments: argparse.Namespace) -> Target:
    """The ring that was asked for. Raises ``Complaint`` where there is none, ``ConfigurationError`` for a bad URL."""
    url = arguments.servers if arguments.servers is not None else os.environ.get("CACHEKIT_URL")
    if not url:
        raise Complaint(f"which servers? {_HINT}")
    found = parse_target(url)
    if found.scheme == "memory":
        raise Complaint(f"memory: is inside the process that uses it, and can't be seen from here; {_HINT}")
    return found
