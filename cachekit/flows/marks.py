"""What an entry stands under beside the generations that every read of it asks for: tags that its function named while
it ran, and whatever the cached calls inside of that run stood under.

They stand in the entry's header as marks, each with the number that held when the value was made::

    a call inside    ``hand_on``    tells the run that it was made in what its value stands under
    the run ends     ``gathered``   tags: asked for now, on the entry's own server; what the calls inside stood under
                                    is known, with the server and the number that it was valid under there
    a later read     ``confirmed``  every mark is asked for on its own server, in one more window: a bump reaches the
                                    servers one by one, so another copy proves nothing. A server that can't be asked
                                    makes the entry void

**A tag named in the run** was read after the source, perhaps: what the function read may be older than the last bump.
So a record that is younger than the run, give or take what the server's clock of whole seconds hides, makes the result
unstorable; so does one that is not there yet. What the entry before named is asked for before the run, and so does who
finds a pass marker: it names the tags of the run that left it.

**Numbers begin anew with a restarted server** that does not take them from its clients. What stands under a mark of the
entry's own server was lost with the mark. Of another server the mark tells its boot, too (``boots.py``).
"""

# Annotations are not postponed here, as in the other flows.

from cachekit import meta
from cachekit.codecs.envelope import MAX_MARKS, Header, Mark
from cachekit.env import Env, Job
from cachekit.errors import ServerError
from cachekit.flows.boots import BOOT, boot_in, boot_of
from cachekit.flows.frames import FILLING, Notes, Stood, around
from cachekit.flows.lease import NOTHING_KNOWN, Known, Lease
from cachekit.generations import softly_void
from cachekit.keys.tags import tag_key
from cachekit.meta import Reply
from cachekit.ops import Exchange, Flow, Gather, Replies
from cachekit.policy import Verdict
from cachekit.recipe import TAG_LIFE_S

_MARGIN_S = 2.0
"""Seconds by which a record may look older than it is: the server's clock ticks in whole seconds, and stands still
while the server is stopped; for longer than a deadline no bump is acknowledged.
"""

_LONGEST_MARKS = 60_000
"""Bytes of a header that marks may take."""

TOO_MANY = f"too many groups: at most {MAX_MARKS} beside its own, those of the calls inside among them"

_FIRST_GIVEN = 2**60
"""From here on numbers were given by clients, by their clocks, and are never used again (``Env.number``); no server
counts so far.
"""


# -- a call inside ---------------------------------------------------------------------------------------------------


def notes_for(job: Job, lease: Lease | None = None) -> Notes:
    """What a run of ``job``, under ``lease`` if it has one, will say and hear."""
    notes = Notes()
    if not job.recipe.terms.inherit:
        notes.hears = False
    if lease is not None:
        notes.under = lease.generations, lease.since
    return notes


def hand_on(job: Job, env: Env, numbers: tuple[int, ...] | None, since: float, marks: tuple[Mark, ...] = ()) -> None:
    """Let the run that this call is made in, if it is inside of one, know what its value stands under: ``numbers`` of
    ``job.groups``, as asked for after ``since`` (monotonic seconds), None where they are not known; and ``marks``.
    """
    outer = FILLING.get() and around()
    if not outer or not outer[-1].notes.hears:
        return
    frame, name, groups = outer[-1], env.server_names[job.server], job.groups
    if numbers is None or (groups and len(numbers) != len(groups)):
        doubt = f"nested: it can't be told under what {job.recipe.name}, which was computed inside, stood"
    elif (groups or marks) and env.private and frame.flights is not env.flights:
        doubt = f"other cache: {job.recipe.name} inside is kept by another cache, in memory; see Policy(inherit=False)"
    else:
        for key, number in zip(groups, numbers, strict=False):
            frame.notes.inherit(Stood(name, key, number), since)
        for mark in marks:
            frame.notes.inherit(Stood(mark.server or name, mark.key, mark.number, mark.boot), since)
        return
    frame.notes.unsure = frame.notes.unsure or doubt


