"""Invalidations: of one entry, and of all entries of a function at once.

They are told to the server, and what ran under no lease meanwhile is forgotten: nobody joins it any more.
"""

# Annotations are not postponed here, as in the other flows.

from collections.abc import Callable

from cachekit.env import Env, Job
from cachekit.errors import ServerError
from cachekit.hooks import Invalidate
from cachekit.meta import md
from cachekit.ops import Exchange, Flow, Gather
from cachekit.recipe import Recipe

Request = Callable[[bytes, int, int], bytes]
"""Makes an invalidation of a key, a token, and a CAS number or 0."""

_ACKNOWLEDGED = ("HD", "NF")


def removal(key: bytes, opaque: int, number: int) -> bytes:
    """Remove what stands there. Nothing is made, so no ``number`` is needed."""
    return md(key, b"O%d" % opaque)


def tell(job: Job, env: Env, request: Request) -> Flow[bool]:
    """Send an invalidation of one entry; whether its server has acknowledged."""
    opaque = env.opaque()
    acknowledged = False
    try:
        asked = request(job.key, opaque, env.number(job.server))
        replies = yield Exchange(job.server, asked, 1, opaque, retry=True)
        acknowledged = replies.replies[0].code in _ACKNOWLEDGED
    except ServerError as error:
        env.trouble(job, error)
    env.flights.forget(job.key)
    _announce(job.recipe, env, job.key, acknowledged)
    return acknowledged


def tell_every_server(recipe: Recipe, env: Env) -> Flow[bool]:
    """Void every entry of ``recipe``'s, by its generation; whether every server has acknowledged. In one window."""
    generation = recipe.generations[0]
    asks = []
    for server in range(len(env.server_names)):
        opaque = env.opaque()
        asks.append(Exchange(server, md(generation, b"O%d" % opaque), 1, opaque, retry=True))
    acknowledged = True
    for server, outcome in enumerate((yield Gather(tuple(asks)))):
        if isinstance(outcome, ServerError):
            acknowledged = False
            env.trouble(Job(recipe, generation, server, _nothing), outcome)
        elif outcome.replies[0].code not in _ACKNOWLEDGED:
            acknowledged = False
    env.flights.forget()
    _announce(recipe, env, generation, acknowledged)
    return acknowledged


def _announce(recipe: Recipe, env: Env, key: bytes, acknowledged: bool) -> None:
    """Let the hooks know of an invalidation."""
    if env.hooks.on_invalidate.listeners:
        env.hooks.on_invalidate.emit(Invalidate(recipe.name, key.decode(), acknowledged))


def _nothing() -> None:
    """What an invalidation computes."""
