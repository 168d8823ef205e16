"""Tags and namespaces: what they may be, and the keys of their records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tags import Kind, Loud, bears, refused, report

from cachekit import MISS, Cache, ConfigurationError, Policy, current
from cachekit.keys.compile import compile_keys
from cachekit.keys.tags import MAX_TAGS, checked_tag, checked_tags, namespace_key, tag_key, tag_keys
from cachekit.keys.wire import MAX_PREFIX_BYTES
from cachekit.meta import check_key

PREFIX = b"shop"
TEXTS = (
    st.text(min_size=1) | st.text("a%=~: é", min_size=1) | st.text(st.characters(categories=["Cs", "Cc"]), min_size=1)
)


# -- the records' keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "key"),
    [
        ("user:42", b"shop:tag=user:42"),
        ("a=b~c/d?e", b"shop:tag=a=b~c/d?e"),
        ("~", b"shop:tag=~"),
        ("x" * 100, b"shop:tag=" + b"x" * 100),
    ],
)
def test_a_plain_tag_is_read_in_its_key(tag: str, key: bytes) -> None:
    """A person who lists a server sees which tag a record stands for."""
    assert tag_key(PREFIX, tag) == key
    assert tag_key(b"", tag) == key.removeprefix(b"shop:")


@pytest.mark.parametrize(
    "tag", ["two words", "café", "100%", "x" * 101, "line\r\nflush_all\r\n", "\x00", "\ud800", "\x7f"]
)
def test_any_other_tag_is_shown_as_far_as_that_goes(tag: str) -> None:
    """Encoded and cut, with a digest behind it; nothing of it reaches the wire as it is."""
    key = tag_key(PREFIX, tag)
    assert check_key(key) == key
    assert key.startswith(b"shop:tag~")
    assert len(key) <= len(b"shop:tag~") + 72 + 1 + 24
    assert tag_key(PREFIX, "café").startswith(b"shop:tag~caf%C3%A9:")


@given(st.lists(st.tuples(st.sampled_from(["tag", "namespace"]), TEXTS), unique=True, max_size=20))
def test_no_two_tags_or_namespaces_share_a_record(named: list[tuple[str, str]]) -> None:
    """Kind and text, whatever the text is: as many keys as there are of them, each of which a server takes."""
    keys = [(tag_key if kind == "tag" else namespace_key)(PREFIX, text) for kind, text in named]
    assert len(set(keys)) == len(named)
    assert all(check_key(key) == key for key in keys)


@given(TEXTS)
def test_a_text_can_not_be_written_so_as_to_be_anothers_record(text: str) -> None:
    """Not by what another's key looks like: neither the encoded form nor its digest is taken for what it shows."""
    key = tag_key(b"", text).decode()
    assert tag_key(b"", key) != tag_key(b"", text)
    assert tag_key(b"", key.partition("=")[2] or key) == tag_key(b"", text) or key.startswith("tag~")
    assert namespace_key(b"", text) != tag_key(b"", text)


@given(st.text(min_size=1) | st.text("é", min_size=60))
def test_the_longest_prefix_leaves_room_for_every_tag(text: str) -> None:
    """Keys have at most 250 bytes."""
    prefix = b"p" * MAX_PREFIX_BYTES
    assert len(tag_key(prefix, text)) <= 250
    assert len(namespace_key(prefix, text)) <= 250


def test_a_record_is_no_entrys_key() -> None:
    """A function's name has no = and no ~ in it; two prefixes share nothing, and neither do the two kinds."""
    maker = compile_keys(report, prefix="shop", namespace="tag", tags=["x"])
    assert not maker.make(1).startswith((b"shop:tag=", b"shop:tag~", b"shop:namespace="))
    assert not maker.generation.startswith((b"shop:tag=", b"shop:tag~", b"shop:namespace="))
    assert maker.namespace == b"shop:namespace=tag" != namespace_key(b"shop2", "tag")
    assert tag_key(b"shop", "a") != tag_key(b"shop2", "a")


