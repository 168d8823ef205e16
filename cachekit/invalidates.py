"""``@cache.invalidates(…)``: a function that writes says which stored results its success makes wrong.

Which entries, tags and namespace those are is worked out after the writer has returned, from its arguments as they are
then, and everything is sent together, by the shell of the writer: an async writer awaits it, whatever the cached
functions are. Where the writer raises, nothing is invalidated.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import CodeType, CoroutineType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cachekit.batch import Loader
from cachekit.decorator import is_async
from cachekit.errors import ConfigurationError
from cachekit.flows.abreast import Teller, tell_abreast
from cachekit.flows.tell import bump, namespace_of, removal, tags_of, tell, tell_every_server
from cachekit.function import Call, Decorated
from cachekit.keys.identity import callback_arguments
from cachekit.keys.tags import checked_tag, checked_tags, listed, text_of
from cachekit.keys.template import PATH_FAULTS, Template, misfit, parse_template
from cachekit.methods import Bound, OfClass
from cachekit.sync.drive import run
from cachekit.types import UNSET

if TYPE_CHECKING:
    from cachekit.cache import Cache
    from cachekit.env import Env, Job
    from cachekit.ops import Flow

F = TypeVar("F", bound=Callable[..., Any])

_RESULT = "result"
_Names = Mapping[str, Any]
"""The writer's arguments by parameter name, and what it returned as ``result``."""


class _Target(NamedTuple):
    """A cached function that is named. ``owner``: the object or class that it is bound to, in a 1-tuple, or nothing."""

    function: Decorated[..., Any] | Loader[Any, Any, ...]
    owner: tuple[Any, ...] = ()

    @property
    def one(self) -> Decorated[..., Any]:
        """What has the keys and the recipe."""
        return self.function._one if isinstance(self.function, Loader) else self.function

    def jobs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Job]:
        """The entries that ``function.invalidate(*args, **kwargs)`` would remove."""
        function = self.function
        if isinstance(function, Loader):
            ids, rest = (args[0], args[1:]) if args else (None, ())
            return function._entries(function._asked(ids, rest, kwargs), self.one._cache._fleet.ring.index)
        return [function._entry((*self.owner, *args), kwargs)]


class Invalidates:
    """``@cache.invalidates(…)`` with its options, waiting for the writer."""

    def __init__(
        self,
        cache: Cache,
        functions: tuple[Any, ...],
        args: Callable[..., Any] | None = None,
        tags: str | Iterable[str] | Callable[..., Iterable[str]] = (),
        namespace: str | None = None,
    ) -> None:
        self._cache = cache
        self._targets = [_target(cache, each) for each in functions]
        if args is not None and not callable(args):
            raise ConfigurationError(
                f"args={args!r:.60}: a function of the writer's arguments, such as args=lambda user_id, **_: (user_id,)"
            )
        if namespace is not None and (not isinstance(namespace, str) or not namespace):
            raise ConfigurationError(f"namespace={namespace!r:.60}: text, or a template such as 'tenant:{{tenant_id}}'")
        if not callable(tags):
            tags = checked_tags(listed(tags))
        if not (functions or args or tags or namespace):
            raise ConfigurationError(
                "@cache.invalidates() says nothing to invalidate; name cached functions, as in "
                "@cache.invalidates(report), or tags=['user:{user_id}']"
            )
        self._args, self._tags, self._namespace = args, tags, namespace
        if args is None:
            for target in self._targets:
                if target.one._policy.over(cache._policy).group is False:
                    raise ConfigurationError(
                        f"{target.one._keys.name} has group=False in its policy, so that all of its entries can't be "
                        "invalidated at once; say which with args=…"
                    )

    def __call__(self, writer: F, /) -> F:
        given: Any = writer
        if isinstance(given, staticmethod | classmethod):
            return type(given)(self(given.__func__))  # type: ignore[return-value]
        _check_writer(given)
        plan = _Plan(given, self._cache, self._targets, self._args, self._tags, self._namespace)
        made: Any = plan.around_async(given) if is_async(given) else plan.around(given)
        return made  # type: ignore[no-any-return]


