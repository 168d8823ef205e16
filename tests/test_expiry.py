"""Guards cachekit.expiry: the ttl grammar, the schedules, jitter, and the 30-day rule."""

from __future__ import annotations

import builtins
import math
import pickle
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachekit.errors import ConfigurationError
from cachekit.expiry import (
    Schedule,
    at,
    cron,
    every,
    exptime,
    lifetime_s,
    parse_jitter,
    parse_ttl,
    until,
)

DAY = 86_400
MONTH = 30 * DAY
CAP = 2**31 - 1
PARIS = ZoneInfo("Europe/Paris")

moments = st.floats(min_value=0, max_value=4e9, allow_nan=False)
lifetimes = st.floats(min_value=0, max_value=1e13, allow_nan=False)
zones = st.sampled_from(
    [
        "UTC",
        "Europe/Paris",
        "America/New_York",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
        "Pacific/Apia",
        "America/Havana",
    ]
)


def epoch(*args: int, tz: tzinfo = PARIS, fold: int = 0) -> float:
    """Seconds since the epoch of a wall clock's time."""
    return datetime(*args, tzinfo=tz, fold=fold).timestamp()  # type: ignore[misc, arg-type]


class TestGrammar:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("90s", 90.0),
            ("5m", 300.0),
            ("1h30m", 5_400.0),
            ("1h 30m", 5_400.0),
            (" 2d ", 172_800.0),
            ("1w", 604_800.0),
            ("1w2d3h4m5s6ms", 788_645.006),
            ("500ms", 0.5),
            ("1.5h", 5_400.0),
            ("0s", 0.0),
            ("90m", 5_400.0),
        ],
    )
    def test_text_adds_up_its_units(self, text: str, seconds: float) -> None:
        """A text is the sum of its parts; every unit from weeks to milliseconds is known."""
        assert parse_ttl(text) == pytest.approx(seconds)

    @pytest.mark.parametrize(
        ("ttl", "seconds"),
        [(5, 5.0), (0, 0.0), (0.25, 0.25), (-0.0, 0.0), (timedelta(minutes=2), 120.0), (timedelta(0), 0.0)],
    )
    def test_numbers_are_seconds(self, ttl: float | timedelta, seconds: float) -> None:
        """Numbers are seconds, timedeltas their own length, and 0 is allowed: run, store nothing."""
        parsed = parse_ttl(ttl)
        assert parsed == seconds
        assert type(parsed) is float
        assert math.copysign(1, parsed) == 1

    def test_none_is_forever(self) -> None:
        """None is kept as it is: forever."""
        assert parse_ttl(None) is None

    def test_schedules_and_functions_pass(self) -> None:
        """A schedule and a function of the result are decided per call, so parsing hands them back."""
        schedule = every("1h")

        def of_result(result: int) -> int:
            return result

        assert parse_ttl(schedule) is schedule
        assert parse_ttl(of_result) is of_result

    @pytest.mark.parametrize(
        "ttl",
        [
            -1,
            -0.001,
            math.nan,
            math.inf,
            -math.inf,
            True,
            False,
            10**400,
            -(10**400),
            10**5000,
            1e14,
            "",
            "   ",
            "90",
            "s",
            "5 minutes",
            "5M",
            "1m1h",
            "5m5m",
            "-5m",
            "+5m",
            "1e3s",
            "1,5h",
            ".5h",
            "5.m",
            "٣s",
            "nan",
            "inf",
            "forever",
            "5m\0",
            "1" * 400 + "s",
            timedelta(seconds=-1),
            timedelta.min,
            b"5m",
            [5],
            (5, "m"),
            {},
            object(),
            1j,
            int,
            timedelta,
            date(2026, 11, 21),
            datetime(2026, 11, 21, tzinfo=UTC),
        ],
        ids=lambda ttl: f"{type(ttl).__name__}-{str(ttl)[:12]}" if not isinstance(ttl, int) else "int",
    )
    def test_nonsense_is_refused(self, ttl: Any) -> None:
        """Whatever is no span of time is refused at decoration, and the message says what is accepted."""
        with pytest.raises(ConfigurationError, match="ttl = .*Accepted: .*1h30m.*None"):
            parse_ttl(ttl)

    def test_the_message_shows_what_was_given(self) -> None:
        """The message repeats the given value, cut to a readable length."""
        with pytest.raises(ConfigurationError, match=r"ttl = '5 minutes': this text is no span of time"):
            parse_ttl("5 minutes")
        with pytest.raises(ConfigurationError) as caught:
            parse_ttl("x" * 10_000)
        assert len(str(caught.value)) < 500

    def test_a_broken_repr_does_not_hide_the_message(self) -> None:
        """An object whose repr raises is shown by its type."""

        class Broken:
            def __repr__(self) -> str:
                raise RuntimeError

        with pytest.raises(ConfigurationError, match="ttl = <Broken>"):
            parse_ttl(Broken())  # type: ignore[arg-type]

    def test_a_coroutine_function_is_refused(self) -> None:
        """A ttl function is called in the middle of a store; one that must be awaited can't be."""

        async def of_result(result: object) -> int:
            return 5

        with pytest.raises(ConfigurationError, match="coroutine function"):
            parse_ttl(of_result)

    @given(st.integers(0, 10**9))
    def test_text_and_number_agree(self, seconds: int) -> None:
        """A span written out in units means the same seconds as the plain number."""
        minutes, s = divmod(seconds, 60)
        hours, m = divmod(minutes, 60)
        assert parse_ttl(f"{hours}h{m}m{s}s") == parse_ttl(seconds) == seconds

    @given(st.one_of(st.text(), st.integers(), st.floats(), st.timedeltas(), st.booleans(), st.binary()))
    def test_anything_is_seconds_or_a_clear_error(self, ttl: Any) -> None:
        """There is no third outcome: a finite, non-negative float or a ConfigurationError."""
        try:
            parsed = parse_ttl(ttl)
        except ConfigurationError:
            return
        assert isinstance(parsed, float)
        assert 0 <= parsed < math.inf


