"""R11: a pickle that somebody else put into the server runs no code here, under any client flags, on any way of
reading.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.memcached import Memcached

from cachekit import MISS, Cache
from cachekit.codecs.flags import BYTES, DATA, ENVELOPED, INT, JSON, MARK, PICKLE, TEXT

PEERS = {
    "raw": 0,
    "pymemcache pickle, pylibmc pickle, Django": 1,
    "python-memcached, aiocache": 2,
    "pylibmc text": 16,
    "pymemcache compressed": 8,
    "Dalli, 0x1": 0x1,
    "Java": 1 << 8,
}
OURS = {f"format {each}": MARK | each for each in (DATA, JSON, TEXT, BYTES, INT, PICKLE)}
FLAGS = {**PEERS, **OURS, **{name + ", enveloped": flags | ENVELOPED for name, flags in OURS.items()}}


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def cache(fresh_server: Memcached) -> Iterator[Cache]:
    """A cache on a real server that others write to as well."""
    with Cache(f"memcached://{fresh_server.host}:{fresh_server.port}") as made:
        yield made


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_no_way_of_reading_runs_it(
    cache: Cache, fresh_server: Memcached, tmp_path: Path, flags: int, protocol: int
) -> None:
    """Direct verbs give bytes or a miss; a cached function runs; the canary never sings."""
    song = tmp_path / "song"
    payload = pickle.dumps(Canary(song), protocol=protocol)
    pickle.loads(payload)
    assert song.exists(), "the canary can sing"
    song.rmdir()

    @cache(ttl=60)
    def function(n: int) -> int:
        return n + 1

    for key in ("foreign", str(function.key(1))):
        reply = fresh_server.ask(b"set %b %d 60 %d\r\n%b\r\n" % (key.encode(), flags, len(payload), payload))
        assert reply.startswith(b"STORED")
    for value in (
        cache.get("foreign", MISS),
        cache.gets("foreign", MISS)[0],
        cache.get_many(["foreign"]).get("foreign"),
    ):
        assert value in (MISS, None, payload) or isinstance(value, str)
    cache.get_or_set("foreign", lambda: 1)
    assert function.peek(1) is MISS
    assert function.explain(1).state == "garbage"
    assert function.many([function.bind(1)]) == [2]
    assert function(1) == 2
    assert function.refresh(1) == 2
    assert not song.exists()
