"""The bounded store: its bounds hold whatever comes, a scan leaves the popular alone, and returning ghosts teach it."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cachekit.near.option import Near
from cachekit.near.tier import Node, Tier
from docs.design.near.compare import Ours, hit_ratio
from docs.design.near.policies import POLICIES
from docs.design.near.workloads import loop, shifting, with_scans, working_sets, zipf


def tier_of(entries: int = 100, size: int = 1 << 20) -> Tier:
    """A store with these bounds."""
    return Tier(Near(ttl=1, entries=entries, bytes=size))


def use(tier: Tier, key: int, size: int = 500) -> bool:
    """Look for a key, and take it in where it is not there; whether it was."""
    wire = b"key:%d" % key
    node = tier.nodes.get(wire)
    if node is not None:
        node.hits += 1
        return True
    tier.insert(wire, size)
    tier.shrink()
    return False


KEYS = st.integers(0, 30)
STEPS = st.one_of(
    st.tuples(st.just("use"), KEYS, st.integers(1, 20_000)),
    st.tuples(st.just("resize"), KEYS, st.integers(1, 20_000)),
    st.tuples(st.just("remove"), KEYS, st.just(0)),
    st.tuples(st.just("alias"), KEYS, st.integers(1, 500)),
)


def take(tier: Tier, table: dict[Any, Node], step: tuple[str, int, int]) -> None:
    """One of the things that the hub does to a store."""
    what, key, size = step
    node = tier.nodes.get(b"key:%d" % key)
    if what == "use":
        use(tier, key, size)
    elif node is None:
        return
    elif what == "remove":
        tier.remove(node)
    elif what == "alias":
        tier.alias(node, table, (key,), size)
    elif tier.fits(size):
        tier.resize(node, size)
        tier.shrink()


@settings(max_examples=200)
@given(entries=st.integers(1, 20), steps=st.lists(STEPS, max_size=120))
def test_the_bounds_hold_after_every_step(entries: int, steps: list[tuple[str, int, int]]) -> None:
    """Entries and bytes both, and what is counted is what is there, in the queues as in the tables."""
    tier = tier_of(entries, 1 << 16)
    table = tier.new_table()
    for step in steps:
        take(tier, table, step)
        live = [node for queue in (tier.small, tier.main) for node in queue.nodes if node.live]
        assert len(tier.nodes) <= entries
        assert tier.used_bytes() <= 1 << 16
        assert tier.small.bytes + tier.main.bytes == sum(node.size for node in live)
        assert {node.key: node for node in live} == tier.nodes
        assert len(live) == tier.small.count + tier.main.count == len(tier.nodes)
        assert set(table) == {node.alias for node in live if node.aliases is table}
        assert tier._tables_bytes == tier.nodes.__sizeof__() + table.__sizeof__()


def test_places_that_are_given_up_leave_nothing_behind() -> None:
    """A key that comes and is invalidated all the time never gets an eviction: its nodes must not pile up."""
    tier = tier_of()
    for _ in range(5_000):
        use(tier, 1)
        tier.remove(tier.nodes[b"key:1"])
    assert len(tier.small.nodes) + len(tier.main.nodes) < 200
    assert tier.small.bytes == tier.main.bytes == 0


def test_a_scan_leaves_the_popular_alone() -> None:
    """What is used again and again is there after ten times as many that are used once."""
    tier = tier_of(100)
    for _ in range(5):
        for key in range(60):
            use(tier, key)
    for key in range(1_000, 2_000):
        use(tier, key)
    assert sum(use(tier, key) for key in range(60)) >= 55


def test_what_is_invalidated_comes_back_to_its_place() -> None:
    """A popular key that is invalidated has not become unpopular."""
    tier = tier_of(100)
    for _ in range(3):
        for key in range(90):
            use(tier, key)
    for key in range(100, 150):
        use(tier, key)
    tier.remove(tier.nodes[b"key:5"])
    use(tier, 5)
    assert tier.nodes[b"key:5"].main


def test_one_entry_does_not_drive_out_all_others() -> None:
    """Larger than an eighth of the room, it is not kept at all."""
    tier = tier_of(100, 1 << 16)
    use(tier, 1)
    assert tier.insert(b"huge", (1 << 16) // 8 + 1) is None
    assert set(tier.nodes) == {b"key:1"}


def test_a_cleared_store_is_as_new() -> None:
    """A forked child begins so."""
    tier = tier_of()
    table = tier.new_table()
    for key in range(300):
        use(tier, key)
        tier.alias(tier.nodes[b"key:%d" % key], table, (key,), 50)
    tier.clear()
    assert (len(tier.nodes), len(table), tier.small.count, tier.main.count) == (0, 0, 0, 0)
    assert not use(tier, 5)


def test_a_table_of_a_caller_who_is_gone_takes_no_room() -> None:
    """Its nodes stay, without that name."""
    tier = tier_of()
    table = tier.new_table()
    use(tier, 1)
    plain = tier.used_bytes()
    tier.alias(tier.nodes[b"key:1"], table, (1,), 200)
    assert tier.used_bytes() > plain
    tier.drop_table(table)
    assert (table, set(tier.nodes)) == ({}, {b"key:1"})
    assert tier.used_bytes() < plain + 200
    tier.remove(tier.nodes[b"key:1"])
    assert tier.small.bytes == 0


def test_the_hit_ratio_is_within_two_points_of_the_best() -> None:
    """Of LRU, ARC and S3-FIFO, on a piece of each kind of workload; all of them whole: docs/design/near/."""
    for stream in (zipf(0.8), zipf(1.2), with_scans(), shifting(), loop(), working_sets()):
        part = list(itertools.islice(stream, 60_000))
        best = max(hit_ratio(POLICIES[name](1_000), part) for name in ("LRU", "ARC", "S3-FIFO"))
        assert hit_ratio(Ours(1_000), part) >= best - 2.0