class TestLifetime:
    def test_forever_and_nothing(self) -> None:
        """None lives forever and 0 is not stored; jitter changes neither."""
        assert lifetime_s(None, now=0, jitter=0.5) is None
        assert lifetime_s(0.0, now=0, jitter=0.5) == 0.0

    @pytest.mark.parametrize(
        ("answer", "seconds"),
        [(5, 5.0), ("5m", 300.0), (timedelta(hours=1), 3600.0), (None, None), (0, 0.0), (every("1h"), 1800.0)],
    )
    def test_a_function_of_the_result(self, answer: Any, seconds: float | None) -> None:
        """A ttl function may answer with any form of a ttl."""
        assert lifetime_s(lambda result: result, now=1800.0, result=answer) == seconds

    @pytest.mark.parametrize("answer", [-1, -math.inf, timedelta(days=-1)])
    def test_over_already(self, answer: Any) -> None:
        """A negative answer means that the result is over already (`r.expires - now`), so nothing is stored."""
        assert lifetime_s(lambda result: result, now=0, result=answer) == 0.0

    @pytest.mark.parametrize("answer", [math.nan, math.inf, True, "soon", object(), lambda: 5])
    def test_a_nonsense_answer_is_named(self, answer: Any) -> None:
        """A nonsense answer is the programmer's error, and the message names the function."""

        def shelf_life(result: object) -> object:
            return result

        with pytest.raises(ConfigurationError, match="the answer of the ttl function .*shelf_life = "):
            lifetime_s(shelf_life, now=0, result=answer)

    @given(
        st.floats(min_value=0.001, max_value=1e13),
        st.floats(min_value=0, max_value=1, exclude_max=True),
        st.floats(min_value=0, max_value=1, exclude_max=True),
    )
    def test_jitter_only_shortens(self, ttl: float, jitter: float, drawn: float) -> None:
        """With jitter j a lifetime stays within (ttl·(1−j), ttl]: never longer than asked, never nothing."""
        lifetime = lifetime_s(ttl, now=0, jitter=jitter, random=lambda: drawn)
        assert lifetime is not None
        assert 0 < lifetime <= ttl
        assert lifetime >= ttl * (1 - jitter) * (1 - 1e-9)

    def test_jitter_uses_the_given_chance(self) -> None:
        """Chance is handed in, so the result can be foretold; schedules are jittered as well."""
        assert lifetime_s(100.0, now=0, jitter=0.1, random=lambda: 0.5) == pytest.approx(95.0)
        assert lifetime_s(every("1h"), now=0.0, jitter=0.5, random=lambda: 0.5) == pytest.approx(2700.0)

    @pytest.mark.parametrize("jitter", [0, 0.0, 0.1, 0.999])
    def test_jitters_that_are_allowed(self, jitter: float) -> None:
        """A jitter is a share, 0 ≤ j < 1."""
        assert parse_jitter(jitter) == jitter

    @pytest.mark.parametrize("jitter", [-0.1, 1, 1.0, 10, math.nan, math.inf, True, False, "10%", None, 1j])
    def test_jitters_that_are_not(self, jitter: Any) -> None:
        """Anything else is refused; 1 would allow a lifetime of nothing."""
        with pytest.raises(ConfigurationError, match="jitter = .*0 <= j < 1"):
            parse_jitter(jitter)


