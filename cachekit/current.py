"""What a function may know of the cached call that it runs inside of."""

from __future__ import annotations

from typing import Any

from cachekit.expiry import TtlLike, parse_ttl
from cachekit.flows.frames import Notes, around
from cachekit.types import Key


class Current:
    """The cached call around the current code; true inside of one, false outside, where it is harmless.

    ``key``: the key of the entry that is being computed, None outside. ``ttl = …``: how long this result is fresh, in
    place of what the decorator says; whatever ``@cache(ttl=…)`` takes. Raises ``ConfigurationError`` for anything else.
    Under ``@cache(ttl=0)`` nothing is stored, whatever is said here.
    """

    __slots__ = ("_notes", "key")

    def __init__(self, key: Key | None, notes: Notes) -> None:
        self.key = key
        self._notes = notes

    @property
    def ttl(self) -> Any:
        """What was set here, ``UNSET`` before."""
        return self._notes.ttl

    @ttl.setter
    def ttl(self, ttl: TtlLike) -> None:
        self._notes.ttl = parse_ttl(ttl)

    @property
    def previous(self) -> Any:
        """A copy of the stored value that the result will replace; ``MISS`` where there is none, and in a batch
        loader.

        With it a function can ask its source whether anything has changed, say by an ETag that the value holds.
        """
        return self._notes.previous

    def not_modified(self) -> Any:
        """Keep the previous value, with a new freshness, whatever the function returns; gives that value.

        Raises ``LookupError`` where there is none: look at ``previous`` first.

        >>> from cachekit import MISS, Cache, current
        >>> cache = Cache("memory:")
        >>> @cache
        ... def page(url: str) -> dict:
        ...     known = current().previous
        ...     if known is not MISS and known["etag"] == "abc":  # the source says: 304 Not Modified
        ...         return current().not_modified()
        ...     return {"etag": "abc", "text": "Hello"}
        >>> page("/") == page.refresh("/")
        True
        """
        found = self._notes.look() if self._notes.look is not None else None
        if found is None:
            raise LookupError("there is no previous value to keep; current().previous is MISS")
        self._notes.kept = found
        return found[0]

    def tag(self, *tags: str) -> None:
        """Let this result bear ``tags`` beside those of the decorator; to invalidate one of them voids it.

        Name a tag before reading what it stands for. A result whose tag was made or invalidated while it was computed
        is returned, but not stored; the next run with the same tags is. Reading such an entry takes one more round
        trip than one whose tags the decorator tells. Raises ``ConfigurationError`` (a ``ValueError``) for what is no
        tag, and for more than 128; gives a ``UserWarning`` for a template such as ``"user:{user_id}"``, which only
        decorators fill in.

        >>> from cachekit import Cache, current
        >>> cache = Cache("memory:")
        >>> @cache
        ... def page(slug: str) -> str:
        ...     author = {"intro": "ada"}[slug]
        ...     current().tag(f"author:{author}")
        ...     return f"{slug} by {author}"
        >>> page("intro"), page("intro"), cache.invalidate_tags("author:ada"), page("intro"), page.info().fills
        ('intro by ada', 'intro by ada', True, 'intro by ada', 3)
        """
        from cachekit.keys.tags import checked_tags, warn_of_templates  # noqa: PLC0415 - it brings hashes along

        warn_of_templates(tags)
        named = checked_tags((*self._notes.tags, *tags))
        self._notes.name(named)

    def do_not_store(self) -> None:
        """Return this result to the caller, and don't store it."""
        self._notes.store = False

    def __bool__(self) -> bool:
        return self.key is not None

    def __repr__(self) -> str:
        return f"<current {self.key!r}>" if self.key is not None else "<current: not inside a cached call>"


class _Current:
    """Calling it gives the innermost cached call around the current code. An object and not a function, so that who
    forgets the parentheses in ``current.ttl = …`` is told.
    """

    __slots__ = ()

    def __call__(self) -> Current:
        """The innermost cached call that is being computed here, in this thread or task.

        >>> from cachekit import Cache, current
        >>> cache = Cache("memory:")
        >>> @cache
        ... def report(n: int) -> bool:
        ...     if n > 99:
        ...         current().ttl = "1h"
        ...     return current().key == report.key(n)
        >>> report(1), bool(current())
        (True, False)
        """
        inside = around()
        return Current(Key(inside[-1].key.decode()), inside[-1].notes) if inside else Current(None, Notes())

    def __repr__(self) -> str:
        return "cachekit.current"


current = _Current()
