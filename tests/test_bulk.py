"""Many keys over three servers: answers in any pieces, several batches, a server that fails, and nonsense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_fleet import Cut, FakeFleet, at, byte_by_byte, whole

from cachekit.errors import DeadlineExceeded, ProtocolError, ServerError, Unreachable
from cachekit.sync.bulk import Found, by_server, fetch, send_all
from cachekit.sync.window import BATCH_BYTES, BATCH_KEYS

PLAIN = b"HD\r\n"
AWKWARD = [b"", b"END\r\n", b"VALUE k1 0 5\r\n", b"\r\n", b"HD c5\r\n", b"x" * 50, bytes(range(256)), b"E", b"V"]


class Bulk:
    """A fleet, what it found and what failed."""

    def __init__(self, servers: int = 3) -> None:
        self.fleet = FakeFleet(servers)
        self.found: list[Found] = []
        self.failed: list[tuple[int, ServerError]] = []

    def store(self, values: dict[bytes, bytes], flags: int = 7) -> None:
        """Put values where they belong."""
        for index, keys in by_server(values, self.fleet.real).items():
            for key in keys:
                data = values[key]
                answer = self.fleet.fakes[index].embedded.handle(
                    b"ms %b %d F%d\r\n%b\r\n" % (key, len(data), flags, data)
                )
                assert answer == b"HD\r\n"

    def fetch(
        self, keys: list[bytes], command: bytes = b"get", generation: bytes | None = None
    ) -> dict[int, tuple[int, ...]]:
        """``fetch``, its callbacks keeping all they hear."""
        return fetch(keys, self.fleet.real, self.found.extend, self._fail, command, generation)

    def send(self, commands: dict[bytes, bytes]) -> dict[bytes, str]:
        """``send_all``, likewise."""
        return send_all(commands, self.fleet.real, PLAIN, self._fail)

    def _fail(self, index: int, error: ServerError) -> None:
        self.failed.append((index, error))

    def values(self) -> dict[bytes, bytes]:
        """The payloads found, by key; none came twice."""
        assert len({key for key, *_ in self.found}) == len(self.found)
        return {key: payload for key, _, payload, _ in self.found}

    def index(self, key: bytes) -> int:
        """The server of ``key``."""
        return self.fleet.ring.index(key)


def names(count: int, prefix: bytes = b"k") -> list[bytes]:
    """So many keys."""
    return [b"%b%d" % (prefix, n) for n in range(count)]


def one_server(answer: bytes, cut: Cut = whole) -> Bulk:
    """A fleet of one server that gives this answer to everything."""
    bulk = Bulk(servers=1)
    bulk.fleet.fakes[0].answer = lambda _: answer
    bulk.fleet.fakes[0].cut = cut
    return bulk


# -- grouping ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=10), unique=True))
def test_every_key_goes_to_the_server_of_the_ring(keys: list[bytes]) -> None:
    """In the order given, each once, no server without keys."""
    fleet = FakeFleet()
    groups = by_server(keys, fleet.real)
    assert all(groups.values())
    for index, group in groups.items():
        assert group == [key for key in keys if fleet.ring.index(key) == index]
    assert sum(map(len, groups.values())) == len(keys)


# -- reading -----------------------------------------------------------------------------------------------------------


def test_fetch_finds_what_is_there() -> None:
    """Payloads as they are, with client flags; what is absent is not told."""
    bulk, values = Bulk(), dict(zip(names(len(AWKWARD)), AWKWARD, strict=True))
    bulk.store(values, flags=51715)
    assert bulk.fetch([*values, *names(20, b"absent")]) == {0: (), 1: (), 2: ()}
    assert bulk.values() == values
    assert {(flags, cas) for _, flags, _, cas in bulk.found} == {(51715, 0)}
    assert bulk.failed == []
    assert bulk.fleet.settled()


def test_gets_tells_the_cas_numbers() -> None:
    """As the server gave them."""
    bulk = Bulk(servers=1)
    bulk.store({b"a": b"1", b"b": b"2"})
    bulk.fetch([b"a", b"b"], b"gets")
    assert [(key, cas) for key, _, _, cas in bulk.found] == [(b"a", 1), (b"b", 2)]


def test_fetch_of_nothing_asks_nobody() -> None:
    """No key, no word."""
    bulk = Bulk()
    assert bulk.fetch([]) == {}
    assert bulk.fleet.log == []


def test_a_generation_is_asked_behind_the_values_and_not_made() -> None:
    """In the same write, from each value's own server; absent, its number is no number."""
    bulk, keys = Bulk(), names(30)
    bulk.store(dict.fromkeys(keys, b"x"))
    made = bulk.fleet.fakes[1].embedded.handle(b"ms gen 0 c\r\n\r\n")
    number = int(made.split()[1][1:])
    assert bulk.fetch(keys, b"gets", b"gen") == {0: (), 1: (number,), 2: ()}
    assert all(fake.requests[0].endswith(b"\r\nmg gen c\r\n") for fake in bulk.fleet.fakes)
    assert bulk.fleet.fakes[0].embedded.handle(b"mg gen c\r\n") == b"EN\r\n"
    assert len(bulk.values()) == 30