class TestExptime:
    @pytest.mark.parametrize(
        ("lifetime", "wire"),
        [
            (None, 0),
            (0.001, 1),
            (1, 1),
            (1.0001, 2),
            (MONTH - 0.5, MONTH),
            (MONTH, MONTH),
            (0.0, 1),
            (-5.0, 1),
        ],
    )
    def test_spans(self, lifetime: float | None, wire: int) -> None:
        """Up to 30 days a span, rounded up to whole seconds; never is 0, and nothing that ends becomes 0."""
        assert exptime(lifetime, 1_800_000_000.25) == wire

    def test_dates(self) -> None:
        """A second more than 30 days is a date, rounded up."""
        assert exptime(MONTH + 1, 1_800_000_000.25) == 1_800_000_000 + MONTH + 2

    def test_the_cap(self) -> None:
        """No date beyond 2³¹−1 is sent: servers wrap it."""
        assert exptime(1e13, 1_800_000_000.0) == CAP
        assert exptime(float(CAP), 1_800_000_000.0) == CAP

    @pytest.mark.parametrize("now", [CAP - MONTH, CAP - 1.0, float(CAP), CAP + 1.0, 2.0**32])
    def test_near_and_after_the_cap(self, now: float) -> None:
        """Where the cap is nearer than 30 days, or past, a capped date would cut the value's life: send the span."""
        assert exptime(1e9, now) == MONTH

    @given(lifetimes, moments)
    def test_what_memcached_makes_of_it(self, lifetime: float, now: float) -> None:
        """Read back as Memcached reads it, an entry ends no sooner than asked, less than 2 s later, unless capped."""
        wire = exptime(lifetime, now)
        assert 0 < wire <= CAP
        ends = now + wire if wire <= MONTH else float(wire)
        assert ends < now + max(lifetime, 0) + 2
        if wire not in (CAP, MONTH):
            assert ends >= now + lifetime


