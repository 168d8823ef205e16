"""What an entry stands under beside the generations that every read of it asks for: tags that its function named while
it ran, and whatever the cached calls inside of that run stood under.

They stand in the entry's header as marks, each with the number that held when the value was made::

    the run ends     ``gathered``   tags: asked for now, on the entry's own server; what the calls inside stood under
                                    is known, with the server and the number that it was valid under there
    a later read     ``confirmed``  every mark is asked for on its own server, in one more window: a bump reaches the
                                    servers one by one, so another copy proves nothing. A server that can't be asked
                                    makes the entry void
    a run inside     ``hand_on``    what a call stood under is handed on to the run that it was made in

**A tag named in the run** was read after the source, perhaps: what the function read may be older than the last bump.
So a record that is younger than the run, give or take what the server's clock of whole seconds hides, makes the result
unstorable; so does one that is not there yet. What the entry before named is asked for before the run, and so does who
finds a pass marker: it names the tags of the run that left it.

**Numbers begin anew with a restarted server** that does not take them from its clients. Of another server than the
entry's own the mark therefore tells its boot too: a random text that the first who asks leaves there, and that no
restart brings back.
"""

# Annotations are not postponed here, as in the other flows.

from collections.abc import Iterable, Mapping

from cachekit import meta
from cachekit.codecs.envelope import MAX_MARKS, Header, Mark
from cachekit.env import Env, Job
from cachekit.errors import ServerError
from cachekit.flows.frames import Notes, Stood, around
from cachekit.keys.tags import tag_key
from cachekit.meta import Reply
from cachekit.ops import Exchange, Flow, Gather, LeaseVoid, Replies
from cachekit.policy import Verdict
from cachekit.recipe import TAG_LIFE_S, softly_void

_MARGIN_S = 2.0
"""Seconds by which a record may look older than it is: the server's clock ticks in whole seconds, and stands still
while the server is stopped; for longer than a deadline no bump is acknowledged.
"""

_LONGEST_MARKS = 60_000
"""Bytes of a header that marks may take."""

Known = Mapping[bytes, int]
"""Numbers of tags by the wire keys of their records, read before a run."""


# -- a later read ----------------------------------------------------------------------------------------------------


def confirmed(job: Job, env: Env, header: Header, *, make: bool = True) -> Flow[tuple[Verdict, Known]]:
    """Whether the marks in ``header`` hold still: FRESH, SOFT or VOID; and the numbers of the tags that the function
    named, as they are now.

    ``make``: make the records of those that are not there, for a run that is to come.
    """
    by_server: dict[int, list[Mark]] = {}
    for mark in header.marks:
        server = job.server if not mark.server else _index(env, mark.server)
        by_server.setdefault(server, []).append(mark)
    if -1 in by_server:
        return Verdict.VOID, {}
    asks = [_questions(server, marks, env, make) for server, marks in by_server.items()]
    verdicts: set[Verdict] = set()
    known: dict[bytes, int] = {}
    outcomes = yield Gather(tuple(asks))
    for (server, marks), outcome in zip(by_server.items(), outcomes, strict=True):
        if isinstance(outcome, ServerError):
            env.failed_at(server, job.recipe.tally, outcome)
            verdicts.add(Verdict.VOID)
            continue
        boot = _boot_in(outcome.replies[len(marks) :])
        for mark, reply in zip(marks, outcome.replies, strict=False):
            verdicts.add(_holds(mark, reply, boot))
            if mark.named and reply.cas:
                known[mark.key] = reply.cas
    verdict = Verdict.VOID if Verdict.VOID in verdicts else Verdict.SOFT if Verdict.SOFT in verdicts else Verdict.FRESH
    return verdict, known


def _index(env: Env, server: str) -> int:
    return env.server_names.index(server) if server in env.server_names else -1


