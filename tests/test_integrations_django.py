"""``cachekit.integrations.django``: invalidations are sent when Django commits, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections, models
from django.db.transaction import atomic, on_commit, set_rollback
from support.django_project import set_up, use_postgresql
from support.postgres import Postgres
from support.targets import own_prefix, url_of
from support.threads import Outcome

from cachekit import MISS, Cache, ConfigurationError
from cachekit.integrations.django import DjangoTransaction, transaction
from cachekit.testing import make_cache


@pytest.fixture(scope="module", name="databases")
def databases_fixture(postgres: Postgres) -> Iterator[type[Any]]:
    """Django with two real databases; the model that stands in both."""
    set_up()
    use_postgresql(postgres.port)

    class Item(models.Model):  # type: ignore[misc]
        """A row."""

        name = models.TextField()

        class Meta:
            app_label = "tests"

    for alias in connections:
        with connections[alias].schema_editor() as editor:
            editor.create_model(Item)
    yield Item
    connections.close_all()


class World:
    """One item in one of the databases, and a cache of its name."""

    def __init__(self, alias: str, item: type[Any], cache: Cache) -> None:
        self.using, self.cache = alias, cache
        self.rows = item.objects.using(alias)
        self.rows.all().delete()
        self.rows.create(id=1, name="old")
        self.told: list[bool] = []
        cache.hooks.on_invalidate(lambda event: self.told.append(event.acknowledged))

        @cache(ttl="1h", tags=["item:{number}"])
        def name(number: int) -> str:
            found: str = self.rows.get(id=number).name
            return found

        @cache.invalidates(tags=["item:{number}"])
        def rename(number: int, to: str) -> None:
            self.rows.filter(id=number).update(name=to)

        self.name, self.rename = name, rename

    def transaction(self) -> DjangoTransaction:
        """A block of the integration."""
        return transaction(self.cache, self.using)

    def atomic(self, **options: Any) -> Any:
        """A block of Django's."""
        return atomic(self.using, **options)


@pytest.fixture(name="alias", params=["default", "postgresql"])
def alias_fixture(request: pytest.FixtureRequest) -> str:
    """Each database."""
    alias: str = request.param
    return alias


@pytest.fixture(name="world")
def world_fixture(alias: str, databases: type[Any]) -> World:
    """A world in each database."""
    return World(alias, databases, make_cache())


def test_outside_of_atomic_it_is_sent_at_once(world: World) -> None:
    """At the end of the block: Django commits every statement there."""
    with world.transaction() as block:
        world.rename(1, "new")
        assert world.told == []
    assert (world.told, block.acknowledged) == ([True], True)


def test_around_atomic_it_is_sent_after_the_commit(world: World) -> None:
    """The block ends when Django's has."""
    with world.transaction():
        with world.atomic():
            world.rename(1, "new")
        assert world.told == []
    assert world.told == [True]


def test_inside_atomic_it_is_sent_on_commit(world: World) -> None:
    """At the end of the outermost one, and not when the block ends."""
    seen: list[list[bool]] = []
    with world.atomic():
        on_commit(lambda: seen.append(list(world.told)), using=world.using)
        with world.atomic():
            with world.transaction() as block:
                world.rename(1, "new")
            assert (world.told, block.acknowledged) == ([], None)
        assert world.told == []
    assert (world.told, seen) == ([True], [[]])


def test_a_rollback_drops_it(world: World) -> None:
    """By an exception, by ``set_rollback``, and of a savepoint."""
    with pytest.raises(LookupError), world.atomic():
        with world.transaction():
            world.rename(1, "new")
        raise LookupError
    with pytest.raises(LookupError), world.transaction(), world.atomic():
        world.rename(1, "new")
        raise LookupError
    with world.atomic():
        with world.transaction():
            world.rename(1, "new")
        set_rollback(True, using=world.using)
    with world.atomic(), pytest.raises(LookupError), world.atomic():
        with world.transaction():
            world.rename(1, "new")
        raise LookupError
    assert world.told == []
    assert world.rows.get(id=1).name == "old"


