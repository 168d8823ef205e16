"""A tag template that names what the function does not take is an error at decoration, whatever is decorated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cachekit import Cache, ConfigurationError

TAGS = ["user:{usr_id}"]
UNKNOWN = r"user:\{usr_id\}.* \{usr_id\} begins with no argument of the function \(it has: .*user_id"


def a_function(decorate: Callable[[Any], Any]) -> None:
    """A plain one."""

    @decorate
    def report(user_id: int) -> int:
        return user_id


def an_async_function(decorate: Callable[[Any], Any]) -> None:
    """A coroutine function."""

    @decorate
    async def report(user_id: int) -> int:
        return user_id


def a_method(decorate: Callable[[Any], Any]) -> None:
    """One whose object counts as an argument."""

    class Shop:
        @decorate
        def report(self, user_id: int) -> int:
            return user_id


def an_async_method(decorate: Callable[[Any], Any]) -> None:
    """The same, as a coroutine function."""

    class Shop:
        @decorate
        async def report(self, user_id: int) -> int:
            return user_id


def a_classmethod(decorate: Callable[[Any], Any]) -> None:
    """One whose class does."""

    class Shop:
        @classmethod
        @decorate
        def report(cls, user_id: int) -> int:
            return user_id


def a_staticmethod(decorate: Callable[[Any], Any]) -> None:
    """One in a class, of which it knows nothing."""

    class Shop:
        @staticmethod
        @decorate
        def report(user_id: int) -> int:
            return user_id


def a_batch(decorate: Callable[[Any], Any]) -> None:
    """One that is given many ids."""

    @decorate
    def reports(user_id: list[int]) -> dict[int, int]:
        return {each: each for each in user_id}


def an_async_batch(decorate: Callable[[Any], Any]) -> None:
    """The same, as a coroutine function."""

    @decorate
    async def reports(user_id: list[int]) -> dict[int, int]:
        return {each: each for each in user_id}


SINGLE = (a_function, an_async_function, a_method, an_async_method, a_classmethod, a_staticmethod)
MANY = (a_batch, an_async_batch)


@pytest.mark.parametrize("kind", SINGLE, ids=lambda kind: str(kind.__name__))
def test_of_what_is_cached(kind: Callable[[Any], None]) -> None:
    """Before it is called once."""
    cache = Cache("memory:")
    with pytest.raises(ConfigurationError, match=UNKNOWN):
        kind(cache(ttl=60, tags=TAGS))


@pytest.mark.parametrize("kind", MANY, ids=lambda kind: str(kind.__name__))
def test_of_what_is_cached_by_the_id(kind: Callable[[Any], None]) -> None:
    """The same for a loader of many."""
    cache = Cache("memory:")
    with pytest.raises(ConfigurationError, match=UNKNOWN):
        kind(cache.batch(ttl=60, tags=TAGS))


@pytest.mark.parametrize("kind", SINGLE, ids=lambda kind: str(kind.__name__))
def test_of_a_writer(kind: Callable[[Any], None]) -> None:
    """An invalidation that could mean nothing is found before anything is written."""
    cache = Cache("memory:")
    with pytest.raises(ConfigurationError, match=UNKNOWN):
        kind(cache.invalidates(tags=TAGS))
