"""One module per peer, all with the interface of base.py. A peer that can't be imported is named as skipped."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from benchmarks.adapters.base import Adapter

MODULES = (
    "raw", "cachekit", "pymemcache", "pylibmc", "meta_memcache", "python_memcached", "binary_memcached", "emcache",
    "dogpile", "django", "flask_caching", "aiocache", "cachetools", "raw_aio", "cachekit_aio", "aiomcache",
)  # fmt: skip


def load() -> tuple[list[type[Adapter]], Mapping[str, str]]:
    """Every adapter whose library is here, and the reason for each that is not."""
    found: list[type[Adapter]] = []
    skipped: dict[str, str] = {}
    for name in MODULES:
        try:
            module = import_module(f"benchmarks.adapters.{name}")
        except Exception as error:  # a broken peer must not end the run either
            skipped[name] = f"{type(error).__name__}: {error}"[:100]
        else:
            found += module.ADAPTERS
    return found, skipped


def variants() -> list[type[Adapter]]:
    """The adapters with another set-up than their library's defaults (leases, locks), for what is about those."""
    return _also("VARIANTS")


def crowds() -> list[type[Adapter]]:
    """The adapters of asyncio for many tasks at a time; most have no place among those who call one after the other."""
    return _also("CROWDS")


def _also(kind: str) -> list[type[Adapter]]:
    skipped = load()[1]
    here = [f"benchmarks.adapters.{name}" for name in MODULES if name not in skipped]
    return [adapter for name in here for adapter in getattr(import_module(name), kind, ())]


def named(name: str) -> type[Adapter]:
    """The adapter of that name; KeyError when there is none, or when its library is not installed."""
    return {adapter.name: adapter for adapter in [*load()[0], *variants(), *crowds()]}[name]
