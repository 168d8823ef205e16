"""What flows that are driven together share: one token, one count of each run, and one question for the generations."""

# Annotations are not postponed here, as in the other flows.

from collections.abc import Iterable

from cachekit.codecs.envelope import Header
from cachekit.env import Env, Job
from cachekit.ops import BATCH_KEYS, Replies
from cachekit.recipe import CLOSER, Recipe
from cachekit.tally import Tally

_TOLD = 15
"""So many failures before the last one are not told again; several servers may fail at once."""

COMMANDS = 1024
"""Most short commands in one batch for one server: reads and the questions for their tags; and in one window of what
flows ask of several servers each.
"""


def lot_size(jobs: list[Job]) -> int:
    """How many of ``jobs`` are read in one batch."""
    return max(1, min(BATCH_KEYS, COMMANDS // (1 + max(len(job.tags) for job in jobs))))


class SharedEnv(Env):
    """The surroundings of flows that are driven together: those of ``env``, but one token for all requests, and one
    count for each run and for each exchange that failed.

    Every read of ``recipe``'s ends with questions for its ``groups`` generations, of which a window needs one each;
    ``asks_behind`` is how they begin.
    """

    def __init__(self, env: Env, recipe: Recipe) -> None:
        self.__dict__.update(env.__dict__)
        self.origin = env
        self.recipe = recipe
        self.token = env.opaque()
        self.groups = len(recipe.generations)
        self.asks_behind = b"mg %b " % recipe.generations[0] if recipe.generations else b""
        self._told: list[Exception] = []
        self._saved_us = 0

    def opaque(self) -> int:
        """The token that all of them share."""
        return self.token

    def failed_at(self, server: int, tally: Tally, error: Exception) -> None:
        """An exchange failed; told by the first of the flows that it concerns."""
        if all(error is not each for each in self._told):
            self._told = [error, *self._told[:_TOLD]]
            self.origin.failed_at(server, tally, error)

    def hit(self, job: Job, header: Header | None, *, stale: bool = False) -> None:
        """A stored value was served. One run makes many values, and hits on them save one run: the longest."""
        super().hit(job, header, stale=stale)
        if header is not None:
            self.recipe.tally.saved_us -= min(self._saved_us, header.delta_us)
            self._saved_us = max(self._saved_us, header.delta_us)

    def filled(self, job: Job, seconds: float, reason: str) -> None:
        """One of the results of a run; the run itself is counted where it is made."""
        self.settled(job, seconds, reason)

    def cut(self, request: bytes, expected: int) -> tuple[bytes, bytes]:
        """A request in two: what is its own, and its questions for the generations, empty where it has none.

        A store has none, but its data may look like anything. No key has a space in it, so nothing else does.
        """
        if not self.groups or expected <= self.groups or request[:3] == b"ms ":
            return request, b""
        at = request.rfind(self.asks_behind)
        return (request[:at], request[at:]) if at > 0 else (request, b"")

    def together(self, asked: Iterable[tuple[bytes, int]]) -> tuple[bytes, int]:
        """Several reads, with how many replies each has, as one request with one question for the generations behind
        all of them; and how many replies that has.
        """
        parts: list[bytes] = []
        expected, last = 0, b""
        for request, replies in asked:
            own, behind = self.cut(request, replies)
            parts.append(own)
            expected += replies - (self.groups if behind else 0)
            if not last or CLOSER in behind:  # who asks for less can do with more
                last = behind
        return b"".join([*parts, last]), expected + (self.groups if last else 0)

    def apart(self, jobs: list[Job], lot: list[int], outcome: Replies) -> list[Replies]:
        """What each of those ``jobs`` that stand in ``lot`` would have got to its read alone, if all were asked in one
        request.
        """
        replies, at, found = outcome.replies, 0, []
        behind = replies[len(replies) - self.groups :]
        for position in lot:
            end = at + 1 + len(jobs[position].tags)
            found.append(Replies([*replies[at:end], *behind], outcome.sent_at))
            at = end
        return found
