"""The pytest plugin, in a test run of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

OPT_IN = 'pytest_plugins = ["cachekit.testing.plugin"]\n'

USES = """
import pytest
from cachekit import MISS

seen = []

@pytest.mark.parametrize("turn", [1, 2])
def test_a_new_cache_and_clock_for_every_test(cachekit_cache, cachekit_clock, turn):
    assert cachekit_cache not in seen and cachekit_clock.monotonic() == 0
    seen.append(cachekit_cache)

    @cachekit_cache(ttl="5m")
    def square(n):
        return n * n

    assert (square.peek(3), square(3), square(3), square.info().hits) == (MISS, 9, 9, 1)
    cachekit_clock.advance("5m")
    assert square.peek(3) is MISS

def test_the_clock_alone(cachekit_clock):
    cachekit_clock.advance("1h")
    assert cachekit_clock.monotonic() == 3600

def test_closed_after(cachekit_cache):
    cachekit_cache.close = lambda: seen.append("closed")

def test_was_closed():
    assert seen[-1] == "closed"
"""


def pytest_run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """A run of pytest in ``folder``, with warnings as errors."""
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *args]
    away = {"CACHEKIT_DISABLE": "1", "CACHEKIT_URL": "memcached://127.0.0.1:1"}
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **away}, capture_output=True, text=True, check=False, timeout=100
    )


def test_the_fixtures_work_for_who_asks_for_them(tmp_path: Path) -> None:
    """Opted in by a line in conftest.py: an empty cache and a clock for each test, whatever the environment says."""
    (tmp_path / "conftest.py").write_text(OPT_IN)
    (tmp_path / "test_shop.py").write_text(USES)
    ran = pytest_run(tmp_path)
    assert (ran.returncode, "5 passed" in ran.stdout) == (0, True), ran.stdout


def test_the_fixtures_tell_what_they_are(tmp_path: Path) -> None:
    """``pytest --fixtures`` shows a sentence for each."""
    ran = pytest_run(tmp_path, "-p", "cachekit.testing.plugin", "--fixtures")
    assert "cachekit_clock" in ran.stdout
    assert "An empty cache on an embedded server; both go by" in ran.stdout


def test_nobody_gets_them_unasked(tmp_path: Path) -> None:
    """An installed cachekit adds nothing to a project's pytest."""
    (tmp_path / "test_shop.py").write_text("def test_it(cachekit_cache): pass\n")
    ran = pytest_run(tmp_path)
    assert (ran.returncode, "fixture 'cachekit_cache' not found" in ran.stdout) == (1, True), ran.stdout
