"""What tells a server's CAS numbers from those that it gives after a restart: a random text, its boot, that the first
who needs it leaves there, and that no restart brings back.

Servers that take numbers from their clients need none. Of an entry's own server nobody needs it either: what a restart
lost is lost there with the entry.
"""

# Annotations are not postponed here, as in the other flows.

from cachekit import meta
from cachekit.env import Env
from cachekit.meta import Reply
from cachekit.ops import Exchange, Flow, LeaseVoid

BOOT = b"boot=cachekit"
"""The key of the text, the same for every prefix."""

_LONGEST_BOOT = 64


def boot_in(replies: list[Reply]) -> bytes:
    """The text in the reply at the front; empty where there is none, or one that is not of our making."""
    value = (replies[0].value or b"") if replies else b""
    return value if len(value) <= _LONGEST_BOOT else b""


def boot_of(env: Env, server: int, since: float) -> Flow[bytes]:
    """The boot of a server that has not been restarted since ``since`` (monotonic seconds). Raises ``ServerError``
    where that can't be told.

    Either a connection that is older is still there; or the text that stands there was seen before, and no restart
    leaves it.
    """
    known = env.boots.get(server)
    if known is not None and known[1] <= since:
        boot = yield from _asked(env, server, None)
        if boot == known[0]:
            return boot
        raise LeaseVoid(f"{env.server_names[server]} may have been restarted", server=env.server_names[server])
    try:
        return (yield from _asked(env, server, since))
    except LeaseVoid:
        yield from _asked(env, server, None)  # so that it is known for the next time
        raise


def _asked(env: Env, server: int, held_since: float | None) -> Flow[bytes]:
    """The text on that server, which is left there where there is none."""
    opaque, name = env.opaque(), env.server_names[server]
    add = meta.ms(BOOT, env.nonce(), b"ME T0 O%d" % opaque)
    request = add + meta.mg(BOOT, b"v O%d" % opaque)
    replies = yield Exchange(server, request, 2, opaque, held_since=held_since, skip=1)
    boot = boot_in(replies.replies)
    if not boot:
        raise LeaseVoid(f"{name} keeps no text under {BOOT.decode()}", server=name)
    known = env.boots.get(server)
    if known is None or known[0] != boot:
        env.boots[server] = boot, replies.sent_at
    return boot
