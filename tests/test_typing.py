"""The types of the public interface, as a user's mypy sees them; ``make types`` asks pyright as well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_mypy_agrees_with_every_line_of_tests_typing() -> None:
    """What is right has the type that it should have, and each line that is marked as an error is one."""
    command = [sys.executable, "-m", "mypy", "--strict", "tests/typing"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
