"""What a cached function promises, whatever the servers are: calls and the verbs that stand on them."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.shells import Shell
from support.targets import Make, cached

from cachekit import MISS, Cache, Call, ConfigurationError, Key, Policy, UnkeyableError
from cachekit.expiry import every, until
from cachekit.hooks import Fill, Hit, Invalidate, Miss

# -- the verbs --------------------------------------------------------------------------------------------------------


def test_a_call_runs_once_and_is_served_from_then_on(make: Make) -> None:
    """The same call, however it is written, shares one entry; another call has its own."""
    square, runs = cached(make())
    assert [square(3), square(n=3), square(3, plus=0)] == [9, 9, 9]
    assert square(3, plus=1) == 10
    assert square(4) == 16
    assert runs == [3, 3, 4]


def test_another_process_is_served_too(make: Make, target: str) -> None:
    """The entry is in the servers: a second cache with the same prefix is served from it."""
    cache = make()
    square, runs = cached(cache)
    square(3)
    other, its_runs = cached(make(prefix=cache.prefix))
    assert other(3) == 9
    assert its_runs == ([3] if target == "memory:" else [])
    assert runs == [3]


@pytest.mark.parametrize("value", [None, 0, "", b"", [], {}, (), {"a": {1, 2}}, "text", b"\x00bytes", 3.5, True])
def test_every_result_is_a_value(make: Make, value: Any) -> None:
    """None and empty results are cached like any other, and keep their type."""
    runs = []

    @make()
    def constant() -> Any:
        runs.append(1)
        return value

    results = [constant() for _ in range(3)]
    assert results == [value] * 3
    assert {type(result) for result in results} == {type(value)}
    assert len(runs) == 1
    assert constant.peek() == value


def test_invalidate_removes_one_entry(make: Make) -> None:
    """After invalidate the call runs again; others don't."""
    square, runs = cached(make())
    square(3), square(4)
    assert square.invalidate(3) is True
    assert square.invalidate(3) is True
    square(3), square(4)
    assert runs == [3, 4, 3]


def test_invalidate_all_voids_every_entry_on_every_server(make: Make) -> None:
    """After invalidate_all no entry of the function is served by any verb; other functions keep theirs."""
    cache = make()
    square, runs = cached(cache)
    other, other_runs = cached(cache, namespace="other")
    numbers = list(range(20))
    for n in numbers:
        square(n), other(n)
    assert square.invalidate_all() is True
    assert [square.peek(n) for n in numbers] == [MISS] * 20
    assert square.explain(3).state == "invalidated"
    assert square.many([square.bind(n) for n in numbers]) == [n * n for n in numbers]
    assert [square(n) for n in numbers] == [n * n for n in numbers]
    assert [other(n) for n in numbers] == [n * n for n in numbers]
    assert sorted(runs) == sorted(numbers * 2)
    assert other_runs == numbers


def test_without_a_generation_invalidate_all_says_so(make: Make) -> None:
    """group=False saves the generation; then invalidate_all raises and names the option, and the rest works."""
    square, runs = cached(make(), policy=Policy(group=False))
    assert [square(3), square(3), square.peek(3)] == [9, 9, 9]
    assert square.explain(3).state == "fresh"
    assert square.invalidate(3)
    assert square.peek(3) is MISS
    assert runs == [3]
    with pytest.raises(ConfigurationError, match="group"):
        square.invalidate_all()


def test_refresh_runs_now_and_stores(make: Make) -> None:
    """Refresh runs whatever is stored, and later calls are served its result."""
    cache = make()
    results = iter(range(10))

    @cache
    def number() -> int:
        return next(results)

    assert [number(), number.refresh(), number(), number.refresh(), number()] == [0, 1, 1, 2, 2]
    number.invalidate()
    assert [number.refresh(), number(), number.peek()] == [3, 3, 3]


