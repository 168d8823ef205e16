"""What is asked of a server for one function's entries, and what is stored for it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from flows.scripted import GENERATION, KEY, make_recipe
from hypothesis import given
from hypothesis import strategies as st

from cachekit import meta
from cachekit.codecs.envelope import FOREVER, open_envelope
from cachekit.codecs.flags import ENVELOPED, MARK, TEXT
from cachekit.codecs.note import ENVELOPED_NOTE, NOTE_FLAGS
from cachekit.embedded import EmbeddedServer
from cachekit.errors import DecodeError, ProtocolError
from cachekit.generations import numbers
from cachekit.meta import Parser, Reply
from cachekit.policy import Judgement, Verdict, judge
from cachekit.recipe import Recipe, Snapshot, give_back_request, store_request, take_over_request

NOW = 1_800_000_000.0


def plain_recipe(**options: Any) -> Recipe:
    """The recipe of a direct key: no envelope, no generations."""
    return make_recipe(enveloped=False, generations=(), **options)


def stored(recipe: Recipe, value: Any, *, ttl_s: float | None = 60.0, generations: tuple[int, ...] = (5,)) -> Reply:
    """The reply to a read of an entry just made."""
    flags, data, _ = recipe.seal(KEY, recipe.packer.pack(value), ttl_s, Snapshot(generations, NOW), 0.25)
    return Reply("VA", data, None, 9, None, flags, b"1")


# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_read_asks_for_value_and_generation_in_one_write() -> None:
    """The value with a lease, then each generation over it, all under one token."""
    assert make_recipe().read(KEY, 7) == (
        b"mg " + KEY + b" c f t v N300 O7\r\n" + b"mg " + GENERATION + b" c N0 O7\r\n"
    )
    assert make_recipe(generations=()).read(KEY, 7) == b"mg " + KEY + b" c f t v N300 O7\r\n"
    assert make_recipe(generations=(b"a", b"b")).read(KEY, 7).splitlines()[1:] == [b"mg a c N0 O7", b"mg b c N0 O7"]


@pytest.mark.parametrize("generation", [b"100%", b"%d", b"%%b", b"a%sb:gen="])
def test_a_percent_sign_in_a_generations_key_stays_one(generation: bytes) -> None:
    """Readable keys escape with %; none of that is a place to put something in."""
    read = make_recipe(generations=(generation,)).read(b"k%d", 7)
    assert read == b"mg k%d c f t v N300 O7\r\nmg " + generation + b" c N0 O7\r\n"


def test_tags_are_asked_for_between_the_value_and_the_generations() -> None:
    """Each under the same token, its record made for thirty days; a claim and a look ask for them too."""
    recipe = make_recipe(generations=(b"n", b"f"))
    lines = [b"mg a c N2592000 O7", b"mg b c N2592000 O7", b"mg n c N0 O7", b"mg f c N0 O7"]
    assert recipe.read(b"k", 7, tags=(b"a", b"b")).splitlines() == [b"mg k c f t v N300 O7", *lines]
    assert recipe.look(b"k", 7, tags=(b"a", b"b")).splitlines() == [b"mg k c f t v O7", *lines]
    claim = recipe.read(b"k", 7, claim=True, tags=(b"a", b"b")).splitlines()
    assert claim == [b"mg k c f t v N300 R2147483647 O7", *lines]
    closer = recipe.read(b"k", 7, closer=True, tags=(b"a", b"b")).splitlines()
    assert closer == [b"mg k c f t v N300 O7", *(line.replace(b" c ", b" c v ") for line in lines)]
    numbered = recipe.read(b"k", 7, 99, tags=(b"a",)).splitlines()
    assert numbered == [
        b"mg k c f t v N300 E99 O7", b"mg a c N2592000 E99 O7", b"mg n c N0 E99 O7", b"mg f c N0 E99 O7"
    ]  # fmt: skip


@given(
    key=st.binary(min_size=1),
    opaque=st.integers(1, 2**63),
    tags=st.lists(st.sampled_from([b"a", b"%d", b"100%", b"%%b"]) | st.binary(min_size=1), max_size=130).map(tuple),
    generations=st.sampled_from([(), (b"f",), (b"n%25", b"f")]),
)
def test_the_quick_way_asks_what_the_other_asks(
    key: bytes, opaque: int, tags: tuple[bytes, ...], generations: tuple[bytes, ...]
) -> None:
    """For hits, however many tags there are; and whatever the keys are."""
    recipe = make_recipe(generations=generations)
    lines = [
        b"mg " + key + b" c f t v N300",
        *(b"mg " + tag + b" c N2592000" for tag in tags),
        *(b"mg " + each + b" c N0" for each in generations),
    ]
    expected = b"".join(line + b" O%d\r\n" % opaque for line in lines)
    assert recipe.read_tagged(key, opaque, tags) == recipe.read(key, opaque, tags=tags) == expected


@pytest.mark.parametrize(
    ("lease_s", "stub_s"), [(1.0, 300), (10.0, 300), (100.0, 300), (100.5, 303), (86_400.0, 259_200)]
)
def test_a_stub_outlives_its_lease_three_times_and_five_minutes(lease_s: float, stub_s: int) -> None:
    """So that its age can be read off its t, and so that a slow function still finds its stub when it is done."""
    recipe = make_recipe(lease_s=lease_s)
    assert recipe.stub_s == stub_s >= 3 * lease_s
    assert b" N%d " % stub_s in recipe.read(KEY, 1)


def test_the_embedded_server_understands_every_request() -> None:
    """Read, store, read again, take over, give back: as many replies as there should be, all under our token."""
    server, recipe = EmbeddedServer(clock=lambda: NOW), make_recipe()
    first, generation = Parser().feed(server.handle(recipe.read(KEY, 7)))
    assert recipe.judge(first, numbers([generation]), KEY, NOW).verdict is Verdict.MINE
    assert first.cas is not None
    assert generation.cas is not None
    sealed = recipe.seal(KEY, recipe.packer.pack({"n": 1}), 60.0, Snapshot((generation.cas,), NOW), 0.25)
    assert server.handle(store_request(KEY, sealed, first.cas, 8)) == b"HD O8\r\n"
    found, again = Parser().feed(server.handle(recipe.read(KEY, 9)))
    judgement = recipe.judge(found, numbers([again]), KEY, NOW)
    assert judgement.verdict is Verdict.FRESH
    assert recipe.open(found, judgement) == {"n": 1}
    assert found.ttl == 71
    assert server.handle(take_over_request(KEY, 10.0, 10)) == b"HD O10\r\n"
    assert server.handle(take_over_request(KEY, 10.0, 11)) == b"NS O11\r\n"
    assert found.cas is not None
    assert server.handle(give_back_request(KEY, found.cas + 1, 12)) == b"EX O12\r\n"
    assert server.handle(give_back_request(KEY, found.cas, 13)) == b"HD O13\r\n"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"", ()),
        (b"HD c5 O1 Z\r\n", (5,)),
        (b"HD c5 O1 W\r\nHD c6 O1 Z\r\n", (5, 6)),
        (b"EN O1\r\n", None),
        (b"HD O1\r\n", None),
        (b"HD c5 O1\r\nEN O1\r\n", None),
        (b"SERVER_ERROR out of memory\r\n", None),
        (b"VA 0 c5 O1 Z\r\n\r\nVA 1 c6 O1\r\n3\r\n", (5, 6)),
        (b"VA 1 O1\r\nx\r\n", None),
    ],
)
def test_generations_are_all_there_or_none(lines: bytes, expected: tuple[int, ...] | None) -> None:
    """One that could not be had makes the others useless."""
    assert numbers(Parser().feed(lines)) == expected


@pytest.mark.parametrize("number", [b"-5", b"+5", b"5_0", b"18446744073709551616", b"9" * 30, b"", b"x"])
def test_a_number_that_could_not_be_written_back_is_no_reply(number: bytes) -> None:
    """A CAS number goes into the store's request and a generation into the header: both take 64 bits."""
    for line in (b"VA 0 c%b f0 t-1 O1 W\r\n\r\n", b"HD c%b O1 Z\r\n", b"VALUE k 0 1 %b\r\nx\r\n"):
        with pytest.raises(ProtocolError):
            Parser().feed(line % number)


