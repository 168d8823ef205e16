"""current(): harmless everywhere, and the innermost call where there is one."""

from __future__ import annotations

import threading

from cachekit import Cache, Key, current


def test_outside_it_is_a_harmless_nothing() -> None:
    """Code that asks need not know whether it is cached."""
    assert not current()
    assert current().key is None
    assert repr(current()) == "<current: not inside a cached call>"


def test_inside_it_names_the_innermost_call_of_this_thread() -> None:
    """Nested calls, uncached calls and other threads each see their own."""
    cache = Cache("memory:")
    seen: list[Key | None] = []

    def look() -> None:
        seen.append(current().key)

    @cache
    def inner(n: int) -> int:
        look()
        return n

    @cache
    def outer(n: int) -> int:
        look()
        inner(n)
        look()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return n

    outer(1)
    assert seen == [outer.key(1), inner.key(1), outer.key(1), None]
    outer.uncached(2)
    assert seen[4:] == [None, inner.key(2), None, None]
    assert not current()
