"""The command line, run in this process: `cachekit("get", "some-key")` gives its outcome. A test module takes the
fixtures by importing their functions.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.memcached import Memcached

from cachekit.cli import main

Servers = tuple[Memcached, Memcached, Memcached]

APP = """
from cachekit import Cache, Policy, current

cache = Cache({url!r}, prefix="shop")

@cache(ttl="5m")
def report(user_id, *, month="now"):
    return {{"user": user_id, "month": month}}

@cache(ttl=None)
def for_ever(n):
    return n

class Shelf:
    @cache
    @classmethod
    def count(cls, n):
        return n

    @cache(ignore=["self"])
    def item(self, n):
        return n

def plain():
    return 1
"""


class Outcome(NamedTuple):
    """What a command came to: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture(name="cachekit")
def cachekit_fixture(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """The command line, in this process and without CACHEKIT_URL."""
    monkeypatch.delenv("CACHEKIT_URL", raising=False)

    def run(*words: str) -> Outcome:
        code = main(words)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Outcome(code, out, err)

    return run


@pytest.fixture(name="app")
def app_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module that uses the servers of a URL into the current directory, and returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    made: list[str] = []

    def write(url: str) -> str:
        made.append(f"shop_{random.randrange(10**9)}")
        (tmp_path / f"{made[-1]}.py").write_text(APP.format(url=url))
        return made[-1]

    yield write
    for name in made:
        sys.modules.pop(name, None)


def fact(outcome: Outcome, name: str) -> str:
    """What ``outcome`` says about ``name`` in its list of facts."""
    lines = [line for line in outcome.out.splitlines() if line.startswith(f"{name}  ")]
    assert len(lines) == 1, outcome
    return lines[0].removeprefix(name).strip()