# -- sealing and opening -----------------------------------------------------------------------------------------------


def test_an_entry_says_whose_it_is_how_old_and_under_what() -> None:
    """Every field of the header, the flags and the exptime."""
    recipe = make_recipe()
    packed = recipe.packer.pack("text")
    flags, data, until = recipe.seal(KEY, packed, 60.5, Snapshot((5,), NOW + 0.25), 1.5)
    header, at = open_envelope(data)
    assert flags == MARK | ENVELOPED | TEXT
    assert data[at:] == packed[1] == b"text"
    assert (header.fingerprint, header.created_ms, header.ttl_ms) == (KEY[-16:], int(NOW * 1000) + 250, 60_500)
    assert (header.stale_ms, header.stale_if_error_ms, header.delta_us) == (0, 0, 1_500_000)
    assert header.generations == (5,)
    assert header.hard_s == until == 72
    assert (header.retry_ms, header.slide_ms) == (0, 0)


def test_an_entry_says_how_long_it_may_be_served_stale() -> None:
    """stale, stale_if_error and sliding come from the policy; the hard end behind all of them."""
    recipe = make_recipe(stale_s=30.5, stale_if_error_s=600.0, sliding=True)
    _, data, until = recipe.seal(KEY, recipe.packer.pack(1), 60.0, Snapshot((5,), NOW), 0.25)
    header, _ = open_envelope(data)
    assert (header.stale_ms, header.stale_if_error_ms, header.slide_ms) == (30_500, 600_000, 60_000)
    assert header.hard_s == until == 60 + 1 + 641


