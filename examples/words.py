"""A whole dictionary on three Memcached servers: who gets which word, and what the cache saves.

::

    python examples/words.py                        # starts three memcached processes, and ends them
    python examples/words.py --limit 5000           # quick
    python examples/words.py --servers memcached://10.0.0.1,10.0.0.2,10.0.0.3

The words are Debian's /usr/share/dict/words (apt-get install wamerican), about 104 000 of them;
all of them take a minute or so, most of it the first run of the analysis.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import islice
from operator import ne
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from cachekit import Cache, ConfigurationError
from cachekit.addresses import parse_target
from cachekit.ring import Ring
from cachekit.servers import Server

T = TypeVar("T")
LETTERS = "abcdefghijklmnopqrstuvwxyz'"
DICTIONARY_FILE = Path("/usr/share/dict/words")
DICTIONARY: set[str] = set()

cache = Cache(prefix="words")


# -- the slow analysis -----------------------------------------------------------------------------------------------


@cache(ttl="1h")
def neighbours(word: str) -> list[str]:
    """All words that one slip of the pen makes out of this one: a letter lost, added or changed, or two swapped."""
    cuts = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    lost = {a + b[1:] for a, b in cuts if b}
    swapped = {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    changed = {a + letter + b[1:] for a, b in cuts if b for letter in LETTERS}
    added = {a + letter + b for a, b in cuts for letter in LETTERS}
    return sorted(((lost | swapped | changed | added) & DICTIONARY) - {word})


def analyse(words: Sequence[str]) -> None:
    """Ask for every word's neighbours, twice one by one and once in batches, and compare times and answers."""
    print("\n3  A slow analysis of every word: which words are one slip of the pen away?\n")
    neighbours.invalidate_all()  # what an earlier run left was computed from the dictionary of that run
    first = timed("first run, each call computes", words, lambda: [neighbours(word) for word in words])
    second = timed("second run, from the cache", words, lambda: [neighbours(word) for word in words])
    third = timed("third run, neighbours.many()", words, lambda: in_batches(words))
    assert first == second == third, "the cache must give back what was computed"
    best = max(zip(words, first, strict=True), key=lambda pair: len(pair[1]))
    info = neighbours.info()
    print(f"\n   {number(info.fills)} computed, {number(info.hits)} served from the cache, all alike.")
    print(f"   {best[0]!r} has most: {', '.join(best[1][:8])} … ({len(best[1])} in all)")


def in_batches(words: Sequence[str], size: int = 1000) -> list[list[str]]:
    answers: list[list[str]] = []
    for batch in batched(words, size):
        answers += neighbours.many([neighbours.bind(word) for word in batch])
    return answers


# -- keys of our own -------------------------------------------------------------------------------------------------


def store_lengths(words: Sequence[str]) -> None:
    """Store and read back one value a word, a thousand at a time."""
    print("\n2  A value for every word under a key of our own, 1 000 at a time.\n")
    lengths = {quote(word): len(word) for word in words}  # keys are ASCII: Ångström is %C3%85ngstr%C3%B6m
    lost: list[str] = []
    found: dict[str, int] = {}

    def write() -> None:
        for batch in batched(list(lengths), 1000):
            lost.extend(cache.set_many({key: lengths[key] for key in batch}, ttl="1h"))

    def read() -> None:
        for batch in batched(list(lengths), 1000):
            found.update(cache.get_many(batch))

    timed("set_many", words, write)
    timed("get_many", words, read)
    print(f"\n   {number(len(found))} of {number(len(lengths))} came back, {len(lost)} could not be stored.")
    assert all(lengths[key] == value for key, value in found.items())


# -- who gets which word ---------------------------------------------------------------------------------------------


def spread(words: Sequence[str], servers: Sequence[Server]) -> None:
    """The sharding table: words per server for three ways to choose one, and what a further server would move."""
    count = len(servers)
    more = [*servers, Server("10.9.9.9:11211", host="10.9.9.9", port=11211)]
    ways: dict[str, tuple[list[int], list[int]]] = {
        "first letter": (by_letter(words, count), by_letter(words, count + 1)),
        "hash(word) % n": ([hash(word) % count for word in words], [hash(word) % (count + 1) for word in words]),
        "cachekit's ring": (by_ring(words, servers), by_ring(words, more)),
    }
    print(f"\n1  {number(len(words))} words on {count} servers: who gets which?\n")
    print(f"   {'':<16}{'words per server':<{9 * count + 2}}fullest/mean   moved by one more")
    for name, (now, then) in ways.items():
        held = Counter(now)
        cells = "".join(f"{number(held[at]):>9}" for at in range(count))
        moved = sum(map(ne, now, then))
        print(f"   {name:<16}{cells}  {max(held.values()) * count / len(words):>12.3f}{moved / len(words):>20.1%}")
    elsewhere = sum(map(ne, ways["hash(word) % n"][0], hash_elsewhere(words, count)))
    print("\n   hash() looks fair, but every process has another one: a second Python would")
    print(f"   look for {elsewhere / len(words):.1%} of the words on the wrong server. The ring is always the same.")