def test_a_refresh_that_fails_leaves_the_old_value(make: Make) -> None:
    """The exception reaches the caller of refresh, and what was fresh before it still is."""
    broken = threading.Event()

    @make()
    def report() -> str:
        if broken.is_set():
            raise OSError("origin is down")
        return "fine"

    report()
    broken.set()
    with pytest.raises(OSError, match="origin"):
        report.refresh()
    assert report() == "fine"


def test_peek_never_runs_and_never_takes_a_lease(make: Make) -> None:
    """Peek of nothing is MISS, and the caller after it still gets the lease."""
    square, runs = cached(make())
    assert square.peek(3) is MISS
    assert runs == []
    assert square(3) == 9
    assert square.peek(3) == 9
    info = square.info()
    assert (info.hits, info.misses, info.fills, info.waits) == (0, 1, 1, 0)


def test_key_is_what_is_on_the_wire(make: Make) -> None:
    """key() gives the exact key, prefix and function readable in it; direct verbs take it as it is."""
    cache = make()
    square, _ = cached(cache)
    key = square.key(3)
    assert isinstance(key, Key)
    assert key.startswith(cache.prefix + ":")
    assert "square" in key
    assert key == square.key(n=3, plus=0) != square.key(3, plus=1)
    square(3)
    assert square.peek(3) == 9
    assert cache.delete(key)
    assert square.peek(3) is MISS


def test_explain_tells_what_is_the_matter(make: Make) -> None:
    """Explain names state, server, age, ttl, size and format, and changes nothing."""
    cache = make()
    square, runs = cached(cache, ttl=60)
    assert square.explain(3).state == "absent"
    square(3)
    told = square.explain(3)
    assert told.state == "fresh"
    assert told.key == square.key(3)
    assert told.server in cache.stats().servers
    assert told.ttl_s == 60
    assert told.age_s is not None
    assert 0 <= told.age_s < 60
    assert told.size_bytes is not None
    assert told.size_bytes > 0
    cache.set(square.key(3), "somebody else's")
    assert square.explain(3).state == "garbage"
    assert runs == [3]
    forever, _ = cached(cache, ttl=None, version=1)
    forever(1)
    assert (forever.explain(1).state, forever.explain(1).ttl_s) == ("fresh", None)


def test_many_asks_for_all_and_runs_the_missing_ones(make: Make) -> None:
    """Many gives the results in the order of the calls, from stored values where there are some."""
    square, runs = cached(make())
    square(1), square(2)
    calls = [square.bind(n) for n in (2, 5, 1, 5)]
    assert square.many(calls) == [4, 25, 1, 25]
    assert runs == [1, 2, 5]
    assert square.many([]) == []
    assert square.many(iter([square.bind(7, plus=1)])) == [50]


def test_a_call_bound_is_a_value(make: Make) -> None:
    """Bind checks the arguments now and makes a frozen call to be made later."""
    cache = make()
    square, runs = cached(cache)
    call = square.bind(3, plus=1)
    assert isinstance(call, Call)
    assert call.key == square.key(3, plus=1)
    assert runs == []
    assert call() == 10
    with pytest.raises(TypeError):
        square.bind(3, 4)
    with pytest.raises(TypeError):
        square.bind()
    other, _ = cached(cache, version=2)
    with pytest.raises(ConfigurationError):
        square.many([other.bind(3)])
    with pytest.raises(ConfigurationError, match="made by its own bind"):
        square.many([3])


def test_uncached_is_the_function_itself(make: Make) -> None:
    """Uncached and __wrapped__ run the function and nothing else."""
    square, runs = cached(make())
    assert [square.uncached(3), square.__wrapped__(3)] == [9, 9]
    assert runs == [3, 3]
    assert square.peek(3) is MISS


def test_info_counts_what_happened(make: Make) -> None:
    """Info and stats count hits, misses, fills and time saved of each function."""
    cache = make()
    square, _ = cached(cache)
    for n in (1, 2, 1, 1):
        square(n)
    info = square.info()
    assert (info.hits, info.misses, info.fills, info.errors, info.unstored) == (2, 2, 2, 0, 0)
    assert info.hit_ratio == 0.5
    assert info in cache.stats().functions.values()


