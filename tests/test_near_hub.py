"""What may go into the near tier and how long it holds: nothing from before an invalidation, ever."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachekit.near.hub import Fresh, Hub, Ticket, _bits
from cachekit.near.option import Near
from cachekit.near.tier import PACKED, Tier
from cachekit.tally import Tally

KEY, OTHER = b"app:f:1", b"app:f:2"
GROUP, TAG = b"app:f:gen=1", b"app:tag=a"


class Stage:
    """A hub with one store, and a clock that the test moves."""

    def __init__(self, **near: Any) -> None:
        self.now = 1000.0
        self.hub = Hub(itertools.count(1), lambda: self.now)
        self.tier: Tier = self.hub.tier(Near(**{"ttl": 1.0, **near}))
        self.tally = Tally()

    def put(
        self,
        value: Any,
        ticket: Ticket | None = None,
        *,
        key: bytes = KEY,
        groups: tuple[bytes, ...] = (GROUP,),
        server: int = 0,
        left_s: float = 60.0,
        stored: bool = False,
    ) -> bool:
        """Bring a value, by a call that began with ``ticket``, or just now."""
        payload = (1, repr(value).encode())
        fresh = Fresh(value, payload, left_s, server, 0, groups, (), 7, 0.0, self.tally)
        return self.hub.put(self.tier, key, ticket or self.hub.ticket(), fresh, stored=stored)

    def get(self, key: bytes = KEY) -> Any:
        """What would be served; ``PACKED`` where nothing is."""
        node = self.hub.find(self.tier, key)
        return PACKED if node is None or node.ends <= self.now else node.value


def test_what_was_brought_is_served_for_near_ttl_from_the_sending_on() -> None:
    """And not from its arrival on."""
    stage = Stage()
    ticket = stage.hub.ticket()
    stage.now += 0.4
    assert stage.put("a", ticket)
    stage.now += 0.59
    assert stage.get() == "a"
    stage.now += 0.02
    assert stage.get() is PACKED


def test_and_never_longer_than_its_own_freshness() -> None:
    """The entry's end counts, where it comes first."""
    stage = Stage()
    assert stage.put("a", left_s=0.3)
    stage.now += 0.31
    assert stage.get() is PACKED
    assert not stage.put("b", left_s=0.0)


def test_a_reply_that_took_longer_than_near_ttl_is_not_kept() -> None:
    """It would be older than promised at once; nor does what stood there before it stay."""
    stage = Stage()
    ticket = stage.hub.ticket()
    stage.now += 1.5
    assert not stage.put("a", ticket)
    assert stage.get() is PACKED


@pytest.mark.parametrize("touched", [KEY, GROUP, TAG])
def test_an_invalidation_ends_it_at_once(touched: bytes) -> None:
    """Of the entry itself, or of any record over it; others stay."""
    stage = Stage()
    stage.put("a", groups=(TAG, GROUP))
    stage.put("b", key=OTHER, groups=(b"app:g:gen=2",))
    stage.hub.touch(touched)
    assert (stage.get(), stage.get(OTHER)) == (PACKED, "b")


@pytest.mark.parametrize("touched", [KEY, GROUP, TAG])
def test_a_read_under_way_does_not_bring_the_old_value_back(touched: bytes) -> None:
    """It was sent before the invalidation, so it may have seen what was there before it; a later one has not."""
    stage = Stage()
    ticket = stage.hub.ticket()
    stage.hub.touch(touched)
    assert not stage.put("old", ticket, groups=(TAG, GROUP))
    assert stage.get() is PACKED
    assert stage.put("new", groups=(TAG, GROUP))
    assert stage.get() == "new"


