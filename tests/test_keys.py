"""Keys of decorated functions: binding, identity, options, readable form, errors; and the direct verbs' keys.

What single values become is tested in test_keys_values.py.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from vectors import key_samples as samples
from vectors import make_keys

from cachekit.errors import ConfigurationError, RequestError, UnkeyableError
from cachekit.keys import MAX_KEY_BYTES, check_prefix, compile_keys, digest, wire_key
from cachekit.keys.naming import module_name, named
from cachekit.types import Key

MISSING = object()
ENTRY = re.compile(rb"[!-~]{0,225}:[A-Za-z0-9_-]{24}")


def report(user_id: object, name: object = "abc", *, month: object = 1) -> None:
    """Take three arguments."""


def with_default(value: object = MISSING, items: list[int] = [1, 2]) -> None:  # noqa: B006  mutable on purpose
    """Have defaults that can't be written as source."""


def everything(a: int, /, b: int, *rest: int, c: int = 3, **more: int) -> None:
    """Take parameters of every kind."""


def hard_names(type: int, _: int, __state: int, generated: int, tuple: int = 5) -> None:  # noqa: A002
    """Have parameters that are called like what the generated code needs."""


class Shop:
    def price(self, item: str) -> None:
        """Have a self without identity."""


class Place(Shop):
    def __cache_key__(self) -> str:
        return "place"


def make(function: Callable[..., object] = report, **options: Any) -> Callable[..., bytes]:
    """Compile a function's keys and return what makes them."""
    return compile_keys(function, **options).make


# Vectors


def test_committed_vectors_hold() -> None:
    """A key once made stays the same for ever; a change makes every stored entry a miss."""
    assert make_keys.vectors(extras=True) == json.loads(make_keys.FILE.read_text())


@pytest.mark.parametrize("seed", ["0", "1", "4242", "random"])
def test_vectors_hold_in_another_process(seed: str) -> None:
    """Neither the hash seed nor the process enters a key."""
    command = [sys.executable, make_keys.__file__, "--check"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "keys as committed" in done.stdout


# Binding


def test_calls_that_python_binds_alike_share_a_key() -> None:
    """Position, name and an explicit default are ways to say the same call."""
    key = make()
    assert len({key(1), key(user_id=1), key(1, "abc"), key(name="abc", user_id=1), key(1, month=1)}) == 1
    assert len({key(1), key(2), key(1, "x"), key(1, month=2), key("1")}) == 5


def test_keyword_order_does_not_matter_but_names_do() -> None:
    """**kwargs are a mapping; *args are a sequence."""
    key = make(everything)
    assert key(1, 2, x=3, y=4) == key(1, b=2, y=4, x=3)
    calls = [key(1, 2), key(1, 2, 3), key(1, 2, 3, 4), key(1, 2, 4, 3), key(1, 2, x=3), key(1, 2, a=3), key(1, 2, c=4)]
    assert len(set(calls)) == len(calls)


def test_parameters_may_have_any_name() -> None:
    """No parameter's name can hide what the generated code needs."""
    key = make(hard_names)
    assert key(1, 2, 3, 4) == key(generated=4, _=2, type=1, __state=3)
    assert key(1, 2, 3, 4) != key(1, 2, 3, 5)


def test_defaults_are_the_functions_own_objects() -> None:
    """A default is keyed by what it holds at the time of the call, and a bare object() by being the default."""
    key = make(with_default)
    assert key() == key(MISSING, [1, 2]) != key(None)
    with pytest.raises(UnkeyableError, match="'value'"):
        key(object())


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda f: f(), "report() missing 1 required positional argument: 'user_id'"),
        (lambda f: f(1, 2, 3), "report() takes from 1 to 2 positional arguments but 3 were given"),
        (lambda f: f(1, mouth=2), "report() got an unexpected keyword argument 'mouth'"),
        (lambda f: f(1, user_id=1), "report() got multiple values for argument 'user_id'"),
    ],
)
def test_wrong_call_raises_the_functions_own_type_error(call: Callable[[Any], Any], text: str) -> None:
    """The user reads the error that his function would have raised, with its name."""
    maker = compile_keys(report)
    for function in (report, maker.make, maker.bind):
        with pytest.raises(TypeError) as caught:
            call(function)
        assert type(caught.value) is TypeError
        assert str(caught.value).startswith(text)


