"""Look at entries without taking part in them: what stands there, for ``peek`` and ``explain``.

Read by the classic ``gets`` and by ``me``, since every ``mg`` may take a lease away from a reader who would fill
(memcached's protocol.txt, "Meta Get", the W flag). That shows no flags: a soft invalidation can't be seen this way.
Neither command bears a token; ``gets`` echoes each key, and of ``me`` the CAS number tells that it speaks of the same
item.
"""

# Annotations are not postponed here, as in the other flows.

from collections.abc import Callable
from itertools import chain
from typing import Any

from cachekit import meta
from cachekit.codecs.envelope import FOREVER, Header
from cachekit.codecs.flags import describe
from cachekit.env import Env, Job
from cachekit.errors import DecodeError, ServerError
from cachekit.flows.marks import confirmed, hand_on
from cachekit.flows.shared import SharedEnv, lot_size
from cachekit.flows.together import Together, nobody_runs
from cachekit.frozen import Frozen
from cachekit.generations import numbers
from cachekit.meta import Reply
from cachekit.ops import BATCH_KEYS, Exchange, Flow, Gather
from cachekit.policy import Judgement, Verdict
from cachekit.recipe import Recalled
from cachekit.types import Key

_UNDER_MARKS = frozenset({Verdict.FRESH, Verdict.DUE, Verdict.THROTTLED, Verdict.SOFT})
_OLD = frozenset({Verdict.DUE, Verdict.THROTTLED, Verdict.SOFT})

_GONE = Reply("EN")
_Keys = dict[int, list[bytes]]
"""Keys by the index of the server that holds them."""


class Explanation(Frozen):
    """Where an entry is and what is the matter with it.

    ``state``: fresh, stale (it may be served while somebody refreshes it), throttled (stale, and a refresh has just
    failed), expired, pass (the last result could not be stored), invalidated, ahead (computed under a newer generation
    than was read just now), garbage, absent, being filled, or unreachable; a soft invalidation does not show.

    ``age_s``, ``ttl_s`` and ``stale_s`` (after its ttl, errors included) are in seconds; ``ttl_s`` is None for an entry
    that lives for ever, and where there is none. ``size_bytes`` counts the stored value with its header, ``format``
    says how it is written, ``fill_s`` for how many seconds the function ran for it.
    """

    key: Key
    server: str
    state: str
    age_s: float | None = None
    ttl_s: float | None = None
    size_bytes: int | None = None
    format: str | None = None
    fill_s: float | None = None
    stale_s: float | None = None


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


class Sight:
    """What was found of the entries of some ``jobs``, all of one recipe: a reply for each key that has one, and the
    servers' failures.
    """

    def __init__(self, jobs: list[Job], env: Env) -> None:
        self.found: dict[bytes, Reply] = {}
        self.errors: list[ServerError] = []
        self._env = env
        self._servers = {job.key: job.server for job in jobs}
        self._groups = {job.key: job.groups for job in jobs}
        self._jobs = {job.key: job for job in jobs}
        self._recipe, self._size = jobs[0].recipe, lot_size(jobs)
        self._records: dict[tuple[int, bytes], Reply] = {}

    def look(self) -> Flow[None]:
        """Ask for the values and the generations over them in the same write, then for the lifetimes."""
        self.errors += yield from _ask(self._by_server(self._servers), self._gets, self._take, self._size)
        yield from _ask(self._by_server(self.found), _me, self._take_lifetimes)

    def judge(self, key: bytes, env: Env | None = None) -> Flow[Judgement]:
        """The verdict on a key that was ``found``. ``env``: the surroundings to ask in, where others ask as well."""
        server = self._servers[key]
        # One that is not there any more was bumped or lost: nothing under it can be trusted.
        records = [self._records.get((server, group), _GONE) for group in self._groups[key]]
        judgement = self._env.judge(self._jobs[key], self.found[key], numbers(records))
        header = judgement.header
        if header is None or not header.marks or judgement.verdict not in _UNDER_MARKS:
            return judgement
        held, _ = yield from confirmed(self._jobs[key], env or self._env, header, make=False)
        return judgement if held is Verdict.FRESH else judgement._replace(verdict=held)

    def judge_all(self) -> Flow[dict[bytes, Judgement]]:
        """The verdicts on all keys that were ``found``; whatever stands under marks is asked about in one window."""
        keys = list(self.found)
        if len(keys) == 1:
            return {keys[0]: (yield from self.judge(keys[0]))}
        shared = SharedEnv(self._env, self._recipe)
        flows = [self.judge(key, shared) for key in keys]
        told = yield from Together(flows, range(len(keys)), shared, nobody_runs).values()
        return dict(zip(keys, told, strict=True))

    def _by_server(self, keys: dict[bytes, Any]) -> _Keys:
        groups: _Keys = {}
        for key in keys:
            groups.setdefault(self._servers[key], []).append(key)
        return groups

    def _over(self, lot: list[bytes]) -> list[bytes]:
        """The records that stand over those keys, each once."""
        return list(dict.fromkeys(chain.from_iterable(self._groups[key] for key in lot)))

    def _gets(self, server: int, lot: list[bytes]) -> Exchange:
        asked, wanted = self._over(lot), frozenset(lot)
        groups = len(asked)

        def fits(replies: list[Reply]) -> bool:
            """Any number of VALUEs, END, and a line for each generation."""
            ends = len(replies) - groups
            values, end, behind = replies[: ends - 1], replies[ends - 1 : ends], replies[ends:]
            return (
                [reply.code for reply in end] == ["END"]
                and all(reply.code == "VALUE" and reply.key in wanted for reply in values)
                and all(reply.code in ("VA", "EN") for reply in behind)
            )

        behind = b"".join([b"mg %b c v\r\n" % group for group in asked])
        request = b"gets %b\r\n%b" % (b" ".join(lot), behind)
        return Exchange(server, request, 1 + groups, None, retry=True, fits=fits)

    def _take(self, server: int, lot: list[bytes], replies: list[Reply]) -> None:
        asked = self._over(lot)
        ends = len(replies) - len(asked)
        self._records.update({(server, group): reply for group, reply in zip(asked, replies[ends:], strict=True)})
        for reply in replies[: ends - 1]:
            key = reply.key or b""
            self.found[key] = Reply("VA", reply.value, key, reply.cas or 0, client_flags=reply.client_flags)

    def _take_lifetimes(self, _: int, lot: list[bytes], replies: list[Reply]) -> None:
        """Let each reply know for how many seconds its server keeps the item: −1 for ever, None where it does not say
        so.
        """
        for key, told in zip(lot, replies, strict=False):
            words = (told.value or b"").split()
            if b"cas=%d" % (self.found[key].cas or 0) in words:
                self.found[key].ttl = lifetime_in(words)


