"""Schedules end to end: an entry lives until the moment that its schedule names, and not a moment longer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cachekit.expiry import at, cron, every, until
from cachekit.testing import ManualClock, make_cache

BEGIN = datetime(2026, 11, 21, 10, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "ends"),
    [
        (every("1h"), datetime(2026, 11, 21, 11, 0, tzinfo=UTC)),
        (every("1h", offset="15m"), datetime(2026, 11, 21, 11, 15, tzinfo=UTC)),
        (at("03:00", tz="Europe/Paris"), datetime(2026, 11, 22, 2, 0, tzinfo=UTC)),
        (at("10:30", "22:30"), datetime(2026, 11, 21, 10, 30, tzinfo=UTC)),
        (cron("*/15 9-17 * * *"), datetime(2026, 11, 21, 10, 30, tzinfo=UTC)),
        (until(datetime(2026, 11, 21, 12, 0, tzinfo=UTC)), datetime(2026, 11, 21, 12, 0, tzinfo=UTC)),
    ],
)
def test_an_entry_ends_when_its_schedule_says(schedule: Any, ends: datetime) -> None:
    """Served until the second before, run again at the moment; with no early refresh, which would store for a blink."""
    clock = ManualClock(BEGIN)
    with make_cache(clock) as cache:

        @cache(ttl=schedule)
        def report(n: int) -> int:
            clock.advance(1)
            return report.info().fills

        assert report(1) == 0
        clock.move_to(ends.timestamp() - 1)
        assert report(1) == 0
        clock.move_to(ends)
        assert report(1) == 1


@pytest.mark.parametrize("stale", ["5m"])
def test_a_schedule_may_be_served_stale(stale: str) -> None:
    """At the end of a window one caller runs, and the others have the last window's value meanwhile."""
    clock = ManualClock(BEGIN)
    with make_cache(clock) as cache:

        @cache(ttl=every("1h"), stale=stale)
        def report(n: int) -> int:
            return report.info().fills

        report(1)
        clock.move_to(datetime(2026, 11, 21, 11, 1, tzinfo=UTC))
        assert report.explain(1).state == "stale"
        assert report(1) == 1
        assert report.explain(1).ttl_s == 59 * 60
