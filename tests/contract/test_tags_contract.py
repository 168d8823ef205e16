"""What holds of tags and namespaces, whatever the servers are and whoever calls."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from support.memcached import start_memcached
from support.reports import MONTHS, USERS, Reports
from support.shells import Shell
from support.targets import Make, own_prefix
from support.threads import Outcome, eventually

from cachekit import MISS, Cache, ConfigurationError, Policy
from cachekit.hooks import Invalidate
from cachekit.keys.tags import namespace_key, tag_key
from cachekit.ops import Exchange, Flow
from cachekit.sync.drive import run


@pytest.fixture
def cache(make: Make) -> Cache:
    """A cache in each shell, on each kind of servers."""
    return make()


def tell_servers(cache: Any, request: bytes) -> None:
    """Something that an operator does on every server, or eviction."""

    def told(server: int) -> Flow[None]:
        yield Exchange(server, request % {b"opaque": b"O77"}, 1, 77)

    for server in range(len(cache._fleet.names)):
        run(told(server), cache._fleet)


def record(cache: Any, tag: str) -> bytes:
    """The wire key of a tag's record."""
    return tag_key(cache._prefix, tag)


# -- hard --------------------------------------------------------------------------------------------------------------


def test_a_tag_voids_every_entry_that_bears_it_and_no_other(cache: Cache) -> None:
    """On every server, for every verb."""
    reports = Reports(cache)
    assert len(reports.ask()) == 40
    assert reports.ask() == []
    assert cache.invalidate_tags("user:3") is True
    assert reports.call.peek(3, "jan") is MISS
    assert reports.call.explain(3, "feb").state == "invalidated"
    assert reports.call.peek(4) == "4 in jan, run 9"
    assert reports.ask() == [(3, "jan"), (3, "feb")]
    assert cache.invalidate_tags("month:feb")
    assert reports.ask() == [(user, "feb") for user in USERS]
    assert cache.invalidate_tags("user:5", "month:jan", "user:nobody")
    assert sorted(reports.ask()) == sorted([*((user, "jan") for user in USERS), (5, "feb")])
    assert reports.ask() == []
    assert cache.invalidate_tags() is True
    assert cache.invalidate_tags("nobody's") is True
    assert reports.ask() == []


def test_each_of_a_functions_groups_voids_it(cache: Cache) -> None:
    """One tag, the function, its namespace."""
    reports = Reports(cache, namespace="fr")
    other = Reports(cache, tags=["user:{user}"])
    everything = [(user, month) for user in USERS for month in MONTHS]
    bumps: list[tuple[Callable[[], bool], list[Any], list[Any]]] = [
        (lambda: True, everything, everything),
        (reports.call.invalidate_all, everything, []),
        (lambda: cache.invalidate_namespace("fr"), everything, []),
        (lambda: cache.invalidate_namespace("de"), [], []),
        (lambda: cache.invalidate_tags("user:7"), [(7, "jan"), (7, "feb")], [(7, "jan"), (7, "feb")]),
        (other.call.invalidate_all, [], everything),
    ]
    for void, mine, theirs in bumps:
        assert void() is True
        assert (reports.ask(), other.ask()) == (mine, theirs)
        assert (reports.ask(), other.ask()) == ([], [])


def test_tags_belong_to_the_prefix(make: Make) -> None:
    """Not to a function, and not to a namespace; another application's are others."""
    cache, another = make(), make()
    ours = [Reports(cache, namespace=name) for name in ("", "fr", "de")]
    theirs = Reports(another)
    for each in (*ours, theirs):
        each.ask()
    assert cache.invalidate_tags("user:1")
    assert [len(each.ask()) for each in ours] == [2, 2, 2]
    assert theirs.ask() == []


def test_another_process_is_told_by_the_servers(make: Make, target: str) -> None:
    """A second cache with the same prefix voids what the first one stored, and the other way round."""
    cache = make()
    other = make(prefix=cache.prefix) if target != "memory:" else cache
    mine, theirs = Reports(cache), Reports(other)
    mine.ask(), theirs.ask()
    for bumps, asks in ((other, mine), (cache, theirs), (other, theirs)):
        assert bumps.invalidate_tags("month:feb")
        assert asks.call.peek(1, "feb") is MISS
        assert asks.call.peek(1, "jan") is not MISS
        assert len(asks.ask()) == len(USERS)


