"""Single values: dates, numbers, identifiers, paths, enumerations, and a few of optional packages.

Their modules are looked up, never imported: a value of a type can only be met after its module was loaded.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from enum import Enum, Flag
from typing import Any, Final

from cachekit.keys.forms import ClassRecord, Encode, Encoder, leaf, record, refuse, text

# Fields are read through the base class's own descriptors, so that a subclass can't misreport them.
_NAME_DATE, _NAME_TIME = text("date"), text("time")
_NAME_DATETIME, _NAME_TIMEDELTA = text("datetime"), text("timedelta")
_DATE_LAYOUT = struct.Struct(">HBB")
_TIME_LAYOUT = struct.Struct(">BBBIB")
_DATETIME_LAYOUT = struct.Struct(">HBBBBBIB")
_DELTA_LAYOUT = struct.Struct(">qII")
_DATE = tuple(getattr(date, name).__get__ for name in ("year", "month", "day"))
_CLOCK = ("hour", "minute", "second", "microsecond", "fold")
_TIME = tuple(getattr(time, name).__get__ for name in _CLOCK)
_DATETIME = _DATE + tuple(getattr(datetime, name).__get__ for name in _CLOCK)
_DELTA = tuple(getattr(timedelta, name).__get__ for name in ("days", "seconds", "microseconds"))


def _numbers(layout: struct.Struct, fields: tuple[Callable[[Any], int], ...], value: object) -> bytes:
    return leaf(b"b", layout.pack(*[field(value) for field in fields]))


def _date(value: date, inner: Encode) -> bytes:
    return record(b"D", _NAME_DATE, _numbers(_DATE_LAYOUT, _DATE, value))


def _time(value: time, inner: Encode) -> bytes:
    return record(b"D", _NAME_TIME, _numbers(_TIME_LAYOUT, _TIME, value), inner(value.tzinfo))


def _datetime(value: datetime, inner: Encode) -> bytes:
    return record(b"D", _NAME_DATETIME, _numbers(_DATETIME_LAYOUT, _DATETIME, value), inner(value.tzinfo))


def _timedelta(value: timedelta, inner: Encode) -> bytes:
    return record(b"D", _NAME_TIMEDELTA, _numbers(_DELTA_LAYOUT, _DELTA, value))


def _timezone(value: timezone, inner: Encode) -> bytes:
    return record(b"D", text("timezone"), inner(value.utcoffset(None)), text(value.tzname(None)))


def _zone_info(value: Any, inner: Encode) -> bytes:
    if value.key is None:
        raise refuse(value, "was made from a file and has no name")
    return record(b"D", text("zone"), text(value.key))


def _decimal(value: Any, inner: Encode) -> bytes:
    sign, digits, exponent = sys.modules["decimal"].Decimal.as_tuple(value)  # str() would depend on the context
    return record(b"#", text("decimal"), text(f"{sign} {''.join(map(str, digits))} {exponent}"))


def _fraction(value: Any, inner: Encode) -> bytes:
    return record(b"#", text("fraction"), inner(value.numerator), inner(value.denominator))


def _uuid(value: Any, inner: Encode) -> bytes:
    return record(b"#", text("uuid"), inner(value.int))


def _pattern(value: re.Pattern[Any], inner: Encode) -> bytes:
    return record(b"#", text("pattern"), inner(value.pattern), inner(value.flags))


def _array(value: Any, inner: Encode) -> bytes:
    return record(b"#", text("array"), text(value.typecode), inner(value.tolist()))


def _as_text(name: str) -> Encoder:
    """Encode values that their own text describes in full, under a name that does not move between versions."""
    head = text(name)
    return lambda value, inner: record(b"#", head, text(str(value)))


_URLS = (
    "AnyUrl",
    "AnyHttpUrl",
    "HttpUrl",
    "AnyWebsocketUrl",
    "WebsocketUrl",
    "FileUrl",
    "FtpUrl",
    "PostgresDsn",
    "RedisDsn",
)
BUILT_IN: Final[dict[type, Encoder]] = {
    date: _date,
    time: _time,
    datetime: _datetime,
    timedelta: _timedelta,
    timezone: _timezone,
    re.Pattern: _pattern,
}
_ELSEWHERE: Final[dict[tuple[str, str], Encoder]] = {
    ("decimal", "Decimal"): _decimal,
    ("fractions", "Fraction"): _fraction,
    ("uuid", "UUID"): _uuid,
    ("zoneinfo", "ZoneInfo"): _zone_info,
    ("array", "array"): _array,
    **{("pathlib", name): _as_text(name) for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")},
    **{
        ("ipaddress", f"IPv{version}{kind}"): _as_text(f"IPv{version}{kind}")
        for version in (4, 6)
        for kind in ("Address", "Network", "Interface")
    },
    ("msgspec", "UnsetType"): _as_text("msgspec"),
    **{("pydantic", name): _as_text(name) for name in _URLS},
    ("pydantic_core", "Url"): _as_text("Url"),
    ("pydantic_core", "MultiHostUrl"): _as_text("MultiHostUrl"),
}


def encoder(cls: type) -> Encoder | None:
    """Return the encoder of a supported class from a module that may not be loaded, or None."""
    package = cls.__module__.partition(".")[0]
    found = _ELSEWHERE.get((package, cls.__qualname__))
    return found if found and getattr(sys.modules.get(package), cls.__qualname__, None) is cls else None


def enum_encoder(cls: type, class_record: ClassRecord) -> Encoder | None:
    """Members are class and name, flags class and number: a combination of flags has no name in every version."""
    if not issubclass(cls, Enum):
        return None
    head = class_record(cls)
    if issubclass(cls, Flag):
        return lambda value, inner: record(b"E", head, inner(value._value_))
    return lambda value, inner: record(b"E", head, text(value._name_))
