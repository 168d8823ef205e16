"""How a function that has ``near=`` is called: the near tier first, then everything that any call goes through.

A wire key costs a microsecond, mostly for BLAKE2b, and a hit in the same process need not pay for it. So the function
gets a ``__call__`` of its own, generated once, which for ``def report(user_id, *, month)`` is, with readable names::

    def __call__(self, /, user_id, *, month):
        if (type(user_id) is str or type(user_id) is int or …) and (…month…):
            key = (user_id, month)
            node = table.get(key)
            if node is not None and node.ends > now() and node.epoch == hub.epoch and not (off or inside or listeners):
                node.hits += 1
                return node.value
            return keyed(key, (user_id,), {"month": month})
        return odd((user_id, month), (user_id,), {"month": month})

Of int, str and None no two are equal across types, so a tuple of them is as good as typed; what has equals of other
types (``True``, ``1.0``, bytes, tuples) is wrapped first, and everything else goes by its wire key. The table holds
what was found by its wire key once. The method stands on a class made for this one function: there Python looks for
``__call__``, and calling it takes no second frame.
"""

from __future__ import annotations

import inspect
import struct
import types
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cachekit.decorator import is_async
from cachekit.env import Job
from cachekit.flows.frames import FILLING, around, passed_by
from cachekit.flows.nearby import renewed, tell_hit, value_of
from cachekit.keys.compile import written
from cachekit.near.tier import PACKED, Node
from cachekit.ops import Flow

if TYPE_CHECKING:
    from cachekit.function import Decorated
    from cachekit.near.hub import Hub
    from cachekit.near.tier import Tier

_SIMPLE: Final = frozenset({int, str, type(None)})
_LONGEST: Final = 16
"""Items of a tuple up to which its wire key is not the cheaper one."""
_pack_float = struct.Struct("<d").pack


def plain_class(function: Decorated[..., Any]) -> type[Any]:
    """The class of ``function`` as it was before it got a ``__call__`` of its own."""
    kind = type(function)
    return kind.__dict__.get("_plain_class", kind)  # type: ignore[no-any-return]


def typed(values: tuple[Any, ...], depth: int = 4) -> tuple[Any, ...] | None:
    """``values`` such that they are equal only where their types are; None where that takes a wire key. ``depth``: how
    far tuples may be nested in them.
    """
    found: list[Any] = []
    for value in values:
        kind = type(value)
        if kind in _SIMPLE:
            found.append(value)
        elif kind is bool or kind is bytes:
            found.append((kind, value))
        elif kind is float and value == value:
            found.append((kind, _pack_float(value)))  # 0.0 and −0.0 are two keys on the wire, too
        elif kind is tuple and len(value) <= _LONGEST and depth:
            inner = value if _SIMPLE.issuperset(map(type, value)) else typed(value, depth - 1)
            if inner is None:
                return None
            found.append((kind, inner))
        else:
            return None
    return tuple(found)


