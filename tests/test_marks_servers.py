"""Marks on real servers: that are restarted, and count anew; that stand still; that are down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.memcached import Memcached, read_until_mn, start_memcached
from support.threads import Outcome, eventually

from cachekit import Cache, current
from cachekit.codecs.envelope import Mark, open_envelope

FIRST_GIVEN = 2**60
"""From here on numbers were given by clients (1.6.27, the E flag)."""

STOPPED_S = 4.0
"""Seconds for which a server stands still: longer than the margin that the age of a tag is given."""


def ask(server: Memcached, line: bytes) -> bytes:
    """What a server says to one line."""
    return server.ask(line)


class Fleet:
    """Two servers, and an outer function whose entry is on the first, whose inner one's on the second."""

    def __init__(self, servers: tuple[Memcached, Memcached]) -> None:
        self.servers = servers
        self.cache = self.another()
        self.runs: dict[str, int] = {"outer": 0, "inner": 0}
        self.during: Callable[[], Any] = lambda: None

        @self.cache(ttl=600, tags=["x"])
        def inner(n: int) -> int:
            self.runs["inner"] += 1
            return self.runs["inner"]

        @self.cache(ttl=600)
        def outer(n: int) -> tuple[int, int]:
            self.runs["outer"] += 1
            got = inner(self.inside)
            self.during()
            return self.runs["outer"], got

        self.inner, self.outer = inner, outer
        self.at = next(n for n in range(99) if outer.explain(n).server == servers[0].name)
        self.inside = next(n for n in range(99) if inner.explain(n).server == servers[1].name)

    def another(self) -> Cache:
        """One more cache for the same servers, as in another process."""
        names = ",".join(server.name for server in self.servers)
        return Cache(f"memcached://{names}?deadline=1s", prefix="marks")

    def call(self) -> tuple[int, int]:
        """The outer function."""
        found: tuple[int, int] = self.outer(self.at)
        return found

    def marks(self) -> list[Mark]:
        """Those in the header of the outer entry."""
        said = ask(self.servers[0], b"mg " + str(self.outer.key(self.at)).encode() + b" v\r\n")
        header, _ = open_envelope(said.partition(b"\r\n")[2])
        return list(header.marks)

    def restart(self, numbers: dict[int, bytes]) -> None:
        """Start the second server anew on the same port, and have it count until those records have the same numbers as
        before; where it takes numbers from its clients, have it give them those.
        """
        server = self.servers[1]
        server.restart()
        for number in range(1, max((number for number in numbers if number < FIRST_GIVEN), default=0) + 1):
            key = numbers.get(number, b"filler%d" % number)
            assert b"c%d" % number in ask(server, b"mg %b c N0\r\n" % key)
        for number, key in numbers.items():
            if number >= FIRST_GIVEN:
                assert b"c%d" % number in ask(server, b"mg %b c N0 E%d\r\n" % (key, number))


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """On servers of its own."""
    with start_memcached() as one, start_memcached() as two:
        made = Fleet((one, two))
        yield made
        made.cache.close()


def test_numbers_that_coincide_after_a_restart_do_not_bring_an_old_value_back(fleet: Fleet) -> None:
    """The server was restarted, and by chance the records have the same numbers again: the boot differs."""
    first = fleet.call()
    assert fleet.call() == first
    numbers = {mark.number: mark.key for mark in fleet.marks()}
    fleet.restart(numbers)
    for number, key in numbers.items():
        assert b"c%d" % number in ask(fleet.servers[1], b"mg %b c\r\n" % key)
    assert eventually(lambda: fleet.call() != first and fleet.call() == fleet.call())
    assert fleet.runs["inner"] > 1


def test_a_restart_while_the_outer_function_runs_is_found_out(fleet: Fleet) -> None:
    """What it has read of the inner one was valid under numbers that count no more."""

    def restart() -> None:
        if fleet.runs["outer"] > 1:
            return
        records = [b"marks:tag=x", fleet.inner._ready().generations[-1]]
        said = [ask(fleet.servers[1], b"mg %b c\r\n" % key) for key in records]
        fleet.restart({int(each.split(b" c")[1].split()[0]): key for each, key in zip(said, records, strict=True)})

    fleet.during = restart
    assert fleet.call() == (1, 1)
    assert eventually(lambda: fleet.call() == fleet.call())
    assert fleet.call()[0] > 1
    assert fleet.runs["inner"] > 1


def test_an_outer_entry_is_void_while_the_inner_ones_server_is_down(fleet: Fleet) -> None:
    """It can't be asked, so nobody knows; and nothing is stored that nobody could void."""
    assert fleet.call() == fleet.call() == (1, 1)
    fleet.servers[1].kill()
    assert fleet.call() == (2, 2)
    assert fleet.call() == (3, 3)
    assert not fleet.cache.invalidate_tags("x")
    fleet.servers[1].restart()
    assert eventually(lambda: fleet.call() == fleet.call())


def test_a_tag_made_while_the_server_stood_still_is_not_older_than_it_is(fleet: Fleet) -> None:
    """Its clock stands still as well: a record that is made at the moment it goes on looks as old as that."""
    runs: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    @fleet.cache(ttl=600)
    def tagged(n: int) -> int:
        current().tag("late")
        runs.append(n)
        begun.set()
        assert go_on.wait(30)
        return len(runs)

    at = next(n for n in range(99) if tagged.explain(n).server == fleet.servers[0].name)
    old = Outcome(tagged, at)
    assert begun.wait(10)
    server = fleet.servers[0]
    with server.connect() as sock:
        server.pause()
        try:
            sock.sendall(b"md marks:tag=late\r\nmg marks:tag=late c t N2592000\r\nmn\r\n")
            assert not eventually(lambda: False, STOPPED_S)
        finally:
            server.resume()
        assert b" W" in read_until_mn(sock)
    go_on.set()
    assert old.result() == 1
    assert tagged(at) == 2


def test_another_cache_sees_what_this_one_has_stored(fleet: Fleet) -> None:
    """The boot is the server's, not the process's."""
    assert fleet.call() == fleet.call()
    other = Fleet(fleet.servers)
    try:
        assert other.call() == (1, 1)
        assert other.runs["outer"] == 0
        assert other.cache.invalidate_tags("x")
        assert fleet.call() == (2, 2)
        assert other.call() == (2, 2)
    finally:
        other.cache.close()
