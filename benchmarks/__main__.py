"""`python -m benchmarks [names…] [--quick] [--full] [--ops N] [--write]`: every figure, or those named, as Markdown.

A name is a module (`speed_direct`) or a figure (`P4`). The report goes to stdout, and with `--write` to
docs/benchmarks.md as well, where the figures that were not run stay as they are.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from benchmarks import report
from benchmarks.adapters import load
from benchmarks.startup import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
SCRIPT_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Script:
    """A module that prints Markdown when it is run, with the arguments that make it quick."""

    figure: str
    title: str
    quick: tuple[str, ...] = ()


FIGURES: Mapping[str, tuple[str, ...]] = {
    "speed_direct": ("P1", "P2", "P3", "P3s", "P13"),
    "speed_decorated": ("P4", "P6", "P7"),
    "speed_asyncio": ("P8",),
    "speed_tags": ("P14",),
    "stampede_cold": ("P9",),
    "stampede_hot": ("P10",),
    "stampede_early": ("early",),
    "stampede_wait": ("wait",),
    "near_hit": ("P11",),
    "near_watch": ("watch",),
    "startup": ("P15",),
    "cpu": ("P16",),
    "ring_quality": ("P12",),
    "keys_cost": ("P5",),
    "faults_interrupt": ("R1",),
    "faults_cancel": ("R1-asyncio",),
    "faults_stop": ("R2",),
    "faults_stop_aio": ("R2-asyncio",),
    "faults_kill": ("R3",),
    "faults_fork": ("R4",),
    "faults_threads": ("R5",),
    "faults_replay": ("R6",),
    "faults_invalidate": ("R7",),
    "faults_winner": ("R8",),
    "key_collisions": ("R9",),
    "injection": ("R10",),
    "pickles": ("R11",),
    "bomb": ("R13",),
    "limits": ("R14",),
    "histories": ("R16",),
}
SCRIPTS: Mapping[str, Script] = {
    "keys_cost": Script("P5", "what a key costs"),
    "key_collisions": Script("R9", "arguments that must differ", ("100000",)),
    "injection": Script("R10", "hostile input", ("10000",)),
    "pickles": Script("R11", "pickles that somebody else wrote", ("4096",)),
    "bomb": Script("R13", "small values that unpack to large ones"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    logging.getLogger().addHandler(logging.NullHandler())  # a peer's complaints are counted, not printed
    head = report.head(load()[1], options.quick)
    print(head, flush=True)
    measured: dict[str, list[str]] = {}
    for name in chosen(options.names):
        start = time.monotonic()
        for part in run(name, quick=options.quick, full=options.full, ops=options.ops):
            measured.setdefault(name, []).append(part)
            print(part, flush=True)
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    if options.write:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text("\n".join([head, *sections_of(PAGE.read_text() if PAGE.exists() else "", measured)]))
    return 0


def sections_of(page: str, measured: Mapping[str, list[str]]) -> list[str]:
    """The report's sections in its order: those that were measured now, and the others as they stand in ``page``."""
    standing: dict[str, list[str]] = {}
    for section in page.split("\n### ")[1:]:
        standing.setdefault(section.partition(":")[0], []).append(f"### {section.rstrip()}\n")
    found: list[str] = []
    for name, figures in FIGURES.items():
        found += measured[name] if name in measured else [each for one in figures for each in standing.get(one, [])]
    return found


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="cachekit beside its peers and the raw socket."
    )
    parser.add_argument(
        "names", nargs="*", help=f"modules or figures; all of them when none is named: {', '.join(FIGURES)}"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds: about six minutes for everything")
    parser.add_argument("--full", action="store_true", help="a million interrupted operations in R1")
    parser.add_argument("--ops", type=int, help="how many operations in R1-asyncio, in place of a million")
    parser.add_argument(
        "--write", action="store_true", help="write docs/benchmarks.md as well; what is not run stays as it is there"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if not chosen([name])]
    if unknown:
        parser.error(f"no such module or figure: {', '.join(unknown)}")
    return options


def chosen(names: Sequence[str]) -> list[str]:
    """The modules that the names mean, in the report's order."""
    return [module for module, figures in FIGURES.items() if not names or {module, *figures} & set(names)]


def run(name: str, *, quick: bool, full: bool, ops: int | None = None) -> Iterator[str]:
    """The Markdown of a module's sections; one that fails says so in the report and does not end it."""
    try:
        if name in SCRIPTS:
            yield script(name, SCRIPTS[name], quick)
            return
        module: Any = import_module(f"benchmarks.{name}")
        options: dict[str, dict[str, Any]] = {"faults_interrupt": {"full": full}, "faults_cancel": {"ops": ops}}
        for section in module.sections(quick, **options.get(name, {})):
            yield section.markdown()
    except Exception as error:
        yield f"### {', '.join(FIGURES[name])}: {name}\n\nNot measured: {type(error).__name__}: {error}\n"


def script(name: str, what: Script, quick: bool) -> str:
    """Run a module of its own as a process, and take over what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"benchmarks.{name}", *(what.quick if quick else ())]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=SCRIPT_LIMIT_S, check=False
    )
    heading = f"### {what.figure}: {what.title}\n\n"
    if not done.stdout.strip():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"{heading}Not measured: {last}\n"
    return f"{heading}{done.stdout.strip()}\n"


if __name__ == "__main__":
    sys.exit(main())