class _Plan:
    """What one writer invalidates: its options, compiled against its signature."""

    def __init__(
        self,
        writer: Callable[..., Any],
        cache: Cache,
        targets: list[_Target],
        args: Callable[..., Any] | None,
        tags: tuple[str, ...] | Callable[..., Iterable[str]],
        namespace: str | None,
    ) -> None:
        self.cache, self._targets = cache, targets
        self._name = getattr(writer, "__qualname__", type(writer).__qualname__)
        self._signature = _signature(writer, self._name)
        self._args = _evaluator("args", args, self._signature) if args is not None else None
        if callable(tags):
            self._tags = _evaluator("tags", tags, self._signature)
        else:
            texts = [_text("tags", template, self._signature, self._name) for template in tags]
            self._tags = lambda names: [text(names) for text in texts]
        self._namespace = None
        if namespace is not None:
            self._namespace = _text("namespace", namespace, self._signature, self._name)

    def around(self, writer: Callable[..., Any]) -> Callable[..., Any]:
        """``writer``, and what it invalidates."""

        @functools.wraps(writer)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                result = writer(*args, **kwargs)
            except Exception:
                raise
            except BaseException:
                self._send(self.interrupted(args, kwargs))
                raise
            if isinstance(result, CoroutineType):  # a plain function that returns a coroutine: it has not written yet
                return self.awaited(result, args, kwargs)
            self._send(self.flow(args, kwargs, result))
            return result

        return wrapper

    def _send(self, flow: Flow[bool] | None) -> None:
        if flow is not None:
            run(flow, self.cache._fleet)

    def around_async(self, writer: Callable[..., Any]) -> Callable[..., Any]:
        """The same of a coroutine function."""

        @functools.wraps(writer)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await self.awaited(writer(*args, **kwargs), args, kwargs)

        return wrapper

    async def awaited(self, running: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the writer returns; when it has, everything is sent."""
        try:
            result = await running
        except Exception:
            raise
        except BaseException:
            await self._send_later(self.interrupted(args, kwargs))
            raise
        await self._send_later(self.flow(args, kwargs, result))
        return result

    async def _send_later(self, flow: Flow[bool] | None) -> None:
        if flow is not None:
            from cachekit.aio.drive import run as drive  # noqa: PLC0415 - it brings asyncio

            await drive(flow, self.cache._loops.here())

    def flow(self, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Flow[bool] | None:
        """Everything that a call of the writer invalidates, together; None where that is nothing. ``result``: UNSET
        where there is none.
        """
        names = self._signature.bind(*args, **kwargs)
        names.apply_defaults()
        known: _Names = names.arguments
        if _RESULT not in known and result is not UNSET:
            known = {**known, _RESULT: result}
        tellers = [*self._entries(known), *self._groups(known)]
        return tell_abreast(tellers, self.cache._env) if tellers else None

    def interrupted(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flow[bool] | None:
        """The same of a writer that was cancelled, or stopped by Ctrl-C: what it has written, nobody knows. None where
        that depends on its result, too.
        """
        with suppress(Exception):
            return self.flow(args, kwargs, UNSET)
        return None

    def _entries(self, names: _Names) -> list[Teller]:
        if self._args is None:
            return [functools.partial(tell_every_server, target.one._grouped()) for target in self._targets]
        jobs: dict[bytes, Job] = {}
        for said in _listed(self._args(names)):
            for target, args, kwargs in self._calls(said):
                jobs.update((job.key, job) for job in target.jobs(args, kwargs))
        return [functools.partial(tell, job, request=removal) for job in jobs.values()]

    def _calls(self, said: Any) -> list[tuple[_Target, tuple[Any, ...], Mapping[str, Any]]]:
        """The calls that one of the things means that ``args=`` may return."""
        if isinstance(said, Call):
            return [(_target(self.cache, said.function), said.args, said.kwargs)]
        if not isinstance(said, tuple | dict):
            raise ConfigurationError(
                f"args= of {self._name} is to return a tuple of arguments, such as (user_id,), a dict of keywords, "
                f"a call made by bind(), or a list of these; it returned {type(said).__qualname__}"
            )
        if not self._targets:
            raise ConfigurationError(
                f"args= of {self._name} returned arguments, but no cached function is named that they are for; name "
                "it, as in @cache.invalidates(report, args=…), or return calls made by bind()"
            )
        args, kwargs = ((), said) if isinstance(said, dict) else (said, {})
        return [(target, args, kwargs) for target in self._targets]

    def _groups(self, names: _Names) -> list[Teller]:
        groups = tags_of(self.cache._prefix, checked_tags(listed(self._tags(names))))
        if self._namespace is not None:
            groups.append(namespace_of(self.cache._prefix, self._namespace(names)))
        tally = self.cache._tally

        def together(env: Env) -> Flow[bool]:
            return bump(groups, env, tally)

        return [together] if groups else []


def _target(cache: Cache, named: Any) -> _Target:
    """A cached function of ``cache``, however it was reached. Raises ``ConfigurationError`` for anything else."""
    function: Any = named
    owner: tuple[Any, ...] = ()
    if isinstance(named, Bound):
        function, owner = named.__func__, (named.__self__,)
    elif isinstance(named, OfClass):
        function = named.__func__
    if not isinstance(function, Decorated | Loader):
        what = getattr(named, "__qualname__", type(named).__qualname__)
        raise ConfigurationError(
            f"@cache.invalidates() takes functions decorated with @cache, not {what}; options are given by name, such "
            "as tags=['user:{user_id}']"
        )
    target = _Target(function, owner)
    if target.one._cache is not cache:
        raise ConfigurationError(
            f"{target.one._keys.name} is cached by another Cache; let that one's invalidates() decorate the writer, too"
        )
    return target


def _check_writer(writer: Any) -> None:
    name = getattr(writer, "__qualname__", type(writer).__qualname__)
    if isinstance(writer, Decorated | Loader | Bound | OfClass):
        raise ConfigurationError(
            f"{name} is a cached function, which runs only where nothing is stored; a writer must run every time"
        )
    if not callable(writer) or isinstance(writer, type):
        raise ConfigurationError(f"@cache.invalidates(…) decorates a function that writes, not {name}")
    if inspect.isgeneratorfunction(writer) or inspect.isasyncgenfunction(writer):
        raise ConfigurationError(
            f"{name} is a generator: nobody knows when it has written. Decorate the function that consumes it, or "
            "invalidate in it, after the last write"
        )


def _signature(writer: Callable[..., Any], name: str) -> inspect.Signature:
    try:
        return inspect.signature(writer)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name}: no signature to take arguments from: {error}") from error


def _listed(said: Any) -> list[Any]:
    return said if isinstance(said, list) else [said]


def _with_result(signature: inspect.Signature) -> inspect.Signature:
    """``signature`` with a parameter ``result``, which a writer's own of that name comes before."""
    parameters = list(signature.parameters.values())
    if _RESULT in signature.parameters:
        return signature
    at = len(parameters) - (1 if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD else 0)
    parameters.insert(at, inspect.Parameter(_RESULT, inspect.Parameter.KEYWORD_ONLY))
    return signature.replace(parameters=parameters)


def _evaluator(what: str, callback: Callable[..., Any], signature: inspect.Signature) -> Callable[[_Names], Any]:
    """Calls ``callback`` with those of the names that it takes, as ``key=`` of ``@cache`` is called. Raises
    ``ConfigurationError`` where they don't fit.
    """
    try:
        wants_result = _RESULT in inspect.signature(callback).parameters
    except (TypeError, ValueError):
        wants_result = False
    given = callback_arguments(what, callback, _with_result(signature) if wants_result else signature)
    helper = _apart(signature)
    code = compile(f"{helper}({given})", f"<cachekit {what}=>", "eval")
    return lambda names: eval(code, {helper: callback}, dict(names))


def _apart(signature: inspect.Signature) -> str:
    """A name that no parameter has."""
    helper = "_"
    while helper in signature.parameters:
        helper += "_"
    return helper


def _text(option: str, template: str, signature: inspect.Signature, name: str) -> Callable[[_Names], str]:
    """Fills in ``template``, just as ``tags=`` of ``@cache`` does. Raises ``ConfigurationError`` for a field that
    begins with no argument of the writer, which is called ``name``.
    """
    parsed: Template = parse_template(template, tuple(_with_result(signature).parameters), option)
    codes = [compile(source, f"<cachekit {option}=>", "eval") for source in parsed.expressions]
    given = f"{option}={template!r}"

    def taken(code: CodeType, field: str, names: _Names) -> str:
        try:
            value = eval(code, {}, dict(names))
        except PATH_FAULTS as error:
            raise misfit(error, name, given, field, names) from error
        return text_of(value, field)

    def fill(names: _Names) -> str:
        values = [taken(code, field, names) for code, field in zip(codes, parsed.fields, strict=True)]
        parts = [value + literal for value, literal in zip(values, parsed.literals[1:], strict=True)]
        return checked_tag(parsed.literals[0] + "".join(parts))

    return fill
