"""What is wanted of an entry, and what a reply means for it now. Pure: no I/O, takes ``now``.

**The header judges.** The server's clock ticks in whole seconds and its ``R`` fires up to a second off, so the entry's
own header says when the value was made, for how long it is fresh, and for how long after that it may still be served,
all in milliseconds. The server's expiry is only the hard end behind it. Machines disagree about the time of day, so the
age by the header is clamped to the age that the server saw (its lifetime as stored, less the ``t`` of the reply), give
or take the second by which the server's clock may be off: no skew between two machines can make old data young.

::

    0            0.8 ttl       ttl               ttl + stale         ttl + stale + stale_if_error
    |  fresh     |  perhaps early  |  served while one  |  served only where the  |  waits for the one
    |            |                 |  caller refreshes  |  function has failed    |  who refreshes

**Early refresh** is XFetch ("Optimal Probabilistic Cache Stampede Prevention", PVLDB 8(8), 2015): a reader finds the
entry due when ``age + β·δ·Exp(1) ≥ ttl``, with δ the running time of the fill. The optimal draw is exponential: among
many readers one comes, on average, about δ before the end, and a function that takes long is begun early. What is added
is capped at a fifth of the ttl, so that a δ measured on a bad day does not turn every read into a refresh.

**The claim.** XFetch lets every reader draw for himself, so several may find the entry due. Whoever does asks the
server for the right to refresh: ``mg … R2147483647`` gives the W flag to exactly one, until the item is stored again
(protocol.txt, "Meta Get": W, Z and X). It is the lease of "Scaling Memcache at Facebook" (NSDI 2013, §3.2.1), whose
token is the item's CAS number. A plain hit never asks.

**Stale while it refreshes, stale if it fails**: RFC 5861, §3 and §4.

``judge`` turns a reply into one verdict::

    reply to ``mg <key> … N<stub>``                verdict     what the flow does
    ---------------------------------------------  ----------  ------------------------------------------------
    value, fresh                                   FRESH       return it (a W that came with it: give it back)
    value, early or past its ttl, no Z             DUE         claim it; the winner refreshes
    value, not fresh, W (with or without X)        WON         refresh, store under this reply's CAS
    value, not fresh, Z (with or without X)        CLAIMED     serve it within stale; else wait
    value, not fresh, a refresh failed just now    THROTTLED   serve it, try again later
    a pass marker, fresh                           PASS        run beside the others, store if it can be stored now
    value, a generation has moved on               VOID        void it, one reader gets the lease
    value, and that may have been a soft bump      CLOSER      ask how far it reaches
    value, a generation was bumped softly          SOFT        mark it; one reader refreshes, the others are served
    value, a generation lower than the entry's     AHEAD       read again
    value that is not an entry of this key         GARBAGE     void it, one reader gets the lease
    empty, W (with or without X)                   MINE        run, store under this reply's CAS
    empty, Z, Z X or no flag                       BUSY        wait
    EN despite N, or an error                      NO_LEASE    run, store nothing
"""

# Annotations are not postponed here: a NamedTuple would compile each of them as text (docs/design/imports.md).

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from cachekit.checks import CHECKS, contradiction, span_of
from cachekit.codecs.envelope import Header, open_envelope
from cachekit.codecs.note import ENVELOPED_NOTE, PASS
from cachekit.errors import ConfigurationError, DecodeError
from cachekit.expiry import Schedule, SpanLike, TtlLike, parse_span, parse_ttl
from cachekit.frozen import Frozen
from cachekit.generations import Generations
from cachekit.meta import Reply
from cachekit.types import UNSET, Unset

if TYPE_CHECKING:
    from cachekit.near.option import Near

LIBRARY: Final[dict[str, Any]] = {
    "ttl": 300.0,
    "stale": 0.0,
    "stale_if_error": 0.0,
    "throttle": 5.0,
    "refresh": "inline",
    "soft_timeout": None,
    "beta": None,
    "jitter": 0.0,
    "sliding": False,
    "cache_if": None,
    "errors": (),
    "error_ttl": 10.0,
    "codec": None,
    "group": True,
    "inherit": True,
    "lease": 10.0,
    "near": None,
}
"""What holds when neither the decorator nor the cache says otherwise."""