def _questions(server: int, marks: list[Mark], env: Env, make: bool) -> Exchange:
    opaque, number = env.opaque(), env.number(server)
    how = b" E%d O%d" % (number, opaque) if number else b" O%d" % opaque
    made = b"c v N%d" % TAG_LIFE_S if make else b"c v"
    lines = [meta.mg(mark.key, (made if mark.named else b"c v") + how) for mark in marks]
    if any(mark.boot for mark in marks):
        lines.append(meta.mg(_BOOT, b"v O%d" % opaque))
    return Exchange(server, b"".join(lines), len(lines), opaque, retry=True)


def _holds(mark: Mark, reply: Reply, boot: bytes) -> Verdict:
    now = reply.cas
    if reply.code != "VA" or not now or now < mark.number or (mark.boot and mark.boot != boot):
        return Verdict.VOID
    if now == mark.number:
        return Verdict.FRESH
    return Verdict.SOFT if mark.number in (softly_void(reply) or ()) else Verdict.VOID


# -- a run -----------------------------------------------------------------------------------------------------------


def snapshot(job: Job, env: Env, header: Header) -> Flow[Known]:
    """The numbers of the tags that ``header`` says were named by the run before, to be read before the next run. Raises
    ``ServerError``.
    """
    named = [mark.key for mark in header.marks if mark.named]
    if not named:
        return {}
    replies = yield _tag_questions(job, env, named)
    return {key: reply.cas for key, reply in zip(named, replies.replies, strict=True) if reply.cas}


def _tag_questions(job: Job, env: Env, keys: Iterable[bytes]) -> Exchange:
    opaque, number = env.opaque(), env.number(job.server)
    how = b"c t N%d E%d O%d" % (TAG_LIFE_S, number, opaque) if number else b"c t N%d O%d" % (TAG_LIFE_S, opaque)
    lines = [meta.mg(key, how) for key in keys]
    return Exchange(job.server, b"".join(lines), len(lines), opaque, retry=True)


def gathered(job: Job, env: Env, notes: Notes, known: Known, ran_s: float) -> Flow[tuple[tuple[Mark, ...], str]]:
    """The marks for the result of a run that has ended after ``ran_s`` seconds, and why it can't be stored, "" where it
    can. Where it can't be, the marks name the tags for the next run.
    """
    if not notes.said:
        return (), ""
    named = [key for tag in notes.tags if (key := tag_key(job.recipe.prefix, tag)) not in job.tags]
    numbers, reason = dict(known), ""
    try:
        unknown = [key for key in named if key not in known]
        if unknown:
            replies = yield _tag_questions(job, env, unknown)
            numbers.update(_old_enough(unknown, replies, ran_s))
        inherited = yield from _inherited(job, env, notes)
    except ServerError as error:
        env.trouble(job, error)
        inherited, reason = None, "lost"
    marks = tuple([Mark("", key, numbers.get(key, 0), named=True) for key in named])
    if notes.unsure:
        reason = f"nested: {notes.unsure} was computed inside, and its invalidations could not reach this result"
    elif not reason and not all(mark.number for mark in marks):
        reason = "young tag"
    elif not reason and not _room(marks + (inherited or ())):
        marks, reason = (), f"too many groups: at most {MAX_MARKS} beside its own"
    return (marks, reason) if reason or inherited is None else (marks + inherited, "")


def _room(marks: tuple[Mark, ...]) -> bool:
    """Whether a header can hold them."""
    size = sum(len(mark.key) + len(mark.boot) + len(mark.server.encode()) + 16 for mark in marks)
    return len(marks) <= MAX_MARKS and size < _LONGEST_MARKS


def _old_enough(keys: list[bytes], replies: Replies, ran_s: float) -> dict[bytes, int]:
    """The numbers of records that were there before the run began."""
    found = {}
    for key, reply in zip(keys, replies.replies, strict=True):
        age_s = TAG_LIFE_S - reply.ttl if reply.ttl is not None and reply.ttl > 0 else 0.0
        if reply.cas and not reply.won and age_s > ran_s + _MARGIN_S:
            found[key] = reply.cas
    return found


