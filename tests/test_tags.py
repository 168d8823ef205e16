"""Tags and namespaces: what they may be, the keys of their records, and what a call comes to bear."""

from __future__ import annotations

import enum
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachekit import Cache, ConfigurationError, Policy
from cachekit.keys.compile import compile_keys
from cachekit.keys.tags import MAX_TAGS, checked_tag, checked_tags, namespace_key, tag_key, tag_keys, text_of
from cachekit.keys.wire import MAX_PREFIX_BYTES
from cachekit.meta import check_key

PREFIX = b"shop"
TEXTS = (
    st.text(min_size=1) | st.text("a%=~: é", min_size=1) | st.text(st.characters(categories=["Cs", "Cc"]), min_size=1)
)


class Colour(enum.Enum):
    """A member stands for its value."""

    RED = "red"
    BLUE = 2
    MIXED = ("red", 2)


class Kind(str, enum.Enum):  # noqa: UP042 - it is not the same as a StrEnum
    """Text that shows something else when it is asked for."""

    BOOK = "book"


class Level(enum.IntEnum):
    """A number that shows its name in some versions."""

    HIGH = 3


class Loud(str):
    """A text with opinions of its own."""

    def __str__(self) -> str:
        return "LOUD"

    def __format__(self, spec: str) -> str:
        return "LOUD"


def bears(function: Callable[..., Any], *args: Any, tags: Any, **kwargs: Any) -> list[str]:
    """The records over a call, without the prefix."""
    namespace = kwargs.pop("_namespace", None)
    maker = compile_keys(function, prefix="shop", tags=tags, namespace=namespace)
    assert maker.tags is not None
    return [key.decode().removeprefix("shop:") for key in maker.tags(*args, **kwargs)]


def refused(function: Callable[..., Any], tags: Any) -> str:
    """What is said at decoration."""
    with pytest.raises(ConfigurationError) as raised:
        compile_keys(function, prefix="shop", tags=tags)
    return str(raised.value)


def report(user_id: Any, /, part: Any = "all", *more: Any, month: Any = None, **rest: Any) -> None:
    """A function with every kind of parameter."""


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
        with pytest.raises(ConfigurationError, match="a namespace is text, not"):
            verb(namespace)


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


@pytest.mark.parametrize("tags", ["user:42", 7, None, b"user:42"])
def test_tags_are_a_list(tags: Any) -> None:
    """A callable that returns one text means that text, and not its letters; but it is asked to say so."""
    with pytest.raises(ConfigurationError, match=r"tags are a list of texts, such as \['user:42'\]"):
        checked_tags(tags)
    with pytest.raises(ConfigurationError, match="tags are a list of texts"):
        bears(report, 1, tags=lambda *_, **__: tags)


def test_one_template_need_be_no_list() -> None:
    """tags="all" at decoration is plain enough."""
    assert bears(report, 1, tags="all") == ["tag=all"]
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


# -- templates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x", "x"),
        ("", ""),
        (42, "42"),
        (-7, "-7"),
        (True, "True"),
        (None, "None"),
        (1.5, "1.5"),
        (1.0, "1.0"),
        (Decimal("1.50"), "1.50"),
        (date(2026, 11, 22), "2026-11-22"),
        (time(3, 4), "03:04:00"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (Colour.RED, "red"),
        (Colour.BLUE, "2"),
        (Kind.BOOK, "book"),
        (Level.HIGH, "3"),
    ],
)
def test_what_stands_for_an_argument(value: Any, text: str) -> None:
    """The same text in every process and version; a member of an Enum stands for its value."""
    assert text_of(value, "user_id") == text
    assert bears(report, value, tags=["user:{user_id}"]) == [f"tag=user:{text}"]
    assert bears(report, 1, value, tags=["{part}-{user_id}"]) == [f"tag={text}-1"]


def test_a_moment_is_written_with_its_zone() -> None:
    """It has a space in it, so its record is one with a digest."""
    for zone in (None, UTC, timezone(timedelta(hours=2))):
        moment = datetime(2026, 11, 22, 3, 4, tzinfo=zone)
        assert bears(report, moment, tags=["at:{user_id}"]) == [tag_key(b"", f"at:{moment}").decode()]


