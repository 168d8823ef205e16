"""What a batch loader promises, whatever the servers are and whoever asks: calls and the verbs that stand on them."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
from support.targets import Make
from support.threads import Outcome, eventually

from cachekit import Cache


def loader(cache: Cache, **options: Any) -> tuple[Any, list[list[int]]]:
    """A batch loader of squares that knows numbers below 100, and the lists that it was called with."""
    runs: list[list[int]] = []

    @cache.batch(**options)
    def squares(ids: list[int], plus: int = 0) -> dict[int, int]:
        runs.append(ids)
        return {n: n * n + plus for n in ids if n < 100}

    return squares, runs


# -- the call, on every kind of server --------------------------------------------------------------------------------


def test_a_call_gives_each_id_once_in_the_order_of_the_asking(make: Make) -> None:
    """The loader is asked once for the distinct ids that are missing; what it leaves out is not in the dict."""
    squares, runs = loader(make())
    assert list(squares([3, 1, 3, 900]).items()) == [(3, 9), (1, 1)]
    assert list(squares([900, 2, 1, 2]).items()) == [(2, 4), (1, 1)]
    assert runs == [[3, 1, 900], [2]]
    info = squares.info()
    assert (info.hits, info.misses, info.fills) == (2, 4, 2)


def test_a_row_is_as_long_as_the_ids(make: Make) -> None:
    """Order and duplicates kept, a default where there is nothing."""
    squares, runs = loader(make())
    assert squares.list([3, 900, 3, 1]) == [9, None, 9, 1]
    assert squares.list([900, 1], default=0) == [0, 1]
    assert runs == [[3, 900, 1]]


def test_further_arguments_are_common_to_the_batch_and_enter_each_key(make: Make) -> None:
    """By position, by name or by default: as Python binds them."""
    squares, runs = loader(make())
    assert squares([1, 2], 5) == {1: 6, 2: 9}
    assert squares([2, 3], plus=5) == {2: 9, 3: 14}
    assert squares([2]) == squares([2], 0) == {2: 4}
    assert runs == [[1, 2], [3], [2]]
    assert squares.key(2) == squares.key(2, plus=0) != squares.key(2, 5)


def test_no_ids_ask_nobody(make: Make) -> None:
    """Neither the loader nor a server."""
    squares, runs = loader(make())
    assert (squares([]), squares.list(()), squares.peek(iter(())), squares.refresh([])) == ({}, [], {}, {})
    assert squares.invalidate([]) is squares.expire([]) is True
    assert runs == []


def test_none_is_a_value(make: Make) -> None:
    """An id whose value is None exists."""
    runs: list[int] = []

    @make().batch
    def nothing(ids: list[int]) -> dict[int, None]:
        runs.extend(ids)
        return dict.fromkeys(ids)

    assert nothing([1]) == nothing([1]) == {1: None}
    assert runs == [1]


def test_ten_thousand_ids_in_one_call(make: Make) -> None:
    """They go out in bounded windows, one loader call for all."""
    cache = make()
    runs: list[int] = []

    @cache.batch
    def doubles(ids: list[int]) -> dict[int, int]:
        runs.append(len(ids))
        return {n: 2 * n for n in ids}

    wanted = range(10_000)
    assert doubles(wanted) == doubles(wanted) == {n: 2 * n for n in wanted}
    assert runs == [10_000]
    assert doubles.info().hits == 10_000


def test_the_verbs_are_about_the_ids_that_are_given(make: Make) -> None:
    """Each goes out in one window, and says True once all servers concerned have acknowledged."""
    squares, runs = loader(make(), stale="1m", ttl="1m")
    squares([1, 2, 3, 900])
    assert squares.peek([3, 900, 1, 7]) == {3: 9, 1: 1}
    assert squares.invalidate([1, 900, 7]) is True
    assert squares.peek([1, 2, 3]) == {2: 4, 3: 9}
    assert squares([1, 2, 3]) == {1: 1, 2: 4, 3: 9}
    assert squares.expire([2, 3]) is True
    assert squares.peek([2, 3]) == {2: 4, 3: 9}
    assert squares([1, 2, 3]) == {1: 1, 2: 4, 3: 9}
    assert squares.refresh([2, 900]) == {2: 4}
    assert squares.invalidate_all() is True
    assert squares.peek([1, 2, 3]) == {}
    assert runs == [[1, 2, 3, 900], [1], [2, 3], [2, 900]]


def test_an_invalidation_during_the_load_wins(make: Make) -> None:
    """The caller gets what was loaded, and the entry of that id is not stored."""
    cache, runs = make(), []

    @cache.batch
    def racing(ids: list[int]) -> dict[int, int]:
        runs.append(ids)
        if len(runs) == 1:
            racing.invalidate([1])
        return {n: n for n in ids}

    assert racing([1, 2]) == {1: 1, 2: 2}
    racing([1, 2])
    assert runs == [[1, 2], [1]]


def test_overlapping_batches_of_threads_share_their_runs(make: Make) -> None:
    """Who comes second loads only what nobody loads, and gets copies of the other's values."""
    cache = make()
    runs: list[list[int]] = []
    loading, go_on = threading.Event(), threading.Event()

    @cache.batch
    def rows(ids: list[int]) -> dict[int, list[int]]:
        runs.append(ids)
        if 1 in ids:
            loading.set()
            assert go_on.wait(20)
        return {n: [n] for n in ids if n != 4}

    first = Outcome(rows, [1, 2, 4])
    assert loading.wait(20)
    second = Outcome(rows, [2, 3, 4])
    assert eventually(lambda: len(runs) == 2 and 3 in rows.peek([3])), "the second stores its own before it waits"
    go_on.set()
    assert first.result() == {1: [1], 2: [2]}
    assert second.result() == {2: [2], 3: [3]}
    assert runs == [[1, 2, 4], [3]]
    assert second.value[2] is not first.value[2]
    assert rows.info().waits == 2


