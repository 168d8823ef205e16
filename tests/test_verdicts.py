"""Every row of the table of verdicts, on a real server: the situation is made, read, judged, and answered."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.memcached import Memcached, start_memcached
from support.targets import own_prefix, url_of
from support.threads import eventually

from cachekit import Cache, Policy, current
from cachekit.env import Job
from cachekit.flows.lease import claim, read
from cachekit.generations import numbers
from cachekit.meta import md, ms
from cachekit.ops import Exchange, Replies
from cachekit.policy import CERTAIN, Verdict
from cachekit.recipe import Snapshot
from cachekit.sync.drive import perform

SHORT = 0.4


class Stage:
    """A cached function on a real server, its entry, and what a reader would be told about it."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.runs = 0
        self.error: Exception | None = None
        self.storable = True

        @cache(policy=Policy(ttl=SHORT, stale=30, stale_if_error=30, throttle=20, beta=0))
        def value(n: int) -> int:
            self.runs += 1
            if self.error is not None:
                raise self.error
            if not self.storable:
                current().do_not_store()
            return self.runs

        self.call = value
        self.key = value.key(1).encode()
        self.job = Job(value._ready(), self.key, cache._fleet.ring.index(self.key), lambda: None)

    def command(self, request: bytes) -> str:
        """Send one command of somebody else's; the reply's code."""
        fleet = self.cache._fleet
        replies: Replies = fleet.exchange(Exchange(self.job.server, request, 1, 0))
        return replies.replies[0].code

    def look(self, *, claiming: bool = False) -> Verdict:
        """Read as a caller would, and judge."""
        env = self.cache._env
        replies: Replies = perform((claim if claiming else read)(self.job, env), self.cache._fleet)
        reply, generations = replies.replies[0], numbers(replies.replies[1:])
        eagerness = CERTAIN if claiming else 0.0
        return self.job.recipe.judge(reply, generations, self.key, env.now(), eagerness).verdict

    def grow_stale(self) -> None:
        """Store, and wait until the ttl is over."""
        assert self.call(1) == 1
        assert eventually(lambda: self.call.explain(1).state == "stale")


@pytest.fixture(name="stage")
def stage_fixture(server: Memcached) -> Iterator[Stage]:
    """A stage of the test's own."""
    with Cache(f"{url_of(server)}?deadline=5s", prefix=own_prefix()) as cache:
        yield Stage(cache)


def fresh(stage: Stage) -> None:
    """A value, young."""
    assert stage.call(1) == 1


def due(stage: Stage) -> None:
    """A value past its ttl."""
    stage.grow_stale()


def claimed(stage: Stage) -> None:
    """A value past its ttl that another reader refreshes."""
    stage.grow_stale()
    assert stage.look(claiming=True) is Verdict.WON


def expired_by_hand(stage: Stage) -> None:
    """A value that was invalidated softly."""
    assert stage.call(1) == 1
    assert stage.call.expire(1)


def claimed_by_hand(stage: Stage) -> None:
    """The same, and another reader has the W."""
    expired_by_hand(stage)
    assert stage.look() is Verdict.WON


def throttled(stage: Stage) -> None:
    """A value whose refresh has just failed."""
    stage.grow_stale()
    stage.error = LookupError("down")
    assert stage.call(1) == 1


def unstorable(stage: Stage) -> None:
    """The last result could not be stored."""
    stage.storable = False
    assert stage.call(1) == 1


def invalidated(stage: Stage) -> None:
    """The function's generation has moved on."""
    assert stage.call(1) == 1
    assert stage.call.invalidate_all()


def ahead(stage: Stage) -> None:
    """The entry's generation is higher than the one that stands there: as after a read that was overtaken."""
    assert stage.call(1) == 1
    recipe = stage.job.recipe
    generation = 2**62
    packed = recipe.packer.pack(7)
    snapshot = Snapshot((generation,), stage.cache._env.now())
    flags, data, until = recipe.seal(stage.key, packed, SHORT, snapshot, 0.1)
    assert stage.command(ms(stage.key, data, b"F%d T%d O0" % (flags, until))) == "HD"


def garbage(stage: Stage) -> None:
    """Somebody else's bytes."""
    assert stage.command(ms(stage.key, b"what is this", b"F3 T60 O0")) == "HD"


def absent(stage: Stage) -> None:
    """Nothing."""
    assert stage.command(md(stage.key, b"O0")) in ("HD", "NF")


def being_filled(stage: Stage) -> None:
    """A stub."""
    assert stage.look() is Verdict.MINE


Arrange = Callable[[Stage], None]


@pytest.mark.parametrize(
    ("arrange", "verdict", "answer", "runs"),
    [
        (fresh, Verdict.FRESH, 1, 1),
        (due, Verdict.DUE, 2, 2),
        (claimed, Verdict.CLAIMED, 1, 1),
        (expired_by_hand, Verdict.WON, None, None),
        (claimed_by_hand, Verdict.CLAIMED, 1, 1),
        (throttled, Verdict.THROTTLED, 1, 2),
        (unstorable, Verdict.PASS, 2, 2),
        (invalidated, Verdict.VOID, 2, 2),
        (ahead, Verdict.AHEAD, 2, 2),
        (garbage, Verdict.GARBAGE, 1, 1),
        (absent, Verdict.MINE, None, None),
        (being_filled, Verdict.BUSY, None, None),
    ],
)
def test_a_row_of_the_table(stage: Stage, arrange: Arrange, verdict: Verdict, answer: Any, runs: Any) -> None:
    """The reply means what the table says, and the next caller gets what follows from it. Where the look itself took
    the lease (None), nobody is served before that is over.
    """
    arrange(stage)
    assert stage.look() is verdict
    if answer is not None:
        assert (stage.call(1), stage.runs) == (answer, runs)


def test_no_lease_is_to_be_had() -> None:
    """A server that is full and may evict nothing (-M) gives no lease: the function runs, and nothing is stored."""
    with start_memcached("-M", "-m", "2") as full, Cache(f"{url_of(full)}?deadline=5s", prefix="full") as cache:
        stage = Stage(cache)
        stored = 0
        for size in (200_000, 20_000, 2_000, *range(400, 0, -16)):  # every slab class down to the stub's own
            while cache.set(f"filler{stored}", os.urandom(size), ttl=None):
                stored += 1
        assert stored > 3
        assert stage.look() is Verdict.NO_LEASE
        assert [stage.call(1), stage.call(1)] == [1, 2]
        assert stage.call.info().unstored == 2
