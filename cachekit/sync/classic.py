"""The answer to a classic ``get`` of one key, read off a connection to the last byte."""

from __future__ import annotations

from cachekit.errors import ProtocolError
from cachekit.sync.connection import is_size
from cachekit.sync.fleet import AnyConnection


def one_value(connection: AnyConnection, data: bytes, wire: bytes) -> tuple[int, bytes] | None:
    """Client flags and payload in the answer to a ``get`` of one key; None: nothing is stored."""
    if data == b"END\r\n":
        return None
    line_end = data.find(b"\r\n")
    if line_end > 0:
        words = data[:line_end].split(b" ")
        if len(words) == 4 and words[0] == b"VALUE" and words[1] == wire and words[2].isdigit() and is_size(words[3]):
            start = line_end + 2
            end = start + int(words[3])
            if len(data) < end + 7:
                payload, behind = connection.finish_value(data, start, end, 7)
            else:
                payload, behind = data[start:end], data[end:]
            if behind == b"\r\nEND\r\n":
                return int(words[2]), payload
    elif len(data) < 300:
        found = one_value(connection, connection.receive_more(data), wire)
        connection.rearm()
        return found
    connection.close()
    raise ProtocolError(f"the answer is not that to a get of this key: {data[:60]!r}", server=connection.name)
