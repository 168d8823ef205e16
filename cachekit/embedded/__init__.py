"""A Memcached in this process: the zero-set-up default, and the stand-in for a real server in tests.

It answers the bytes that ``cachekit.meta`` sends with the bytes that Memcached 1.6.18 would have answered, so that
codecs, leases, flows and policies run through the same code with and without a server. ``tests/contract/`` runs one
suite over both and finds them equal.

====================  ======================================================================
``server.py``         EmbeddedServer: cuts a request into commands, one lock round all of it
``meta_commands.py``  mg ms md ma me mn
``classic.py``        get set incr touch flush_all stats …
``writes.py``         what a store and an increment do to an item, for both of them
``store.py``          items, time, CAS numbers, memory
``digits.py``         numbers on a command line, read as C reads them
``wire.py``           error lines, command lines, data blocks
====================  ======================================================================

Where it differs from a real server, on purpose:

- Its clock does not tick in whole seconds: an item stored for 1 s lives 1 s. The remaining ttl is still told in whole
  seconds, rounded up, and compared as such with R, so ``R1`` never fires on a live item here either.
- One least-recently-used list within one byte budget, instead of slab classes with segmented lists; ``cls`` in ``me``
  is always 1. ``stats`` has no sub-statistics.
- ``flush_all`` frees the memory at once, a delayed one when the first command after the delay comes.
"""

from __future__ import annotations

from .server import EmbeddedServer

__all__ = ["EmbeddedServer"]
