"""The main job on the servers of docker-compose.yml: spread, invalidate, lose a server, get it back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support.compose import SERVERS, Compose

from cachekit import Cache, CachedFunction


@pytest.fixture
def cache(compose: Compose) -> Iterator[Cache]:
    """A cache on the three containers."""
    with Cache(compose.servers, prefix="compose") as made:
        yield made


def squares(cache: Cache, runs: list[int]) -> CachedFunction[[int], int]:
    """A cached function that notes each run."""

    @cache(ttl="5m")
    def square(n: int) -> int:
        runs.append(n)
        return n * n

    return square


def until(condition: Callable[[], bool], limit_s: float = 10.0) -> bool:
    """Wait for ``condition``, at most ``limit_s`` seconds; whether it came."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_calls_are_served_from_all_three_servers(cache: Cache) -> None:
    """A function of 300 arguments runs 300 times; then never again, and every server holds its share."""
    runs: list[int] = []
    square = squares(cache, runs)
    assert [square(n) for n in range(300)] == [n * n for n in range(300)]
    assert square.many(square.bind(n) for n in range(300)) == [n * n for n in range(300)]
    assert sorted(runs) == list(range(300))
    placed = [square.explain(n).server for n in range(300)]
    assert all(60 < placed.count(server) < 140 for server in set(placed))
    assert len(set(placed)) == 3


def test_an_invalidation_of_everything_reaches_every_server(cache: Cache) -> None:
    """invalidate_all is acknowledged by all three, and every entry is computed again, once."""
    runs: list[int] = []
    square = squares(cache, runs)
    for _ in range(2):
        for n in range(60):
            square(n)
        assert square.invalidate_all()
    for n in range(60):
        square(n)
    assert len(runs) == 180


@pytest.mark.parametrize("fault", ["pause", "kill"])
def test_a_lost_server_costs_its_own_keys_only_and_comes_back(
    cache: Cache, compose: Compose, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No caller sees an error; the other servers' entries are served meanwhile; one warning; then it is used again."""
    runs: list[int] = []
    square = squares(cache, runs)
    for n in range(60):
        square(n)
    lost = compose.servers[1]
    theirs = [n for n in range(60) if square.explain(n).server == lost]
    runs.clear()
    with caplog.at_level(logging.WARNING, "cachekit"):
        getattr(compose, fault)(SERVERS[1])
        assert [square(n) for n in range(60)] == [n * n for n in range(60)]
        assert [square(n) for n in range(60)] == [n * n for n in range(60)]
    assert set(runs) == set(theirs)
    assert cache.stats().servers[lost] is False
    assert sum(lost in record.getMessage() for record in caplog.records) == 1
    assert square.invalidate(theirs[0]) is False
    (compose.unpause if fault == "pause" else compose.start)(SERVERS[1])
    assert until(lambda: cache.stats().servers[lost])
    for n in theirs:
        square(n)
    runs.clear()
    assert [square(n) for n in theirs] == [n * n for n in theirs]
    assert runs == []


def test_an_invalidation_beats_the_fill_under_way(cache: Cache) -> None:
    """What was computed before an acknowledged invalidation is returned to its caller and stored for nobody."""
    began, go_on = threading.Event(), threading.Event()
    answers = iter(["old", "new"])

    @cache(ttl="5m")
    def slow() -> str:
        answer = next(answers)
        began.set()
        assert go_on.wait(20)
        return answer

    got: list[str] = []
    thread = threading.Thread(target=lambda: got.append(slow()))
    thread.start()
    assert began.wait(20)
    assert slow.invalidate()
    go_on.set()
    thread.join()
    assert got == ["old"]
    assert slow() == "new"
    assert slow() == "new"
