"""How the entries of one function are read, judged, opened and sealed: everything about them that no call changes.

Two kinds of entry share the flows. A cached function's value travels behind an envelope that judges its freshness; a
direct verb's value (``get_or_set``) is plain, so that other programs can read it, and is fresh as long as the server
keeps it.
"""

# Annotations are not postponed here: a NamedTuple would compile each of them as text (docs/design/imports.md).

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from cachekit import meta
from cachekit.codecs import Packer
from cachekit.codecs.envelope import FOREVER, Header, seal, seal_one
from cachekit.codecs.flags import ENVELOPED
from cachekit.errors import DecodeError
from cachekit.expiry import Ttl, exptime, lifetime_s
from cachekit.meta import Reply
from cachekit.policy import STUBS_PER_LEASE, Judgement, Verdict, judge
from cachekit.tally import Tally

_U32_MAX = 2**32 - 1
_UNGROUPED = (0,)
"""What stands in the header of an entry over which no generation was asked."""


class Snapshot(NamedTuple):
    """What an entry is valid under: the generations, read before the function ran, and when it ended (seconds since
    1970).
    """

    generations: tuple[int, ...]
    created_s: float


class Recipe:
    """One function's (or one direct key's) way of keeping entries.

    Args:
        name: the function's readable name, for events and logs.
        generations: wire keys of the generation records that stand over every entry; asked in the value's own write.
        lease_s: seconds after which a fill may be taken over.
        enveloped: whether values travel behind a header.
        max_value_bytes: longest value, envelope included, that the servers take.
    """

    __slots__ = (
        "enveloped", "generations", "jitter", "lease_s", "max_value_bytes", "name",
        "packer", "read_template", "steady", "stub_s", "tally", "ttl", "warned",
    )  # fmt: skip

    def __init__(
        self,
        *,
        name: str,
        packer: Packer,
        ttl: Ttl,
        jitter: float = 0.0,
        lease_s: float = 10.0,
        generations: tuple[bytes, ...] = (),
        enveloped: bool = True,
        max_value_bytes: int = 1 << 20,
        tally: Tally | None = None,
    ) -> None:
        self.name = name
        self.packer = packer
        self.ttl = ttl
        self.jitter = jitter
        self.lease_s = lease_s
        self.generations = generations
        self.enveloped = enveloped
        self.max_value_bytes = max_value_bytes
        self.tally = tally if tally is not None else Tally()
        self.warned: set[str] = set()
        # What follows from a ttl that is the same number for every entry, and never sent as a date.
        steady = isinstance(ttl, float) and not jitter and 0 < ttl <= 86_400
        self.steady = _times(ttl, 0.0) if steady and isinstance(ttl, float) else None
        self.stub_s = math.ceil(lease_s) * STUBS_PER_LEASE
        asked = [b"mg %%b c f t v N%d O%%d\r\n" % self.stub_s]
        asked += [b"mg %b c N0 O%%d\r\n" % key.replace(b"%", b"%%") for key in generations]
        self.read_template = b"".join(asked)

    def read(self, key: bytes, opaque: int) -> bytes:
        """The read of ``key`` with its lease, and of the generations over it: one write, ``1 + len(generations)``
        replies.
        """
        return self.read_template % (key, opaque, *(opaque,) * len(self.generations))

    def judge(self, reply: Reply, generations: tuple[int, ...] | None, key: bytes, now_s: float) -> Judgement:
        """What ``reply`` means at ``now_s`` (seconds since the epoch)."""
        if self.enveloped:
            return judge(reply, _UNGROUPED if generations == () else generations, key, now_s)
        if reply.code != "VA" or reply.value is None:
            return Judgement(Verdict.NO_LEASE)
        if reply.value or reply.client_flags:
            return Judgement(Verdict.FRESH)
        return Judgement(Verdict.MINE if reply.won else Verdict.BUSY)

    def open(self, reply: Reply, judgement: Judgement) -> Any:
        """The value in ``reply``. Raises ``DecodeError``."""
        flags = reply.client_flags or 0
        data = reply.value or b""
        if not self.enveloped:
            if flags & ENVELOPED:
                raise DecodeError("a function's entry is no plain value")
            return self.packer.unpack(flags, data)
        if not flags & ENVELOPED:
            raise DecodeError("an entry without the flag of an enveloped value")
        return self.packer.unpack(flags & ~ENVELOPED, data[judgement.payload_at :])

    def seal(
        self, key: bytes, packed: tuple[int, bytes], lifetime_s: float | None, snapshot: Snapshot, seconds: float
    ) -> tuple[int, bytes, int]:
        """Client flags, data and exptime of the entry to store.

        ``lifetime_s``: seconds that the value is fresh, None for ever. ``seconds``: running time of the fill.
        """
        flags, payload = packed
        if not self.enveloped:
            return flags, payload, exptime(lifetime_s, snapshot.created_s)
        generations, created_s = snapshot
        if self.steady is not None and lifetime_s == self.ttl:
            ttl_ms, hard_s, until = self.steady
        else:
            ttl_ms, hard_s, until = _times(lifetime_s, created_s)
        own, created_ms, delta_us = key[-16:], int(created_s * 1000), int(seconds * 1e6)
        if len(generations) < 2:
            generation = generations[0] if generations else 0
            return flags | ENVELOPED, seal_one(own, created_ms, ttl_ms, hard_s, delta_us, generation, payload), until
        header = Header(own, created_ms, ttl_ms, hard_s=hard_s, delta_us=delta_us, generations=generations)
        return flags | ENVELOPED, seal(header, payload), until

    def pack(
        self, value: Any, now: Callable[[], float], random: Callable[[], float]
    ) -> tuple[tuple[int, bytes] | None, float | None, str]:
        """The packed value, its lifetime in seconds (None: for ever), and why it can't be stored ("" where it can).

        Encoders and ttl callables are users' code: whatever they raise, the caller still gets his result.
        """
        try:
            packed = self.packer.pack(value)
        except Exception as error:  # noqa: BLE001
            # Only the type: the error's own text shows where in the value it sits, and logs and events carry no values.
            name = getattr(error, "type_name", None) or type(value).__qualname__
            return (
                None,
                None,
                f"unencodable: {name} can't be carried without loss; cache.register() it or return plain data",
            )
        try:
            lifetime = self.lifetime(value, now(), random)
        except Exception as error:  # noqa: BLE001
            return packed, None, f"no ttl: its function raised {type(error).__name__}"
        return packed, lifetime, "ttl 0" if lifetime == 0 else ""

    def lifetime(self, value: Any, now_s: float, random: Callable[[], float]) -> float | None:
        """Seconds that ``value``, made now, is fresh; None: for ever. Raises what a ttl callable of the user's
        raises.
        """
        if self.steady is not None:
            return self.ttl  # type: ignore[return-value]
        return lifetime_s(self.ttl, now=now_s, result=value, jitter=self.jitter, random=random)