@given(
    ttl_s=st.floats(0.001, 1e9),
    created_s=st.floats(1.5e9, 2e9),
    stale_s=st.sampled_from([0.0, 0.5, 30.0, 86_400.0]),
    if_error_s=st.sampled_from([0.0, 0.5, 600.0]),
    lease_s=st.sampled_from([1.0, 10.0, 3600.0]),
)
def test_the_server_never_drops_an_entry_before_its_header_does(
    ttl_s: float, created_s: float, stale_s: float, if_error_s: float, lease_s: float
) -> None:
    """A second later than the last moment at which it may be served, since the server's clock ticks in whole seconds;
    and a lease after its ttl at least, so that it does not end under the one who refreshes it.
    """
    recipe = make_recipe(stale_s=stale_s, stale_if_error_s=if_error_s, lease_s=lease_s)
    _, data, until = recipe.seal(KEY, recipe.packer.pack(1), ttl_s, Snapshot((5,), created_s), 0.0)
    header, _ = open_envelope(data)
    assert header.ttl_ms == int(ttl_s * 1000)
    after_s = stale_s + if_error_s + lease_s
    whole_s = math.ceil(ttl_s) + 1 + math.ceil(after_s)
    span_s = until if until <= 30 * 86_400 else until - created_s
    if until == 30 * 86_400:
        assert whole_s >= until, "a span is worth more than its last part: dates go by the clock of who stores"
    elif until < 2**31 - 1:
        assert header.hard_s == whole_s
        assert span_s >= ttl_s + 1 + after_s
    assert header.hard_s <= math.ceil(span_s), "the header says no more than the server was told"


@pytest.mark.parametrize("options", [{}, {"jitter": 0.5}, {"stale_s": 5.0}, {"sliding": True}, {"beta": 1.0}])
@pytest.mark.parametrize("ttl", [0.5, 60.0, 86_400.0, 86_401.0])
def test_times_that_are_the_same_for_every_entry_are_the_ones_it_would_get(ttl: float, options: dict[str, Any]) -> None:
    """Worked out once for plain ttls, so that a miss need not; never for others."""
    recipe = make_recipe(ttl=ttl, **options)
    assert (recipe.steady is not None) == (ttl <= 86_400 and options in ({}, {"beta": 1.0}))
    sealed = recipe.seal(KEY, recipe.packer.pack(1), ttl, Snapshot((5,), NOW), 0.25)
    recipe.steady = None
    assert sealed == recipe.seal(KEY, recipe.packer.pack(1), ttl, Snapshot((5,), NOW), 0.25)


def test_a_note_ends_with_its_ttl() -> None:
    """A pass marker or a failure is never served stale, whatever the policy says of values."""
    recipe = make_recipe(stale_s=30.0, stale_if_error_s=600.0, sliding=True)
    flags, data, until = recipe.seal(KEY, (NOTE_FLAGS, b"P"), 5.0, Snapshot((5,), NOW), 0.0)
    header, at = open_envelope(data)
    assert (flags, data[at:], until) == (ENVELOPED_NOTE, b"P", 6)
    assert (header.stale_ms, header.stale_if_error_ms, header.slide_ms, header.ttl_ms) == (0, 0, 0, 5_000)


