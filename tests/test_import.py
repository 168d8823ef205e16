"""What importing cachekit loads, and what it leaves for later (benchmarks/startup.py has the times)."""

from __future__ import annotations

import subprocess
import sys

import pytest

PYMEMCACHE = "import pymemcache.client.base\n"
IMPORT = "from cachekit import Cache\n"
DIRECT = (
    "cache = Cache('memory:', prefix='p')\n"
    "assert cache.set('text', 'value') and cache.get('text') == 'value' and cache.delete('text')\n"
)
DECORATED = (
    "cache = Cache('memory:')\n"
    "@cache(ttl='5m')\n"
    "def double(number):\n"
    "    return {'result': 2 * number}\n"
    "assert double(2) == double(2) == {'result': 4} and double.info().hits == 1\n"
)


def loaded(script: str) -> set[str]:
    """The modules in a fresh interpreter after ``script``."""
    code = f"{script}\nimport sys\nprint(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(ran.stdout.split())


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """What is there after the import, over what pymemcache and a bare interpreter load themselves."""
    return loaded(IMPORT) - loaded(PYMEMCACHE)


@pytest.mark.parametrize(
    "module",
    [
        "asyncio", "inspect", "ast", "dis", "dataclasses", "ormsgpack", "zstandard", "hashlib", "difflib", "ipaddress",
        "urllib.parse", "pathlib", "json", "uuid", "decimal", "fractions", "zoneinfo",
    ],
)  # fmt: skip
def test_slow_modules_wait_until_they_are_needed(imported: set[str], module: str) -> None:
    """Importing ``Cache`` loads none of the modules that only some calls need."""
    assert "cachekit.cache" in imported
    assert module not in imported


@pytest.mark.parametrize(
    "part",
    [
        "cachekit.embedded",
        "cachekit.keys.compile",
        "cachekit.codecs.data",
        "cachekit.cli",
        "cachekit.invalidates",
        "cachekit.transaction",
        "cachekit.integrations",
        "cachekit.watch",
        "cachekit.tombstones",
        "cachekit.outbox",
        "cachekit.replay",
        "cachekit.spool",
    ],
)
def test_parts_wait_until_they_are_needed(imported: set[str], part: str) -> None:
    """The embedded server, the key compiler, the default codec, the command line … load at their first use."""
    assert part not in imported


def test_little_of_the_standard_library_comes_along(imported: set[str]) -> None:
    """A module that is not in this list costs every process that imports cachekit: think before you add one."""
    packages = {name.partition(".")[0] for name in imported if not name.startswith("_")}
    assert packages <= {"bisect", "cachekit", "contextvars", "datetime", "importlib", "random"}


@pytest.mark.parametrize("script", [DIRECT, DECORATED], ids=["direct", "decorated"])
def test_the_sync_path_never_loads_asyncio(script: str) -> None:
    """Neither a direct verb nor a decorated call brings asyncio in."""
    modules = loaded(IMPORT + script)
    assert "cachekit.sync.fleet" in modules
    assert "asyncio" not in modules


def test_a_large_value_loads_the_compressor() -> None:
    """The compressor is looked for when a value is long enough to be compressed, and not before."""
    assert "zstandard" not in loaded(IMPORT + DIRECT)
    assert "zstandard" in loaded(IMPORT + "cache = Cache('memory:')\nassert cache.set('k', 'x' * 10_000)\n")
