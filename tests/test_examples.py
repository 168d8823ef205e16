"""The programs in examples/, run as a reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.memcached import Memcached, start_memcached

EXAMPLES = Path(__file__).parents[1] / "examples"
Servers = tuple[Memcached, Memcached, Memcached]


def run(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run an example from this checkout, without CACHEKIT_URL."""
    environment = {key: value for key, value in os.environ.items() if key != "CACHEKIT_URL"}
    path = os.pathsep.join([str(EXAMPLES.parent), *filter(None, [environment.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *words],
        check=False,
        capture_output=True,
        encoding="utf-8",
        env={**environment, "PYTHONPATH": path, "PYTHONUTF8": "1"},
        timeout=100,
    )


def url_of(*servers: Memcached) -> str:
    """The URL of these servers."""
    return "memcached://" + ",".join(server.name for server in servers)


def test_squares() -> None:
    """The smallest program needs no server; its second and third call are hits."""
    done = run("squares.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("square(12) = 144") == 3
    assert "2 of 3 from the cache" in done.stdout


def test_squares_on_servers(fresh_servers3: Servers) -> None:
    """On real servers a second run of the program finds what the first one stored."""
    words = ["--servers", url_of(*fresh_servers3)]
    assert "2 of 3 from the cache" in run("squares.py", *words).stdout
    assert "3 of 3 from the cache" in run("squares.py", *words).stdout


def figures(output: str) -> list[int]:
    """How often the function ran in each part of ``async_fleet.py``, and how many got the cancelled caller's value."""
    runs = [int(count) for count in re.findall(r"the function ran ([0-9]+) times", output)]
    return [*runs, int(re.search(r"([0-9]+) of them got the value", output)[1])]  # type: ignore[index]


def test_async_fleet() -> None:
    """Two hundred tasks, ten runs; then hits alone; and a cancelled caller's run goes on for the others."""
    done = run("async_fleet.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert figures(done.stdout) == [10, 0, 1, 10]
    assert "calls per second" in done.stdout


def test_async_fleet_on_servers(fresh_servers3: Servers) -> None:
    """On real servers too; a second run computes anew, unless it is told to keep what is stored."""
    words = ["--tasks", "60", "--values", "6", "--servers", url_of(*fresh_servers3)]
    for options, runs in (([], 6), ([], 6), (["--keep"], 0)):
        done = run("async_fleet.py", *words, *options)
        assert (done.returncode, done.stderr) == (0, "")
        assert figures(done.stdout) == [runs, 0, 1, 10]


@pytest.mark.parametrize(
    ("words", "hint"),
    [(["--tasks", "0"], "invalid positive value"), (["--servers", "memcachd://h"], "did you mean memcached")],
)
def test_async_fleet_mistyped(words: list[str], hint: str) -> None:
    """What a person mistypes is said in one line."""
    done = run("async_fleet.py", *words)
    assert done.returncode != 0
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def own_servers3() -> Iterator[Servers]:
    """Three servers that hold nothing yet and that nobody else uses: what they hold is counted."""
    with start_memcached() as one, start_memcached() as two, start_memcached() as three:
        yield one, two, three


def test_words_on_servers(own_servers3: Servers) -> None:
    """Real words: all come back alike, all servers hold about a third, and the ring beats the first letters."""
    done = run("words.py", "--limit", "1500", "--servers", url_of(*own_servers3))
    assert (done.returncode, done.stderr) == (0, "")
    count = int(re.search(r"1  ([0-9 ]+) words on 3 servers", done.stdout)[1].replace(" ", ""))  # type: ignore[index]
    assert 1000 < count <= 1500
    fullest = dict(re.findall(r"^   (first letter|cachekit's ring) .* ([0-9.]+) +[0-9.]+%$", done.stdout, re.MULTILINE))
    assert float(fullest["cachekit's ring"]) < 1.1 < float(fullest["first letter"])
    computed, served = re.search(r"([0-9 ]+) computed, ([0-9 ]+) served", done.stdout).groups()  # type: ignore[union-attr]
    assert (computed.strip(), int(served.replace(" ", ""))) == (f"{count:,}".replace(",", " "), 2 * count)
    held = [int(server.stats()["curr_items"]) for server in own_servers3]
    # Two entries a word, and on every server its copy of the function's generation.
    assert sum(held) == 2 * count + 3
    assert max(held) < 1.2 * sum(held) / 3


def test_words_alone() -> None:
    """Without --servers it starts three of its own, and they are gone when it ends."""
    done = run("words.py", "--limit", "200")
    assert (done.returncode, done.stderr) == (0, "")
    pids = [int(pid) for pid in re.findall(r"started memcached on .*, process ([0-9]+)", done.stdout)]
    assert len(pids) == 3
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--words", "/no/such/file"], "no dictionary"),
        (["--limit", "0"], "invalid positive value"),
        (["--limit", "many"], "invalid positive value"),
        (["--servers", "memcachd://h"], "did you mean memcached"),
    ],
)
def test_words_mistyped(words: list[str], hint: str) -> None:
    """What a person mistypes is said in one line."""
    done = run("words.py", *words)
    assert done.returncode != 0
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


def test_bank() -> None:
    """Invalidated before the commit the old balance stays; inside a transaction it does not."""
    done = run("bank.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the database says 70, the cache 100" in done.stdout
    assert "the database says 40, the cache 40" in done.stdout


def test_bank_on_servers(fresh_servers3: Servers) -> None:
    """The same on real servers, also where they know of an earlier run."""
    for _ in range(2):
        output = run("bank.py", "--servers", url_of(*fresh_servers3)).stdout
        assert "the database says 70, the cache 100" in output
        assert "the database says 40, the cache 40" in output