STUBS_PER_LEASE: Final = 3
STUB_S: Final = 300
"""A stub outlives the lease that it stands for by far, so that its age (stub − t) can be read off it, and so that a
function slower than its lease still finds its stub when it is done. Whoever waits for a dead filler need not wait for
its end: there is the take-over."""

EARLIEST: Final = 0.2
"""The last share of the ttl, in which an entry may be found due early."""

CERTAIN: Final = 1e12
"""An eagerness that finds due whatever may be found due early."""


class Policy(Frozen, kw_only=True):
    """How entries are kept; a frozen value to name and share. A field left out falls through to the next in line:
    keyword > the decorator's policy > the cache's policy > the library.

    Spans of time are seconds, ``timedelta`` or text such as ``"5m"``.

    Args:
        ttl: how long a value is fresh, 300 s by default: a span, ``None`` (forever), a schedule of ``cachekit.expiry``,
            or a callable of the result that returns one of these. 0 runs the function and stores nothing.
        stale: a span, 0 by default; how long after its ttl a value may still be served while one caller refreshes it
            (RFC 5861).
        stale_if_error: a span, 0 by default; how long after that it may be served where the function fails.
        throttle: a span, 5 s by default; after a failed refresh nobody tries again for so long while the old value may
            be served.
        refresh: ``"inline"``, the default: the one caller who refreshes runs the function himself, the others are
            served; ``"background"``: he is served too, and a thread of a small pool runs it.
        soft_timeout: a span; with a stale value in hand, how long to wait for a fresh one before serving the stale one.
            The run goes on. None, the default: wait for it.
        beta: how early a value is refreshed before its ttl ends, by chance and by how long the function takes (XFetch);
            1 by default, 0 where ``stale`` is set, and with a schedule or ``sliding``. 0: never early.
        jitter: the share of the ttl (0 to below 1) by which it is shortened at random, so that entries made together
            don't end together.
        sliding: whether each use of a value lets it live for its whole ttl again.
        cache_if: a predicate on the result; false: the result is returned and not stored.
        errors: exception classes that are answers: they are cached for ``error_ttl`` and raised again.
        error_ttl: a span, 10 s by default; how long such a failure is fresh.
        codec: name of a codec, or a codec.
        group: whether ``invalidate_all`` works, as it does by default; False saves the function's generation on every
            hit.
        inherit: whether an entry also stands under what the cached calls inside of its function stood under, as it does
            by default. False saves the second round trip that such an entry's hits take, and allows calls of functions
            of other caches inside; to invalidate what they stand under does not reach this entry then: it serves
            what they gave until its own ttl ends.
        lease: a span from 1 s to a day, 10 s by default, after which a fill that has not ended may be taken over by
            another caller.
        near: a span or a ``Near``, None by default; for how long a result is also kept in the memory of this process,
            and served from there without asking its server.

    Raises ``ConfigurationError`` for a value that means nothing and for options that contradict one another.
    """

    ttl: "TtlLike | Unset" = UNSET
    stale: "SpanLike | Unset" = UNSET
    stale_if_error: "SpanLike | Unset" = UNSET
    throttle: "SpanLike | Unset" = UNSET
    refresh: "Literal['inline', 'background'] | Unset" = UNSET
    soft_timeout: "SpanLike | Unset | None" = UNSET
    beta: "float | Unset | None" = UNSET
    jitter: "float | Unset" = UNSET
    sliding: "bool | Unset" = UNSET
    cache_if: "Callable[[Any], object] | Unset | None" = UNSET
    errors: "tuple[type[Exception], ...] | Unset" = UNSET
    error_ttl: "SpanLike | Unset" = UNSET
    codec: Any = UNSET
    group: "bool | Unset" = UNSET
    inherit: "bool | Unset" = UNSET
    lease: "SpanLike | Unset" = UNSET
    near: "Near | SpanLike | Unset | None" = UNSET

    if not TYPE_CHECKING:

        def __init__(self, *args, **fields):
            if args or (unknown := [name for name in fields if name not in self._fields]):
                raise ConfigurationError(_misspelt(args[0]) if args else _unknown(unknown[0]))
            super().__init__(**fields)

    def __post_init__(self) -> None:
        for name, check in CHECKS.items():
            value = getattr(self, name)
            if value is not UNSET:
                check(name, value)
        contradiction(self, self)

    def over(self, base: "Policy") -> "Policy":
        """This policy with the fields that it leaves open taken from ``base``."""
        said = {name: value for name, value in self.__dict__.items() if value is not UNSET}
        return _unchecked({**base.__dict__, **said})

    def __repr__(self) -> str:
        said = [f"{name}={value!r}" for name, value in self.__dict__.items() if value is not UNSET]
        return f"Policy({', '.join(said)})"


