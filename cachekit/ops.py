"""What a flow may ask of the shell that drives it: small frozen values, one per kind of effect.

A flow is a generator: it yields an op and is sent the outcome, or gets the outcome's exception thrown in at the same
place. It never touches a socket, a clock or a lock itself, so a test can drive it with a list of scripted answers, and
the sync and the asyncio shells tell the same story. (Named tuples and not dataclasses: a frozen dataclass takes three
times as long to make.)
"""

# Annotations are not postponed here: a NamedTuple would compile each of them as text (docs/design/imports.md).

from collections.abc import Callable, Generator, Iterable
from typing import Any, NamedTuple, TypeAlias, TypeVar

from cachekit.errors import Unreachable
from cachekit.flights import Flight
from cachekit.meta import Reply

BATCH_KEYS = 256
"""Most commands in one batch for one server."""

BATCH_BYTES = 131_072
"""Most bytes in one batch for one server, a single larger value excepted."""


class LeaseVoid(Unreachable):
    """The connection that the lease was given on is gone; the server may have been restarted since."""


class Exchange(NamedTuple):
    """Send ``request`` to a server, and answer with its ``expected`` replies as ``Replies``. Raises a ``ServerError``.

    ``expected`` leaves out the VALUE lines of a classic read, which say nothing of how many there are: a ``get`` of any
    number of keys ends with one END. ``opaque``: the token that every reply must echo; None: they bear none, and
    ``fits`` says whether they answer what was asked; where they don't, the connection is closed, and ``ProtocolError``
    raised. ``lost`` is told when a request that may be sent once more got no answer: a lease may have been in it.
    ``skip``: how many replies at the front are of no interest.
    ``held_since``: monotonic seconds at which the lease was given that this request spends. CAS numbers begin anew with
    a restarted server, so such a request goes only over a connection opened before that; there being none raises
    ``LeaseVoid``. ``retry``: the request may be sent once more when the connection turns out to have been closed.
    """

    server: int
    request: bytes
    expected: int
    opaque: int | None
    retry: bool = False
    held_since: float | None = None
    skip: int = 0
    fits: Callable[[list[Reply]], bool] | None = None
    lost: Callable[[], None] | None = None


class Replies(NamedTuple):
    """The replies to an exchange, and the monotonic seconds just before it was sent."""

    replies: list[Reply]
    sent_at: float


class Gather(NamedTuple):
    """Several exchanges with different servers at once; answers with a list of ``Replies`` or ``ServerError``, in
    order.
    """

    exchanges: tuple[Exchange, ...]


class Compute(NamedTuple):
    """Run the user's function inside ``frame``, which says what it fills; answers with its result, raises what it
    raises.
    """

    call: Callable[[], Any]
    frame: Any


class Spawn(NamedTuple):
    """Drive ``flow`` in the background, in a copy of the current context; answers at once, True when that will be done,
    False when there is no room for it.
    """

    flow: Any


class Sleep(NamedTuple):
    """Do nothing for ``seconds``."""

    seconds: float


class Join(NamedTuple):
    """Wait up to ``timeout_s`` for a fill under way in this process; answers True when it landed, False when the time
    was up, None at once where it can't land before the caller goes on: a signal handler in the pilot's own thread.
    """

    flight: Flight
    timeout_s: float


class Each(NamedTuple):
    """Drive each of ``flows`` to its end; answers with what they returned, in their order.

    Threads drive one after the other, and take the next out of ``flows`` when the one before has ended; asyncio drives
    all of them side by side. The first exception ends those that go on, and is raised.
    """

    flows: Iterable[Any]


Op: TypeAlias = Exchange | Gather | Compute | Spawn | Sleep | Join | Each
R = TypeVar("R")
Flow: TypeAlias = Generator[Op, Any, R]
