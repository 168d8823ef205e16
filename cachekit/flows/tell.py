"""Invalidations: of one entry, and of all entries under a function, a tag or a namespace.

Of one entry its own server is told. Of a group every server is: each has a record of its own behind it, and to bump the
record voids every entry there that was computed under it, however many::

    hard    md <record>                 the next who asks makes it anew, under a higher number; older entries are void
    soft    mg <record> v, ms … C<cas>  the record is stored again, under a higher number, and in it stand the numbers
                                        under which entries are void only softly: one caller refreshes each, the
                                        others are served the old value meanwhile

On a ring with ``watch=yes`` a tombstone stands in place of ``md``, and a notice goes along with what does not show to
watchers (``tombstones.py``). What ran under no lease meanwhile is forgotten: nobody joins it any more.
"""

# Annotations are not postponed here, as in the other flows.

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from cachekit import meta
from cachekit.env import Env, Job
from cachekit.errors import ServerError
from cachekit.flows.collect import put_off
from cachekit.generations import softened_record
from cachekit.hooks import Invalidate
from cachekit.keys.tags import checked_tag, namespace_key, tag_key
from cachekit.meta import Reply, md
from cachekit.ops import BATCH_KEYS, Exchange, Flow, Gather
from cachekit.recipe import TAG_LIFE_S, Recipe
from cachekit.tally import Tally
from cachekit.tombstones import is_gone, notice

Request = Callable[[bytes, int, int], bytes]
"""Makes an invalidation of a key, a token, and a CAS number or 0."""

_OVERTAKEN = ("HD", "NF", "EX")
"""What a soft bump may be answered: where the record has changed since it was read, somebody else has bumped it."""


class Group(NamedTuple):
    """What a record stands behind: ``kind`` is function, tag or namespace, ``name`` its own. ``life_s``: seconds that
    the record is made for, 0 for ever.
    """

    key: bytes
    kind: str
    name: str
    life_s: int = 0


def function_of(recipe: Recipe) -> Group:
    """The group of every entry of ``recipe``'s."""
    return Group(recipe.generations[-1], "function", recipe.name)


def tags_of(prefix: bytes, tags: Iterable[str]) -> list[Group]:
    """The groups of those tags, each once. Raises ``ConfigurationError`` for what is no tag."""
    return [Group(tag_key(prefix, tag), "tag", tag, TAG_LIFE_S) for tag in dict.fromkeys(map(checked_tag, tags))]


def namespace_of(prefix: bytes, namespace: str) -> Group:
    """The group of a namespace. Raises ``ConfigurationError`` for what is none."""
    return Group(namespace_key(prefix, namespace), "namespace", namespace)


def removal(key: bytes, opaque: int, number: int) -> bytes:
    """Remove what stands there. Nothing is made, so no ``number`` is needed."""
    return md(key, b"O%d" % opaque)


def tell(job: Job, env: Env, request: Request) -> Flow[bool]:
    """Send an invalidation of one entry; whether its server has acknowledged."""
    acknowledged, soft = False, request is not removal
    if put_off(env, job.key, partial(tell, job, request=request), soft=soft):
        return False
    opaque = env.opaque()
    env.touched(job.key)
    try:
        asked = request(job.key, opaque, env.number(job.server)) if soft else env.removal(job.key, opaque)
        shown = notice(job.key, opaque) if soft and env.watched else b""
        replies = yield Exchange(job.server, asked + shown, 1 + bool(shown), opaque, retry=True)
        acknowledged = is_gone(replies.replies[0])
    except ServerError as error:
        env.trouble(job, error)
    finally:
        env.touched(job.key)  # what was read meanwhile may be from before
        env.flights.forget(job.key)  # also where it was interrupted: it may have gone through
        if not acknowledged:
            over = job.recipe.generations[-1:]  # its function's record, or else its namespace's
            env.undelivered(job.server, job.key, soft=soft, group=over[0] if over else b"")
    if env.hooks.on_invalidate.listeners:
        env.hooks.on_invalidate.emit(Invalidate(job.recipe.name, job.key.decode(), acknowledged, soft=soft))
    return acknowledged


def bump(groups: list[Group], env: Env, tally: Tally, *, soft: bool = False) -> Flow[bool]:
    """Void every entry of ``groups``, on every server, in one window (two for a soft bump) for up to 256 of them.
    Whether every server has acknowledged.
    """
    wanted = len(groups)
    groups = [each for each in groups if not put_off(env, each.key, partial(_again, each, tally, soft), soft=soft)]
    if not groups and wanted:
        return False
    missing: set[bytes] = set()
    for at in range(0, len(groups), BATCH_KEYS):
        missing |= yield from _bump(groups[at : at + BATCH_KEYS], env, tally, soft)
    if env.hooks.on_invalidate.listeners:
        for each in groups:
            function, name = (each.name, "") if each.kind == "function" else ("", each.name)
            acknowledged = each.key not in missing
            env.hooks.on_invalidate.emit(
                Invalidate(function, each.key.decode(), acknowledged, each.kind, name, soft=soft)
            )
    return not missing and len(groups) == wanted


