"""Django, set up once in a process: for its tests and for docs/howto/django.md, in whichever order they come.

``default`` is SQLite, in a file, since threads share it; ``postgresql`` is there for whoever has a server, by
``use_postgresql``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import django
from django.conf import settings
from django.db import connections

_folder = tempfile.TemporaryDirectory()


def set_up() -> None:
    """Idempotent."""
    if settings.configured:
        return
    default = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(Path(_folder.name) / "test.db"),
        "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL"} if django.VERSION >= (5, 1) else {},
    }
    other = {"ENGINE": "django.db.backends.postgresql", "NAME": "test", "USER": "test", "HOST": "127.0.0.1"}
    settings.configure(DATABASES={"default": default, "postgresql": other}, LOGGING_CONFIG=None, USE_TZ=True)
    django.setup()


def use_postgresql(port: int) -> None:
    """Before anybody has asked for that database."""
    connections.settings["postgresql"]["PORT"] = str(port)
