"""Values and calls for the key vectors.

Every value below differs from every other one, so the list also is the curated must-differ list (figure R9). The text
of an expression is its name in keys.json.
"""

from __future__ import annotations

import array
import collections
import datetime as dt
import decimal
import enum
import fractions
import functools
import ipaddress
import math
import pathlib
import re
import types
import typing
import uuid
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Color(enum.Enum):
    RED = 1
    GREEN = 2


class Number(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    A = "a"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Name(str):
    __slots__ = ()


class Count(int):
    pass


class Row(tuple[int, ...]):
    __slots__ = ()


class Point(NamedTuple):
    x: int
    y: int


@dataclass(frozen=True)
class Place:
    x: int
    y: int


@dataclass
class Basket:
    owner: str
    items: list[Any] = field(default_factory=list)
    note: str = field(default="", compare=False)


@dataclass(slots=True, frozen=True)
class Slim:
    x: int


class Account:
    def __init__(self, number: int) -> None:
        self.number = number

    def __cache_key__(self) -> int:
        return self.number

    def balance(self, currency: str = "EUR") -> None:
        """Stand for a method."""

    @classmethod
    def total(cls, currency: str) -> None:
        """Stand for a class method."""


class Savings(Account):
    pass


def helper(value: object) -> None:
    """Stand for a function as an argument."""


NAMES = {
    **{module.__name__: module for module in (array, collections, decimal, enum, fractions, functools, ipaddress)},
    **{module.__name__: module for module in (math, pathlib, re, types, typing, uuid, zoneinfo)},
    "dt": dt,
    **{thing.__name__: thing for thing in (Color, Number, Word, Right, Name, Count, Row, Point, Place, Basket, Slim)},
    **{thing.__name__: thing for thing in (Account, Savings, helper)},
}

NEW_YEAR = "dt.datetime(2026, 1, 1, 2, 30"
VALUES = [
    # what looks like one
    "1", "1.0", "True", "'1'", "b'1'", "bytearray(b'1')", "1+0j", "decimal.Decimal(1)", "decimal.Decimal('1.0')",
    "decimal.Decimal('1.00')", "fractions.Fraction(1)", "Number.ONE", "Count(1)", "Right.READ", "Color.RED", "(1,)",
    "[1]", "{1}", "frozenset({1})", "{1: None}", "{1: 1}", "{1.0: 1}", "{True: 1}", "{'1': 1}", "((1,),)", "[[1]]",
    "[(1,)]", "([1],)", "collections.deque([1])", "collections.deque([1], maxlen=3)", "array.array('b', [1])",
    "array.array('i', [1])", "range(1)", "range(0, 1, 2)", "slice(1)", "slice(0, 1)", "memoryview(b'1')", "Row((1,))",
    # what looks like nothing
    "None", "'None'", "''", "b''", "bytearray()", "0", "-0.0", "0.0", "0j", "complex(0.0, -0.0)",
    "complex(-0.0, 0.0)", "False", "()", "[]", "set()", "frozenset()", "{}", "((),)", "[()]", "([],)", "[[]]",
    "[None]", "(None,)", "...", "NotImplemented", "collections.OrderedDict()", "collections.Counter()",
    "collections.defaultdict(int)", "collections.defaultdict(list)", "types.MappingProxyType({})", "dt.timedelta(0)",
    "decimal.Decimal('0')", "decimal.Decimal('-0')", "decimal.Decimal('0.0')", "decimal.Decimal('NaN')",
    "fractions.Fraction(0)",
    # numbers at their borders
    "-1", "2**31 - 1", "2**31", "-2**31", "-2**31 - 1", "2**63", "-2**63", "2**64", "10**30", "-10**30", "255", "256",
    "-128", "-129", "128", "math.inf", "-math.inf", "math.nan", "complex(math.nan, 0)", "complex(0, math.nan)",
    "[math.nan]", "5e-324", "1.7976931348623157e308", "0.1", "0.1 + 0.2", "0.3",
    # text and where it ends
    "'a b'", "'a'", "'ab'", "('a b', 'c')", "('a', 'b c')", "('a', 'b', 'c')", "['a', 'b']", "['ab', '']",
    "['', 'ab']", "['a,b']", "[\"a', 'b\"]", "'\\x00'", "'\\x00\\x00'", "'\\n'", "'\\r\\n'", "'é'", "'e\\u0301'",
    "'É'", "'\\ud83d\\ude00'", "'\\U0001f600'", "'\\ud800'", "b'\\xed\\xa0\\x80'", "'ab' * 200", "'ab' * 201",
    "Name('a')", "Word.A", "b'a'", "b'\\xc3\\xa9'", "'2026-01-01'", "'Color.RED'", "'RED'", "\"<class 'int'>\"",
    # dates
    "dt.date(2026, 1, 1)", "dt.datetime(2026, 1, 1)", "dt.time(0)", "dt.time(0, tzinfo=dt.UTC)", "dt.time(0, fold=1)",
    NEW_YEAR + ")", NEW_YEAR + ", fold=1)", NEW_YEAR + ", 0, 1)", NEW_YEAR + ", tzinfo=dt.UTC)",
    NEW_YEAR + ", tzinfo=zoneinfo.ZoneInfo('UTC'))", NEW_YEAR + ", tzinfo=zoneinfo.ZoneInfo('Europe/Paris'))",
    NEW_YEAR + ", tzinfo=zoneinfo.ZoneInfo('Europe/Paris'), fold=1)",
    NEW_YEAR + ", tzinfo=zoneinfo.ZoneInfo('Europe/Rome'))",
    NEW_YEAR + ", tzinfo=dt.timezone(dt.timedelta(hours=1)))",
    NEW_YEAR + ", tzinfo=dt.timezone(dt.timedelta(hours=1), 'CET'))", "dt.timedelta(days=1)",
    "dt.timedelta(microseconds=-1)", "dt.timedelta(seconds=1)", "dt.UTC", "zoneinfo.ZoneInfo('UTC')",
    # other values
    "uuid.UUID(int=1)", "str(uuid.UUID(int=1))", "pathlib.PurePosixPath('a/b')", "pathlib.PureWindowsPath('a/b')",
    "'a/b'", "ipaddress.ip_address('::1')", "ipaddress.ip_address('127.0.0.1')",
    "ipaddress.ip_network('127.0.0.0/8')", "re.compile('a')", "re.compile(b'a')", "re.compile('a', re.I)",
    # records and enumerations
    "Color.GREEN", "Right.WRITE", "Right.READ | Right.WRITE", "Right(0)", "(1, 2)", "Point(1, 2)", "Place(1, 2)",
    "Place(2, 1)", "Slim(1)", "Basket('a')", "Basket('a', [1])", "Basket('a', [1.0])", "Basket('b')",
    "{'x': 1, 'y': 2}", "Account(1)", "Account(2)", "Savings(1)",
    # containers in containers
    "{'a': {'b': 1}}", "{'a': {'b': '1'}}", "{'a': None}", "{None: 'a'}", "{('a',): 1}", "{frozenset({1}): 2}",
    "[{1}, {2}]", "[{2}, {1}]", "[{1, 2}]", "[{1, 2}, set()]", "collections.OrderedDict(a=1, b=2)",
    "collections.OrderedDict(b=2, a=1)", "{'a': 1, 'b': 2}", "collections.Counter('a')", "{'a': 1}",
    "types.MappingProxyType({'a': 1})", "functools.reduce(lambda inner, _: [inner], range(40), 1)",
    "functools.reduce(lambda inner, _: [inner], range(41), 1)",
    # text that imitates the encoder's own records
    "[{}, 'a', 'b']", "[{}, 'aub']",
    "[{}, 'au' + chr(0) * 7 + chr(1) + 'b']", "{'a', 'b'}", "{'aub'}", "[{}, 'a'], 'b'",
    # code
    "int", "str", "type", "types.NoneType", "collections.OrderedDict", "pathlib.PurePath", "Color", "Account",
    "Savings", "helper", "len", "math.sqrt", "functools.partial(helper, 1)", "functools.partial(helper, '1')",
    "list[int]", "list[str]", "int | None", "typing.Literal['a']", "typing.Literal[1]", "typing.Annotated[int, 1]",
    "typing.Annotated[int, 2]",
    "typing.Callable[[int], str]", "typing.Callable[..., str]", "typing.Any", "Account(1).balance",
    "Account.total", "Savings.total",
]  # fmt: skip

EQUAL = [
    ("list[int]", "typing.List[int]"),
    ("int | None", "typing.Optional[int]"),
    ("{'a': 1, 'b': 2}", "dict(b=2, a=1)"),
    ("{1, 2, 3}", "{3, 2, 1}"),
    ("{'x', 'y', 'z'}", "{'z', 'y', 'x'}"),
    ("math.nan", "-math.nan"),
    ("[math.nan]", "[math.inf - math.inf]"),
    ("1", "int('1')"),
    ("'ab' * 50", "''.join(['ab'] * 50)"),
    ("dt.UTC", "dt.timezone(dt.timedelta(0))"),
    ("Right.READ | Right.WRITE", "Right(3)"),
    ("Basket('a', note='seen')", "Basket('a', note='unseen')"),
    ("pathlib.PurePosixPath('a/b')", "pathlib.PurePosixPath('a//b/')"),
]


def one(value: object) -> None:
    """Take one value."""


def three(number: int, text: str = "abc", *, month: str) -> None:
    """Take the three arguments of figure P5."""


def shapes(a: int, /, b: int, c: int = 3, *rest: int, d: int = 4, **more: object) -> None:
    """Take parameters of every kind."""


def nothing() -> None:
    """Take nothing."""


def größe(größe: int) -> None:  # noqa: PLC2401  names may be written in any script
    """Have a name that is not ASCII."""


FUNCTIONS: dict[str, Callable[..., object]] = {
    function.__qualname__: function for function in (one, three, shapes, nothing, größe, Account.balance)
}

# function, options, call; options and calls are Python source
CALLS = [
    ("three", "{}", "(42, 'abc', month='2026-11')"),
    ("three", "dict(prefix='shop')", "(42, month='2026-11')"),
    ("three", "dict(prefix='shop', namespace='eu west')", "(42, month='2026-11')"),
    ("three", "dict(namespace='n' * 300)", "(42, month='2026-11')"),
    ("three", "dict(namespace=lambda number, **_: f'tenant {number}')", "(42, month='2026-11')"),
    ("three", "dict(version=2)", "(42, month='2026-11')"),
    ("three", "dict(version='2')", "(42, month='2026-11')"),
    ("three", "dict(version='source')", "(42, month='2026-11')"),
    ("three", "dict(ignore=['month'])", "(42, month='2026-11')"),
    ("three", "dict(skip_first=True)", "(42, month='2026-11')"),
    ("three", "dict(key='user:{number}')", "(42, month='2026-11')"),
    ("three", "dict(key='user:{number}')", "('42', month='2026-11')"),
    ("three", "dict(key='{text.__class__.__name__}/{month[0]}')", "(42, month='2026-11')"),
    ("three", "dict(key=lambda number, text, *, month: (number, month))", "(42, month='2026-11')"),
    ("three", "dict(key=lambda number: f'né {number}')", "(42, month='2026-11')"),
    ("three", "{}", "(42, month=dt.date(2026, 11, 1))"),
    ("three", "{}", "(float('nan'), month=1.5)"),
    ("shapes", "{}", "(1, 2)"),
    ("shapes", "{}", "(1, 2, 3, 4, 5)"),
    ("shapes", "{}", "(1, 2, z=1, y=2, a=3)"),
    ("shapes", "{}", "(1, 2, 3, [4], d={5})"),
    ("nothing", "{}", "()"),
    ("größe", "dict(prefix='shop')", "(1)"),
    ("Account.balance", "{}", "(Account(1))"),
    ("Account.balance", "dict(ignore='self')", "(None, 'USD')"),
]