class User:
    """Has no text of its own: str() would show an address."""

    def __init__(self, id: Any) -> None:  # noqa: A002
        self.id = id


@pytest.mark.parametrize("value", [User(1), [1], {"a": 1}, (1,), {1}, b"x", 1j, range(3), User, Colour.MIXED, object()])
def test_what_has_no_text_of_its_own_is_refused(value: Any) -> None:
    """With the type and the way out; by whoever needs the tags of that call."""
    with pytest.raises(ConfigurationError, match=r"\{user_id\} in tags= is a \w+, .*such as \{user_id\.id\}"):
        bears(report, value, tags=["user:{user_id}"])


def test_a_template_may_name_what_is_inside_an_argument() -> None:
    """Attributes and indexes, by name and by number."""
    assert bears(report, User(7), tags=["user:{user_id.id}"]) == ["tag=user:7"]
    assert bears(report, {"id": 7, "of": [User("x")]}, tags=["{user_id[id]}/{user_id[of][0].id}"]) == ["tag=7/x"]
    assert bears(report, 1, 2, 3, 4, k=5, tags=["{more[1]}", "{rest[k]}", "{month}"]) == ["tag=4", "tag=5", "tag=None"]


def test_what_a_template_runs_into_is_the_callers() -> None:
    """Python's own error, as from a key template."""
    with pytest.raises(AttributeError, match="id"):
        bears(report, 1, tags=["{user_id.id}"])
    with pytest.raises(IndexError):
        bears(report, 1, tags=["{more[0]}"])


def test_braces_and_what_looks_like_code_are_text() -> None:
    """Doubled braces are braces; quotes, backslashes and percent signs of template and argument stay what they are."""
    assert bears(report, 1, tags=["{{user_id}}", "a{{{user_id}}}"]) == ["tag={user_id}", "tag=a{1}"]
    for text in ("'", '"', "\\", "%d", "{0}", "' + exit() + '", "\\N{BULLET}"):
        escaped = text.replace("{", "{{").replace("}", "}}")
        assert bears(report, text, tags=[escaped + "{user_id}"]) == [tag_key(b"", text + text).decode()]


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("user:{usr_id}", r"tags='user:{usr_id}': {usr_id} begins with no argument of the function (it has: user_id, "),
        ("{}", "begins with no argument"),
        ("{0}", "begins with no argument"),
        ("user:{user_id", "tags='user:{user_id': expected '}' before end of string"),
        ("user:}", "tags='user:}': Single '}' encountered"),
        ("{user_id:>5}", "does not change what the tag stands for; use a callable to tag by something coarser"),
        ("{user_id!r}", "conversion or format spec"),
        ("{user_id.1}", "is no attribute's name"),
        ("{user_id.__class__.x y}", "is no attribute's name"),
        (7, "a tag is text, not int"),
    ],
)
def test_a_template_that_can_mean_nothing_is_refused_at_decoration(template: Any, why: str) -> None:
    """By a ValueError that shows the template and says what is the matter."""
    assert why in refused(report, [template])


def test_an_empty_tag_of_a_call_is_the_callers_error() -> None:
    """A template of one field, whose argument is an empty text."""
    with pytest.raises(ConfigurationError, match="a tag can't be empty"):
        bears(report, "", tags=["{user_id}"])


def test_arguments_are_bound_as_the_function_binds_them() -> None:
    """By position, by name or by default, it is the same call and bears the same tags."""

    def search(shop: int, page: int = 1, *, sort: str = "name") -> None: ...

    tags = ["shop:{shop}", "page:{page}", "by:{sort}", "all"]
    expected = ["tag=shop:3", "tag=page:1", "tag=by:name", "tag=all"]
    assert bears(search, 3, tags=tags) == bears(search, shop=3, page=1, sort="name", tags=tags) == expected
    with pytest.raises(TypeError):
        bears(search, tags=tags)


def test_names_of_arguments_hide_nothing() -> None:
    """A function may call its arguments what it likes."""

    def odd(_: Any, __: Any, _key: Any, prefix: Any, type: Any, text: Any, _0_0: Any, found: Any) -> None: ...  # noqa: A002

    tags = [f"{name}:{{{name}}}" for name in ("_", "__", "_key", "prefix", "type", "text", "_0_0", "found")]
    assert bears(odd, *range(8), tags=tags) == [
        f"tag={template.partition(':')[0]}:{number}" for number, template in enumerate(tags)
    ]