def test_bind_gives_arguments_by_name() -> None:
    """bind() applies defaults and keeps *args and **kwargs as Python does."""
    bind = compile_keys(everything).bind
    assert bind(1, 2, 9, x=5) == {"a": 1, "b": 2, "rest": (9,), "c": 3, "more": {"x": 5}}


def test_wrapped_function_keeps_its_signature() -> None:
    """Under another decorator that uses functools.wraps the names of the function itself count."""

    @functools.wraps(report)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        report(*args, **kwargs)

    assert make(wrapper)(1, month=2) == make(report)(user_id=1, month=2)


# What a key covers, and what it looks like


def test_every_part_of_the_identity_enters_the_digest() -> None:
    """Two keys share their last 24 characters only if everything is the same."""

    def same_name(user_id: object, name: object = "abc", *, month: object = 1) -> None: ...

    same_name.__qualname__ = "report"
    same_name.__module__ = "elsewhere"
    options: list[dict[str, Any]] = [
        {},
        {"prefix": "a"},
        {"prefix": "b"},
        {"namespace": "a"},
        {"namespace": "b"},
        {"namespace": lambda: "a"},
        {"version": 1},
        {"version": 2},
        {"version": "1"},
        {"version": "source"},
        {"ignore": ["name"]},
        {"ignore": ["month"]},
        {"skip_first": True},
        {"key": "{user_id}"},
        {"key": "{user_id}{month}"},
        {"key": lambda user_id: user_id},
    ]
    keys = [make(**each)(1) for each in options]
    keys += [make(same_name)(1), make(with_default)(1), make(everything)(1, 2)]
    assert len({key[-24:] for key in keys}) == len(keys)
    assert make(same_name)(1) != make(report)(1)


def test_changed_signature_misses() -> None:
    """Names and kinds of the parameters enter the digest."""

    scope: dict[str, Any] = {"__name__": "somewhere"}

    def variant(parameters: str) -> Callable[..., object]:
        exec(f"def f({parameters}): ...", scope)
        return scope["f"]  # type: ignore[no-any-return]

    variants = ["a, b", "b, a", "a, /, b", "a, b, /", "a, b, c=1", "a, b, *, c=1", "a, b, *c", "a, b, **c", "*a", "*b"]
    keys = [make(variant(parameters))(1, 2) for parameters in variants]
    assert len(set(keys)) == len(keys)


def test_a_key_reads_prefix_namespace_function_digest() -> None:
    """A person who lists a server sees what is what."""
    assert re.fullmatch(rb"shop:eu:(\w+\.)*test_keys\.report:[\w-]{24}", make(prefix="shop", namespace="eu")(1))
    assert re.fullmatch(rb"(\w+\.)*test_keys\.Shop\.price:[\w-]{24}", make(Shop.price)(Place(), "x"))
    assert re.fullmatch(rb"shop:.*\.report:user:42:[\w-]{24}", make(prefix="shop", key="user:{user_id}")(42))
    assert b"gr%C3%B6%C3%9Fe:" in make(samples.größe)(1)
    assert b"<" not in make(_nested())()


def _nested() -> Callable[..., object]:
    def inner() -> None: ...

    return inner


def test_generation_key_has_a_shape_of_its_own() -> None:
    """No entry key can be a generation key, and all versions of a function share one generation."""
    maker = compile_keys(report, prefix="shop", namespace="eu")
    assert re.fullmatch(rb"shop:eu:.*\.report:gen=[\w-]{24}", maker.generation)
    assert (
        compile_keys(report, prefix="shop", namespace="eu", version=2, ignore=["name"]).generation == maker.generation
    )
    others = [compile_keys(report), compile_keys(report, prefix="shop"), compile_keys(everything)]
    assert len({maker.generation, *(other.generation for other in others)}) == 4


@given(st.text(), st.text(max_size=400), st.text(max_size=400), st.sampled_from(["", "p", "p" * 80]))
@example("\r\nflush_all\r\n", "a" * 400, "b" * 400, "p" * 80)
@example("", "", "\x00\ud800", "")
def test_no_name_or_value_breaks_a_key(value: str, namespace: str, name: str, prefix: str) -> None:
    """Whatever text comes in, at most 250 bytes of printable ASCII go out, the digest whole at the end."""

    def shown(value: object) -> None: ...

    shown.__qualname__ = f"n{name}"
    choices: list[dict[str, Any]] = [
        {"key": "{value}"},
        {"key": lambda value: value},
        {"namespace": lambda value: value},
    ]
    for options in (*choices, {}):
        key = make(shown, **{"prefix": prefix, "namespace": namespace, **options})(value)
        assert ENTRY.fullmatch(key)
        assert len(key) <= MAX_KEY_BYTES


