"""Frozen values: made like dataclasses, equal by class and fields, never changed."""

from __future__ import annotations

import copy
import pickle
from typing import ClassVar

import pytest

from cachekit.frozen import Frozen


class Point(Frozen):
    x: int
    y: int = 0

    unit: ClassVar[str] = "m"


class Place(Point):
    name: str = "nowhere"


class Named(Frozen, kw_only=True):
    name: str

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a name")


class Other(Frozen):
    x: int
    y: int = 0


def test_fields_by_place_and_by_name() -> None:
    """Fields come in the order of the class body, a base's first; defaults fill in; ClassVars are no fields."""
    assert Point(1) == Point(x=1, y=0) == Point(1, y=0)
    assert repr(Place(1, 2, "here")) == "Place(x=1, y=2, name='here')"
    assert Point(1).unit == "m"


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1})], ids=str)
def test_wrong_calls(args: tuple[int, ...], kwargs: dict[str, int]) -> None:
    """Too few, too many, doubled and unknown arguments are TypeErrors, as of any call."""
    with pytest.raises(TypeError, match="Point"):
        Point(*args, **kwargs)


def test_by_name_only() -> None:
    """``kw_only`` takes no argument by its place, and ``__post_init__`` may refuse."""
    with pytest.raises(TypeError):
        Named("a")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="a name"):
        Named(name="")
    assert Named(name="a").name == "a"


def test_equal_by_class_and_fields() -> None:
    """Two classes with equal fields are not equal, unlike tuples; equal values hash alike."""
    assert Point(1, 2) != Other(1, 2)
    assert Point(1, 2) != (1, 2)
    assert len({Point(1, 2), Point(1, 2), Other(1, 2), Point(2, 1)}) == 3


def test_never_changed() -> None:
    """Nothing can be set or deleted; ``_replace`` makes another value."""
    point = Point(1, 2)
    with pytest.raises(AttributeError, match="never changed"):
        point.x = 3  # type: ignore[misc]
    with pytest.raises(AttributeError, match="never changed"):
        del point.x
    assert point._replace(y=5) == Point(1, 5)
    assert point == Point(1, 2)


def test_copies_and_pickles() -> None:
    """A value survives copy, deepcopy and pickle; patterns match it by place."""
    place = Place(1, 2, "here")
    assert place == copy.copy(place) == copy.deepcopy(place) == pickle.loads(pickle.dumps(place))
    match place:
        case Place(x, y, name):
            assert (x, y, name) == (1, 2, "here")
        case _:
            pytest.fail("no match")