def test_without_the_look_at_the_epoch_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above fails when its guard is taken out."""
    monkeypatch.setattr(Hub, "_touched_since", lambda *_: False)
    stage = Stage()
    ticket = stage.hub.ticket()
    stage.hub.touch(KEY)
    assert stage.put("old", ticket)
    assert stage.get() == "old"


def test_a_fill_that_was_overtaken_goes_in_nowhere() -> None:
    """The store said HD, since a record was bumped and not the entry: the value is void all the same."""
    stage = Stage()
    ticket = stage.hub.ticket()
    stage.hub.touch(TAG)
    assert not stage.put("a", ticket, groups=(TAG, GROUP), stored=True)
    assert stage.get() is PACKED


def test_of_two_reads_the_later_sent_counts() -> None:
    """The process never goes back to what it has left behind."""
    stage = Stage()
    first, second = stage.hub.ticket(), stage.hub.ticket()
    assert stage.put("new", second)
    assert not stage.put("old", first)
    assert stage.get() == "new"


def test_also_where_the_later_one_was_evicted_meanwhile() -> None:
    """Its place remembers."""
    stage = Stage(entries=1)
    first, second = stage.hub.ticket(), stage.hub.ticket()
    assert stage.put("new", second)
    stage.put("b", key=OTHER)
    stage.put("c", key=b"app:f:3")
    assert stage.get() is PACKED
    assert not stage.put("old", first)


def test_what_was_stored_here_replaces_what_was_read_meanwhile() -> None:
    """By whichever call, begun before or after: before the store there was only the old value to be read."""
    stage = Stage()
    filling = stage.hub.ticket()
    reading = stage.hub.ticket()
    assert stage.put("old", reading)
    late = stage.hub.ticket()
    assert stage.put("new", filling, stored=True)
    assert stage.get() == "new"
    assert not stage.put("old", late)
    assert stage.get() == "new"


def test_a_reconnect_voids_what_its_server_held() -> None:
    """It may have begun anew; other servers have not. What was asked before it does not go in."""
    stage = Stage()
    ticket = stage.hub.ticket()
    stage.put("a", server=0)
    stage.put("b", key=OTHER, server=1)
    stage.hub.touch_server(0)
    assert (stage.get(), stage.get(OTHER)) == (PACKED, "b")
    assert not stage.put("a", ticket, server=0)
    assert stage.put("b", ticket, key=b"app:f:3", server=1)


def test_nothing_holds_after_touch_all() -> None:
    """Nor does what was under way."""
    stage = Stage()
    ticket = stage.hub.ticket()
    stage.put("a")
    stage.hub.touch_all()
    assert stage.get() is PACKED
    assert not stage.put("b", ticket, key=OTHER)
    assert stage.put("a")


def test_a_forked_child_begins_with_nothing() -> None:
    """Also where another thread held the lock."""
    stage = Stage()
    ticket = stage.hub.ticket()
    stage.put("a")
    table = stage.hub.table(stage.tier)
    stage.hub.alias(stage.tier, stage.tier.nodes[KEY], table, (1,))
    assert table
    stage.hub._lock.acquire()  # type: ignore[no-untyped-call, unused-ignore]
    stage.hub.forked()
    assert (stage.get(), table) == (PACKED, {})
    assert not stage.put("a", ticket)
    assert stage.put("b")


def test_too_much_for_its_room_is_not_kept_and_the_old_one_goes() -> None:
    """Else the old value would be served on."""
    stage = Stage(bytes=1 << 16)
    assert stage.put("a")
    assert not stage.put("x" * 60_000)
    assert stage.get() is PACKED


def test_a_value_that_may_change_is_kept_as_bytes() -> None:
    """So nobody can change it under another caller's feet."""
    stage = Stage()
    stage.put(["a"])
    node = stage.hub.find(stage.tier, KEY)
    assert node is not None
    assert (node.value, node.packed) == (PACKED, (1, b"['a']"))


def test_hits_are_told_once() -> None:
    """When they are asked for, when the value is replaced, and when it goes."""
    stage = Stage()
    for value, rounds in (("a", 3), ("b", 2)):
        stage.put(value)
        stage.tier.nodes[KEY].hits += rounds
    stage.hub.settle(stage.tier)
    stage.hub.settle(stage.tier)
    assert (stage.tally.hits, stage.tally.near, stage.tally.saved_us) == (5, 5, 35)
    stage.tier.nodes[KEY].hits += 1
    stage.hub.touch(KEY)
    assert stage.tally.hits == 6


def same_place(group: bytes, text: bytes) -> bytes:
    """Another key that has the place of ``group`` in the tables, but not all of its hash."""
    keys = (text % number for number in itertools.count())
    return next(key for key in keys if hash(key) % 8192 == hash(group) % 8192 and _bits(key) != _bits(group))


