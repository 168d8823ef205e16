"""Types that survive the decorator: plain functions, and the verbs that stand on them.

Checked by mypy --strict and pyright (``make types``), never run. A ``type: ignore`` here asserts that its line is an
error: both checkers complain about one that is not needed.
"""

# ruff: noqa: D103
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, assert_type

from cachekit import MISS, Cache, CachedFunction, Call, Explanation, Info, Key, Miss, Policy

cache = Cache("memory:")


@cache
def bare(user: int, *, month: str = "2026-11") -> list[str]:
    return [month] * user


@cache()
def called(user: int, *, month: str = "2026-11") -> list[str]:
    return [month] * user


@cache(
    ttl=timedelta(minutes=5),
    key="{user}",
    ignore=("month",),
    namespace="shop",
    version="source",
    codec="json",
    policy=Policy(group=True),
)
def with_options(user: int, *, month: str = "2026-11") -> list[str]:
    return [month] * user


@cache
def without_arguments() -> int:
    return 1


@cache
def variadic(*numbers: int, **names: str) -> dict[str, int]:
    return dict.fromkeys(names, len(numbers))


@cache(ttl="5m")
def perhaps(n: int) -> str | None:
    return str(n) if n else None


def plain(n: int) -> float:
    return n / 2


by_hand = cache(plain)
by_hand_with_options = cache(ttl=60)(plain)


def every_form_keeps_the_signature() -> None:
    assert_type(bare(1), list[str])
    assert_type(bare(1, month="a"), list[str])
    assert_type(called(1, month="a"), list[str])
    assert_type(with_options(1, month="a"), list[str])
    assert_type(without_arguments(), int)
    assert_type(variadic(1, 2, a="x"), dict[str, int])
    assert_type(perhaps(1), str | None)
    assert_type(by_hand(1), float)
    assert_type(by_hand_with_options(1), float)
    assert_type(without_arguments, CachedFunction[[], int])
    assert_type(without_arguments.bind(), Call[int])


def every_form_refuses_wrong_arguments() -> None:
    bare("1")  # type: ignore[arg-type]
    bare(1, month=2)  # type: ignore[arg-type]
    bare(1, "2026-11")  # type: ignore[call-arg]
    bare()  # type: ignore[call-arg]
    bare(1, ttl=5)  # type: ignore[call-arg]
    called("1")  # type: ignore[arg-type]
    called(1, month=2)  # type: ignore[arg-type]
    with_options("1")  # type: ignore[arg-type]
    with_options(1, month=2)  # type: ignore[arg-type]
    without_arguments(1)  # type: ignore[call-arg]
    variadic("1")  # type: ignore[arg-type]
    variadic(a=1)  # type: ignore[arg-type]
    by_hand("1")  # type: ignore[arg-type]
    by_hand_with_options("1")  # type: ignore[arg-type]


def the_verbs_take_the_functions_arguments() -> None:
    assert_type(bare.invalidate(1, month="a"), bool)
    assert_type(bare.refresh(1, month="a"), list[str])
    assert_type(bare.peek(1, month="a"), list[str] | Miss)
    assert_type(bare.key(1, month="a"), Key)
    assert_type(bare.explain(1, month="a"), Explanation)
    assert_type(bare.bind(1, month="a"), Call[list[str]])
    assert_type(bare.uncached(1, month="a"), list[str])
    assert_type(bare.many([bare.bind(1), bare.bind(2, month="b")]), list[list[str]])
    assert_type(bare.many(bare.bind(n) for n in range(3)), list[list[str]])
    assert_type(bare.invalidate_all(), bool)
    assert_type(bare.info(), Info)
    assert_type(bare.info().hit_ratio, float)
    assert_type(bare.bind(1)(), list[str])
    assert_type(bare.bind(1).key, Key)
    assert_type(with_options.refresh(1), list[str])


def the_verbs_refuse_wrong_arguments() -> None:
    bare.invalidate("1")  # type: ignore[arg-type]
    bare.refresh("1")  # type: ignore[arg-type]
    bare.peek("1")  # type: ignore[arg-type]
    bare.key("1")  # type: ignore[arg-type]
    bare.explain("1")  # type: ignore[arg-type]
    bare.bind("1")  # type: ignore[arg-type]
    bare.uncached("1")  # type: ignore[arg-type]
    bare.bind()  # type: ignore[call-arg]
    bare.many([perhaps.bind(1)])  # type: ignore[list-item]
    bare.many([1])  # type: ignore[list-item]
    bare.invalidate_all(1)  # type: ignore[call-arg]


def a_miss_is_told_apart() -> None:
    found = bare.peek(1)
    if found is not MISS:
        assert_type(found, list[str])
    else:
        assert_type(found, Miss)
    maybe = perhaps.peek(1)
    assert_type(maybe, str | None | Miss)


def a_cached_function_is_a_callable() -> None:
    wants: Callable[[int], list[str]] = bare
    assert_type(wants(1), list[str])
    refuses: Callable[[str], list[str]] = bare  # type: ignore[assignment]
    refuses("1")


def options_are_checked() -> None:
    cache(shelf_life=5)  # type: ignore[call-overload]
    cache(ignore=5)  # type: ignore[call-overload]
    cache(policy="5m")  # type: ignore[call-overload]
    cache(5)  # type: ignore[call-overload]
    Cache(on_error="ignore")  # type: ignore[arg-type]


@cache
def of_a_class(kind: type[int], n: int) -> str:
    return kind.__name__ * n


@cache
def of_anything(*things: Any) -> str:
    return str(len(things))


def a_function_of_a_class_is_no_classmethod() -> None:
    assert_type(of_a_class(int, 1), str)
    assert_type(of_a_class(kind=int, n=1), str)
    assert_type(of_anything(), str)
    of_a_class(1)  # type: ignore[call-arg, arg-type]
