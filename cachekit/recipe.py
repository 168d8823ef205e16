"""How the entries of one function are read, judged, opened and sealed: everything about them that no call changes.

Two kinds of entry share the flows. A cached function's value travels behind an envelope that judges its freshness; a
direct verb's value (``get_or_set``) is plain, so that other programs can read it, and is fresh as long as the server
keeps it.
"""

# Annotations are not postponed here: a NamedTuple would compile each of them as text (docs/design/imports.md).

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from cachekit import meta
from cachekit.codecs import Packer
from cachekit.codecs.envelope import FOREVER, Header, Mark, seal, seal_one
from cachekit.codecs.flags import ENVELOPED
from cachekit.codecs.note import ERROR, NOTE_FLAGS, PASS
from cachekit.errors import DecodeError
from cachekit.expiry import RELATIVE_MAX_S, Ttl, exptime, lifetime_s
from cachekit.meta import Reply
from cachekit.policy import STUB_S, STUBS_PER_LEASE, Judgement, Terms, Verdict, judge
from cachekit.tally import Tally
from cachekit.types import UNSET, Unset

if TYPE_CHECKING:
    from cachekit.near.tier import Tier

_U32_MAX = 2**32 - 1
TAG_LIFE_S = 2_592_000
"""Seconds that a tag's record is made for, 30 days: what is left of them tells when it was made."""

_UNGROUPED = (0,)
"""What stands in the header of an entry over which no generation was asked."""

_PLAIN_TERMS = Terms()


TAG_QUESTIONS = (b"mg %%b c N%d O%%d\r\n" % TAG_LIFE_S, b"mg %%b c N%d E%%d O%%d\r\n" % TAG_LIFE_S)
"""What asks for the generation of a tag, to be filled with its key and a token; and the same with the CAS number that
its record is to get.
"""

GENERATION_QUESTIONS = (b"mg %b c N0 O%d\r\n", b"mg %b c N0 E%d O%d\r\n")
"""The same for functions and namespaces, whose records end with nobody's time."""

CLOSER = b" c v N"
"""How a question for a generation goes on that asks also for what a soft bump leaves in its record."""


class Recalled(Exception):
    """What is stored is the function's failure: ``error`` is to be raised, as if the function had run."""

    def __init__(self, error: Exception) -> None:
        super().__init__(type(error).__name__)
        self.error = error


class Snapshot(NamedTuple):
    """What an entry is valid under: the generations, read before the function ran, and when it ended (seconds since
    1970). ``marks``: what else it stands under.
    """

    generations: tuple[int, ...]
    created_s: float
    marks: tuple[Mark, ...] = ()


class Packed(NamedTuple):
    """A result ready to be stored: client flags and payload (None: it can't be carried), the seconds that it is fresh
    (None: for ever), and why it is not to be stored, "" where it is.
    """

    packed: tuple[int, bytes] | None
    lifetime_s: float | None
    reason: str


