"""Invalidations that were not acknowledged: what is kept, what takes the place of what, and when something is gone."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.threads import Outcome

from cachekit import Refused
from cachekit.hooks import Hooks, Replayed
from cachekit.meta import Reply
from cachekit.outbox import MARGIN_S, Outbox
from cachekit.replay import LIMIT, LOT, Item, Kind, Lot, Replay

HD, NF, ERROR = Reply("HD"), Reply("NF"), Reply("ERROR", error="SERVER_ERROR busy")


def tell_all(replay: Replay, server: int = 0) -> list[Item]:
    """Have a server acknowledge everything; what it was told, in order."""
    told: list[Item] = []
    while replay.queues[server]:
        items = replay.lot(server).items
        replay.answered(server, items, [HD] * len(items))
        told += items
    return told


# -- one key ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["HD", "NF"])
def test_an_acknowledged_item_is_gone(code: str) -> None:
    """Deleted, or not there: either way nothing old can be read any more."""
    replay = Replay(2)
    replay.keep(1, [b"k"], 5.0)
    assert [len(queue) for queue in replay.queues] == [0, 1]
    items = replay.lot(1).items
    settled, overflow = replay.answered(1, items, [Reply(code)])
    assert (list(settled), overflow, len(replay.queues[1]), replay.delivered) == (list(items), None, 0, 1)


@pytest.mark.parametrize("code", ["ERROR", "EX", "VA"])
def test_what_was_not_acknowledged_stays(code: str) -> None:
    """Whatever else a server says is no acknowledgement."""
    replay = Replay(1)
    replay.keep(0, [b"k"], 5.0)
    replay.answered(0, replay.lot(0).items, [Reply(code)])
    assert [item.key for item in replay.lot(0).items] == [b"k"]
    assert replay.delivered == 0


def test_a_key_invalidated_again_since_it_was_sent_is_not_settled_by_the_answer() -> None:
    """The answer to the first telling says nothing of the second invalidation."""
    replay = Replay(1)
    replay.keep(0, [b"k"], 5.0)
    sent = replay.lot(0).items
    replay.keep(0, [b"k"], 6.0)
    replay.answered(0, sent, [HD])
    (again,) = replay.lot(0).items
    assert (again.key, again.at) == (b"k", 6.0)
    replay.answered(0, [again], [HD])
    assert not replay.queues[0]


@pytest.mark.parametrize(
    ("before", "after", "soft"), [(True, True, True), (True, False, False), (False, True, False), (False, False, False)]
)
def test_a_hard_invalidation_is_never_softened(before: bool, after: bool, soft: bool) -> None:
    """The latest wins, but for a soft one after a hard one: that would let the old value be served."""
    replay = Replay(1)
    replay.keep(0, [b"k"], 5.0, soft=before)
    replay.keep(0, [b"k"], 6.0, soft=after)
    (item,) = replay.lot(0).items
    assert (item.soft, item.at) == (soft, 6.0)


def test_a_soft_bump_of_a_group_is_told_as_a_hard_one() -> None:
    """A group's record has no value that could be marked as stale."""
    replay = Replay(1)
    replay.keep(0, [b"tag=a"], 5.0, soft=True, kind=Kind.GROUP)
    lot = replay.lot(0)
    assert lot.request() == b"md tag=a O%d\r\n" % lot.opaque


def test_commands() -> None:
    """One command a key under one token; a soft one marks the entry as stale."""
    items = [Item(b"a", False, Kind.ENTRY, 0.0, 1), Item(b"b", True, Kind.ENTRY, 0.0, 2)]
    lot = Lot(items, 7)
    assert (lot.request(), lot.expected, bool(lot)) == (b"md a O7\r\nmd b I O7\r\n", 2, True)
    assert not Lot([], 7)


