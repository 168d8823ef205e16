"""The command line: ``cachekit demo | key | get | stats | ring``, also as ``python -m cachekit``.

Exit codes: 0, it is so; 1, it is not (the key is absent, a server is down); 2, the question made no sense. What a
person may mistype is answered by one line that says what to write instead, never by a traceback.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

import cachekit
from cachekit.cli import demo, get, key, ring, stats
from cachekit.cli.command import Command
from cachekit.cli.complaint import Complaint
from cachekit.errors import CacheError, ServerError

COMMANDS: Final[dict[str, Command]] = {
    "demo": demo.COMMAND,
    "key": key.COMMAND,
    "get": get.COMMAND,
    "stats": stats.COMMAND,
    "ring": ring.COMMAND,
}

logger = logging.getLogger("cachekit")
_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of the command line and return its exit code.

    Args:
        argv: the words behind ``cachekit``; None: this process's own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    logger.addHandler(logging.NullHandler())  # what the log would say, the commands say themselves
    _draw_whatever_comes()
    try:
        return _run(words)
    except SystemExit as end:  # argparse: --help, --version, or bad usage
        return end.code if isinstance(end.code, int) else 2
    except Complaint as complaint:
        return _say(words, str(complaint), complaint.code)
    except CacheError as error:
        return _say(words, str(error), 1 if isinstance(error, ServerError) else 2)
    except KeyboardInterrupt:
        return _say(words, "interrupted", _INTERRUPTED)
    except BrokenPipeError:  # `cachekit ring | head`: nobody listens any more, and Python would complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(words: list[str]) -> int:
    parser = _parser()
    command = next((word for word in words if not word.startswith("-")), None)
    if not words:
        parser.print_help(sys.stderr)
        return 2
    if command is not None and command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise Complaint(f"no command {command!r}; {hint}")
    arguments = parser.parse_args(words)
    if command is None:
        parser.error(f"say which command: {', '.join(COMMANDS)}")
    return int(arguments.run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cachekit",
        description="Look into a cache on a ring of Memcached servers, or watch one at work.",
        epilog="Servers come from --servers or from CACHEKIT_URL in the environment.",
    )
    parser.add_argument("--version", action="version", version=f"cachekit {cachekit.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, command in COMMANDS.items():
        page = commands.add_parser(
            name,
            help=command.summary,
            description=command.description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(page)
        page.set_defaults(run=command.run)
    return parser


def _say(words: list[str], message: str, code: int) -> int:
    command = words[0] if words and words[0] in COMMANDS else ""
    print(f"cachekit{command and ' ' + command}: {message}", file=sys.stderr)
    return code


def _draw_whatever_comes() -> None:
    """A terminal that can't show a character gets another in its place, and no traceback."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