def test_equal_tags_of_one_call_are_asked_for_as_often_as_they_are_written() -> None:
    """Two templates that come to the same: the entry has two equal numbers, and holds as long as that tag does."""
    cache = Cache("memory:")
    runs = []

    @cache(tags=["user:{one}", "user:{other}"])
    def pair(one: int, other: int) -> None:
        runs.append((one, other))

    pair(1, 1), pair(1, 1), cache.invalidate_tags("user:1"), pair(1, 1), pair(1, 1)
    assert runs == [(1, 1)] * 2


# -- callables ---------------------------------------------------------------------------------------------------------


def test_a_callable_gets_the_arguments_that_it_names() -> None:
    """By name those that it names, everything where it takes everything; defaults are applied before."""
    seen: list[Any] = []

    def some(part: Any, month: Any) -> Iterable[str]:
        seen.append((part, month))
        return ["x"]

    def rest(month: Any, **others: Any) -> Iterable[str]:
        seen.append((month, others))
        return ["x"]

    def everything(*args: Any, **kwargs: Any) -> Iterable[str]:
        seen.append((args, kwargs))
        return ["x"]

    def search(shop: int, part: str = "all", month: int = 11) -> None: ...

    for each in (some, rest, everything):
        assert bears(search, 3, tags=each) == ["tag=x"]
    assert seen == [("all", 11), (11, {"shop": 3, "part": "all"}), ((3, "all", 11), {})]


def test_a_callable_that_can_not_be_called_so_is_refused_at_decoration() -> None:
    """And so is a coroutine function: keys and tags are made without waiting."""

    async def later(user_id: int) -> list[str]:
        return [str(user_id)]

    def search(shop: int) -> None: ...

    assert "tags= can't be a coroutine function" in refused(search, later)
    assert "tags= can't be called with (shop: 'int')" in refused(search, lambda shop, user: [])


@pytest.mark.parametrize("made", [list, tuple, set, frozenset, iter, dict.fromkeys, lambda tags: (tag for tag in tags)])
def test_any_iterable_of_texts_will_do(made: Callable[[list[str]], Iterable[str]]) -> None:
    """In whatever order they come: the entry is the same."""
    expected = ["tag=a", "tag=b", "tag=c"]
    assert bears(report, 1, tags=lambda *_, **__: made(["c", "a", "b", "a"])) == expected
    assert bears(report, 1, tags=lambda *_, **__: made([])) == []


ORDER = """
from cachekit.keys.compile import compile_keys
def report(n): ...
maker = compile_keys(report, prefix="shop", tags=lambda n: {f"tag-{each}" for each in range(n)})
print(b" ".join(maker.tags(20)).decode())
"""