def test_overlong_names_keep_a_digest_of_their_own() -> None:
    """Two long names that differ only in what was cut off can still be told apart by the reader."""
    one, two = (compile_keys(report, namespace="n" * 300 + end).make(1) for end in "ab")
    assert one.partition(b":")[0] != two.partition(b":")[0]
    assert len(one.partition(b":")[0]) == 48


# Options


def test_ignored_arguments_do_not_count() -> None:
    """ignore= leaves parameters out by name, even such as have no identity."""
    key = make(ignore=["name", "month"])
    assert key(1, object(), month=object()) == key(1)
    assert make(Shop.price, ignore="self")(Shop(), "a") == make(Shop.price, skip_first=False, ignore=("self",))(
        Shop(), "a"
    )
    assert make(Shop.price, skip_first=True)(Shop(), "a") == make(Shop.price, skip_first=True)(None, "a")


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
    assert make(key=lambda first, second, **_: (first, second))(1) == expected
    assert make(key=lambda *args, **_: args)(1) == expected
    assert make(everything, key=lambda a, b, *rest, c, **more: [a, b, rest, c, more])(1, 2, 3, x=4)


def test_namespace_callable_is_part_of_the_key() -> None:
    """A namespace may depend on the call or on the context, and its result is checked."""
    assert make(namespace=lambda user_id, **_: f"t{user_id}")(1).startswith(b"t1:")
    assert make(namespace=lambda: "here")(1).startswith(b"here:")
    assert make(namespace=lambda: "a")(1)[-24:] != make(namespace=lambda: "b")(1)[-24:]
    with pytest.raises(UnkeyableError, match="namespace"):
        make(namespace=lambda: 5)(1)


def test_source_version_changes_with_the_body_only() -> None:
    """version="source" reads the function's own text: not its decorators, its place, or its indentation."""

    def fingerprint(text: str, name: str) -> bytes:
        path = Path(os.environ["PYTEST_TMP"]) / f"{name}.py"
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


@pytest.fixture(autouse=True)
def _temporary_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_TMP", str(tmp_path_factory.mktemp("keys")))


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
        compile_keys(_nested(), skip_first=True)


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


# Names of modules


def test_public_names_of_the_standard_library_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a class lives inside a standard package differs between versions; pathlib.Path is pathlib.Path."""
    private = types.ModuleType("pathlib._local")
    private.PurePath = PurePath  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pathlib._local", private)
    monkeypatch.setattr(PurePath, "__module__", "pathlib._local")
    assert named(PurePath) == ("pathlib", "PurePath")
    private.Hidden = type("Hidden", (), {"__module__": "pathlib._local"})  # type: ignore[attr-defined]
    assert named(private.Hidden) == ("pathlib._local", "Hidden")


def test_main_resolves_to_what_others_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script and the worker that imports it share entries."""
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert module_name("__main__") == "__main__"
    main.__file__ = "/srv/app/reports.py"
    assert module_name("__main__") == "reports"
    main.__spec__ = importlib.machinery.ModuleSpec("app.reports", None)
    assert module_name("__main__") == "app.reports"
    monkeypatch.setitem(sys.modules, "__mp_main__", main)
    assert module_name("__mp_main__") == "app.reports"
    assert module_name("app") == "app"


def test_script_and_import_make_the_same_keys() -> None:
    """The key of a function in a script does not change when the script is imported or run by -m."""
    folder = Path(os.environ["PYTEST_TMP"])
    (folder / "job.py").write_text(
        "from cachekit.keys import compile_keys\n"
        "class Row: ...\n"
        "def f(a): ...\n"
        "key = compile_keys(f).make(Row).decode()\n"
        "if __name__ == '__main__': print(key)\n"
    )
    root = str(Path(make_keys.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, str(folder)])}
    runs = [["job.py"], ["-m", "job"], ["-c", "import job; print(job.key)"]]
    keys = {
        subprocess.run([sys.executable, *run], cwd=folder, env=environment, capture_output=True, check=True).stdout
        for run in runs
    }
    assert len(keys) == 1


# Direct verbs


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