def test_hooks_hear_what_happens(make: Make) -> None:
    """Each call and invalidation is one event; a hook that raises breaks nothing."""
    cache = make()
    square, _ = cached(cache)
    events: list[Any] = []
    for event in (cache.hooks.on_hit, cache.hooks.on_miss, cache.hooks.on_fill, cache.hooks.on_invalidate):
        event(events.append)
    cache.hooks.on_fill(lambda _: 1 / 0)
    square(3), square(3), square.invalidate(3)
    assert [type(event) for event in events] == [Miss, Fill, Hit, Invalidate]
    assert events[1].stored
    assert events[3].acknowledged
    assert events[2].key == square.key(3)


# -- errors -----------------------------------------------------------------------------------------------------------


def test_what_the_function_raises_reaches_its_caller(make: Make) -> None:
    """An exception is the caller's, nothing is stored, and the next call runs at once."""
    runs = []

    @make()
    def fails(n: int) -> int:
        runs.append(n)
        raise LookupError(n)

    for _ in range(3):
        with pytest.raises(LookupError):
            fails(1)
    assert runs == [1, 1, 1]
    assert fails.peek(1) is MISS


def test_an_unkeyable_argument_is_the_callers_error(make: Make) -> None:
    """It raises with the argument's name and the ways out, and does not just run uncached."""
    square, runs = cached(make())
    with pytest.raises(UnkeyableError, match=r"'n'.*ignore=.*key="):
        square(object())
    assert runs == []


def test_a_wrong_call_is_pythons_own_error(make: Make) -> None:
    """Arguments that don't fit raise TypeError."""
    square, _ = cached(make())
    for arguments, keywords in (((), {}), ((1, 2), {}), ((1,), {"minus": 2})):
        with pytest.raises(TypeError):
            square(*arguments, **keywords)


@pytest.mark.parametrize("ttl", [-1, -0.1, "-5m", timedelta(days=-1), "soon", float("inf"), True, [], int])
def test_a_senseless_ttl_is_refused_at_decoration(shell: Shell, ttl: Any) -> None:
    """A negative or senseless ttl never gets as far as a call."""
    with pytest.raises(ConfigurationError):
        cached(shell.around(Cache("memory:")), ttl=ttl)
    with pytest.raises(ConfigurationError):
        Policy(ttl=ttl)


def test_unknown_options_are_refused_at_decoration(shell: Shell) -> None:
    """A misspelt option is an error, and so is an option's senseless value."""
    cache = shell.around(Cache("memory:"))
    with pytest.raises(ConfigurationError, match="tll=; did you mean ttl="):
        cached(cache, tll=5)
    with pytest.raises(ConfigurationError, match="policy=Policy\\(jitter="):
        cached(cache, jitter=0.1)
    with pytest.raises(ConfigurationError, match="did you mean ttl="):
        Policy(tll=5)  # type: ignore[call-arg]
    bad: list[dict[str, Any]] = [
        {"policy": {"ttl": 5}},
        {"codec": "yaml"},
        {"codec": 7},
        {"ignore": ["absent"]},
        {"key": "{absent}"},
    ]
    for options in bad:
        with pytest.raises(ConfigurationError):
            cached(cache, **options)
    fields: list[dict[str, Any]] = [{"jitter": 1}, {"jitter": -0.1}, {"lease": 0}, {"lease": "5"}, {"group": 1}]
    for field in fields:
        with pytest.raises(ConfigurationError):
            Policy(**field)


def test_what_is_no_plain_function_is_refused(shell: Shell) -> None:
    """Generators, and what can't be called, are refused at decoration, with a word about what to do."""
    cache = shell.around(Cache("memory:"))

    def generator() -> Any:
        yield 1

    async def async_generator() -> Any:
        yield 1

    class Generator:
        def __call__(self) -> Any:
            yield 1

    wrong: list[Any] = [generator, async_generator, Generator(), 7]
    for each in wrong:
        with pytest.raises(ConfigurationError):
            cache(each)


