"""The accelerator of the near tier: what other processes store and delete is heard of in ``watch`` streams.

================  ====================================================================
``lines.py``      the lines of a stream, without I/O
``follower.py``   the thread that follows one server's stream
``registry.py``   ``Watch``: one cache's ear; and which followers this process has
================  ====================================================================

The promise stays ``near.ttl``. A stream only makes the near tier forget sooner, and is never trusted: memcached drops
lines where a burst fills its buffers, and shows no ``flush_all``. So whatever may have been missed is a **gap**, and
drops what the near tier keeps of that server: ``skipped=`` in the stream, a risen ``log_worker_dropped`` or
``cmd_flush`` in ``stats``, a stream that breaks or falls silent, and each one that begins.

**One thread per server**, whichever of this process's caches use it: a server has places for 20 watchers, and a slow
connect to one server must not hold up the others' streams. A thread holds two connections: the stream, and one to ask
over.

**Beats.** memcached's log thread polls, and its pauses grow while nothing comes, up to a second. A line every 50 ms
keeps it awake; so a stream that is silent for so long is given one, a notice (tombstones.py) about a key that nobody
has. Every watcher hears every beat, so twenty of them send hardly more than one. On an idle memcached 1.6.18 a line
then comes after 3 ms, and 99 of 100 within 10, in place of 133 and 436 (docs/design/watch/). A stream that shows no
beat is broken.
"""

from cachekit.watch.registry import Watch, watch_for

__all__ = ["Watch", "watch_for"]
