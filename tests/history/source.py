"""The database that the cached functions read: versions in a file that every process has mapped into its memory."""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from pathlib import Path

CELLS = ("k0", "k1", "k2", "f", "ns", "t0", "r0", "r1", "r2", "d0", "d1", "d2", "i0", "i1", "i2", "g")
"""The cells of a schedule; see ``events``."""

_ROOM = 16
_PLACES = {cell: place for place, cell in enumerate(CELLS)}


class Source:
    """The versions of all cells of ``schedules`` schedules, all 0 at first. The file is made if it is not there."""

    def __init__(self, path: Path, schedules: int) -> None:
        self._path = path
        with open(path, "a+b") as file:
            file.truncate(8 * _ROOM * schedules)
            self._map = mmap.mmap(file.fileno(), 0)
        self._versions = memoryview(self._map).cast("Q")
        self._local = threading.local()

    def read(self, schedule: int, cell: str) -> int:
        """The version of a cell now."""
        return self._versions[_ROOM * schedule + _PLACES[cell]]

    def raise_(self, schedule: int, cell: str) -> int:
        """Write a new version; returns it. Processes and threads come one after the other, also where one is killed
        here: the kernel lets go of his lock.
        """
        place, lock = _ROOM * schedule + _PLACES[cell], self._lock()
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            version = self._versions[place] = self._versions[place] + 1
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
        return version

    def _lock(self) -> int:
        """A lock is the opened file's, so each thread opens its own, and a forked child another."""
        if getattr(self._local, "pid", 0) != os.getpid():
            self._local.file, self._local.pid = os.open(self._path, os.O_RDWR), os.getpid()
        found: int = self._local.file
        return found