def hand_up(env: Env, notes: Notes) -> None:
    """What was said inside of a run that has no entry of its own holds for the run around it, too."""
    outer = around()
    if not outer or not notes.said or not outer[-1].notes.hears:
        return
    frame, doubt = outer[-1], notes.unsure
    for stood, since in notes.heard():
        frame.notes.inherit(stood, since)
    if notes.tags and frame.flights is env.flights:
        frame.notes.name(notes.tags)
    elif notes.tags:
        doubt = doubt or "other cache: a function inside that names tags is kept by another cache"
    frame.notes.unsure = frame.notes.unsure or doubt


# -- the run ends ----------------------------------------------------------------------------------------------------


def gathered(job: Job, env: Env, notes: Notes, lease: Lease, began: float) -> Flow[tuple[tuple[Mark, ...], str]]:
    """The marks for the result of a run that began at ``began`` (monotonic seconds) and has ended, and why it can't be
    stored, "" where it can. Where it can't be, the marks name the tags for the next run.
    """
    if not notes.said:
        return (), ""
    named = [key for tag in notes.tags if (key := tag_key(job.recipe.prefix, tag)) not in job.tags]
    numbers = {key: lease.known.numbers.get(("", key), 0) for key in named}
    inherited, reason = list[Mark](), notes.unsure
    if not reason:
        try:
            if unknown := [key for key in named if not numbers[key]]:
                replies = yield tag_questions(job, env, unknown)
                numbers.update(_old_enough(unknown, replies, env.monotonic() - began))
            inherited, reason = yield from _inherited(job, env, notes, lease)
        except ServerError as error:
            env.trouble(job, error)
            reason = "lost"
    marks = tuple([Mark("", key, numbers[key], named=True) for key in named])
    if reason or not all(numbers.values()):
        return marks, reason or "young tag"
    marks += tuple([mark for mark in inherited if mark.server or mark.number != numbers.get(mark.key)])
    return (marks, "") if has_room(marks) else ((), TOO_MANY)


def has_room(marks: tuple[Mark, ...]) -> bool:
    """Whether a header can hold them."""
    size = sum(len(mark.key) + len(mark.boot) + len(mark.server.encode()) + 16 for mark in marks)
    return len(marks) <= MAX_MARKS and size < _LONGEST_MARKS


def tag_questions(job: Job, env: Env, keys: list[bytes]) -> Exchange:
    """Ask the entry's own server for the records of tags, and for how long they have been there."""
    opaque, number = env.opaque(), env.number(job.server)
    how = b"c t N%d E%d O%d" % (TAG_LIFE_S, number, opaque) if number else b"c t N%d O%d" % (TAG_LIFE_S, opaque)
    lines = [meta.mg(key, how) for key in keys]
    return Exchange(job.server, b"".join(lines), len(lines), opaque, retry=True)


def _old_enough(keys: list[bytes], replies: Replies, ran_s: float) -> dict[bytes, int]:
    """The numbers of records that were there before the run began, ``ran_s`` seconds before the answer came."""
    found = {}
    for key, reply in zip(keys, replies.replies, strict=True):
        age_s = TAG_LIFE_S - reply.ttl if reply.ttl is not None and reply.ttl > 0 else 0.0
        if reply.cas and age_s > ran_s + _MARGIN_S:
            found[key] = reply.cas
    return found


def _inherited(job: Job, env: Env, notes: Notes, lease: Lease) -> Flow[tuple[list[Mark], str]]:
    """What the calls inside stood under, or why that is no good. Raises ``ServerError`` where it can't be told since
    when a server's numbers have counted.
    """
    own, asked_anyway = env.server_names[job.server], set(zip(job.groups, lease.generations, strict=False))
    marks = dict[Mark, None]()  # each once, in their order
    unbooted: dict[int, list[tuple[Stood, float]]] = {}
    for stood, since in notes.heard():
        if stood.server not in env.server_names:
            return [], f"other cache: a call inside is kept on {stood.server}, no server of this one's"
        if stood.server == own:
            if (stood.key, stood.number) not in asked_anyway:
                marks[Mark("", stood.key, stood.number)] = None
        elif stood.boot or stood.number >= _FIRST_GIVEN:
            marks[Mark(stood.server, stood.key, stood.number, boot=stood.boot)] = None
        else:
            unbooted.setdefault(env.server_names.index(stood.server), []).append((stood, since))
    for server, those in unbooted.items():
        boot = yield from boot_of(env, server, min([since for _, since in those]))
        for stood, _ in those:
            marks[Mark(stood.server, stood.key, stood.number, boot=boot)] = None
    return list(marks), ""


