"""Faults in miniature: servers stop and die, processes fork, signals break in; callers see right values only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.memcached import Memcached, start_memcached
from support.scripted import ScriptedServer
from support.targets import url_of
from support.threads import Outcome, eventually

from cachekit import MISS, Cache
from cachekit.embedded import EmbeddedServer

ROOT = Path(__file__).parents[1]


@pytest.fixture
def trio() -> Iterator[tuple[Memcached, Memcached, Memcached]]:
    """Three servers of the test's own."""
    with start_memcached() as one, start_memcached() as two, start_memcached() as three:
        yield one, two, three


def identities(cache: Cache) -> Any:
    """A cached function whose result tells its argument."""

    @cache(ttl=60)
    def identity(n: int) -> dict[str, int]:
        return {"n": n}

    return identity


def run_script(script: str, *arguments: str, limit_s: float = 60) -> str:
    """What a script prints in a process of its own, which must end well and in time."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


# -- servers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["stopped", "killed"])
def test_calls_go_on_while_a_server_is_gone(trio: tuple[Memcached, ...], fault: str) -> None:
    """One of three stops or dies under load and comes back: no call fails, few are slow, and it is used again."""
    with Cache(f"{url_of(*trio)}?deadline=200ms", prefix="p") as cache:
        identity = identities(cache)
        victim = trio[1]
        slow: list[float] = []

        def work(rounds: int) -> None:
            for call in range(rounds):
                began = time.monotonic()
                assert identity(call % 50) == {"n": call % 50}
                if (took := time.monotonic() - began) > 0.15:
                    slow.append(took)

        work(200)
        victim.pause() if fault == "stopped" else victim.kill()
        try:
            work(2000)
        finally:
            victim.resume() if fault == "stopped" else victim.restart()
        assert len(slow) <= 6
        assert max(slow, default=0) < 5
        assert eventually(lambda: all(cache.stats().servers.values()), 10)
        work(100)
        before = identity.info()
        work(50)
        assert identity.info().hits == before.hits + 50
        assert identity.info().errors == before.errors


def test_threads_while_servers_come_and_go(trio: tuple[Memcached, ...]) -> None:
    """Eight threads on hot keys, servers restarted meanwhile: every result is right and no call hangs."""
    with Cache(f"{url_of(*trio)}?deadline=500ms", prefix="p") as cache:
        identity = identities(cache)
        over = threading.Event()

        def work(seed: int) -> int:
            calls = 0
            while not over.is_set():
                n = (seed + calls) % 40
                assert identity(n) == {"n": n}
                found = cache.get(f"k{n}", MISS)
                assert found is MISS or found == n
                cache.set(f"k{n}", n)
                calls += 1
            return calls

        workers = [Outcome(work, seed) for seed in range(8)]
        for server in trio * 2:
            server.restart()
            assert eventually(lambda: all(cache.stats().servers.values()), 10)
        over.set()
        assert all(worker.result() > 0 for worker in workers)
        assert identity.info().hits > 0


# -- forks ------------------------------------------------------------------------------------------------------------

FORKS = """
import os, sys, threading, time
from cachekit import Cache

cache = Cache(sys.argv[1] + ("&" if "?" in sys.argv[1] else "?") + "deadline=5s", prefix="p")

@cache(ttl=60)
def identity(n):
    return {"n": n}

def check(rounds, who):
    wrong = 0
    for call in range(rounds):
        n = call % 20
        wrong += identity(n) != {"n": n}
        wrong += cache.get(f"k{n}") != [n]
    return wrong

for n in range(20):
    cache.set(f"k{n}", [n])
assert check(100, "before") == 0
over = threading.Event()
threads = [threading.Thread(target=lambda: [check(20, "thread") for _ in iter(over.is_set, True)]) for _ in range(2)]
for thread in threads:
    thread.start()
children = []
for _ in range(4):
    child = os.fork()
    if not child:
        before = identity.info()
        wrong = check(300, "child")
        more = []
        thread = threading.Thread(target=lambda: more.append(check(100, "child's thread")))
        thread.start()
        thread.join()
        clean = identity.info().errors == before.errors and identity.info().fills == before.fills
        os._exit(0 if not wrong and more == [0] and clean else 1)
    children.append(child)