class NearCalls:
    """The calls of one function. ``read`` asks the servers, with a ticket; ``drive`` takes a flow to its value. Of an
    ``async def`` both return what is awaited.
    """

    def __init__(
        self,
        function: Decorated[..., Any],
        hub: Hub,
        tier: Tier,
        read: Callable[..., Any],
        drive: Callable[[Flow[Any]], Any],
    ) -> None:
        self.cache, self.env = function._cache, function._cache._env
        self.recipe, self.keys = function._ready(), function._keys
        self.function, self.hub, self.tier, self.drive, self.read = function._function, hub, tier, drive, read
        self.table = hub.table(tier)

    def bare(self) -> Callable[..., Any]:
        """The function itself, to be called just now, while the cache is off."""
        passed_by(self.keys.name)
        return self.function

    def ask(self, key: bytes, node: Node | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The way of a call that found nothing here. ``node``: what was kept, if its server is to be asked whether it
        has changed.
        """
        ticket = self.hub.ticket()
        if node is None:
            return self.read(key, self.function, args, kwargs, ticket)
        bears = self.keys.tags
        tags = bears(*args, **kwargs) if bears is not None else ()
        job = Job(self.recipe, key, node.server, partial(self.function, *args, **kwargs), tags, ticket)
        return self.drive(renewed(job, self.env, node))

    def value(self, node: Node) -> Any:
        """What a caller gets of a ``node`` that was found, counted; ``PACKED`` where it is gone."""
        value = value_of(self.recipe, node)
        if value is not PACKED:
            node.hits += 1
            tell_hit(self.recipe, self.env, node)
        return value

    def look(self, key: bytes, near_key: tuple[Any, ...] | None) -> tuple[Any, Node | None]:
        """The value of ``key`` where it is kept, else ``PACKED``; and the node whose server may be asked if it has
        changed.
        """
        if FILLING.get() and around():
            return PACKED, None  # see ``flows.nearby``
        node = self.hub.find(self.tier, key)
        if node is None:
            return PACKED, None
        now = self.hub.monotonic()
        if node.ends <= now:
            return PACKED, node if node.cas and now < node.own_end else None
        value = self.value(node)
        if near_key is not None and node.aliases is None:
            self.hub.alias(self.tier, node, self.table, near_key)
        return value, None

    def quick(self, near_key: tuple[Any, ...] | None) -> Any:
        """The value under a key of the table, else ``PACKED``."""
        node = None if near_key is None else self.table.get(near_key)
        if node is None or node.ends <= self.hub.monotonic() or node.epoch != self.hub.epoch:
            return PACKED
        return PACKED if FILLING.get() and around() else self.value(node)


class SyncCalls(NearCalls):
    """The calls of a plain function."""

    def keyed(self, near_key: tuple[Any, ...] | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that was not answered by the table."""
        if self.cache.off and self.cache.is_disabled():
            return self.bare()(*args, **kwargs)
        return self.by_wire(self.keys.make(*args, **kwargs), near_key, args, kwargs)

    def odd(self, values: tuple[Any, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call with arguments of other types."""
        if self.cache.off and self.cache.is_disabled():
            return self.bare()(*args, **kwargs)
        near_key = typed(values)
        value = self.quick(near_key)
        return value if value is not PACKED else self.keyed(near_key, args, kwargs)

    def whole(self, *args: Any, **kwargs: Any) -> Any:
        """A call whose near key can't be told from its arguments."""
        return self.keyed(None, args, kwargs)

    def by_wire(
        self, key: bytes, near_key: tuple[Any, ...] | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A call of which the wire key is known."""
        value, node = self.look(key, near_key)
        return value if value is not PACKED else self.ask(key, node, args, kwargs)


class AsyncCalls(NearCalls):
    """The calls of an ``async def``. Arguments that can't be keyed raise where the call stands; the look is taken when
    it is awaited.
    """

    async def keyed(self, near_key: tuple[Any, ...] | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that was not answered by the table."""
        return await self.by_wire(self.keys.make(*args, **kwargs), near_key, args, kwargs)

    def odd(self, values: tuple[Any, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call with arguments of other types, or while the cache may be off."""
        if self.cache.off and self.cache.is_disabled():
            return self.bare()(*args, **kwargs)
        near_key = typed(values)
        if near_key is not None:  # then they can be keyed
            return self.named(near_key, args, kwargs)
        return self.by_wire(self.keys.make(*args, **kwargs), None, args, kwargs)

    async def named(self, near_key: tuple[Any, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that may be found in the table."""
        value = self.quick(near_key)
        return value if value is not PACKED else await self.keyed(near_key, args, kwargs)

    def whole(self, *args: Any, **kwargs: Any) -> Any:
        """A call whose near key can't be told from its arguments."""
        if self.cache.off and self.cache.is_disabled():
            return self.bare()(*args, **kwargs)
        return self.by_wire(self.keys.make(*args, **kwargs), None, args, kwargs)

    async def by_wire(
        self, key: bytes, near_key: tuple[Any, ...] | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A call of which the wire key is known."""
        value, node = self.look(key, near_key)
        return value if value is not PACKED else await self.ask(key, node, args, kwargs)


def install(
    function: Decorated[..., Any],
    hub: Hub,
    tier: Tier,
    read: Callable[..., Any],
    drive: Callable[[Flow[Any]], Any],
) -> Callable[..., Any]:
    """Have ``function`` look into ``tier`` first. Returns what answers a call of which the wire key is known."""
    base = plain_class(function)
    kind = AsyncCalls if is_async(function.uncached) else SyncCalls
    calls: SyncCalls | AsyncCalls = kind(function, hub, tier, read, drive)
    namespace = {
        "__call__": _generated(function, calls),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "_plain_class": base,
    }
    function.__class__ = types.new_class(base.__name__, (base,), exec_body=lambda body: body.update(namespace))
    # Of ``calls`` and not of the function, which outlives them where cachekit.testing sets its cache apart.
    finalizer = weakref.finalize(calls, hub.drop_table, tier, calls.table)
    finalizer.atexit = False

    def by_wire(key: bytes, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return calls.by_wire(key, None, args, kwargs)

    return by_wire


def _generated(function: Decorated[..., Any], calls: SyncCalls | AsyncCalls) -> Callable[..., Any]:
    """The ``__call__``: of the function's own signature where that says all about its arguments."""
    parameters = list(calls.keys.signature.parameters.values())
    inner, kinds = calls.function, inspect.Parameter
    various = any(each.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD) for each in parameters)
    own = type(inner) is types.FunctionType and not {"__wrapped__", "__signature__"} & set(vars(inner))
    if not own or various or calls.keys.counted is None:
        whole = calls.whole
        return lambda _, /, *args, **kwargs: whole(*args, **kwargs)  # noqa: PLW0108 - the function itself is left out
    h = "_"
    while any(each.name.startswith(h) for each in parameters):
        h += "_"
    scope = {h + name: value for name, value in _helpers(calls).items()}
    asynchronous = isinstance(calls, AsyncCalls)
    source = (_async_source if asynchronous else _sync_source)(parameters, calls.keys.counted, h)
    exec(compile(source, f"<cachekit near calls of {calls.keys.name}>", "exec"), scope)
    generated: Any = scope["generated"]
    given = [each for each in parameters if each.default is not kinds.empty]
    generated.__defaults__ = tuple(each.default for each in given if each.kind is not kinds.KEYWORD_ONLY) or None
    generated.__kwdefaults__ = {each.name: each.default for each in given if each.kind is kinds.KEYWORD_ONLY} or None
    generated.__name__, generated.__qualname__ = "__call__", f"{function.__qualname__}.__call__"
    if asynchronous:
        here: Any = scope[h + "here"]
        here.__name__, here.__qualname__ = function.__name__, function.__qualname__
    return generated  # type: ignore[no-any-return]


def _helpers(calls: SyncCalls | AsyncCalls) -> dict[str, Any]:
    return {
        "type": type, "int": int, "str": str, "none": type(None), "get": calls.table.get, "now": calls.hub.monotonic,
        "hub": calls.hub, "state": vars(calls.cache), "inside": FILLING.get, "hooked": calls.env.hooks.on_hit,
        "packed": PACKED, "value": partial(value_of, calls.recipe), "keyed": calls.keyed, "odd": calls.odd,
    }  # fmt: skip


def _sync_source(parameters: list[inspect.Parameter], counted: tuple[str, ...], h: str) -> str:
    values, args, kwargs = _tuple(counted), *_passed(parameters)
    return "\n".join(
        [
            f"def generated({_with_self(parameters, h)}):",
            f"    if {_simple(counted, h)}:",
            *_look(values, h, f" and not {h}state['off']"),
            f"        return {h}keyed({h}key, {args}, {kwargs})",
            f"    return {h}odd({values}, {args}, {kwargs})",
        ]
    )


def _async_source(parameters: list[inspect.Parameter], counted: tuple[str, ...], h: str) -> str:
    values, args, kwargs = _tuple(counted), *_passed(parameters)
    names = "".join(f", {each.name}" for each in parameters)
    return "\n".join(
        [
            f"async def {h}here({h}self{names}):",
            "    if True:",
            *_look(values, h, ""),
            f"        return await {h}keyed({h}key, {args}, {kwargs})",
            f"def generated({_with_self(parameters, h)}):",
            f"    if {_simple(counted, h)} and not {h}state['off']:",
            f"        return {h}here({h}self{names})",
            f"    return {h}odd({values}, {args}, {kwargs})",
        ]
    )


def _look(values: str, h: str, unless: str) -> list[str]:
    """The look into the table, eight columns in."""
    timely = f"{h}node.ends > {h}now() and {h}node.epoch == {h}hub.epoch"
    return [
        f"        {h}key = {values}",
        f"        {h}node = {h}get({h}key)",
        f"        if {h}node is not None and {timely}{unless} and not {h}inside() and not {h}hooked.listeners:",
        f"            {h}node.hits += 1",
        f"            {h}found = {h}node.value",
        f"            if {h}found is not {h}packed:",
        f"                return {h}found",
        f"            {h}found = {h}value({h}node)",
        f"            if {h}found is not {h}packed:",
        f"                return {h}found",
    ]


def _simple(counted: tuple[str, ...], h: str) -> str:
    """Whether every argument is an int, a str or None."""
    kind = f"{h}kind"
    kinds = f"{kind} is {h}int or {kind} is {h}none"
    return " and ".join(f"(({kind} := {h}type({name})) is {h}str or {kinds})" for name in counted) or "True"


def _tuple(names: tuple[str, ...]) -> str:
    return f"({''.join(name + ', ' for name in names)})"


def _passed(parameters: list[inspect.Parameter]) -> tuple[str, str]:
    """The arguments as they are passed on: a function of one's own can't tell how it was given them."""
    by_name = [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
    in_order = [each.name for each in parameters if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    return _tuple(tuple(in_order)), "{" + ", ".join(f"{name!r}: {name}" for name in by_name) + "}"


def _with_self(parameters: list[inspect.Parameter], h: str) -> str:
    """The parameters as source, behind the function itself."""
    if any(each.kind is inspect.Parameter.POSITIONAL_ONLY for each in parameters):
        return f"{h}self, {written(parameters)}"
    return f"{h}self, /{', ' if parameters else ''}{written(parameters)}"
