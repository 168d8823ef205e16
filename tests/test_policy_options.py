"""Policies: what each field takes, which of them contradict one another, who wins, and what they come to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachekit import Cache, Policy
from cachekit.checks import contradiction
from cachekit.errors import ConfigurationError
from cachekit.expiry import every
from cachekit.policy import DEFAULTS, LIBRARY, Terms, terms_of
from cachekit.types import UNSET

SPANS = ("stale", "stale_if_error", "throttle", "soft_timeout", "error_ttl")
NO_SPANS: list[Any] = [-1, "soon", float("nan"), float("inf"), True, timedelta(-1), []]


@pytest.mark.parametrize(
    "field",
    [
        {"ttl": -1},
        {"ttl": "soon"},
        {"ttl": float("nan")},
        {"ttl": True},
        {"ttl": timedelta(seconds=-1)},
        {"jitter": 1},
        {"jitter": -0.1},
        {"jitter": float("nan")},
        {"jitter": "0.1"},
        {"jitter": True},
        {"lease": 0},
        {"lease": 0.5},
        {"lease": 86_401},
        {"lease": float("inf")},
        {"lease": float("nan")},
        {"lease": None},
        {"lease": True},
        {"group": 1},
        {"group": None},
        {"group": "yes"},
        {"inherit": 1},
        {"inherit": None},
        {"codec": "marshal"},
        {"codec": 3},
        *({name: value} for name in SPANS for value in NO_SPANS),
        *({name: None} for name in SPANS if name != "soft_timeout"),
        *({"refresh": value} for value in ("eager", "", None, True, 1)),
        *({"beta": value} for value in (-1, 1000, float("nan"), float("inf"), "1", True)),
        *({"sliding": value} for value in (1, 0, None, "yes")),
        *({"cache_if": value} for value in (True, 1, "len")),
        *({"errors": value} for value in (LookupError, [LookupError], ("LookupError",), (KeyboardInterrupt,), None)),
    ],
)
def test_nonsense_is_refused_where_it_is_written(field: dict[str, Any]) -> None:
    """A policy that can't mean anything is a ``ValueError`` that names the field's value."""
    with pytest.raises(ConfigurationError) as raised:
        Policy(**field)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    "field",
    [
        {"ttl": 0},
        {"ttl": None},
        {"ttl": 0.5},
        {"ttl": "1h30m"},
        {"ttl": timedelta(days=400)},
        {"ttl": every("1h")},
        {"ttl": lambda result: 5},
        {"jitter": 0},
        {"jitter": 0.999},
        {"lease": 1},
        {"lease": 86_400},
        {"lease": 2.5},
        {"group": False},
        {"inherit": False},
        {"codec": None},
        {"codec": "json"},
        {"codec": "data"},
        *({name: value} for name in SPANS[:3] for value in (0, 0.5, 90, "5m", timedelta(days=1))),
        *({"refresh": value} for value in ("inline", "background")),
        *({"soft_timeout": value} for value in (None, 0, "50ms")),
        *({"beta": value} for value in (None, 0, 1, 2.5, 999)),
        {"sliding": True},
        {"sliding": False},
        {"cache_if": None},
        {"cache_if": bool},
        {"errors": ()},
        {"errors": (LookupError, OSError)},
        {"error_ttl": "10s"},
    ],
)
def test_sense_is_taken(field: dict[str, Any]) -> None:
    """What the docs promise, a policy takes, and leaves the other fields open."""
    policy = Policy(**field)
    for name in LIBRARY:
        assert getattr(policy, name) is field.get(name, UNSET)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("near", "that is a function's: @cache(near=…), or for all functions: policy=Policy(near=…)"),
        ("tags", "that is a function's: @cache(tags=…)"),
        ("beta", "that is a policy's: policy=Policy(beta=…)"),
        ("watch", "that stands in the URL: 'memcached://host?watch=…'"),
        ("prefx", "did you mean prefix=?"),
        ("timeout", "it takes url, prefix, policy, on_error, spool"),
    ],
)
def test_a_cache_says_where_an_option_belongs(option: str, said: str) -> None:
    """Most that it does not take itself have a place of their own."""
    given: dict[str, Any] = {option: 1}
    with pytest.raises(ConfigurationError) as raised:
        Cache("memory:", **given)
    assert str(raised.value) == f"Cache takes no {option}=; {said}"


def test_policies_are_frozen_values() -> None:
    """A policy can be named and shared: it can't be changed, and equal ones are equal."""
    policy = Policy(ttl=5)
    with pytest.raises(AttributeError):
        policy.ttl = 6  # type: ignore[misc]
    assert policy == Policy(ttl=5) != Policy(ttl=6)
    assert hash(policy) == hash(Policy(ttl=5))


def test_a_misspelt_field_is_refused() -> None:
    """An option that does not exist is never ignored, and what may have been meant is named."""
    with pytest.raises(ConfigurationError, match=r"Policy has no tll=; did you mean ttl=\?"):
        Policy(tll=5)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match=r"Policy has no version=: that is the decorator's, @cache\(version="):
        Policy(version=2)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match=r"Policy\('5m'\): its fields are given by name"):
        Policy("5m")  # type: ignore[call-arg]


