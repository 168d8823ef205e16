"""What holds of the near tier, whatever the servers are and whoever calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.apart import as_another_process
from support.slow import Source
from support.targets import Make
from support.threads import Outcome, eventually

from cachekit import Cache, Near, Policy, current
from cachekit.hooks import Hit

LONG = Near(ttl="1h")
"""What is gone sooner was dropped."""


@pytest.fixture
def cache(make: Make) -> Cache:
    """A cache in each shell, on each kind of servers."""
    return make()


class Counted:
    """A function with a near tier whose result tells which of its runs made it."""

    def __init__(self, cache: Cache, **options: Any) -> None:
        self.runs = 0
        self.cache = cache
        lock = threading.Lock()

        @cache(**{"ttl": "1h", "near": LONG, "tags": ["item:{n}"], "namespace": "shop", **options})
        def item(n: int, part: Any = None) -> Any:
            with lock:
                self.runs += 1
            return f"run {self.runs}"

        self.call = item


def test_a_second_call_is_answered_here(cache: Cache) -> None:
    """It counts as a hit, and says that it was near."""
    item = Counted(cache)
    hits: list[Hit] = []
    assert [item.call(1) for _ in range(4)] == ["run 1"] * 4
    info = item.call.info()
    assert (info.hits, info.near, info.misses, info.fills) == (3, 3, 1, 1)
    assert cache.stats().functions[item.call._keys.name].near == 3
    cache.hooks.on_hit(hits.append)
    assert item.call(1) == "run 1"
    (hit,) = hits
    server = cache.server_of(item.call.key(1))
    assert (hit.near, hit.stale, hit.key, hit.server) == (True, False, item.call.key(1), server)
    assert 0.0 <= hit.age_s < 60.0


def test_a_value_that_was_read_is_kept_as_one_that_was_computed(cache: Cache) -> None:
    """The first call after it was dropped reads, the next one need not."""
    item = Counted(cache)
    item.call(1)
    cache._env.near.touch_all()  # type: ignore[union-attr]
    assert [item.call(1) for _ in range(3)] == ["run 1"] * 3
    assert (item.call.info().hits, item.call.info().near) == (3, 2)


VERBS: dict[str, Callable[[Counted], Any]] = {
    "invalidate": lambda item: item.call.invalidate(1),
    "expire": lambda item: item.call.expire(1),
    "invalidate_all": lambda item: item.call.invalidate_all(),
    "expire_all": lambda item: item.call.expire_all(),
    "invalidate_tags": lambda item: item.cache.invalidate_tags("item:1"),
    "expire_tags": lambda item: item.cache.expire_tags("item:1"),
    "invalidate_namespace": lambda item: item.cache.invalidate_namespace("shop"),
    "delete": lambda item: item.cache.delete(item.call.key(1)),
    "delete_many": lambda item: item.cache.delete_many([item.call.key(1)]) == [],
}


@pytest.mark.parametrize("verb", VERBS)
def test_what_this_process_invalidates_is_gone_at_once(cache: Cache, verb: str) -> None:
    """By whichever verb."""
    item = Counted(cache)
    assert [item.call(1), item.call(1)] == ["run 1"] * 2
    assert VERBS[verb](item)
    assert [item.call(1), item.call(1)] == ["run 2"] * 2


def test_refresh_replaces_what_is_kept(cache: Cache) -> None:
    """The next call has what refresh() returned."""
    item = Counted(cache)
    item.call(1)
    assert [item.call.refresh(1), item.call(1), item.call(1)] == ["run 2"] * 3
    assert item.call.info().near == 2


@pytest.mark.parametrize("near", [LONG, None], ids=["near", "plain"])
def test_what_was_read_while_refresh_ran_does_not_outlive_it(cache: Cache, near: Near | None) -> None:
    """It is the old value. Also where it was another decoration of the same function that was refreshed."""
    source = Source(cache, ttl=60, near=LONG)
    assert source.call(1) == 0
    refreshed = source.call if near else cache(ttl=60, near=None)(source.call.uncached)
    source.shut()
    refreshing = Outcome(refreshed.refresh, 1)
    assert eventually(lambda: source.runs == 2)
    assert [source.call(1), source.call(1)] == [0, 0]
    source.open.set()
    assert refreshing.result() == 1
    assert [source.call(1), source.call(1)] == [1, 1]


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("delete", "delete_many")])
def test_a_run_under_way_does_not_bring_the_old_value_back(cache: Cache, verb: str) -> None:
    """It began before the invalidation: its caller gets what it returned, and nobody after him does."""
    started, go_on = threading.Event(), threading.Event()
    go_on.set()
    item = Counted(cache)
    runs: list[int] = []

    @cache(ttl="1h", near=LONG, tags=["item:{n}"], namespace="shop")
    def slow(n: int) -> int:
        runs.append(n)
        mine = len(runs)
        started.set()
        assert go_on.wait(20)
        return mine

    item.call = slow
    go_on.clear()
    filling = Outcome(slow, 1)
    assert started.wait(20)
    VERBS[verb](item)
    go_on.set()
    assert filling.result() == 1
    assert [slow(1), slow(1)] == [2, 2]


def test_one_run_for_all_who_find_nothing(cache: Cache) -> None:
    """Single flight, as without it."""
    source = Source(cache, ttl=60, near=LONG)
    source.shut()
    callers = [Outcome(source.call, 1) for _ in range(8)]
    assert eventually(lambda: source.runs == 1)
    source.open.set()
    assert [caller.result() for caller in callers] == [0] * 8
    assert source.call(1) == 0
    assert source.runs == 1


def test_nobody_can_change_a_value_under_anothers_feet(cache: Cache) -> None:
    """Each caller has a list of his own, the one whose run it was too."""

    @cache(near=LONG)
    def basket(n: int) -> dict[str, list[int]]:
        return {"items": [n]}

    for _ in range(4):
        mine = basket(1)
        assert mine == {"items": [1]}
        mine["items"].append(2)
    assert basket.info().near == 3


def test_a_failure_is_not_kept_here(cache: Cache) -> None:
    """It is cached where the policy says so, and asked for every time."""

    @cache(near=LONG, policy=Policy(errors=(LookupError,), error_ttl=60))
    def missing(n: int) -> int:
        raise LookupError(n)

    for _ in range(3):
        with pytest.raises(LookupError):
            missing(1)
    assert (missing.info().fills, missing.info().hits, missing.info().near) == (1, 2, 0)


def test_a_result_that_is_not_stored_is_not_kept(cache: Cache) -> None:
    """Neither it nor the marker that stands for it."""

    @cache(near=LONG)
    def never(n: int) -> int:
        current().do_not_store()
        return n

    assert [never(1) for _ in range(3)] == [1, 1, 1]
    assert (never.info().fills, never.info().near) == (3, 0)


def test_a_stale_value_is_not_kept(cache: Cache) -> None:
    """It is served while somebody refreshes it, and not for longer."""
    source = Source(cache, ttl=60, stale=30, near=LONG)
    assert [source.call(1), source.call(1)] == [0, 0]
    assert source.call.expire(1)
    source.shut()
    refreshing = Outcome(source.call, 1)
    assert eventually(lambda: source.runs == 2)
    assert [source.call(1) for _ in range(3)] == [0] * 3
    assert source.call.info().near == 1
    source.open.set()
    assert refreshing.result() == 1
    assert [source.call(1), source.call(1)] == [1, 1]


def test_inside_of_another_run_the_servers_are_asked(cache: Cache) -> None:
    """What the outer function computes is stored for its ttl, and must not be as old as this tier may be."""
    item = Counted(cache)

    @cache(ttl="1h")
    def outer(n: int) -> Any:
        return [item.call(n), item.call(n)]

    assert [item.call(1), item.call(1)] == ["run 1"] * 2
    assert outer(1) == ["run 1", "run 1"]
    assert (item.call.info().hits, item.call.info().near) == (3, 1)
    assert item.call.invalidate(1)
    assert [outer.refresh(1), item.call(1)] == [["run 2", "run 2"], "run 2"]


def test_what_a_call_inside_stood_under_reaches_a_near_value_too(cache: Cache) -> None:
    """A bump of the inner function's tag ends the outer one's value here as well, at once."""
    item = Counted(cache)

    @cache(ttl="1h", near=LONG)
    def outer(n: int) -> Any:
        return [item.call(n)]

    assert [outer(1), outer(1)] == [["run 1"]] * 2
    assert outer.info().near == 1
    assert cache.invalidate_tags("item:1")
    assert [outer(1), outer(1)] == [["run 2"]] * 2


def test_so_does_a_tag_that_is_named_while_it_runs(cache: Cache) -> None:
    """Once it has been there for longer than the run; until then the result is not kept at all."""
    runs: list[int] = []

    @cache(ttl="1h", near=LONG)
    def named(n: int) -> int:
        current().tag("named:1")
        runs.append(n)
        return len(runs)

    def settled() -> bool:
        before = len(runs)
        named(1)
        return len(runs) == before

    assert eventually(settled)
    now = named(1)
    assert [named(1), named(1)] == [now] * 2
    assert named.info().near > 0
    assert cache.invalidate_tags("named:1")
    assert named(1) == now + 1


DIFFERENT = [1, True, 1.0, "1", b"1", 0, False, 0.0, -0.0, None, "None", "", b"", (1,), (True,), float("inf")]


def test_arguments_of_different_types_are_different_calls(cache: Cache) -> None:
    """As on the wire: 1, 1.0 and True, text and bytes, 0.0 and -0.0; also where they are found by the short way."""
    item = Counted(cache)
    results = [item.call(1, part) for part in DIFFERENT]
    assert len(set(results)) == len(DIFFERENT)
    for _ in range(3):
        assert [item.call(1, part) for part in DIFFERENT] == results
    assert item.runs == len(DIFFERENT)
    assert item.call.info().near == 3 * len(DIFFERENT)


def test_nan_is_one_call(cache: Cache) -> None:
    """As on the wire, where all of them are one."""
    item = Counted(cache)
    assert [item.call(1, float("nan")) for _ in range(3)] == ["run 1"] * 3
    assert item.call.info().near == 2


def test_many_and_single_calls_agree(cache: Cache) -> None:
    """What many() brings replaces what was kept."""
    item = Counted(cache)
    assert item.call(1) == "run 1"
    assert item.call.many([item.call.bind(1), item.call.bind(2)]) == ["run 1", "run 2"]
    assert item.call.invalidate(2)
    assert item.call.many([item.call.bind(1), item.call.bind(2)]) == ["run 1", "run 3"]
    assert [item.call(1), item.call(2)] == ["run 1", "run 3"]


@pytest.mark.parametrize("look", ["many", "peek"])
def test_what_another_verb_has_seen_is_not_gone_back_behind(make: Make, look: str) -> None:
    """Somebody else has stored a new value: once this process has seen it, by whichever verb, calls serve it too."""
    cache = make()
    elsewhere = as_another_process(make(prefix=cache.prefix))
    if cache.stats().embedded is not None:
        return  # it belongs to one cache
    item = Counted(cache)
    assert [item.call(1), item.call(1)] == ["run 1"] * 2
    twin = elsewhere(ttl="1h", tags=["item:{n}"], namespace="shop")(item.call.uncached)
    assert twin.refresh(1) == "run 2"
    assert item.call(1) == "run 1"
    seen = item.call.many([item.call.bind(1)])[0] if look == "many" else item.call.peek(1)
    assert [seen, item.call(1)] == ["run 2"] * 2


def test_a_failure_that_is_an_answer_is_not_gone_back_behind(make: Make) -> None:
    """Once this process has computed or read one, near calls don't serve the value before it."""
    cache = make()
    gone = False

    @cache(ttl="1h", near=LONG, policy=Policy(errors=(LookupError,), error_ttl=60))
    def item(n: int) -> str:
        if gone:
            raise LookupError(n)
        return "there"

    @cache(ttl="1h")
    def page(n: int, part: int) -> Any:
        return item(n)

    def seen(call: Callable[..., Any], *args: int) -> str:
        try:
            return str(call(*args))
        except LookupError:
            return "gone"

    elsewhere = as_another_process(make(prefix=cache.prefix))
    if cache.stats().embedded is not None:
        return  # it belongs to one cache
    assert [item(1), item(1), item(2), item(2)] == ["there"] * 4
    gone = True
    assert elsewhere.delete(item.key(1)) is True
    assert elsewhere.delete(item.key(2)) is True
    assert [seen(page, 1, 1), seen(item, 1)] == ["gone", "gone"]
    twin = elsewhere(ttl="1h", policy=Policy(errors=(LookupError,), error_ttl=60))(item.uncached)
    assert [twin.key(2) == item.key(2), seen(twin, 2)] == [True, "gone"]
    assert [seen(page, 2, 2), seen(item, 2)] == ["gone", "gone"]


