"""What a cache has for code that writes: ``@cache.invalidates(…)`` and ``cache.transaction()``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from cachekit.errors import ConfigurationError

if TYPE_CHECKING:
    from cachekit.invalidates import Invalidates
    from cachekit.transaction import OnCommit, Transaction


class Writers:
    """The part of a ``Cache`` that writers use."""

    def invalidates(
        self,
        /,
        *functions: Any,
        args: Callable[..., Any] | None = None,
        tags: str | Iterable[str] | Callable[..., Iterable[str]] = (),
        namespace: str | None = None,
    ) -> Invalidates:
        """Decorate a function that writes: when it has succeeded, what it makes wrong is invalidated. Where it raises
        an exception nothing is; where it is interrupted, it may have written.

        Args:
            functions: cached functions, methods or batch loaders of this cache, sync or async. Without ``args`` every
                entry of theirs is voided.
            args: a function of the writer's arguments that says which entries: a tuple or a dict of arguments, as
                ``invalidate`` of the cached function takes them, a call made by ``bind()``, or a list of these.
            tags: templates of the writer's arguments such as ``"user:{user_id}"``, or a function of them.
            namespace: a namespace that is voided, or a template of it.

        These functions take what they name of the writer's arguments, the others as ``**_``, and what the writer
        returned as ``result``. They are called when it has returned. A server that can't be told is reported as in
        every invalidation; the writer's caller never sees it. Raises ``ConfigurationError``, mostly at decoration.

        >>> from cachekit import Cache
        >>> cache = Cache("memory:")
        >>> names = {7: "Ada"}
        >>> @cache
        ... def greeting(user_id: int) -> str:
        ...     return f"Hello {names[user_id]}"
        >>> @cache.invalidates(greeting, args=lambda user_id, **_: (user_id,))
        ... def rename(user_id: int, name: str) -> None:
        ...     names[user_id] = name
        >>> greeting(7), rename(7, "Grace"), greeting(7)
        ('Hello Ada', None, 'Hello Grace')
        """
        from cachekit.invalidates import Invalidates  # noqa: PLC0415 - few processes need it (docs/design/imports.md)

        return Invalidates(self, functions, args, tags, namespace)  # type: ignore[arg-type]

    def transaction(self, misplaced: None = None, /, *, on_commit: OnCommit | None = None) -> Transaction:
        """A block, ``with`` or ``async with``, whose invalidations are sent together when it has ended well; where it
        raises an exception they are dropped. Also a decorator, for functions and coroutine functions.

        Put the database's transaction inside, so that they are sent after its commit. They are those of this cache that
        are made by this thread or task, and by what it starts inside, until the block ends: of entries, functions, tags
        and namespaces, and by ``invalidates``. The verbs return False meanwhile: nothing is acknowledged yet. From the
        first one on, cached functions that are called inside just run, and store nothing.

        A block inside another joins that one; where it raises, its own are dropped. An interruption that is no
        ``Exception``, such as a cancelled task, does not tell whether the database has committed: they are sent.

        Args:
            on_commit: is given a function without arguments that sends them, to be called later, as by Django's
                ``transaction.on_commit``; in ``async with`` a coroutine function.

        Direct verbs such as ``delete`` are not put off. Raises ``ConfigurationError``.

        >>> from cachekit import Cache
        >>> cache = Cache("memory:")
        >>> @cache(tags=["users"])
        ... def users() -> list[str]:
        ...     return ["Ada"]
        >>> with cache.transaction() as block:
        ...     cache.invalidate_tags("users")
        False
        >>> block.acknowledged
        True
        """
        if misplaced is not None:
            raise ConfigurationError(
                "cache.transaction() takes nothing without a name: as a decorator write @cache.transaction(), with "
                "parentheses, and what sends later is on_commit=…"
            )
        from cachekit.transaction import Transaction  # noqa: PLC0415 - few processes need it (docs/design/imports.md)

        return Transaction(self, on_commit)  # type: ignore[arg-type]
