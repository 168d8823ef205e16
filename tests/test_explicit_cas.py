"""CAS numbers that we choose (memcached's E flag, 1.6.27): unique, rising, and only where the server knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from support.scripted import ScriptedServer
from support.targets import url_of

from cachekit import Cache, Policy
from cachekit.embedded import EmbeddedServer
from cachekit.env import Env
from cachekit.hooks import Hooks
from cachekit.roster import _version

_NUMBER = re.compile(rb" E(\d+)")


def newer(behind: EmbeddedServer) -> Callable[[bytes], Iterable[object]]:
    """A server that takes the E flag, in front of one that counts by itself: nothing here rests on the number."""
    return lambda request: [behind.handle(_NUMBER.sub(b"", request))]


def numbers_in(requests: list[bytes], command: bytes) -> list[int]:
    """The numbers in the requests' lines that begin with ``command``."""
    lines = [line for request in requests for line in request.split(b"\r\n") if line.startswith(command)]
    found = [_NUMBER.search(line) for line in lines]
    assert all(found), lines
    return [int(each[1]) for each in found if each]


def test_whatever_makes_an_item_carries_a_number_of_its_own() -> None:
    """Reads with their leases, generations, stores, claims and soft invalidations: each its own, and rising."""
    with (
        ScriptedServer(newer(EmbeddedServer()), version=b"1.6.45") as scripted,
        Cache(scripted.url, prefix="p") as cache,
    ):

        @cache(policy=Policy(stale=60))
        def square(n: int) -> int:
            return n * n

        assert [square(3), square(3), square.expire(3), square(3), square.refresh(4), square.peek(4)] == [
            9, 9, True, 9, 16, 16,
        ]  # fmt: skip
        assert cache.set("own", 1)
        assert cache.set_many({"own": 2}) == []
        requests = list(scripted.requests)
    reads = numbers_in([each for each in requests if b" N" in each], b"mg ")
    stores = numbers_in(requests, b"ms ")
    softly = numbers_in(requests, b"md ")
    assert (len(stores), len(softly)) == (5, 1)
    assert all(0 < number < 2**63 for number in reads + stores + softly)
    assert len(set(stores + softly)) == 6
    assert sorted(stores) == stores


def test_an_old_server_never_sees_the_flag(server: Any) -> None:
    """1.6.18 would refuse it: the version is asked with the first connection."""
    with Cache(url_of(server), prefix="explicit") as cache:
        cache.get("warm")
        assert cache._fleet.explicit == set()
    with (
        ScriptedServer(newer(EmbeddedServer()), version=b"1.6.26") as scripted,
        Cache(scripted.url, prefix="p") as cache,
    ):
        assert cache(lambda_like)(2) == 4
        assert not any(_NUMBER.search(request) for request in scripted.requests)


def lambda_like(n: int) -> int:
    """A function of the module's own."""
    return n * 2


def test_the_version_is_asked_again_after_a_reconnect() -> None:
    """The server was replaced by an older one: the flag is left out from then on."""
    closing: list[None] = []

    def script(request: bytes) -> Iterable[object]:
        if closing:
            return [closing.pop()]
        return [behind.handle(_NUMBER.sub(b"", request))]

    behind = EmbeddedServer()
    with (
        ScriptedServer(script, version=b"1.6.45") as scripted,
        Cache(f"{scripted.url}?deadline=5s", prefix="p") as cache,
    ):
        cached = cache(lambda_like)
        assert cached(1) == 2
        assert cache._fleet.explicit == {0}
        scripted.version = b"1.6.18"
        closing.append(None)
        assert cached(1) == 2
        assert cache._fleet.explicit == set()
        scripted.requests.clear()
        assert cached(2) == 4
        assert not any(_NUMBER.search(request) for request in scripted.requests)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (b"1.6.18", (1, 6, 18)),
        (b"1.6.45-cachekit", (1, 6, 45)),
        (b"1.6.9_beta", (1, 6, 9)),
        (b"unknown", ()),
        (b"", ()),
    ],
)
def test_a_version_is_its_leading_numbers(text: bytes, numbers: tuple[int, ...]) -> None:
    """Distributions append words of their own."""
    assert _version(text) == numbers


def test_the_numbers_rise_with_time() -> None:
    """A later number is higher: a generation that is made again after its eviction is higher than what it was."""
    env = Env(("server:1",), Hooks())
    assert env.number(0) == 0
    env.explicit.add(0)
    found = [env.number(0) >> 12 for _ in range(1000)]
    assert found == sorted(found)
