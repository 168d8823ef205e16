"""Keys of decorated functions: vectors, binding, what a key covers and looks like.

Options and errors are tested in test_keys_options.py, what single values become in test_keys_values.py.
"""

from __future__ import annotations

import functools
import importlib.machinery
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

from cachekit.errors import UnkeyableError
from cachekit.keys import MAX_KEY_BYTES
from cachekit.keys.compile import compile_keys
from cachekit.keys.naming import module_name, named

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


@given(
    st.text(),
    st.text(max_size=400).filter(lambda namespace: not re.search(r"\{\w", namespace)),
    st.text(max_size=400),
    st.sampled_from(["", "p", "p" * 80]),
)
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


def test_script_and_import_make_the_same_keys(tmp_path: Path) -> None:
    """The key of a function in a script does not change when the script is imported or run by -m."""
    (tmp_path / "job.py").write_text(
        "from cachekit.keys.compile import compile_keys\n"
        "class Row: ...\n"
        "def f(a): ...\n"
        "key = compile_keys(f).make(Row).decode()\n"
        "if __name__ == '__main__': print(key)\n"
    )
    root = str(Path(make_keys.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, str(tmp_path)])}
    runs = [["job.py"], ["-m", "job"], ["-c", "import job; print(job.key)"]]
    keys = {
        subprocess.run([sys.executable, *run], cwd=tmp_path, env=environment, capture_output=True, check=True).stdout
        for run in runs
    }
    assert len(keys) == 1
