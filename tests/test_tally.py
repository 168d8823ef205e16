"""The counters and the frozen picture of them."""

from __future__ import annotations

import pytest

from cachekit.tally import COUNTS, Info, Tally, total


def counted(**counts: int) -> Tally:
    """A tally with these counts."""
    tally = Tally()
    for name, count in counts.items():
        setattr(tally, name, count)
    return tally


def test_a_new_tally_is_all_zeros() -> None:
    """Nothing happened yet, and the ratio of nothing is 0 and no error."""
    info = Tally().info()
    assert info == Info(0, 0, 0, 0, 0, 0, 0, 0.0)
    assert info.hit_ratio == 0.0


def test_info_tells_every_counter_under_its_name() -> None:
    """Different numbers everywhere, so that two that were exchanged would show; microseconds come out as seconds."""
    tally = counted(hits=1, misses=2, stale=3, fills=4, waits=5, errors=6, unstored=7, saved_us=8_500_000)
    assert tally.info() == Info(hits=1, misses=2, stale=3, fills=4, waits=5, errors=6, unstored=7, seconds_saved=8.5)


def test_info_is_a_picture_and_not_a_window() -> None:
    """What was told does not change under the reader's eyes, and can't be changed by him."""
    tally = counted(hits=1)
    info = tally.info()
    tally.hits += 1
    assert (info.hits, tally.info().hits) == (1, 2)
    with pytest.raises(AttributeError):
        info.hits = 5  # type: ignore[misc]


@pytest.mark.parametrize(("hits", "misses", "ratio"), [(0, 0, 0.0), (3, 0, 1.0), (0, 3, 0.0), (3, 1, 0.75)])
def test_the_hit_ratio(hits: int, misses: int, ratio: float) -> None:
    """Hits over all calls."""
    assert counted(hits=hits, misses=misses).info().hit_ratio == ratio


def test_the_total_is_the_sum_of_every_counter() -> None:
    """No counter is left out, whichever there are."""
    one = counted(**{name: at + 1 for at, name in enumerate(COUNTS)})
    two = counted(**{name: 100 * (at + 1) for at, name in enumerate(COUNTS)})
    both = counted(**{name: 101 * (at + 1) for at, name in enumerate(COUNTS)})
    assert total([one, two]) == both.info()
    assert total([one]) == one.info()
    assert total([]) == Tally().info()
    assert one.info() == counted(**{name: at + 1 for at, name in enumerate(COUNTS)}).info()
