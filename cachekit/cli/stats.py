"""``cachekit stats``: what each server says about itself. All are asked at once, by the classic ``stats`` command."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pymemcache.client.base import Client  # type: ignore[import-untyped]
from pymemcache.exceptions import MemcacheError  # type: ignore[import-untyped]

from cachekit.cli import chart
from cachekit.cli.command import Command
from cachekit.cli.where import add_servers, target
from cachekit.errors import ServerError
from cachekit.servers import Server
from cachekit.sync.connection import Connection

PATIENCE_S = 1.0
"""Longer than a cache would wait: here somebody looks because something is slow."""

_HEADING = ("server", "version", "up", "items", "bytes", "hit rate", "evicted", "conns")


@dataclass(frozen=True, slots=True)
class Report:
    """What one server answered to ``stats``, or why it did not."""

    server: Server
    stats: Mapping[str, Any]
    trouble: str = ""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_servers(parser)


def _run(arguments: argparse.Namespace) -> int:
    reports = ask_all(target(arguments).servers)
    rows = [_HEADING, *(_row(report) for report in reports)]
    if len(reports) > 1:
        rows.append(_sum([report for report in reports if not report.trouble]))
    print("\n".join(chart.table(rows)))
    return 1 if any(report.trouble for report in reports) else 0


def ask_all(servers: Sequence[Server]) -> list[Report]:
    """Every server's report, in the servers' order; takes as long as the slowest, and no longer than the patience."""
    with ThreadPoolExecutor(max_workers=min(32, len(servers))) as pool:
        return list(pool.map(_ask, servers))


def _ask(server: Server) -> Report:
    try:
        connection = Connection(server, PATIENCE_S)
    except ServerError as error:
        return Report(server, {}, str(error).removeprefix(server.name).lstrip(": "))
    # Opened by us, so that localhost and TLS mean what they mean to a cache; asked by pymemcache, which can read it.
    client = Client(server.address, timeout=PATIENCE_S)
    client.sock = connection.sock
    try:
        told: dict[Any, Any] = client.stats()
        return Report(server, {name.decode(): value for name, value in told.items()})
    except (OSError, MemcacheError, ValueError, IndexError) as error:
        late = isinstance(error, BlockingIOError | TimeoutError)
        return Report(server, {}, "no answer in time" if late else f"no Memcached: {error or type(error).__name__}")
    finally:
        connection.close()


def _row(report: Report) -> tuple[str, ...]:
    if report.trouble:
        return report.server.name, f"down: {report.trouble}"
    stats = report.stats
    version = stats.get("version", b"")
    return (
        report.server.name,
        version.decode("ascii", "replace") if isinstance(version, bytes) else str(version),
        chart.span(_whole(stats, "uptime")) if _whole(stats, "uptime") else "0 s",
        *_figures([report]),
    )


def _sum(up: list[Report]) -> tuple[str, ...]:
    return (f"all {len(up)} up" if up else "none up", "", "", *_figures(up))


def _figures(reports: list[Report]) -> tuple[str, ...]:
    def total(name: str) -> int:
        return sum(_whole(report.stats, name) for report in reports)

    hits = total("get_hits")
    return (
        chart.number(total("curr_items")),
        chart.size(total("bytes")),
        chart.share(hits, hits + total("get_misses")),
        chart.number(total("evictions")),
        chart.number(total("curr_connections")),
    )


def _whole(stats: Mapping[str, Any], name: str) -> int:
    value = stats.get(name, 0)
    return value if isinstance(value, int) else 0


COMMAND = Command(
    "show what each server says about itself",
    """Show what each server says about itself: version, age, items, memory, hit rate, evictions,
connections. A server that is down is shown as down, and the exit code is 1.

The hit rate is the server's own count. To a server, the lease of an absent value and the generation that is read
beside each value are hits as well; how often functions ran is told by function.info().""",
    _add_arguments,
    _run,
)