ANSWER = b"".join(b"VALUE k%d 7 %d %d\r\n%b\r\n" % (n, len(d), n + 40, d) for n, d in enumerate(AWKWARD)) + b"END\r\n"
WANTED = [(b"k%d" % n, 7, data, n + 40) for n, data in enumerate(AWKWARD)]
BEHIND = {None: (b"", ()), b"gen": (b"HD c12345\r\n", (12345,)), b"absent": (b"EN\r\n", ())}


@pytest.mark.parametrize("generation", [None, b"gen", b"absent"])
def test_an_answer_may_be_cut_at_any_byte(generation: bytes | None) -> None:
    """In two pieces at each place, in three, and byte by byte: the same values, the timer set anew, the shelf full."""
    behind, number = BEHIND[generation]
    answer = ANSWER + behind
    cuts = [at(place) for place in range(1, len(answer))]
    cuts += [at(place, place + 1, place + 7) for place in range(1, len(answer))]
    for cut in [*cuts, byte_by_byte]:
        bulk = one_server(answer, cut)
        assert bulk.fetch(names(len(AWKWARD)), b"gets", generation) == {0: number}
        assert bulk.found == WANTED
        assert bulk.failed == []
        assert bulk.fleet.settled()
        assert len(bulk.fleet.idle()) == 1


@given(st.lists(st.integers(1, len(ANSWER) + 10), max_size=20), st.sampled_from(sorted(BEHIND, key=str)))
def test_an_answer_may_be_cut_anywhere_any_number_of_times(places: list[int], generation: bytes | None) -> None:
    """The same, in random pieces."""
    behind, number = BEHIND[generation]
    bulk = one_server(ANSWER + behind, at(*places))
    assert bulk.fetch(names(len(AWKWARD)), b"gets", generation) == {0: number}
    assert bulk.found == WANTED


@pytest.mark.parametrize("generation", [None, b"gen"])
def test_an_answer_that_ends_early_is_a_failure(generation: bytes | None) -> None:
    """Cut off at each byte: what was whole may be used, the connection may not, and the failure is told once."""
    answer = ANSWER + BEHIND[generation][0]
    for end in range(len(answer)):
        lost = Unreachable("closed in the middle")
        bulk = one_server(answer)
        bulk.fleet.fakes[0].cut = lambda text, end=end, lost=lost: [text[:end], lost] if end else [lost]  # type: ignore[misc]
        assert bulk.fetch(names(len(AWKWARD)), b"gets", generation) == {}
        assert bulk.found == WANTED[: len(bulk.found)]
        assert bulk.failed == [(0, lost)] == bulk.fleet.failures
        assert bulk.fleet.idle() == []
        assert bulk.fleet.settled()


