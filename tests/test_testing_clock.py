"""The clock that only a test moves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from support.threads import Outcome

from cachekit import ConfigurationError
from cachekit.testing import ManualClock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    """A new clock."""
    return ManualClock()


def test_a_clock_begins_at_the_same_moment_in_every_run(clock: ManualClock) -> None:
    """Noon UTC on 1 January 2026, and zero seconds of its own."""
    assert (clock.now(), clock.monotonic()) == (NOON.timestamp(), 0.0)


@pytest.mark.parametrize(
    ("start", "now"),
    [
        (0, 0.0),
        (12.5, 12.5),
        (datetime(1970, 1, 1, 1, tzinfo=UTC), 3600.0),
        (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 0.0),
        (datetime(2026, 7, 1, 3, 4, 5, 678901, tzinfo=UTC), 1782875045.678901),
    ],
)
def test_a_clock_begins_where_it_is_told(start: float | datetime, now: float) -> None:
    """Seconds since the epoch, or a moment of any zone, to the microsecond."""
    assert ManualClock(start).now() == now


@pytest.mark.parametrize(
    "start",
    [datetime(2026, 1, 1), True, float("nan"), float("inf"), -1, "noon", NOON.date()],  # noqa: DTZ001
)
def test_what_is_no_moment_is_refused(start: Any) -> None:
    """A naive datetime names another moment on every machine; the rest names none, or one before the epoch."""
    with pytest.raises(ConfigurationError, match="start="):
        ManualClock(start)


def test_a_clock_stands_still_and_moves_by_spans(clock: ManualClock) -> None:
    """Both of its readings move by what is asked, and by nothing else."""
    begin = clock.now()
    for span in ("5m", 1.5, 2, timedelta(hours=1)):
        clock.advance(span)
    assert (clock.now() - begin, clock.monotonic()) == (3903.5, 3903.5)
    assert (clock.now() - begin, clock.monotonic()) == (3903.5, 3903.5)


def test_small_steps_add_up(clock: ManualClock) -> None:
    """A test that goes to the end of a ttl in ten steps is there, to the last digit."""
    for _ in range(10):
        clock.advance(0.1)
    assert clock.monotonic() == 1.0


@pytest.mark.parametrize("span", [-1, "-5m", timedelta(seconds=-1), "soon", None, True, float("nan")])
def test_a_clock_goes_forward_only(clock: ManualClock, span: Any) -> None:
    """What is negative or no span is refused, and the clock stays where it is."""
    with pytest.raises(ConfigurationError, match="span = "):
        clock.advance(span)
    assert clock.monotonic() == 0.0


def test_a_clock_moves_to_a_moment(clock: ManualClock) -> None:
    """The next day, or the present moment; the monotonic reading has moved by the difference."""
    clock.move_to(NOON + timedelta(days=1))
    clock.move_to(NOON + timedelta(days=1))
    assert (clock.now(), clock.monotonic()) == (NOON.timestamp() + 86_400, 86_400.0)
    clock.move_to(clock.now() + 1)
    assert clock.monotonic() == 86_401.0


@pytest.mark.parametrize("moment", [NOON - timedelta(microseconds=1), 0, "noon", datetime(2027, 1, 1)])  # noqa: DTZ001
def test_a_clock_does_not_move_to_what_has_passed(clock: ManualClock, moment: Any) -> None:
    """Nor to what is no moment."""
    with pytest.raises(ConfigurationError, match="moment="):
        clock.move_to(moment)
    assert clock.monotonic() == 0.0


def ticked(clock: ManualClock) -> None:
    """Half a second, in steps of a millisecond."""
    for _ in range(500):
        clock.advance(0.001)


def test_a_clock_is_moved_by_many_threads(clock: ManualClock) -> None:
    """No step is lost."""
    steps = [Outcome(lambda: ticked(clock)) for _ in range(8)]
    for step in steps:
        step.result()
    assert clock.monotonic() == 4.0


def test_a_clock_shows_its_time(clock: ManualClock) -> None:
    """In words, also where the calendar ends."""
    assert repr(clock) == "<ManualClock at 2026-01-01 12:00:00+00:00>"
    assert repr(ManualClock(1e12)) == "<ManualClock at 1000000000000.0 s>"
