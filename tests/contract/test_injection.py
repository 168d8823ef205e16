"""R10: whatever bytes keys, ttls and CAS numbers hold, a real memcached carries out the one command that was meant."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.hostile import checked_requests, judge, naive_requests
from support.memcached import Memcached, start_memcached


@pytest.fixture(scope="module")
def victim() -> Iterator[Memcached]:
    """A server that only this file talks to, so that its counters are clean."""
    with start_memcached() as server:
        yield server


def test_hostile_input_injects_nothing(victim: Memcached) -> None:
    """Each hostile request is refused, or is one command. (100 000 of them: benchmarks/injection.py.)"""
    verdict = judge(victim, checked_requests(seed=1), 10_000)
    assert verdict.injected == 0
    assert verdict.refused > 5_000
    assert verdict.sent > 1_000


def test_the_jury_can_tell(victim: Memcached) -> None:
    """The same input put together without checks is found guilty: the test above is able to fail."""
    assert judge(victim, naive_requests(seed=1), 100).injected > 50
