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
    value, a generation lower than the entry's     AHEAD       read again
    value that is not an entry of this key         GARBAGE     void it, one reader gets the lease
    empty, W (with or without X)                   MINE        run, store under this reply's CAS
    empty, Z, Z X or no flag                       BUSY        wait
    EN despite N, or an error                      NO_LEASE    run, store nothing
"""

# Annotations are not postponed here: a NamedTuple would compile each of them as text (docs/design/imports.md).

from enum import Enum
from typing import Any, Final, NamedTuple

from cachekit.codecs import Registry, resolve
from cachekit.codecs.envelope import Header, open_envelope
from cachekit.codecs.note import ENVELOPED_NOTE, PASS
from cachekit.errors import ConfigurationError, DecodeError
from cachekit.expiry import Schedule, is_coroutine_function, parse_span, parse_ttl
from cachekit.frozen import Frozen
from cachekit.meta import Reply


class Unset(Enum):
    """The type of ``UNSET``: not said."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET

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
    "lease": 10.0,
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
        ttl: how long a value is fresh: a span, ``None`` (forever), a schedule of ``cachekit.expiry``, or a callable of
            the result that returns one of these. 0 runs the function and stores nothing.
        stale: a span; how long after its ttl a value may still be served while one caller refreshes it (RFC 5861).
        stale_if_error: a span; how long after that it may be served where the function fails.
        throttle: a span; after a failed refresh nobody tries again for so long while the old value may be served.
        refresh: ``"inline"``: the one caller who refreshes runs the function himself, the others are served;
            ``"background"``: he is served too, and a thread of a small pool runs it.
        soft_timeout: a span; with a stale value in hand, how long to wait for a fresh one before serving the stale one.
            The run goes on. None: wait for it.
        beta: how early a value is refreshed before its ttl ends, by chance and by how long the function takes (XFetch);
            1 by default, 0 where ``stale`` is set, and with a schedule or ``sliding``. 0: never early.
        jitter: the share of the ttl (0 to below 1) by which it is shortened at random, so that entries made together
            don't end together.
        sliding: whether each use of a value lets it live for its whole ttl again.
        cache_if: a predicate on the result; false: the result is returned and not stored.
        errors: exception classes that are answers: they are cached for ``error_ttl`` and raised again.
        error_ttl: a span; how long such a failure is fresh.
        codec: name of a codec, or a codec.
        group: whether ``invalidate_all`` works; False saves the function's generation on every hit.
        lease: a span from 1 s to a day, after which a fill that has not ended may be taken over by another caller.

    Raises ``ConfigurationError`` for a value that means nothing and for options that contradict one another.
    """

    ttl: Any = UNSET
    stale: Any = UNSET
    stale_if_error: Any = UNSET
    throttle: Any = UNSET
    refresh: Any = UNSET
    soft_timeout: Any = UNSET
    beta: Any = UNSET
    jitter: Any = UNSET
    sliding: Any = UNSET
    cache_if: Any = UNSET
    errors: Any = UNSET
    error_ttl: Any = UNSET
    codec: Any = UNSET
    group: Any = UNSET
    lease: Any = UNSET

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            if value is not UNSET:
                check(name, value)
        contradiction(self, self)

    def over(self, base: "Policy") -> "Policy":
        """This policy with the fields that it leaves open taken from ``base``."""
        said = {name: value for name, value in self.__dict__.items() if value is not UNSET}
        return _unchecked({**base.__dict__, **said})


def _unchecked(fields: dict[str, Any]) -> Policy:
    """A policy of ``fields`` that were checked one by one. Together they may contradict: a cache's policy speaks for
    many functions.
    """
    policy = object.__new__(Policy)
    policy.__dict__.update(fields)
    return policy


def _check_codec(name: str, value: Any) -> None:
    if value is not None:
        resolve(value, registry=Registry())


def _check_jitter(name: str, value: Any) -> None:
    if not (_is_number(value) and 0 <= value < 1):
        raise ConfigurationError(f"jitter={value!r}: a number from 0 to below 1, the share of the ttl to vary by")


def _check_beta(name: str, value: Any) -> None:
    if value is not None and not (_is_number(value) and 0 <= value < 1000):
        raise ConfigurationError(f"beta={value!r}: a number from 0 (never early) to 1000; 1 is usual")


def _check_lease(name: str, value: Any) -> None:
    if not 1 <= parse_span(name, value) <= 86_400:
        raise ConfigurationError(f"lease={value!r}: from 1 s to a day")


def _check_refresh(name: str, value: Any) -> None:
    if value not in ("inline", "background"):
        raise ConfigurationError(f"refresh={value!r}: 'inline' or 'background'")


def _check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name}={value!r}: True or False")


def _check_cache_if(name: str, value: Any) -> None:
    if value is not None and (not callable(value) or is_coroutine_function(value)):
        raise ConfigurationError(f"cache_if={value!r}: a plain function of the result that says whether to store it")


def _check_errors(name: str, value: Any) -> None:
    if not isinstance(value, tuple) or not all(
        isinstance(each, type) and issubclass(each, Exception) for each in value
    ):
        raise ConfigurationError(f"errors={value!r}: a tuple of exception classes, such as (LookupError,)")


def _check_soft_timeout(name: str, value: Any) -> None:
    if value is not None:
        parse_span(name, value)


_CHECKS: Final[dict[str, Any]] = {
    "ttl": lambda _, value: parse_ttl(value),
    "stale": parse_span,
    "stale_if_error": parse_span,
    "throttle": parse_span,
    "refresh": _check_refresh,
    "soft_timeout": _check_soft_timeout,
    "beta": _check_beta,
    "jitter": _check_jitter,
    "sliding": _check_flag,
    "cache_if": _check_cache_if,
    "errors": _check_errors,
    "error_ttl": parse_span,
    "codec": _check_codec,
    "group": _check_flag,
    "lease": _check_lease,
}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _span_of(value: Any) -> float | None:
    """Seconds in the span of an option that was checked; None where it is not known or not said."""
    return None if value is UNSET or value is None else parse_span("", value)


def contradiction(own: Policy, whole: Policy) -> None:
    """Raise ``ConfigurationError`` where an option that ``own`` sets can mean nothing in ``whole``, which is ``own``
    over what stands behind it. What a cache's policy says in general is no contradiction where one function differs.
    """
    ttl = whole.ttl if whole.ttl in (UNSET, None) or isinstance(whole.ttl, Schedule) else parse_ttl(whole.ttl)
    never = "ttl=None: the value never ends" if ttl is None else "ttl=0: nothing is stored" if ttl == 0 else ""
    for name in ("stale", "stale_if_error", "sliding", "beta"):
        chosen = getattr(own, name)
        said = chosen not in (UNSET, None, False) and (name == "sliding" or _span_of(chosen) != 0)
        if said and never:
            raise ConfigurationError(f"{name}={chosen!r} contradicts {never}")
        if said and name == "sliding" and isinstance(ttl, Schedule):
            raise ConfigurationError(f"sliding=True contradicts {whole.ttl!r}: a schedule ends when it ends")
    stale, if_error = _span_of(whole.stale), _span_of(whole.stale_if_error)
    if own.soft_timeout not in (UNSET, None) and stale == 0 and if_error == 0:
        raise ConfigurationError(
            f"soft_timeout={own.soft_timeout!r} needs stale= or stale_if_error=: "
            "without them there is nothing to serve when it is over"
        )
    if own.error_ttl is not UNSET and whole.errors == ():
        raise ConfigurationError(f"error_ttl={own.error_ttl!r} needs errors=(…): which failures to cache")


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


def terms_of(policy: Policy) -> Terms:
    """The terms in a ``policy`` that leaves nothing open."""
    stale_s = parse_span("stale", policy.stale)
    ttl = parse_ttl(policy.ttl)
    # With stale > 0 nobody waits at the end of the ttl; a schedule means its very moment; sliding puts the end off.
    calm = stale_s > 0 or isinstance(ttl, Schedule) or policy.sliding
    return Terms(
        stale_s=stale_s,
        stale_if_error_s=parse_span("stale_if_error", policy.stale_if_error),
        throttle_s=parse_span("throttle", policy.throttle),
        background=policy.refresh == "background",
        soft_timeout_s=_span_of(policy.soft_timeout),
        beta=float((0.0 if calm else 1.0) if policy.beta is None else policy.beta),
        sliding=policy.sliding,
        cache_if=policy.cache_if,
        errors=policy.errors,
        error_ttl_s=parse_span("error_ttl", policy.error_ttl),
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
    AHEAD = "ahead"
    GARBAGE = "garbage"
    MINE = "absent"
    BUSY = "being filled"
    NO_LEASE = "no lease"


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
    # A soft invalidation gave the item a new end, so its t says nothing of its age; and that end is near.
    age = age_ms(header, None if reply.stale else reply.ttl, now_s)
    verdict = _compare(header.generations, generations)
    if verdict is Verdict.FRESH:
        passing = reply.client_flags == ENVELOPED_NOTE and reply.value.startswith(PASS, payload_at)
        verdict = _freshness(reply, header, age, eagerness)
        if verdict is Verdict.FRESH and passing:
            verdict = Verdict.PASS
    return Judgement(verdict, header, payload_at, age)


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
    throttled = age < header.retry_ms and age < ttl + header.stale_ms + header.stale_if_error_ms
    return Verdict.THROTTLED if throttled else Verdict.DUE


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
        # A value that slid was stored again, and its age at that time was rounded to a second as well.
        slack = 2000.0 if header.slide_ms else 1000.0
        age = min(max(age, seen - slack), seen + slack)
    return max(age, 0.0)


def lease_age_s(reply: Reply, stub_s: int) -> float:
    """How many seconds ago the stub of ``reply`` was made; 0.0 where that can't be told."""
    return float(stub_s - reply.ttl) if reply.ttl is not None and reply.ttl >= 0 else 0.0
