"""The direct verbs as flows: what they ask, and what they make of answers, errors and nonsense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.scripted import ScriptedServer

from cachekit import MISS, Cache
from cachekit.direct import by_server
from cachekit.errors import (
    CacheError,
    ConfigurationError,
    DeadlineExceeded,
    DecodeError,
    ProtocolError,
    Refused,
    RequestError,
    ServerError,
    TooLarge,
    UnencodableError,
    Unreachable,
)
from cachekit.flows import direct as flows
from flows.servers import DOWN, Servers, values

VERBS: dict[str, tuple[Callable[[Servers], Any], Any]] = {
    "get": (lambda servers: servers.get("k", "default"), "default"),
    "gets": (lambda servers: servers.gets("k", "default"), ("default", None)),
    "get_many": (lambda servers: servers.get_many(["k"]), {}),
    "set": (lambda servers: servers.set("k", 1), False),
    "add": (lambda servers: servers.set("k", 1, how=b" ME"), False),
    "delete": (lambda servers: servers.delete("k"), False),
    "touch": (lambda servers: servers.touch("k"), False),
    "incr": (lambda servers: servers.incr("k", 1, 5), None),
    "set_many": (lambda servers: servers.set_many({"k": 1}), ["k"]),
    "delete_many": (lambda servers: servers.delete_many(["k"]), ["k"]),
}


# -- trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [DOWN, DeadlineExceeded("late"), ProtocolError("nonsense")], ids=repr)
@pytest.mark.parametrize("verb", VERBS)
def test_a_failed_exchange_is_told_and_gives_the_default(verb: str, error: ServerError) -> None:
    """A read gives its default, a write says no; it is counted once, and is neither a hit nor a miss of one key."""
    servers = Servers()
    servers.answers = [error]
    call, outcome = VERBS[verb]
    assert call(servers) == outcome
    assert [(told.server, told.error) for told in servers.troubles] == [
        (servers._fleet.names[servers.server("k")], error)
    ]
    assert servers._tally.errors == 1
    assert servers._tally.hits == 0
    assert servers._tally.misses == (verb == "get_many")


@pytest.mark.parametrize("verb", VERBS)
def test_who_asked_for_errors_gets_them(verb: str) -> None:
    """``on_error="raise"``; it is counted all the same."""
    servers = Servers(raises=True)
    servers.answers = [DOWN]
    with pytest.raises(Unreachable):
        VERBS[verb][0](servers)
    assert len(servers.troubles) == servers._tally.errors == 1


@pytest.mark.parametrize("line", [b"SERVER_ERROR out of memory\r\n", b"CLIENT_ERROR bad\r\n", b"ERROR\r\n"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_refusal_gives_the_default(verb: str, line: bytes) -> None:
    """The server answered, but not with what was asked for."""
    servers = Servers()
    servers.answers = [line]
    call, outcome = VERBS[verb]
    assert call(servers) == outcome
    if verb not in ("set_many", "delete_many"):  # there one key of many was refused: it is in the list
        assert [type(told.error) for told in servers.troubles] == [Refused]
        assert servers.troubles[0].error.args == (line.decode().strip(),)


NONSENSE = [
    b"VALUE app:other 0 1\r\nx\r\nEND\r\n",
    b"VALUE app:k 0 1\r\nx\r\nVALUE app:k 0 1\r\ny\r\nEND\r\n",
    b"END\r\nVALUE app:k 0 1\r\nx\r\n",
    b"TOUCHED\r\n",
    b"HD O1\r\n",
    b"VA 1 O1\r\nx\r\n",
    b"MN\r\n",
    b"STORED\r\n",
    b"7\r\n",
]


@pytest.mark.parametrize("answer", NONSENSE, ids=repr)
@pytest.mark.parametrize("verb", ["get", "gets", "get_many"])
def test_the_answer_to_another_request_is_no_value(verb: str, answer: bytes) -> None:
    """Each value is checked by the key that it echoes, and an answer to a read ends with END."""
    servers = Servers()
    servers.answers = [answer]
    call, outcome = VERBS[verb]
    assert call(servers) == outcome
    assert [type(told.error) for told in servers.troubles] == [ProtocolError]


@pytest.mark.parametrize(
    "answer", [b"END\r\n", b"HD O1\r\n", b"STORED\r\n", b"VALUE app:k 0 1\r\nx\r\nEND\r\n"], ids=repr
)
def test_the_answer_to_another_request_touches_nothing(answer: bytes) -> None:
    """TOUCHED and NOT_FOUND are what a touch is answered."""
    servers = Servers()
    servers.answers = [answer]
    assert servers.touch("k") is False
    assert [type(told.error) for told in servers.troubles] == [ProtocolError]


@pytest.mark.parametrize("verb", VERBS)
def test_only_what_may_go_twice_does(verb: str) -> None:
    """Reads, touches and deletes; never a store, nor a count."""
    servers = Servers()
    VERBS[verb][0](servers)
    again = verb in ("get", "gets", "get_many", "touch", "delete", "delete_many")
    assert {op.retry for op in servers.asked} == {again}


@pytest.mark.parametrize("key", ["", "a b", "a\r\nflush_all", "é", "x" * 251, 7, None, b"k"], ids=repr)
@pytest.mark.parametrize("verb", ["get", "gets", "set", "delete", "touch", "incr", "get_or_set"])
def test_a_senseless_key_is_the_callers_error(verb: str, key: Any) -> None:
    """Nothing is sent, and it is raised whatever ``on_error`` says."""
    servers = Servers()
    calls: dict[str, Callable[[], Any]] = {
        "set": lambda: servers.set(key, 1),
        "get_or_set": lambda: servers.drive(flows.get_or_set(servers, key, lambda: 1, 60)),
    }
    with pytest.raises(RequestError):
        calls.get(verb, lambda: getattr(servers, verb)(key))()
    with pytest.raises(RequestError):
        servers.get_many([key])
    assert servers.asked == []


@pytest.mark.parametrize("ttl", [-1, "soon", float("nan"), True, b"5"], ids=repr)
def test_a_senseless_ttl_is_the_callers_error(ttl: Any) -> None:
    """Nothing is sent."""
    servers = Servers()
    calls: list[Callable[[], Any]] = [
        lambda: servers.set("k", 1, ttl),
        lambda: servers.touch("k", ttl),
        lambda: servers.set_many({"k": 1}, ttl),
        lambda: servers.drive(flows.get_or_set(servers, "k", lambda: 1, ttl)),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError):
            call()
    assert servers.asked == []


# -- one key ----------------------------------------------------------------------------------------------------------


def test_what_is_stored_is_read_and_counted() -> None:
    """One round each; a stored None is a hit."""
    servers = Servers()
    for value in ({"a": (1, 2)}, None, "", b"", 7):
        assert servers.set("k", value) is True
        assert servers.get("k", MISS) == value
        assert servers.gets("k", MISS)[0] == value
    assert servers.delete("k") is True
    assert servers.delete("k") is False
    assert servers.get("k", MISS) is MISS
    assert servers.gets("k", MISS) == (MISS, None)
    assert (servers._tally.hits, servers._tally.misses, servers.troubles) == (10, 2, [])
    assert all(len(window) == 1 for window in servers.rounds)


def test_a_token_is_good_until_the_next_store() -> None:
    """The number that ``gets`` told is the one that is sent."""
    servers = Servers()
    servers.set("k", 1)
    value, token = servers.gets("k")
    assert value == 1
    assert servers.set("k", 2, how=b" C%d" % token) is True
    assert servers.set("k", 3, how=b" C%d" % token) is False
    assert servers.get("k") == 2


def test_a_stub_is_nothing() -> None:
    """Somebody computes the value just now; reading takes no lease away from him."""
    servers = Servers()
    servers.behind[servers.server("k")].handle(b"mg app:k v N30\r\n")
    assert servers.get("k", MISS) is MISS
    assert servers.gets("k", MISS) == (MISS, None)
    assert servers.get_many(["k"]) == {}
    assert {op.request.split()[0] for op in servers.asked} == {b"get", b"gets"}


def test_what_can_not_be_unpacked_is_trouble() -> None:
    """Garbage, or a class that moved: counted, named by its server, and no miss."""
    servers = Servers()
    garbage = b"VALUE app:k %d 3 7\r\n\xff\xff\xff\r\nEND\r\n" % servers._packer.pack({})[0]
    servers.answers = [garbage, garbage, garbage]
    assert servers.get("k", "default") == "default"
    assert servers.gets("k", "default") == ("default", None)
    assert servers.get_many(["k"]) == {}
    assert [type(told.error) for told in servers.troubles] == [DecodeError] * 3
    assert {told.server for told in servers.troubles} == {servers._fleet.names[servers.server("k")]}


@pytest.mark.parametrize(("how", "stays"), [(b"", False), (b" MR", False), (b" ME", True), (b" C5", True)])
def test_what_can_not_be_stored_takes_the_old_value_along(
    how: bytes, stays: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it was to replace that, whatever it was; said by False, one warning and a count."""
    servers = Servers(max_value_bytes=100)
    for value in (object(), b"x" * 101):
        servers.set("k", "old")
        caplog.clear()
        assert servers.set("k", value, how=how) is False
        assert servers.get("k", MISS) == ("old" if stays else MISS)
        assert ["app:k" in record.message for record in caplog.records] == [True]
    assert servers._tally.unstored == 2
    assert servers.troubles == []


