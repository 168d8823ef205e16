"""Following the watch streams of real servers: what is heard, what is a gap, and who has how many watchers."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.ears import Ear, listening, watch_of
from support.memcached import Memcached, make_certificate, start_memcached
from support.targets import own_prefix, unix_server_fixture
from support.threads import eventually
from support.watching import mortal_fixture, needs_fork, short_pauses_fixture, threads

from cachekit.tombstones import notice, tombstone
from cachekit.watch import Watch, follower

__all__ = ["mortal_fixture", "short_pauses_fixture", "unix_server_fixture"]


def watchers(server: Memcached) -> int:
    """How many the server has."""
    return int(server.stats()["log_watchers"])


# -- what is heard ----------------------------------------------------------------------------------------------------


CHANGES = (
    (b"stored", b"ms stored 1\r\nx\r\n"),
    (b"failed", b"ms failed 1 C1\r\nx\r\n"),
    (b"removed", tombstone(b"removed", 1)),
    (b"shown", notice(b"shown", 1)),
    (b"odd%key!", b"set odd%key! 0 0 1\r\nx\r\n"),
)


def hears_all(ear: Ear, server: Memcached) -> bool:
    """Whether ``ear`` hears of each kind of change."""
    for _, request in CHANGES:
        server.ask(request)
    return all(ear.hears(key) for key, _ in CHANGES)


@pytest.mark.parametrize("kind", ["server", "unix_server"])
def test_changes_by_others_are_heard(kind: str, request: pytest.FixtureRequest) -> None:
    """A store, a failed store, a tombstone and a notice by somebody else are heard of, over TCP and a UNIX socket."""
    server: Memcached = request.getfixturevalue(kind)
    ear = Ear()
    with listening(watch_of(ear, server)):
        assert hears_all(ear, server)


def test_changes_are_heard_over_tls(tmp_path: Path) -> None:
    """Streams are opened as all other connections are."""
    ear, certificate = Ear(), make_certificate(tmp_path)
    with start_memcached(*certificate.options) as server:
        url = f"memcached+tls://{server.name}?ca={certificate.cert}"
        with listening(watch_of(ear, url=url)):
            assert hears_all(ear, server)


def test_servers_by_their_index(servers3: tuple[Memcached, ...]) -> None:
    """Each server of a ring has its own stream, and what may have been missed there is told under its index."""
    ear = Ear()
    with listening(watch_of(ear, *servers3)) as watch:
        assert len(threads()) == 3
        for number, server in enumerate(servers3):
            server.ask(b"set k%d 0 0 1\r\nx\r\n" % number)
            assert ear.hears(b"k%d" % number)
        assert sorted(set(ear.gaps)) == [0, 1, 2]
        before = len(ear.gaps)
        flushed = next(server for server in servers3 if server.name == watch.servers[1].name)
        flushed.flush()
        assert ear.has_gap(before + 1)
        assert ear.gaps[before:] == [1]


def test_only_the_prefix_is_told(server: Memcached) -> None:
    """Another application on the same server costs this one no call."""
    ear, prefix = Ear(), own_prefix().encode()
    with listening(watch_of(ear, server, prefix=prefix)):
        server.ask(b"set other:k 0 0 1\r\nx\r\nset %b:k 0 0 1\r\nx\r\n" % prefix)
        assert ear.hears(prefix + b":k")
        assert ear.keys == [prefix + b":k"]


def test_beats_keep_an_idle_server_awake(mortal: Memcached) -> None:
    """With nothing to tell, the stream is given lines, which nobody is told of; they make no item."""
    ear = Ear()
    with listening(watch_of(ear, mortal, prefix=b"p")):
        sent = int(mortal.stats()["log_watcher_sent"])
        assert eventually(lambda: int(mortal.stats()["log_watcher_sent"]) >= sent + 5)
        assert mortal.stats()["curr_items"] == "0"
    assert ear.keys == []


# -- gaps -------------------------------------------------------------------------------------------------------------


def test_a_stream_begins_with_a_gap(server: Memcached) -> None:
    """Of what changed before it, nobody has told."""
    ear = Ear()
    with listening(watch_of(ear, server)):
        assert ear.has_gap(1)


def test_a_killed_server_is_a_gap_and_heard_again_when_it_is_back(mortal: Memcached) -> None:
    """The end of a stream drops what was kept, and so does the beginning of the next one."""
    ear = Ear()
    with listening(watch_of(ear, mortal)) as watch:
        before = len(ear.gaps)
        mortal.kill()
        assert ear.has_gap(before + 1)
        assert not watch.is_watching(0)
        mortal.restart()
        assert ear.has_gap(before + 2)
        assert hears_all(ear, mortal)


def test_a_stopped_server_is_a_gap(mortal: Memcached) -> None:
    """A server that stands still shows no beats: its stream is given up, and opened again when it goes on."""
    ear = Ear()
    with listening(watch_of(ear, mortal)) as watch:
        before = len(ear.gaps)
        mortal.pause()
        assert ear.has_gap(before + 1)
        mortal.resume()
        assert eventually(lambda: watch.is_watching(0))
        assert hears_all(ear, mortal)


def test_a_silent_stream_is_a_gap(mortal: Memcached, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers, and shows no beat in its stream, has stopped telling."""
    monkeypatch.setattr(follower, "SILENT_S", 1.5)
    ear = Ear()
    with listening(watch_of(ear, mortal)):
        before = len(ear.gaps)
        monkeypatch.setattr(follower.Follower, "_beat", lambda self: None)
        assert ear.has_gap(before + 1)


