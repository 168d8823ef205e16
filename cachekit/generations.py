"""What is read of the records that stand over an entry: the numbers that hold now, and what a soft bump leaves.

Behind each function, tag and namespace there is a record on every server, whose CAS number is the *generation*
(``keys/tags.py`` has their names, ``flows/tell.py`` bumps them). ``policy.compare`` holds an entry's own numbers to
what is read here.
"""

from __future__ import annotations

from cachekit.meta import Reply

_LONGEST_NUMBER = 20

_SOFT_BUMPS = 16
"""So many soft bumps in a row leave an entry to be served."""


class Generations(tuple[int, ...]):
    """The numbers that stand over an entry, where not every record's last bump was a hard one.

    ``softly``: for each record the numbers under which entries are void only softly: none after a hard bump; None after
    a soft one where they were not asked for.
    """

    softly: tuple[tuple[int, ...] | None, ...]


def numbers(replies: list[Reply]) -> tuple[int, ...] | None:
    """The generations in the replies to a read, or None where one could not be had."""
    found: list[int] = []
    hard = True
    for reply in replies:
        if reply.cas is None or reply.code not in ("HD", "VA"):
            return None
        found.append(reply.cas)
        hard = hard and (reply.claimed or reply.won)
    if hard:
        return tuple(found)
    generations = Generations(found)
    generations.softly = tuple(map(softly_void, replies))
    return generations


def softly_void(reply: Reply) -> tuple[int, ...] | None:
    """The numbers under which entries are only softly void, by what was read of a record; None: they were not asked
    for.

    A record that its reader made has W or Z for as long as it stands, so its last bump was a hard one, which deletes
    it. A soft bump stores it, and in it the numbers that it has had since the last hard one; storing takes W and Z off
    (protocol.txt, Meta Get).
    """
    if reply.claimed or reply.won:
        return ()
    if reply.code == "HD":
        return None
    words = (reply.value or b"").split(b" ")
    return tuple(map(int, words)) if all(map(_is_number, words)) else ()


def softened_record(reply: Reply) -> bytes:
    """What a soft bump leaves in the record that ``reply`` shows: the numbers under which entries are void only softly
    from then on. Those under still older ones are as after a hard bump.
    """
    kept = (*(softly_void(reply) or ()), reply.cas or 0)[-_SOFT_BUMPS:]
    return b" ".join([b"%d" % number for number in kept])


def _is_number(word: bytes) -> bool:
    return word.isdigit() and len(word) <= _LONGEST_NUMBER
