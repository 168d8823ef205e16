"""Markdown: sections of tables, and the facts of the machine that measured them (no host names, no paths)."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from benchmarks.harness import Race

PACKAGES = (
    "cachekit-memcached", "pymemcache", "pylibmc", "dogpile.cache", "Flask-Caching", "aiocache", "aiomcache", "Django",
    "cachetools", "meta-memcache", "python-memcached", "python-binary-memcached", "emcache", "uvloop", "cachebox",
    "theine", "cashews",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Section:
    """One figure: its table, the goal it is held against, and what a reader has to know."""

    figure: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    goal: str = ""
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        lines = [f"### {self.figure}: {self.title}", ""]
        if self.goal:
            lines += [f"Goal: {self.goal}", ""]
        lines += table(self.columns, self.rows)
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return head + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def ratio_section(
    figure: str, title: str, race: Race, baselines: Sequence[str], *, goal: str = "", notes: Iterable[str] = ()
) -> Section:
    """A section whose columns are the ratios to one or more baselines; the first one's spread is shown too."""
    columns = ["contestant", *(f"over {baseline}" for baseline in baselines), "quartiles", "fastest samples", "µs here"]
    rows: list[tuple[str, ...]] = []
    for name in sorted(race.times, key=race.median_us):
        ratios = [race.ratio(name, baseline) for baseline in baselines]
        first = ratios[0]
        figures = (
            *(f"{ratio.median:.2f}" for ratio in ratios),
            f"{first.low:.2f}–{first.high:.2f}",
            f"{first.fastest:.2f}",
        )
        rows.append((name, *figures, f"{race.median_us(name):.1f}"))
    blank = ("–",) * (len(columns) - 2)
    rows += [(name, *blank, f"failed: {error}") for name, error in race.failed.items()]
    return Section(figure, title, tuple(columns), tuple(rows), goal, tuple(notes))


def machine_facts() -> Mapping[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "CPU": cpu_model(),
        "cores": str(cores),
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "memcached": memcached_version(),
    }


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def memcached_version() -> str:
    try:
        answer = subprocess.run(["memcached", "-V"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return "not installed"
    return answer.strip().removeprefix("memcached ")


def package_versions() -> Mapping[str, str]:
    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def head(skipped: Mapping[str, str], quick: bool) -> str:
    """The report's first lines: machine, versions, what was skipped and how to read the tables."""
    command = "python -m benchmarks --quick" if quick else "python -m benchmarks"
    lines = [
        "# Benchmarks",
        "",
        f"Written by `{command} --write`. A ratio is the median of the ratios inside interleaved rounds;",
        "",
    ]
    lines[-2] += " an absolute time is there for orientation only. Below 1 is faster than the baseline."
    lines += table(("fact", "value"), list(machine_facts().items()))
    lines += ["", *table(("package", "version"), list(package_versions().items()))]
    if skipped:
        lines += [
            "",
            "Skipped, since they could not be imported: "
            + "; ".join(f"{name} ({why})" for name, why in skipped.items())
            + ".",
        ]
    return "\n".join(lines) + "\n"