def test_another_callback_that_raises(world: World) -> None:
    """One before it that is robust does not keep it from being sent."""

    def broken() -> None:
        raise LookupError

    with world.atomic():
        on_commit(broken, using=world.using, robust=True)
        with world.transaction():
            world.rename(1, "new")
    assert world.told == [True]


def test_it_is_the_commit_of_its_own_database(databases: type[Any]) -> None:
    """Another database's ``atomic`` says nothing of this one."""
    world = World("default", databases, make_cache())
    with atomic("postgresql"):
        with world.transaction():
            world.rename(1, "new")
        assert world.told == [True]
    with atomic("default"):
        with transaction(world.cache):
            world.rename(1, "newer")
        assert world.told == [True]
    assert world.told == [True, True]


def test_as_a_decorator(world: World) -> None:
    """Each call of a view is a block of its own."""

    @world.transaction()
    def view(to: str, *, fail: bool = False) -> str:
        with world.atomic():
            world.rename(1, to)
            assert world.told == []
            if fail:
                raise LookupError
        return world.name(1)

    with pytest.raises(LookupError):
        view("never", fail=True)
    with pytest.raises(LookupError), world.atomic():
        view("never")
        raise LookupError
    assert world.told == []
    assert view("new") == "new"
    assert world.told == [True]


def test_the_writer_reads_what_it_wrote(world: World) -> None:
    """Inside, cached functions run around the cache; nothing of it is stored before the commit."""
    assert world.name(1) == "old"
    with world.transaction():
        with pytest.raises(LookupError), world.atomic():
            with world.transaction():
                world.rename(1, "new")
                assert world.name(1) == "new"
            raise LookupError
        assert world.name(1) == "old"
    assert (world.name.peek(1), world.told) == ("old", [])


def test_a_reader_between_the_write_and_the_commit(alias: str, databases: type[Any], server: Any) -> None:
    """He fills the cache with the committed row, the old one; the invalidation comes after the commit, so it is void.
    One sent by the writer itself would have left it there.
    """

    def read(name: Callable[[int], str]) -> str:
        try:
            return name(1)
        finally:
            connections.close_all()

    with Cache(url_of(server) + "?deadline=5s", prefix=own_prefix()) as cache:
        world = World(alias, databases, cache)
        with world.transaction(), world.atomic():
            world.rename(1, "new")
            assert Outcome(read, world.name).result() == "old"
            assert world.name.peek(1) == "old"
        assert world.name.peek(1) is MISS
        assert Outcome(read, world.name).result() == "new"


def test_a_middleware_around_the_whole_request(world: World) -> None:
    """As docs/howto/django.md has it: ``ATOMIC_REQUESTS`` puts Django's block inside of it."""

    def middleware(get_response: Callable[[str], str]) -> Callable[[str], str]:
        def answer(request: str) -> str:
            with world.transaction():
                return get_response(request)

        return answer

    def view(request: str) -> str:
        with world.atomic():
            world.rename(1, request)
            return world.name(1)

    assert middleware(view)("new") == "new"
    assert world.told == [True]


def test_other_threads_have_transactions_of_their_own(world: World) -> None:
    """A block belongs to its thread, as Django's connections do."""

    def work() -> None:
        try:
            world.rename(1, "theirs")
        finally:
            connections.close_all()

    with world.transaction():
        done = threading.Thread(target=work)
        done.start()
        done.join(20)
        assert world.told == [True]


@pytest.mark.parametrize("cache", [None, {}, threading.active_count])
def test_what_is_no_cache_is_refused(databases: type[Any], cache: Any) -> None:
    """Django's own ``cache`` is none, and neither is the view that stands below a bare ``@transaction``."""
    with pytest.raises(ConfigurationError, match=r"takes a Cache of cachekit's, as in @transaction\(cache\)"):
        transaction(cache)


def test_coroutines_are_refused(databases: type[Any]) -> None:
    """Django's transactions know no event loop; the text says what to do."""
    cache = make_cache()

    async def enter() -> None:
        async with transaction(cache):
            raise AssertionError("never")

    with pytest.raises(ConfigurationError, match="sync_to_async"):
        asyncio.run(enter())
    with pytest.raises(ConfigurationError, match="enter is a coroutine function"):
        transaction(cache)(enter)
