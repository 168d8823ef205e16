"""``near=``: what it may be, and that what can't mean anything says so at once, with a way out."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from cachekit import Cache, ConfigurationError, Near, Policy


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "needs ttl="),
        ({"ttl": None}, "for ever is too long"),
        ({"ttl": 0}, "near=None turns it off"),
        ({"ttl": "0s"}, "near=None turns it off"),
        ({"ttl": -1}, "must not be negative"),
        ({"ttl": "soon"}, "is no span of time"),
        ({"ttl": float("nan")}, "near ttl"),
        ({"ttl": True}, "near ttl"),
        ({"ttl": "2d"}, "to a day"),
        ({"ttl": 1e-6}, "from a millisecond"),
        ({"ttl": 1, "entries": 0}, "near entries=0"),
        ({"ttl": 1, "entries": -5}, "near entries=-5"),
        ({"ttl": 1, "entries": 1.5}, "near entries=1.5"),
        ({"ttl": 1, "entries": True}, "near entries=True"),
        ({"ttl": 1, "entries": None}, "near entries=None"),
        ({"ttl": 1, "bytes": 0}, "near bytes=0"),
        ({"ttl": 1, "bytes": 1000}, "64 KiB at least"),
        ({"ttl": 1, "bytes": "64M"}, "near bytes='64M'"),
        ({"ttl": 1, "bytes": 2**60}, "near bytes="),
    ],
)
def test_a_near_that_means_nothing_is_refused(options: dict[str, Any], says: str) -> None:
    """No ttl, a ttl that keeps nothing or for ever, and bounds that bound nothing."""
    with pytest.raises(ConfigurationError, match=says):
        Near(**options)


@pytest.mark.parametrize("value", [True, Near, 0, -1, "soon", [], {"ttl": 1}])
def test_so_is_what_is_no_near(value: Any) -> None:
    """At the policy, and at the decorator: before anything runs."""
    with pytest.raises(ConfigurationError, match="near"):
        Policy(near=value)
    with pytest.raises(ConfigurationError, match="near"):
        Cache("memory:")(near=value)


def test_near_without_a_ttl_says_what_to_write() -> None:
    """The most likely mistake: near=True."""
    with pytest.raises(ConfigurationError, match=r"near=True has no ttl: .*near='1s'"):
        Cache("memory:")(near=True)


def test_a_near_tier_over_nothing_is_a_contradiction() -> None:
    """ttl=0 stores nothing, so there is nothing to keep; what the cache says in general is none."""
    with pytest.raises(ConfigurationError, match=r"near='1s' contradicts ttl=0"):
        Cache("memory:")(ttl=0, near="1s")
    cache = Cache("memory:", policy=Policy(near="1s"))
    assert [cache(ttl=0)(_one)() for _ in range(2)] == [1, 1]


@pytest.mark.parametrize("given", ["1s", 1, 1.0, timedelta(seconds=1)])
def test_a_span_is_short_for_a_near(given: Any) -> None:
    """What it comes to is equal, however it is written, and so functions share a store."""
    assert Near(given) == Near(ttl=1.0)
    assert hash(Near(given)) == hash(Near(ttl="1000ms"))
    assert Near(given).ttl_s == 1.0
    assert Near(given) != Near(given, entries=5)


def test_a_near_is_frozen_and_shows_what_was_said() -> None:
    """As every value of a policy."""
    near = Near(ttl="1s", entries=10)
    assert repr(near) == "Near(ttl='1s', entries=10, bytes=33554432)"
    with pytest.raises(AttributeError):
        near.entries = 5  # type: ignore[misc]


def test_it_is_off_by_default_and_can_be_turned_off() -> None:
    """None overrides what the cache's policy says."""
    with Cache("memory:") as plain, Cache("memory:", policy=Policy(near="1s")) as near:
        calls = [plain(_one), near(near=None)(_one), near(_one), plain(near="1s")(_one)]
        assert [(call(), call(), call(), call.info().near)[3] for call in calls] == [0, 0, 2, 2]


def _one() -> int:
    return 1


def test_functions_with_an_equal_near_share_one_store() -> None:
    """Its bounds hold for them together; another near is another store, and so is another cache's."""
    with Cache("memory:") as cache, Cache("memory:") as other:
        calls = [cache(near="1s")(_one), cache(near=Near(1.0))(_one), cache(near="2s")(_one), other(near="1s")(_one)]
        for call in calls:
            call()
        tiers = [call._ready().near for call in calls]
        assert tiers[0] is tiers[1]
        assert len({id(tier) for tier in tiers}) == 3
