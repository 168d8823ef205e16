"""One seed is one schedule: a kind of function, a few keys, and what each participant does with them, and when.

The plan is the same every time; how the processes' steps fall between one another is the machine's, so a schedule that
has found something is run again many times.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from history.kinds import KEYS, KINDS, Shape

_READERS, _TELLERS = 3, 1
_LONGEST_PAUSE_S = 0.002


class Troubles(NamedTuple):
    """What workers do to themselves. ``cancels``: how many of the calls are given up: tasks are cancelled, threads
    interrupted by a signal where they can be. ``forks``: how many are made in a child that is forked for it.
    """

    cancels: float = 0.0
    forks: float = 0.0


class Op(NamedTuple):
    """One thing that a participant does: after a pause in seconds, this verb on these keys. ``cancel_s``: it is given
    up after so long, if whoever does it can; None: it is not. ``forked``: a child does it, if it is a thread's.
    """

    pause_s: float
    verb: str
    keys: tuple[int, ...]
    cancel_s: float | None = None
    forked: bool = False


class Plan(NamedTuple):
    """What happens in a schedule. ``ops``: for each participant what he does, in order."""

    kind: str
    ops: tuple[tuple[Op, ...], ...]


def plan(seed: int, participants: int, kinds: Sequence[str], troubles: Troubles) -> Plan:
    """The plan of a seed."""
    dice = random.Random(seed)
    name = kinds[seed % len(kinds)]
    keys = dice.choice((1, 1, 2, KEYS))
    ops = tuple(_ops(dice, name, keys, troubles) for _ in range(participants))
    return Plan(name, ops)


def _ops(dice: random.Random, name: str, keys: int, troubles: Troubles) -> tuple[Op, ...]:
    kind = KINDS[name]
    ops = []
    for _ in range(dice.randint(2, 6)):
        verbs = kind.reads if dice.random() * (_READERS + _TELLERS) < _READERS else kind.tells
        verb = dice.choice(verbs)
        first = dice.randrange(keys)
        several = verb != "inner" and (verb == "many" or "row" in verb or kind.shape is Shape.BATCH)
        chosen = tuple(sorted({first, dice.randrange(keys)})) if several else (first,)
        cancel_s = dice.random() * _LONGEST_PAUSE_S if dice.random() < troubles.cancels else None
        pause_s = dice.choice((0.0, 0.0, dice.random() * _LONGEST_PAUSE_S))
        ops.append(Op(pause_s, verb, chosen, cancel_s, dice.random() < troubles.forks))
    return tuple(ops)