@pytest.mark.parametrize(("value", "error"), [(object(), UnencodableError), (b"x" * 101, TooLarge)])
def test_who_asked_for_errors_hears_what_can_not_be_stored(value: Any, error: type[CacheError]) -> None:
    """When the old value is gone."""
    servers = Servers(max_value_bytes=100, raises=True)
    servers.set("k", "old")
    with pytest.raises(error):
        servers.set("k", value)
    assert servers.get("k", MISS) is MISS
    with pytest.raises(error):
        servers.set_many({"k": value})


def test_a_ttl_of_nothing_keeps_to_the_conditions() -> None:
    """The value is not sent, and what was there goes only where the new one would have been stored."""
    servers = Servers()
    servers.set("k", "old")
    assert servers.set("k", "new", 0, b" ME") is False
    assert servers.get("k") == "old"
    assert servers.set("k", "new", 0) is True
    assert servers.asked[-1].request.startswith(b"ms app:k 0 F0 T-1 O")
    assert servers.get("k", MISS) is MISS


def test_a_touch_with_a_ttl_of_nothing_is_a_delete() -> None:
    """Also for those who wait for a run without a lease: nobody else may join it."""
    servers = Servers()
    servers.set("k", 1)
    flight, _ = servers._env.flights.board(b"app:k", None)
    assert servers.touch("k", 0) is True
    assert servers._env.flights.find(b"app:k", None) is None
    assert flight.landed is False
    assert servers.touch("k", 0) is False
    with pytest.raises(ConfigurationError, match="touch"):
        servers.touch("k", lambda value: 5)


