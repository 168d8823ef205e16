"""Rows and tables as SQLAlchemy's unit of work knows them: their tags, and what an object was before its change."""

from __future__ import annotations

import inspect as python
from types import FunctionType, MethodType
from typing import Any

from sqlalchemy import Connection, Table, and_, inspect, select
from sqlalchemy.orm import Mapper, ORMExecuteState, RelationshipProperty, object_session

from cachekit.keys.tags import text_of


def tags_of_row(changed: Any) -> list[str]:
    """Of an object: for each of its tables the name, and the name with the primary key. ``"user"``, ``"user:42"``."""
    mapper: Mapper[Any] = inspect(changed.__class__)
    keys = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    row = ":".join(text_of(getattr(changed, key), key) for key in keys)
    names = [table.fullname for table in mapper.tables if isinstance(table, Table)]
    return [*names, *(f"{name}:{row}" for name in names)]


def tables_of(state: ORMExecuteState) -> list[Table]:
    """The tables that a statement changes."""
    mapper = state.bind_mapper
    found: list[Any] = list(mapper.tables) if mapper is not None else []
    found.append(getattr(state.statement, "table", None))
    return list(dict.fromkeys(table for table in found if isinstance(table, Table)))


class Before:
    """An object as it was before the change that is about to be written: attributes give the old values, properties and
    methods are worked out from those. ``connection``: where an old value is read that was never loaded.
    """

    def __init__(self, changed: Any, connection: Connection) -> None:
        self.__dict__.update(_changed=changed, _connection=connection)

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        return type(self._changed)

    def __getattr__(self, name: str) -> Any:
        changed = self.__dict__["_changed"]
        mapper: Mapper[Any] = inspect(type(changed))
        if name in mapper.synonyms:
            name = mapper.synonyms[name].name
        if name in mapper.column_attrs or name in mapper.relationships:
            return self._value(mapper, name)
        found = python.getattr_static(type(changed), name, None)
        if isinstance(found, FunctionType):
            return MethodType(found, self)
        get = getattr(found, "fget", None)  # of properties and hybrids
        return getattr(changed, name) if get is None else get(self)

    def _value(self, mapper: Mapper[Any], name: str) -> Any:
        changed = self.__dict__["_changed"]
        history = inspect(changed).attrs[name].history
        prop = mapper.attrs[name]
        if getattr(prop, "uselist", False):
            return (
                [*(history.unchanged or ()), *(history.deleted or ())]
                if history.has_changes()
                else getattr(changed, name)
            )
        if history.deleted:
            return history.deleted[0]
        if not history.added:
            return getattr(changed, name)
        if name in mapper.column_attrs:
            return self._stored(mapper, mapper.column_attrs[name].columns[0])
        return self._related(mapper, mapper.relationships[name])

    def _stored(self, mapper: Mapper[Any], column: Any) -> Any:
        """What stands in the database still: the attribute was set without being loaded."""
        identity = inspect(self.__dict__["_changed"]).identity or ()
        where = [key == value for key, value in zip(mapper.primary_key, identity, strict=True)]
        found = self.__dict__["_connection"].execute(
            select(column).select_from(mapper.persist_selectable).where(and_(*where))
        )
        return found.scalar_one_or_none()

    def _related(self, mapper: Mapper[Any], prop: RelationshipProperty[Any]) -> Any:
        """The object that the old values of the columns refer to, or None."""
        session = object_session(self.__dict__["_changed"])
        where = []
        for local, remote in prop.local_remote_pairs or ():
            value = self._value(mapper, mapper.get_property_by_column(local).key)
            if value is None:
                return None
            where.append(remote == value)
        return None if session is None else session.scalars(select(prop.mapper).where(and_(*where))).first()
