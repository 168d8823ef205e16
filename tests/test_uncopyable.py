"""What can't be copied is never shared, and no keyword is taken out of the user's call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.memcached import Memcached

from cachekit import Cache, RequestError


@pytest.fixture(params=["embedded", "real"])
def cache(request: pytest.FixtureRequest, fresh_server: Memcached) -> Iterator[Cache]:
    """A cache of either kind."""
    url = "memory:" if request.param == "embedded" else f"memcached://{fresh_server.host}:{fresh_server.port}"
    with Cache(url) as made:
        yield made


def at_once(call: Callable[[], Any], threads: int = 4) -> list[Any]:
    """What ``call`` returns to threads that make it at the same time."""
    barrier = threading.Barrier(threads)
    results: list[Any] = []

    def run() -> None:
        barrier.wait(10)
        results.append(call())

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(30)
    return results


@pytest.mark.parametrize("verb", ["function", "get_or_set"])
def test_an_iterator_is_nobodys_but_its_callers(cache: Cache, verb: str) -> None:
    """An iterator can be read once: four callers get four of them, each whole."""
    gate = threading.Event()

    def numbers() -> Iterator[int]:
        gate.wait(0.2)
        return iter([1, 2, 3])

    cached = cache(ttl=60)(numbers)
    call = cached if verb == "function" else (lambda: cache.get_or_set("numbers", numbers))
    assert [list(result) for result in at_once(call)] == [[1, 2, 3]] * 4


def test_an_object_without_a_codec_is_each_callers_own(cache: Cache) -> None:
    """Four callers that wait for one run never hold one mutable object."""

    class Basket:
        def __init__(self) -> None:
            self.items: list[int] = []

    @cache(ttl=60)
    def basket() -> Any:
        threading.Event().wait(0.1)
        return Basket()

    assert len({id(each) for each in at_once(basket)}) == 4


def test_every_keyword_is_the_users() -> None:
    """``self``, ``key``, ``args`` and the like reach the function, from each verb."""

    @Cache("memory:")
    def function(x: int, **more: int) -> dict[str, int]:
        return {"x": x, **more}

    keywords = dict.fromkeys(("self", "args", "kwargs", "key", "function", "ttl", "owner", "instance", "job", "env"), 1)
    assert function(1, **keywords) == {"x": 1, **keywords}
    assert function.key(1, **keywords) == function.bind(1, **keywords).key
    assert function.peek(1, **keywords) == function.refresh(1, **keywords)
    assert function.explain(1, **keywords).state == "fresh"
    assert function.many([function.bind(1, **keywords)]) == [{"x": 1, **keywords}]
    assert function.invalidate(1, **keywords)


def test_one_text_is_not_many_keys() -> None:
    """A lone text is an iterable of letters, and nobody means those."""
    cache = Cache("memory:")
    for verb in (cache.get_many, cache.delete_many):
        with pytest.raises(RequestError, match="not one text"):
            verb("abc")
