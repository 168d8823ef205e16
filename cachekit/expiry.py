"""How long a value lives: the ttl grammar, schedules, jitter, and what of it goes on the wire.

Everything here is pure. ``now`` is always handed in, in seconds since the epoch, and a schedule is a frozen value that
can be compared, hashed, pickled and shared.

Decisions that a reader may want to know:

- A window is half open: at the very moment in which it ends, the next one has begun. So a periodic schedule never
  answers 0; only ``until`` does, once it is over.
- ``at`` and daylight saving, as in Debian's cron: a time of day that the clocks jump over comes at the jump; one that
  comes twice counts the first time only.
- Jitter only shortens. A value is never fresh for longer than was asked.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from cachekit.errors import ConfigurationError
from cachekit.frozen import Frozen

if TYPE_CHECKING:
    from cronsim import CronSim

__all__ = [
    "Schedule",
    "SpanLike",
    "Ttl",
    "TtlLike",
    "at",
    "cron",
    "every",
    "exptime",
    "lifetime_s",
    "parse_jitter",
    "parse_span",
    "parse_ttl",
    "until",
]

RELATIVE_MAX_S: Final = 60 * 60 * 24 * 30
"""The longest exptime that Memcached takes as a span; anything larger is a date (protocol.txt, "Expiration times")."""
DATE_MAX_S: Final = 2**31 - 1
"""The latest date that every Memcached reads as it was meant: 1.6.18 wraps what goes beyond 32 bits."""
SPAN_MAX_S: Final = timedelta.max.total_seconds()
"""The longest finite ttl: what a timedelta can say, 2.7 million years. In milliseconds it still fits the header."""

_UNITS_S: Final = {"w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
# Patterns are text: re compiles one when it is first needed, and keeps it.
_SPAN: Final = r"\s*".join(rf"(?:(?P<{unit}>[0-9]+(?:\.[0-9]+)?){unit})?" for unit in _UNITS_S)  # largest unit first
_TIME_OF_DAY: Final = r"([01][0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?"
_COROUTINE: Final = 0x80  # inspect.CO_COROUTINE
_SPAN_FORMS: Final = "seconds (90, 0.5), text such as '90s', '5m', '1h30m', '2d', '1w' or '500ms', or a timedelta"
_CRON_FORMS: Final = "five fields (minute hour day month weekday) as in crontab(5), or six with seconds first"
_CRON_HORIZON_S: Final = 50 * 365.25 * 86_400.0  # as far as cronsim looks ahead
_TTL_FORMS: Final = (
    f"{_SPAN_FORMS}; None (forever); 0 (run, store nothing); a schedule from cachekit.expiry (every, at, cron, until); "
    "or a function of the result that returns one of these"
)


class Schedule(ABC):
    """A ttl that ends at a point of the calendar rather than after a span of time.

    Own schedules derive from it. They should be immutable, and ``seconds`` must depend on ``now`` alone.
    """

    __slots__ = ()

    @abstractmethod
    def seconds(self, now: float) -> float:
        """The seconds from ``now`` (since the epoch) to the end of the present window; 0.0 when there is none."""


Ttl: TypeAlias = float | Schedule | Callable[[Any], Any] | None
"""A parsed ttl: seconds, a schedule, a function of the result, or ``None`` for ever."""
SpanLike: TypeAlias = int | float | str | timedelta
"""Whatever ``parse_span`` takes."""
TtlLike: TypeAlias = int | float | str | timedelta | Schedule | Callable[[Any], Any] | None
"""Whatever ``parse_ttl`` takes."""


def parse_ttl(ttl: TtlLike) -> Ttl:
    """Turn what a user wrote as ``ttl=`` into seconds, a schedule, a function of the result, or ``None`` (forever).

    Text takes the units w, d, h, m, s and ms, each once, the largest first: ``"1h30m"``. Everything else is a
    ``ConfigurationError`` that shows what was given and what is accepted. 0 means: run, store nothing.
    """
    if ttl is None or isinstance(ttl, Schedule):
        return ttl
    if callable(ttl) and not isinstance(ttl, type):
        if is_coroutine_function(ttl):
            raise _refusal("ttl", ttl, "a coroutine function can't be asked for a ttl, use a plain one", _TTL_FORMS)
        return ttl
    return _span("ttl", ttl, _TTL_FORMS)


def parse_span(what: str, span: float | str | timedelta) -> float:
    """The seconds in a plain span of time: a number of them, text such as ``"90s"``, or a timedelta.

    ``what`` names the option in the ``ConfigurationError`` that anything else raises.
    """
    return _span(what, span, _SPAN_FORMS)


def parse_jitter(jitter: float) -> float:
    """Check a jitter: the largest share of a lifetime, 0 ≤ jitter < 1, by which it may be shortened at random."""
    if isinstance(jitter, bool) or not isinstance(jitter, int | float) or not 0 <= jitter < 1:
        raise _refusal("jitter", jitter, "it is a share of the lifetime", "a number j with 0 <= j < 1, such as 0.1")
    return float(jitter)


def lifetime_s(
    ttl: Ttl,
    *,
    now: float,
    result: object = None,
    jitter: float = 0.0,
    random: Callable[[], float] = lambda: 0.0,
) -> float | None:
    """How many seconds this result lives, counted from ``now``; ``None`` is forever, 0.0 means store nothing.

    The lifetime is multiplied by ``1 − jitter·random()``, with ``random()`` in [0, 1): entries made together don't end
    together, and none lives longer than was asked. A function of the result may answer with any ttl but a function; a
    negative number from it means that the result is over already, which is no mistake, so nothing is stored.

    Raises ``ConfigurationError`` when that function answers with nonsense.
    """
    if callable(ttl) and not isinstance(ttl, Schedule):
        ttl = _answered(ttl, ttl(result))
    if ttl is None:
        return None
    seconds = ttl.seconds(now) if isinstance(ttl, Schedule) else ttl
    if seconds <= 0.0:
        return 0.0
    return seconds * (1.0 - jitter * random()) if jitter else seconds


def exptime(lifetime_s: float | None, now: float) -> int:
    """The expiry as it goes on the wire, behind ``T``: 0 is never, up to 30 days a span in seconds, else a date.

    Spans are rounded up to whole seconds. Dates are capped at 2³¹−1; where that cap is nearer than 30 days (from
    December 2037 on) the longest span is the better answer. The result is never negative, and never 0 for something
    that ends: 0 and less get one second, since Memcached reads 0 as forever.

    Source: protocol.txt, "Expiration times".
    """
    if lifetime_s is None:
        return 0
    if lifetime_s <= RELATIVE_MAX_S:
        return max(1, math.ceil(lifetime_s))
    if now + RELATIVE_MAX_S >= DATE_MAX_S:
        return RELATIVE_MAX_S
    return min(math.ceil(now + lifetime_s), DATE_MAX_S)


def every(period: float | str | timedelta, *, offset: float | str | timedelta = 0) -> Schedule:
    """Windows of one length, aligned to the clock: ``every("1h")`` ends on the hour, for the whole fleet at once.

    ``period`` is at least one millisecond. Windows are counted from 1970-01-01 00:00 UTC, a Thursday, and ``offset``
    moves them later: ``every("1w", offset="4d")`` begins on Mondays. For days in local time, use ``at``.
    """
    period_s = _span("period", period, _SPAN_FORMS)
    if period_s < 0.001:
        raise _refusal("period", period, "a window lasts at least one millisecond", _SPAN_FORMS)
    return _Every(period_s, _span("offset", offset, _SPAN_FORMS) % period_s)


def at(*times: str | time, tz: str | tzinfo = "UTC") -> Schedule:
    """Windows that end at these times of the day, in the zone ``tz``: ``at("03:00", tz="Europe/Paris")``.

    ``times`` are ``"HH:MM"``, ``"HH:MM:SS"`` or naive ``datetime.time`` values, at least one. A time that the clocks
    jump over in spring comes at the jump (02:30 comes when 02:00 becomes 03:00); a time that comes twice in autumn
    counts the first time only.
    """
    if not times:
        raise _refusal("at", (), "it needs at least one time of day", "'HH:MM', 'HH:MM:SS' or datetime.time")
    return _At(tuple(sorted({_time_of_day(each) for each in times})), _zone(tz))


def cron(expression: str, *, tz: str | tzinfo = "UTC") -> Schedule:
    """Windows that end when this cron expression next fires in the zone ``tz``: ``cron("*/5 9-17 * * MON-FRI")``.

    Five fields as in crontab(5), or six with seconds first. Daylight saving is handled as Debian's cron does. Needs the
    extra: ``pip install "cachekit-memcached[cron]"``. Raises ``ConfigurationError`` for an expression that is wrong
    or never fires, and when the extra is missing.
    """
    zone = _zone(tz)
    if next(_cronsim(expression, datetime(2001, 1, 1, tzinfo=UTC)), None) is None:
        raise _refusal("cron", expression, "it never fires", _CRON_FORMS)
    return _Cron(expression, zone)


def until(when: datetime) -> Schedule:
    """One window that ends at ``when``; afterwards nothing is stored any more.

    ``when`` must be aware (have a ``tzinfo``): a naive one means another moment on every machine. A moment in the past
    is no mistake, since a process may restart after it.
    """
    if not isinstance(when, datetime) or when.utcoffset() is None:
        raise _refusal("until", when, "without a zone it names no moment", "an aware datetime, with tzinfo=")
    return _Until(when)


class _Every(Frozen, Schedule):
    period_s: float
    offset_s: float

    def __repr__(self) -> str:
        offset = f", offset={self.offset_s:g}" if self.offset_s else ""
        return f"every({self.period_s:g}{offset})"

    def seconds(self, now: float) -> float:
        left = self.period_s - (now - self.offset_s) % self.period_s
        return left if left > 0.0 else self.period_s  # a tiny negative dividend makes % answer the period itself


class _At(Frozen, Schedule):
    times: tuple[time, ...]
    tz: tzinfo

    def __repr__(self) -> str:
        return f"at({', '.join(repr(each.isoformat()) for each in self.times)}, tz={str(self.tz)!r})"

    def seconds(self, now: float) -> float:
        today = datetime.fromtimestamp(now, self.tz).date()
        # The third day is for clocks set back over midnight (Newfoundland until 2011): tomorrow's time may have come
        # already, just before it was today again.
        days = [today + timedelta(days=n) for n in range(3)]
        return min(moment for day in days for each in self.times if (moment := self._moment(day, each)) > now) - now

    def _moment(self, day: date, each: time) -> float:
        """The seconds since the epoch at which this day's wall clock first shows, or jumps over, this time."""
        first = datetime.combine(day, each, self.tz)
        second = first.replace(fold=1)
        if _offset(first) >= _offset(second):
            return first.timestamp()  # an ordinary time, or one that comes twice: fold=0 is the first (PEP 495)
        return self._jump(math.floor(second.timestamp()), math.ceil(first.timestamp()))

    def _jump(self, before: int, after: int) -> float:
        """The first second of the new offset, between a moment before the clocks jump and one after, by bisection."""
        old = _offset(datetime.fromtimestamp(before, self.tz))
        while after - before > 1:
            middle = (before + after) // 2
            if _offset(datetime.fromtimestamp(middle, self.tz)) == old:
                before = middle
            else:
                after = middle
        return float(after)


