"""Single values that MessagePack has no type for: an ext type each, and bytes of our own layout.

The ext numbers and layouts are part of the wire format (docs/reference/codecs.md): they may be added to, never changed.
Every decoder gets bytes that anybody may have written: it checks by building the value, and whatever it raises is a
DecodeError to the reader.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import pathlib
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from struct import Struct
from typing import Any, Final
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo

from ormsgpack import Ext

from cachekit.codecs.carrier import full_name
from cachekit.errors import UnencodableError

TUPLE, SET, FROZENSET, MAP, BYTEARRAY, BIG_INT, COMPLEX = 1, 2, 3, 4, 5, 6, 7
DATETIME, DATE, TIME, TIMEDELTA, ZONE, DECIMAL, FRACTION, UUID_, CLASS = 8, 9, 10, 11, 12, 13, 14, 15, 16
ORDERED_DICT, DEFAULT_DICT, COUNTER, DEQUE, RANGE, PATH, IP = 17, 18, 19, 20, 21, 22, 23

_DATETIME: Final = Struct(">HBBBBBIB")
_DATE: Final = Struct(">HBB")
_TIME: Final = Struct(">BBBIB")
_TIMEDELTA: Final = Struct(">iII")
_OFFSET: Final = Struct(">iII")
_COMPLEX: Final = Struct(">dd")

_PATHS: Final = (pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath, pathlib.WindowsPath)
_IPS: Final = (
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
)
_NO_DELTA: Final = dt.timedelta(0)


def _big_int(value: int) -> Ext:
    return Ext(BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _complex(value: complex) -> Ext:
    return Ext(COMPLEX, _COMPLEX.pack(value.real, value.imag))


def _zone(zone: dt.tzinfo | None) -> bytes:
    """Nothing for naive, U for UTC, F + offset (+ name) for a fixed one, Z + key for one of the tz database."""
    if zone is None:
        return b""
    if zone is dt.UTC:
        return b"U"
    if type(zone) is dt.timezone:
        offset = zone.utcoffset(None)
        own_name = zone.tzname(None)
        name = b"" if own_name == dt.timezone(offset).tzname(None) else b"=" + own_name.encode()
        return b"F" + _OFFSET.pack(offset.days, offset.seconds, offset.microseconds) + name
    if type(zone) is ZoneInfo and zone.key is not None:
        return b"Z" + zone.key.encode()
    kind = full_name(type(zone))
    raise UnencodableError(
        f"a time zone of type {kind} is neither a fixed offset nor a ZoneInfo with a key", type_name=kind
    )


def _read_zone(data: bytes) -> dt.tzinfo | None:
    if not data:
        return None
    if data == b"U":
        return dt.UTC
    if data[:1] == b"Z":
        return ZoneInfo(data[1:].decode())
    if data[:1] != b"F":
        raise ValueError("unknown kind of time zone")
    days, seconds, microseconds = _OFFSET.unpack_from(data, 1)
    offset = dt.timedelta(days, seconds, microseconds)
    name = data[1 + _OFFSET.size :]
    return dt.timezone(offset, name[1:].decode()) if name else dt.timezone(offset)


def _datetime(value: dt.datetime) -> Ext:
    day = _DATETIME.pack(
        value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond, value.fold
    )
    zone = value.tzinfo
    return Ext(DATETIME, day if zone is None else day + _zone(zone))


def _read_datetime(data: bytes) -> dt.datetime:
    year, month, day, hour, minute, second, microsecond, fold = _DATETIME.unpack_from(data)
    return dt.datetime(
        year, month, day, hour, minute, second, microsecond, _read_zone(data[_DATETIME.size :]), fold=fold
    )


def _date(value: dt.date) -> Ext:
    return Ext(DATE, _DATE.pack(value.year, value.month, value.day))


def _time(value: dt.time) -> Ext:
    clock = _TIME.pack(value.hour, value.minute, value.second, value.microsecond, value.fold)
    return Ext(TIME, clock + _zone(value.tzinfo))


def _read_time(data: bytes) -> dt.time:
    hour, minute, second, microsecond, fold = _TIME.unpack_from(data)
    return dt.time(hour, minute, second, microsecond, _read_zone(data[_TIME.size :]), fold=fold)


def _timedelta(value: dt.timedelta) -> Ext:
    return Ext(TIMEDELTA, _TIMEDELTA.pack(value.days, value.seconds, value.microseconds))


def _tzinfo(value: dt.tzinfo) -> Ext:
    return Ext(ZONE, _zone(value))


def _decimal(value: Decimal) -> Ext:
    return Ext(DECIMAL, str(value).encode())


def _uuid(value: UUID) -> Ext:
    safety = value.is_safe.value
    return Ext(UUID_, value.bytes if safety is None else value.bytes + safety.to_bytes(1, "big", signed=True))


def _read_uuid(data: bytes) -> UUID:
    if len(data) == 16:
        return UUID(bytes=data)
    return UUID(bytes=data[:-1], is_safe=SafeUUID(int.from_bytes(data[-1:], "big", signed=True)))


def _path(value: pathlib.PurePath) -> Ext:
    return Ext(PATH, bytes([_PATHS.index(type(value))]) + str(value).encode("utf-8", "surrogatepass"))


def _read_path(data: bytes) -> pathlib.PurePath:
    return _PATHS[data[0]](data[1:].decode("utf-8", "surrogatepass"))


def _ip(value: Any) -> Ext:
    return Ext(IP, bytes([_IPS.index(type(value))]) + str(value).encode())


def _read_ip(data: bytes) -> object:
    return _IPS[data[0]](data[1:].decode("ascii"))


ENCODERS: Final[dict[type, Callable[[Any], Ext]]] = {
    int: _big_int, complex: _complex, dt.datetime: _datetime, dt.date: _date, dt.time: _time, dt.timedelta: _timedelta,
    dt.timezone: _tzinfo, ZoneInfo: _tzinfo, Decimal: _decimal, UUID: _uuid,
    **dict.fromkeys(_PATHS, _path), **dict.fromkeys(_IPS, _ip),
}  # fmt: skip
"""Exact type -> its ext value. Reached for what MessagePack can't say; an int comes here only beyond 64 bits."""

DECODERS: Final[dict[int, Callable[[bytes], object]]] = {
    BYTEARRAY: bytearray, BIG_INT: lambda data: int.from_bytes(data, "big", signed=True),
    COMPLEX: lambda data: complex(*_COMPLEX.unpack(data)), DATETIME: _read_datetime,
    DATE: lambda data: dt.date(*_DATE.unpack(data)), TIME: _read_time,
    TIMEDELTA: lambda data: dt.timedelta(*_TIMEDELTA.unpack(data)), ZONE: _read_zone,
    DECIMAL: lambda data: Decimal(data.decode("ascii")), UUID_: _read_uuid, PATH: _read_path, IP: _read_ip,
}  # fmt: skip

NATIVE: Final = frozenset({type(None), bool, int, float, str, bytes})
"""Types that MessagePack carries as they are."""

CARRIED_TYPES: Final = NATIVE | ENCODERS.keys() | {
    list, dict, tuple, set, frozenset, bytearray, range, Fraction, OrderedDict, defaultdict, Counter, deque,
}  # fmt: skip
"""Everything that needs no registration."""
