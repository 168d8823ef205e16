"""What a call comes to bear: by templates, by functions of its arguments, by its namespace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from support.tags import Colour, Kind, Level, bears, refused, report

from cachekit import Cache, ConfigurationError
from cachekit.keys.compile import compile_keys
from cachekit.keys.tags import tag_key, text_of

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


def test_a_template_that_does_not_fit_an_argument_is_named() -> None:
    """With the function, the field and the argument; Python's own error is the cause."""
    with pytest.raises(ConfigurationError) as raised:
        bears(report, 1, tags=["all", "user:{user_id.id}"])
    assert str(raised.value) == (
        "report(): {user_id.id} in tags='user:{user_id.id}' can't be taken of the argument 'user_id', here of type "
        "int: AttributeError: 'int' object has no attribute 'id'"
    )
    assert isinstance(raised.value.__cause__, AttributeError)
    with pytest.raises(ConfigurationError, match=r"\{more\[0\]\} in tags=.*'more', here of type tuple: IndexError"):
        bears(report, 1, tags=["{more[0]}"])
    with pytest.raises(ConfigurationError, match=r"\{rest\[k\]\} in tags=.*'rest', here of type dict: KeyError"):
        bears(report, 1, tags=["{rest[k]}"])


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
        (b"user:1", "tags are a list of texts"),
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
