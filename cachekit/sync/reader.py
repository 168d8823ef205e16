"""The hit path, written flat: one write, one read, one look at the header.

This closure is the one place where speed decides the form: it says again, for the plainly fresh reply and for nothing else,
what ``policy.judge`` says in full. Whatever is not plainly fresh, whole and answered under our own token goes the long
way: the reply is parsed properly and handed to ``flows.call``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from zlib import crc32

from cachekit.codecs.envelope import FOREVER, HEAD, VERSION
from cachekit.codecs.flags import ENVELOPED
from cachekit.env import Env, Job
from cachekit.errors import DecodeError, ServerError, Unreachable
from cachekit.flows import Lease, call, fill, without_server
from cachekit.hooks import Hit
from cachekit.ops import Replies
from cachekit.recipe import Recipe
from cachekit.sync.drive import run
from cachekit.sync.fleet import AnyConnection, Fleet

Function = Callable[..., Any]
Reader = Callable[[bytes, Function, tuple[Any, ...], dict[str, Any]], Any]
"""Takes a wire key, and the function and arguments that make its value; returns the stored value or, failing that, a computed one."""


def reader(recipe: Recipe, fleet: Fleet, env: Env) -> Reader:
    """The hit path of one function."""
    slow = _SlowPath(recipe, fleet, env)
    if not recipe.enveloped or len(recipe.generations) > 1:
        return slow.from_the_start

    table, mask = fleet.ring.table, fleet.ring.mask
    suspects, getpid, now = fleet.suspects, os.getpid, time.time
    template, tally, unpack, unpack_head = recipe.read_template, recipe.tally, recipe.packer.unpack, HEAD.unpack_from
    on_hit, tokens = env.hooks.on_hit, env.opaques
    grouped = len(recipe.generations) == 1

    def read(key: bytes, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if suspects or getpid() != fleet.pid:
            return slow.from_the_start(key, function, args, kwargs)
        index = table[crc32(key) & mask]
        row = fleet.shelves.rows[index]
        connection: AnyConnection | None = None
        try:
            connection = row.pop() if row else fleet.connect(index)
            opaque = next(tokens)
            data = connection.ask(template % ((key, opaque, opaque) if grouped else (key, opaque)))
            line_end = data.find(b"\r\n")
            words = data[:line_end].split(b" ")
            # VA <size> c<cas> f<flags> t<seconds> O<opaque>, and neither W, Z nor X behind it.
            if len(words) == 6 and words[0] == b"VA" and line_end > 0:
                begin = line_end + 2
                end = begin + int(words[1])
                if len(data) < end + 2:
                    data = connection.finish(data, end + 2, and_more=grouped)
                if end - begin > HEAD.size:
                    version, groups, at, own, created, ttl, _, _, hard, delta, generation = unpack_head(data, begin)
                    age = now() * 1000.0 - created
                    seen = (hard - int(words[4][1:])) * 1000.0
                    if hard and not seen - 1000.0 <= age <= seen + 1000.0:
                        age = seen + (1000.0 if age > seen else -1000.0)
                    tail = b"\r\nHD c%d O%d Z\r\n" % (generation, opaque) if grouped else b"\r\n"
                    if (
                        (age < ttl or ttl == FOREVER)
                        and own == key[-16:]
                        and data.endswith(tail, end)
                        and len(data) == end + len(tail)
                        and words[5] == b"O%d" % opaque
                        and version == VERSION
                        and groups == 1
                        and (grouped or not generation)
                    ):
                        value = unpack(int(words[3][1:]) ^ ENVELOPED, data[begin + at : end])
                        row.append(connection)
                        tally.hits += 1
                        tally.saved_us += delta
                        if on_hit.listeners:
                            on_hit.emit(Hit(recipe.name, key.decode(), fleet.names[index], max(age, 0.0) / 1000.0))
                        return value
            elif len(words) == 7 and words[6] == b"W" and words[1] == b"0":
                # Plainly ours to fill: the same one look at the reply, then the flow that does it.
                mine = _mine(words, data[line_end:], opaque, grouped)
                if mine is not None:
                    row.append(connection)
                    return slow.fill(slow.job(key, index, function, args, kwargs), *mine)
        except ServerError as error:
            return slow.after_failure(slow.job(key, index, function, args, kwargs), connection, error)
        except (ValueError, DecodeError):
            pass  # not what we store: the long way parses it properly
        return slow.after_reply(slow.job(key, index, function, args, kwargs), connection, data, opaque)

    return read


def _mine(words: list[bytes], rest: bytes, opaque: int, grouped: bool) -> tuple[int, tuple[int, ...]] | None:
    """The lease's CAS number and the generations in the reply to a read that found nothing; None: parse it properly."""
    if words[0] != b"VA" or words[3] != b"f0" or words[5] != b"O%d" % opaque:
        return None
    if not grouped:
        return (int(words[2][1:]), ()) if rest == b"\r\n\r\n" else None
    line = rest[4:].split(b" ")
    if len(line) != 4 or line[0] != b"HD" or line[2] != words[5] or line[3] not in (b"Z\r\n", b"W\r\n"):
        return None
    return int(words[2][1:]), (int(line[1][1:]),)


class _SlowPath:
    """Where the hit path hands over: the same read, told to the flows."""

    def __init__(self, recipe: Recipe, fleet: Fleet, env: Env) -> None:
        self.recipe, self.fleet, self.env = recipe, fleet, env

    def job(self, key: bytes, index: int, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job:
        """The call as the flows want it."""
        return Job(self.recipe, key, index, partial(function, *args, **kwargs))

    def from_the_start(self, key: bytes, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Nothing has been asked yet."""
        job = self.job(key, self.fleet.ring.index(key), function, args, kwargs)
        return run(call(job, self.env, None), self.fleet)

    def fill(self, job: Job, cas: int, generations: tuple[int, ...]) -> Any:
        """Nothing is stored, and the lease is ours."""
        self.env.missed(job, "absent")
        return run(fill(job, self.env, Lease(cas, self.env.monotonic(), generations)), self.fleet)

    def after_reply(self, job: Job, connection: AnyConnection, data: bytes, opaque: int) -> Any:
        """A reply came that is not plainly fresh; ``data`` is its beginning or all of it."""
        try:
            replies = connection.replies(data, 1 + len(self.recipe.generations), opaque)
        except ServerError as error:
            return self.after_failure(job, connection, error)
        self.fleet.put(job.server, connection)
        return run(call(job, self.env, Replies(replies, self.env.monotonic())), self.fleet)

    def after_failure(self, job: Job, connection: AnyConnection | None, error: ServerError) -> Any:
        """The read failed. On a ``connection`` that the server had closed it is made once more, on a new one."""
        if connection is not None and isinstance(error, Unreachable):
            self.fleet.drop(job.server)
            return run(call(job, self.env, None), self.fleet)
        if connection is not None:
            self.fleet.failed(job.server, error)
        self.env.trouble(job, error)
        self.env.missed(job, "no answer")
        return run(without_server(job, self.env), self.fleet)
