"""The streams of keys of the experiment: seeded, so the same numbers every time; and one of real text.

Zipf draws come from an inverted table of cumulated weights. Keys are small integers or words; every entry has one size.
"""

from __future__ import annotations

import itertools
import random
import re
import sysconfig
from bisect import bisect
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

LENGTH = 300_000
KEYS = 50_000


def ranks(alpha: float, keys: int, rng: random.Random) -> Iterator[int]:
    """Ranks from 0, drawn with a chance of 1 / (rank + 1) ** alpha."""
    sums = list(itertools.accumulate((rank + 1) ** -alpha for rank in range(keys)))
    whole = sums[-1]
    while True:
        yield bisect(sums, rng.random() * whole)


def zipf(alpha: float) -> list[int]:
    return list(itertools.islice(ranks(alpha, KEYS, random.Random(1)), LENGTH))


def with_scans(alpha: float = 1.0, every: int = 20_000, scan: int = 8_000) -> list[int]:
    """Popular keys, and now and then a run over many that nobody asks for again (a report, a crawler)."""
    draw, stream, fresh = ranks(alpha, KEYS, random.Random(2)), list[int](), itertools.count(1_000_000)
    while len(stream) < LENGTH:
        stream += itertools.islice(draw, every)
        stream += itertools.islice(fresh, scan)
    return stream[:LENGTH]


def with_repeated_scans(alpha: float = 1.0, every: int = 20_000, scan: int = 8_000) -> list[int]:
    """The same run over the same keys again and again (a nightly export), between popular ones."""
    draw, stream = ranks(alpha, KEYS, random.Random(3)), list[int]()
    while len(stream) < LENGTH:
        stream += itertools.islice(draw, every)
        stream += range(1_000_000, 1_000_000 + scan)
    return stream[:LENGTH]


def loop(keys: int = 6_000) -> list[int]:
    """A loop over more keys than fit."""
    return [number % keys for number in range(LENGTH)]


def shifting(alpha: float = 1.0, every: int = 15_000) -> list[int]:
    """What is popular moves on by a fifth of its heads all the time (news)."""
    rng, stream = random.Random(4), list[int]()
    draw, names = ranks(alpha, KEYS, rng), list(range(KEYS))
    fresh = itertools.count(1_000_000)
    while len(stream) < LENGTH:
        stream += [names[rank] for rank in itertools.islice(draw, every)]
        for rank in rng.sample(range(2_000), 400):
            names[rank] = next(fresh)
    return stream[:LENGTH]


def working_sets(each: int = 1_500, stay: int = 30_000) -> list[int]:
    """One set of keys is in use, evenly, and then another one (tenants, batch jobs)."""
    rng, stream = random.Random(5), list[int]()
    for number in itertools.count():
        if len(stream) >= LENGTH:
            return stream[:LENGTH]
        stream += [number * each + rng.randrange(each) for _ in range(stay)]
    return stream


def one_hit_wonders(alpha: float = 0.9, share: float = 0.45) -> list[int]:
    """In the manner of a content network's traces: nearly every second request is for what nobody asks for again."""
    rng = random.Random(6)
    draw, fresh = ranks(alpha, KEYS, rng), itertools.count(1_000_000)
    return [next(fresh) if rng.random() < share else next(draw) for _ in range(LENGTH)]


def sessions(alpha: float = 0.8, mean: int = 6) -> list[int]:
    """In the manner of a social network's traces: a user comes, asks for his own things a few times within a short
    while, and beside them for what is popular.
    """
    rng, stream = random.Random(7), list[int]()
    popular, users = ranks(1.1, 5_000, rng), ranks(alpha, KEYS, rng)
    now: list[tuple[int, int]] = []
    while len(stream) < LENGTH:
        if len(now) < 200:
            now.append((next(users), max(1, int(rng.expovariate(1 / mean)))))
        at = rng.randrange(len(now))
        user, left = now[at]
        stream.append(1_000_000 + user)
        if rng.random() < 0.5:
            stream.append(next(popular))
        now[at] = (user, left - 1)
        if left <= 1:
            now[at] = now[-1]
            now.pop()
    return stream[:LENGTH]


def words() -> list[str]:
    """Real text: every word of the sources of Python's own library, file by file."""
    found: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        found += re.findall(r"\w+", path.read_text(encoding="utf-8", errors="replace"))
    return found


WORKLOADS: dict[str, Callable[[], list[int] | list[str]]] = {
    **{f"Zipf {alpha}": partial(zipf, alpha) for alpha in (0.6, 0.8, 1.0, 1.2, 1.4)},
    "Zipf 1.0 and scans": with_scans,
    "Zipf 1.0 and one scan again and again": with_repeated_scans,
    "loop over 6000 keys": loop,
    "shifting popularity": shifting,
    "working sets of 1500 keys": working_sets,
    "one-hit wonders": one_hit_wonders,
    "sessions": sessions,
    "words of Python's library": words,
}
