"""Look at entries without taking part in them: what stands there, for ``peek``, ``explain`` and ``many``.

Read by the classic ``gets`` and by ``me``, since every ``mg`` may take a lease away from a reader who would fill
(memcached's protocol.txt, "Meta Get", the W flag). That shows no flags: a soft invalidation can't be seen this way.
"""

from __future__ import annotations

from typing import Any

from cachekit import meta
from cachekit.codecs.envelope import Header
from cachekit.env import Env
from cachekit.errors import DecodeError, ServerError
from cachekit.meta import Reply
from cachekit.ops import BATCH_KEYS
from cachekit.policy import Judgement, Verdict
from cachekit.recipe import Recalled, Recipe
from cachekit.sync import bulk
from cachekit.sync.fleet import Fleet

_OLD = frozenset({Verdict.DUE, Verdict.THROTTLED})


class Sight:
    """What was found under some keys: a reply for each that has an entry, and the servers' failures."""

    def __init__(self, keys: list[bytes], recipe: Recipe, fleet: Fleet) -> None:
        self.found: dict[bytes, Reply] = {}
        self.errors: list[ServerError] = []
        self._recipe, self._ring = recipe, fleet.ring
        record = recipe.generations[0] if recipe.generations else None
        self._generations = bulk.fetch(keys, fleet, self._take, self._failed, b"gets", record)
        _tell_lifetimes(self.found, fleet)

    def _take(self, values: list[bulk.Found]) -> None:
        for key, flags, payload, cas in values:
            self.found[key] = Reply("VA", payload, key, cas, client_flags=flags)

    def _failed(self, _: int, error: ServerError) -> None:
        self.errors.append(error)

    def judge(self, key: bytes, now_s: float) -> Judgement:
        """The verdict on a key that was ``found``."""
        # A generation that is not there any more was bumped or lost: nothing under it can be trusted.
        numbers = self._generations.get(self._ring.index(key)) or None if self._recipe.generations else ()
        return self._recipe.judge(self.found[key], numbers, key, now_s)


def _tell_lifetimes(found: dict[bytes, Reply], fleet: Fleet) -> None:
    """Let each reply know for how many seconds its server keeps the item: −1 for ever, None where it does not say so.
    ``me`` echoes the key and takes no token; that it speaks of the same item, the CAS number tells.
    """
    groups: dict[int, list[bytes]] = {}
    for key in found:
        groups.setdefault(fleet.ring.index(key), []).append(key)
    for index, keys in groups.items():
        for at in range(0, len(keys), BATCH_KEYS):
            lot = keys[at : at + BATCH_KEYS]
            try:
                replies, _ = fleet.converse(index, b"".join([meta.me(key) for key in lot]), len(lot), None)
            except ServerError:
                break
            for key, told in zip(lot, replies, strict=True):
                words = (told.value or b"").split()
                if b"cas=%d" % (found[key].cas or 0) in words:
                    found[key].ttl = lifetime_in(words)


def lifetime_in(words: list[bytes]) -> int | None:
    """Seconds left of an item's life, out of the words of ``me``; −1 for ever, None where they don't say.

    1.6.18 prints them with the wrong sign, so that its −1 is never, but also the last second of a life.
    """
    for word in words:
        name, _, value = word.partition(b"=")
        if name == b"exp" and value.removeprefix(b"-").isdigit():
            return -1 if value == b"-1" else abs(int(value))
    return None


class Stored:
    """A value that is stored, or the failure that is; and its header."""

    __slots__ = ("error", "header", "value")

    def __init__(self, header: Header | None, value: Any = None, error: Exception | None = None) -> None:
        self.header, self.value, self.error = header, value, error

    def get(self) -> Any:
        """The value; raises the failure."""
        if self.error is not None:
            raise self.error
        return self.value


def stored(keys: list[bytes], recipe: Recipe, fleet: Fleet, env: Env, *, stale: bool = False) -> dict[bytes, Stored]:
    """What is fresh under those ``keys``, or may be served ``stale`` as well."""
    sight = Sight(keys, recipe, fleet)
    recipe.tally.errors += len(sight.errors)
    values: dict[bytes, Stored] = {}
    for key, reply in sight.found.items():
        judgement = sight.judge(key, env.now())
        if judgement.verdict is Verdict.FRESH or (stale and judgement.verdict in _OLD and judgement.servable()):
            try:
                values[key] = Stored(judgement.header, recipe.open(reply, judgement))
            except Recalled as recalled:
                values[key] = Stored(judgement.header, error=recalled.error)
            except DecodeError:
                recipe.tally.errors += 1
    return values
