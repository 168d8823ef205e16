"""Tags that a function names while it runs, whatever the servers are and whoever calls."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from support.slow import waiters_on
from support.targets import Make
from support.threads import Outcome, eventually

from cachekit import MISS, Cache, ConfigurationError, Policy, current


@pytest.fixture
def cache(make: Make) -> Cache:
    """A cache in each shell, on each kind of servers."""
    return make()


class Tagged:
    """A function that bears the tag ``n:…`` and whatever else is in ``more``; its value is the number of its run.

    The first run makes the records of its tags, so that only the second is stored. With ``held`` set a run waits for
    ``go_on`` after it has looked at its source.
    """

    def __init__(self, cache: Cache, **policy: Any) -> None:
        self.runs = 0
        self.more: tuple[str, ...] = ("all",)
        self.held, self.go_on, self.started = False, threading.Event(), threading.Event()
        self.error: Exception | None = None
        self._lock = threading.Lock()

        @cache(policy=Policy(**{"ttl": 60, **policy}))
        def tagged(n: int) -> int:
            current().tag(f"n:{n}", *self.more)
            with self._lock:
                mine, self.runs = self.runs, self.runs + 1
            error = self.error
            if self.held:
                self.started.set()
                assert self.go_on.wait(20)
            if error is not None:
                raise error
            return mine

        self.call = tagged


def test_the_second_run_is_stored_and_its_tags_void_it(cache: Cache) -> None:
    """And nothing else does; each of its tags alone suffices."""
    tagged = Tagged(cache)
    assert [tagged.call(1) for _ in range(4)] == [0, 1, 1, 1]
    assert [tagged.call(2) for _ in range(3)] == [2, 3, 3]
    assert cache.invalidate_tags("n:3", "nobody")
    assert (tagged.call(1), tagged.call(2)) == (1, 3)
    assert cache.invalidate_tags("n:1")
    assert (tagged.call(1), tagged.call(2)) == (4, 3)
    assert cache.invalidate_tags("all")
    assert (tagged.call(1), tagged.call(2)) == (5, 6)
    assert (tagged.call(1), tagged.call(2)) == (5, 6)


def test_an_invalidation_while_it_runs_wins(cache: Cache) -> None:
    """The caller who ran gets his result; who calls after the invalidation never does, and nothing of it is stored."""
    tagged = Tagged(cache)
    tagged.call(1)
    tagged.held = True
    old = Outcome(tagged.call, 1)
    assert tagged.started.wait(20)
    assert cache.invalidate_tags("n:1")
    tagged.held = False
    late = Outcome(tagged.call, 1)
    assert eventually(lambda: waiters_on(cache) == 1 or tagged.runs > 2)
    tagged.go_on.set()
    assert old.result() == 1
    assert late.result() > 1
    assert tagged.call(1) > 1
    assert tagged.call.peek(1) != 1


def test_a_failure_that_is_an_answer_is_voided_while_it_runs(cache: Cache) -> None:
    """errors=: who came after the invalidation does not get the answer of a run from before it."""
    tagged = Tagged(cache, errors=(LookupError,), error_ttl=60)
    tagged.call(1)
    tagged.held, tagged.error = True, LookupError("nobody")
    old = Outcome(tagged.call, 1)
    assert tagged.started.wait(20)
    tagged.held, tagged.error = False, None
    assert cache.invalidate_tags("n:1")
    late = Outcome(tagged.call, 1)
    assert eventually(lambda: waiters_on(cache) == 1 or tagged.runs > 2)
    tagged.go_on.set()
    with pytest.raises(LookupError):
        old.result()
    assert late.result() > 1
    assert tagged.call(1) > 1


def test_a_cached_failure_bears_the_tags_of_its_run(cache: Cache) -> None:
    """It is raised again until one of them is invalidated."""
    tagged = Tagged(cache, errors=(LookupError,), error_ttl=60)
    tagged.error = LookupError("nobody")
    for _ in range(4):
        with pytest.raises(LookupError):
            tagged.call(1)
    assert tagged.runs == 2
    tagged.error = None
    assert cache.invalidate_tags("n:1")
    assert [tagged.call(1), tagged.call(1)] == [2, 2]


def test_a_soft_bump_lets_one_refresh_while_the_others_are_served(cache: Cache) -> None:
    """expire_tags reaches tags that were named in the run as well."""
    tagged = Tagged(cache, stale=60)
    assert [tagged.call(1) for _ in range(3)] == [0, 1, 1]
    assert cache.expire_tags("all")
    tagged.held = True
    refreshing = Outcome(tagged.call, 1)
    assert eventually(lambda: tagged.runs == 3)
    assert [tagged.call(1) for _ in range(3)] == [1, 1, 1]
    tagged.go_on.set()
    assert refreshing.result() == 2
    assert [tagged.call(1) for _ in range(2)] == [2, 2]


def test_a_refresh_keeps_the_tags(cache: Cache) -> None:
    """They were known before, so its result is stored at once."""
    tagged = Tagged(cache)
    assert [tagged.call(1), tagged.call(1)] == [0, 1]
    assert tagged.call.refresh(1) == 2
    assert tagged.call(1) == 2
    assert cache.invalidate_tags("all")
    assert tagged.call.peek(1) is MISS
    assert tagged.call.explain(1).state == "invalidated"
    assert tagged.call(1) == 3


def test_a_background_refresh_keeps_the_tags(cache: Cache) -> None:
    """It looks at them for itself."""
    tagged = Tagged(cache, stale=60, refresh="background")
    assert [tagged.call(1), tagged.call(1)] == [0, 1]
    assert tagged.call.expire(1)
    assert tagged.call(1) == 1
    assert eventually(lambda: tagged.call.peek(1) == 2)
    assert cache.invalidate_tags("all")
    assert tagged.call(1) == 3


def test_with_a_soft_timeout_the_new_value_is_served_when_it_comes_in_time(cache: Cache) -> None:
    """The run was begun for this very caller, so what it brings is new enough for him."""
    tagged = Tagged(cache, stale=60, soft_timeout=20)
    assert [tagged.call(1), tagged.call(1)] == [0, 1]
    assert tagged.call.expire(1)
    assert tagged.call(1) == 2


def test_a_kept_value_bears_its_tags_still(cache: Cache) -> None:
    """``not_modified``: the run names none, and the old value has its own."""
    runs: list[int] = []

    @cache(ttl=60)
    def page(n: int) -> int:
        runs.append(n)
        if current().previous is not MISS:
            return int(current().not_modified())
        current().tag("page")
        return len(runs)

    assert [page(1), page(1)] == [1, 2]
    assert page.refresh(1) == 2
    assert page(1) == 2
    assert cache.invalidate_tags("page")
    assert page(1) == 4


def test_many_entries_are_voided_by_what_each_of_them_bears(cache: Cache) -> None:
    """many(): one window for the values, one for the tags."""
    tagged = Tagged(cache)
    for n in (1, 2, 3, 1, 2, 3):
        tagged.call(n)
    assert tagged.call.many([tagged.call.bind(n) for n in (1, 2, 3)]) == [3, 4, 5]
    assert cache.invalidate_tags("n:2")
    assert tagged.call.many([tagged.call.bind(n) for n in (1, 2, 3)]) == [3, 6, 5]


def test_a_batch_names_tags_for_all_that_it_loads(cache: Cache) -> None:
    """The loader runs once for many entries, and what it says is said of each."""
    loads: list[list[int]] = []

    @cache.batch(ttl=60)
    def users(ids: list[int]) -> dict[int, int]:
        current().tag("users")
        loads.append(list(ids))
        return {each: len(loads) for each in ids}

    assert [users([1, 2])[1] for _ in range(3)] == [1, 2, 2]
    assert cache.invalidate_tags("users")
    assert users([1, 2]) == {1: 3, 2: 3}
    assert users([1, 2]) == {1: 3, 2: 3}


def test_a_plain_value_bears_no_tags(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    """get_or_set stores what other programs can read: a tag over it would void nothing, so it is not stored, and the
    log says so.
    """
    runs: list[int] = []

    def compute() -> int:
        current().tag("x")
        runs.append(1)
        return len(runs)

    with caplog.at_level(logging.WARNING, "cachekit"):
        assert [cache.get_or_set("k", compute) for _ in range(2)] == [1, 2]
    assert cache.get("k", MISS) is MISS
    assert {record.message.partition("plain value")[1] for record in caplog.records} == {"plain value"}


def test_wrong_tags_raise_where_they_are_named(cache: Cache) -> None:
    """And leave those that were named before."""
    seen: list[str] = []

    @cache(ttl=60)
    def page(n: int) -> int:
        current().tag("good")
        wrong: list[Any] = ["", 7, None, b"bytes", ["list"]]
        for each in wrong:
            with pytest.raises(ConfigurationError) as raised:
                current().tag("fine", each)
            seen.append(str(raised.value))
        with pytest.raises(ConfigurationError, match="at most 128"):
            current().tag(*[f"t{each}" for each in range(128)])
        return n

    page(1)
    assert page(1) == 1
    assert len(seen) == 10
    assert page(1) == 1
    assert len(seen) == 10
    assert cache.invalidate_tags("fine", "t7")
    page(1)
    assert len(seen) == 10
    assert cache.invalidate_tags("good")
    page(1)
    assert len(seen) == 15


def test_as_many_tags_as_may_be(cache: Cache) -> None:
    """128, and each of them counts."""
    tagged = Tagged(cache)
    tagged.more = tuple(f"tag number {each}" for each in range(127))
    assert [tagged.call(1) for _ in range(3)] == [0, 1, 1]
    assert cache.invalidate_tags("tag number 126")
    assert [tagged.call(1) for _ in range(2)] == [2, 2]


def test_outside_of_a_call_a_tag_is_harmless(cache: Cache) -> None:
    """There is no result for it to stand over; what is no tag is told all the same."""
    current().tag("x", "y")
    with pytest.raises(ConfigurationError):
        current().tag("")
    tagged = Tagged(cache)
    assert [tagged.call(1) for _ in range(3)] == [0, 1, 1]
    assert cache.invalidate_tags("x")
    assert tagged.call(1) == 1


def test_threads_of_the_function_may_name_tags(cache: Cache) -> None:
    """In a copy of its context, as ``asyncio.to_thread`` makes one."""
    import contextvars

    runs: list[int] = []

    @cache(ttl=60)
    def page(n: int) -> int:
        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(current().tag, f"thread:{each}"))
            for each in range(8)
        ]
        runs.append(n)
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        return len(runs)

    assert [page(1) for _ in range(3)] == [1, 2, 2]
    for each in range(8):
        assert cache.invalidate_tags(f"thread:{each}")
        assert page(1) == 3 + each