def test_a_namespace_may_be_told_by_the_call(cache: Cache) -> None:
    """Each call has its own; a call without one is in none."""
    reports = Reports(cache, namespace=lambda month, **_: "" if month == "feb" else f"in {month}")
    assert len(reports.ask()) == 40
    assert cache.invalidate_namespace("in jan")
    assert reports.call.peek(1, "jan") is MISS
    assert reports.ask() == [(user, "jan") for user in USERS]
    assert cache.invalidate_namespace("feb")
    assert reports.ask() == []
    assert cache.expire_namespace("in jan")
    assert reports.state(1, "jan") == "stale"
    assert reports.ask() == [(user, "jan") for user in USERS]


@pytest.mark.parametrize("options", [{}, {"namespace": "fr"}, {"tags": ()}, {"tags": (), "namespace": "fr"}])
def test_without_the_functions_own_generation(cache: Cache, options: dict[str, Any]) -> None:
    """group=False: tags and namespaces go on; what needs the function's says so."""
    reports = Reports(cache, **options, policy=Policy(group=False))
    assert len(reports.ask()) == 40
    assert reports.ask() == []
    cache.invalidate_tags("user:3")
    assert len(reports.ask()) == (2 if "tags" not in options else 0)
    cache.invalidate_namespace("fr")
    assert len(reports.ask()) == (40 if "namespace" in options else 0)
    for verb in (reports.call.invalidate_all, reports.call.expire_all):
        with pytest.raises(ConfigurationError, match="group=False"):
            verb()


def test_tags_that_the_call_does_not_have(cache: Cache) -> None:
    """A function of the arguments may return none; large values are read whole all the same."""
    for group in (True, False):
        runs: list[int] = []

        @cache(tags=lambda n: [f"n:{n}"] if n else [], version=int(group), policy=Policy(group=group))
        def noise(n: int) -> bytes:
            runs.append(n)  # noqa: B023
            return b"%d" % n + Random(n).randbytes(500_000)

        for _ in range(2):
            assert [noise(n)[:1] for n in (0, 1, 0, 1)] == [b"0", b"1", b"0", b"1"]
            assert cache.invalidate_tags("n:0", "n:1")
        assert runs == [0, 1, 1]
        info = noise.info()
        assert (info.errors, info.hits, info.misses) == (0, 5, 3)


def test_an_entry_may_bear_as_many_tags_as_there_are_allowed(cache: Cache) -> None:
    """128 of them, of every sort, and each counts."""

    @cache(tags=lambda n: [f"{'é' * (each % 2)}{n}:{each} {'x' * each}" for each in range(128)])
    def square(n: int) -> int:
        runs.append(n)
        return n * n

    runs: list[int] = []
    calls = [square.bind(n) for n in range(20)]
    for _ in range(2):
        assert square.many(calls) == [n * n for n in range(20)]
        assert square(3) == 9
    assert len(runs) == 20
    assert cache.invalidate_tags(f"é3:127 {'x' * 127}")
    assert square.many(calls) == [n * n for n in range(20)]
    assert runs[20:] == [3]
    with pytest.raises(ConfigurationError, match="129 tags on one entry; at most 128"):
        Reports(cache, tags=[f"t{each}" for each in range(129)])


def test_what_is_no_tag_reaches_the_caller(cache: Cache) -> None:
    """By a call, and by the verbs; nothing is sent."""
    reports = Reports(cache, tags=lambda user, **_: [f"t{each}" for each in range(user)])
    for verb in (reports.call, reports.call.refresh, reports.call.peek, reports.call.invalidate, reports.call.explain):
        with pytest.raises(ConfigurationError, match="10000 tags on one entry; at most 128"):
            verb(10_000)
    for wrong in (7, "", ["a"], None):
        with pytest.raises(ConfigurationError, match="a tag "):
            cache.invalidate_tags("fine", wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="a tag "):
            cache.expire_tags(wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="a namespace (is text|can't be empty)"):
            cache.invalidate_namespace(wrong)  # type: ignore[arg-type]
    assert reports.runs == []
    assert reports.call(2) == "2 in jan, run 1"