NONSENSE = [
    b"ERROR\r\n",
    b"SERVER_ERROR out of memory writing get response\r\n",
    b"CLIENT_ERROR line too long\r\n",
    b"HD\r\n",
    b"EN\r\n",
    b"\r\n",
    b"\x00",
    b"VALUES k0 0 1\r\nx\r\nEND\r\n",
    b"ENDE\r\n",
    b"END \r\n",
    b"END\n\n\n",
    b"VALUE other 0 1\r\nx\r\nEND\r\n",
    b"VALUE k0\r\nEND\r\n",
    b"VALUE k0 0\r\nEND\r\n",
    b"VALUE  0 1\r\nx\r\nEND\r\n",
    b"VALUE k0 0 x\r\nEND\r\n",
    b"VALUE k0 x 1\r\nx\r\nEND\r\n",
    b"VALUE k0 0 1 x\r\nx\r\nEND\r\n",
    b"VALUE k0 0 1.0\r\nx\r\nEND\r\n",
    b"VALUE k0 0 -1\r\nx\r\nEND\r\n",
    b"VALUE k0 0 -2\r\nEND\r\n",
    b"VALUE k0 0 0\r\n\r\nVALUE k1 0 -17\r\nEND\r\n",
    b"VALUE k0 0 0\r\n\r\nVALUE k0 0 -18\r\nEND\r\n",
    b"VALUE k0 0 1\r\nxx\r\nEND\r\n",
    b"VALUE k0 0 3\r\nx\r\nEND\r\n",
    b"VALUE k0 0 1\r\nxEND\r\n",
]
TRAILING = [
    b"VALUE k0 0 1\r\nx\r\nEND\r\nEND\r\n",
    b"VALUE k0 0 1\r\nx\r\nEND\r\nVALUE k0 0 1\r\nx\r\nEND\r\n",
    b"END\r\nHD c5\r\n",
    b"END\r\nx",
]
"""Right as far as their END: what comes with it shows that they answer something else."""


@pytest.mark.parametrize(
    ("answer", "cut"),
    [(answer, cut) for answer in NONSENSE for cut in (whole, byte_by_byte)] + [(answer, whole) for answer in TRAILING],
)
def test_nonsense_is_a_protocol_error_and_the_connection_is_closed(answer: bytes, cut: Cut) -> None:
    """No other exception ever comes of it, it never hangs, and the connection is not used again."""
    bulk = one_server(answer, cut)
    assert bulk.fetch([b"k0", b"k1"]) == {}
    assert [type(error) for _, error in bulk.failed] == [ProtocolError]
    assert bulk.failed[0][1].server == bulk.fleet.names[0]
    assert bulk.fleet.fakes[0].connections[0].is_closed
    assert bulk.fleet.settled()


@pytest.mark.parametrize(
    "behind",
    [
        b"HD\r\n",
        b"HD c\r\n",
        b"HD cx\r\n",
        b"HD c-5\r\n",
        b"HD c5\r\nHD c5\r\n",
        b"EN\r\nEN\r\n",
        b"NF\r\n",
        b"VA 0 c5\r\n\r\n",
        b"END\r\n",
        b"SERVER_ERROR out of memory\r\n",
    ],
)
def test_nonsense_in_place_of_a_generation(behind: bytes) -> None:
    """Without its number, nothing that was read can be trusted."""
    bulk = one_server(b"VALUE k0 0 1 5\r\nx\r\nEND\r\n" + behind)
    assert bulk.fetch([b"k0"], b"gets", b"gen") == {}
    assert [type(error) for _, error in bulk.failed] == [ProtocolError]
    assert bulk.fleet.idle() == []
    assert bulk.fleet.settled()


@given(st.binary(max_size=60) | st.text("VALUEND k0123456789-\r\nHDcx", max_size=60).map(str.encode))
def test_noise_is_read_or_refused_but_never_more(noise: bytes) -> None:
    """Whatever bytes come: the keys that were asked for, or a ServerError."""
    bulk = one_server(noise)
    bulk.fetch([b"k0", b"k1"], b"get", None)
    assert {key for key, *_ in bulk.found} <= {b"k0", b"k1"}
    assert all(isinstance(error, ProtocolError | DeadlineExceeded) for _, error in bulk.failed)
    assert len(bulk.failed) + len(bulk.fleet.idle()) == 1
    assert bulk.fleet.settled()


def test_an_error_message_shows_nothing_of_what_was_read() -> None:
    """It is logged, and what was read may be a value."""
    bulk = one_server(b"VALUE k0 0 1\r\ns3cret\r\nEND\r\n")
    bulk.fetch([b"k0"])
    assert "s3cret" not in str(bulk.failed[0][1])


# -- several batches, several servers ----------------------------------------------------------------------------------


def test_many_keys_go_in_bounded_batches_server_beside_server() -> None:
    """Every window asks all servers that still have keys, before any answer is read."""
    bulk, keys = Bulk(), names(5 * BATCH_KEYS)
    values = {key: b"value of " + key for key in keys}
    bulk.store(values)
    bulk.fetch(keys)
    assert bulk.values() == values
    for index, fake in enumerate(bulk.fleet.fakes):
        asked = [request.split()[1:] for request in fake.requests]
        assert all(len(part) <= BATCH_KEYS for part in asked)
        assert [key for part in asked for key in part] == [key for key in keys if bulk.index(key) == index]
        assert len(fake.connections) == 1
    assert [what for what, _ in bulk.fleet.log[:6]] == ["send"] * 3 + ["receive"] * 3
    assert max(len(fake.requests) for fake in bulk.fleet.fakes) > 1
    assert bulk.fleet.settled()


