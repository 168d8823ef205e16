"""A full near tier takes as much of the process as it was given: within ten percent, whatever is in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import near_memory

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory is read where Linux tells it")


@pytest.mark.parametrize("kind", ["int", "kilobyte", "mixed"])
def test_the_memory_of_the_process_stays_within_ten_percent(kind: str) -> None:
    """Small values, where nearly all of it is bookkeeping, as large ones; when it is full, and after much has passed
    through it.
    """
    command = [sys.executable, near_memory.__file__, kind, "16"]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    bound, counted, full, churned = map(int, told.stdout.split())
    assert 0.95 * bound < counted <= bound
    assert 0.90 * bound < full < 1.10 * bound
    assert 0.90 * bound < churned < 1.10 * bound