def by_letter(words: Iterable[str], count: int) -> list[int]:
    """The alphabet cut into equal parts, one a server; what does not begin with one of its letters goes to the last."""
    return [min((ord(word[0].lower()) - ord("a")) % 256 * count // 26, count - 1) for word in words]


def by_ring(words: Iterable[str], servers: Sequence[Server]) -> list[int]:
    """The ring's choice, as places in ``servers``."""
    ring = Ring(servers)
    places = [servers.index(server) for server in ring.servers]
    return [places[ring.index(f"words:{quote(word)}".encode())] for word in words]


def hash_elsewhere(words: Sequence[str], count: int) -> list[int]:
    """What hash(word) % count is in another process."""
    program = "import sys\nfor word in sys.stdin.read().split('\\n'): print(hash(word) % int(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", program, str(count)],
        input="\n".join(words), capture_output=True, check=True, encoding="utf-8",
        env={**os.environ, "PYTHONHASHSEED": "random", "PYTHONUTF8": "1"},
    )  # fmt: skip
    return [int(line) for line in done.stdout.split()]


# -- servers ---------------------------------------------------------------------------------------------------------


@contextmanager
def three_servers() -> Iterator[str]:
    """The URL of three memcached processes on free loopback ports, which end with the block."""
    program = shutil.which("memcached") or shutil.which("memcached", path="/usr/bin:/usr/local/bin")
    if program is None:
        raise SystemExit("no memcached here: apt-get install memcached, or give --servers")
    with ExitStack() as stack:
        ports = [free_port(stack) for _ in range(3)]
        stack.pop_all().close()  # all three were held open together, so that they differ
        for port in ports:
            process = subprocess.Popen(
                [program, "-u", "nobody", "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-m", "64", "-t", "1"]
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            wait_for(port)
            print(f"started memcached on 127.0.0.1:{port}, process {process.pid}", flush=True)
        yield "memcached://" + ",".join(f"127.0.0.1:{port}" for port in ports)


def free_port(stack: ExitStack) -> int:
    probe = stack.enter_context(socket.socket())
    probe.bind(("127.0.0.1", 0))
    return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit(f"memcached on port {port} does not answer")


# -- all of it -------------------------------------------------------------------------------------------------------


def timed(what: str, words: Sequence[str], work: Callable[[], T]) -> T:
    """Do the work, and print how long it took."""
    began = time.perf_counter()
    outcome = work()
    seconds = time.perf_counter() - began
    print(f"   {what:<34}{seconds:8.2f} s   {1e6 * seconds / len(words):8.1f} µs a word", flush=True)
    return outcome


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def number(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def read_words(path: Path, limit: int | None) -> list[str]:
    """The dictionary's words, or every n-th of them so that about ``limit`` are left, from all letters."""
    try:
        words = path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise SystemExit(f"no dictionary: {error} (apt-get install wamerican, or --words FILE)") from error
    return words if limit is None else words[:: max(1, -(-len(words) // limit))]


def positive(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError(text)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description="Cache a slow analysis of a whole dictionary on several servers.")
    parser.add_argument("--servers", metavar="URL", help="Memcached servers; default: start three of our own")
    parser.add_argument("--limit", type=positive, metavar="N", help="take only about N of the words")
    parser.add_argument("--words", type=Path, default=DICTIONARY_FILE, metavar="FILE", help="one word a line")
    arguments = parser.parse_args()
    words = read_words(arguments.words, arguments.limit)
    DICTIONARY.update(words)
    with nullcontext(arguments.servers) if arguments.servers else three_servers() as url:
        try:
            cache.configure(url)
        except ConfigurationError as error:
            raise SystemExit(str(error)) from error
        with cache:
            spread(words, parse_target(url).servers)
            store_lengths(words)
            analyse(words)


if __name__ == "__main__":
    main()
