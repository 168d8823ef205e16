"""What a SQLAlchemy session has changed is invalidated when its transaction is committed.

Every row that a flush inserts, updates or deletes gives tags, as does every statement that changes a table. They are
collected for each transaction of the session. A savepoint's go to what is around it when it is released, and are
dropped when it is rolled back; the outermost transaction's are invalidated after its commit, and dropped when it is
rolled back.

From the first change on, the code of that thread or task runs around the cache until the session's transaction ends:
what it reads is not committed yet.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, event
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import (
    Mapper,
    ORMExecuteState,
    Session,
    SessionTransaction,
    object_session,
    scoped_session,
    sessionmaker,
)

from cachekit.cache import Cache
from cachekit.errors import ConfigurationError
from cachekit.flows.tell import bump, tags_of
from cachekit.integrations._rows import Before, tables_of, tags_of_row
from cachekit.keys.tags import checked_tag
from cachekit.sync.drive import run
from cachekit.transaction import Around

T = TypeVar("T")
TagsOf = Callable[[Any], "Iterable[str] | str | None"]
"""Gives the tags of something that has changed."""

_COMMITTED_LATER = "cachekit: committed later"


def invalidate_on_commit(target: T, cache: Cache, tags: TagsOf | None = None, bulk: TagsOf | None = None) -> T:
    """Invalidate, after each commit of a session, the tags of what it has changed. Returns ``target``.

    Args:
        target: a ``sessionmaker``, a ``scoped_session``, a ``Session`` or a class of sessions; or asyncio's: an
            ``async_sessionmaker``, an ``async_scoped_session`` or an ``AsyncSession``.
        cache: the cache that has the entries.
        tags: a function of a changed object that returns its tags; of an update it is asked twice, once with the values
            before. By default ``"user"`` and ``"user:42"`` for row 42 of the table ``user``, with colons between the
            columns of a longer primary key.
        bulk: a function of a table that returns the tags for a statement that changes it, such as
            ``session.execute(update(…))``, which tells nobody which rows. By default the table's name.

    Raises ``ConfigurationError`` for any other target or cache. What ``tags`` raises reaches whoever flushes, before
    the commit.

    >>> from cachekit import Cache
    >>> from cachekit.integrations.sqlalchemy import invalidate_on_commit
    >>> from sqlalchemy.orm import sessionmaker
    >>> cache = Cache("memory:")
    >>> Session = invalidate_on_commit(sessionmaker(), cache)
    """
    if not isinstance(cache, Cache):
        raise ConfigurationError(f"invalidate_on_commit() takes a Cache of cachekit's second, not {cache!r:.60}")
    for option, given in (("tags", tags), ("bulk", bulk)):
        if given is not None and not callable(given):
            raise ConfigurationError(f"{option}={given!r:.60}: a function that returns tags")
        if given is not None and not _takes_one(given):
            what = "changed object" if option == "tags" else "table"
            raise ConfigurationError(f"{option}= is called with one argument, the {what}, and can't be")
    watch = _Watch(cache, tags or tags_of_row, bulk or _name_of)
    watch.listen(_sessions(target))
    _listen_to_rows()
    return target


def _takes_one(function: TagsOf) -> bool:
    """Whether it can be called with one argument, as far as can be told."""
    try:
        told = signature(function)
    except (TypeError, ValueError):  # built in: it has none
        return True
    try:
        told.bind(None)
    except TypeError:
        return False
    return True


def _sessions(target: Any) -> Any:
    """What SQLAlchemy listens to for ``target``. Raises ``ConfigurationError``."""
    if isinstance(target, async_scoped_session):
        target = target.session_factory
    if isinstance(target, AsyncSession):
        return target.sync_session
    if isinstance(target, async_sessionmaker):
        # The class that it makes sync sessions of, so that nobody else's hear of this.
        base: Any = target.kw.get("sync_session_class") or getattr(target.class_, "sync_session_class", Session)
        own = type(base.__name__, (base,), {})
        target.configure(sync_session_class=own)
        return own
    of_threads = isinstance(target, sessionmaker | scoped_session | Session)
    if not of_threads and not (isinstance(target, type) and issubclass(target, Session)):
        what = getattr(target, "__name__", type(target).__name__)
        raise ConfigurationError(
            "invalidate_on_commit() takes a sessionmaker, a scoped_session, a Session or a class of sessions, or "
            f"asyncio's, not {what}"
        )
    return target


def _name_of(table: Table) -> str:
    return table.fullname


class _Pending:
    """What one session has changed, and not committed yet: tags by transaction, the savepoints' apart.

    ``attempts``: commits that were begun and have not come back. ``lasting``: what it changes stays, whatever becomes
    of the transaction, since the database commits every statement. ``released``: the savepoint that was last.
    ``around`` holds what has the code run around the cache.
    """

    def __init__(self, session: Session) -> None:
        self.around: list[Around] = []
        # A session that is dropped in the middle of a transaction tells nobody.
        weakref.finalize(session, _leave, self.around).atexit = False
        self.begin()

    def begin(self) -> None:
        """Nothing is changed."""
        self.levels: dict[SessionTransaction | None, dict[str, None]] = {}
        self.connections: list[Connection] = []
        self.attempts = 0
        self.lasting = False
        self.released: SessionTransaction | None = None

    def changed(self, session: Session, cache: Cache, tags: Iterable[str]) -> None:
        """Collect tags for the transaction that the session is in, or is about to begin."""
        if not self.around:
            self.around.append(Around(cache))
        self.around[0].enter()
        self.around[0].switch(True)
        inside = session.get_nested_transaction() or session.get_transaction()
        self.levels.setdefault(inside, {}).update(dict.fromkeys(tags))

    def release(self, savepoint: SessionTransaction) -> None:
        """What was changed since the savepoint belongs to what is around it."""
        self.released = savepoint
        around = savepoint.parent
        while around is not None and not around.nested and around.parent is not None:
            around = around.parent
        tags = self.levels.pop(savepoint, {})
        if tags:
            self.levels.setdefault(around, {}).update(tags)

    def drop(self, savepoint: SessionTransaction) -> None:
        """It has been rolled back; where its release was tried, that one has come back."""
        self.levels.pop(savepoint, None)
        self.attempts = max(0, self.attempts - 1)
        if not self.levels and self.around:
            self.around[0].switch(False)

    def end(self) -> tuple[dict[str, None], list[Connection]]:
        """The transaction is over: the tags of all levels, and the connections that they were changed on."""
        tags = {tag: None for level in self.levels.values() for tag in level}
        connections = self.connections
        _leave(self.around)
        self.begin()
        return tags, connections


def _leave(around: list[Around]) -> None:
    while around:
        around.pop().leave()


class _Watch:
    """Sees to the sessions of one target."""

    def __init__(self, cache: Cache, tags: TagsOf, bulk: TagsOf) -> None:
        self._cache, self._tags, self._bulk = cache, tags, bulk

    def listen(self, sessions: Any) -> None:
        """Hear of everything that these sessions do."""
        for name in (
            "do_orm_execute", "before_flush", "after_begin", "before_commit", "after_commit", "after_transaction_end",
        ):  # fmt: skip
            event.listen(sessions, name, getattr(self, f"_{name}"))

    def pending(self, session: Session) -> _Pending:
        """What ``session`` has changed in its present transaction."""
        found = session.info.get(self)
        if not isinstance(found, _Pending):
            found = session.info[self] = _Pending(session)
        return found

    # -- what changes ------------------------------------------------------------------------------------------------

    def row(self, session: Session, changed: Any) -> None:
        """A row was changed; ``changed`` is its object, or what that was before."""
        self.pending(session).changed(session, self._cache, _texts(self._tags(changed)))

    def _do_orm_execute(self, state: ORMExecuteState) -> None:
        if state.is_insert or state.is_update or state.is_delete:
            for table in tables_of(state):
                self.pending(state.session).changed(state.session, self._cache, _texts(self._bulk(table)))

    def _before_flush(self, session: Session, context: object, instances: object) -> None:
        self.pending(session)  # so that rows of this session are known to be watched

    # -- what becomes of it ------------------------------------------------------------------------------------------

    def _after_begin(self, session: Session, transaction: object, connection: Connection) -> None:
        pending = self.pending(session)
        pending.connections.append(connection)
        pending.lasting = pending.lasting or _commits_each_statement(connection)

    def _before_commit(self, session: Session) -> None:
        self.pending(session).attempts += 1

    def _after_commit(self, session: Session) -> None:
        pending, savepoint = self.pending(session), session.get_nested_transaction()
        if savepoint is not None:
            pending.attempts -= 1
            pending.release(savepoint)
            return
        tags, connections = pending.end()
        if tags:
            for connection in connections:
                if not connection.closed and connection.in_transaction():
                    self._committed_later(connection, tags)
            self.send(tags)

    def _after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        """Also after a commit, when nothing is left."""
        pending = self.pending(session)
        if transaction.nested:
            if transaction is not pending.released:
                pending.drop(transaction)
        elif transaction.parent is None:
            # A commit that did not come back may have happened all the same. Nobody knows, and to invalidate is
            # harmless.
            in_doubt = pending.lasting or pending.attempts > 0
            tags, _ = pending.end()
            if in_doubt and tags:
                self.send(tags)

    def _committed_later(self, connection: Connection, tags: dict[str, None]) -> None:
        """The session joined a transaction that somebody else commits. Nothing tells when, but when its connection is
        given back it has ended.
        """
        pool = connection.engine.pool
        if not event.contains(pool, "checkin", _given_back):
            event.listen(pool, "checkin", _given_back)
        connection.info.setdefault(_COMMITTED_LATER, {}).setdefault(self, {}).update(tags)

    def send(self, tags: Iterable[str]) -> None:
        """Invalidate ``tags``, by the shell of who commits."""
        cache = self._cache
        flow = bump(tags_of(cache._prefix, tags), cache._env, cache._tally)
        if not _in_event_loop():
            run(flow, cache._fleet)
            return
        from sqlalchemy.util import await_only  # noqa: PLC0415 - it needs greenlet

        from cachekit.aio.drive import run as drive  # noqa: PLC0415 - it brings asyncio

        await_only(drive(flow, cache._loops.here()))


def _given_back(_: object, record: Any) -> None:
    later: dict[_Watch, dict[str, None]] = record.info.pop(_COMMITTED_LATER, {})
    for watch, tags in later.items():
        watch.send(tags)


def _texts(tags: Iterable[str] | str | None) -> list[str]:
    """What a function of the user's returned. Raises ``ConfigurationError`` for what is no tag."""
    if tags is None:
        return []
    return [checked_tag(tag) for tag in ([tags] if isinstance(tags, str) else tags)]


