"""Keys of the direct verbs: what goes out on the wire, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from vectors import key_samples as samples

from cachekit.errors import RequestError
from cachekit.keys import MAX_KEY_BYTES, check_prefix, wire_key
from cachekit.keys.compile import digest
from cachekit.types import Key


def test_direct_key_gets_the_prefix_unless_it_is_a_key() -> None:
    """A Key is the whole key already."""
    assert wire_key(b"shop", "user:42") == b"shop:user:42"
    assert wire_key(b"", "user:42") == b"user:42"
    assert wire_key(b"shop", Key("other:user:42")) == b"other:user:42"
    assert wire_key(b"shop", samples.Name("user")) == b"shop:user"
    assert len(wire_key(b"shop", "k" * 245)) == MAX_KEY_BYTES


@pytest.mark.parametrize("wrap", [str, Key])
@pytest.mark.parametrize(
    "bad", ["", " ", "a b", "a\r\nflush_all", "a\x00", "a\x7f", "a\t", "é", "\ud800", "k" * 251, "\u00a0"]
)
def test_keys_that_memcached_would_misread_are_refused(bad: str, wrap: type[str]) -> None:
    """Nothing that ends a command, and nothing too long, gets past wire_key."""
    with pytest.raises(RequestError):
        wire_key(b"", wrap(bad))


@pytest.mark.parametrize("bad", [b"bytes", None, 5])
def test_keys_that_are_not_text_are_refused(bad: Any) -> None:
    """A key is text."""
    with pytest.raises(RequestError, match="text"):
        wire_key(b"shop", bad)


def test_prefix_counts_into_the_limit() -> None:
    """250 bytes are meant with the prefix."""
    with pytest.raises(RequestError, match="251"):
        wire_key(b"shop", "k" * 246)


@given(st.one_of(st.text(), st.text(st.sampled_from("ab \r\n\t\0\x7f:é"), max_size=300)), st.booleans())
@example("x\r\nset pwned 0 0 1\r\n1", False)
def test_hostile_keys_never_reach_the_wire(key: str, whole: bool) -> None:
    """R10: a key is refused, or goes out as 1 to 250 bytes without spaces and control bytes, unchanged."""
    try:
        wire = wire_key(b"shop", Key(key) if whole else key)
    except RequestError:
        return
    assert re.fullmatch(rb"[!-~]{1,250}", wire)
    assert wire == (key if whole else f"shop:{key}").encode()


def test_check_prefix_gives_bytes() -> None:
    """No prefix is no prefix."""
    assert (check_prefix(""), check_prefix("shop.eu/1")) == (b"", b"shop.eu/1")


def test_digest_is_typed() -> None:
    """digest() tells types and borders apart as keys do."""
    assert len({digest(), digest(1), digest("1"), digest("a", "b"), digest("ab"), digest(("a", "b"))}) == 6
    assert re.fullmatch(rb"[\w-]{24}", digest(1))
