"""Draws asyncio.svg: the requests of one loop turn leave in one write, and a cancelled caller's slot stays in line.

Run from the root of the repository: ``python -m docs.images.asyncio``. Needs matplotlib.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

Point = tuple[float, float]
HERE = Path(__file__).resolve().parent
ASKS, GONE, SENT, INK, GREY = "#0b7a75", "#b3541e", "#e3b23c", "#333333", "#8a8a8a"

TASKS = {"A": 6.0, "B": 5.2, "C": 4.4, "D": 3.6}
CANCELLED = "C"
LINE, SERVER = 2.1, 0.4  # the rows of the slots and of the server
ASKED, CANCEL, READ, END = 2.0, 4.3, 6.8, 9.5


def task(axes: Axes, name: str, row: float) -> None:
    """One task's life, from left to right."""
    gone = name == CANCELLED
    axes.text(0.1, row, f"task {name}", va="center", fontsize=10.5, fontweight="bold")
    axes.plot([0.9, ASKED], [row, row], color=GREY, linewidth=2)
    axes.plot([ASKED, CANCEL if gone else READ], [row, row], color=ASKS, linewidth=2, linestyle=(0, (1.5, 1)))
    axes.plot(ASKED, row, "o", color=ASKS, markersize=7)
    if gone:
        axes.plot(CANCEL, row, "X", color=GONE, markersize=11)
        axes.text(CANCEL + 0.2, row, "cancelled: told at once", va="center", color=GONE)
        return
    axes.plot([READ, END], [row, row], color=GREY, linewidth=2)
    axes.plot(READ, row, "o", color=ASKS, markersize=7)
    axes.text(READ + 0.2, row + 0.22, "its own reply", va="center", color=ASKS)


def slots(axes: Axes, x: float, *, gone: bool) -> None:
    """The requests under way, in the order in which they were sent."""
    for at, name in enumerate(TASKS):
        empty = gone and name == CANCELLED
        box = Rectangle(
            (x + 0.36 * at, LINE - 0.26),
            0.36,
            0.52,
            facecolor="white" if empty else SENT,
            edgecolor=GONE if empty else INK,
            linestyle="--" if empty else "-",
            linewidth=1.4,
            zorder=3,
        )
        axes.add_patch(box)
        axes.text(x + 0.36 * at + 0.18, LINE, name, ha="center", va="center", color=GONE if empty else INK, zorder=4)


def arrow(axes: Axes, begin: Point, end: Point, colour: str = INK, width: float = 1) -> None:
    shape = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, begin, arrowprops=shape)


def talk(axes: Axes) -> None:
    """What goes over the connection."""
    bottom = LINE - 0.3
    axes.plot([ASKED, ASKED], [TASKS["A"], LINE + 0.3], color=ASKS, linewidth=1)
    arrow(axes, (ASKED, TASKS["D"]), (ASKED, LINE + 0.28), ASKS)
    arrow(axes, (ASKED, bottom), (ASKED, SERVER + 0.3), INK, 3)
    axes.text(ASKED + 0.15, 1.2, "one write for all that is\nasked in this turn", va="center")
    arrow(axes, (READ, SERVER + 0.3), (READ, bottom), INK, 3)
    axes.text(READ + 0.15, 1.2, "one read, the replies\nin the order of the slots", va="center")
    axes.plot([READ, READ], [LINE + 0.3, TASKS["A"]], color=ASKS, linewidth=1)
    arrow(axes, (READ, TASKS["B"]), (READ, TASKS["A"] - 0.1), ASKS)
    arrow(axes, (READ + 0.95, LINE), (READ + 1.35, LINE), GONE)
    axes.text(READ + 1.4, LINE, "C’s reply is dropped;\na lease in it is given back", va="center", color=GONE)


def draw() -> None:
    mpl.rcParams |= {"svg.hashsalt": "cachekit", "font.size": 10, "axes.edgecolor": INK, "text.color": INK}
    figure, axes = plt.subplots(figsize=(10, 5))
    figure.subplots_adjust(left=0.01, right=0.99, top=0.98, bottom=0.02)
    axes.axvspan(ASKED - 0.22, ASKED + 0.22, ymin=0.24, color="#e8f3f2", zorder=0)
    axes.text(ASKED, 6.65, "one turn of the loop", ha="center", color=ASKS)
    for name, row in TASKS.items():
        task(axes, name, row)
    axes.text(0.1, LINE, "slots in\nline", va="center", fontsize=10.5, fontweight="bold")
    slots(axes, ASKED - 0.72, gone=False)
    slots(axes, CANCEL - 0.72, gone=True)
    axes.text(CANCEL, LINE + 0.55, "C’s slot stays", ha="center", color=GONE)
    slots(axes, READ - 0.72, gone=True)
    axes.add_patch(Rectangle((0.9, SERVER - 0.3), END - 0.9, 0.6, facecolor="#f3f3f3", edgecolor=GREY))
    axes.text((0.9 + END) / 2, SERVER, "memcached", ha="center", va="center", fontweight="bold")
    talk(axes)
    axes.set_xlim(0, 10.3)
    axes.set_ylim(0, 7)
    axes.axis("off")
    figure.savefig(HERE / "asyncio.svg", metadata={"Date": None})


if __name__ == "__main__":
    draw()