def _again(group: Group, tally: Tally, soft: bool, env: Env) -> Flow[bool]:
    """Bump the record of one group, which was put off."""
    return bump([group], env, tally, soft=soft)


def _bump(lot: list[Group], env: Env, tally: Tally, soft: bool) -> Flow[set[bytes]]:
    """Bump those records; the keys of those that some server has not acknowledged."""
    waiting = {(server, each.key) for server in range(len(env.server_names)) for each in lot}
    for each in lot:
        env.touched(each.key)
    try:
        yield from (_soften if soft else _remove)(lot, env, tally, waiting)
    finally:
        for each in lot:
            env.touched(each.key)
        env.flights.forget()
        for server in {server for server, _ in waiting}:
            env.undelivered(server, *[key for at, key in waiting if at == server], soft=soft, kind=2)
    return {key for _, key in waiting}


_Waiting = set[tuple[int, bytes]]
"""Servers and the records that they have not acknowledged yet."""


def _remove(lot: list[Group], env: Env, tally: Tally, waiting: _Waiting) -> Flow[None]:
    """Delete the records."""
    asks = []
    for server in range(len(env.server_names)):
        opaque = env.opaque()
        request = b"".join([env.removal(each.key, opaque) for each in lot])
        asks.append(Exchange(server, request, len(lot), opaque, retry=True))
    for server, outcome in enumerate((yield Gather(tuple(asks)))):
        if isinstance(outcome, ServerError):
            env.failed_at(server, tally, outcome)
        else:
            _tick_off(server, lot, outcome.replies, waiting, is_gone)


def _soften(lot: list[Group], env: Env, tally: Tally, waiting: _Waiting) -> Flow[None]:
    """Read the records, and store each anew under the CAS number that it was read with."""
    asks = []
    for server in range(len(env.server_names)):
        opaque = env.opaque()
        how = b"E%d O%d" % (number, opaque) if (number := env.number(server)) else b"O%d" % opaque
        request = b"".join([meta.mg(each.key, b"c v N%d " % each.life_s + how) for each in lot])
        asks.append(Exchange(server, request, len(lot), opaque, retry=True))
    stores, stored = [], []
    for server, outcome in enumerate((yield Gather(tuple(asks)))):
        if isinstance(outcome, ServerError):
            env.failed_at(server, tally, outcome)
            continue
        read = [(each, reply) for each, reply in zip(lot, outcome.replies, strict=True) if _is_record(reply)]
        if read:
            stored.append([each for each, _ in read])
            stores.append(_softening(server, read, outcome.sent_at, env))
    for ask, those, outcome in zip(stores, stored, (yield Gather(tuple(stores))), strict=True):
        if isinstance(outcome, ServerError):
            env.failed_at(ask.server, tally, outcome)
        else:
            _tick_off(ask.server, those, outcome.replies, waiting, _is_overtaken)


def _is_record(reply: Reply) -> bool:
    """Whether a record was found or made; a server that is out of memory makes none."""
    return reply.code == "VA" and bool(reply.cas)


def _softening(server: int, read: list[tuple[Group, Reply]], since: float, env: Env) -> Exchange:
    """Store the records as ``read``, each with the numbers under which entries are only softly void. ``since``: when
    they were read.
    """
    opaque, parts = env.opaque(), []
    for each, reply in read:
        how = b"C%d T%d" % (reply.cas or 0, each.life_s)
        how += b" E%d" % number if (number := env.number(server)) else b""
        parts.append(meta.ms(each.key, softened_record(reply), how + b" O%d" % opaque))
    return Exchange(server, b"".join(parts), len(read), opaque, held_since=since)


def _tick_off(
    server: int, lot: list[Group], replies: list[Reply], waiting: _Waiting, is_done: Callable[[Reply], bool]
) -> None:
    """Those are done."""
    for each, reply in zip(lot, replies, strict=True):
        if is_done(reply):
            waiting.discard((server, each.key))


def _is_overtaken(reply: Reply) -> bool:
    return reply.code in _OVERTAKEN


def tell_every_server(recipe: Recipe, env: Env, *, soft: bool = False) -> Flow[bool]:
    """Void every entry of ``recipe``'s; whether every server has acknowledged."""
    return bump([function_of(recipe)], env, recipe.tally, soft=soft)