# -- a later read ----------------------------------------------------------------------------------------------------


def confirmed(job: Job, env: Env, header: Header, *, make: bool = True) -> Flow[tuple[Verdict, Known]]:
    """Whether the marks in ``header`` hold still: FRESH, SOFT or VOID; and their numbers now.

    ``make``: make the records of those that are not there, for a run that is to come.
    """
    by_server: dict[int, list[Mark]] = {}
    for mark in header.marks:
        if mark.server and mark.server not in env.server_names:
            return Verdict.VOID, NOTHING_KNOWN
        server = env.server_names.index(mark.server) if mark.server else job.server
        by_server.setdefault(server, []).append(mark)
    verdicts, known = {Verdict.FRESH}, NOTHING_KNOWN
    outcomes = yield Gather(tuple([_questions(server, marks, env, make) for server, marks in by_server.items()]))
    for (server, marks), outcome in zip(by_server.items(), outcomes, strict=True):
        if isinstance(outcome, ServerError):
            env.failed_at(server, job.recipe.tally, outcome)
            verdicts.add(Verdict.VOID)
            continue
        if header.created_ms < env.distrust.get(server, 0.0) * 1000.0:
            verdicts.add(Verdict.VOID)
        boot = boot_in(outcome.replies[len(marks) :])
        told = list(zip(marks, outcome.replies, strict=False))
        verdicts.update([_holds(mark, reply, boot) for mark, reply in told])
        numbers = {(mark.server, mark.key): reply.cas for mark, reply in told if reply.cas}
        known = known.and_also(Known(numbers, outcome.sent_at))
    worst = next(each for each in (Verdict.VOID, Verdict.SOFT, Verdict.FRESH) if each in verdicts)
    return worst, known


def _questions(server: int, marks: list[Mark], env: Env, make: bool) -> Exchange:
    opaque, number = env.opaque(), env.number(server)
    how = b" E%d O%d" % (number, opaque) if number else b" O%d" % opaque
    made = b"c v N%d" % TAG_LIFE_S if make else b"c v"
    lines = [meta.mg(mark.key, (made if mark.named else b"c v") + how) for mark in marks]
    if any(mark.boot for mark in marks):
        lines.append(meta.mg(BOOT, b"v O%d" % opaque))
    return Exchange(server, b"".join(lines), len(lines), opaque, retry=True)


def _holds(mark: Mark, reply: Reply, boot: bytes) -> Verdict:
    """Not by what is higher: numbers that clients give go by their clocks."""
    if reply.code != "VA" or not reply.cas or (mark.boot and mark.boot != boot):
        return Verdict.VOID
    if reply.cas == mark.number:
        return Verdict.FRESH
    return Verdict.SOFT if mark.number in (softly_void(reply) or ()) else Verdict.VOID


def snapshot(job: Job, env: Env, header: Header) -> Flow[Known]:
    """The numbers of the tags that ``header`` says were named by the run before, to be read before the next run. None
    where they can't be had.
    """
    named = [mark.key for mark in header.marks if mark.named]
    if not named:
        return NOTHING_KNOWN
    try:
        replies: Replies = yield tag_questions(job, env, named)
    except ServerError as error:
        env.trouble(job, error)
        return NOTHING_KNOWN
    numbers = {("", key): reply.cas for key, reply in zip(named, replies.replies, strict=True) if reply.cas}
    return Known(numbers, replies.sent_at)