@pytest.mark.parametrize("many", [False, True])
def test_what_is_stored_over_an_entry_is_no_more_kept(cache: Cache, many: bool) -> None:
    """``set`` removes what was there, with a ttl of 0 altogether: calls of this process see it at once."""
    item = Counted(cache)
    assert [item.call(1), item.call(1)] == ["run 1"] * 2
    for ttl, run in ((0, "run 2"), (60, "run 3")):
        key = item.call.key(1)
        assert (cache.set_many({key: "x"}, ttl) == []) if many else cache.set(key, "x", ttl)
        assert [item.call(1), item.call(1)] == [run] * 2


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_peek_keeps_nothing(make: Make, elsewhere: bool) -> None:
    """It can't see that an entry was invalidated softly: the next call asks the server, and refreshes it."""
    cache = make()
    item = Counted(cache, stale="1h")
    other = as_another_process(make(prefix=cache.prefix)) if elsewhere else cache
    if elsewhere and cache.stats().embedded is not None:
        return  # it belongs to one cache
    assert [item.call(1), item.call(1)] == ["run 1"] * 2
    twin = other(ttl="1h", stale="1h", tags=["item:{n}"], namespace="shop")(item.call.uncached)
    assert twin.expire(1) is True
    assert item.call.peek(1) == "run 1"
    assert item.call(1) == "run 2"


