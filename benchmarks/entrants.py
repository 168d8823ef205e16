"""Who takes part: adapters opened on servers, checked once for a right answer before anything is timed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from benchmarks.adapters import load
from benchmarks.adapters.base import Adapter
from benchmarks.servers import MemcachedProcess


@dataclass(slots=True)
class Entrants:
    """The adapters that opened, and why the others did not."""

    adapters: list[Adapter] = field(default_factory=list[Adapter])
    failed: dict[str, str] = field(default_factory=dict[str, str])


@contextmanager
def entrants(running: Sequence[MemcachedProcess], classes: Sequence[type[Adapter]]) -> Iterator[Entrants]:
    """Open each adapter on the servers, and close them all at the end."""
    addresses = [server.address for server in running]
    entered = Entrants()
    for adapter in classes:
        try:
            opened = adapter(addresses)
        except Exception as error:
            entered.failed[adapter.name] = f"{type(error).__name__}: {error}"[:120]
        else:
            entered.adapters.append(opened)
    try:
        yield entered
    finally:
        for opened in entered.adapters:
            with suppress(Exception):
                opened.close()


def with_verb(verb: str) -> list[type[Adapter]]:
    return [adapter for adapter in load()[0] if verb in adapter.verbs]


def decorating() -> list[type[Adapter]]:
    return [adapter for adapter in load()[0] if adapter.decorates]