def test_names_of_any_length_fit_a_key(make: Make) -> None:
    """A function's name of more than 250 bytes is shortened; two such names stay apart."""
    cache = make()

    def named(name: str, result: int) -> Any:
        def function() -> int:
            return result

        function.__name__ = function.__qualname__ = name
        return cache(function)

    long, longer = named("a" * 300, 1), named("a" * 301, 2)
    assert [long(), longer(), long(), longer()] == [1, 2, 1, 2]
    assert max(len(long.key()), len(longer.key())) <= 250
    assert (long.info().hits, longer.info().hits) == (1, 1)
    assert long.invalidate_all()
    assert (long.peek(), longer.peek()) == (MISS, 2)


# -- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ttl", [5, 0.9, "5m", timedelta(hours=1), None, 31 * 86_400, "400d", every("1h"), lambda _: 60]
)
def test_every_form_of_a_ttl_keeps(make: Make, ttl: Any) -> None:
    """Every way to say a ttl stores; far ends too."""
    square, runs = cached(make(), ttl=ttl)
    assert [square(3), square.peek(3)] == [9, 9]
    assert runs == [3]


def test_a_ttl_of_zero_runs_and_stores_nothing(make: Make) -> None:
    """ttl=0, a callable that says 0, and a window that is over: each call runs, and the entry is not there."""
    over = until(datetime(2020, 1, 1, tzinfo=UTC))
    for ttl in (0, "0s", lambda _: 0, lambda _: -5, over):
        square, runs = cached(make(), ttl=ttl)
        assert [square(3), square(3), square.peek(3)] == [9, 9, MISS]
        assert runs == [3, 3]


def test_the_header_ends_an_entry_and_not_the_servers_clock(make: Make) -> None:
    """A ttl below a second ends on time, by the clock of the reader."""
    cache = make()
    square, runs = cached(cache, ttl=0.4)
    square(3)
    square(3)
    now = cache._env.now
    skewed, its_runs = cached(make(prefix=cache.prefix), ttl=0.4)
    assert square.peek(3) == 9
    cache._env.now = lambda: now() + 0.5
    assert square.peek(3) is MISS
    assert square.explain(3).state == "expired"
    assert runs == [3]
    assert skewed(3) == 9
    assert len(its_runs) <= 1


def test_jitter_only_shortens(make: Make) -> None:
    """With jitter the stored ttls differ, and none is longer than was asked."""
    square, _ = cached(make(), ttl=100, policy=Policy(jitter=0.5))
    ttls = set()
    for n in range(20):
        square(n)
        ttls.add(square.explain(n).ttl_s)
    assert len(ttls) > 10
    assert all(50 <= ttl <= 100 for ttl in ttls)


def test_a_schedule_stores_for_what_is_left_of_its_window(make: Make) -> None:
    """every("1h"): until the hour. A clock that jumps ends nothing: the server's tells the age (see test_schedules)."""
    cache = make()
    square, _ = cached(cache, ttl=every("1h"))
    cache.stats()  # the first use makes the clock that is set below
    cache._env.now = lambda: 3600 * 480_000 + 3000.0
    square(3)
    assert square.explain(3).ttl_s == 600
    cache._env.now = lambda: 3600 * 480_001 + 0.5
    assert square.explain(3).state == "fresh"


def test_policies_fall_through_in_order(make: Make) -> None:
    """Keyword > the decorator's policy > the cache's policy > the library, field by field."""
    cache = make(policy=Policy(ttl=30, jitter=0.0))

    def ttl_of(**options: Any) -> float | None:
        square, _ = cached(cache, **{"version": len(options) + 7 * ("ttl" in options), **options})
        square(1)
        found: float | None = square.explain(1).ttl_s
        return found

    assert ttl_of() == 30
    assert ttl_of(policy=Policy(ttl=20)) == 20
    assert ttl_of(policy=Policy(ttl=20), ttl=10) == 10
    assert ttl_of(policy=Policy(lease=5), key="{n}") == 30
    library, _ = cached(make())
    library(1)
    assert library.explain(1).ttl_s == 300
