"""What `ignore`, `key`, `namespace`, `version` and `prefix` do to a key, and the errors of decoration and call."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vectors import key_samples as samples

from cachekit.errors import ConfigurationError, UnkeyableError
from cachekit.keys.compile import compile_keys


def report(user_id: object, name: object = "abc", *, month: object = 1) -> None:
    """Take three arguments."""


def everything(a: int, /, b: int, *rest: int, c: int = 3, **more: int) -> None:
    """Take parameters of every kind."""


class Shop:
    def price(self, item: str) -> None:
        """Have a self without identity."""


class Place(Shop):
    def __cache_key__(self) -> str:
        return "place"


def make(function: Callable[..., object] = report, **options: Any) -> Callable[..., bytes]:
    """Compile a function's keys and return what makes them."""
    return compile_keys(function, **options).make


# Options


def test_ignored_arguments_do_not_count() -> None:
    """ignore= leaves parameters out by name, even such as have no identity."""
    key = make(ignore=["name", "month"])
    assert key(1, object(), month=object()) == key(1)
    by_name, by_text, by_place = ({"ignore": ["self"]}, {"ignore": "self"}, {"skip_first": True})
    assert len({make(Shop.price, **options)(Shop(), "a") for options in (by_name, by_text, by_place)}) == 1


def test_template_fields_are_typed() -> None:
    """A template shows values as text but keys them by type and content."""
    key = make(key="user:{user_id}:{name}")
    assert key(1) != key("1")
    assert key("a:b", "c") != key("a", "b:c")
    assert key(1, month=1) == key(1, month=2)
    assert make(key="{user_id.number}")(samples.Account(7)) == make(key="{user_id.number}")(samples.Savings(7))
    assert make(key="{user_id[a]}")({"a": 1, "b": 2}) == make(key="{user_id[a]}")({"a": 1})
    assert make(key="{user_id[0]}")([5, 6]) != make(key="{user_id[0]}")([6, 5])


def test_template_shows_no_address_and_no_accidental_order() -> None:
    """The readable text is the same in every process, so only values with a stable text are shown."""
    key = make(key="{user_id}")
    assert b":Account:" in key(samples.Account(1))
    assert b":set:" in key({"a", "b"})
    assert b":RED:" in key(samples.Color.RED)
    assert b":int:" in key(10**5000)


def test_key_callable_gets_the_arguments_it_asks_for() -> None:
    """By name what it names; as the function was called otherwise; defaults applied."""
    expected = make(key=lambda user_id: (user_id, "abc"))(1)
    assert make(key=lambda name, user_id: (user_id, name))(1) == expected
    assert make(key=lambda user_id, **rest: (user_id, rest["name"]))(1) == expected
    assert make(key=lambda *args, **_: args)(1) == expected
    assert make(everything, key=lambda a, b, *rest, c, **more: [a, b, rest, c, more])(1, 2, 3, x=4)


def test_a_callable_that_takes_the_rest_by_name_is_given_what_it_names() -> None:
    """By position it would be given another argument than it asks for, and nobody would see it."""
    with pytest.raises(
        ConfigurationError, match="asks for 'first', which is no argument here .there are: user_id, name"
    ):
        make(key=lambda first, second, **_: (first, second))
    with pytest.raises(ConfigurationError, match="unexpected|missing|positional.* and 'uid' is none of these names"):
        make(key=lambda uid, a, b, c: (uid, a))


def test_namespace_callable_is_part_of_the_key() -> None:
    """A namespace may depend on the call or on the context, and its result is checked."""
    assert make(namespace=lambda user_id, **_: f"t{user_id}")(1).startswith(b"t1:")
    assert make(namespace=lambda: "here")(1).startswith(b"here:")
    assert make(namespace=lambda: "a")(1)[-24:] != make(namespace=lambda: "b")(1)[-24:]
    with pytest.raises(UnkeyableError, match="namespace"):
        make(namespace=lambda: 5)(1)


def test_namespace_is_no_template() -> None:
    """``@cache.invalidates(namespace=…)`` takes one; who writes the same here would never be invalidated by it."""
    with pytest.raises(ConfigurationError, match="'tenant-{user_id}': text is no template here; .* give a callable"):
        make(namespace="tenant-{user_id}")


def test_source_version_changes_with_the_body_only(tmp_path: Path) -> None:
    """version="source" reads the function's own text: not its decorators, its place, or its indentation."""

    def fingerprint(text: str, name: str) -> bytes:
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("source_sample", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return make(module.f, version="source")(1)

    plain = fingerprint("def f(a):\n    return a\n", "one")
    assert fingerprint("# moved\ndef deco(f): return f\n\n@deco\ndef f(a):\n\n    return a  \n", "two") == plain
    assert fingerprint("if True:\n    def f(a):\n        return a\n", "three") == plain
    assert fingerprint("def f(a):\n    return a + 1\n", "four") != plain


def _from_exec() -> Any:
    scope: dict[str, Any] = {}
    exec("def f(a): return a", scope)
    return scope["f"]


async def _coroutine(user_id: object) -> object:
    return user_id


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ignore": ["user"]}, "'user', which is no parameter of report"),
        ({"ignore": ["name"], "key": "{name}"}, "exclude each other"),
        ({"key": "user:{user}"}, "begins with no argument"),
        ({"key": "user"}, "names no argument"),
        ({"key": "{user_id"}, "expected '}'"),
        ({"key": "{}"}, "begins with no argument"),
        ({"key": "{0}"}, "begins with no argument"),
        ({"key": "{user_id!r}"}, "conversion or format spec"),
        ({"key": "{user_id:>5}"}, "conversion or format spec"),
        ({"key": "{user_id.a b}"}, "no attribute's name"),
        ({"key": "{user_id[}"}, "key="),
        ({"key": "{user_id.}"}, "key="),
        ({"key": 5}, "template or a callable"),
        ({"key": lambda a, b, c, d: a}, "can't be called"),
        ({"key": _coroutine}, "coroutine"),
        ({"namespace": 5}, "text or a callable"),
        ({"namespace": lambda a, b, c, d: "x"}, "can't be called"),
        ({"version": 1.5}, "version="),
        ({"version": True}, "version="),
        ({"version": ""}, "version="),
        ({"prefix": "a b"}, "prefix="),
        ({"prefix": "a:b"}, "prefix="),
        ({"prefix": "a\n"}, "prefix="),
        ({"prefix": "é"}, "prefix="),
        ({"prefix": "a" * 81}, "at most 80"),
        ({"prefix": 5}, "prefix="),
    ],
)
def test_meaningless_options_are_refused_at_decoration(options: dict[str, Any], says: str) -> None:
    """What can't mean anything is an error before the first call, and says what is wrong."""
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        compile_keys(report, **options)