def test_a_direct_key_of_that_form_is_the_record_and_can_only_void() -> None:
    """The one way to touch a record by hand: whatever is done to it, what it stands over is computed again."""
    cache = Cache("memory:", prefix="shop")
    runs: list[int] = []

    @cache(tags=["user:{n}"], policy=Policy(group=False))
    def square(n: int) -> int:
        runs.append(n)
        return n * n

    for value in ("text", 7, b"", b"1 2 3", None):
        square(3), square(3)
        cache.set("tag=user:3", value)
        square(3)
    square(3)
    cache.delete("tag=user:3")
    square(3)
    assert len(runs) == 7


# -- what a tag may be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", [None, 42, b"user:42", 1.5, ["user:42"], ("user:42",), {"user:42"}, object()])
def test_a_tag_is_text(tag: Any) -> None:
    """Nothing is turned into text: 42 and "42" are no two ways to write one tag. In every verb alike."""
    cache = Cache("memory:")
    for verb in (cache.invalidate_tags, cache.expire_tags):
        with pytest.raises(ConfigurationError, match=f"a tag is text, not {type(tag).__name__}"):
            verb("fine", tag)
    with pytest.raises(ConfigurationError, match="a tag is text"):
        checked_tags([tag])
    assert issubclass(ConfigurationError, ValueError)


def test_a_tag_is_not_empty() -> None:
    """It would stand for nothing."""
    with pytest.raises(ConfigurationError, match="a tag can't be empty"):
        checked_tag("")
    with pytest.raises(ConfigurationError, match="can't be empty"):
        Cache("memory:").invalidate_tags("a", "")
    assert "can't be empty" in refused(report, ["a", ""])


@pytest.mark.parametrize("namespace", [None, 7, b"fr", "", ["fr"], {"fr"}])
def test_a_namespace_is_text(namespace: Any) -> None:
    """And not empty, for the verbs about one; neither is it hashed before that is known."""
    cache = Cache("memory:")
    for verb in (cache.invalidate_namespace, cache.expire_namespace):
        with pytest.raises(ConfigurationError, match=r"a namespace (is text, not \w+ \(|can't be empty)"):
            verb(namespace)


def test_tags_in_a_list_are_told_apart() -> None:
    """Who hands over a list where tags are given one by one is told what to write."""
    with pytest.raises(ConfigurationError, match=r"not list \(\['a'\]\); give several one by one: \*tags"):
        Cache("memory:").invalidate_tags(["a"])  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [Kind.BOOK, Loud("book")])
def test_a_text_of_another_class_stands_for_what_it_holds(text: str) -> None:
    """Whatever its class prefers to show: who invalidates may have the plain text."""
    assert tag_key(PREFIX, text) == tag_key(PREFIX, "book")
    assert tag_keys(PREFIX, [text, "book"]) == (b"shop:tag=book",)
    assert namespace_key(PREFIX, text) == namespace_key(PREFIX, "book")
    assert type(checked_tag(text)) is str
    assert bears(report, text, tags=["{user_id}"]) == ["tag=book"]
    assert bears(report, 1, tags=lambda *_, **__: [text]) == ["tag=book"]
    runs = []
    cache = Cache("memory:")

    @cache(tags=["book"], namespace="book")
    def read() -> None:
        runs.append(1)

    read()
    for verb in (cache.invalidate_tags, cache.invalidate_namespace):
        verb(text), read()
    assert len(runs) == 3


@pytest.mark.parametrize("tags", [7, None, b"user:42"])
def test_tags_are_a_list(tags: Any) -> None:
    """Nothing else is taken for one."""
    with pytest.raises(ConfigurationError, match=r"tags are a list of texts, such as \['user:42'\]"):
        checked_tags(tags)
    with pytest.raises(ConfigurationError, match="tags are a list of texts"):
        bears(report, 1, tags=lambda *_, **__: tags)


def test_one_tag_need_be_no_list() -> None:
    """A text alone means that text, and not its letters: at decoration, and from a callable."""
    assert bears(report, 1, tags="all") == ["tag=all"]
    assert bears(report, 1, tags=lambda user_id, **_: f"user:{user_id}") == ["tag=user:1"]
    assert bears(report, 1, tags="user:{user_id}") == ["tag=user:1"]
    assert "tags are a list" in refused(report, 7)