def test_a_resealed_entry_keeps_its_flags_and_its_bytes() -> None:
    """Only the header is another."""
    recipe = make_recipe()
    reply = stored(recipe, {"n": [1, 2]})
    judgement = recipe.judge(reply, (5,), KEY, NOW)
    assert judgement.header is not None
    flags, data, until = recipe.reseal(reply, judgement.header._replace(retry_ms=7), judgement.payload_at, 33)
    again = Reply("VA", data, None, 9, None, flags, b"1")
    assert (flags, until) == (reply.client_flags, 33)
    opened = recipe.judge(again, (5,), KEY, NOW)
    assert opened.header == judgement.header._replace(retry_ms=7)
    assert recipe.payload(again, opened) == recipe.payload(reply, judgement)
    assert recipe.open(again, opened) == {"n": [1, 2]}


def test_for_ever() -> None:
    """No ttl: neither the header nor the server ends it."""
    recipe = make_recipe()
    _, data, until = recipe.seal(KEY, recipe.packer.pack(1), None, Snapshot((5,), NOW), 0.0)
    header, _ = open_envelope(data)
    assert (header.ttl_ms, header.hard_s, until) == (FOREVER, 0, 0)


def test_a_run_of_hours_fits_the_header() -> None:
    """The running time is capped at what its field holds, 71 minutes."""
    recipe = make_recipe()
    _, data, _ = recipe.seal(KEY, recipe.packer.pack(1), 60.0, Snapshot((5,), NOW), 1e6)
    assert open_envelope(data)[0].delta_us == 2**32 - 1


def test_the_longest_ttl_fits_the_header() -> None:
    """2.7 million years, in milliseconds; the hard end is what the server was told, whose dates end in 2038."""
    recipe = make_recipe()
    _, data, until = recipe.seal(KEY, recipe.packer.pack(1), 8.64e13, Snapshot((5,), NOW), 0.0)
    header, _ = open_envelope(data)
    assert (header.ttl_ms, header.hard_s, until) == (int(8.64e16), 2**31 - 1 - int(NOW), 2**31 - 1)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES, st.booleans())
def test_what_was_sealed_comes_out(value: Any, grouped: bool) -> None:
    """The same value with the same types, FRESH under the generations that it was sealed under and no others."""
    recipe = make_recipe() if grouped else make_recipe(generations=())
    generations = (5,) if grouped else ()
    reply = stored(recipe, value, generations=generations)
    judgement = recipe.judge(reply, generations, KEY, NOW)
    assert judgement.verdict is Verdict.FRESH
    opened = recipe.open(reply, judgement)
    assert opened == value
    assert type(opened) is type(value)
    assert recipe.judge(reply, (6,), KEY, NOW).verdict is Verdict.VOID
    assert recipe.judge(reply, None, KEY, NOW).verdict is Verdict.VOID
    assert recipe.judge(reply, generations, KEY[:-1] + b"B", NOW).verdict is Verdict.GARBAGE


def test_a_change_of_group_makes_entries_void() -> None:
    """An entry made with group=False can't be invalidated as one of a group, and the other way round."""
    grouped, ungrouped = make_recipe(), make_recipe(generations=())
    made_ungrouped = stored(ungrouped, 1, generations=())
    made_grouped = stored(grouped, 1)
    assert grouped.judge(made_ungrouped, (5,), KEY, NOW).verdict is Verdict.VOID
    assert ungrouped.judge(made_grouped, (), KEY, NOW).verdict is not Verdict.FRESH


@pytest.mark.parametrize("flags", [TEXT | MARK, 0, ENVELOPED ^ (TEXT | MARK | ENVELOPED), 1])
def test_an_entry_is_opened_only_under_the_flag_of_one(flags: int) -> None:
    """A plain value that happens to look like an entry is none."""
    recipe = make_recipe()
    reply = stored(recipe, "text")
    judgement = recipe.judge(reply, (5,), KEY, NOW)
    reply.client_flags = flags
    with pytest.raises(DecodeError):
        recipe.open(reply, judgement)