def _inherited(job: Job, env: Env, notes: Notes) -> Flow[tuple[Mark, ...]]:
    """What the calls inside stood under. Raises ``ServerError`` where it can't be told since when the servers' numbers
    have counted.
    """
    own = env.server_names[job.server]
    marks, foreign = [], dict[int, float]()
    for (name, key), stood in (notes.inherited or {}).items():
        if name == own:
            marks.append(Mark("", key, stood.number))
            continue
        index = _index(env, name)
        if index < 0:
            notes.unsure = notes.unsure or f"a call that is kept on {name}"
        elif index not in env.explicit and not stood.boot:
            foreign[index] = min(stood.since, foreign.get(index, stood.since))
    boots = {}
    for index, since in foreign.items():
        boots[env.server_names[index]] = yield from _boot(job, env, index, since)
    for (name, key), stood in (notes.inherited or {}).items():
        if name != own:
            marks.append(Mark(name, key, stood.number, boot=stood.boot or boots.get(name, b"")))
    return tuple(marks)


def hand_on(job: Job, env: Env, numbers: tuple[int, ...] | None, since: float, marks: tuple[Mark, ...] = ()) -> None:
    """Let the run that this call is made in, if it is inside of one, know what its value stands under: ``numbers`` of
    ``job.groups``, as asked for after ``since`` (monotonic seconds), None where they are not known; and ``marks``.
    """
    outer = around()
    if not outer:
        return
    frame, name = outer[-1], env.server_names[job.server]
    groups = job.groups
    if not groups and not marks:
        return
    elsewhere = env.private and frame.flights is not env.flights
    if elsewhere or (groups and (numbers is None or len(numbers) != len(groups))):
        frame.notes.unsure = job.recipe.name
        return
    for key, number in zip(groups, numbers or (), strict=False):
        frame.notes.inherit(name, key, Stood(number, since))
    for mark in marks:
        frame.notes.inherit(mark.server or name, mark.key, Stood(mark.number, since, mark.boot))


def hand_up(notes: Notes) -> None:
    """What was inside of a run that is not kept itself was inside of the run around it, too."""
    outer = around()
    if outer:
        for (server, key), stood in (notes.inherited or {}).items():
            outer[-1].notes.inherit(server, key, stood)
        outer[-1].notes.unsure = outer[-1].notes.unsure or notes.unsure


# -- restarts --------------------------------------------------------------------------------------------------------


_BOOT = b"boot=cachekit"
"""The key of a server's boot mark, the same for every prefix."""


def _boot_in(replies: list[Reply]) -> bytes:
    return (replies[0].value or b"") if replies else b""


def _boot(job: Job, env: Env, server: int, since: float) -> Flow[bytes]:
    """The boot of a server that has not been restarted since ``since`` (monotonic seconds). Raises ``ServerError``
    where that can't be told.
    """
    opaque = env.opaque()
    add = meta.ms(_BOOT, env.nonce(), b"ME T0 O%d" % opaque)
    known = env.boots.get(server)
    # The one that was seen before then, and stands there still, has not changed meanwhile.
    held = None if known is not None and known[1] <= since else since
    ask = Exchange(server, add + meta.mg(_BOOT, b"v O%d" % opaque), 2, opaque, held_since=held, skip=1)
    try:
        replies = yield ask
    except LeaseVoid:
        held, replies = 0.0, (yield ask._replace(held_since=None))
    boot, seen = _boot_in(replies.replies), replies.sent_at
    if known is None or known[0] != boot:
        env.boots[server] = boot, seen
    if not boot or held == 0.0 or (held is None and known is not None and known[0] != boot):
        raise LeaseVoid(f"{env.server_names[server]} may have been restarted", server=env.server_names[server])
    return boot