class TestEvery:
    def test_windows_are_aligned(self) -> None:
        """Every process sees the window end at the same moment, whenever it began to look."""
        hourly = every("1h")
        assert hourly.seconds(7200.0) == 3600.0
        assert hourly.seconds(7200.5) == 3599.5
        assert hourly.seconds(10799.75) == 0.25

    def test_the_offset_moves_windows(self) -> None:
        """With an offset of four days, weeks end on Monday, 00:00 UTC; an offset beyond the period wraps."""
        weekly = every("1w", offset="4d")
        now = epoch(2026, 11, 21, tz=UTC)  # a Saturday
        assert datetime.fromtimestamp(now + weekly.seconds(now), UTC) == datetime(2026, 11, 23, tzinfo=UTC)
        assert every("1h", offset="61m") == every(3600, offset=60)

    @given(st.floats(min_value=0.001, max_value=1e9), lifetimes, st.floats(min_value=-1e9, max_value=4e9))
    def test_a_window_never_ends_now(self, period: float, offset: float, now: float) -> None:
        """The time left is in (0, period]: 0 would mean that nothing is stored."""
        left = every(period, offset=offset).seconds(now)
        assert 0 < left <= period

    @given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 4 * 10**9))
    def test_the_next_window_begins_where_this_one_ends(self, period: int, offset: int, now: int) -> None:
        """Asked at its end, a schedule answers with the whole next window."""
        schedule = every(period, offset=offset)
        end = now + schedule.seconds(now)
        assert (end - offset) % period == 0
        assert schedule.seconds(end) == period

    @pytest.mark.parametrize("period", [0, "0s", -1, "1", None, True, "0.5ms", every("1h"), math.nan])
    def test_bad_periods(self, period: Any) -> None:
        """A period is a span of at least a millisecond; a bad offset is named as well."""
        with pytest.raises(ConfigurationError, match="period = "):
            every(period)
        with pytest.raises(ConfigurationError, match="offset = -1"):
            every("1h", offset=-1)