def test_hooks_hear_of_bumps(cache: Cache) -> None:
    """One event for each group, with its kind and name."""
    reports = Reports(cache, namespace="fr")
    heard: list[Invalidate] = []
    cache.hooks.on_invalidate(heard.append)
    cache.invalidate_tags("a", "b", "a"), cache.expire_tags("a")
    cache.invalidate_namespace("fr"), reports.call.expire_all(), reports.call.invalidate_all()
    assert [(event.kind, event.name, event.soft, event.acknowledged) for event in heard] == [
        ("tag", "a", False, True),
        ("tag", "b", False, True),
        ("tag", "a", True, True),
        ("namespace", "fr", False, True),
        ("function", "", True, True),
        ("function", "", False, True),
    ]
    assert heard[0].key == record(cache, "a").decode()
    assert heard[4].function
    assert not any(event.function for event in heard[:4])


def test_a_cache_that_is_off_still_invalidates(cache: Cache) -> None:
    """Who writes inside the block must not leave old values behind for the others."""
    reports = Reports(cache)
    reports.ask()
    with cache.disabled():
        reports.call(1)
        assert cache.invalidate_tags("user:1")
    assert reports.ask() == [(1, "jan"), (1, "feb")]


# -- the other verbs ---------------------------------------------------------------------------------------------------


def test_one_entry_can_still_be_told_of(cache: Cache) -> None:
    """invalidate, expire, refresh, peek and explain of an entry that bears tags."""
    reports = Reports(cache, ttl=60, stale=30)
    reports.call(1), reports.call(2)
    assert reports.call.refresh(1) == "1 in jan, run 3"
    assert (reports.call(1), reports.state()) == ("1 in jan, run 3", "fresh")
    assert reports.call.expire(1)
    assert (reports.call(1), reports.call(1)) == ("1 in jan, run 4", "1 in jan, run 4")
    assert reports.call.invalidate(1)
    assert (reports.call.peek(1), reports.state()) == (MISS, "absent")
    assert reports.call(2) == "2 in jan, run 2"
    cache.invalidate_tags("user:2")
    assert reports.call.refresh(2) == "2 in jan, run 5"
    assert reports.call(2) == "2 in jan, run 5"
    cache.expire_tags("user:2")
    assert reports.call.refresh(2) == reports.call(2) == "2 in jan, run 6"


def test_a_refresh_that_fails_leaves_the_old_value(cache: Cache) -> None:
    """After a soft bump as before one; the exception reaches its caller."""
    reports = Reports(cache, ttl=60, stale=30)
    reports.call(1)
    for bump in (False, True):
        assert not bump or cache.expire_tags("user:1")
        reports.error = LookupError("down")
        with pytest.raises(LookupError):
            reports.call.refresh(1)
        reports.error = None
        assert reports.call.peek(1) == "1 in jan, run 1"


def test_many_calls_under_tags(cache: Cache) -> None:
    """One by one by their own tags; those that are expired softly are refreshed, one run each."""
    reports = Reports(cache, ttl=60, stale=30)
    calls = [reports.call.bind(user, month) for user in USERS for month in MONTHS]
    first = reports.call.many(calls)
    assert reports.call.many(calls) == first
    assert len(reports.runs) == 40
    cache.invalidate_tags("user:3"), cache.expire_tags("user:4")
    again = reports.call.many(calls)
    assert sorted(reports.runs[40:]) == [(3, "feb"), (3, "jan"), (4, "feb"), (4, "jan")]
    assert [one == two for one, two in zip(first, again, strict=True)].count(False) == 4
    assert reports.call.many(calls) == again