def test_a_policy_shows_what_it_says() -> None:
    """And not the dozen of fields that it leaves open."""
    assert repr(Policy(ttl="5m", stale=5)) == "Policy(ttl='5m', stale=5)"
    assert repr(Policy()) == "Policy()"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"stale": "-5s"}, "it must not be negative"),
        ({"stale": None}, "None is no span of time, 0 means none"),
        ({"beta": 1000}, "to below 1000"),
        ({"errors": LookupError}, r"such as errors=\(LookupError,\)"),
        ({"sliding": True, "ttl": every("1h")}, r"contradicts every\(3600\)"),
        ({"throttle": float("inf")}, "longer than a timedelta can say. Accepted"),
    ],
)
def test_what_is_refused_says_what_to_write(fields: dict[str, Any], said: str) -> None:
    """The message is about what was typed, in the words of whoever typed it."""
    with pytest.raises(ConfigurationError, match=said):
        Policy(**fields)


def test_the_nearer_policy_wins_field_by_field() -> None:
    """over() fills only what is open; None and 0 and False are values, not openings."""
    assert Policy(ttl=None, jitter=0, group=False).over(Policy(ttl=5, jitter=0.5, group=True, lease=20)) == Policy(
        ttl=None, jitter=0, group=False, lease=20
    )
    assert Policy().over(Policy()) == Policy()
    assert Policy().over(DEFAULTS) == DEFAULTS


_OPEN_OR = {
    "ttl": st.just(UNSET) | st.sampled_from([None, 0, 5, "5m"]),
    "jitter": st.just(UNSET) | st.sampled_from([0, 0.5]),
    "codec": st.just(UNSET) | st.sampled_from([None, "json"]),
    "group": st.just(UNSET) | st.booleans(),
    "inherit": st.just(UNSET) | st.booleans(),
    "lease": st.just(UNSET) | st.sampled_from([1, 20]),
    "throttle": st.just(UNSET) | st.sampled_from([0, "1m"]),
    "refresh": st.just(UNSET) | st.sampled_from(["inline", "background"]),
    "errors": st.just(UNSET) | st.sampled_from([(), (LookupError,)]),
}
_POLICIES = st.builds(Policy, **_OPEN_OR)


@given(_POLICIES, _POLICIES, _POLICIES)
def test_over_is_associative(near: Policy, middle: Policy, far: Policy) -> None:
    """Keyword > decorator > cache > library, in whatever order they are laid over one another."""
    assert near.over(middle).over(far) == near.over(middle.over(far))
    for name in LIBRARY:
        said = [getattr(each, name) for each in (near, middle, far) if getattr(each, name) is not UNSET]
        assert getattr(near.over(middle).over(far), name) == (said[0] if said else UNSET)


def test_library_defaults() -> None:
    """What holds when nobody says anything: five minutes, nothing stale, no jitter, invalidate_all works, leases of
    10 s.
    """
    assert (DEFAULTS.ttl, DEFAULTS.jitter, DEFAULTS.group, DEFAULTS.lease, DEFAULTS.codec) == (300, 0, True, 10, None)
    assert terms_of(DEFAULTS) == Terms(beta=1.0)
    contradiction(Policy(), DEFAULTS)


@pytest.mark.parametrize(
    ("keywords", "cache_policy", "ttl_s"),
    [
        ({"ttl": 10, "policy": Policy(ttl=20)}, Policy(ttl=30), 10.0),
        ({"policy": Policy(ttl=20)}, Policy(ttl=30), 20.0),
        ({"policy": Policy(lease=20)}, Policy(ttl=30), 30.0),
        ({}, Policy(ttl=30), 30.0),
        ({}, Policy(lease=20), 300.0),
        ({}, None, 300.0),
        ({"ttl": None}, Policy(ttl=30), None),
    ],
)
def test_precedence_on_a_decorated_function(
    keywords: dict[str, Any], cache_policy: Policy | None, ttl_s: float | None
) -> None:
    """The ttl that an entry really gets: keyword > the decorator's policy > the cache's policy > the library."""

    def double(n: int) -> int:
        return 2 * n

    cached = Cache("memory:", policy=cache_policy)(**keywords)(double)
    assert cached(1) == 2
    explained = cached.explain(1)
    assert (explained.state, explained.ttl_s) == ("fresh", ttl_s)


def _one() -> int:
    return 1


# -- contradictions ----------------------------------------------------------------------------------------------------

CONTRADICTORY: list[dict[str, Any]] = [
    {"ttl": None, "stale": "1h"},
    {"ttl": None, "stale_if_error": "1h"},
    {"ttl": None, "sliding": True},
    {"ttl": None, "beta": 2},
    {"ttl": 0, "stale": "1h"},
    {"ttl": 0, "stale_if_error": 60},
    {"ttl": 0, "sliding": True},
    {"ttl": "0s", "beta": 1},
    {"ttl": timedelta(0), "stale": 5},
    {"ttl": every("1h"), "sliding": True},
    {"soft_timeout": 1, "stale": 0, "stale_if_error": 0},
    {"error_ttl": 60, "errors": ()},
]


