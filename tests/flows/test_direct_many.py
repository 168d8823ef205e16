"""The direct verbs about many keys as flows, and that those which threads have written out tell the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from support.fake_fleet import FakeFleet

from cachekit import MISS, Cache
from cachekit.direct import by_server
from cachekit.errors import DecodeError, ProtocolError, Refused, RequestError, Unreachable
from cachekit.flows import direct as flows
from cachekit.ops import BATCH_BYTES, BATCH_KEYS, Exchange, Flow, Replies
from cachekit.sync.drive import run
from cachekit.sync.window import gather
from flows.servers import Servers, values


def test_many_keys_go_out_in_common_windows() -> None:
    """One exchange with each server, whatever the number of keys, as long as that is small."""
    servers = Servers()
    assert servers.set_many(values(60)) == []
    assert servers.get_many([*values(60), "absent"]) == values(60)
    assert servers.delete_many([*values(60), "absent"]) == []
    assert servers.get_many(values(60)) == {}
    assert [len(window) for window in servers.rounds] == [3, 3, 3, 3]
    assert (servers._tally.hits, servers._tally.misses, servers.troubles) == (60, 61, [])


@pytest.mark.parametrize("verb", ["get_many", "set_many", "delete_many"])
def test_batches_are_bounded(verb: str) -> None:
    """A server stops reading while its answers are not taken."""
    servers = Servers()
    many = values(4 * BATCH_KEYS)
    servers.set_many(many)
    servers.rounds.clear()
    assert getattr(servers, verb)(many) in (many, [])
    most = max(map(len, by_server([b"app:" + key.encode() for key in many], servers._fleet).values()))
    assert len(servers.rounds) == -(-most // BATCH_KEYS) > 1
    assert all(op.request.count(b"app:key-") <= BATCH_KEYS for op in servers.asked)


def test_large_values_go_out_in_batches_of_bounded_length() -> None:
    """One that is larger goes alone."""
    servers = Servers(1)
    assert servers.set_many({**values(5, bytes(BATCH_BYTES // 2 - 100)), "huge": bytes(2 * BATCH_BYTES)}) == []
    assert [op.expected for op in servers.asked] == [2, 2, 1, 1]


@pytest.mark.parametrize("verb", ["get_many", "set_many", "delete_many"])
def test_a_server_in_trouble_costs_its_own_keys_only(verb: str) -> None:
    """It is asked once and told once, however many batches its keys would have been."""
    servers = Servers()
    many = values(4 * BATCH_KEYS)
    servers.set_many(many)
    servers.rounds.clear()
    broken = servers.server("key-0")
    servers.broken = {broken}
    theirs = {key for key in many if servers.server(key) == broken}
    outcome = getattr(servers, verb)(many)
    assert theirs == (set(many) - set(outcome) if verb == "get_many" else set(outcome))
    assert [told.server for told in servers.troubles] == [servers._fleet.names[broken]]
    assert len([op for op in servers.asked if op.server == broken]) == 1


@pytest.mark.parametrize("verb", ["get_many", "set_many", "delete_many"])
def test_who_asked_for_errors_gets_them_of_many(verb: str) -> None:
    """One server's is enough."""
    servers = Servers(raises=True)
    servers.broken = {1}
    with pytest.raises(Unreachable):
        getattr(servers, verb)(values(60))
    assert len(servers.rounds) == 1


def test_a_read_that_is_refused_half_way_keeps_what_came_before() -> None:
    """The values in front of the error are whole."""
    servers = Servers(1)
    servers.answers = [b"VALUE app:a 0 1\r\nx\r\nSERVER_ERROR out of memory\r\n"]
    assert servers.get_many(["a", "b"]) == {"a": b"x"}
    assert [type(told.error) for told in servers.troubles] == [Refused]


def test_a_broken_value_costs_its_own_key_only() -> None:
    """The others are read on."""
    servers = Servers(1)
    flags = servers._packer.pack({})[0]
    good = servers._packer.pack({"a": 1})[1]
    line = b"VALUE app:%b %d %d\r\n%b\r\n"
    answer = b"".join(
        line % (key, flags, len(data), data) for key, data in ((b"a", good), (b"b", b"\xff\xff"), (b"c", good))
    )
    servers.answers = [answer + b"END\r\n"]
    assert servers.get_many(["a", "b", "c"]) == {"a": {"a": 1}, "c": {"a": 1}}
    assert [type(told.error) for told in servers.troubles] == [DecodeError]