class TestAt:
    def test_the_next_time_of_day(self) -> None:
        """A window ends at the next of the given times, today or tomorrow, in that zone."""
        schedule = at("03:00", "15:30", tz="Europe/Paris")
        assert schedule.seconds(epoch(2026, 11, 21, 2, 0)) == 3600
        assert schedule.seconds(epoch(2026, 11, 21, 3, 0)) == 12.5 * 3600
        assert schedule.seconds(epoch(2026, 11, 21, 15, 30)) == 11.5 * 3600

    def test_forms(self) -> None:
        """Texts with or without seconds and time values are one; order and repetition do not matter; UTC is usual."""
        assert at("03:00", "15:30:00") == at(time(15, 30), "03:00:00", "03:00", tz="UTC")
        assert at("00:00").seconds(DAY * 20_000.0 + 1) == DAY - 1

    def test_the_gap_of_spring(self) -> None:
        """02:30 on 29 March 2026 does not exist in Paris: it comes when the clocks jump from 02:00 to 03:00."""
        schedule = at("02:30", tz="Europe/Paris")
        jump = epoch(2026, 3, 29, 1, 0, tz=UTC)
        assert schedule.seconds(epoch(2026, 3, 29, 1, 0)) == 3600
        assert schedule.seconds(jump - 1) == 1
        assert jump + schedule.seconds(jump) == epoch(2026, 3, 30, 2, 30)

    def test_the_fold_of_autumn(self) -> None:
        """02:30 on 25 October 2026 comes twice in Paris: only the first time counts."""
        schedule = at("02:30", tz="Europe/Paris")
        first, second = epoch(2026, 10, 25, 2, 30), epoch(2026, 10, 25, 2, 30, fold=1)
        assert second - first == 3600
        assert schedule.seconds(first - 60) == 60
        for now in (first, first + 1800, second - 1, second, second + 60):
            assert now + schedule.seconds(now) == epoch(2026, 10, 26, 2, 30)
        assert at(time(2, 30, fold=1), tz="Europe/Paris").seconds(first - 60) == 60

    def test_a_day_that_never_was(self) -> None:
        """Samoa had no 30 December 2011: that day's times come at the jump, and the days around keep theirs."""
        schedule = at("12:00", tz="Pacific/Apia")
        apia = ZoneInfo("Pacific/Apia")
        noon, jump = epoch(2011, 12, 29, 12, tz=apia), epoch(2011, 12, 31, tz=apia)
        assert noon + schedule.seconds(noon) == jump
        assert jump + schedule.seconds(jump) == epoch(2011, 12, 31, 12, tz=apia)

    def test_clocks_set_back_over_midnight(self) -> None:
        """In Newfoundland 00:00:30 on 7 November 2010 came, then 23:01 of the day before again: it counts once."""
        st_johns = ZoneInfo("America/St_Johns")
        evening_again = epoch(2010, 11, 6, 23, 30, tz=st_johns, fold=1)
        end = evening_again + at("00:00:30", tz="America/St_Johns").seconds(evening_again)
        assert end == epoch(2010, 11, 8, 0, 0, 30, tz=st_johns)

    @given(st.permutations([time(hour, 7) for hour in range(24)]))
    def test_the_order_of_times_does_not_matter(self, times: list[time]) -> None:
        """The same times make the same schedule, in whatever order they are given."""
        assert at(*times) == at(*sorted(times))

    @given(zones, st.lists(st.times(), min_size=1, max_size=3), moments)
    def test_the_time_left_is_at_most_a_day_and_a_jump(self, zone: str, times: list[time], now: float) -> None:
        """The next time of day is ahead, and at most a day plus the largest change of clocks away."""
        left = at(*times, tz=zone).seconds(now)
        assert 0 < left <= 2 * DAY

    @given(zones, st.times(), moments)
    def test_it_ends_when_the_wall_clock_shows_it(self, zone: str, each: time, now: float) -> None:
        """At the end of a window the wall clock shows the time asked for, or has just jumped over it."""
        each = each.replace(microsecond=0)
        end = now + at(each, tz=zone).seconds(now)
        wall = datetime.fromtimestamp(round(end), ZoneInfo(zone))
        shown = wall.time().replace(tzinfo=None, fold=0)
        before = datetime.fromtimestamp(round(end) - 1, ZoneInfo(zone))
        assert shown == each or wall.utcoffset() != before.utcoffset()

    @pytest.mark.parametrize(
        "bad", ["3:00", "24:00", "12:60", "12:00:60", "noon", "", 3, None, time(3, tzinfo=UTC), "٠٣:00"]
    )
    def test_bad_times(self, bad: Any) -> None:
        """A time of day is HH:MM, HH:MM:SS or a naive time; none at all is refused too."""
        with pytest.raises(ConfigurationError, match="at = .*HH:MM"):
            at(bad)
        with pytest.raises(ConfigurationError, match="at least one"):
            at()

    @pytest.mark.parametrize("bad", ["Mars/Olympus", "", "../etc/passwd", "/etc/passwd", "Europe", "x\0y", None, 3])
    def test_bad_zones(self, bad: Any) -> None:
        """An unknown zone is refused when the schedule is made."""
        with pytest.raises(ConfigurationError, match="tz = .*Europe/Paris"):
            at("03:00", tz=bad)

    def test_own_zones(self) -> None:
        """Any tzinfo serves that knows its offset."""

        class Offsetless(tzinfo):
            def utcoffset(self, dt: datetime | None) -> None:
                return None

            dst = tzname = utcoffset

        assert at("03:00", tz=timezone(timedelta(hours=3))).seconds(DAY * 20_000.0) == DAY
        with pytest.raises(ConfigurationError, match="it is no time zone"):
            at("03:00", tz=Offsetless())


