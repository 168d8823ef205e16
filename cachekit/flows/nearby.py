"""The near tier in the stories: what goes in, and the question whether it has changed.

Loaded with the first function that has ``near=``. What a call brings is kept under the call's ticket, which it took
before it sent anything (``near/hub.py``); what a run inside of another function's run needs is read from the servers
and never from here, or that other one would store for its whole ttl what may be out of date by ours.
"""

# Annotations are not postponed here, as in the other flows.

from typing import Any

from cachekit.codecs.envelope import HEAD, Header, Mark, open_envelope
from cachekit.codecs.flags import ENVELOPED
from cachekit.env import Env, Job
from cachekit.errors import DecodeError, ServerError
from cachekit.flows.call import call, without_server
from cachekit.flows.frames import FILLING, around
from cachekit.flows.lease import Standing, read
from cachekit.generations import numbers
from cachekit.glance import HIT_LINE
from cachekit.hooks import Hit
from cachekit.near.hub import Fresh, Ticket
from cachekit.near.sizes import immutable_bytes
from cachekit.near.tier import PACKED, Node
from cachekit.ops import Exchange, Flow, LeaseVoid, Replies
from cachekit.policy import EARLIEST
from cachekit.recipe import Recipe


def left_s(recipe: Recipe, env: Env, ttl_ms: float, age_ms: float, delta_us: int) -> float:
    """Seconds for which a fresh entry needs no look of its server: until its end, or until this reader finds it due
    early, by the same draw as for any other read; and where uses let it slide, until the next one that counts.
    """
    terms = recipe.terms
    if terms.sliding:
        return min(ttl_ms - age_ms, ttl_ms / 10.0) / 1000.0
    early_ms = min(env.draw(terms.beta) * delta_us / 1000.0, EARLIEST * ttl_ms) if terms.beta else 0.0
    return (ttl_ms - age_ms - early_ms) / 1000.0


def keep_served(job: Job, env: Env, standing: Standing, value: Any) -> None:
    """A fresh value was read, and ``value`` is what the caller gets of it."""
    hub, tier, header = env.near, job.recipe.near, standing.judgement.header
    if hub is None or tier is None or job.ticket is None or header is None:
        return
    reply = standing.reply
    lasting = left_s(job.recipe, env, header.ttl_ms, standing.judgement.age_ms, header.delta_us)
    # Where the claim is given back, or the value slides, it is stored again and gets another number.
    plain = not (reply.won or job.recipe.terms.sliding or header.marks)
    fresh = Fresh(
        value,
        job.recipe.payload(reply, standing.judgement),
        lasting - (env.monotonic() - standing.seen),
        job.server,
        (reply.cas or 0) if plain and job.server in env.conditional else 0,
        groups_of(job, header.marks),
        header.generations,
        header.delta_us,
        header.created_ms / 1000.0,
        job.recipe.tally,
    )
    hub.put(tier, job.key, job.ticket, fresh)


def keep_plain(
    recipe: Recipe,
    env: Env,
    ticket: Ticket,
    key: bytes,
    server: int,
    data: bytes,
    value: Any,
    tags: tuple[bytes, ...],
) -> None:
    """A plainly fresh value stands at the beginning of ``data``, as ``glance`` found it. Told once more for speed:
    every call that found nothing near passes here.
    """
    hub, tier, found = env.near, recipe.near, HIT_LINE(data)
    if hub is None or tier is None or found is None:
        return
    size, cas, flags, left, _, _ = found.groups()
    begin = found.end()
    _, groups, at, _, created, ttl, _, _, hard, delta, first = HEAD.unpack_from(data, begin)
    age, seen = env.now() * 1000.0 - created, (hard - int(left)) * 1000.0
    if hard:
        age = min(max(age, seen - 1000.0), seen + 1000.0)
    fresh = Fresh(
        value,
        (int(flags) & ~ENVELOPED, data[begin + at : begin + int(size)]),
        left_s(recipe, env, ttl, age, delta),
        server,
        int(cas) if server in env.conditional and not recipe.terms.sliding else 0,
        tags + recipe.generations,
        (first,) if groups == 1 else open_envelope(data[begin : begin + at])[0].generations,
        delta,
        created / 1000.0,
        recipe.tally,
    )
    hub.put(tier, key, ticket, fresh)


def keep_filled(
    job: Job,
    env: Env,
    value: Any,
    packed: tuple[int, bytes] | None,
    lifetime_s: float | None,
    marks: tuple[Mark, ...],
    seconds: float,
) -> None:
    """A run has ended, and its result is stored; ``packed`` None: it is not. What was kept before is out of date."""
    hub, tier = env.near, job.recipe.near
    if hub is None:
        return
    if tier is None or job.ticket is None or packed is None:
        hub.touch(job.key)
        return
    ttl_ms, delta_us = float("inf") if lifetime_s is None else lifetime_s * 1000.0, int(seconds * 1e6)
    fresh = Fresh(
        _as_read(job.recipe, value, packed),
        packed,
        left_s(job.recipe, env, ttl_ms, 0.0, delta_us),
        job.server,
        0,
        groups_of(job, marks),
        (),
        delta_us,
        env.now(),
        job.recipe.tally,
    )
    hub.put(tier, job.key, job.ticket, fresh, stored=True)


