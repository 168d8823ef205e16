"""Django's transactions: what is invalidated inside one is sent when Django has committed it.

Django tells of a commit by ``django.db.transaction.on_commit``, which calls at once where no transaction is open, after
the outermost ``atomic()`` has committed where one is, and never after a rollback, a savepoint's included. So the block
of this module stands around ``atomic()``, or inside it where somebody else has opened it (``ATOMIC_REQUESTS``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Never

from django.db.transaction import on_commit

from cachekit.cache import Cache
from cachekit.errors import ConfigurationError
from cachekit.transaction import Transaction


class DjangoTransaction(Transaction):
    """One block of ``transaction(…)``, for ``with``; also a decorator of functions."""

    def __init__(self, cache: Cache, using: str | None = None) -> None:
        # Of callbacks that raise, Django goes on after those only that are robust; this one is, and raises nothing.
        super().__init__(cache, partial(on_commit, using=using, robust=True))
        self._using = using

    async def __aenter__(self) -> Never:
        raise ConfigurationError(
            "Django's transactions are synchronous: use `with` in a function that sync_to_async() calls"
        )

    def _decorated(self, function: Callable[..., Any], asynchronous: bool) -> Callable[..., Any]:
        if asynchronous:
            name = getattr(function, "__qualname__", type(function).__name__)
            raise ConfigurationError(
                f"Django's transactions are synchronous, and {name} is a coroutine function: decorate a plain one that "
                "sync_to_async() calls"
            )
        return super()._decorated(function, asynchronous)

    def _another(self) -> DjangoTransaction:
        return type(self)(self._cache, self._using)


def transaction(cache: Cache, using: str | None = None) -> DjangoTransaction:
    """A block whose invalidations are sent when Django's transaction is committed, and dropped when it is rolled back;
    at the end of the block where no transaction is open. Also a decorator, for views say.

    It is ``cache.transaction()`` in all else: an exception that leaves the block drops what was collected in it, and
    from the first invalidation on, cached functions that are called inside just run, and store nothing.

    Args:
        cache: the cache whose invalidations are meant.
        using: the database, by its alias in ``DATABASES``; the default one by default.

    Raises ``ConfigurationError`` for anything but a ``Cache``, and where it is used by ``async with``, or decorates a
    coroutine function.
    """
    if not isinstance(cache, Cache):
        raise ConfigurationError(
            f"transaction() takes a Cache of cachekit's, as in @transaction(cache), not {cache!r:.60}"
        )
    return DjangoTransaction(cache, using)
