"""Values of optional packages for the key vectors: attrs, msgspec, NumPy, pydantic. All differ from one another."""

from __future__ import annotations

import attrs
import msgspec
import numpy as np
import pydantic


@attrs.frozen
class Leaf:
    x: int
    seen: int = attrs.field(default=0, eq=False)


class Pack(msgspec.Struct):
    x: int
    y: str | msgspec.UnsetType = msgspec.UNSET


class User(pydantic.BaseModel):
    x: int
    y: str = "y"


class Page(pydantic.BaseModel):
    url: pydantic.HttpUrl


NAMES = {"Page": Page, "pydantic": pydantic, "np": np, "Leaf": Leaf, "Pack": Pack, "User": User}

VALUES = [
    "Leaf(1)", "Leaf(2)", "Pack(1)", "Pack(1, 'a')", "Pack(2)", "User(x=1)", "User(x=1, y='y')", "User(x=2)", "Leaf",
    "User", "Page(url='http://a/')", "Page(url='http://b/')", "pydantic.AnyUrl('http://a/')",
    "pydantic.HttpUrl('http://a/')", "np.int64(1)", "np.int32(1)", "np.float64(1)", "np.bool_(True)", "np.str_('a')",
    "np.bytes_(b'a')", "np.float64('nan')", "np.datetime64('2026-01-01')", "np.datetime64('2026-01-01', 's')",
    "np.timedelta64(1, 'D')", "np.complex128(1)", "np.array(1)", "np.array([1])", "np.array([[1]])",
    "np.array([1.0])", "np.array([1], dtype='i4')", "np.array([1], dtype='>i4')", "np.array([1, 2, 3, 4])",
    "np.array([[1, 2], [3, 4]])", "np.array([[1, 3], [2, 4]])", "np.array([])", "np.array([], dtype='i8')",
    "np.zeros((0, 2))", "np.zeros((2, 0))", "np.array([-0.0])", "np.array([0.0])", "np.array([np.nan])",
    "np.array([True])", "np.array(['a'])", "np.array([b'a'])", "np.array(['a', 'b'])", "np.array([1j])",
    "np.array(['2026-01-01'], dtype='M8[D]')", "np.array([(1, 2.0)], dtype=[('a', 'i1'), ('b', 'f8')])",
    "np.array([(1, 2.0)], dtype=[('a', 'i1'), ('c', 'f8')])", "np.dtype('int32')", "np.int32", "np.dtype('f8')",
    "[np.int64(1)]", "{'a': np.array([1])}",
]  # fmt: skip

EQUAL = [
    ("np.array([[1, 2], [3, 4]])", "np.asfortranarray([[1, 2], [3, 4]])"),
    ("np.array([1, 2])", "np.array([1, 9, 2, 9])[::2]"),
    ("np.array([np.nan])", "np.array([-np.nan])"),
    ("np.array([complex(np.nan, -0.0)])", "np.array([complex(-np.nan, -0.0)])"),
    ("np.float64('nan')", "-np.float64('nan')"),
    ("Leaf(1, seen=1)", "Leaf(1, seen=2)"),
    (
        "np.array([(1, 2.0)], dtype=[('a', 'i1'), ('b', 'f8')])",
        "np.array([(1, 2.0)], dtype=np.dtype([('a', 'i1'), ('b', 'f8')], align=True))",
    ),
]
