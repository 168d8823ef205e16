"""After near.ttl a large value is asked for only if it has changed (``mg … C``, memcached 1.6.40), and else read."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from support.apart import as_another_process
from support.scripted import ScriptedServer

from cachekit import Cache
from cachekit.embedded import EmbeddedServer

_ASKED = re.compile(rb"(?m)^(mg [^\r]*?) C(\d+)([^\r]*)\r\n")
_VALUE = re.compile(rb"(?s)^VA (\d+) (c(\d+)[^\r]*)\r\n")
BIG = "x" * 2000


class Newer:
    """A server of 1.6.45 in front of one that counts by itself and sends what has not changed, too."""

    def __init__(self) -> None:
        self.behind = EmbeddedServer()
        self.unchanged = 0

    def __call__(self, request: bytes) -> Iterable[object]:
        """The script of a ``ScriptedServer``."""
        request = re.sub(rb" E\d+", b"", request)
        asked = _ASKED.search(request)
        reply = self.behind.handle(_ASKED.sub(rb"\1\3\r\n", request))
        value = _VALUE.match(reply)
        if asked and value and value[3] == asked[2]:
            self.unchanged += 1
            reply = b"HD %b\r\n%b" % (value[2], reply[value.end() + int(value[1]) + 2 :])
        return [reply]


class Scene:
    """A function with a near tier on such a server, and a clock that the test sets ahead."""

    def __init__(self, scripted: ScriptedServer, value: Callable[[int], Any] = lambda run: BIG + str(run)) -> None:
        self.scripted = scripted
        self.ahead_s = 0.0
        self.cache = Cache(f"{scripted.url}?deadline=5s", prefix="p")
        self.cache._env.monotonic = lambda: time.monotonic() + self.ahead_s
        self.runs = 0

        @self.cache(ttl="1h", near="60s", tags=["t"])
        def big(n: int) -> Any:
            self.runs += 1
            return value(self.runs)

        self.call = big
        self.call(1)
        self.reread()

    def reread(self) -> Any:
        """Past near.ttl: a call that has to ask."""
        self.ahead_s += 60
        return self.call(1)

    def elsewhere(self, command: bytes) -> None:
        """What another process does."""
        script: Any = self.scripted.script
        assert b"HD" in script.behind.handle(command)

    def asked(self) -> bytes:
        """The last request."""
        return self.scripted.requests[-1]


@pytest.fixture(name="scene")
def scene_fixture() -> Iterable[Scene]:
    """A scene on a new server."""
    with ScriptedServer(Newer(), version=b"1.6.45") as scripted:
        scene = Scene(scripted)
        with scene.cache:
            yield scene


def unchanged(scene: Scene) -> int:
    """How often the server sent no value."""
    script: Any = scene.scripted.script
    return int(script.unchanged)


def test_what_has_not_changed_is_not_sent_again(scene: Scene) -> None:
    """One round trip with the generations in it, no value; and the next period begins."""
    for times in range(1, 4):
        assert [scene.reread(), scene.call(1)] == [BIG + "1"] * 2
        assert unchanged(scene) == times
        assert scene.asked().count(b"mg ") == 3
    assert (scene.runs, scene.call.info().near, scene.call.info().hits) == (1, 3, 7)


def test_a_small_value_is_read_again() -> None:
    """To send it costs less than to keep what the question takes."""
    with ScriptedServer(Newer(), version=b"1.6.45") as scripted:
        scene = Scene(scripted, str)
        assert [scene.reread(), scene.reread()] == ["1", "1"]
        assert unchanged(scene) == 0
        assert b" C" not in scene.asked()


def test_an_older_server_is_not_asked_so() -> None:
    """1.6.39 would send the value all the same: it is read as ever."""
    with ScriptedServer(Newer(), version=b"1.6.39") as scripted:
        scene = Scene(scripted)
        assert scene.reread() == BIG + "1"
        assert b" C" not in scene.asked()


def test_what_has_changed_is_sent(scene: Scene) -> None:
    """Somebody has refreshed it: the new value comes with the same reply."""
    other = as_another_process(Cache(scene.scripted.url, prefix="p"))
    twin = other(ttl="1h", tags=["t"])(scene.call.uncached)
    assert twin.refresh(1) == BIG + "2"
    assert [scene.reread(), scene.call(1)] == [BIG + "2"] * 2
    assert (scene.runs, unchanged(scene)) == (2, 0)
    other.close()


def test_what_was_removed_is_computed_again(scene: Scene) -> None:
    """The question brings the lease, as any read does."""
    scene.elsewhere(b"md %b\r\n" % scene.call.key(1).encode())
    assert [scene.reread(), scene.call(1)] == [BIG + "2"] * 2
    assert scene.runs == 2


@pytest.mark.parametrize("verb", ["invalidate_all", "expire_all"])
def test_under_another_generation_it_is_void(scene: Scene, verb: str) -> None:
    """The bytes are the same, and yet they don't count any more."""
    other = as_another_process(Cache(scene.scripted.url, prefix="p"))
    assert getattr(other(ttl="1h", tags=["t"])(scene.call.uncached), verb)()
    assert [scene.reread(), scene.call(1)] == [BIG + "2"] * 2
    assert scene.runs == 2
    other.close()


def test_expired_by_hand_it_is_refreshed_by_who_asks(scene: Scene) -> None:
    """A soft invalidation gives the value another number."""
    scene.elsewhere(b"md %b I\r\n" % scene.call.key(1).encode())
    assert [scene.reread(), scene.call(1)] == [BIG + "2"] * 2
    assert scene.runs == 2


def test_a_claim_that_comes_with_the_answer_is_used(scene: Scene) -> None:
    """It is given once: to leave it would keep everybody from refreshing the value until the lease ends."""
    script: Any = scene.scripted.script

    def claiming(request: bytes) -> Iterable[object]:
        scene.scripted.script = script
        (reply,) = script(request)
        assert reply.startswith(b"HD")
        head, _, behind = reply.partition(b"\r\n")
        return [head + b" W\r\n" + behind]

    scene.scripted.script = claiming
    assert scene.reread() == BIG + "1"
    stores = [request for request in scene.scripted.requests if request.startswith(b"ms ")]
    assert len(stores) == 2  # the run's, and the one that gives the claim back with the value
    assert [scene.reread(), scene.runs] == [BIG + "1", 1]


def test_over_another_connection_the_number_means_nothing(scene: Scene) -> None:
    """A restarted server counts anew, so another value may bear it: after a reconnect it is read."""
    scene.cache._fleet.drop(0)
    assert scene.reread() == BIG + "1"
    assert (b" C" in scene.asked(), unchanged(scene)) == (False, 0)
    assert [scene.reread() for _ in range(3)] == [BIG + "1"] * 3
    assert (scene.runs, unchanged(scene)) == (1, 2)


def test_no_answer_is_a_run_and_nothing_else(scene: Scene) -> None:
    """As with any read that fails: the caller gets a right value."""
    scene.scripted.script = lambda request: [None]
    assert scene.reread() == BIG + "2"
    assert scene.call.info().errors > 0


def test_after_refresh_the_old_value_is_gone_also_where_nothing_could_be_stored(scene: Scene) -> None:
    """The server is lost: what refresh() computed stays with its caller, and nobody goes back behind it."""
    assert [scene.call(1), scene.call.info().near] == [BIG + "1", 1]
    scene.scripted.script = lambda request: [None]
    assert scene.call.refresh(1) == BIG + "2"
    assert scene.call(1) == BIG + "3"
