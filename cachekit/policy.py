"""What is wanted of an entry, and what a reply means for it now. Pure: no I/O, takes ``now``.

The entry's own header judges, not the server's clock, which ticks in whole seconds: the header holds when the value was
made and for how long it is good, in milliseconds. The server's expiry is only the hard end behind it. Machines disagree
about the time of day, so the age by the header is clamped to the age that the server saw (its lifetime as stored, less
the ``t`` of the reply), give or take the second by which the server's clock may be off: no skew between two machines
can make old data young.

``judge`` turns a reply into one verdict::

    reply to ``mg <key> … N<stub>``                verdict     what the flow does
    ---------------------------------------------  ----------  ------------------------------------------------
    value, young enough, its generations current   FRESH       return it
    value, older than its ttl                      EXPIRED     void it, one reader gets the lease
    value, a generation has moved on               VOID        void it, one reader gets the lease
    value, a generation lower than the entry's     AHEAD       read again
    value that is not an entry of this key         GARBAGE     void it, one reader gets the lease
    empty, W                                       MINE        run, store under this reply's CAS
    empty, Z or no flag                            BUSY        wait
    EN despite N, or an error                      NO_LEASE    run, store nothing

Sources: the lease and its token as in "Scaling Memcache at Facebook" (NSDI 2013) §3.2.1; the W, Z and X flags as in
memcached's protocol.txt, "Meta Get".
"""

# Annotations are not postponed here: a NamedTuple would compile each of them as text (docs/design/imports.md).

from enum import Enum
from typing import Any, Final, NamedTuple

from cachekit.codecs import Registry, resolve
from cachekit.codecs.envelope import FOREVER, Header, open_envelope
from cachekit.errors import ConfigurationError, DecodeError
from cachekit.expiry import parse_ttl
from cachekit.frozen import Frozen
from cachekit.meta import Reply


class _Unset(Enum):
    UNSET = "UNSET"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = _Unset.UNSET

LIBRARY: Final[dict[str, Any]] = {
    "ttl": 300.0,
    "jitter": 0.0,
    "codec": None,
    "group": True,
    "lease": 10.0,
}
"""What holds when neither the decorator nor the cache says otherwise."""

STUBS_PER_LEASE = 3
"""A stub outlives the lease that it stands for, so that its age (stub − t) can be read off it."""


class Policy(Frozen, kw_only=True):
    """How entries are kept; a frozen value to name and share. A field left out falls through to the next in line:
    keyword > the decorator's policy > the cache's policy > the library.

    Args:
        ttl: how long a value is fresh: seconds, ``timedelta``, ``"5m"``, ``None`` (forever), a schedule of
            ``cachekit.expiry``, or a callable of the result that returns one of these. 0 runs the function and stores
            nothing.
        jitter: the share of the ttl (0 to below 1) by which it is shortened at random, so that entries made together
            don't end together.
        codec: name of a codec, or a codec.
        group: whether ``invalidate_all`` works; False saves the function's generation on every hit.
        lease: seconds after which a fill that has not ended may be taken over by another caller.
    """

    ttl: Any = UNSET
    jitter: Any = UNSET
    codec: Any = UNSET
    group: Any = UNSET
    lease: Any = UNSET

    def __post_init__(self) -> None:
        if self.ttl is not UNSET:
            parse_ttl(self.ttl)
        if self.codec is not UNSET and self.codec is not None:
            resolve(self.codec, registry=Registry())
        if self.jitter is not UNSET and not (_is_number(self.jitter) and 0 <= self.jitter < 1):
            raise ConfigurationError(
                f"jitter={self.jitter!r}: a number from 0 to below 1, the share of the ttl to vary by"
            )
        if self.lease is not UNSET and not (_is_number(self.lease) and 1 <= self.lease <= 86_400):
            raise ConfigurationError(f"lease={self.lease!r}: seconds from 1 to 86400")
        if self.group is not UNSET and not isinstance(self.group, bool):
            raise ConfigurationError(f"group={self.group!r}: True or False")

    def over(self, base: "Policy") -> "Policy":
        """This policy with the fields that it leaves open taken from ``base``."""
        return base._replace(**{name: value for name, value in self.__dict__.items() if value is not UNSET})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


DEFAULTS: Final = Policy(**LIBRARY)


class Verdict(Enum):
    """What a reply means now; see the table at the head of this module."""

    FRESH = "fresh"
    EXPIRED = "expired"
    VOID = "invalidated"
    AHEAD = "ahead"
    GARBAGE = "garbage"
    MINE = "absent"
    BUSY = "being filled"
    NO_LEASE = "no lease"


class Judgement(NamedTuple):
    """A verdict, and the entry that it was passed on: its header, and where its payload begins in the value."""

    verdict: Verdict
    header: Header | None = None
    payload_at: int = 0


def judge(reply: Reply, generations: tuple[int, ...] | None, key: bytes, now_s: float) -> Judgement:
    """What ``reply`` to a read of ``key`` means at ``now_s``.

    Args:
        generations: the numbers that hold now on the value's own server, or None where they could not be read: then
            nothing stored can be trusted.
        now_s: seconds since the epoch, of this machine.
    """
    if reply.code != "VA" or reply.value is None:
        return Judgement(Verdict.NO_LEASE)
    if not reply.value and not reply.client_flags:
        return Judgement(Verdict.MINE if reply.won else Verdict.BUSY)
    try:
        header, payload_at = open_envelope(reply.value)
    except DecodeError:
        return Judgement(Verdict.GARBAGE)
    if header.fingerprint != key[-16:]:
        return Judgement(Verdict.GARBAGE)
    verdict = _compare(header.generations, generations)
    if verdict is Verdict.FRESH and reply.stale:
        verdict = Verdict.VOID
    if verdict is Verdict.FRESH and header.ttl_ms != FOREVER and age_ms(header, reply.ttl, now_s) >= header.ttl_ms:
        verdict = Verdict.EXPIRED
    return Judgement(verdict, header, payload_at)


def _compare(entry: tuple[int, ...], now: tuple[int, ...] | None) -> Verdict:
    """Equal: valid. Lower than now: void. Higher than what was just read: this read is the older one, so read again."""
    if entry == now:
        return Verdict.FRESH
    if now is None or len(entry) != len(now) or any(was < is_now for was, is_now in zip(entry, now, strict=True)):
        return Verdict.VOID
    return Verdict.AHEAD


def age_ms(header: Header, server_ttl_s: int | None, now_s: float) -> float:
    """Milliseconds since the value was made, by its header, clamped to what the server saw (± its 1 s clock).

    A server that will keep the item for longer than it was stored for was told so since, by a ``touch``; then it knows
    nothing of the age.

    Args:
        server_ttl_s: the reply's ``t``: seconds that the server will still keep the item; None or −1: not known.
    """
    age = now_s * 1000.0 - header.created_ms
    if header.hard_s and server_ttl_s is not None and 0 <= server_ttl_s <= header.hard_s:
        seen = (header.hard_s - server_ttl_s) * 1000.0
        age = min(max(age, seen - 1000.0), seen + 1000.0)
    return max(age, 0.0)


def lease_age_s(reply: Reply, stub_s: int) -> float:
    """How many seconds ago the stub of ``reply`` was made; 0.0 where that can't be told."""
    return float(stub_s - reply.ttl) if reply.ttl is not None and reply.ttl >= 0 else 0.0
