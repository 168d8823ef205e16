"""A tombstone is as good as a delete, in each interleaving with leases, and everybody who watches sees it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.ears import Ear, listening, watch_of
from support.memcached import Memcached, start_memcached
from support.targets import own_prefix

from cachekit.embedded import EmbeddedServer
from cachekit.meta import Parser, Reply, md, mg, ms
from cachekit.tombstones import NO_CAS, is_gone, notice, tombstone

Ask = Callable[[bytes], Reply]


@pytest.fixture(name="ask", params=["embedded", "real"])
def ask_fixture(request: pytest.FixtureRequest) -> Ask:
    """Asks one command of the embedded server, or of the real one."""
    embedded: EmbeddedServer = request.getfixturevalue("embedded")
    real: Memcached = request.getfixturevalue("server")
    answer = embedded.handle if request.param == "embedded" else real.ask

    def ask(command: bytes) -> Reply:
        (reply,) = Parser().feed(answer(command))
        return reply

    return ask


@pytest.fixture(name="key")
def key_fixture() -> bytes:
    """A key that no other test uses."""
    return own_prefix().encode()


def stub(ask: Ask, key: bytes) -> int:
    """Take the lease on ``key``; its CAS number."""
    reply = ask(mg(key, b"c t v N30"))
    assert (reply.won, reply.value) == (True, b"")
    return reply.cas or 0


def is_missing(ask: Ask, key: bytes) -> bool:
    """Whether nothing stands there, neither value nor stub."""
    return ask(mg(key, b"v")).code == "EN" and ask(md(key, b"I T30")).code == "NF"


def test_a_value(ask: Ask, key: bytes) -> None:
    """It is gone, and the reply says that it was there; a second tombstone says that it was not."""
    ask(ms(key, b"old"))
    assert ask(tombstone(key, 7)) == Reply("HD", opaque=b"7")
    assert is_missing(ask, key)
    assert ask(tombstone(key, 8)) == Reply("NS", opaque=b"8")
    assert is_missing(ask, key)


def test_nothing_there(ask: Ask, key: bytes) -> None:
    """Where nothing stood nothing is made."""
    assert ask(tombstone(key, 7)).code == "NS"
    assert is_missing(ask, key)
    assert ask(ms(key, b"x", b"MR")).code == "NS"


def test_a_fill_under_way_stores_nothing(ask: Ask, key: bytes) -> None:
    """The stub goes with its CAS number: the late store has none to meet."""
    cas = stub(ask, key)
    assert ask(tombstone(key, 7)).code == "HD"
    assert ask(ms(key, b"old", b"C%d" % cas)).code == "NF"
    assert is_missing(ask, key)


def test_a_fill_under_way_and_the_next_one(ask: Ask, key: bytes) -> None:
    """The next reader gets the lease, under a higher number, and the late store meets that: EX."""
    cas = stub(ask, key)
    ask(tombstone(key, 7))
    newer = stub(ask, key)
    assert newer > cas
    assert ask(ms(key, b"old", b"C%d" % cas)).code == "EX"
    assert ask(md(key, b"C%d" % cas)).code == "EX"
    assert ask(mg(key, b"v t")).claimed
    assert ask(ms(key, b"new", b"C%d" % newer)).code == "HD"
    assert ask(mg(key, b"v")).value == b"new"


def test_a_refresh_under_way_stores_nothing(ask: Ask, key: bytes) -> None:
    """A claim on a value ends with it."""
    ask(ms(key, b"old", b"T100"))
    claim = ask(mg(key, b"c v t R2147483647"))
    assert claim.won
    assert ask(tombstone(key, 7)).code == "HD"
    assert ask(ms(key, b"old", b"C%d" % (claim.cas or 0))).code == "NF"
    assert is_missing(ask, key)


def test_a_soft_invalidation_before(ask: Ask, key: bytes) -> None:
    """What was served as stale is gone, and its marks with it: the next lease is won, not claimed by anybody."""
    ask(ms(key, b"old", b"T100"))
    ask(md(key, b"I T30"))
    stale = ask(mg(key, b"c v"))
    assert (stale.won, stale.stale) == (True, True)
    assert ask(tombstone(key, 7)).code == "HD"
    fresh = ask(mg(key, b"c v t N30"))
    assert (fresh.won, fresh.stale, fresh.claimed, fresh.value) == (True, False, False, b"")
    assert ask(ms(key, b"old", b"C%d" % (stale.cas or 0))).code == "EX"


def test_a_lease_given_back_late(ask: Ask, key: bytes) -> None:
    """Who gives back a lease that a tombstone ended takes nothing away from the next one."""
    cas = stub(ask, key)
    ask(tombstone(key, 7))
    newer = stub(ask, key)
    assert ask(md(key, b"C%d" % cas)).code == "EX"
    assert ask(ms(key, b"new", b"C%d" % newer)).code == "HD"


def test_a_record_gets_a_higher_number(ask: Ask, key: bytes) -> None:
    """A generation is bumped by it: the next who asks makes the record anew, under a higher number, once."""
    numbers = []
    for _ in range(5):
        first, second = ask(mg(key, b"c N0")), ask(mg(key, b"c N0"))
        assert first.cas == second.cas
        numbers.append(first.cas or 0)
        assert ask(tombstone(key, 7)).code == "HD"
    assert numbers == sorted(set(numbers))


def test_a_notice_changes_nothing(ask: Ask, key: bytes) -> None:
    """Neither a value, nor a stub, nor the marks of a soft invalidation, nor an empty place."""
    assert ask(notice(key, 7)).code == "NF"
    assert is_missing(ask, key)
    cas = stub(ask, key)
    assert ask(notice(key, 7)).code == "EX"
    assert ask(ms(key, b"value", b"T100 C%d" % cas)).code == "HD"
    ask(md(key, b"I T30"))
    assert ask(notice(key, 7)) == Reply("EX", opaque=b"7")
    first, second = ask(mg(key, b"v c t")), ask(mg(key, b"v c t"))
    assert (first.won, first.stale, second.claimed, first.value) == (True, True, True, b"value")


def test_no_number_that_we_make_is_the_one_of_a_notice() -> None:
    """``Env.number`` counts the microseconds since 1970, shifted by 12 bits: below, until the year 2112."""
    assert (142 * 365 * 86_400 * 10**6 + 1) << 12 < NO_CAS < 2**64


@pytest.mark.parametrize("reply", [Reply("HD"), Reply("NS"), Reply("NF")])
def test_gone(reply: Reply) -> None:
    """What a server answers that has nothing older any more."""
    assert is_gone(reply)


@pytest.mark.parametrize("error", ["SERVER_ERROR temporary failure", "CLIENT_ERROR bad command line format", "ERROR"])
def test_not_known_to_be_gone(error: str) -> None:
    """Any other answer acknowledges nothing."""
    assert not is_gone(Reply("ERROR", error=error))
    assert not is_gone(Reply("EX"))


def test_a_server_without_memory_has_removed_the_old_value() -> None:
    """With -M a full server has no room for a tombstone, and lets go of what it was to replace."""
    with start_memcached("-M", "-m", "2") as server:
        filled = 0
        while b"SERVER_ERROR" not in server.ask(
            b"".join(ms(b"k%d" % number, b"0123456789") for number in range(filled, filled + 500))
        ):
            filled += 500
        (reply,) = Parser().feed(server.ask(tombstone(b"k1", 7)))
        assert reply.error == "SERVER_ERROR out of memory storing object"
        assert is_gone(reply)
        assert server.ask(mg(b"k1", b"v")) == b"EN\r\n"


def test_both_are_seen(server: Memcached, key: bytes) -> None:
    """Also where nothing was there: another process may keep what the server let go of."""
    ear = Ear()
    with listening(watch_of(ear, server, prefix=key)):
        server.ask(tombstone(key + b":absent", 1) + notice(key + b":noticed", 2))
        server.ask(ms(key + b":there", b"x"))
        assert ear.hears(key + b":there")
        ear.keys.clear()
        server.ask(tombstone(key + b":there", 3))
        assert ear.hears(key + b":there")
