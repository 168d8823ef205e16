"""A clock that stands still until it is told to move."""

from __future__ import annotations

import math
import threading
from datetime import UTC, datetime, timedelta
from typing import Final

from cachekit.errors import ConfigurationError
from cachekit.expiry import SpanLike, parse_span

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NOON: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
"""Where a clock begins that is told nothing: the same moment in every run, and not close to the end of a day."""

_NS: Final = 1_000_000_000


class ManualClock:
    """Time for tests: it moves when you move it, and only forward. Thread-safe.

    Args:
        start: the time to begin at, seconds since the epoch or an aware datetime; noon UTC on 1 January 2026 by
            default.

    Raises ``ConfigurationError`` (a ``ValueError``) for what is no such moment.

    >>> from cachekit.testing import ManualClock
    >>> clock = ManualClock(1_000_000)
    >>> clock.advance("1h30m")
    >>> clock.now(), clock.monotonic()
    (1005400.0, 5400.0)
    """

    def __init__(self, start: float | datetime | None = None) -> None:
        # Whole nanoseconds: ten steps of 0.1 s are one second, so a test can meet the very end of a ttl.
        self._start_ns = self._ns = _moment_ns("start", _NOON if start is None else start)
        self._lock = threading.Lock()

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._ns / _NS

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return (self._ns - self._start_ns) / _NS

    def advance(self, span: SpanLike) -> None:
        """Move on by ``span``: seconds, text such as ``"5m"``, or a ``timedelta``.

        Raises ``ConfigurationError`` for a negative span, and for what is none.
        """
        span_ns = round(parse_span("span", span) * _NS)
        with self._lock:
            self._ns += span_ns

    def move_to(self, moment: float | datetime) -> None:
        """Move on to ``moment``: an aware datetime, or seconds since the epoch.

        Raises ``ConfigurationError`` for a moment that has passed, and for what is none.
        """
        moment_ns = _moment_ns("moment", moment)
        with self._lock:
            if moment_ns < self._ns:
                raise ConfigurationError(f"moment={moment!r}: the clock stands at {self._shown()}, and never goes back")
            self._ns = moment_ns

    def _shown(self) -> str:
        try:
            return str(_EPOCH + timedelta(microseconds=self._ns // 1000))
        except OverflowError:  # past the year 9999
            return f"{self.now()!r} s"

    def __repr__(self) -> str:
        return f"<ManualClock at {self._shown()}>"


def _moment_ns(what: str, given: object) -> int:
    """Nanoseconds since the epoch."""
    if isinstance(given, datetime) and given.utcoffset() is not None:
        moment_ns = (given - _EPOCH) // timedelta(microseconds=1) * 1000
    elif isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given):
        moment_ns = round(given * _NS)
    else:
        raise ConfigurationError(f"{what}={given!r}: seconds since the epoch, or an aware datetime, with tzinfo=")
    if moment_ns < 0:
        raise ConfigurationError(f"{what}={given!r}: it is before 1970, where Memcached's time begins")
    return moment_ns