@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("error", [DeadlineExceeded("slow"), Unreachable("gone"), ProtocolError("nonsense")])
def test_one_server_that_fails_costs_its_own_keys_only(victim: int, error: ServerError) -> None:
    """The others are served whole; the failing one is told once, and not asked for its further batches."""
    bulk, keys = Bulk(), names(5 * BATCH_KEYS)
    bulk.store(dict.fromkeys(keys, b"x"))
    bulk.fleet.fakes[victim].cut = lambda _: [error]
    numbers = bulk.fetch(keys)
    assert set(bulk.values()) == {key for key in keys if bulk.index(key) != victim}
    assert sorted(numbers) == [index for index in range(3) if index != victim]
    assert bulk.failed == [(victim, error)]
    assert len(bulk.fleet.fakes[victim].requests) == 1
    assert bulk.fleet.settled()


def test_a_server_that_fails_in_its_second_batch_keeps_what_the_first_brought() -> None:
    """What was read under a good answer is good."""
    bulk, keys = Bulk(servers=1), names(2 * BATCH_KEYS)
    bulk.store(dict.fromkeys(keys, b"x"))
    lost, turns = Unreachable("gone"), [0]

    def cut(answer: bytes) -> list[bytes | BaseException]:
        turns[0] += 1
        return [answer] if turns[0] == 1 else [lost]

    bulk.fleet.fakes[0].cut = cut
    bulk.fetch(keys)
    assert list(bulk.values()) == keys[:BATCH_KEYS]
    assert bulk.failed == [(0, lost)]
    assert bulk.fleet.settled()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, RuntimeError])
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_an_interrupt_closes_what_was_not_read(kind: type[BaseException], victim: int) -> None:
    """In the middle of one server's answer: it and those behind it are closed, those before go on."""
    bulk, keys = Bulk(), names(60)
    bulk.store(dict.fromkeys(keys, b"x"))
    bulk.fleet.fakes[victim].cut = lambda answer: [answer[:20], kind()]
    with pytest.raises(kind):
        bulk.fetch(keys)
    assert [len(row) for row in bulk.fleet.rows] == [1] * victim + [0] * (3 - victim)
    assert bulk.failed == []
    assert bulk.fleet.settled()


def test_a_callback_that_raises_is_not_taken_for_nonsense() -> None:
    """Its exception is its own, a ValueError too, and the connections are closed."""
    bulk = Bulk()
    bulk.store(dict.fromkeys(names(30), b"x"))

    def take(_: list[Found]) -> None:
        raise ValueError("the callback's own")

    with pytest.raises(ValueError, match="own"):
        fetch(names(30), bulk.fleet.real, take, lambda *_: None)
    assert bulk.fleet.idle() == []
    assert bulk.fleet.settled()


# -- writing -----------------------------------------------------------------------------------------------------------


def sets(keys: list[bytes], data: bytes = b"x") -> dict[bytes, bytes]:
    """A command to store ``data`` for each key."""
    return {key: b"ms %b %d T60\r\n%b\r\n" % (key, len(data), data) for key in keys}


def test_the_usual_answer_is_no_news() -> None:
    """Everything stored: nothing to tell, and everything is there."""
    bulk, keys = Bulk(), names(100)
    assert bulk.send(sets(keys)) == {}
    bulk.fetch(keys)
    assert bulk.values() == dict.fromkeys(keys, b"x")
    assert bulk.fleet.settled()


def test_nothing_to_send() -> None:
    """No command, no word."""
    bulk = Bulk()
    assert bulk.send({}) == {}
    assert bulk.fleet.log == []


def test_other_answers_are_told_by_key() -> None:
    """Deletes of which half find nothing."""
    bulk, keys = Bulk(), names(40)
    bulk.store(dict.fromkeys(keys[::2], b"x"))
    assert bulk.send({key: b"md %b\r\n" % key for key in keys}) == dict.fromkeys(keys[1::2], "NF")
    assert bulk.fleet.settled()


