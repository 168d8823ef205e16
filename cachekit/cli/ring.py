"""``cachekit ring``: what share of all keys each server holds, and where given keys live. Asks no server anything."""

from __future__ import annotations

import argparse

from cachekit.cli import chart
from cachekit.cli.command import Command
from cachekit.cli.where import add_servers, target
from cachekit.keys import wire_key
from cachekit.ring import Ring
from cachekit.types import Key

_BAR = 30


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_servers(parser)
    parser.add_argument("keys", nargs="*", metavar="KEY", help="a key as it is on the wire, prefix included")


def _run(arguments: argparse.Namespace) -> int:
    wanted = [(key, wire_key(b"", Key(key))) for key in arguments.keys]
    ring = Ring(target(arguments).servers)
    print("\n".join(_shares(ring)))
    if wanted:
        places = [(key, "on", ring.servers[ring.index(wire)].name) for key, wire in wanted]
        print("", *chart.table(places, left=3), sep="\n")
    return 0


def _shares(ring: Ring) -> list[str]:
    shares = ring.shares()
    weights = sum(server.weight for server in ring.servers)
    largest = max(shares.values())
    blocks = chart.can_draw()
    rows = [("server", "weight", "share", "of fair", "")]
    for server in ring.servers:
        share = shares[server.name]
        fair = server.weight / weights
        drawn = chart.bar(share, largest, _BAR, blocks=blocks)
        rows.append((server.name, f"{server.weight:g}", f"{100 * share:.2f} %", f"{share / fair:.3f}", drawn))
    # The bars end the line, so they are not part of the table's right-aligned columns.
    return [f"{line}  {row[4]}".rstrip() for line, row in zip(chart.table(row[:4] for row in rows), rows, strict=True)]


COMMAND = Command(
    "show each server's share of the ring, and where keys live",
    """Show what share of all keys each server holds, and where the given keys live.
Only the addresses matter: no server is asked.""",
    _add_arguments,
    _run,
)