def test_delete_lets_nobody_join_older_runs() -> None:
    """A run without a lease that began before it brings something older."""
    servers = Servers()
    for remove in (flows.remove(servers, "k"), flows.remove_many(servers, ["k", "l"])):
        servers._env.flights.board(b"app:k", None)
        servers.drive(remove)
        assert len(servers._env.flights) == 0


def test_servers_that_take_numbers_get_them() -> None:
    """Every store to such a server has one of its own, in ``set`` and in ``set_many``; the others get none."""
    servers = Servers(2)
    servers._env.explicit = {1}
    servers.answers = [b"HD O?\r\n"] * 40
    keys = list(values(40))
    for key in keys:
        servers.set(key, 1)
    counts = {
        server: len(group) for server, group in by_server([b"app:" + k.encode() for k in keys], servers._fleet).items()
    }
    servers.answers = [b"HD O?\r\n" * counts[server] for server in (0, 1)]
    assert servers.set_many(values(40)) == []
    numbers = [word for op in servers.asked if op.server == 1 for word in op.request.split() if word[:1] == b"E"]
    assert len(set(numbers)) == len(numbers) == 2 * counts[1]
    assert not any(b" E" in op.request for op in servers.asked if op.server == 0)


# -- counters ---------------------------------------------------------------------------------------------------------


