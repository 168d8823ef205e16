"""Who a function is: its name, signature and the options that its keys carry, checked at decoration."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from hashlib import blake2b
from types import ModuleType
from typing import Any, NamedTuple

from cachekit.errors import ConfigurationError
from cachekit.keys import canonical
from cachekit.keys.naming import module_name
from cachekit.keys.readable import printable, shorten
from cachekit.keys.wire import check_prefix

MAX_NAMESPACE_CHARS = 48
MAX_NAME_CHARS = 72
FORMAT = 1
"""Raised when a change of the encoding would give an old key to a new meaning."""

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Identity(NamedTuple):
    """Everything about a decorated function that its keys cover, arguments aside."""

    module: str
    qualname: str
    signature: inspect.Signature
    prefix: bytes
    namespace: str | None
    version: int | str | None
    ignored: frozenset[str]
    shape: str

    @property
    def parameters(self) -> tuple[str, ...]:
        """Return the parameters' names in order."""
        return tuple(self.signature.parameters)

    @property
    def name(self) -> str:
        """Return the function as it is read in a key: module and qualified name, printable, at most 72 characters."""
        full = f"{self.module}.{self.qualname.replace('<locals>.', '')}"
        return shorten(printable(full), MAX_NAME_CHARS, keep_end=True)

    def head(self, namespace: str | None) -> bytes:
        """Return prefix, namespace and function with their colons, as far as they exist."""
        space = shorten(printable(namespace), MAX_NAMESPACE_CHARS) if namespace else ""
        return b"".join(part + b":" for part in (self.prefix, space.encode(), self.name.encode()) if part)

    def digest(self) -> bytes:
        """Return 32 bytes over the whole identity; the state of every key's digest begins with them."""
        kinds = tuple((parameter.name, parameter.kind.name) for parameter in self.signature.parameters.values())
        rest = (self.version, kinds, self.ignored, self.shape)
        return blake2b(canonical.encode((*self._function(), *rest)), digest_size=32, person=b"cachekit.entry").digest()

    def generation_digest(self) -> bytes:
        """Return 18 bytes over what ``invalidate_all`` is about: one function, in all its versions."""
        return blake2b(canonical.encode(self._function()), digest_size=18, person=b"cachekit.gen").digest()

    def _function(self) -> tuple[object, ...]:
        return (FORMAT, self.prefix, self.namespace, self.module, self.qualname)


def identify(
    function: Callable[..., object],
    prefix: str,
    namespace: str | Callable[..., str] | None,
    key: str | Callable[..., object] | None,
    ignore: Iterable[str],
    version: int | str | None,
    skip_first: bool,
) -> Identity:
    """Check a function and its options. Raises ``ConfigurationError`` for what can't mean anything."""
    module, qualname, signature = _describe(function)
    if key is not None and not isinstance(key, str) and not callable(key):
        raise ConfigurationError(f"key= is a template or a callable, not {type(key).__name__}")
    if namespace is not None and not isinstance(namespace, str) and not callable(namespace):
        raise ConfigurationError(f"namespace= is text or a callable, not {type(namespace).__name__}")
    if isinstance(namespace, str) and re.search(r"\{\w", namespace):  # taken as it is, nobody would invalidate it
        raise ConfigurationError(
            f"namespace={namespace!r:.60}: text is no template here; for one that depends on the arguments give a "
            "callable, such as namespace=lambda tenant_id, **_: f'tenant-{tenant_id}'"
        )
    static = namespace if isinstance(namespace, str) and namespace else None
    dynamic = "called" if callable(namespace) else "fixed"
    counts = f"template {key}" if isinstance(key, str) else "called" if key is not None else "arguments"
    return Identity(
        module=module,
        qualname=qualname,
        signature=signature,
        prefix=check_prefix(prefix),
        namespace=static,
        version=_check_version(function, version),
        ignored=_check_ignore(qualname, signature, ignore, key, skip_first),
        shape=f"namespace {dynamic}, key {counts}",
    )


def _describe(function: Callable[..., object]) -> tuple[str, str, inspect.Signature]:
    module = getattr(function, "__module__", None) or "__main__"  # None: exec'd without a __name__, as in a notebook
    qualname = getattr(function, "__qualname__", None)
    owner = getattr(function, "__self__", None)
    bound = owner is not None and not isinstance(owner, ModuleType)
    if bound or not isinstance(module, str) or not isinstance(qualname, str):
        raise ConfigurationError(
            f"an object of class {type(function).__name__} has no name of its own to key by: "
            "decorate a function, and a method where its class defines it"
        )
    if qualname.endswith("<lambda>"):
        raise ConfigurationError("a lambda has no name, so all lambdas of a module would share entries: use def")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{qualname}: no signature to compile keys from: {error}") from error
    return module_name(module), qualname, signature


