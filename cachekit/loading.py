"""Modules that are loaded when something is used for the first time, so that ``import cachekit`` need not wait for them
(docs/design/imports.md).

Python holds a lock for each module that is being imported. A child that is forked meanwhile, by another thread, has a
copy that nobody will ever release: there the next import of that module never ends. So whatever later calls may need is
loaded at the first use, all of it, and not when each is called for the first time.
"""

from __future__ import annotations


def load(*modules: str) -> None:
    """Import ``modules``, by their full names, those that are not there yet."""
    for module in modules:
        __import__(module)  # importlib would be one more to load