wrong = check(300, "parent")
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
over.set()
for thread in threads:
    thread.join()
print(wrong, codes, identity.info().errors)
"""


@pytest.mark.parametrize("kind", ["real", "embedded"])
def test_a_fork_while_other_threads_read(kind: str, server: Memcached) -> None:
    """Parent and children go on, no one hangs, no one reads another's reply, nothing is missed."""
    server.flush()
    url = url_of(server) if kind == "real" else "memory:"
    assert run_script(FORKS, url) == "0 [0, 0, 0, 0] 0"


FORK_IN_FILL = """
import os, sys
from cachekit import Cache
cache = Cache(sys.argv[1] + "?deadline=5s", prefix="p")

@cache(ttl=60)
def forking():
    child = os.fork()
    if not child:
        return "child"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return "parent"

result = forking()
if result == "child":
    os._exit(0 if forking.peek() != "child" else 1)
print(result, forking.peek(), forking())
"""


def test_a_fork_inside_a_fill(server: Memcached) -> None:
    """The child that comes out of the parent's fill leaves the parent's lease alone."""
    server.flush()
    assert run_script(FORK_IN_FILL, url_of(server)) == "parent parent parent"


# -- interrupts -------------------------------------------------------------------------------------------------------


class Interrupt(BaseException):
    """What a signal handler raises."""


def test_an_interrupt_between_request_and_reply_is_followed_by_a_right_reply() -> None:
    """The reply to an interrupted request is never taken for the next one's."""
    behind = EmbeddedServer()
    held = threading.Event()
    target = threading.main_thread().ident
    assert target is not None
    with ScriptedServer(_holding(behind, held, target)) as scripted:
        previous = _on_alarm(_raise)
        try:
            with Cache(f"{scripted.url}?deadline=10s", prefix="p") as cache:
                identity = identities(cache)
                for n in range(5):
                    identity(n)
                    cache.set(f"k{n}", n)
                verbs: list[Any] = [
                    lambda: identity(1),
                    lambda: cache.get("k1"),
                    lambda: cache.gets("k1"),
                    lambda: cache.get_many(["k1", "k2"]),
                    lambda: cache.set("other", 1),
                    lambda: cache.incr("k1"),
                    lambda: cache.touch("k1"),
                    lambda: identity.peek(1),
                    lambda: identity.refresh(4),
                    lambda: cache.set_many({"other": 1}),
                    lambda: cache.delete_many(["other"]),
                ]
                for verb in verbs:
                    held.set()
                    with pytest.raises(Interrupt):
                        verb()
                    assert not held.is_set()
                    assert identity(2) == {"n": 2}
                    assert cache.get("k3") == 3
                    assert cache.get_many(["k2", "k3"]) == {"k2": 2, "k3": 3}
                    assert cache.set("k2", 2)
                assert cache.stats().direct.errors == identity.info().errors == 0
        finally:
            _on_alarm(previous)


def test_a_signal_handler_in_the_middle_of_a_store_may_call_the_same_function() -> None:
    """The fill below it can't go on before the handler returns, so the handler runs the function and does not wait."""
    behind = EmbeddedServer()
    target = threading.main_thread().ident
    assert target is not None
    armed, handled = threading.Event(), threading.Event()

    def script(request: bytes) -> Iterator[object]:
        if armed.is_set() and request.startswith(b"ms "):
            armed.clear()
            signal.pthread_kill(target, signal.SIGALRM)
            assert handled.wait(10)
        yield behind.handle(request)

    with ScriptedServer(script) as scripted, Cache(f"{scripted.url}?deadline=10s", prefix="p") as cache:
        identity = identities(cache)
        inside: list[Any] = []

        def handler(*_: object) -> None:
            inside.append(identity(1))
            handled.set()

        previous = _on_alarm(handler)
        try:
            armed.set()
            began = time.monotonic()
            assert identity(1) == {"n": 1}
            assert handled.is_set()
            assert time.monotonic() - began < 5
        finally:
            _on_alarm(previous)
        assert inside == [{"n": 1}]
        assert identity.info().fills == 2


