"""``isolated``: the application's own cache on a server and a clock of the test's, and everything back at the end."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support.memcached import Memcached
from support.threads import Outcome

from cachekit import MISS, Cache, CachedFunction, ConfigurationError, Policy
from cachekit.testing import ManualClock, isolated, make_cache

NOWHERE = "memcached://127.0.0.1:1"


def squares(cache: Cache, **options: Any) -> CachedFunction[[int], int]:
    """A function of the application's."""

    @cache(**options)
    def square(n: int) -> int:
        return n * n

    return square


@pytest.fixture(params=["embedded", "real"])
def used(request: pytest.FixtureRequest) -> Cache:
    """A cache that has been used: ``stored`` is there."""
    url = "memory:"
    if request.param == "real":
        server: Memcached = request.getfixturevalue("fresh_server")
        url = f"memcached://{server.host}:{server.port}"
    cache = Cache(url, prefix="app")
    assert cache.set("stored", "outside")
    return cache


# -- inside ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [NOWHERE, "memory:", None])
def test_a_cache_works_whatever_its_url_says(url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never connects, and goes by the clock; ttl and prefix are the application's."""
    monkeypatch.setenv("CACHEKIT_URL", NOWHERE)
    cache = Cache(url, prefix="app")
    square = squares(cache, ttl="5m")
    with isolated(cache) as clock:
        assert (square(3), square(3), square.info().hits, square.info().errors) == (9, 9, 1, 0)
        clock.advance("5m")
        assert square.peek(3) is MISS
        assert (list(cache.stats().servers), square.key(3)[:4]) == (["memory:"], "app:")
    assert repr(cache) == "<Cache 'app' on not used yet>"


def test_the_test_brings_its_own_clock(used: Cache) -> None:
    """The one given is the one yielded, and may serve several caches."""
    clock, other = ManualClock(), Cache(NOWHERE)
    with isolated(used, clock) as one, isolated(other, clock) as two:
        assert one is two is clock
        assert used.set("key", 1, ttl=60)
        assert other.set("key", 1, ttl=60)
        clock.advance(60)
        assert (used.get("key"), other.get("key")) == (None, None)


def test_a_cache_is_empty_inside_and_as_before_after(used: Cache) -> None:
    """Neither direct verbs nor functions see a value across the border, in either direction."""
    square = squares(used)
    square(3)
    with isolated(used):
        assert (used.get("stored"), square.peek(3)) == (None, MISS)
        assert used.set("stored", "inside")
        square(3), square(4)
    assert (used.get("stored"), square.peek(3), square.peek(4)) == ("outside", 9, MISS)


def test_counts_begin_at_zero_and_come_back(used: Cache) -> None:
    """Of functions, of the direct verbs, and in ``stats``."""
    square = squares(used)
    square(3), square(3), used.get("stored")
    before = used.stats()
    with isolated(used):
        assert (square.info().hits, used.stats().direct.hits, used.stats().direct.errors) == (0, 0, 0)
        square(3), used.get("stored")
        assert (square.info().fills, used.stats().direct.misses) == (1, 1)
    after = used.stats()
    assert (after.functions, after.direct, after.servers) == (before.functions, before.direct, before.servers)
    assert (square.info().hits, square.info().fills) == (1, 1)


def test_connections_and_readers_are_the_same_after(used: Cache) -> None:
    """Nothing is opened again: what stands behind the cache is put back, and the hit path is the very same object."""
    square = squares(used)
    square(3)
    reader, fleet, row = square._read, used._fleet, list(used._fleet.shelves.rows[0])
    with isolated(used):
        square(3)
        assert (square._read is not reader, used._fleet is not fleet) == (True, True)
    assert (square._read is reader, used._fleet is fleet) == (True, True)
    assert (len(row), used._fleet.shelves.rows[0]) == (1, row)


class Shop:
    """Has cached methods of every kind, on ``cache``."""

    cache = Cache(NOWHERE)

    @cache(ignore=("self",))
    def method(self, n: int) -> int:
        """The number itself."""
        return n

    @cache
    @classmethod
    def of_class(cls, n: int) -> int:
        """The number itself."""
        return n

    @cache
    @staticmethod
    def static(n: int) -> int:
        """The number itself."""
        return n


@pytest.mark.parametrize(
    "call", [Shop().method, Shop.of_class, Shop().of_class, Shop.static], ids=lambda each: each.__name__
)
def test_every_kind_of_function_is_set_apart(call: Any) -> None:
    """Methods, class methods and static ones, also where they were bound before."""
    bound = call.bind(3)
    with isolated(Shop.cache) as clock:
        assert (call(3), call(3), call.many([bound]), call.info().hits) == (3, 3, [3], 2)
        clock.advance("5m")
        assert call.peek(3) is MISS


def test_batches_are_set_apart(used: Cache) -> None:
    """A loader of many ids, like a function of one."""
    loads: list[list[int]] = []

    @used.batch(ttl="5m")
    def prices(ids: list[int]) -> dict[int, int]:
        loads.append(ids)
        return {each: 10 * each for each in ids}

    assert prices([1, 2]) == {1: 10, 2: 20}
    with isolated(used) as clock:
        assert prices([1, 2]) == prices([1, 2]) == {1: 10, 2: 20}
        assert (len(loads), prices.info().hits) == (2, 2)
        clock.advance("5m")
        assert prices.peek([1, 2]) == {}
        assert prices([1, 3]) == {1: 10, 3: 30}
    assert prices([1, 2, 3]) == {1: 10, 2: 20, 3: 30}
    assert loads == [[1, 2], [1, 2], [1, 3], [3]]


def test_the_other_ways_in_are_set_apart(used: Cache) -> None:
    """``get_or_set``, ``refresh``, ``explain`` and ``many`` use what stands there now."""
    square = squares(used)
    square.refresh(3)
    with isolated(used) as clock:
        assert (used.get_or_set("stored", lambda: "computed"), used.get("stored")) == ("computed", "computed")
        assert square.explain(3).state == "absent"
        square.refresh(3)
        clock.advance(7)
        assert (square.explain(3).age_s, square.explain(3).server) == (7.0, "memory:")
        assert square.invalidate_all()
        assert square.many([square.bind(3)]) == [9]
        assert square.info().fills == 2
    assert (used.get("stored"), square.info().fills) == ("outside", 1)


def test_functions_decorated_inside_work_inside_and_after(used: Cache) -> None:
    """A module that is first imported by the test is one of the application's like any other."""
    with isolated(used):
        square = squares(used)
        square(3)
    assert (square.peek(3), square.info().fills) == (MISS, 0)
    assert (square(3), square(3), square.info().hits) == (9, 9, 1)
    assert [info.fills for info in used.stats().functions.values()] == [1]


def test_the_block_holds_for_other_threads(used: Cache) -> None:
    """It is the process's cache that is set apart, so what the test starts is inside too."""
    square = squares(used)
    with isolated(used):
        square(3)
        assert Outcome(lambda: square.peek(3)).result() == 9
    assert Outcome(lambda: square.peek(3)).result() is MISS


def test_a_switched_off_run_does_not_switch_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """CACHEKIT_DISABLE=1 for all tests, ``isolated`` for those about caching; ``disabled()`` still works in there."""
    monkeypatch.setenv("CACHEKIT_DISABLE", "1")
    cache = Cache(NOWHERE)
    square = squares(cache)
    with isolated(cache):
        square(3), square(3)
        with cache.disabled():
            square(3)
        assert (square.info().fills, square.info().hits) == (1, 1)
    assert (cache.is_disabled(), square(3)) == (True, 9)


# -- configuration and listeners ---------------------------------------------------------------------------------------


def test_a_factory_may_configure_inside(used: Cache) -> None:
    """Before the first use there, wherever it points; its policy holds inside, and the old one after."""
    square = squares(used)
    square(3)
    with isolated(used) as clock:
        used.configure(NOWHERE, policy=Policy(ttl=10))
        square(3)
        clock.advance(10)
        assert square.peek(3) is MISS
        with pytest.raises(ConfigurationError, match="too late"):
            used.configure(policy=Policy(ttl=20))
    assert (square.peek(3), square.explain(3).ttl_s) == (9, 300.0)
    with pytest.raises(ConfigurationError, match="too late"):
        used.configure(NOWHERE)


def test_an_unused_cache_may_be_configured_after() -> None:
    """Its use inside was no use."""
    cache = Cache(NOWHERE)
    with isolated(cache):
        cache.set("key", 1)
    cache.configure("memory:")
    assert cache.set("key", 2)


def test_the_options_of_the_url_hold_inside() -> None:
    """What is too large for the application's servers is too large for the test's."""
    cache = Cache(f"{NOWHERE}?max_value=100KiB")
    with isolated(cache):
        assert not cache.set("key", bytes(range(256)) * 500)


def test_listeners_of_the_application_hear_the_test_and_the_tests_own_go(used: Cache) -> None:
    """What was added before is told what happens inside; what was added inside is gone after."""
    before: list[Any] = []
    inside: list[Any] = []
    used.hooks.on_fill(before.append)
    square = squares(used)
    with isolated(used):
        used.hooks.on_fill(inside.append)
        square(3)
    square(3)
    assert (len(before), len(inside)) == (2, 1)


# -- the end of a block ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_ends_the_block_like_any_end(used: Cache, error: type[BaseException]) -> None:
    """It comes out, and everything is as before."""
    square = squares(used)
    square(3)
    with pytest.raises(error), isolated(used):
        used.set("stored", "inside")
        raise error
    assert (used.get("stored"), square.peek(3)) == ("outside", 9)


def test_blocks_nest(used: Cache) -> None:
    """Each has its own values, counts and clock, and finds them again after the inner one."""
    square = squares(used, ttl="5m")
    with isolated(used) as outer:
        square(3)
        with isolated(used) as inner:
            assert (square.peek(3), square.info().fills) == (MISS, 0)
            inner.advance("1h")
            square(4)
        assert (square.peek(3), square.peek(4), square.info().fills) == (9, MISS, 1)
        outer.advance("5m")
        assert square.peek(3) is MISS
    assert used.get("stored") == "outside"


def test_blocks_that_end_in_the_wrong_order_still_end(used: Cache) -> None:
    """Two threads that set the same cache apart get in each other's way, but the last one out leaves all as it was."""
    square = squares(used)
    square(3)
    one, two = isolated(used), isolated(used)
    one.__enter__()
    used.set("stored", "one")
    two.__enter__()
    used.set("stored", "two")
    one.__exit__(None, None, None)
    assert used.get("stored") == "two"
    two.__exit__(None, None, None)
    assert (used.get("stored"), square.peek(3), square.info().fills) == ("outside", 9, 1)


def test_closing_the_cache_inside_closes_nothing_outside(used: Cache) -> None:
    """An application that shuts down in a test ends the test's connections only."""
    row = list(used._fleet.shelves.rows[0])
    with isolated(used):
        used.set("key", 1)
        used.close()
    assert (used._fleet.shelves.rows[0], row[0].closed) == (row, False)


def test_background_runs_end_with_the_block(used: Cache) -> None:
    """The end waits for them, and they see the test's cache to their end."""
    fetched: list[Any] = []
    go = threading.Event()

    @used(ttl=60, stale=60, refresh="background")
    def answer() -> int:
        if go.is_set():
            fetched.append(used.get("stored"))
        return len(fetched)

    with isolated(used) as clock:
        used.set("stored", "inside", ttl=None)
        answer()
        clock.advance(60)
        go.set()
        assert answer() == 0
    assert fetched == ["inside"]


def test_a_test_cache_can_be_set_apart_too() -> None:
    """Its own clock goes on after."""
    clock = ManualClock()
    cache = make_cache(clock)
    cache.set("key", 1, ttl=60)
    with isolated(cache) as other:
        other.advance("1h")
    assert cache.get("key") == 1
    clock.advance(60)
    assert cache.get("key") is None


def test_it_decorates_a_test(used: Cache) -> None:
    """Every call is a block of its own."""

    @isolated(used)
    def stored() -> Any:
        found = used.get("stored")
        used.set("stored", "inside")
        return found

    assert (stored(), stored(), used.get("stored")) == (None, None, "outside")


def test_the_near_tier_of_a_block_goes_with_it(used: Cache) -> None:
    """A thousand tests of one application don't keep a thousand of them, with all that is in them."""
    square = squares(used, near="1h")
    hubs = []
    for _ in range(2):
        with isolated(used):
            assert [square(3), square(3), square.info().near] == [9, 9, 1]
            hubs.append(weakref.ref(used._env.near))
    for _ in range(4):
        gc.collect()  # what the first pass frees may hold the rest
    assert [hub() for hub in hubs] == [None, None]


def test_functions_that_are_gone_are_not_kept(used: Cache) -> None:
    """A cache knows its functions, but does not hold them; nor does a block that has ended."""
    square = squares(used)
    with isolated(used):
        square(3)
    known = weakref.ref(square)
    del square
    gc.collect()
    assert known() is None


class Interloper:
    """The lock of a cache, behind whose back another thread leaves a block whenever it is let go of."""

    def __init__(self, cache: Cache, leave: Callable[[], object]) -> None:
        self._lock, self._leave, self._deep = cache._lock, leave, 0

    def __enter__(self) -> None:
        self._lock.acquire()
        self._deep += 1

    def __exit__(self, *_: object) -> None:
        self._deep -= 1
        self._lock.release()
        if not self._deep:
            self._leave()


@pytest.mark.parametrize("batch", [False, True])
def test_a_call_survives_a_block_that_another_thread_leaves_meanwhile(batch: bool) -> None:
    """What it has just found goes away under its hands; it must not raise into code that only wanted a value."""
    cache = make_cache()

    @cache.batch
    def loader(ids: list[int]) -> dict[int, int]:
        return {n: n for n in ids}

    function: Any = loader._one if batch else squares(cache)

    def leave() -> None:
        function._recipe = None
        for name in ("_env", "_packer"):
            cache.__dict__.pop(name, None)

    cache._lock = Interloper(cache, leave)  # type: ignore[assignment]
    assert function._ready() is not None
    cache.__dict__.pop("_fleet", None)
    assert cache._env is not None


@pytest.mark.parametrize("wrong", ["memory:", None, Cache, lambda: None])
def test_only_a_cache_can_be_set_apart(wrong: Any) -> None:
    """Anything else is named in the error."""
    with pytest.raises(ConfigurationError, match=type(wrong).__name__), isolated(wrong):
        pass


@pytest.mark.parametrize("wrong", [5, "5m", ManualClock])
def test_only_a_manual_clock_will_do(used: Cache, wrong: Any) -> None:
    """Anything else is refused before the cache is touched."""
    with pytest.raises(ConfigurationError, match="clock="), isolated(used, wrong):
        pass
    assert used.get("stored") == "outside"
