"""Counts that survive a child's death, in memory shared between processes; and values that name their key."""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.sharedctypes import RawArray
from typing import Any

from benchmarks.adapters.base import Adapter

DONE, WRONG, MISSED, ERRORS = range(4)
FIELDS = 4
KEYS = 100
VALUE_REPEATS = 8


def shared(slots: int) -> Any:
    """One row of counts for each slot, zeroed; no lock: each slot has one writer."""
    return RawArray("q", slots * FIELDS)


def total(counts: Sequence[int], field: int) -> int:
    return sum(counts[field::FIELDS])


def keys_of(adapter: Adapter) -> list[Any]:
    return [adapter.key(f"fault:{number}") for number in range(KEYS)]


def value_of(number: int) -> bytes:
    return (b"value %d " % number) * VALUE_REPEATS


def fill(adapter: Adapter, keys: Sequence[Any]) -> None:
    for number, key in enumerate(keys):
        adapter.set(key, value_of(number))


def judge(got: object, number: int, counts: Any, slot: int) -> None:
    """Count a read of a key that is always there."""
    row = slot * FIELDS
    counts[row + DONE] += 1
    if got is None:
        counts[row + MISSED] += 1
    elif got != value_of(number):
        counts[row + WRONG] += 1


def read(adapter: Adapter, keys: Sequence[Any], times: int, counts: Any, slot: int) -> None:
    """Get keys in turn, each process or thread from a place of its own, and count what comes."""
    for turn in range(times):
        number = (turn * 7 + slot * 31) % len(keys)
        try:
            got = adapter.get(keys[number])
        except Exception:
            counts[slot * FIELDS + DONE] += 1
            counts[slot * FIELDS + ERRORS] += 1
        else:
            judge(got, number, counts, slot)