class Recipe:
    """One function's (or one direct key's) way of keeping entries.

    Args:
        name: the function's readable name, for events and logs.
        generations: wire keys of the records that stand over every entry; asked in the value's own write.
        grouped: whether the last of them is the function's.
        lease_s: seconds after which a fill may be taken over.
        terms: how stale a value may be served, and what else its policy says.
        enveloped: whether values travel behind a header.
        max_value_bytes: longest value, envelope included, that the servers take.
    """

    __slots__ = (
        "delta_s", "enveloped", "generations", "grouped", "jitter", "lease_s", "max_value_bytes", "name",
        "near", "packer", "prefix", "read_template", "steady", "stub_s", "tagged", "tally", "templates",
        "terms", "ttl", "warned",
    )  # fmt: skip

    def __init__(
        self,
        *,
        name: str,
        packer: Packer,
        ttl: Ttl,
        jitter: float = 0.0,
        lease_s: float = 10.0,
        terms: Terms = _PLAIN_TERMS,
        generations: tuple[bytes, ...] = (),
        grouped: bool = True,
        enveloped: bool = True,
        max_value_bytes: int = 1 << 20,
    ) -> None:
        self.name = name
        self.packer = packer
        self.ttl = ttl
        self.jitter = jitter
        self.lease_s = lease_s
        self.terms = terms
        self.generations = generations
        self.grouped = grouped and bool(generations)
        self.enveloped = enveloped
        self.max_value_bytes = max_value_bytes
        self.prefix = b""
        """The cache's, to which tags belong."""
        self.near: Tier | None = None
        """Where results are kept in the memory of this process, too."""
        self.tally = Tally()
        self.warned: set[str] = set()
        self.delta_s = 0.0
        """Seconds that the last run took in this process; 0.0: none has ended yet."""
        # What follows from a ttl that is the same number for every entry, and never sent as a date.
        self.steady: tuple[int, int, int] | None = None
        plain = not (jitter or terms.stale_s or terms.stale_if_error_s or terms.sliding)
        if plain and isinstance(ttl, float) and 0 < ttl <= 86_400:
            self.steady = self._times(ttl, 0.0, lease_s)
        self.stub_s = max(math.ceil(lease_s) * STUBS_PER_LEASE, STUB_S)
        self.templates = self._templates()
        self.read_template = self.templates["read", False]
        self.tagged: dict[tuple[str, bool, int], bytes] = {}
        """The same for entries that bear so many tags, made at first need."""

    def _templates(self) -> dict[tuple[str, bool], bytes]:
        """What each kind of read is filled into, for servers that take CAS numbers and for others."""
        # R fires when less than that is left, and on nothing that was claimed (protocol.txt, "Meta Get").
        stub = b" N%d" % self.stub_s
        asking = {"read": stub, "claim": stub + b" R2147483647", "look": b""}
        return {
            (what, explicit): self._template(flags, b" E%d" if explicit else b"")
            for what, flags in asking.items()
            for explicit in (False, True)
        }

    def _template(self, asking: bytes, explicit: bytes) -> bytes:
        """What a read is filled into: key, perhaps a CAS number, token; and again for each generation."""
        behind = [key.replace(b"%", b"%%") for key in self.generations]
        lines = [b"mg %b c f t v" + asking, *(b"mg %b c N0" % key for key in behind)]
        return b"".join([line + explicit + b" O%d\r\n" for line in lines])

    def read(
        self,
        key: bytes,
        opaque: int,
        number: int = 0,
        *,
        claim: bool = False,
        closer: bool = False,
        tags: tuple[bytes, ...] = (),
    ) -> bytes:
        """The read of ``key`` with its lease, and of the generations over it: one write, and a reply to each.

        ``number``: the CAS number to give to what this read makes, on servers that take one; 0: the server counts.
        ``claim``: ask for the right to refresh what stands there, too. ``tags``: records that stand over this entry
        alone; they are asked for right behind the value. ``closer``: ask also how far a soft bump of each generation
        reaches.
        """
        request = self._filled("claim" if claim else "read", key, opaque, number, tags)
        if not closer:
            return request
        own, _, questions = request.partition(b"\r\n")
        return own + b"\r\n" + questions.replace(b" c N", CLOSER)

    def read_tagged(self, key: bytes, opaque: int, tags: tuple[bytes, ...]) -> bytes:
        """``read`` for hits on entries that bear ``tags``, where the server counts: as quick as it can be."""
        many = len(tags)
        template = self.tagged.get(("read", False, many)) or self._tagged("read", False, many)
        words: list[Any] = [opaque] * (2 * many + 2 + len(self.generations))
        words[: 2 * many + 2 : 2] = (key, *tags)
        return template % tuple(words)

    def alone(self, *, explicit: bool = False) -> bytes:
        """What a read is filled into without the questions for its generations: key and token, with a CAS number
        between them where it is ``explicit``. For who asks the questions once behind many reads.
        """
        own, end, _ = self.templates["read", explicit].partition(b"\r\n")
        return own + end

    def look(self, key: bytes, opaque: int, number: int = 0, tags: tuple[bytes, ...] = ()) -> bytes:
        """The same read without asking for a lease where nothing is stored."""
        return self._filled("look", key, opaque, number, tags)

    def _filled(self, what: str, key: bytes, opaque: int, number: int, tags: tuple[bytes, ...]) -> bytes:
        token = (number, opaque) if number else (opaque,)
        named = [word for each in (key, *tags) for word in (each, *token)]
        kind = what, bool(number), len(tags)
        return (self.tagged.get(kind) or self._tagged(*kind)) % (*named, *token * len(self.generations))

    def _tagged(self, what: str, explicit: bool, tags: int) -> bytes:
        own, end, behind = self.templates[what, explicit].partition(b"\r\n")
        found = self.tagged[what, explicit, tags] = own + end + TAG_QUESTIONS[explicit] * tags + behind
        return found

    def expire_request(self, key: bytes, opaque: int, number: int = 0) -> bytes:
        """Mark what stands there as stale: the next reader gets the W, the others may be served it meanwhile. It ends
        when it would have ended, so that what is left of its time still tells its age.
        """
        return meta.md(key, b"I E%d O%d" % (number, opaque) if number else b"I O%d" % opaque)

    def judge(
        self,
        reply: Reply,
        generations: tuple[int, ...] | None,
        key: bytes,
        now_s: float,
        eagerness: float = 0.0,
    ) -> Judgement:
        """What ``reply`` means at ``now_s`` (seconds since the epoch); ``eagerness``: as ``policy.judge`` takes it."""
        if self.enveloped:
            return judge(reply, _UNGROUPED if generations == () else generations, key, now_s, eagerness)
        if reply.code != "VA" or reply.value is None:
            return Judgement(Verdict.NO_LEASE)
        if reply.value or reply.client_flags:
            return Judgement(Verdict.FRESH)
        return Judgement(Verdict.MINE if reply.won else Verdict.BUSY)

    def payload(self, reply: Reply, judgement: Judgement) -> tuple[int, bytes]:
        """Client flags and bytes of the value in ``reply`` without its envelope."""
        flags, data = reply.client_flags or 0, reply.value or b""
        return flags & ~ENVELOPED, data[judgement.payload_at :]

    def open(self, reply: Reply, judgement: Judgement) -> Any:
        """The value in ``reply``. Raises ``DecodeError``, and ``Recalled`` where what is stored is a failure."""
        flags, payload = self.payload(reply, judgement)
        enveloped = bool((reply.client_flags or 0) & ENVELOPED)
        if enveloped and not self.enveloped:
            raise DecodeError("a function's entry is no plain value")
        if self.enveloped and not enveloped:
            raise DecodeError("an entry without the flag of an enveloped value")
        if flags == NOTE_FLAGS and payload.startswith(ERROR):
            from cachekit.codecs.failure import decode_failure  # noqa: PLC0415 - few functions cache failures

            raise Recalled(decode_failure(payload[1:], self.terms.errors))
        return self.packer.unpack(flags, payload)

    def seal(
        self, key: bytes, packed: tuple[int, bytes], lifetime_s: float | None, snapshot: Snapshot, seconds: float
    ) -> tuple[int, bytes, int]:
        """Client flags, data and exptime of the entry to store.

        ``lifetime_s``: seconds that the value is fresh, None for ever. ``seconds``: running time of the fill.
        """
        flags, payload = packed
        if not self.enveloped:
            return flags, payload, exptime(lifetime_s, snapshot.created_s)
        generations, created_s, marks = snapshot
        own, created_ms, delta_us = key[-16:], int(created_s * 1000), int(seconds * 1e6)
        if self.steady is not None and lifetime_s == self.ttl and flags != NOTE_FLAGS:
            ttl_ms, hard_s, until = self.steady
            if len(generations) < 2 and not marks:
                generation = generations[0] if generations else 0
                return (
                    flags | ENVELOPED,
                    seal_one(own, created_ms, ttl_ms, hard_s, delta_us, generation, payload),
                    until,
                )
        else:
            ttl_ms, hard_s, until = self._times(lifetime_s, created_s, self._after_s(packed))
        plain = flags == NOTE_FLAGS or lifetime_s is None
        terms = _PLAIN_TERMS if plain else self.terms
        header = Header(
            own,
            created_ms,
            ttl_ms,
            stale_ms=int(terms.stale_s * 1000),
            stale_if_error_ms=int(terms.stale_if_error_s * 1000),
            hard_s=hard_s,
            delta_us=delta_us,
            generations=generations or _UNGROUPED,
            slide_ms=ttl_ms if terms.sliding else 0,
            marks=marks,
        )
        return flags | ENVELOPED, seal(header, payload), until

    def reseal(self, reply: Reply, header: Header, payload_at: int, until: int) -> tuple[int, bytes, int]:
        """The entry in ``reply`` behind another header, to be stored until ``until``."""
        return reply.client_flags or 0, seal(header, (reply.value or b"")[payload_at:]), until

    def slid(
        self, reply: Reply, header: Header, payload_at: int, age_ms: float, now_s: float
    ) -> tuple[int, bytes, int]:
        """The entry in ``reply`` with its whole ttl before it again."""
        lifetime_s = header.slide_ms / 1000.0
        _, left_s, until = self._times(lifetime_s, now_s, self._after_s((0, b"")))
        moved = header._replace(ttl_ms=int(age_ms) + header.slide_ms, hard_s=left_s + math.ceil(age_ms / 1000.0))
        return self.reseal(reply, moved, payload_at, until)

    def pack(
        self,
        value: Any,
        now: Callable[[], float],
        random: Callable[[], float],
        ttl: "Ttl | Unset" = UNSET,
    ) -> Packed:
        """``value`` as it is to be stored. ``ttl``: in place of the recipe's own.

        Encoders, predicates and ttl callables are users' code: whatever they raise, the caller still gets his result.
        """
        try:
            packed = self.packer.pack(value)
        except Exception as error:  # noqa: BLE001
            # Only the type: the error's own text shows where in the value it sits, and logs and events carry no values.
            name = getattr(error, "type_name", None) or type(value).__qualname__
            way_out = "cache.register() it or return plain data"
            if name.rpartition(".")[2] == "coroutine":
                way_out = "decorate the async def itself, or await cache.aio.get_or_set()"
            why = f"unencodable: {name} can't be carried without loss; {way_out}"
            return Packed(None, None, why)
        try:
            if self.terms.cache_if is not None and not self.terms.cache_if(value):
                return Packed(packed, None, "cache_if")
        except Exception as error:  # noqa: BLE001
            return Packed(packed, None, f"cache_if raised: {type(error).__name__}")
        try:
            lifetime = self.lifetime(value, now, random, ttl)
        except Exception as error:  # noqa: BLE001
            return Packed(packed, None, f"no ttl: its function raised {type(error).__name__}")
        return Packed(packed, lifetime, "ttl 0" if lifetime == 0 else "")

    def pack_failure(self, error: BaseException) -> Packed:
        """``error``, one of those that the policy caches, as it is to be stored."""
        from cachekit.codecs.failure import encode_failure  # noqa: PLC0415 - few functions cache failures

        try:
            payload = ERROR + encode_failure(error)
        except Exception:  # noqa: BLE001
            return Packed(None, None, f"unencodable: the arguments of a {type(error).__qualname__} are no plain data")
        lifetime = self.terms.error_ttl_s
        return Packed((NOTE_FLAGS, payload), lifetime, "" if lifetime else "ttl 0")

    def lifetime(
        self, value: Any, now: Callable[[], float], random: Callable[[], float], ttl: "Ttl | Unset" = UNSET
    ) -> float | None:
        """Seconds that ``value``, made now, is fresh; None: for ever. Raises what a ttl callable of the user's
        raises.
        """
        if ttl is UNSET:
            if self.steady is not None:
                return self.ttl  # type: ignore[return-value]
            ttl = self.ttl
        return lifetime_s(ttl, now=now(), result=value, jitter=self.jitter, random=random)

    def _after_s(self, packed: tuple[int, bytes]) -> float:
        """Seconds that an item is kept after its ttl: as long as it may be served, and a lease, so that the item does
        not end under whoever refreshes it, however late he began. A pass marker is refreshed by nobody.
        """
        if packed[0] == NOTE_FLAGS:
            return 0.0 if packed[1] == PASS else self.lease_s
        return self.terms.stale_s + self.terms.stale_if_error_s + self.lease_s

    def _times(self, lifetime_s: float | None, created_s: float, after_s: float) -> tuple[int, int, int]:
        """The header's ttl in ms and hard end in s, and the exptime for the server; ``after_s``: seconds that the item
        is kept after its ttl.

        One second more than what follows: the server's clock ticks in whole seconds and must not end a value before its
        header does.
        """
        if lifetime_s is None:
            return FOREVER, 0, 0
        hard_s = math.ceil(lifetime_s) + 1
        # Beyond 30 days the wire takes a date, by the clock of the machine that stores: then the server's t tells no
        # age. A ttl below that keeps to spans, however long it might have been served after it.
        longest_s = RELATIVE_MAX_S if hard_s <= RELATIVE_MAX_S else _U32_MAX
        hard_s = min(hard_s + math.ceil(after_s), longest_s)
        until = exptime(hard_s, created_s)
        # Dates are capped in 2038; the header must say what the server was told.
        told_s = until if until <= RELATIVE_MAX_S else until - int(created_s)
        return int(lifetime_s * 1000), min(hard_s, told_s), until