def _in_event_loop() -> bool:
    """Whether this is the inside of one of SQLAlchemy's coroutines, which may wait but not block."""
    if "greenlet" not in sys.modules:
        return False
    from sqlalchemy.util.concurrency import in_greenlet  # noqa: PLC0415 - it needs greenlet

    return in_greenlet()


def _commits_each_statement(connection: Connection) -> bool:
    """Whether the connection is in autocommit mode."""
    level = connection.get_execution_options().get("isolation_level")
    return (level or getattr(connection.dialect, "_on_connect_isolation_level", None)) == "AUTOCOMMIT"


# -- rows -----------------------------------------------------------------------------------------------------------


def _listen_to_rows() -> None:
    """Hear of every row that a flush changes, of those alone whose sessions are watched."""
    if not event.contains(Mapper, "after_insert", _row_is_there):
        event.listen(Mapper, "after_insert", _row_is_there)
        event.listen(Mapper, "before_update", _row_will_change)
        event.listen(Mapper, "after_update", _row_has_changed)
        event.listen(Mapper, "before_delete", _row_will_go)


def _watched(changed: Any) -> list[tuple[_Watch, Session]]:
    session = object_session(changed)
    return [(each, session) for each in list(session.info) if isinstance(each, _Watch)] if session is not None else []


def _row_is_there(_: object, connection: Connection, changed: Any) -> None:
    for watch, session in _watched(changed):
        watch.row(session, changed)


def _row_will_change(_: object, connection: Connection, changed: Any) -> None:
    for watch, session in _watched(changed):
        if session.is_modified(changed):
            watch.row(session, Before(changed, connection))


def _row_has_changed(_: object, connection: Connection, changed: Any) -> None:
    for watch, session in _watched(changed):
        if session.is_modified(changed):
            watch.row(session, changed)


def _row_will_go(_: object, connection: Connection, changed: Any) -> None:
    for watch, session in _watched(changed):
        watch.row(session, Before(changed, connection))
