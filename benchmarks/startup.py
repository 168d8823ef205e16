"""P15: what an import costs, in fresh interpreters, interleaved; and whether asyncio comes along with sync code."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.harness import Contestant, Race, race
from benchmarks.report import Section, ratio_section

FIGURES = ("P15",)
ROOT = Path(__file__).resolve().parent.parent
BASELINE = "pymemcache"
_BYTECODE = tempfile.mkdtemp(prefix="bench-bytecode-")
atexit.register(shutil.rmtree, _BYTECODE, ignore_errors=True)
IMPORTS = {
    "pymemcache": "import pymemcache",
    "cachekit": "import cachekit",
    "pylibmc": "import pylibmc",
    "meta-memcache": "import meta_memcache",
    "dogpile.cache": "import dogpile.cache",
    "Flask-Caching": "import flask_caching",
    "aiocache": "import aiocache",
    "Django's cache": "import django.core.cache",
    "cachetools": "import cachetools",
}
SYNC_CALL = """
import sys, cachekit
def loaded():
    return "yes" if "asyncio" in sys.modules else "no"
after_import = loaded()
cache = cachekit.Cache("memory:")
@cache(ttl=60)
def double(number: int) -> int:
    return 2 * number
assert double(2) == double(2) == 4
print(after_import, loaded())
"""


def sections(quick: bool) -> Iterator[Section]:
    result = imports(rounds=5 if quick else 15)
    notes = ("time of the import statement alone, in a fresh interpreter each time; bytecode is already compiled",)
    yield ratio_section("P15", "import time", result, [BASELINE], goal="≤ 1.5", notes=notes)
    yield asyncio_section()


def imports(rounds: int) -> Race:
    """The child tells the import statement's own seconds; the race's clock goes forward by them."""
    told = _Told()
    for statement in IMPORTS.values():  # once for the bytecode; what is missing says so in its own row
        with contextlib.suppress(RuntimeError):
            python(statement)
    contestants = [Contestant(name, told.runner(statement), 1) for name, statement in IMPORTS.items()]
    return race(contestants, rounds=rounds, samples=1, clock=told.clock)


class _Told:
    """A clock that goes forward by what the children measured."""

    def __init__(self) -> None:
        self._now = 0.0

    def clock(self) -> float:
        return self._now

    def runner(self, statement: str) -> Callable[[], None]:
        program = f"from time import perf_counter as t; s = t(); {statement}; print(t() - s)"

        def run() -> None:
            self._now += float(python(program))

        return run


def python(program: str) -> str:
    """Run a program in a fresh interpreter at the root of the checkout, and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": _BYTECODE}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return done.stdout.strip()


def asyncio_section() -> Section:
    try:
        after_import, after_call = python(SYNC_CALL).split()
    except RuntimeError as error:
        after_import, after_call = "–", f"failed: {error}"[:120]
    rows = (("import cachekit", after_import), ("a decorated synchronous call on the embedded server", after_call))
    return Section("P15", "asyncio on the synchronous path", ("after", "asyncio imported"), rows, "no")