def _ask(
    waiting: _Keys,
    exchange: Callable[[int, list[bytes]], Exchange],
    take: Callable[[int, list[bytes], list[Reply]], None],
    size: int = BATCH_KEYS,
) -> Flow[list[ServerError]]:
    """Ask every server about its keys, lot after lot of ``size``; the failures. A server that fails is asked no
    more.
    """
    errors: list[ServerError] = []
    while waiting:
        lots = {server: keys[:size] for server, keys in waiting.items()}
        waiting = {server: rest for server, keys in waiting.items() if (rest := keys[size:])}
        outcomes = yield Gather(tuple(exchange(server, lot) for server, lot in lots.items()))
        for (server, lot), outcome in zip(lots.items(), outcomes, strict=True):
            if isinstance(outcome, ServerError):
                errors.append(outcome)
                waiting.pop(server, None)
            else:
                take(server, lot, outcome.replies)
    return errors


def _me(server: int, lot: list[bytes]) -> Exchange:
    return Exchange(server, b"".join([meta.me(key) for key in lot]), len(lot), None, retry=True)


def lifetime_in(words: list[bytes]) -> int | None:
    """Seconds left of an item's life, out of the words of ``me``; −1 for ever, None where they don't say.

    1.6.18 prints them with the wrong sign, so that its −1 is never, but also the last second of a life.
    """
    for word in words:
        name, _, value = word.partition(b"=")
        if name == b"exp" and value.removeprefix(b"-").isdigit():
            return -1 if value == b"-1" else abs(int(value))
    return None


def stored(jobs: list[Job], env: Env) -> Flow[dict[bytes, Stored]]:
    """What may be served of the entries of ``jobs``, all of one recipe: fresh, or stale."""
    if not jobs:
        return {}
    recipe, sight, since = jobs[0].recipe, Sight(jobs, env), env.monotonic()
    by_key = {job.key: job for job in jobs}
    yield from sight.look()
    recipe.tally.errors += len(sight.errors)
    values: dict[bytes, Stored] = {}
    for key, judgement in (yield from sight.judge_all()).items():
        reply = sight.found[key]
        if judgement.verdict is Verdict.FRESH or (judgement.verdict in _OLD and judgement.servable()):
            if judgement.header is not None:
                hand_on(by_key[key], env, judgement.header.generations, since, judgement.header.marks)
            if recipe.near is not None:
                env.outdated(key)  # not kept: it may be softly invalid. Nor is what may be older than this served again
            try:
                values[key] = Stored(judgement.header, recipe.open(reply, judgement))
            except Recalled as recalled:
                values[key] = Stored(judgement.header, error=recalled.error)
            except DecodeError:
                recipe.tally.errors += 1
    return values


def explain(job: Job, env: Env) -> Flow[Explanation]:
    """Where the entry of ``job`` is, how old, how large, and why it would or would not be served."""
    where = (Key(job.key.decode()), env.server_names[job.server])
    sight = Sight([job], env)
    yield from sight.look()
    if sight.errors:
        return Explanation(*where, "unreachable")
    if job.key not in sight.found:
        return Explanation(*where, "absent")
    reply, judgement = sight.found[job.key], (yield from sight.judge(job.key))
    if judgement.header is None:
        return Explanation(*where, judgement.verdict.value, size_bytes=len(reply.value or b""))
    header = judgement.header
    stale = judgement.verdict in (Verdict.DUE, Verdict.SOFT) and judgement.servable()
    return Explanation(
        *where,
        "stale" if stale else judgement.verdict.value,
        age_s=judgement.age_ms / 1000,
        ttl_s=None if header.ttl_ms == FOREVER else header.ttl_ms / 1000,
        stale_s=(header.stale_ms + header.stale_if_error_ms) / 1000,
        size_bytes=len(reply.value or b""),
        format=describe(reply.client_flags or 0, (reply.value or b"")[judgement.payload_at :]),
        fill_s=header.delta_us / 1e6,
    )