def test_a_set_of_tags_comes_to_one_order_in_every_process() -> None:
    """Generations stand in the entry in the order of asking: with another order it would be void for the others."""
    told = {
        subprocess.run(
            [sys.executable, "-c", ORDER],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(told) == 1


@pytest.mark.parametrize(
    ("returned", "why"),
    [
        ([7], "a tag is text, not int"),
        ([""], "can't be empty"),
        ("user:1", "tags are a list of texts"),
        (None, "tags are a list of texts"),
        ([["a"]], "a tag is text, not list"),
    ],
)
def test_what_a_callable_may_not_return(returned: Any, why: str) -> None:
    """A programmer's error: it reaches the caller, and the function does not run."""

    @Cache("memory:")(tags=lambda: returned)
    def answer() -> int:
        pytest.fail("it ran")

    with pytest.raises(ConfigurationError, match=why):
        answer()


def test_what_a_callable_raises_reaches_the_caller() -> None:
    """It is not taken for the cache's trouble."""

    @Cache("memory:")(tags=lambda n: [str(1 // n)])
    def square(n: int) -> int:
        return n * n

    with pytest.raises(ZeroDivisionError):
        square(0)
    assert square(1) == 1


# -- methods, loaders --------------------------------------------------------------------------------------------------


SHOPS = Cache("memory:", prefix="shop")
RUNS: list[Any] = []


class Shop:
    """Its methods bear tags of its own."""

    name = "of all"

    def __init__(self, id: int) -> None:  # noqa: A002
        self.id = id

    def __cache_key__(self) -> int:
        return self.id

    @SHOPS(tags=["shop:{self.id}", "page:{page}"])
    def page(self, page: int) -> int:
        """By template."""
        RUNS.append((self.id, page))
        return page

    @SHOPS(tags=lambda self, **_: [f"shop:{self.id}"])
    def title(self) -> str:
        """By a function of the arguments."""
        RUNS.append((self.id, "title"))
        return str(self.id)

    @SHOPS(tags=["shop:{cls.name}"])
    @classmethod
    def count(cls) -> int:
        """By its class."""
        RUNS.append("count")
        return 1

    @SHOPS(tags=["shop:{n}"])
    @staticmethod
    def plus(n: int) -> int:
        """By an argument."""
        RUNS.append("plus")
        return n + 1


def ask_shops() -> None:
    """Each of them, of two shops."""
    for number in (1, 2):
        Shop(number).page(5), Shop(number).title()
    Shop.count(), Shop(1).count(), Shop.plus(1)


def test_a_method_may_bear_tags_of_its_owner() -> None:
    """By template and by callable; a class method and a static one have theirs."""
    for _ in range(2):
        ask_shops()
    assert RUNS == [(1, 5), (1, "title"), (2, 5), (2, "title"), "count", "plus"]
    for tag, again in (
        ("shop:1", [(1, 5), (1, "title"), "plus"]),
        ("page:5", [(1, 5), (2, 5)]),
        ("shop:of all", ["count"]),
        ("shop:3", []),
    ):
        RUNS.clear()
        SHOPS.invalidate_tags(tag)
        for _ in range(2):
            ask_shops()
        assert again == RUNS, tag


def test_a_loader_names_its_first_parameter_for_one_id() -> None:
    """Each id has an entry, with tags of its own."""
    cache = Cache("memory:")
    runs: list[list[int]] = []

    @cache.batch(tags=["item:{ids}", "shop:{shop}"])
    def prices(ids: list[int], shop: int = 1) -> dict[int, int]:
        runs.append(ids)
        return {each: each * 10 for each in ids}

    prices([1, 2, 3]), cache.invalidate_tags("item:2"), prices([1, 2, 3])
    cache.invalidate_tags("shop:1"), prices([1, 2, 3])
    cache.invalidate_tags("shop:2"), prices([1, 2, 3])
    assert runs == [[1, 2, 3], [2], [1, 2, 3]]


# -- namespaces --------------------------------------------------------------------------------------------------------


def test_a_namespace_of_text_stands_over_every_entry() -> None:
    """Apart from the tags: its key is known at decoration."""
    maker = compile_keys(report, prefix="shop", namespace="fr", tags=["user:{user_id}"])
    assert maker.namespace == b"shop:namespace=fr"
    assert maker.tags is not None
    assert maker.tags(1) == (b"shop:tag=user:1",)
    assert compile_keys(report, prefix="shop", namespace="fr").tags is None
    for none in (None, ""):
        plain = compile_keys(report, prefix="shop", namespace=none)
        assert (plain.tags, plain.namespace) == (None, None)


@pytest.mark.parametrize("tags", [(), ["user:{user_id}"], lambda user_id, **_: [f"user:{user_id}"]])
def test_a_namespace_that_is_called_stands_behind_the_tags(tags: Any) -> None:
    """The same record as one of text has; none where there is none."""

    def search(user_id: int, country: str = "") -> None: ...

    own = [f"tag=user:{7}"] if tags else []
    found = bears(search, 7, "fr", tags=tags, _namespace=lambda country, **_: country)
    assert found == [*own, "namespace=fr"]
    assert bears(search, 7, tags=tags, _namespace=lambda country, **_: country) == own
    maker = compile_keys(search, namespace=lambda country: country, tags=tags)
    assert maker.namespace is None


def test_without_tags_nothing_is_compiled() -> None:
    """A function that bears none pays nothing for those that do."""
    assert compile_keys(report, tags=()).tags is None
    assert compile_keys(report, tags=[]).tags is None
