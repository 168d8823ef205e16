"""Watches the blocking shell: the windows that it opens over the servers, and that nobody uses it in a loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from cachekit import Cache
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


def no_blocking(cache: Cache) -> None:
    """Whoever uses the blocking shell of ``cache`` from now on fails."""

    def blocked(*_: Any, **__: Any) -> Any:
        raise AssertionError("the blocking shell was used in a loop")

    for name in ("exchange", "take", "connect"):
        setattr(cache._fleet, name, blocked)