MIXED = {b"k0": "HD", b"k1": "NS", b"k2": "ERROR", b"k3": "HD", b"k4": "EX"}
MIXED_ANSWER = b"HD\r\nNS\r\nSERVER_ERROR object too large for cache\r\nHD\r\nEX\r\n"


def test_answers_may_be_cut_at_any_byte() -> None:
    """Usual and unusual ones: told by key, the timer set anew."""
    odd = {key: code for key, code in MIXED.items() if code != "HD"}
    for answer, expected in ((MIXED_ANSWER, odd), (PLAIN * 5, {})):
        for cut in [*[at(place, place + 2) for place in range(1, len(answer))], byte_by_byte]:
            bulk = one_server(answer, cut)
            assert bulk.send(sets(list(MIXED))) == expected
            assert bulk.failed == []
            assert bulk.fleet.settled()


@pytest.mark.parametrize(
    "answer",
    [
        PLAIN * 6,
        PLAIN * 5 + b"H",
        b"HD\r\nHD\r\nwhat\r\nHD\r\nHD\r\n",
        PLAIN * 4 + b"\x00\r\n",
        b"VA -1\r\n" + PLAIN * 4,
    ],
)
def test_nonsense_in_answer_to_writes(answer: bytes) -> None:
    """None of the batch is acknowledged, and the connection is closed."""
    bulk = one_server(answer)
    assert bulk.send(sets(list(MIXED))) == dict.fromkeys(MIXED, "LOST")
    assert [type(error) for _, error in bulk.failed] == [ProtocolError]
    assert bulk.fleet.idle() == []
    assert bulk.fleet.settled()


def test_an_answer_to_writes_that_ends_early() -> None:
    """Cut off at each byte: nothing of that batch counts as acknowledged."""
    for end in range(len(MIXED_ANSWER)):
        bulk = one_server(MIXED_ANSWER[:end])
        assert bulk.send(sets(list(MIXED))) == dict.fromkeys(MIXED, "LOST")
        assert [type(error) for _, error in bulk.failed] == [DeadlineExceeded]
        assert bulk.fleet.idle() == []


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_one_server_that_fails_loses_its_own_writes_only(victim: int) -> None:
    """All of its keys are told as lost, those of batches that were never sent as well."""
    bulk, keys = Bulk(), names(5 * BATCH_KEYS)
    gone = Unreachable("gone")
    bulk.fleet.fakes[victim].cut = lambda _: [gone]
    assert bulk.send(sets(keys)) == {key: "LOST" for key in keys if bulk.index(key) == victim}
    assert bulk.failed == [(victim, gone)]
    assert len(bulk.fleet.fakes[victim].requests) == 1
    assert bulk.fleet.settled()


def test_a_second_batch_that_fails_leaves_the_first_acknowledged() -> None:
    """Odd answers of the first are told by their own code."""
    bulk, keys = Bulk(servers=1), names(2 * BATCH_KEYS + 5)
    turns = [0]

    def answer(request: bytes) -> bytes:
        turns[0] += 1
        return b"NS\r\n" + PLAIN * (BATCH_KEYS - 1) if turns[0] == 1 else b""

    bulk.fleet.fakes[0].answer = answer
    odd = bulk.send(sets(keys))
    assert odd == {keys[0]: "NS", **dict.fromkeys(keys[BATCH_KEYS:], "LOST")}


def test_large_values_go_in_batches_of_bounded_size() -> None:
    """A server that does not read while its answers are not taken is never sent more than it holds."""
    bulk, keys = Bulk(), names(60)
    assert bulk.send(sets(keys, bytes(BATCH_BYTES // 4))) == {}
    for fake in bulk.fleet.fakes:
        assert len(fake.requests) > 1
        assert all(len(request) <= BATCH_BYTES for request in fake.requests)
        assert len(fake.connections) == 1
    bulk.fetch(keys)
    assert set(bulk.values()) == set(keys)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_an_interrupt_while_writing_closes_what_was_not_read(kind: type[BaseException]) -> None:
    """Answers under way belong to nobody."""
    bulk = Bulk()
    bulk.fleet.fakes[1].cut = lambda _: [kind()]
    with pytest.raises(kind):
        bulk.send(sets(names(60)))
    assert [len(row) for row in bulk.fleet.rows] == [1, 0, 0]
    assert bulk.fleet.settled()
