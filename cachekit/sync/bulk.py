"""Many keys at once: each server is asked for its share in the same window, batch after bounded batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cachekit.direct import Found as Found
from cachekit.direct import batches
from cachekit.direct import by_server as by_server
from cachekit.errors import ProtocolError, ServerError
from cachekit.ops import Replies
from cachekit.sync.fleet import AnyConnection, Fleet
from cachekit.sync.window import BATCH_KEYS, Ask, open_window

Take = Callable[[list[Found]], None]
"""Called with what one read off a connection brought; several times for a long answer."""

Failed = Callable[[int, ServerError], None]
"""Called with the index of a server that could not answer, and why."""


def fetch(
    keys: Iterable[bytes],
    fleet: Fleet,
    take: Take,
    failed: Failed,
    command: bytes = b"get",
    generation: bytes | None = None,
) -> dict[int, tuple[int, ...]]:
    """Read ``keys`` with the classic ``get`` or ``gets``, which take no lease and echo each key (protocol.txt,
    Retrieval).

    ``generation``: a record to ask for behind the values, in the same write; returns its number by server. Absent, it
    is not made.
    """
    waiting = by_server(keys, fleet)
    numbers: dict[int, tuple[int, ...]] = {}
    behind = b"" if generation is None else b"mg %b c\r\n" % generation
    while waiting:
        batch = {index: group[:BATCH_KEYS] for index, group in waiting.items()}
        asks: list[Ask] = [
            (index, b"%b %b\r\n%b" % (command, b" ".join(group), behind)) for index, group in batch.items()
        ]
        answers = [_Answer(set(group), take, generation is not None) for group in batch.values()]
        waiting = {index: group[BATCH_KEYS:] for index, group in waiting.items() if len(group) > BATCH_KEYS}

        def read(at: int, connection: AnyConnection, until: float, answers: list[_Answer] = answers) -> tuple[int, ...]:
            return answers[at].read(connection, until)

        for (index, _), outcome in zip(asks, open_window(asks, fleet, read), strict=True):
            if isinstance(outcome, ServerError):
                failed(index, outcome)
                waiting.pop(index, None)
            else:
                numbers[index] = outcome
    return numbers


class _Answer:
    """One server's answer to a classic multi-key read: VALUEs, END, and behind it perhaps a generation."""

    __slots__ = ("_behind", "_take", "_wanted")

    def __init__(self, wanted: set[bytes], take: Take, behind: bool) -> None:
        self._wanted, self._take, self._behind = wanted, take, behind

    def read(self, connection: AnyConnection, until: float) -> tuple[int, ...]:
        """Take everything off the connection; returns the generation, where one was asked for and is there."""
        data = connection.receive(until)
        at = self._values(data, connection)
        while not data.startswith(b"END\r\n", at) or (self._behind and data.find(b"\r\n", at + 5) < 0):
            if not (
                data.startswith(b"VALUE ", at)
                or b"VALUE ".startswith(data[at:])
                or b"END\r\n".startswith(data[at : at + 5])
            ):
                raise self._nonsense(data[at:], connection)
            # What was taken is let go of, so that a long answer is not copied again with every part of it.
            data = connection.receive_more(data[at:], until)
            at = self._values(data, connection)
        connection.rearm()
        return self._generation(data[at + 5 :], connection)

    def _values(self, data: bytes, connection: AnyConnection) -> int:
        """Take every whole value in ``data``; returns where the rest begins."""
        wanted, find, at, length = self._wanted, data.find, 0, len(data)
        found: list[Found] = []
        add, text, number = found.append, b"", 0
        try:
            while data.startswith(b"VALUE ", at) and (line_end := find(b"\r\n", at)) > 0:
                words = data[at:line_end].split(b" ")
                start = line_end + 2
                end = start + int(words[3])
                if end + 2 > length:
                    break
                key = words[1]
                if key not in wanted or end < start or data[end : end + 2] != b"\r\n":
                    raise ValueError(key)
                if words[2] != text:  # nearly always those of the value before
                    text, number = words[2], int(words[2])
                add((key, number, data[start:end], int(words[4]) if len(words) > 4 else 0))
                at = end + 2
        except (ValueError, IndexError):
            raise self._nonsense(data[at:], connection) from None
        self._take(found)
        return at

    def _generation(self, line: bytes, connection: AnyConnection) -> tuple[int, ...]:
        """The generation in what stands behind END."""
        if not self._behind:
            if line:
                raise self._nonsense(line, connection)
            return ()
        if line.startswith(b"HD c") and line.find(b"\r\n") == len(line) - 2:
            number = line[4:-2].partition(b" ")[0]
            if number.isdigit():
                return (int(number),)
        if line == b"EN\r\n":
            return ()
        raise self._nonsense(line, connection)

    def _nonsense(self, data: bytes, connection: AnyConnection) -> ProtocolError:
        connection.close()
        return ProtocolError(
            # Not the bytes themselves: errors are logged, and these may be a value.
            f"{connection.name}: {len(data)} bytes that are no answer to what was asked",
            server=connection.name,
        )


def send_all(
    commands: Mapping[bytes, bytes], fleet: Fleet, plain: bytes, failed: Failed, odd: dict[bytes, str] | None = None
) -> dict[bytes, str]:
    """Send one command a key; returns the reply's code for each key whose reply was not ``plain`` (the usual answer's
    bytes), LOST where it had none. ``odd``: a new dict for them, of use to those who must know also where this raises.

    The commands bear no opaque, so that the usual answer to a whole batch is known to the byte and is recognised by
    one comparison; replies come in the order of the commands.
    """
    odd = {} if odd is None else odd
    odd.update(dict.fromkeys(commands, "LOST"))
    groups = by_server(commands, fleet)
    waiting = {index: batches([commands[key] for key in group]) for index, group in groups.items()}
    while waiting:
        asks: list[Ask] = []
        counts: list[int] = []
        troubles: list[tuple[int, ServerError]] = []
        for index, cut in waiting.items():
            batch = cut.pop(0)
            asks.append((index, b"".join(batch)))
            counts.append(len(batch))

        def read(at: int, connection: AnyConnection, until: float, counts: list[int] = counts) -> Any:
            data = connection.receive(until)
            if data == plain * counts[at]:
                connection.rearm()
                return None
            replies = connection.replies(data, counts[at], None, until)
            connection.rearm()
            return Replies(replies, 0.0)

        for (index, _), count, outcome in zip(asks, counts, open_window(asks, fleet, read), strict=True):
            group = groups[index]
            keys, groups[index] = group[:count], group[count:]
            if isinstance(outcome, ServerError):
                troubles.append((index, outcome))
                waiting[index] = []
                continue
            codes = ["HD"] * count if outcome is None else [reply.code for reply in outcome.replies]
            for key, code in zip(keys, codes, strict=True):
                if code == "HD":
                    del odd[key]
                else:
                    odd[key] = code
        for index, error in troubles:
            failed(index, error)
        waiting = {index: cut for index, cut in waiting.items() if cut}
    return odd