class _Cron(Frozen, Schedule):
    expression: str
    tz: tzinfo

    def __repr__(self) -> str:
        return f"cron({self.expression!r}, tz={str(self.tz)!r})"

    def seconds(self, now: float) -> float:
        moments = _cronsim(self.expression, datetime.fromtimestamp(now, self.tz))
        # cronsim walks the wall clock, so during the repeated hour of autumn its first answer may lie behind us.
        return next((left for moment in moments if (left := moment.timestamp() - now) > 0.0), _CRON_HORIZON_S)


class _Until(Frozen, Schedule):
    when: datetime

    def __repr__(self) -> str:
        return f"until({self.when!r})"

    def seconds(self, now: float) -> float:
        return max(0.0, self.when.timestamp() - now)


def _cronsim(expression: str, start: datetime) -> CronSim:
    try:
        from cronsim import CronSim, CronSimError  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        hint = 'cron schedules need an extra: pip install "cachekit-memcached[cron]"'
        raise ConfigurationError(f"cron({_shown(expression)}): {hint}") from error
    try:
        return CronSim(expression, start)
    except (CronSimError, AttributeError) as error:  # AttributeError: it was no text
        raise _refusal("cron", expression, str(error), _CRON_FORMS) from error


def _answered(function: Callable[[Any], Any], answer: Any) -> float | Schedule | None:
    if answer is None or isinstance(answer, Schedule):
        return answer
    if isinstance(answer, int | float) and not isinstance(answer, bool) and answer < 0:
        return 0.0
    if isinstance(answer, timedelta):
        return max(0.0, answer.total_seconds())
    what = f"the answer of the ttl function {getattr(function, '__qualname__', type(function).__name__)}"
    return _span(what, answer, _TTL_FORMS)