def test_batches_that_overlap_crosswise_end(make: Make) -> None:
    """Each has loaded some of what the other needs."""
    cache = make()
    barrier = threading.Barrier(2)

    @cache.batch
    def rows(ids: list[int]) -> dict[int, int]:
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(0.3)
        return {n: n for n in ids}

    outcomes = [Outcome(rows, ids) for ids in (list(range(40)), list(range(39, -1, -1)))]
    for outcome in outcomes:
        assert outcome.result() == {n: n for n in range(40)}


def test_a_batch_inside_its_own_load_runs_bare(make: Make) -> None:
    """A loader that calls itself for the same ids must not wait for itself."""
    cache = make()
    depth: list[int] = []

    @cache.batch
    def tree(ids: list[int]) -> dict[int, int]:
        depth.append(len(ids))
        return {n: n for n in ids} if len(depth) > 1 else dict(tree([*ids, 9]))

    assert tree([1, 2]) == {1: 1, 2: 2}
    assert depth == [2, 3]


def test_when_the_loader_fails_the_caller_hears_of_it_and_the_next_one_loads(make: Make) -> None:
    """No lease is left behind."""
    cache, runs = make(), []

    @cache.batch
    def failing(ids: list[int]) -> dict[int, int]:
        runs.append(ids)
        if len(runs) == 1:
            raise LookupError("no database")
        return {n: n for n in ids}

    with pytest.raises(LookupError, match="no database"):
        failing([1, 2, 3])
    assert failing([1, 2, 3]) == {1: 1, 2: 2, 3: 3}
    assert len(runs) == 2


def test_in_the_background_old_values_are_served(make: Make) -> None:
    """Of a loader that is due: at once, and one run brings the new ones."""
    cache, runs = make(), []

    @cache.batch(ttl="1h", stale="1h", refresh="background")
    def versions(ids: list[int]) -> dict[int, int]:
        runs.append(ids)
        return dict.fromkeys(ids, len(runs))

    assert versions([1, 2]) == {1: 1, 2: 1}
    assert versions.expire([1, 2])
    assert versions([1, 2]) == {1: 1, 2: 1}
    assert eventually(lambda: versions.peek([1, 2]) == {1: 2, 2: 2})
    assert runs == [[1, 2], [1, 2]]
