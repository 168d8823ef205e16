"""What tests of the watch share: a server that may be ended, pauses without waiting, and no thread left behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
from support.memcached import Memcached, start_memcached
from support.threads import eventually

from cachekit.watch import follower

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@pytest.fixture(name="mortal")
def mortal_fixture() -> Iterator[Memcached]:
    """A server of the test's own."""
    with start_memcached() as server:
        yield server


@pytest.fixture(name="short_pauses", autouse=True)
def short_pauses_fixture(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test waits for minutes, nor for a second, and none leaves a thread behind."""
    monkeypatch.setattr(follower, "PAUSES_S", {"lost": (0.05, 0.2), "full": (0.05, 0.2), "unknown": (0.05, 0.2)})
    monkeypatch.setattr(follower, "POLL_S", 0.1)
    yield
    assert eventually(lambda: not threads())


def threads() -> list[str]:
    """The followers of this process."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("cachekit-watch")]