@pytest.mark.parametrize("flags", [None, MARK | ENVELOPED | 15, MARK | ENVELOPED | 48 | TEXT, MARK | ENVELOPED | 128])
def test_an_entry_of_an_unknown_format_is_a_decode_error(flags: int | None) -> None:
    """A format, a compression or a layout that this version doesn't know."""
    recipe = make_recipe()
    reply = stored(recipe, "text")
    judgement = recipe.judge(reply, (5,), KEY, NOW)
    reply.client_flags = flags
    with pytest.raises(DecodeError):
        recipe.open(reply, judgement)


# -- plain values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"VA 4 c9 f51715 t50 O1\r\ntext\r\n", Verdict.FRESH),
        (b"VA 4 c9 f0 t50 O1\r\ntext\r\n", Verdict.FRESH),
        (b"VA 4 c9 f0 t50 O1 Z\r\ntext\r\n", Verdict.FRESH),
        (b"VA 0 c9 f51715 t50 O1\r\n\r\n", Verdict.FRESH),
        (b"VA 0 c9 f0 t-1 O1 W\r\n\r\n", Verdict.MINE),
        (b"VA 0 c9 f0 t30 O1 Z\r\n\r\n", Verdict.BUSY),
        (b"VA 0 c9 f0 t30 O1\r\n\r\n", Verdict.BUSY),
        (b"EN\r\n", Verdict.NO_LEASE),
        (b"SERVER_ERROR out of memory\r\n", Verdict.NO_LEASE),
    ],
)
def test_a_plain_value_is_fresh_as_long_as_the_server_keeps_it(reply: bytes, expected: Verdict) -> None:
    """Direct verbs judge by presence; an empty value with flags of its own is a value, and a stub is none."""
    assert plain_recipe().judge(Parser().feed(reply)[0], (), KEY, NOW) == Judgement(expected)


def test_a_plain_value_is_stored_as_it_is() -> None:
    """Other programs can read it; the exptime is the ttl's own."""
    recipe = plain_recipe()
    assert recipe.seal(KEY, recipe.packer.pack("text"), 60.0, Snapshot((), NOW), 0.25) == (MARK | TEXT, b"text", 60)
    assert recipe.seal(KEY, recipe.packer.pack(41), None, Snapshot((), NOW), 0.25)[1:] == (b"41", 0)
    reply = Reply("VA", b"text", client_flags=MARK | TEXT)
    assert recipe.open(reply, recipe.judge(reply, (), KEY, NOW)) == "text"


def test_a_functions_entry_is_no_plain_value() -> None:
    """Read by a direct verb, its header would be taken for a part of the value."""
    entry = stored(make_recipe(), b"bytes")
    recipe = plain_recipe()
    with pytest.raises(DecodeError):
        recipe.open(entry, recipe.judge(entry, (), KEY, NOW))


# -- writing -----------------------------------------------------------------------------------------------------------


def test_a_store_goes_under_its_cas_only() -> None:
    """C: what was invalidated or filled meanwhile stays as it is."""
    assert store_request(b"k", (51715, b"text", 61), 9, 7) == b"ms k 4 C9 F51715 T61 O7\r\ntext\r\n"
    assert store_request(b"k", (51715, b"text", 61), 9, 7) == meta.ms(b"k", b"text", b"C9 F51715 T61 O7")


def test_giving_back_removes_only_what_was_seen() -> None:
    """The stub of one's own lease, or the void entry that was judged."""
    assert give_back_request(b"k", 9, 7).split() == [b"md", b"k", b"C9", b"O7"]


@pytest.mark.parametrize("key", [b"k", KEY, b"k" * 250])
def test_the_second_lease_has_a_key_that_the_server_takes(key: bytes) -> None:
    """Beside the entry's, never longer than 250 bytes, and added by one waiter only."""
    line, data = take_over_request(key, 9.5, 7).split(b"\r\n")[:2]
    command, own, size, *flags = line.split(b" ")
    assert (command, size, data) == (b"ms", b"1", b"1")
    assert own == meta.check_key(own) != key
    assert own.startswith(key[:249])
    assert flags == [b"ME", b"T11", b"O7"]


def test_judging_an_entry_is_the_policys_work() -> None:
    """One rule for all: the recipe adds only what stands for no generation."""
    recipe = make_recipe()
    reply = stored(recipe, "text")
    for generations in [(5,), (4,), (6,), (5, 6), None]:
        assert recipe.judge(reply, generations, KEY, NOW) == judge(reply, generations, KEY, NOW)