def store_request(key: bytes, sealed: tuple[int, bytes, int], cas: int, opaque: int, number: int = 0) -> bytes:
    """Store under ``cas``, and only under it: what was invalidated or filled meanwhile stays as it is. 0: only where
    nothing stands, which is for pass markers alone; a value stored so could be older than an invalidation.

    ``number``: the CAS number that the entry is to get; 0: the server counts.
    """
    flags, data, until = sealed
    if number or not cas:
        how = b"C%d" % cas if cas else b"ME"
        how += b" E%d" % number if number else b""
        return b"ms %b %d %b F%d T%d O%d\r\n%b\r\n" % (key, len(data), how, flags, until, opaque, data)
    # Like meta.ms, whose checks a key of our own making and five numbers don't need: this is on every miss's way.
    return b"ms %b %d C%d F%d T%d O%d\r\n%b\r\n" % (key, len(data), cas, flags, until, opaque, data)


def give_back_request(key: bytes, cas: int, opaque: int) -> bytes:
    """Remove what stands under ``cas``, so that the next reader may fill."""
    return meta.md(key, b"C%d O%d" % (cas, opaque))


def take_over_request(key: bytes, lease_s: float, opaque: int) -> bytes:
    """Ask for the second-level lease: who adds this small item first may fill in place of a dead or slow winner."""
    # A second more than the lease: by the server's clock T1 may be over after 0.07 s, and a second heir would run.
    return meta.ms(key[:249] + b"!", b"1", b"ME T%d O%d" % (math.ceil(lease_s) + 1, opaque))
