"""A server that answers but gives no lease: its invalidations hold all the same, for callers of every process."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from support.memcached import Memcached, start_memcached
from support.shells import ASYNCIO, THREADS, Shell, shell_named
from support.targets import own_prefix, url_of
from support.threads import Outcome, eventually

from cachekit import Cache


@pytest.fixture(name="without_cas", scope="module")
def without_cas_fixture() -> Iterator[Memcached]:
    """A real memcached without CAS numbers."""
    with start_memcached("-C") as server:
        yield server


@pytest.fixture(name="shell", params=[THREADS, ASYNCIO])
def shell_fixture(request: pytest.FixtureRequest) -> Iterator[Shell]:
    """Threads, and an event loop."""
    shell = shell_named(request.param)
    yield shell
    shell.close()


@pytest.mark.parametrize("how", ["a call", "a batch"])
def test_nobody_is_given_a_run_from_before_another_process_invalidated(
    without_cas: Memcached, shell: Shell, how: str
) -> None:
    """Who arrives after the acknowledgement runs himself, and waits for nobody."""
    url, prefix = f"{url_of(without_cas)}?deadline=5s", own_prefix()
    cache = shell.around(Cache(url, prefix=prefix))
    source, runs, go = ["old"], list[str](), threading.Event()

    def run() -> str:
        runs.append(source[0])
        if source[0] == "old":
            assert go.wait(20)
            return "old"
        return source[0]

    @cache(ttl=60, tags=["tag"])
    def report(n: int) -> str:
        return run()

    @cache.batch(ttl=60, tags=["tag"])
    def loader(ids: list[int]) -> dict[int, str]:
        return dict.fromkeys(ids, run())

    def call() -> str:
        return str(report(1) if how == "a call" else loader([1])[1])

    early = Outcome(call)
    assert eventually(lambda: runs == ["old"])
    source[0] = "new"
    with Cache(url, prefix=prefix) as elsewhere:
        assert elsewhere.invalidate_tags("tag") is True
    late = Outcome(call)
    try:
        assert late.result(10) == "new"
    finally:
        go.set()
    assert early.result() == "old"
    assert runs == ["old", "new"]
    cache.close()