def _misspelt(given: object) -> str:
    return f"Policy({given!r}): its fields are given by name, such as Policy(ttl='5m')"


def _unknown(name: str) -> str:
    """What to write instead of a field that no policy has."""
    from difflib import get_close_matches  # noqa: PLC0415 - for this hint only, and slow to load

    if name in ("key", "ignore", "namespace", "version", "tags"):
        return f"Policy has no {name}=: that is the decorator's, @cache({name}=…)"
    near = get_close_matches(name, Policy._fields, n=1)
    return f"Policy has no {name}=; " + (f"did you mean {near[0]}=?" if near else f"it has {', '.join(Policy._fields)}")


def _unchecked(fields: dict[str, Any]) -> Policy:
    """A policy of ``fields`` that were checked one by one. Together they may contradict: a cache's policy speaks for
    many functions.
    """
    policy = object.__new__(Policy)
    policy.__dict__.update(fields)
    return policy


DEFAULTS: Final = _unchecked(LIBRARY)


class Terms(Frozen):
    """What a policy comes to for one function: every span in seconds, every default chosen."""

    stale_s: float = 0.0
    stale_if_error_s: float = 0.0
    throttle_s: float = 5.0
    background: bool = False
    soft_timeout_s: float | None = None
    beta: float = 0.0
    sliding: bool = False
    cache_if: Any = None
    errors: tuple[type[Exception], ...] = ()
    error_ttl_s: float = 10.0
    inherit: bool = True


def terms_of(policy: Policy) -> Terms:
    """The terms in a ``policy`` that leaves nothing open."""
    chosen: Any = policy
    stale_s, ttl = parse_span("stale", chosen.stale), parse_ttl(chosen.ttl)
    # With stale > 0 nobody waits at the end of the ttl; a schedule means its very moment; sliding puts the end off.
    calm = stale_s > 0 or isinstance(ttl, Schedule) or chosen.sliding
    return Terms(
        stale_s=stale_s,
        stale_if_error_s=parse_span("stale_if_error", chosen.stale_if_error),
        throttle_s=parse_span("throttle", chosen.throttle),
        background=chosen.refresh == "background",
        soft_timeout_s=span_of(chosen.soft_timeout),
        beta=float((0.0 if calm else 1.0) if chosen.beta is None else chosen.beta),
        sliding=chosen.sliding,
        cache_if=chosen.cache_if,
        errors=chosen.errors,
        error_ttl_s=parse_span("error_ttl", chosen.error_ttl),
        inherit=chosen.inherit,
    )


class Verdict(Enum):
    """What a reply means now; see the table at the head of this module."""

    FRESH = "fresh"
    DUE = "expired"
    WON = "won"
    CLAIMED = "being refreshed"
    THROTTLED = "throttled"
    PASS = "pass"
    VOID = "invalidated"
    CLOSER = "looked at closer"
    SOFT = "expired by hand"
    AHEAD = "ahead"
    GARBAGE = "garbage"
    MINE = "absent"
    BUSY = "being filled"
    NO_LEASE = "no lease"


STANDS: Final = frozenset(
    {Verdict.FRESH, Verdict.DUE, Verdict.WON, Verdict.CLAIMED, Verdict.THROTTLED, Verdict.PASS, Verdict.SOFT}
)
"""Verdicts on an entry that is not void."""