def test_a_counter_begins_with_its_initial_value() -> None:
    """Two rounds where nothing is stored, one from then on."""
    servers = Servers()
    assert servers.incr("n") is None
    assert servers.incr("n", 5, 10) == 10
    assert servers.incr("n", 5, 10) == 15
    assert servers.drive(flows.count(servers, "n", 100, None, 60, b"MD")) == 0
    assert [op.request.split()[0] for op in servers.asked] == [b"ma", b"ma", b"ms", b"ma", b"ma"]
    assert (servers._tally.hits, servers._tally.misses) == (0, 0)


def test_who_comes_second_with_an_initial_value_counts_on() -> None:
    """Somebody else has begun between the count and the store."""
    servers = Servers()
    servers.answers = [b"NF O?\r\n", b"NS O?\r\n", b"VA 2 O?\r\n11\r\n"]
    assert servers.incr("n", 1, 10) == 11
    assert len(servers.rounds) == 3


def test_a_counter_that_comes_and_goes_is_given_up() -> None:
    """After the second attempt."""
    servers = Servers()
    servers.answers = [b"NF O?\r\n", b"NS O?\r\n"] * 2
    assert servers.incr("n", 1, 10) is None
    assert len(servers.rounds) == 4


@pytest.mark.parametrize("answer", [b"VA 3 O?\r\nabc\r\n", b"VA 0 O?\r\n\r\n"], ids=repr)
def test_a_sum_that_is_no_number_is_trouble(answer: bytes) -> None:
    """It never reaches the caller as an exception of ours."""
    servers = Servers()
    servers.answers = [answer]
    assert servers.incr("n") is None
    assert [type(told.error) for told in servers.troubles] == [ProtocolError]


@pytest.mark.parametrize("number", [-1, 2**64, 1.0, "1", True], ids=repr)
def test_a_senseless_step_is_the_callers_error(number: Any) -> None:
    """Nothing is sent."""
    servers = Servers()
    for delta, initial in ((number, None), (1, number)):
        with pytest.raises(RequestError):
            servers.incr("n", delta, initial)
    assert servers.asked == []


# -- computing --------------------------------------------------------------------------------------------------------


def test_get_or_set_stores_what_it_computes() -> None:
    """As a plain value, under a lease; the next caller finds it."""
    servers = Servers()
    values = iter([{"a": 1}])
    for _ in range(2):
        assert servers.drive(flows.get_or_set(servers, "k", lambda: next(values), 60)) == {"a": 1}
    assert servers.get("k") == {"a": 1}


# -- the blocking shell -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["gets", "touch"])
def test_an_answer_that_does_not_fit_closes_the_connection(verb: str) -> None:
    """Its stream may be out of step; and a server that goes on like this is marked down."""
    with (
        ScriptedServer(lambda _: [b"VALUE other 0 3 7\r\nabc\r\nEND\r\n"]) as server,
        Cache(f"{server.url}?deadline=2s") as cache,
    ):
        for _ in range(4):
            assert getattr(cache, verb)("k") in ((None, None), False)
        assert (server.accepted, len(server.requests)) == (2, 2)
        assert cache.stats().direct.errors == 4
        assert set(cache.stats().servers.values()) == {False}
