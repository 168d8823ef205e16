"""What the options, off switches and configuration of cached functions promise, whatever the servers are."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import pytest
from support.shells import Shell
from support.targets import Make, cached, own_prefix

from cachekit import MISS, Cache, ConfigurationError, Key, Policy, current

# -- options ----------------------------------------------------------------------------------------------------------


def test_key_ignore_namespace_and_version(make: Make) -> None:
    """key= and ignore= say what counts, namespace= and version= set entries apart."""
    cache = make()
    by_key, runs = cached(cache, key="{n}")
    assert [by_key(3, plus=1), by_key(3, plus=2)] == [10, 10]
    assert runs == [3]
    ignoring, runs = cached(cache, ignore=["plus"], version="i")
    assert [ignoring(3, plus=1), ignoring(3, plus=2)] == [10, 10]
    by_call, _ = cached(cache, key=lambda n, plus: n % 2, version="c")
    assert [by_call(1), by_call(3), by_call(2)] == [1, 1, 4]
    one, one_runs = cached(cache, namespace="one")
    two, two_runs = cached(cache, namespace=lambda n, plus: "two")
    one(3), two(3), one(3), two(3)
    assert (one_runs, two_runs) == ([3], [3])
    assert "one" in one.key(3)
    assert two.invalidate_all()
    assert (one.peek(3), two.peek(3)) == (9, MISS)


def test_json_is_a_codec_for_other_languages(make: Make) -> None:
    """codec="json" stores what JSON can say, and returns what it can't to the caller unstored."""

    @make()(codec="json")
    def plain(n: int) -> Any:
        return {"n": [n, None, "é"]} if n else object

    assert [plain(1), plain(1)] == [{"n": [1, None, "é"]}] * 2
    assert plain.info().hits == 1
    assert plain(0) is object
    assert plain.info().unstored == 1


@dataclass(frozen=True)
class Point:
    x: int
    y: int


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents


def test_own_classes_by_annotation_and_by_registry(make: Make) -> None:
    """A dataclass named in the return annotation comes back as itself; another class after register()."""
    cache = make()
    cache.register(Money, name="money", encode=lambda money: money.cents, decode=Money)

    @cache
    def point(x: int) -> Point:
        return Point(x, 1)

    @cache
    def money(cents: int) -> Money:
        return Money(cents)

    assert [point(1), point(1)] == [Point(1, 1)] * 2
    assert [money(5).cents, money(5).cents] == [5, 5]
    assert (point.info().hits, money.info().hits) == (1, 1)


# -- the call that is being computed ----------------------------------------------------------------------------------


def test_current_names_the_innermost_call(make: Make) -> None:
    """Nested calls and uncached calls each see their own; outside there is none."""
    cache = make()
    seen: list[Key | None] = []

    @cache
    def inner(n: int) -> int:
        seen.append(current().key)
        return n

    @cache
    def outer(n: int) -> int:
        seen.append(current().key)
        inner(n)
        seen.append(current().key)
        return n

    outer(1)
    assert seen == [outer.key(1), inner.key(1), outer.key(1)]
    outer.uncached(2)
    assert seen[3:] == [None, inner.key(2), None]
    assert not current()


def test_what_is_said_belongs_to_one_call(make: Make) -> None:
    """An inner call's words are not the outer one's, nor those of the next call."""
    cache = make()

    @cache(ttl=60)
    def inner(n: int) -> int:
        current().ttl = 5
        if n > 1:
            current().do_not_store()
        return n

    @cache(ttl=60)
    def outer(n: int) -> int:
        return inner(n)

    assert [outer(1), outer(2)] == [1, 2]
    assert (outer.explain(1).ttl_s, inner.explain(1).ttl_s) == (60.0, 5.0)
    assert (outer.peek(2), inner.peek(2)) == (2, MISS)


# -- off switches, configuration --------------------------------------------------------------------------------------


def test_disabled_functions_just_run(make: Make) -> None:
    """Inside disabled() calls run and store nothing, in this thread only; afterwards all is as before."""
    cache = make()
    square, runs = cached(cache)
    with cache.disabled():
        assert [square(3), square(3), square.refresh(3)] == [9, 9, 9]
        assert square.many([square.bind(3)]) == [9]
        others: list[Any] = []
        thread = threading.Thread(target=lambda: others.extend([cache.is_disabled(), square(5), square(5)]))
        thread.start()
        thread.join()
        assert cache.is_disabled()
    assert not cache.is_disabled()
    assert square.peek(3) is MISS
    assert others == [False, 25, 25]
    assert runs == [3, 3, 3, 3, 5]


def test_the_environment_disables(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """CACHEKIT_DISABLE=1 when the cache is made: functions just run."""
    monkeypatch.setenv("CACHEKIT_DISABLE", "1")
    square, runs = cached(make())
    assert [square(3), square(3)] == [9, 9]
    monkeypatch.setenv("CACHEKIT_DISABLE", "0")
    enabled, enabled_runs = cached(make())
    assert [enabled(3), enabled(3)] == [9, 9]
    assert (runs, enabled_runs) == ([3, 3], [3])


def test_the_environment_says_where_the_servers_are(target: str, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """CACHEKIT_URL serves Cache(), read at first use; a bad one is an error that reaches the caller."""
    cache = shell.around(Cache(prefix=own_prefix()))
    square, _ = cached(cache)
    monkeypatch.setenv("CACHEKIT_URL", "memcached://:bad:")
    with pytest.raises(ConfigurationError):
        square(3)
    monkeypatch.setenv("CACHEKIT_URL", target)
    assert [square(3), square(3), square.info().hits] == [9, 9, 1]
    assert ("memory:" in cache.stats().servers) is (target == "memory:")
    cache.close()


def test_configure_comes_before_the_first_use(target: str, shell: Shell) -> None:
    """configure() after decoration and before use sets servers and policy; after use it raises."""
    cache = shell.around(Cache(prefix=own_prefix()))
    square, _ = cached(cache)
    cache.configure(target, policy=Policy(ttl=77))
    square(3)
    assert square.explain(3).ttl_s == 77
    with pytest.raises(ConfigurationError, match="first use"):
        cache.configure("memcached://127.0.0.1:1")
    cache.close()