def test_flush_all_is_a_gap(mortal: Memcached) -> None:
    """The stream does not show it; the server's count does."""
    ear = Ear()
    with listening(watch_of(ear, mortal)):
        before = len(ear.gaps)
        mortal.flush()
        assert ear.has_gap(before + 1)


def test_skipped_lines_are_a_gap(mortal: Memcached, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that is too slow for a burst is told so by the stream, and trusts nothing that it kept."""
    monkeypatch.setattr(follower.Follower, "_counters", lambda self: ())  # the same burst may raise them, too
    slow, go_on = threading.Event(), threading.Event()

    def linger(key: bytes) -> None:
        slow.set()
        go_on.wait(20)

    ear = Ear(linger)
    with listening(watch_of(ear, mortal)):
        before = len(ear.gaps)
        mortal.ask(b"set first 0 0 1\r\nx\r\n")
        assert slow.wait(20)
        burst = b"".join(b"ms %b%d 0 T-1\r\n\r\n" % (b"%" * 240, number) for number in range(1000))
        while int(mortal.stats()["log_watcher_skipped"]) == 0:
            mortal.ask(burst)
        assert len(ear.gaps) == before
        go_on.set()
        assert ear.has_gap(before + 1)


def test_dropped_lines_are_a_gap(mortal: Memcached) -> None:
    """A burst that overruns the server's own buffer leaves no mark in the stream, but raises a counter."""
    ear = Ear()
    with listening(watch_of(ear, mortal)):
        before = len(ear.gaps)
        burst = b"".join(b"ms %b%d 0 T-1\r\n\r\n" % (b"k" * 200, number) for number in range(1000))
        while int(mortal.stats()["log_worker_dropped"]) == 0:
            mortal.ask(burst)
        assert mortal.stats()["log_watcher_skipped"] == "0"
        assert ear.has_gap(before + 1)


def test_nothing_is_lost_in_bursts(mortal: Memcached) -> None:
    """Each change amid bursts that overrun the server's buffer is heard of, or a gap follows it."""
    ear = Ear()
    burst = b"".join(b"ms other:%b%d 1 q\r\nx\r\n" % (b"k" * 150, number) for number in range(2000))
    with listening(watch_of(ear, mortal, prefix=b"mine")):
        marks = 0
        while marks < 20 or mortal.stats()["log_worker_dropped"] == "0":
            gaps, marks = len(ear.gaps), marks + 1
            mark = b"mine:%d" % marks
            mortal.ask(burst + tombstone(mark, 1))
            assert eventually(lambda mark=mark, gaps=gaps: mark in ear.keys or len(ear.gaps) > gaps, 5)  # type: ignore[misc]


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_the_limit_of_twenty_watchers(mortal: Memcached, caplog: pytest.LogCaptureFixture) -> None:
    """Where no place is left, that is said once, and a place that becomes free is taken."""
    others = [mortal.connect() for _ in range(20)]
    for other in others:
        other.sendall(b"watch evictions\r\n")
        assert other.recv(100) == b"OK\r\n"
    ear = Ear()
    watch = watch_of(ear, mortal)
    watch.ensure()
    try:
        assert eventually(lambda: caplog.records)
        refused = int(mortal.stats()["total_connections"])
        assert eventually(lambda: int(mortal.stats()["total_connections"]) > refused + 6)
        assert not watch.is_watching(0)
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "WATCHER_TOO_MANY" in caplog.text
        others.pop().close()
        assert eventually(lambda: watch.is_watching(0))
        assert hears_all(ear, mortal)
    finally:
        watch.close()
        for other in others:
            other.close()


def test_a_server_that_lets_nobody_watch(caplog: pytest.LogCaptureFixture) -> None:
    """With -W: one warning, and no stream."""
    with start_memcached("-W") as server:
        watch = watch_of(Ear(), server)
        watch.ensure()
        assert eventually(lambda: "watch commands not allowed" in caplog.text)
        assert not watch.is_watching(0)
        watch.close()
        assert len(caplog.records) == 1


def test_no_thread_can_be_had(server: Memcached, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit of threads nothing is raised, and the next ``ensure`` tries again."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ear = Ear()
    watch = watch_of(ear, server)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        watch.ensure()
        assert not watch.joined
    with listening(watch):
        assert hears_all(ear, server)


# -- how many ---------------------------------------------------------------------------------------------------------


def test_one_watcher_per_process_and_server(mortal: Memcached) -> None:
    """Several caches share a stream, each is told; it ends with the last of them."""
    one, two = Ear(), Ear()
    with listening(watch_of(one, mortal)) as first:
        with listening(watch_of(two, mortal)):
            assert len(threads()) == 1
            assert watchers(mortal) == 1
            mortal.ask(b"set both 0 0 1\r\nx\r\n")
            assert one.hears(b"both")
            assert two.hears(b"both")
        mortal.ask(b"set alone 0 0 1\r\nx\r\n")
        assert one.hears(b"alone")
        assert two.keys == [b"both"]
        first.ensure()
        assert len(threads()) == 1
    assert eventually(lambda: not threads())
    assert eventually(lambda: watchers(mortal) == 0)


def test_caches_with_prefixes_of_their_own(server: Memcached) -> None:
    """Each is told of its own keys alone, and one that comes later drops what it kept before."""
    prefixes = [own_prefix().encode() for _ in range(2)]
    ears = [Ear(), Ear()]
    with listening(watch_of(ears[0], server, prefix=prefixes[0])):
        assert not ears[1].gaps
        with listening(watch_of(ears[1], server, prefix=prefixes[1])):
            assert ears[1].has_gap(1)
            for prefix in prefixes:
                server.ask(b"set %b:k 0 0 1\r\nx\r\n" % prefix)
            for ear, prefix in zip(ears, prefixes, strict=True):
                assert ear.hears(prefix + b":k")
            assert [ear.keys for ear in ears] == [[prefix + b":k"] for prefix in prefixes]


def test_closed_and_begun_again_at_once(mortal: Memcached, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old thread ends before the new one connects, so the server never has two watchers of one process."""
    following: set[follower.Follower] = set()
    most: list[int] = []
    begin, close = follower.Follower._begin, follower.Follower._close

    def noted_begin(self: follower.Follower) -> None:
        following.add(self)
        most.append(len(following))
        begin(self)

    def noted_close(self: follower.Follower) -> None:
        close(self)
        following.discard(self)

    monkeypatch.setattr(follower.Follower, "_begin", noted_begin)
    monkeypatch.setattr(follower.Follower, "_close", noted_close)
    ear = Ear()
    watch = watch_of(ear, mortal)
    for _ in range(3):
        with listening(watch):
            assert hears_all(ear, mortal)
    assert eventually(lambda: not threads())
    assert most == [1, 1, 1]


def test_a_forgotten_watch_ends(mortal: Memcached) -> None:
    """A cache that nobody has any more leaves no thread behind."""
    watch: Watch | None = watch_of(Ear(), mortal)
    assert watch is not None
    watch.ensure()
    assert threads()
    del watch
    gc.collect()
    assert eventually(lambda: not threads())


def test_a_callback_that_raises(server: Memcached, caplog: pytest.LogCaptureFixture) -> None:
    """What it missed is a gap, and the stream begins again."""

    def fail(key: bytes) -> None:
        if key == b"bad":
            raise KeyError(key)

    ear = Ear(fail)
    with listening(watch_of(ear, server)):
        before = len(ear.gaps)
        server.ask(b"set bad 0 0 1\r\nx\r\n")
        assert ear.has_gap(before + 2)
        assert hears_all(ear, server)
    assert "KeyError" in caplog.text


# -- other processes --------------------------------------------------------------------------------------------------


@needs_fork
def test_a_forked_child_begins_its_own(mortal: Memcached) -> None:
    """The child uses nothing of its parent's, nor keeps it open; the parent's goes on."""
    ear = Ear()
    with listening(watch_of(ear, mortal)) as watch:
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                idle = not threads() and not watch.joined and not watch.is_watching(0)
                ear.keys.clear()
                watch.ensure()
                fine = idle and eventually(lambda: watch.is_watching(0)) and watchers(mortal) == 2
                os.write(tell, b"1" if fine and hears_all(ear, mortal) else b"0")
            finally:
                os._exit(0)
        os.close(tell)
        assert os.read(told, 1) == b"1"
        os.waitpid(child, 0)
        os.close(told)
        ear.keys.clear()
        assert hears_all(ear, mortal)
        assert eventually(lambda: watchers(mortal) == 1)


@needs_fork
def test_a_child_does_not_keep_the_place_of_its_parent(mortal: Memcached) -> None:
    """A child that lives on after its parent's watch was closed has no copy of the stream, so the place is free."""
    watch = watch_of(Ear(), mortal)
    with listening(watch):
        held, let_go = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(let_go)
                os.read(held, 1)
            finally:
                os._exit(0)
    try:
        assert eventually(lambda: watchers(mortal) == 0, 10)
    finally:
        os.close(let_go)
        os.close(held)
        os.waitpid(child, 0)


def test_the_interpreter_ends_quietly(server: Memcached) -> None:
    """A watch that nobody closed holds up no exit, and writes nothing."""
    program = (
        "from cachekit.addresses import parse_target\n"
        "from cachekit.watch import Watch\n"
        "import time\n"
        f"watch = Watch(parse_target('memcached://{server.name}').servers, print, lambda server: None)\n"
        "watch.ensure()\n"
        "while not watch.is_watching(0): time.sleep(0.01)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