class TestCron:
    def test_the_next_firing(self) -> None:
        """A window ends when the expression fires next; at that very moment the next window has begun."""
        schedule = cron("*/5 * * * *")
        assert schedule.seconds(600.0) == 300
        assert schedule.seconds(600.5) == 299.5
        assert schedule.seconds(899.0) == 1

    def test_the_zone(self) -> None:
        """Fields are read on the wall clock of the zone."""
        now = epoch(2026, 7, 1, 2, 0)
        assert cron("0 3 * * *", tz="Europe/Paris").seconds(now) == 3600
        assert cron("0 3 * * *").seconds(now) == 3 * 3600

    def test_gap_and_fold(self) -> None:
        """As Debian's cron: in the gap it fires at the jump, in the fold once, and never behind us."""
        schedule = cron("30 2 * * *", tz="Europe/Paris")
        jump = epoch(2026, 3, 29, 1, 0, tz=UTC)
        assert schedule.seconds(jump - 60) == 60
        first = epoch(2026, 10, 25, 2, 30)
        assert schedule.seconds(first - 60) == 60
        late = epoch(2026, 10, 25, 2, 15, fold=1)
        assert late + schedule.seconds(late) == epoch(2026, 10, 26, 2, 30)

    @given(
        st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "0 0 1 * *", "15 1,2,3 * * SUN", "0 */3 * * *"]),
        zones,
        moments,
    )
    def test_the_firing_is_ahead(self, expression: str, zone: str, now: float) -> None:
        """Whatever the zone and the moment, the next firing is ahead, on a whole minute, within a month or so."""
        left = cron(expression, tz=zone).seconds(now)
        assert 0 < left <= 33 * DAY
        assert round(now + left) % 60 == 0

    @pytest.mark.parametrize(
        "bad",
        [
            "",
            "* * * *",
            "61 * * * *",
            "* * * * * * *",
            "@daily",
            "nonsense",
            "0 0 30 2 *",
            "0 0 31 2,4 1#6",
            "* * */20 * 1L",
            None,
            5,
        ],
    )
    def test_bad_expressions(self, bad: Any) -> None:
        """A wrong expression, or one that never fires, is refused when the schedule is made."""
        with pytest.raises(ConfigurationError, match="cron = .*crontab"):
            cron(bad)

    def test_the_missing_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without cronsim the error says which extra brings it."""
        real: Callable[..., Any] = builtins.__import__

        def without(name: str, *args: Any) -> Any:
            if name == "cronsim":
                raise ModuleNotFoundError(name)
            return real(name, *args)

        monkeypatch.delitem(sys.modules, "cronsim", raising=False)
        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(ConfigurationError, match=r"cachekit-memcached\[cron\]"):
            cron("* * * * *")


class TestUntil:
    def test_it_ends_then(self) -> None:
        """The window ends at that moment and never opens again: in the past there is nothing to store."""
        schedule = until(datetime(2027, 1, 1, tzinfo=UTC))
        end = epoch(2027, 1, 1, tz=UTC)
        assert schedule.seconds(end - 1.5) == 1.5
        assert schedule.seconds(end) == 0.0
        assert schedule.seconds(end + 1e9) == 0.0
        assert lifetime_s(schedule, now=end + 5, jitter=0.5) == 0.0

    @pytest.mark.parametrize(
        "bad", [datetime(2027, 1, 1, tzinfo=UTC).replace(tzinfo=None), date(2027, 1, 1), "2027-01-01", 1.8e9, None]
    )
    def test_only_aware_datetimes(self, bad: Any) -> None:
        """A naive datetime is another moment on every machine, so it is refused, as is what is no datetime."""
        with pytest.raises(ConfigurationError, match="until = .*aware"):
            until(bad)


class TestSchedules:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: every("1h", offset="5m"),
            lambda: at("03:00", tz="Europe/Paris"),
            lambda: cron("*/5 * * * *", tz="Europe/Paris"),
            lambda: until(datetime(2027, 1, 1, tzinfo=UTC)),
        ],
    )
    def test_schedules_are_values(self, make: Callable[[], Schedule]) -> None:
        """A schedule is frozen; two made alike are equal, hash alike, and survive a pickle (spawned workers)."""
        one, other = make(), make()
        assert one is not other
        assert one == other == pickle.loads(pickle.dumps(one))
        assert hash(one) == hash(other)
        with pytest.raises(AttributeError, match="never changed"):
            setattr(one, next(iter(vars(one))), 0)

    def test_own_schedules(self) -> None:
        """A user's schedule is accepted like the built-in ones, and stays a schedule if it can be called as well."""

        class Fixed(Schedule):
            def seconds(self, now: float) -> float:
                return 7.0

            def __call__(self, result: object) -> float:
                return 8.0

        assert lifetime_s(parse_ttl(Fixed()), now=0) == 7.0

    def test_an_own_schedule_that_is_over(self) -> None:
        """A schedule whose window has ended, however long ago, stores nothing: no negative lifetime goes further."""

        class Over(Schedule):
            def seconds(self, now: float) -> float:
                return -7.0

        assert lifetime_s(Over(), now=0) == 0.0