def _span(what: str, given: object, forms: str) -> float:
    """Seconds, finite and not negative, from a number, a text such as "1h30m", or a timedelta."""
    if isinstance(given, timedelta):
        seconds = given.total_seconds()
    elif isinstance(given, str):
        match = re.fullmatch(_SPAN, given.strip())
        parts = {unit: text for unit, text in match.groupdict().items() if text} if match else {}
        if not parts:
            negative = given.strip().startswith("-")
            why = "it must not be negative" if negative else "this text is no span of time (numbers need units)"
            raise _refusal(what, given, why, forms)
        seconds = sum(float(text) * _UNITS_S[unit] for unit, text in parts.items())
    elif isinstance(given, int | float) and not isinstance(given, bool):
        seconds = _float(given)
    else:
        why = "None is no span of time, 0 means none" if given is None else f"{type(given).__name__} is no span of time"
        raise _refusal(what, given, why, forms)
    if math.isnan(seconds) or seconds < 0.0:
        raise _refusal(what, given, "it must not be negative" if seconds < 0.0 else "it is not a number", forms)
    if seconds > SPAN_MAX_S:
        hint = "; None means forever" if forms is _TTL_FORMS else ""
        raise _refusal(what, given, f"it is longer than a timedelta can say{hint}", forms)
    return seconds + 0.0  # -0.0 becomes 0.0


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def is_coroutine_function(function: Any) -> bool:
    """As in ``inspect``, which would take longer to load than everything else here together."""
    while isinstance(function, partial):
        function = function.func
    return bool(getattr(getattr(function, "__code__", None), "co_flags", 0) & _COROUTINE)


