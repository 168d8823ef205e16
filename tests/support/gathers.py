"""Counts the windows that the blocking shell opens over the servers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from cachekit.ops import Exchange


def count_windows(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """From here on, the servers that each window asks, by index."""
    from cachekit.sync import drive

    windows: list[list[int]] = []
    real: Any = vars(drive)["gather"]

    def counted(exchanges: Sequence[Exchange], fleet: Any) -> Any:
        windows.append([each.server for each in exchanges])
        return real(exchanges, fleet)

    monkeypatch.setattr(drive, "gather", counted)
    return windows