def test_a_key_in_the_place_of_a_group_voids_nothing_else() -> None:
    """One plain key in 8192 falls there; were it taken for the group, each write of it would void a whole function."""
    stage = Stage()
    stage.put("a")
    epoch = stage.hub.epoch
    stage.hub.touch(same_place(GROUP, b"app:other:%d"))
    assert stage.hub.epoch == epoch
    stage.hub.touch_server(5)  # has every entry looked at once more
    assert stage.get() == "a"
    stage.hub.touch(GROUP)
    assert stage.get() is PACKED


@pytest.mark.parametrize("touched", [0, 1])
def test_two_groups_in_one_place_are_both_heard_of(touched: int) -> None:
    """To tell them apart there is no room: either voids what stands under any of the two."""
    stage = Stage()
    groups = (GROUP, same_place(GROUP, b"app:tag=%d"))
    stage.put("a", groups=groups[:1])
    stage.put("b", key=OTHER, groups=groups[1:])
    stage.hub.touch(groups[touched])
    assert stage.get((KEY, OTHER)[touched]) is PACKED


# -- against a model ---------------------------------------------------------------------------------------------------

KEYS = [b"app:f:%d" % number for number in range(6)]
GROUPS = [b"app:tag=%d" % number for number in range(4)]
STEPS = st.one_of(
    st.tuples(st.just("begin"), st.sampled_from(KEYS), st.sets(st.sampled_from(GROUPS), max_size=2)),
    st.tuples(st.just("end"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("touch"), st.sampled_from(KEYS + GROUPS), st.none()),
    st.tuples(st.just("server"), st.integers(0, 1), st.none()),
    st.tuples(st.just("all"), st.none(), st.none()),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 0.5, 1.2]), st.none()),
)


class Model:
    """The same told plainly: each value bears the time at which its call began, and every touch is remembered."""

    def __init__(self, entries: int) -> None:
        self.stage = Stage(entries=entries)
        self.steps = itertools.count(1)
        self.touched: dict[object, int] = {}
        self.calls: list[tuple[Ticket, int, float, bytes, tuple[bytes, ...]]] = []
        self.groups: dict[int, tuple[bytes, ...]] = {}
        self.served: dict[bytes, int] = {}

    def take(self, step: tuple[str, Any, Any]) -> None:
        """One thing that happens."""
        what, one, other = step
        hub = self.stage.hub
        if what == "begin":
            self.calls.append((hub.ticket(), next(self.steps), self.stage.now, one, tuple(sorted(other))))
        elif what == "end" and self.calls:
            ticket, began, _, key, groups = self.calls.pop(one % len(self.calls))
            self.groups[began] = groups
            # A run's result is as of its start where it stands under records, and newer than any read in itself.
            self.stage.put(began, ticket, key=key, groups=groups, server=KEYS.index(key) % 2, stored=other)
        elif what == "touch":
            hub.touch(one)
            self.touched[one] = next(self.steps)
        elif what == "server":
            hub.touch_server(one)
            self.touched[one] = next(self.steps)
        elif what == "all":
            hub.touch_all()
            self.touched["all"] = next(self.steps)
        elif what == "wait":
            self.stage.now += one

    def check(self) -> None:
        """Whatever is served was begun after every touch of what it depends on."""
        for key in KEYS:
            began = self.stage.get(key)
            if began is not PACKED:
                depends = (key, *self.groups[began], KEYS.index(key) % 2, "all")
                assert all(began > self.touched.get(each, 0) for each in depends), (key, began, self.touched)


@settings(max_examples=300)
@given(entries=st.integers(1, 8), steps=st.lists(STEPS, max_size=80))
def test_no_touch_is_ever_lost(entries: int, steps: list[tuple[str, Any, Any]]) -> None:
    """Whatever is under way, evicted, replaced or expired meanwhile."""
    model = Model(entries)
    for step in steps:
        model.take(step)
        model.check()


def test_the_model_sees_a_lost_touch(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not hold anything, if it never failed."""
    monkeypatch.setattr(Hub, "_touched_since", lambda *_: False)
    model = Model(8)
    steps: list[tuple[str, Any, Any]] = [("begin", KEYS[0], set()), ("touch", KEYS[0], None), ("end", 0, False)]
    for step in steps:
        model.take(step)
    with pytest.raises(AssertionError):
        model.check()