def _time_of_day(given: object) -> time:
    if isinstance(given, time) and given.tzinfo is None:
        return given.replace(fold=0)
    match = re.fullmatch(_TIME_OF_DAY, given) if isinstance(given, str) else None
    if match is None:
        raise _refusal("at", given, "it is no time of day", "'HH:MM', 'HH:MM:SS' or a naive datetime.time")
    hour, minute, second = match.groups("0")
    return time(int(hour), int(minute), int(second))


def _zone(given: object) -> tzinfo:
    forms = "a name of the tz database such as 'Europe/Paris', or a tzinfo"
    if isinstance(given, str):
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # noqa: PLC0415 - slow to load, and few ttls have a zone

        try:
            return ZoneInfo(given)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            hint = "it is no known zone (on Windows, and in slim containers, the package tzdata brings them)"
            raise _refusal("tz", given, hint, forms) from error
    if not isinstance(given, tzinfo) or datetime(2001, 1, 1, tzinfo=given).utcoffset() is None:
        raise _refusal("tz", given, "it is no time zone", forms)
    return given


def _offset(moment: datetime) -> timedelta:
    return cast(timedelta, moment.utcoffset())  # never None: _zone checked the tzinfo


def _refusal(what: str, given: object, why: str, forms: str) -> ConfigurationError:
    return ConfigurationError(f"{what} = {_shown(given)}: {why}. Accepted: {forms}.")


def _shown(given: object) -> str:
    try:
        text = repr(given)
    except Exception:  # noqa: BLE001 - an int of 5 000 digits, or a broken __repr__, must not hide the real message
        return f"<{type(given).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."