def _times(lifetime_s: float | None, created_s: float) -> tuple[int, int, int]:
    """The header's ttl in ms and hard end in s, and the exptime for the server.

    The hard end is one second more than the ttl: the server's clock ticks in whole seconds and must not end a value
    before its header does.
    """
    if lifetime_s is None:
        return FOREVER, 0, 0
    hard_s = math.ceil(lifetime_s) + 1
    return int(lifetime_s * 1000), min(hard_s, _U32_MAX), exptime(hard_s, created_s)


def numbers(replies: list[Reply]) -> tuple[int, ...] | None:
    """The generations in the replies to a read, or None where one could not be had."""
    found = tuple(reply.cas for reply in replies if reply.code == "HD" and reply.cas is not None)
    return found if len(found) == len(replies) else None


def store_request(key: bytes, sealed: tuple[int, bytes, int], cas: int, opaque: int) -> bytes:
    """Store under ``cas``, and only under it: what was invalidated or filled meanwhile stays as it is."""
    flags, data, until = sealed
    # Like meta.ms, whose checks a key of our own making and five numbers don't need: this is on every miss's way.
    return b"ms %b %d C%d F%d T%d O%d\r\n%b\r\n" % (key, len(data), cas, flags, until, opaque, data)


def give_back_request(key: bytes, cas: int, opaque: int) -> bytes:
    """Remove what stands under ``cas``, so that the next reader may fill."""
    return meta.md(key, b"C%d O%d" % (cas, opaque))


def take_over_request(key: bytes, lease_s: float, opaque: int) -> bytes:
    """Ask for the second-level lease: who adds this small item first may fill in place of a dead or slow winner."""
    # A second more than the lease: by the server's clock T1 may be over after 0.07 s, and a second heir would run.
    return meta.ms(key[:249] + b"!", b"1", b"ME T%d O%d" % (math.ceil(lease_s) + 1, opaque))