def _holding(behind: EmbeddedServer, held: threading.Event, target: int) -> Any:
    """A server that, when told to, interrupts the asking thread before it answers."""

    def script(request: bytes) -> Iterator[object]:
        answer = behind.handle(request)
        if held.is_set():
            held.clear()
            signal.pthread_kill(target, signal.SIGALRM)
            time.sleep(0.02)
        yield answer

    return script


def _raise(*_: object) -> None:
    raise Interrupt


def _on_alarm(handler: Any) -> Any:
    return signal.signal(signal.SIGALRM, handler)


INTERRUPTS = """
import random, signal, sys, threading, time
from cachekit import Cache, MISS

class Interrupt(BaseException):
    pass

armed = False

def handler(*_):
    if armed:
        raise Interrupt

signal.signal(signal.SIGALRM, handler)
cache = Cache(sys.argv[1] + "?deadline=5s", prefix="p")

@cache(ttl=60)
def identity(n):
    return {"n": n}

for n in range(50):
    identity(n)
    cache.set(f"k{n}", n)
wrong = interrupted = misses = 0
end = time.monotonic() + 3
signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
calls = 0
while time.monotonic() < end:
    n = calls % 50
    calls += 1
    try:
        armed = True
        value, plain, many = identity(n), cache.get(f"k{n}", MISS), cache.get_many([f"k{n}", f"k{(n + 1) % 50}"])
        armed = False
        wrong += value != {"n": n}
        wrong += plain is not MISS and plain != n
        wrong += any(many.get(f"k{m}", m) != m for m in (n, (n + 1) % 50))
        misses += (plain is MISS) + (len(many) < 2)
    except Interrupt:
        armed = False
        interrupted += 1
signal.setitimer(signal.ITIMER_REAL, 0)
assert interrupted > 20 and calls > 100, (interrupted, calls)
connections = sum(len(row) for row in cache._fleet.shelves.rows)
print(wrong, misses <= interrupted, connections <= 2, len(cache._env.flights))
"""


def test_thousands_of_interrupts(server: Memcached) -> None:
    """Exceptions out of a signal handler, at any place: no wrong value, no flight and no connection left behind."""
    server.flush()
    assert run_script(INTERRUPTS, url_of(server)) == "0 True True 0"


REENTRANT = """
import signal, sys, time
from cachekit import Cache, Policy

cache = Cache(sys.argv[1] + "?deadline=5s", prefix="p", policy=Policy(lease=1))

@cache(ttl=60)
def identity(n):
    return {"n": n}

wrong = inside = 0

def handler(*_):
    global wrong, inside
    inside += 1
    n = inside % 70
    wrong += identity(n) != {"n": n}
    wrong += cache.get(f"k{n}", n) != n
    if inside % 5 == 0:
        identity.invalidate(n)

signal.signal(signal.SIGALRM, handler)
identity(0), identity.invalidate(0)  # first uses import modules, which can't be broken into by the same import
end = time.monotonic() + 3
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
calls = 0
while time.monotonic() < end:
    n = calls % 50
    calls += 1
    wrong += identity(n) != {"n": n}
    wrong += cache.get(f"k{n}", n) != n
    cache.set(f"k{n}", n)
    if calls % 3 == 0:
        identity.invalidate(n)
signal.setitimer(signal.ITIMER_REAL, 0)
assert inside > 20 and calls > 100, (inside, calls)
print(wrong)
"""


@pytest.mark.parametrize("kind", ["real", "embedded"])
def test_a_signal_handler_that_uses_the_cache_itself(kind: str, server: Memcached) -> None:
    """A handler that breaks into an exchange and makes its own gets its own replies, and so does the code below it."""
    server.flush()
    assert run_script(REENTRANT, url_of(server) if kind == "real" else "memory:") == "0"
