"""The command line as a whole, and what it says of servers: ``stats`` and ``ring``."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from support.command_line import Outcome, Servers, cachekit_fixture
from support.memcached import Memcached, free_port, start_memcached
from support.targets import url_of

from cachekit import Cache

__all__ = ["cachekit_fixture"]

# -- the frame ---------------------------------------------------------------------------------------------------------


class TestFrame:
    def test_nothing(self, cachekit: Callable[..., Outcome]) -> None:
        """Without a command the help is shown, and the exit code says that nothing was done."""
        code, out, err = cachekit()
        assert (code, out) == (2, "")
        assert all(command in err for command in ("demo", "key", "get", "stats", "ring"))

    @pytest.mark.parametrize(
        ("words", "hint"),
        [
            (["statz"], "did you mean stats?"),
            (["frobnicate"], "there are demo, key, get, stats, ring"),
            (["--servers", "x"], "no command 'x'"),
            (["--frob"], "say which command|unrecognized arguments: --frob"),
            (["get"], "KEY"),
            (["ring", "--server"], "expected one argument"),
        ],
    )
    def test_wrong_commands(self, cachekit: Callable[..., Outcome], words: list[str], hint: str) -> None:
        """A mistyped command is answered with what it may have been, and exit code 2."""
        code, out, err = cachekit(*words)
        assert (code, out) == (2, "")
        assert re.search(hint, err)

    @pytest.mark.parametrize("words", [["--help"], ["get", "--help"], ["demo", "-h"], ["--version"]])
    def test_help(self, cachekit: Callable[..., Outcome], words: list[str]) -> None:
        """Help and version are answers: on stdout, with exit code 0."""
        code, out, err = cachekit(*words)
        assert (code, err) == (0, "")
        assert "cachekit" in out

    def test_module(self) -> None:
        """`python -m cachekit` is the same command line, in a terminal that knows ASCII only too."""
        words = [sys.executable, "-m", "cachekit", "ring", "--servers", "10.0.0.1,10.0.0.2", "some-key"]
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        done = subprocess.run(words, check=False, capture_output=True, env=environment, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"####" in done.stdout
        assert b"some-key  on  10.0.0." in done.stdout

    def test_reader_gone(self) -> None:
        """A reader that stops reading (`cachekit ring | head -1`) causes no traceback."""
        words = [sys.executable, "-m", "cachekit", "ring", "--servers", "10.0.0.1", *["k" * 200] * 2000]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == b""

    @pytest.mark.parametrize("command", [["get", "k"], ["stats"], ["ring"]])
    @pytest.mark.parametrize(
        ("servers", "hint"),
        [
            ([], "CACHEKIT_URL"),
            (["--servers", ""], "CACHEKIT_URL"),
            (["--servers", "memory:"], "inside the process"),
            (["--servers", "memcachd://h"], "did you mean memcached?"),
            (["--servers", "h:port"], "bad port"),
        ],
    )
    def test_wrong_servers(
        self, cachekit: Callable[..., Outcome], command: list[str], servers: list[str], hint: str
    ) -> None:
        """Servers that are missing or mistyped: one line that says so, exit code 2."""
        code, out, err = cachekit(*command, *servers)
        assert (code, out) == (2, "")
        assert hint in err
        assert err.count("\n") == 1

    def test_servers_from_the_environment(
        self, cachekit: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """CACHEKIT_URL stands in for --servers, and --servers wins."""
        monkeypatch.setenv("CACHEKIT_URL", "memcached://from-env")
        assert "from-env:11211" in cachekit("ring").out
        assert "from-env" not in cachekit("ring", "--servers", "other").out


# -- stats, ring -------------------------------------------------------------------------------------------------------


class TestStats:
    def test_all_up(self, cachekit: Callable[..., Outcome]) -> None:
        """Each server has a line of its own figures, and one line sums them up, in 80 columns."""
        with start_memcached() as one, start_memcached() as two, start_memcached() as three:
            self.check_all_up(cachekit, (one, two, three))

    def check_all_up(self, cachekit: Callable[..., Outcome], servers: Servers) -> None:
        """The figures of servers that nobody else has used."""
        url = url_of(*servers)
        with Cache(url) as cache:
            assert cache.set_many({f"k{n}": n for n in range(1200)}) == []
        code, out, _ = cachekit("stats", "--servers", url)
        assert code == 0
        heading, *lines, total = out.splitlines()
        assert heading.split()[:3] == ["server", "version", "up"]
        for server, line in zip(sorted(servers, key=lambda s: s.name), lines, strict=True):
            assert line.split()[:2] == [server.name, server.stats()["version"]]
            assert f" {server.stats()['curr_items']} " in line
        assert total.startswith("all 3 up")
        assert " 1 200 " in total
        assert max(map(len, out.splitlines())) <= 80

    def test_one_down(self, cachekit: Callable[..., Outcome], server: Memcached) -> None:
        """A server that refuses, is silent or talks nonsense is shown as down; the others are shown as ever."""
        with start_memcached() as silent, socket.create_server(("127.0.0.1", 0)) as odd:
            silent.pause()
            talker = threading.Thread(target=_talk, args=(odd,))
            talker.start()
            gone, other = free_port(), odd.getsockname()[1]
            url = f"{url_of(server, silent)},127.0.0.1:{gone},127.0.0.1:{other}"
            code, out, err = cachekit("stats", "--servers", url)
            talker.join()
        assert (code, err) == (1, "")
        lines = {line.split()[0]: line for line in out.splitlines()}
        assert "down: can't be reached" in lines[f"127.0.0.1:{gone}"]
        assert "down: no Memcached" in lines[f"127.0.0.1:{other}"]
        assert "down: no answer in time" in lines[silent.name]
        assert "down" not in lines[server.name]
        assert "all 1 up" in out


def _talk(listener: socket.socket) -> None:
    peer, _ = listener.accept()
    with peer:
        peer.recv(100)
        peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


class TestRing:
    def test_shares_and_places(self, cachekit: Callable[..., Outcome]) -> None:
        """Shares follow the weights and add up to all; a key is shown on the server that a cache would ask."""
        code, out, _ = cachekit("ring", "--servers", "10.0.0.1,10.0.0.2:11212:2", "a", "shop:b")
        assert code == 0
        shares = [float(text) for text in re.findall(r"([0-9.]+) %", out)]
        assert sum(shares) == pytest.approx(100, abs=0.02)
        assert shares[1] == pytest.approx(66.7, abs=1)
        cache = Cache("10.0.0.1,10.0.0.2:11212:2")
        for key in ("a", "shop:b"):
            assert re.search(
                f"^{key} +on  {cache._fleet.names[cache._fleet.ring.index(key.encode())]}$", out, re.MULTILINE
            )

    def test_bad_key(self, cachekit: Callable[..., Outcome]) -> None:
        """A key that can't be is refused before anything is printed."""
        code, out, err = cachekit("ring", "--servers", "10.0.0.1", "a b")
        assert (code, out) == (2, "")
        assert "spaces" in err
