"""Draws ring.svg: spread and movement of cachekit's ring beside ketama's, over many fleets of ten servers.

Run from the root of the repository: ``python -m docs.images.ring`` (ten seconds; needs matplotlib). The points are
measured while it runs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.ketama import Ketama
from cachekit.addresses import parse_target
from cachekit.ring import SLOTS, Ring
from cachekit.servers import Server

HERE = Path(__file__).resolve().parent
FLEETS = 40
SERVERS = 10
OURS, THEIRS, INK = "#0b7a75", "#b3541e", "#333333"
Measured = tuple[list[float], list[float]]


def fleet(number: int) -> tuple[Server, ...]:
    return parse_target([f"10.{number}.0.{i}" for i in range(1, SERVERS + 2)]).servers


def ours(servers: Sequence[Server]) -> list[str]:
    ring = Ring(servers)
    return [ring.servers[index].name for index in ring.table]


def ketama(servers: Sequence[Server]) -> list[str]:
    """Owners of 65 536 evenly spaced hashes: exact enough, and no key's noise in it."""
    ring = Ketama(servers)
    places = (bisect_left(ring.points, (slot << 16) + (1 << 15)) % len(ring.points) for slot in range(SLOTS))
    return [servers[ring.owners[place]].name for place in places]


def measure() -> dict[str, Measured]:
    found: dict[str, Measured] = {"cachekit": ([], []), "ketama": ([], [])}
    for number in range(FLEETS):
        servers = fleet(number)
        for name, place in (("cachekit", ours), ("ketama", ketama)):
            before, after = place(servers[:SERVERS]), place(servers)
            shares = [100 * before.count(server.name) * SERVERS / SLOTS - 100 for server in servers[:SERVERS]]
            found[name][0].extend(shares)
            found[name][1].append(100 * sum(a != b for a, b in zip(before, after, strict=True)) / SLOTS)
    return found


def scatter(axes: Axes, name: str, values: Sequence[float], row: int, colour: str) -> None:
    wobble = [row + 0.28 * ((7 * i % 13) / 6 - 1) for i in range(len(values))]
    axes.set_ylim(-0.4, 1.75)
    axes.plot(values, wobble, ".", color=colour, markersize=4, alpha=0.55, markeredgewidth=0)
    low, high = min(values), max(values)
    label = f"{name}: {low:.1f} … {high:.1f}".replace("-", "−")
    axes.text(0.0, row + 0.42, label, color=colour, fontsize=10, transform=axes.get_yaxis_transform())


def draw(found: dict[str, Measured]) -> None:
    mpl.rcParams |= {"svg.hashsalt": "cachekit", "font.size": 10, "axes.edgecolor": INK, "text.color": INK}
    figure, (shares, moves) = plt.subplots(2, 1, figsize=(8, 5), layout="constrained")
    for axes, part in ((shares, 0), (moves, 1)):
        for row, (name, colour) in enumerate((("ketama", THEIRS), ("cachekit", OURS))):
            scatter(axes, name, found[name][part], row, colour)
        axes.set_yticks([])
        axes.spines[["left", "top", "right"]].set_visible(False)
    shares.axvline(0, color=INK, linewidth=0.8)
    shares.set_title(
        f"How far each of ten servers is from its fair share, %, in {FLEETS} fleets", loc="left", fontsize=11
    )
    moves.axvline(100 / (SERVERS + 1), color=INK, linewidth=0.8)
    moves.set_title(
        "Keys moved when an eleventh server joins, % (the line is the ideal, 9.09)", loc="left", fontsize=11
    )
    figure.savefig(HERE / "ring.svg", metadata={"Date": None})


if __name__ == "__main__":
    draw(measure())