def groups_of(job: Job, marks: tuple[Mark, ...]) -> tuple[bytes, ...]:
    """The wire keys of all records that an entry stands under."""
    return job.groups + tuple([mark.key for mark in marks]) if marks else job.groups


def _as_read(recipe: Recipe, value: Any, packed: tuple[int, bytes]) -> Any:
    """What a reader will get of a value that can be shared: some codecs have fewer types than Python."""
    if immutable_bytes(value) is None:
        return PACKED
    try:
        return recipe.packer.unpack(*packed)
    except DecodeError:
        return PACKED


def renewed(job: Job, env: Env, node: Node) -> Flow[Any]:
    """The value of a call whose ``node`` is past its near ttl: asked for only if it has changed (``mg … C``, Memcached
    1.6.40). Its number means nothing over a connection that was opened later: the server may have begun anew.
    """
    tier, hub = job.recipe.near, env.near
    if tier is None or hub is None:
        return (yield from call(job, env, None))
    opaque = env.opaque()
    request = job.recipe.read(job.key, opaque, env.number(job.server), tags=job.tags)
    own, _, behind = request.partition(b"\r\n")
    request = own + b" C%d\r\n" % node.cas + behind
    try:
        replies: Replies = yield Exchange(job.server, request, job.expected, opaque, held_since=node.ends - tier.ttl_s)
    except LeaseVoid:
        return (yield from call(job, env, None))
    except ServerError as error:
        env.trouble(job, error)
        env.read_lost(job.key)
        env.missed(job, "no answer")
        return (yield from without_server(job, env))
    reply = replies.replies[0]
    if reply.code != "HD":
        return (yield from call(job, env, replies))
    if _holds_still(replies, node, env):
        value = value_of(job.recipe, node)
        if value is not PACKED and hub.prolong(tier, node, job.ticket):
            env.hit(job, _header_of(job, node))
            return value
    return (yield from _read_whole(job, env, replies))


def _read_whole(job: Job, env: Env, first: Replies) -> Flow[Any]:
    """The value of a call whose ``first`` read told only that the value is the same, and more than that: read again."""
    try:
        again: Replies = yield read(job, env)
    except ServerError:
        again = first  # nothing that could be opened; the call does what it does then
    reply = first.replies[0]
    if reply.won and again.replies[0].cas == reply.cas:
        again.replies[0].won, again.replies[0].claimed = True, False  # we have it, by the first of the two
    return (yield from call(job, env, again))


def _holds_still(replies: Replies, node: Node, env: Env) -> bool:
    """Whether an unchanged value is as fresh as it was: not expired by hand, and under the same generations."""
    reply = replies.replies[0]
    held = reply.cas in (None, node.cas) and not reply.won and not reply.stale
    held = held and node.created_s >= env.distrust.get(node.server, 0.0)
    generations = numbers(replies.replies[1:])
    return held and tuple(generations or (0,)) == node.numbers and env.monotonic() < node.own_end


def _header_of(job: Job, node: Node) -> Header:
    """As much of the entry's header as a count needs."""
    return Header(job.key[-16:], int(node.created_s * 1000), delta_us=node.delta_us)


def near_node(job: Job, env: Env) -> Node | None:
    """What is kept of an entry and may be served now."""
    hub, tier = env.near, job.recipe.near
    if hub is None or tier is None or (FILLING.get() and around()):
        return None
    node = hub.find(tier, job.key)
    return node if node is not None and node.ends > hub.monotonic() else None


def near_values(jobs: list[Job], env: Env) -> dict[int, Any]:
    """The values of those ``jobs`` that are kept, by position; counted as the hits of one call, which save one run."""
    values: dict[int, Any] = {}
    saved_us, tally = 0, jobs[0].recipe.tally
    for position, job in enumerate(jobs):
        node = near_node(job, env)
        value = PACKED if node is None else value_of(job.recipe, node)
        if node is not None and value is not PACKED:
            values[position] = value
            node.hits, node.counted = node.hits + 1, node.counted + 1
            saved_us = max(saved_us, node.delta_us)
            tell_hit(job.recipe, env, node)
    tally.hits += len(values)
    tally.near += len(values)
    tally.saved_us += saved_us
    return values


def tell_hit(recipe: Recipe, env: Env, node: Node) -> None:
    """Let the hooks know that ``node`` was served."""
    if env.hooks.on_hit.listeners:
        age_s = max(0.0, env.now() - node.created_s)
        env.hooks.on_hit.emit(Hit(recipe.name, node.key.decode(), env.server_names[node.server], age_s, near=True))


def value_of(recipe: Recipe, node: Node) -> Any:
    """What a caller gets of ``node``: the value itself, or a copy of his own; ``PACKED`` where it is gone."""
    value, packed = node.value, node.packed
    if value is not PACKED or packed is None:
        return value
    try:
        return recipe.packer.unpack(*packed)
    except DecodeError:
        return PACKED
