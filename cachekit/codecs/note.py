"""Notes: what an entry says to its readers instead of holding a value.

A note is stored like a value, behind an envelope and under the client flags of format 7; its first byte says what it
means::

    P   pass    the last result could not be stored: run the function, all at once, and don't wait for one another
    A   absent  a batch loader knows nothing of this id
    E   error   the function raised; what follows is the exception as plain data (see ``failure``)

Letters here are part of the wire format: they may be added to, never changed.
"""

from __future__ import annotations

from typing import Final

from cachekit.codecs.flags import ENVELOPED, NOTE, client_flags

NOTE_FLAGS: Final = client_flags(NOTE)
ENVELOPED_NOTE: Final = NOTE_FLAGS | ENVELOPED

PASS: Final = b"P"
ABSENT: Final = b"A"
ERROR: Final = b"E"
