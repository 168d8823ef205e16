"""The types of the direct verbs, of a cache itself, and of its hooks.

Checked by mypy --strict and pyright (``make types``), never run; see ``functions.py``.
"""

# ruff: noqa: D103
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import Any, assert_type

from cachekit import Cache, Near, Policy, Stats
from cachekit.hooks import Fill, Hit

cache = Cache("memory:")


def get_or_set_has_the_type_of_what_computes() -> None:
    assert_type(cache.get_or_set("n", lambda: 1), int)
    assert_type(cache.get_or_set("n", lambda: ["a"], ttl="5m"), list[str])
    assert_type(cache.get_or_set("n", float), float)
    number = cache.get_or_set("n", lambda: 1)
    number.upper()  # type: ignore[attr-defined]
    cache.get_or_set("n", 1)  # type: ignore[arg-type]
    cache.get_or_set("n")  # type: ignore[call-arg]
    cache.get_or_set(1, lambda: 1)  # type: ignore[arg-type]


def the_other_verbs() -> None:
    assert_type(cache.get("n"), Any)
    assert_type(cache.gets("n"), tuple[Any, int | None])
    assert_type(cache.set("n", 1, ttl=5), bool)
    assert_type(cache.cas("n", 1, 12345), bool)
    assert_type(cache.incr("n"), int | None)
    assert_type(cache.get_many(["a", "b"]), dict[str, Any])
    assert_type(cache.set_many({"a": 1}), list[str])
    assert_type(cache.delete_many(["a"]), list[str])
    cache.get(1)  # type: ignore[arg-type]
    cache.delete(b"n")  # type: ignore[arg-type]
    cache.incr("n", "1")  # type: ignore[arg-type]


def a_cache_and_what_it_tells() -> None:
    assert_type(cache.stats(), Stats)
    with Cache("memory:") as short_lived, short_lived.disabled():
        assert_type(short_lived, Cache)


def listeners_take_their_event() -> None:
    @cache.hooks.on_hit
    def on_hit(event: Hit) -> None:
        assert_type(event.age_s, float)

    cache.hooks.on_hit.remove(on_hit)

    def on_fill(event: Fill) -> None: ...

    cache.hooks.on_hit(on_fill)  # type: ignore[arg-type]


def near_needs_a_ttl() -> None:
    assert_type(Near(ttl="1s", entries=10), Near)
    Policy(near=Near("1s"))
    Near()  # type: ignore[call-arg]
    Near(entries=10)  # type: ignore[call-arg]
    cache(near=[1])  # type: ignore[call-overload]
