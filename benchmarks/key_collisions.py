"""R9: argument tuples that must differ, a million of them, made to be confused with one another.

Run with ``python -m benchmarks.key_collisions [how many]``; prints Markdown. The values come from a small alphabet of
look-alikes (1, 1.0, True, "1", b"1", Decimal(1), …) nested at random, and every other call is the one before with one
argument in disguise, so joining their texts collides all the time; that control shows in the same run that the input is
hard.
"""

from __future__ import annotations

import datetime as dt
import decimal
import random
import sys
from collections.abc import Callable
from typing import Any

from cachekit.keys.compile import compile_keys

COUNT = 1_000_000
SEED = 20261121

_TEXTS = [
    "",
    "a",
    "b",
    "ab",
    "a b",
    "a,b",
    "a', 'b",
    "1",
    "1.0",
    "None",
    "True",
    "[]",
    "()",
    "\x00",
    "é",
    "e\u0301",
    ":",
]
_NUMBERS: list[object] = [
    0,
    1,
    -1,
    255,
    256,
    2**31 - 1,
    2**31,
    2**63,
    0.0,
    -0.0,
    1.0,
    0.1,
    1e300,
    0j,
    1 + 0j,
    True,
    False,
]
_OTHERS: list[object] = [None, decimal.Decimal(1), decimal.Decimal("1.0"), dt.date(2026, 1, 1), dt.datetime(2026, 1, 1)]  # noqa: DTZ001
_LEAVES: list[object] = [*_TEXTS, *(text.encode() for text in _TEXTS), *_NUMBERS, *_OTHERS]
_DEPTH = 3


def f(*args: object, **kwargs: object) -> None:
    """The function whose keys are made."""


def value(rng: random.Random, depth: int = 0) -> Any:
    """Return a random value; leaves come from the alphabet, or are one random number in many disguises."""
    kind = rng.randrange(12) if depth < _DEPTH else rng.randrange(7)
    if kind < 4:
        return rng.choice(_LEAVES)
    if kind < 7:
        number = rng.getrandbits(16)
        return rng.choice([number, str(number), float(number), str(float(number)), str(number).encode(), {number}])
    inner = [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind < 9:
        return inner
    if kind < 10:
        return tuple(inner)
    hashable = [each for each in inner if not isinstance(each, (list, dict, set, tuple))]
    return set(hashable) if kind < 11 else dict.fromkeys(hashable, inner)


def disguised(value: Any) -> Any:
    """Return another value that looks the same: the text of it, or the other kind of number or sequence."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, bytes):
        return bytearray(value)
    if isinstance(value, int):
        return decimal.Decimal(value)
    return str(value) if not isinstance(value, str) else value.encode()


def spelled(value: Any) -> str:
    """Spell a value out, types and all, independently of the encoders: equal text for equal values only."""
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({','.join(map(spelled, value))})"
    if isinstance(value, set):
        return f"set({','.join(sorted(map(spelled, value)))})"
    if isinstance(value, dict):
        pairs = sorted(f"{spelled(key)}:{spelled(content)}" for key, content in value.items())
        return f"dict({','.join(pairs)})"
    return repr(value)


def joined(args: tuple[object, ...], kwargs: dict[str, object]) -> str:
    """Make a key as several libraries do: the texts of the arguments with a blank between."""
    return " ".join(map(str, (*args, *kwargs.values())))


def count(wanted: int, seed: int = SEED) -> tuple[int, int, int]:
    """Return how many different calls were made, and how many of them share a key: ours, and the control's."""
    rng = random.Random(seed)
    make: Callable[..., bytes] = compile_keys(f).make
    calls: set[str] = set()
    keys: set[bytes] = set()
    texts: set[str] = set()
    args: tuple[object, ...] = ()
    while len(calls) < wanted:
        if rng.random() < 0.5:  # the call before in disguise
            changed = rng.randrange(len(args) + 1)
            args = tuple(disguised(arg) if number == changed else arg for number, arg in enumerate(args))
        else:
            args = tuple(value(rng) for _ in range(rng.randrange(1, 4)))
        kwargs = {"x": value(rng)} if rng.random() < 0.3 else {}
        call = f"{spelled(args)} {spelled(kwargs)}"
        if call in calls:
            continue
        calls.add(call)
        keys.add(make(*args, **kwargs)[-16:])  # the 96 bits that also are the fingerprint in the envelope
        texts.add(joined(args, kwargs))
    return len(calls), len(calls) - len(keys), len(calls) - len(texts)


def rows(wanted: int = COUNT) -> list[str]:
    """Return the Markdown table."""
    calls, ours, control = count(wanted)
    return [
        "| R9: calls that must differ | share a key, cachekit | share a key, joined texts (control) |",
        "|---:|---:|---:|",
        f"| {calls:,} | {ours:,} | {control:,} |",
    ]


if __name__ == "__main__":
    print("\n".join(rows(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT)))