def test_on_a_watched_ring_hard_ones_show() -> None:
    """They are told as they would have been: by stores that expire at once, whose NS says that nothing was there."""
    replay = Replay(1)
    replay.watched = True
    replay.keep(0, [b"a"], 5.0)
    replay.keep(0, [b"b"], 5.0, soft=True)
    lot = replay.lot(0)
    assert lot.request() == b"ms a 0 T-1 MR O%d\r\n\r\nmd b I O%d\r\n" % (lot.opaque, lot.opaque)
    replay.answered(0, lot.items, [Reply("NS"), HD])
    assert not replay.queues[0]


def test_tokens_differ() -> None:
    """Each lot has a token of its own, larger than those of the flows, which share its connection."""
    replay = Replay(1)
    tokens = {replay.lot(0).opaque for _ in range(5)}
    assert len(tokens) == 5
    assert min(tokens) > 1 << 49


# -- many -------------------------------------------------------------------------------------------------------------


def test_lots_are_bounded_and_groups_come_first() -> None:
    """A server is told a bounded number at a time, and first what voids many entries."""
    replay = Replay(1)
    replay.keep(0, [b"e%d" % n for n in range(LOT)], 1.0)
    replay.keep(0, [b"g"], 2.0, kind=Kind.GROUP)
    replay.keep(0, [b"p"], 3.0, kind=Kind.PLAIN)
    first = replay.lot(0).items
    assert [item.key for item in first[:3]] == [b"g", b"p", b"e0"]
    assert len(first) == LOT
    assert [item.key for item in tell_all(replay)][-1] == b"e%d" % (LOT - 1)


def test_a_full_queue_lets_go_of_its_oldest_entries() -> None:
    """Functions' entries go first, since what they were computed before tells that they are void; then plain values."""
    replay = Replay(1, limit=4)
    replay.keep(0, [b"g"], 1.0, kind=Kind.GROUP)
    replay.keep(0, [b"p"], 2.0, kind=Kind.PLAIN)
    replay.keep(0, [b"e1", b"e2"], 3.0)
    change = replay.keep(0, [b"p2"], 4.0, kind=Kind.PLAIN)
    assert [item.key for item in change.gone] == [b"e1"]
    assert change.overflow is not None
    assert change.overflow.at == 3.0
    change = replay.keep(0, [b"e3", b"g2"], 5.0, kind=Kind.GROUP)
    assert [item.key for item in change.gone] == [b"e2", b"p"]
    assert [item.key for item in replay.lot(0).items] == [b"g", b"e3", b"g2", b"p2"]
    assert replay.dropped == 3


def test_the_bound_is_kept_whatever_comes() -> None:
    """A queue holds LIMIT keys, in good time, however many are thrown at it."""
    replay = Replay(1)
    replay.keep(0, [b"k%d" % n for n in range(3 * LIMIT)], 1.0)
    assert replay.queues[0].size == LIMIT
    assert replay.dropped == 2 * LIMIT
    assert replay.lot(0, most=1).items[0].key == b"k%d" % (2 * LIMIT)


def test_after_an_overflow_every_known_group_is_bumped() -> None:
    """The queue is not empty before they are, and the overflow is over with them."""
    replay = Replay(1, 1, lambda: [b"gen=f", b"gen=g"])
    replay.keep(0, [b"a", b"b"], 3.0)
    told = tell_all(replay)
    assert {(item.key, item.kind) for item in told} == {
        (b"gen=f", Kind.STAND_IN),
        (b"gen=g", Kind.STAND_IN),
        (b"b", Kind.ENTRY),
    }
    replay.keep(0, [b"c"], 4.0)
    assert [item.key for item in tell_all(replay)] == [b"c"]


def test_an_overflow_without_any_group_known_ends_as_well() -> None:
    """A queue of nothing but an overflow counts as waiting until somebody has looked."""
    replay = Replay(1, limit=0)
    replay.keep(0, [b"a"], 3.0)
    assert len(replay.queues[0]) == 1
    assert replay.lot(0).items == []
    _, overflow = replay.answered(0, [], [])
    assert overflow is not None
    assert overflow.at == 3.0
    assert not replay.queues[0]


