"""Invalidations that a watcher sees: what is sent in place of ``md``, and beside ``md … I``, on a ring with
``watch=yes``.

``watch mutations`` shows a server's stores, also those that fail; deletes only from 1.6.20 on and only where something
was deleted, and a soft ``md … I`` never. Other processes may hold a value in their near tiers that the server has let
go of, so every invalidation has to show.

A **tombstone** stores nothing over what stands there, already expired: ``ms <key> 0 T-1 MR``. It is ``md`` in every
respect that matters, held by tests/test_tombstones.py: late stores under an old CAS number get NF or EX, the next
``mg … N`` makes a new item with a higher number and gives W, and where nothing stood nothing is made (NS). The reply
tells, as md's does, whether something was there.

A **notice** changes nothing and is shown all the same: a store under a CAS number that no item has.
"""

from __future__ import annotations

from typing import Final

from cachekit.meta import Reply, ms

NO_CAS: Final = 2**64 - 1
"""A CAS number that no item has: servers count up from 1, and ``Env.number`` makes numbers out of the time."""

_GONE: Final = ("HD", "NS", "NF")
_NO_MEMORY: Final = "SERVER_ERROR out of memory"


def tombstone(key: bytes, opaque: int | None = None) -> bytes:
    """Remove what stands under ``key``, visibly. protocol.txt, *Meta Set*: "MR: replace. Set only if item already
    exists", *Expiration times*: "If a negative value is given the item is immediately expired".
    """
    return ms(key, b"", b"T-1 MR" if opaque is None else b"T-1 MR O%d" % opaque)


def notice(key: bytes, opaque: int) -> bytes:
    """Show ``key`` to the watchers, and change nothing."""
    return ms(key, b"", b"C%d O%d" % (NO_CAS, opaque))


def is_gone(reply: Reply) -> bool:
    """Whether ``reply`` to a tombstone says that nothing older stands there any more. A server that has no memory for
    the tombstone removes the old value all the same (memcached's proto_text.c: "Avoid stale data persisting").
    """
    return reply.code in _GONE or (reply.code == "ERROR" and (reply.error or "").startswith(_NO_MEMORY))