@pytest.mark.parametrize(
    "function", [lambda: None, functools.partial(report, 1), Shop().price, 5, _from_exec().__call__, [].append]
)
def test_what_has_no_name_of_its_own_is_refused(function: Any) -> None:
    """Lambdas, partials and bound methods would share entries with one another."""
    with pytest.raises(ConfigurationError, match="name"):
        compile_keys(function)


def test_signature_is_needed() -> None:
    """A builtin that does not tell its parameters can't be compiled for; as key= it gets the arguments as called."""
    with pytest.raises(ConfigurationError, match="no signature"):
        compile_keys(min)
    assert make(samples.one, key=str)(1) == make(samples.one, key=str)("1")


def test_skip_first_needs_a_first() -> None:
    """A function without arguments has none to leave out."""
    with pytest.raises(ConfigurationError, match="no arguments"):
        compile_keys(samples.nothing, skip_first=True)


def test_source_version_needs_a_source() -> None:
    """A function without a source can't have a fingerprint of it."""
    with pytest.raises(ConfigurationError, match="source"):
        compile_keys(_from_exec(), version="source")


# Refusals at the call


def test_unkeyable_argument_is_named_with_the_three_ways_out() -> None:
    """The error names function, argument and type, and every way out; it never shows the value."""
    with pytest.raises(UnkeyableError) as caught:
        make(Shop.price)(Shop(), "secret")
    text = str(caught.value)
    assert (caught.value.parameter, caught.value.type_name) == ("self", "Shop")
    for part in ("Shop.price()", "'self'", "Shop", "ignore=('self',)", "key=", "__cache_key__()"):
        assert part in text
    assert "0x" not in text
    assert "secret" not in text


def test_the_type_inside_is_named() -> None:
    """For a container the error names what it holds, for **kwargs and key= where it comes from."""
    with pytest.raises(UnkeyableError, match="argument 'name' \\(of type list\\) holds something of type Shop"):
        make()(1, [{"a": Shop()}])
    with pytest.raises(UnkeyableError, match="argument 'name' \\(of type list\\) holds something that is .*<lambda>: "):
        make()(1, [lambda: 1])
    with pytest.raises(UnkeyableError, match="argument 'name' \\(of type function\\) is .*<lambda>: "):
        make()(1, lambda: 1)
    with pytest.raises(UnkeyableError) as caught:
        make(everything)(1, 2, x=Shop())
    assert caught.value.parameter == "more"
    with pytest.raises(UnkeyableError, match="'key' in key= or namespace="):
        make(key=lambda user_id: object())(1)
    with pytest.raises(UnkeyableError, match="'user_id' in key="):
        make(key="{user_id}")(Shop())


def test_methods_key_by_the_identity_of_self() -> None:
    """Objects that say they are the same share entries, also of methods they inherit."""
    key = make(Shop.price)
    assert key(Place(), "a") == key(Place(), "a") != key(Place(), "b")
    with pytest.raises(UnkeyableError):
        key(Shop(), "a")


def test_values_too_large_for_the_format_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The format ends at 2 GiB: more is an unkeyable argument, and not a ValueError out of nowhere."""

    def refuse(value: object, version: int) -> bytes:
        raise ValueError("unmarshallable object")

    monkeypatch.setattr("cachekit.keys.plain.dumps", refuse)
    with pytest.raises(UnkeyableError, match="'name'.*2 GiB"):
        make()(1, "a" * 1000)


def test_a_template_that_does_not_fit_an_argument_is_named() -> None:
    """With the function, the field and the argument; Python's own error is the cause."""

    def report(user: object, *, rows: object = ()) -> None: ...

    with pytest.raises(ConfigurationError) as raised:
        compile_keys(report, key="{rows}:{user.id}").make(7)
    assert str(raised.value) == (
        f"{report.__qualname__}(): {{user.id}} in key='{{rows}}:{{user.id}}' can't be taken of the argument 'user', "
        "here of type int: AttributeError: 'int' object has no attribute 'id'"
    )
    assert isinstance(raised.value.__cause__, AttributeError)
    for rows, fault in (((), "IndexError"), ({}, "KeyError"), (7, "TypeError")):
        with pytest.raises(ConfigurationError, match=f"'rows', here of type {type(rows).__name__}: {fault}"):
            compile_keys(report, key="{rows[0]}").make(7, rows=rows)