def test_an_overflow_while_groups_are_told_has_them_told_again() -> None:
    """The bumps that were on their way say nothing of what was let go of after them."""
    replay = Replay(1, 1, lambda: [b"gen"])
    replay.keep(0, [b"a", b"b"], 3.0, group=b"over")
    sent = replay.lot(0).items
    replay.keep(0, [b"c"], 4.0, group=b"over")
    replay.answered(0, sent, [HD] * len(sent))
    assert {b"gen", b"over"} <= {item.key for item in replay.lot(0).items}


# -- what another process has left ------------------------------------------------------------------------------------


def test_what_is_loaded_does_not_take_the_place_of_what_is_newer() -> None:
    """What this process has kept itself is the latest."""
    replay = Replay(1)
    replay.keep(0, [b"a"], 9.0)
    replay.load(0, [Item(b"a", False, 0, 1.0, 77), Item(b"b", True, 0, 1.0, 78)], None)
    assert [(item.key, item.at) for item in replay.lot(0).items] == [(b"a", 9.0), (b"b", 1.0)]


def test_too_much_that_is_loaded_overflows() -> None:
    """The bound holds for the file of many processes too."""
    replay = Replay(1, limit=2)
    change = replay.load(0, [Item(b"%d" % n, False, 0, float(n), n) for n in range(5)], None)
    assert [item.key for item in change.gone] == [b"0", b"1", b"2"]
    assert change.overflow is not None
    assert change.overflow.at == 2.0


def test_a_forked_child_marks_differently() -> None:
    """Two processes that share a file must not take one's item for the other's."""
    replay = Replay(1)
    before = {replay.keep(0, [b"k"], 1.0).put[0].mark for _ in range(3)}
    replay.forked()
    after = {replay.keep(0, [b"k"], 1.0).put[0].mark for _ in range(3)}
    assert not before & after
    assert [item.key for item in replay.lot(0).items] == [b"k"]


# -- any order --------------------------------------------------------------------------------------------------------

_KEYS = st.integers(0, 5)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), _KEYS, st.booleans(), st.sampled_from([Kind.ENTRY, Kind.PLAIN, Kind.GROUP])),
        st.tuples(st.just("send")),
        st.tuples(st.just("hear"), st.lists(st.sampled_from([HD, NF, ERROR]), min_size=8, max_size=8)),
    ),
    max_size=40,
)


@given(_STEPS, st.integers(1, 7))
def test_nothing_is_lost(steps: list[Any], limit: int) -> None:
    """Whatever was invalidated is told after that and acknowledged, or waits, as hard as it was meant; or it was let go
    of, and an overflow says so that is not older, and the record over an entry waits in place of it.
    """
    replay = Replay(1, limit)
    owed: dict[bytes, tuple[float, bool]] = {}  # invalidated, and not acknowledged since: when, and whether hard
    sent: list[tuple[Any, dict[bytes, tuple[float, bool]]]] = []
    for at, step in enumerate(steps):
        if step[0] == "keep":
            _, number, soft, kind = step
            key = b"%d" % number
            hard = not soft or kind == Kind.GROUP or owed.get(key, (0.0, False))[1]
            owed[key] = (float(at), hard)
            group = b"over" if kind == Kind.ENTRY else b""
            gone = replay.keep(0, [key], float(at), soft=soft, kind=kind, group=group).gone
            if any(item.group for item in gone):
                owed[b"over"] = (float(at), True)
        elif step[0] == "send":
            sent.append((replay.lot(0).items, dict(owed)))
        elif sent:
            items, meant = sent.pop(0)
            replies = step[1][: len(items)]
            replay.answered(0, items, replies)
            for item, reply in zip(items, replies, strict=True):
                if reply is not ERROR and owed.get(item.key) == meant.get(item.key):
                    owed.pop(item.key, None)
        queue = replay.queues[0]
        assert queue.size <= limit + 1
        for key, (when, hard) in owed.items():
            item = queue.find(key)
            if item is None:
                assert key != b"over"
                assert queue.overflow is not None or replay.dropped
            else:
                assert item.at == when or queue.overflow is not None
                assert not (hard and item.soft) or replay.dropped