def test_at_most_so_many_tags_on_one_entry() -> None:
    """Every hit asks for each. The error names the limit, and reaches the caller of the function."""
    assert len(bears(report, 1, tags=lambda *_, **__: map(str, range(MAX_TAGS)))) == MAX_TAGS == 128
    assert f"129 tags on one entry; at most {MAX_TAGS}" in refused(report, [f"t{n}" for n in range(129)])
    assert bears(report, 1, tags=["same"] * 1000) == ["tag=same"]
    runs = []

    @Cache("memory:")(tags=lambda n: [f"tag:{each}" for each in range(n)])
    def square(n: int) -> int:
        runs.append(n)
        return n * n

    for verb in (square, square.invalidate, square.expire, square.peek, square.refresh, square.explain):
        with pytest.raises(ConfigurationError, match="10000 tags on one entry; at most 128") as raised:
            verb(10_000)
        assert isinstance(raised.value, ValueError)
    with pytest.raises(ConfigurationError, match="at most 128"):
        square.many([square.bind(1), square.bind(10_000)])
    assert runs == []
    assert square(128) == 128**2


def test_many_tags_can_be_invalidated_in_one_call() -> None:
    """The limit is about one entry."""
    cache = Cache("memory:")
    runs: list[int] = []

    @cache(tags=["t{n}"])
    def square(n: int) -> int:
        runs.append(n)
        return n * n

    numbers = range(0, 1000, 100)
    [square(n) for n in numbers]
    assert cache.invalidate_tags(*[f"t{n}" for n in range(1000)])
    [square(n) for n in numbers]
    assert len(runs) == 20


# -- templates where there are none ------------------------------------------------------------------------------------


def current_tag(cache: Cache, tag: str) -> None:
    """Name it in a run."""

    @cache
    def page() -> str:
        current().tag(tag)
        return "page"

    page()


NAMED: dict[str, Callable[[Cache, str], Any]] = {
    "invalidate_tags": lambda cache, tag: cache.invalidate_tags("a", tag),
    "expire_tags": lambda cache, tag: cache.expire_tags("a", tag),
    "aio.invalidate_tags": lambda cache, tag: asyncio.run(awaited(cache.aio.invalidate_tags(tag))),
    "aio.expire_tags": lambda cache, tag: asyncio.run(awaited(cache.aio.expire_tags(tag))),
    "current().tag": current_tag,
}


async def awaited(coroutine: Any) -> Any:
    """The coroutine as the user's own task has it."""
    return await coroutine


@pytest.mark.parametrize("verb", NAMED)
@pytest.mark.parametrize("tag", ["user:{user_id}", "{user.id}", "{row[0]}:x"])
def test_a_template_that_nobody_fills_in_is_warned_of(verb: str, tag: str) -> None:
    """Where an f was forgotten nothing would be voided, and nobody would notice; the warning is the caller's line."""
    with pytest.warns(UserWarning, match="only the decorators fill in templates") as caught:
        NAMED[verb](Cache("memory:"), tag)
    assert [each.filename for each in caught] == [__file__]


@pytest.mark.parametrize("verb", NAMED)
@pytest.mark.parametrize("tag", ["user:42", "a{}", "{0}", "{", "}{", "{a b}", '{"a": 1}', "user:*"])
def test_other_texts_are_taken_in_silence(verb: str, tag: str, recwarn: pytest.WarningsRecorder) -> None:
    """Braces alone are no template."""
    NAMED[verb](Cache("memory:"), tag)
    assert list(recwarn) == []


def test_an_argument_with_braces_in_it_can_be_invalidated() -> None:
    """It may look like a template, and yet it is what the entry bears: so it is warned of, and not refused."""
    cache = Cache("memory:")

    @cache(tags=["page:{slug}"])
    def page(slug: str) -> str:
        return slug

    page("{slug}")
    with pytest.warns(UserWarning, match="only the decorators"):
        assert cache.invalidate_tags("page:{slug}")
    assert page.peek("{slug}") is MISS
