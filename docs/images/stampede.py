"""Draws stampede.svg: one end of a hot key's ttl under five strategies, out of the simulation.

Run from the root of the repository: ``python -m docs.images.stampede`` (five seconds; needs matplotlib). What is drawn
and written is measured while it runs.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from docs.design.stampede.simulate import (
    CLAIM,
    LOCK,
    PLAIN,
    STALE,
    XFETCH,
    Outcome,
    Run,
    Setting,
    Strategy,
    Wait,
    longest_wait_s,
    outcomes,
    per_ttl,
    waiting_share,
)

HERE = Path(__file__).resolve().parent
RUN, WAIT, FRESH, OLD, INK = "#b3541e", "#8a8a8a", "#0b7a75", "#e3b23c", "#333333"
SETTING = Setting()
FROM_S, TO_S = -4.2, 1.15
STRIPS = (
    (PLAIN, "plain expiry, no lock"),
    (LOCK, "one fill: cachekit with beta=0"),
    (XFETCH, "early refresh (XFetch), no lock"),
    (CLAIM, "early refresh with claim: cachekit’s default"),
    (STALE, "stale while it refreshes: cachekit with stale="),
)


def typical(strategy: Strategy) -> tuple[Outcome, list[list[Run]], int]:
    """An outcome, its refreshes, and the number of the one that is nearest to the median of them."""
    outcome = outcomes(strategy, SETTING)[0]
    refreshes: list[list[Run]] = []
    for run in outcome.runs:
        if run.first or not refreshes:
            refreshes.append([])
        refreshes[-1].append(run)
    size = median(len(each) for each in refreshes)
    early = median(each[0].early_s for each in refreshes)
    off = [(abs(len(each) - size), abs(each[0].early_s - early)) for each in refreshes[1:-1]]
    return outcome, refreshes, 1 + off.index(min(off))


def strip(axes: Axes, strategy: Strategy, title: str, row: int) -> None:
    """Draw one strategy between ``row`` and ``row + 1``."""
    outcome, refreshes, chosen = typical(strategy)
    runs = refreshes[chosen]
    ttl_end = runs[0].began_s + runs[0].early_s
    last = runs[-1].began_s + SETTING.delta_s
    waits = [wait for wait in outcome.waits if runs[0].began_s <= wait.began_s <= last]
    renewed = runs[0].began_s + SETTING.delta_s - ttl_end
    band(axes, row, FROM_S, min(0.0, renewed), FRESH)
    band(axes, row, renewed, TO_S, FRESH)
    if renewed > 0 and strategy.stale_s:
        band(axes, row, 0.0, renewed, OLD)
    bars(axes, row, runs, waits, ttl_end)
    axes.text(FROM_S, row + 0.84, title, fontsize=10.5, fontweight="bold")
    axes.text(TO_S + 0.15, row + 0.42, summary(strategy), fontsize=9.5, linespacing=1.5, va="center")


def band(axes: Axes, row: int, begin: float, end: float, colour: str) -> None:
    """What there is to serve."""
    axes.barh(row + 0.05, end - begin, left=begin, height=0.07, color=colour, linewidth=0)


def bars(axes: Axes, row: int, runs: list[Run], waits: list[Wait], ttl_end: float) -> None:
    """Runs of the function and callers who wait, one line each, in the order of their coming."""
    lines = sorted(
        [(run.began_s, SETTING.delta_s, RUN) for run in runs] + [(wait.began_s, wait.seconds, WAIT) for wait in waits]
    )
    thick = 0.09 if len(runs) < 9 else 0.0  # a few runs among many callers who wait must be seen
    thin = min(0.09, (0.58 - thick * bool(waits)) / len(lines))
    bottom = row + 0.15
    for began, seconds, colour in lines:
        height = max(thin, thick) if colour is RUN else thin
        axes.barh(bottom + height / 2, seconds, left=began - ttl_end, height=0.75 * height, color=colour, linewidth=0)
        bottom += height


def summary(strategy: Strategy) -> str:
    found = outcomes(strategy, SETTING)
    runs = median(per_ttl(each, SETTING) for each in found)
    share, longest = waiting_share(found), longest_wait_s(found)
    waits = f"1 caller in {1 / share:.0f} waits, up to {longest:.1f} s" if share else "nobody waits for another’s run"
    return f"{runs:.1f} runs per ttl\n{waits}"


def draw() -> None:
    mpl.rcParams |= {"svg.hashsalt": "cachekit", "font.size": 10, "axes.edgecolor": INK, "text.color": INK}
    figure, axes = plt.subplots(figsize=(9.4, 6.2))
    figure.subplots_adjust(left=0.02, right=0.72, top=0.93, bottom=0.09)
    for number, (strategy, title) in enumerate(STRIPS):
        strip(axes, strategy, title, len(STRIPS) - 1 - number)
    axes.axvline(0, color=INK, linewidth=0.8, ymax=0.985)
    axes.set_xlim(FROM_S, TO_S)
    axes.set_ylim(0, len(STRIPS) + 0.05)
    axes.set_yticks([])
    axes.set_xticks(
        range(-4, 2), [f"{second:+d} s".replace("-", "−") if second else "end of ttl" for second in range(-4, 2)]
    )
    axes.spines[["left", "top", "right"]].set_visible(False)
    legend(axes)
    figure.savefig(HERE / "stampede.svg", metadata={"Date": None})


def legend(axes: Axes) -> None:
    names = (
        (FRESH, "fresh value"),
        (OLD, "old value, served"),
        (RUN, "a run of the function"),
        (WAIT, "a caller who waits"),
    )
    handles = [mpl.patches.Patch(color=colour, label=name) for colour, name in names]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, frameon=False, fontsize=9.5)


if __name__ == "__main__":
    draw()