def test_what_can_not_be_stored_does_not_hold_up_the_others() -> None:
    """It is in the list, its old value gone; so is what a server refused."""
    servers = Servers(1, max_value_bytes=100)
    servers.set_many({"a": 1, "b": 2, "c": 3, "d": 4})
    assert servers.set_many({"a": object(), "b": 20, "c": bytes(101), "d": 40}) == ["a", "c"]
    assert servers.get_many(iter(["a", "b", "c", "d"])) == {"b": 20, "d": 40}
    servers.answers = [b"HD O?\r\nSERVER_ERROR object too large for cache\r\nNS O?\r\n"]
    assert servers.set_many({"a": 1, "b": 2, "c": 3}) == ["b", "c"]


@pytest.mark.parametrize("verb", ["get_many", "delete_many"])
def test_one_text_is_no_list_of_keys(verb: str) -> None:
    """Its letters are nobody's keys."""
    servers = Servers()
    with pytest.raises(RequestError, match="not one text"):
        getattr(servers, verb)("key")
    assert getattr(servers, verb)([]) in ({}, [])
    assert servers.asked == []


def test_an_answer_that_does_not_fit_is_one_servers_trouble() -> None:
    """In a window of the blocking shell; its connection is closed, and the others are kept."""
    fleet = FakeFleet()
    fleet.fakes[1].answer = lambda _: b"TOUCHED\r\n"
    exchanges = [Exchange(at, b"get k\r\n", 1, None, fits=lambda replies: replies[-1].code == "END") for at in range(3)]
    outcomes = gather(exchanges, fleet.real)
    assert [type(outcome) for outcome in outcomes] == [Replies, ProtocolError, Replies]
    assert [at for at, _ in fleet.failures] == [1]
    assert [len(row) for row in fleet.rows] == [1, 0, 1]
    assert fleet.settled()


@pytest.mark.parametrize("seed", range(3))
def test_both_ways_tell_the_same(seed: int) -> None:
    """The verbs that threads have written out answer, store and count as the flows do."""
    draw = random.Random(seed)
    by_hand, by_flow = Cache("memory:"), Cache("memory:")
    keys = ["a", "b", "c", "d"]
    worth: list[Any] = [1, "text", b"", None, {"a": [1]}, object(), bytes(2 << 20), 2**64 - 1]
    for _ in range(150):
        verb, flow, args, more = _drawn(draw, keys, worth)
        assert getattr(by_hand, verb)(*args) == run(flow(by_flow, *args, *more), by_flow._fleet), (verb, args)
        assert by_hand.get_many(keys) == by_flow.get_many(keys)
    assert by_hand.stats().direct == by_flow.stats().direct


def _drawn(
    draw: random.Random, keys: list[str], worth: list[Any]
) -> tuple[str, Callable[..., Flow[Any]], tuple[Any, ...], tuple[Any, ...]]:
    """A verb, its flow, the arguments of both, and what the flow takes besides."""
    key, value, ttl = draw.choice(keys), draw.choice(worth), draw.choice([0, 60, None, lambda _: 5])
    some = draw.sample(keys, draw.randrange(4))
    calls: list[tuple[str, Callable[..., Flow[Any]], tuple[Any, ...], tuple[Any, ...]]] = [
        ("get", flows.read_one, (key, MISS), ()),
        ("set", flows.store, (key, value, ttl), (b"",)),
        ("add", flows.store, (key, value, ttl), (b" ME",)),
        ("replace", flows.store, (key, value, ttl), (b" MR",)),
        ("delete", flows.remove, (key,), ()),
        ("get_many", flows.read_many, (some,), ()),
        ("set_many", flows.store_many, ({each: draw.choice(worth) for each in some}, ttl), ()),
        ("delete_many", flows.remove_many, (some,), ()),
    ]
    return draw.choice(calls)
