"""Fixtures for pytest. They are there for a project that asks for them, in its outermost ``conftest.py``::

    pytest_plugins = ["cachekit.testing.plugin"]

``cachekit_clock`` is a clock that only the test moves, ``cachekit_cache`` an empty cache that goes by it. Every test
gets new ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cachekit.cache import Cache
from cachekit.testing.clock import ManualClock
from cachekit.testing.isolation import make_cache


@pytest.fixture
def cachekit_clock() -> ManualClock:
    """A clock that stands still at noon UTC on 1 January 2026 until the test moves it."""
    return ManualClock()


@pytest.fixture
def cachekit_cache(cachekit_clock: ManualClock) -> Iterator[Cache]:
    """An empty cache on an embedded server; both go by ``cachekit_clock``."""
    with make_cache(cachekit_clock) as cache:
        yield cache