def test_threads() -> None:
    """What several threads keep and settle at once is neither lost nor settled twice."""
    replay = Replay(1)

    def keep(share: int) -> None:
        for n in range(500):
            replay.keep(0, [b"%d-%d" % (share, n)], 1.0)

    def tell() -> None:
        for _ in range(200):
            items = replay.lot(0, most=7).items
            replay.answered(0, items, [HD] * len(items))

    for each in [Outcome(keep, 1), Outcome(keep, 2), Outcome(tell), Outcome(tell)]:
        each.result()
    tell_all(replay)
    assert replay.delivered == 1000


# -- the outbox -------------------------------------------------------------------------------------------------------


def outbox_of(hooks: Hooks | None = None, distrust: dict[int, float] | None = None) -> Outbox:
    """An outbox for two servers, at second 100."""
    return Outbox(("a:1", "b:1"), hooks or Hooks(), tuple, {} if distrust is None else distrust, lambda: 100.0)


def test_a_server_that_was_told_everything_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line when the first is kept, one when all are told; one event; no key in either."""
    caplog.set_level(logging.INFO, "cachekit")
    events: list[Replayed] = []
    hooks = Hooks()
    hooks.on_replay(events.append)
    outbox = outbox_of(hooks)
    for key in (b"secret-1", b"secret-2", b"secret-3"):
        outbox.keep(1, [key], soft=False, kind=0)
    assert outbox.waiting() == {"b:1": 3}
    lot = outbox.lot(1)
    assert outbox.settle(1, lot.items[:2], [HD, NF]) is False
    assert outbox.settle(1, lot.items[2:], [HD]) is True
    outbox.report(1)
    outbox.report(1)
    assert events == [Replayed("b:1", 3)]
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert "secret" not in caplog.text
    assert outbox.waiting() == {}


def test_one_is_told_of_in_the_singular(caplog: pytest.LogCaptureFixture) -> None:
    """A line in a log is read by people."""
    caplog.set_level(logging.INFO, "cachekit")
    outbox = outbox_of()
    for keys in ([b"a"], [b"a", b"b"]):
        outbox.keep(1, keys, soft=False, kind=0)
        assert outbox.settle(1, outbox.lot(1).items, [HD] * len(keys))
        outbox.report(1)
    assert "memcached server b:1 was told 1 invalidation that was kept" in caplog.messages
    assert "memcached server b:1 was told 2 invalidations that were kept" in caplog.messages


def test_a_refusal_is_no_acknowledgement() -> None:
    """What the server carried out is settled; the rest stays, and the caller hears why."""
    outbox = outbox_of()
    outbox.keep(0, [b"a", b"b"], soft=False, kind=0)
    with pytest.raises(Refused, match="SERVER_ERROR busy"):
        outbox.settle(0, outbox.lot(0).items, [HD, ERROR])
    assert [item.key for item in outbox.lot(0).items] == [b"b"]


def test_an_overflow_makes_what_is_older_distrusted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """From the time of the last one that was let go of, and a margin for other machines' clocks. One warning."""
    distrust: dict[int, float] = {}
    outbox = outbox_of(distrust=distrust)
    monkeypatch.setattr(outbox.replay, "_limit", 2)
    outbox.keep(0, [b"a", b"b"], soft=False, kind=0)
    assert distrust == {}
    outbox.keep(0, [b"c"], soft=False, kind=0)
    outbox.keep(0, [b"d"], soft=False, kind=0)
    assert distrust == {0: 100.0 + MARGIN_S}
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
