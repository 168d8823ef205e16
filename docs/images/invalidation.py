"""Draws invalidation.svg: a tag is bumped on every server while a fill is under way, and the fill's value is void.

Run from the root of the repository: ``python -m docs.images.invalidation``. Needs matplotlib.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

HERE = Path(__file__).resolve().parent
ASKS, GONE, FILL, INK, GREY = "#0b7a75", "#b3541e", "#e3b23c", "#333333", "#8a8a8a"

ROWS = {"filler": 5.4, "server A": 4.0, "server B": 2.6, "writer": 1.2}
READ, BEGIN, BUMP, STORE, LATER = 1.9, 2.6, 4.3, 6.6, 9.0


def box(axes: Axes, x: float, row: float, text: str, *, colour: str = INK, face: str = "white") -> None:
    """What stands on a server at that time."""
    shape = FancyBboxPatch((x, row - 0.24), 1.28, 0.48, boxstyle="round,pad=0.02", facecolor=face, edgecolor=colour)
    axes.add_patch(shape)
    axes.text(x + 0.64, row, text, ha="center", va="center", color=colour, fontsize=9)


def arrow(axes: Axes, x: float, begin: float, end: float, text: str, *, colour: str = INK) -> None:
    """Something that is said to a server."""
    axes.annotate(
        "", (x, end), (x, begin), arrowprops={"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0}
    )
    axes.text(x + 0.08, (begin + end) / 2, text, va="center", color=colour, fontsize=9)


def draw(axes: Axes) -> None:
    """The rows, and what happens along them, from left to right."""
    for name, row in ROWS.items():
        axes.text(0.05, row, name, va="center", fontweight="bold", fontsize=10.5)
        axes.plot([1.1, 11.6], [row, row], color=GREY, linewidth=1, zorder=0)
    filler, one, other, writer = ROWS.values()
    axes.plot([BEGIN, STORE], [filler, filler], color=FILL, linewidth=9, solid_capstyle="butt")
    axes.text(
        (BEGIN + STORE) / 2, filler + 0.28, "the function runs: what it reads is older than the bump", ha="center"
    )
    arrow(axes, READ, filler - 0.05, one + 0.3, "lease, and tag = 7", colour=ASKS)
    box(axes, 2.5, one, "tag: 7")
    box(axes, 2.5, other, "tag: 3")
    for row in (one, other):
        arrow(axes, BUMP, writer + 0.05, row - 0.3, "delete" if row == other else "", colour=GONE)
        axes.plot(BUMP + 0.55, row, "X", color=GONE, markersize=10)
    axes.text(BUMP - 0.1, writer - 0.34, "invalidate_tags(…): True", color=GONE, ha="left")
    arrow(axes, STORE, filler - 0.05, one + 0.3, "store, made under 7")
    box(axes, STORE + 0.15, one, "value (7)", face="#f5e6c4")
    arrow(axes, LATER, filler - 0.05, one + 0.3, "read", colour=ASKS)
    axes.text(LATER + 0.15, filler + 0.28, "a later reader", color=ASKS, ha="center")
    box(axes, LATER + 0.15, one, "tag: 12", colour=ASKS)
    axes.text(
        LATER + 0.8, one - 0.5, "made anew, higher:\nthe value under 7 is void", color=ASKS, ha="center", va="top"
    )


def main() -> None:
    """Write the picture beside this file."""
    mpl.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9.5, "svg.hashsalt": "cachekit"})
    figure, axes = plt.subplots(figsize=(9.4, 4.6))
    axes.set(xlim=(0, 11.7), ylim=(0.5, 6.1))
    axes.axis("off")
    draw(axes)
    figure.savefig(HERE / "invalidation.svg", bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