def test_a_loader_asks_for_what_is_not_kept(cache: Cache) -> None:
    """Ids that are near are not asked for, absent ones neither; each is invalidated by itself."""
    loads: list[list[int]] = []

    @cache.batch(ttl="1h", near=LONG, tags=["item:{ids}"])
    def items(ids: list[int]) -> dict[int, list[int]]:
        loads.append(ids)
        return {each: [each, len(loads)] for each in ids if each < 100}

    assert items([1, 2, 999]) == {1: [1, 1], 2: [2, 1]}
    assert items([1, 2, 3, 999]) == {1: [1, 1], 2: [2, 1], 3: [3, 2]}
    assert items([3, 1]) == {3: [3, 2], 1: [1, 1]}
    assert (loads, items.info().near, items.info().hits) == ([[1, 2, 999], [3]], 5, 5)
    items([1])[1].append(5)
    assert items.invalidate([2])
    assert items([1, 2]) == {1: [1, 1], 2: [2, 3]}
    assert items.refresh([1]) == items([1]) == {1: [1, 4]}
    assert cache.invalidate_tags("item:3")
    assert items.list([3, 1, 999]) == [[3, 5], [1, 4], None]
    assert items.invalidate_all()
    assert items([1, 2]) == {1: [1, 6], 2: [2, 6]}
    cache._env.near.touch_all()  # type: ignore[union-attr]
    before = items.info().near
    assert [items([1, 2]), items([1, 2])] == [{1: [1, 6], 2: [2, 6]}] * 2
    assert items.info().near == before + 2


def test_switched_off_the_function_just_runs(cache: Cache) -> None:
    """Nothing is looked for, nothing kept."""
    item = Counted(cache)
    item.call(1)
    item.call(1)
    with cache.disabled():
        assert [item.call(1), item.call(1, 2.5), item.call(1, (3,))] == ["run 2", "run 3", "run 4"]
    assert item.call(1) == "run 1"