def _check_version(function: Callable[..., object], version: int | str | None) -> int | str | None:
    if version == "source":
        return f"source {source_fingerprint(function)}"
    if version is None or (isinstance(version, (int, str)) and not isinstance(version, bool) and version != ""):
        return version if not isinstance(version, str) else f"text {version}"
    raise ConfigurationError(f'version={version!r}: a whole number, text, or "source"')


def _check_ignore(
    qualname: str,
    signature: inspect.Signature,
    ignore: Iterable[str],
    key: object,
    skip_first: bool,
) -> frozenset[str]:
    names = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    unknown = [name for name in names if name not in signature.parameters]
    if unknown:
        known = ", ".join(signature.parameters) or "none"
        raise ConfigurationError(f"ignore= names {unknown[0]!r}, which is no parameter of {qualname} (it has: {known})")
    if names and key is not None:
        raise ConfigurationError("ignore= and key= exclude each other: key= already says what counts")
    if skip_first and not signature.parameters:
        raise ConfigurationError(f"{qualname} takes no arguments, so there is no first one to leave out")
    return frozenset(names) | frozenset(list(signature.parameters)[:1] if skip_first else ())


def source_fingerprint(function: Callable[..., object]) -> str:
    """Return 32 hexadecimal digits over the text of a function from its ``def`` on, without decorators and indentation.

    Text and not byte code, because that changes with every version of Python. Blank lines and spaces at line ends don't
    count, comments do. Raises ``ConfigurationError`` where the source can't be had.
    """
    try:
        lines, _ = inspect.getsourcelines(function)
    except (OSError, TypeError) as error:
        raise ConfigurationError(f'version="source" needs the source of the function: {error}') from error
    first = next((number for number, line in enumerate(lines) if _begins_function(line.split())), 0)
    indentation = len(lines[first]) - len(lines[first].lstrip())
    body = (line.rstrip() for line in lines[first:])
    text = "\n".join(line[indentation:] if not line[:indentation].strip() else line for line in body if line)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, person=b"cachekit.source").hexdigest()


def _begins_function(words: list[str]) -> bool:
    return words[:1] == ["def"] or words[:2] == ["async", "def"]


def callback_arguments(what: str, callback: Callable[..., object], signature: inspect.Signature) -> str:
    """Return, as source, the arguments with which ``key=`` or ``namespace=`` is called from inside the key maker.

    A callable whose parameters all are parameters of the function gets just those, by name, and ``**rest`` the others
    (``lambda user_id, **_: …``); any other gets the arguments as the function does. Defaults are applied before.
    Raises ``ConfigurationError`` where neither fits, and where one with ``**rest`` asks for a name that there is not.
    """
    if inspect.iscoroutinefunction(callback):
        raise ConfigurationError(f"{what}= can't be a coroutine function: keys are made without waiting")
    try:
        wanted = inspect.signature(callback).parameters.values()
    except (TypeError, ValueError):
        return _as_called(signature)
    names = [parameter.name for parameter in signature.parameters.values() if parameter.kind not in VARIADIC]
    kinds = {parameter.kind for parameter in wanted}
    own = [parameter.name for parameter in wanted if parameter.kind not in VARIADIC]
    if not kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY} and set(own) <= set(names):
        rest = inspect.Parameter.VAR_KEYWORD in kinds
        variadic = [
            f"**{p.name}" for p in signature.parameters.values() if rest and p.kind is inspect.Parameter.VAR_KEYWORD
        ]
        return ", ".join([f"{name}={name}" for name in (names if rest else own)] + variadic)
    unknown = next((name for name in own if name not in names), "")
    if unknown and inspect.Parameter.VAR_KEYWORD in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        known = ", ".join(names) or "none"
        raise ConfigurationError(f"{what}= asks for {unknown!r}, which is no argument here (there are: {known})")
    _check_call(what, callback, signature, unknown)
    return _as_called(signature)


def _check_call(what: str, callback: Callable[..., object], signature: inspect.Signature, unknown: str) -> None:
    positional = [p for p in signature.parameters.values() if p.kind < inspect.Parameter.VAR_POSITIONAL]
    by_name: dict[str, Any] = {
        p.name: None for p in signature.parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    try:
        inspect.signature(callback).bind(*(None for _ in positional), **by_name)
    except TypeError as error:
        hint = f", and {unknown!r} is none of these names" if unknown else ""
        raise ConfigurationError(f"{what}= can't be called with {signature}: {error}{hint}") from None


def _as_called(signature: inspect.Signature) -> str:
    forms: dict[object, str] = {
        inspect.Parameter.VAR_POSITIONAL: "*{0}",
        inspect.Parameter.KEYWORD_ONLY: "{0}={0}",
        inspect.Parameter.VAR_KEYWORD: "**{0}",
    }
    return ", ".join(forms.get(p.kind, "{0}").format(p.name) for p in signature.parameters.values())