@pytest.mark.parametrize("fields", CONTRADICTORY)
def test_options_that_contradict_one_another_are_refused(fields: dict[str, Any]) -> None:
    """Where they are written: in a policy, and as keywords of a decorator."""
    with pytest.raises(ConfigurationError):
        Policy(**fields)
    keywords = {name: fields[name] for name in fields if name in ("ttl", "stale")}
    if keywords:
        others = Policy(**{name: fields[name] for name in fields if name not in keywords})
        with pytest.raises(ConfigurationError):
            Cache("memory:")(**keywords, policy=others)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"ttl": None, "stale": "1h"}, ["stale='1h'", "ttl=None"]),
        ({"ttl": 0, "sliding": True}, ["sliding=True", "ttl=0"]),
        ({"soft_timeout": 1, "stale": 0, "stale_if_error": 0}, ["soft_timeout=1", "stale=", "stale_if_error="]),
        ({"error_ttl": 60, "errors": ()}, ["error_ttl=60", "errors="]),
    ],
)
def test_a_contradiction_names_both_sides(fields: dict[str, Any], named: list[str]) -> None:
    """So that its reader knows which one to change."""
    with pytest.raises(ConfigurationError) as raised:
        Policy(**fields)
    assert all(each in str(raised.value) for each in named)


@pytest.mark.parametrize(
    "fields",
    [
        {"ttl": None, "stale": 0, "stale_if_error": 0, "beta": 0, "sliding": False},
        {"ttl": None, "beta": None},
        {"ttl": 0, "stale": 0},
        {"ttl": every("1h"), "stale": "5m", "beta": 1},
        {"ttl": lambda result: None, "stale": "5m", "sliding": True},
        {"ttl": 60, "sliding": True, "stale": 60},
        {"soft_timeout": 1, "stale_if_error": 60},
        {"soft_timeout": 1},
        {"error_ttl": 60},
        {"soft_timeout": None, "stale": 0, "stale_if_error": 0},
    ],
)
def test_what_only_looks_like_a_contradiction_is_taken(fields: dict[str, Any]) -> None:
    """Nothing asked for beside never, what another policy may complete, a callable whose answer nobody knows yet."""
    assert Policy(**fields) == Policy(**fields)


@pytest.mark.parametrize("fields", [{"soft_timeout": 1}, {"error_ttl": 60}])
def test_a_decorator_must_be_complete(fields: dict[str, Any]) -> None:
    """A policy may leave the rest to another; on a function there is no other left."""
    with pytest.raises(ConfigurationError):
        Cache("memory:")(policy=Policy(**fields))
    behind = Policy(stale=60, errors=(LookupError,))
    assert Cache("memory:", policy=behind)(policy=Policy(**fields))(_one)() == 1


@pytest.mark.parametrize("fields", [{"ttl": None}, {"ttl": 0}, {"ttl": every("1h")}])
def test_what_a_cache_says_in_general_is_no_contradiction_where_a_function_differs(fields: dict[str, Any]) -> None:
    """A cache's policy speaks for many functions; one whose values never end has no use for its stale time."""
    general = Policy(stale="1h", stale_if_error="1d", beta=1, sliding=True, soft_timeout=1)

    assert Cache("memory:", policy=general)(**fields)(_one)() == 1


# -- terms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "beta"),
    [
        ({}, 1.0),
        ({"stale": 60}, 0.0),
        ({"stale": 60, "beta": 1}, 1.0),
        ({"stale_if_error": 60}, 1.0),
        ({"sliding": True}, 0.0),
        ({"ttl": every("1h")}, 0.0),
        ({"ttl": every("1h"), "beta": 0.5}, 0.5),
        ({"beta": 0}, 0.0),
        ({"ttl": lambda result: 5}, 1.0),
    ],
)
def test_early_refresh_is_off_where_nobody_would_wait(fields: dict[str, Any], beta: float) -> None:
    """With stale > 0 nobody waits at the end; a schedule means its very moment; sliding puts the end off."""
    assert terms_of(Policy(**fields).over(DEFAULTS)).beta == beta


def test_every_span_comes_out_in_seconds() -> None:
    """However it was written."""
    policy = Policy(
        stale="5m",
        stale_if_error=timedelta(hours=1),
        throttle=2,
        soft_timeout="50ms",
        errors=(OSError,),
        error_ttl="1m",
    )
    terms = terms_of(policy.over(DEFAULTS))
    assert (terms.stale_s, terms.stale_if_error_s, terms.throttle_s) == (300.0, 3600.0, 2.0)
    assert (terms.soft_timeout_s, terms.error_ttl_s, terms.errors) == (0.05, 60.0, (OSError,))
    assert (terms.background, terms.sliding) == (False, False)
    assert terms_of(Policy(refresh="background", sliding=True).over(DEFAULTS)).background