class Judgement(NamedTuple):
    """A verdict, and the entry that it was passed on: its header, where its payload begins in the value, and its age
    in milliseconds at that time.
    """

    verdict: Verdict
    header: Header | None = None
    payload_at: int = 0
    age_ms: float = 0.0

    def servable(self, later_s: float = 0.0) -> bool:
        """Whether the value may be served ``later_s`` seconds after the judgement, fresh or stale, to whoever asks."""
        header = self.header
        return header is not None and self.age_ms + later_s * 1000.0 < header.ttl_ms + header.stale_ms

    def rescues(self, later_s: float = 0.0) -> bool:
        """Whether the value may be served then in place of a run that failed or takes too long."""
        header = self.header
        horizon = 0 if header is None else header.ttl_ms + header.stale_ms + header.stale_if_error_ms
        return self.age_ms + later_s * 1000.0 < horizon


def judge(
    reply: Reply, generations: tuple[int, ...] | None, key: bytes, now_s: float, eagerness: float = 0.0
) -> Judgement:
    """What ``reply`` to a read of ``key`` means at ``now_s``.

    Args:
        generations: the numbers that hold now on the value's own server, or None where they could not be read: then
            nothing stored can be trusted.
        now_s: seconds since the epoch, of this machine.
        eagerness: this reader's draw for an early refresh, ``β·Exp(1)``; 0.0: none.
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
    age = age_ms(header, reply.ttl, now_s)
    verdict = compare(header.generations, generations)
    passing = reply.client_flags == ENVELOPED_NOTE and reply.value.startswith(PASS, payload_at)
    if verdict is Verdict.FRESH:
        verdict = _freshness(reply, header, age, eagerness)
        if verdict is Verdict.FRESH and passing:
            verdict = Verdict.PASS
    elif verdict is Verdict.SOFT:
        verdict = Verdict.VOID if passing else softened(reply, header, age)
    return Judgement(verdict, header, payload_at, age)


def softened(reply: Reply, header: Header, age: float) -> Verdict:
    """The verdict on an entry one of whose generations was bumped softly. ``age`` in milliseconds."""
    if reply.won:
        return Verdict.WON
    if reply.stale and reply.claimed:
        return Verdict.CLAIMED
    # A claim from before the bump is no good: that run began under the old generation.
    return Verdict.THROTTLED if _throttled(header, age) else Verdict.SOFT


def _throttled(header: Header, age: float) -> bool:
    return age < header.retry_ms and age < header.ttl_ms + header.stale_ms + header.stale_if_error_ms


def _freshness(reply: Reply, header: Header, age: float, eagerness: float) -> Verdict:
    """The verdict on an entry whose generations hold. ``age`` in milliseconds."""
    ttl = header.ttl_ms
    if age < ttl and not reply.stale:
        early = min(eagerness * header.delta_us / 1000.0, EARLIEST * ttl)
        if reply.claimed or age + early < ttl:
            return Verdict.FRESH
    if reply.won:
        return Verdict.WON
    if reply.claimed:
        return Verdict.CLAIMED
    return Verdict.THROTTLED if _throttled(header, age) else Verdict.DUE


def compare(entry: tuple[int, ...], now: tuple[int, ...] | None) -> Verdict:
    """Equal: valid. Lower than now: void, softly where every bump since was soft. Higher than what was just read: this
    read is the older one, so read again.

    Which numbers came after the last hard bump is told one by one and not by the first of them: numbers that clients
    give go by their clocks, so one from before it may be the higher.
    """
    if entry == now:
        return Verdict.FRESH
    if now is None or len(entry) != len(now):
        return Verdict.VOID
    softly = now.softly if isinstance(now, Generations) else ((),) * len(now)
    moved = [each for each in zip(entry, now, softly, strict=True) if each[0] != each[1]]
    hard = [(was, is_now) for was, is_now, soft in moved if soft is not None and was not in soft]
    if hard:
        return Verdict.VOID if any(was < is_now for was, is_now in hard) else Verdict.AHEAD
    return Verdict.CLOSER if any(soft is None for _, _, soft in moved) else Verdict.SOFT


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
        # A value that slid was stored again, and its age at that time was rounded to a second as well.
        slack = 2000.0 if header.slide_ms else 1000.0
        age = min(max(age, seen - slack), seen + slack)
    return max(age, 0.0)


def lease_age_s(reply: Reply, stub_s: int) -> float:
    """How many seconds ago the stub of ``reply`` was made; 0.0 where that can't be told."""
    return float(stub_s - reply.ttl) if reply.ttl is not None and reply.ttl >= 0 else 0.0
