"""The verbs about many entries at once: tags and namespaces.

There is no verb for a pattern such as ``user:*``. Memcached has no list of its keys to match it against; to walk all of
them takes seconds and misses what is stored meanwhile, so it could never promise what these verbs do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachekit.sync.drive import run

if TYPE_CHECKING:
    from cachekit.env import Env
    from cachekit.flows.tell import Group
    from cachekit.sync.fleet import Fleet
    from cachekit.tally import Tally


class GroupVerbs:
    """The blocking verbs of a cache about groups of entries.

    Each returns True once every server has acknowledged, at a cost that does not depend on how many entries there are:
    one window over the servers, two for the soft ones. False: at least one could not be asked.
    """

    _prefix: bytes
    _fleet: Fleet
    _env: Env
    _tally: Tally

    def invalidate_tags(self, *tags: str) -> bool:
        """Void every entry that bears one of ``tags``, and any fill of one under way. A tag is meant as it stands:
        ``*`` is no wildcard, and a template such as ``"user:{user_id}"``, which only decorators fill in, gives a
        ``UserWarning``.

        True once every server has acknowledged: from then no caller anywhere gets a value computed before. Raises
        ``ConfigurationError`` (a ``ValueError``) for a tag that is no text, or empty.

        >>> from cachekit import Cache
        >>> cache = Cache("memory:")
        >>> @cache(tags=["user:{user_id}"])
        ... def report(user_id: int) -> str:
        ...     return f"report of {user_id}"
        >>> report(42), cache.invalidate_tags("user:42"), report(42), report.info().fills
        ('report of 42', True, 'report of 42', 2)
        """
        from cachekit.flows.tell import tags_of  # noqa: PLC0415 - not on the usual ways
        from cachekit.keys.tags import warn_of_templates  # noqa: PLC0415

        warn_of_templates(tags)
        return self._bump(tags_of(self._prefix, tags))

    def expire_tags(self, *tags: str) -> bool:
        """Invalidate every entry that bears one of ``tags`` softly: for each, the next caller refreshes it, and the
        others are served the old value meanwhile, as long as it may be stale by its header.

        True once every server has acknowledged. Raises as ``invalidate_tags`` does.
        """
        from cachekit.flows.tell import tags_of  # noqa: PLC0415 - not on the usual ways
        from cachekit.keys.tags import warn_of_templates  # noqa: PLC0415

        warn_of_templates(tags)
        return self._bump(tags_of(self._prefix, tags), soft=True)

    def invalidate_namespace(self, namespace: str) -> bool:
        """Void every entry of every function that is decorated with that namespace, or whose call came to it.

        True once every server has acknowledged. Raises ``ConfigurationError`` for what is no text, or empty.
        """
        from cachekit.flows.tell import namespace_of  # noqa: PLC0415 - not on the usual ways

        return self._bump([namespace_of(self._prefix, namespace)])

    def expire_namespace(self, namespace: str) -> bool:
        """Invalidate every entry of the namespace softly; see ``expire_tags``."""
        from cachekit.flows.tell import namespace_of  # noqa: PLC0415 - not on the usual ways

        return self._bump([namespace_of(self._prefix, namespace)], soft=True)

    def _bump(self, groups: list[Group], *, soft: bool = False) -> bool:
        from cachekit.flows.tell import bump  # noqa: PLC0415 - not on the usual ways

        return run(bump(groups, self._env, self._tally, soft=soft), self._fleet)