@pytest.mark.parametrize("tags", [["item:{ids}", "shop:{shop}"], lambda ids, shop: [f"shop:{shop}", f"item:{ids}"]])
def test_a_loader_whose_ids_bear_tags(cache: Cache, tags: Any) -> None:
    """Each id its own; a bump makes the loader run for those that bear it, once. What is absent bears them too."""
    runs: list[list[int]] = []

    @cache.batch(tags=tags, namespace="fr", ttl=60, stale=30)
    def prices(ids: list[int], shop: int = 1) -> dict[int, int]:
        runs.append(sorted(ids))
        return {each: each * 10 for each in ids if each != 13}

    ids = list(range(20))
    found = {each: each * 10 for each in ids if each != 13}

    def ask() -> list[list[int]]:
        runs.clear()
        assert prices(ids) == found
        return list(runs)

    assert ask() == [ids]
    assert ask() == []
    bumps: list[tuple[Callable[[], bool], list[list[int]]]] = [
        (lambda: cache.invalidate_tags("item:3", "item:13"), [[3, 13]]),
        (lambda: cache.expire_tags("item:4", "item:5"), [[4, 5]]),
        (lambda: cache.invalidate_tags("shop:2"), []),
        (lambda: cache.expire_tags("shop:1"), [ids]),
        (lambda: cache.invalidate_tags("shop:1"), [ids]),
        (lambda: cache.invalidate_namespace("fr"), [ids]),
        (prices.invalidate_all, [ids]),
        (prices.expire_all, [ids]),
    ]
    for bump, again in bumps:
        assert bump() is True
        assert ask() == again
        assert ask() == []
    cache.invalidate_tags("item:3")
    assert prices.peek(ids) == {each: value for each, value in found.items() if each != 3}
    assert prices.explain(3).state == "invalidated"
    assert prices.refresh([3, 4]) == {3: 30, 4: 40}
    assert ask() == []


# -- records that are lost, or changed by hand -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        b"md %b %%(opaque)b\r\n",
        b"ms %b 7 T0 %%(opaque)b\r\ngarbage\r\n",
        b"ms %b 3 T0 %%(opaque)b\r\n0 0\r\n",
        b"ms %b 0 T0 %%(opaque)b\r\n\r\n",
        b"md %b I %%(opaque)b\r\n",
    ],
)
def test_a_record_that_is_evicted_or_overwritten_fails_closed(cache: Any, request_: bytes) -> None:
    """What it stood over is computed again, once; and invalidations go on to work."""
    reports = Reports(cache, ttl=60, stale=30, namespace="fr")
    reports.ask([1, 2])
    for key, again in (
        (record(cache, "user:1"), [(1, "jan"), (1, "feb")]),
        (namespace_key(cache._prefix, "fr"), [(user, month) for user in (1, 2) for month in MONTHS]),
        (reports.call._grouped().generations[-1], [(user, month) for user in (1, 2) for month in MONTHS]),
    ):
        tell_servers(cache, request_ % key)
        assert reports.call.peek(1) is MISS
        assert reports.ask([1, 2]) == again
        assert reports.ask([1, 2]) == []
    for bump in (cache.expire_tags, cache.invalidate_tags):
        assert bump("user:2")
        assert reports.ask([1, 2]) == [(2, "jan"), (2, "feb")]
    assert reports.ask([1, 2]) == []


def test_a_server_that_was_restarted_has_forgotten_everything(shell: Shell) -> None:
    """Its numbers begin anew: neither what was stored there, nor a run from before, comes to stand under them."""
    with start_memcached() as server:
        cache = shell.around(Cache(f"memcached://{server.name}?deadline=5s", prefix=own_prefix()))
        reports = Reports(cache, ttl=60, stale=30)
        assert len(reports.ask([1, 2, 3])) == 6
        reports.call.invalidate(1)
        reports.open.clear()
        filling = Outcome(reports.call, 1)
        assert eventually(lambda: len(reports.runs) == 7)
        server.restart()
        other = Reports(shell.around(Cache(f"memcached://{server.name}?deadline=5s", prefix=cache.prefix)))
        assert eventually(lambda: len(other.ask([1])) == 2 and other.ask([1]) == [])
        assert cache.invalidate_tags("user:1")
        reports.open.set()
        assert filling.result() == "1 in jan, run 7"
        assert reports.call.peek(1) is MISS
        assert other.call.peek(1) is MISS
        assert eventually(lambda: reports.ask([1, 2, 3]) == [])
        assert cache.invalidate_tags("user:2")
        assert reports.ask([1, 2, 3]) == [(2, "jan"), (2, "feb")]
        for each in (cache, other.cache):
            each.close()
