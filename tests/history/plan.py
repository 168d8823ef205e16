"""One seed is one schedule: a kind of function, a few keys, and what each participant does with them, and when.

The plan is the same every time; how the processes' steps fall between one another is the machine's, so a schedule that
has found something is run again many times.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from history.kinds import KEYS, KINDS

_READERS, _TELLERS = 3, 1
_LONGEST_PAUSE_S = 0.002


class Op(NamedTuple):
    """One thing that a participant does: after a pause in seconds, this verb on these keys. ``cancel_s``: it is given
    up after so long, if whoever does it can; None: it is not.
    """

    pause_s: float
    verb: str
    keys: tuple[int, ...]
    cancel_s: float | None = None


class Plan(NamedTuple):
    """What happens in a schedule. ``ops``: for each participant what he does, in order."""

    kind: str
    ops: tuple[tuple[Op, ...], ...]


def plan(seed: int, participants: int, kinds: Sequence[str], *, cancels: float = 0.0) -> Plan:
    """The plan of a seed. ``cancels``: how many of the calls are given up."""
    dice = random.Random(seed)
    name = kinds[seed % len(kinds)]
    keys = dice.choice((1, 1, 2, KEYS))
    ops = tuple(_ops(dice, name, keys, cancels) for _ in range(participants))
    return Plan(name, ops)


def _ops(dice: random.Random, name: str, keys: int, cancels: float) -> tuple[Op, ...]:
    kind = KINDS[name]
    ops = []
    for _ in range(dice.randint(2, 6)):
        verbs = kind.reads if dice.random() * (_READERS + _TELLERS) < _READERS else kind.tells
        verb = dice.choice(verbs)
        first = dice.randrange(keys)
        several = verb == "many" or kind.batch
        chosen = tuple(sorted({first, dice.randrange(keys)})) if several else (first,)
        cancel_s = dice.random() * _LONGEST_PAUSE_S if dice.random() < cancels else None
        pause_s = dice.choice((0.0, 0.0, dice.random() * _LONGEST_PAUSE_S))
        ops.append(Op(pause_s, verb, chosen, cancel_s))
    return tuple(ops)
