"""The baselines: the least that pure Python can do.

A blocking socket with TCP_NODELAY, one `sendall`, one receive, a minimal parse; no timeout, no reconnect, no check of
the key. Each choice below was the fastest of several that were tried on small and on large values (the slower ones are
named at
the line).
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any
from zlib import crc32

BUFFER_BYTES = 4 << 20
SMALL_BYTES = 16 << 10


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class RawClient:
    """get, set and delete on one server.

    A get receives into a buffer that is there already: `recv(4096)` costs the same for 100 bytes and 8 % more for 100
    KiB, since the pieces have to be joined; a peek at the header first costs two system calls more.
    """

    def __init__(self, address: str) -> None:
        self._socket = connect(address)
        self._sendall = self._socket.sendall
        self._receive_into = self._socket.recv_into
        self._receive = self._socket.recv
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)

    def get(self, key: bytes) -> bytes | None:
        self._sendall(b"mg " + key + b" v\r\n")
        buffer = self._buffer
        received = self._receive_into(buffer)
        end = buffer.find(b"\r\n", 2, received) + 2
        if end == 4:  # "EN": not there
            return None
        stop = end + int(buffer[3:end])
        if received < stop + 2:
            self._receive_into(self._view[received:], stop + 2 - received, socket.MSG_WAITALL)
        return bytes(self._view[end:stop])

    def set(self, key: bytes, value: bytes) -> bool:
        if len(value) < SMALL_BYTES:
            self._sendall(b"ms %b %d T300\r\n%b\r\n" % (key, len(value), value))
        else:  # one copy less: 5 % of 100 KiB
            parts = (b"ms %b %d T300\r\n" % (key, len(value)), value, b"\r\n")
            sent = self._socket.sendmsg(parts)
            if sent < sum(map(len, parts)):
                self._sendall(b"".join(parts)[sent:])
        return self._receive(64) == b"HD\r\n"

    def delete(self, key: bytes) -> bool:
        self._sendall(b"md " + key + b"\r\n")
        return self._receive(64) == b"HD\r\n"

    def close(self) -> None:
        self._socket.close()


class RawRing:
    """The same over several servers: a key's server is crc32 modulo their number."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._clients = [RawClient(address) for address in addresses]
        self._sockets = [client._socket for client in self._clients]
        self._count = len(self._clients)

    def get(self, key: bytes) -> bytes | None:
        return self._clients[crc32(key) % self._count].get(key)

    def set(self, key: bytes, value: bytes) -> bool:
        return self._clients[crc32(key) % self._count].set(key, value)

    def delete(self, key: bytes) -> bool:
        return self._clients[crc32(key) % self._count].delete(key)

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """All servers at once: every request is sent before the first reply is read."""
        parts = self._split(keys)
        for connection, part in parts:
            connection.sendall(b"get " + b" ".join(part) + b"\r\n")
        found: dict[bytes, bytes] = {}
        for connection, part in parts:
            parse_values(receive_until(connection, b"END\r\n"), part, found)
        return found

    def get_many_in_turn(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Server by server."""
        found: dict[bytes, bytes] = {}
        for connection, part in self._split(keys):
            connection.sendall(b"get " + b" ".join(part) + b"\r\n")
            parse_values(receive_until(connection, b"END\r\n"), part, found)
        return found

    def set_many(self, values: Mapping[bytes, bytes]) -> list[bytes]:
        """All servers at once, and only what went wrong is answered (the q flag)."""
        parts = self._split(values)
        for connection, part in parts:
            connection.sendall(_sets(part, values, b" q"))
        return [failed for connection, _ in parts for failed in _failures(receive_until(connection, b"MN\r\n"))]

    def set_many_in_turn(self, values: Mapping[bytes, bytes]) -> list[bytes]:
        """Server by server, each key's reply read."""
        failed: list[bytes] = []
        for connection, part in self._split(values):
            connection.sendall(_sets(part, values, b""))
            replies = receive_until(connection, b"MN\r\n").split(b"\r\n")
            failed += [key for key, reply in zip(part, replies, strict=False) if reply != b"HD"]
        return failed

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def _split(self, keys: Iterable[bytes]) -> list[tuple[socket.socket, list[bytes]]]:
        count = self._count
        parts: list[list[bytes]] = [[] for _ in range(count)]
        for key in keys:
            parts[crc32(key) % count].append(key)
        return [(connection, part) for connection, part in zip(self._sockets, parts, strict=True) if part]


def _sets(keys: Iterable[bytes], values: Mapping[bytes, bytes], flags: bytes) -> bytes:
    requests = [b"ms %b %d T300%b\r\n%b\r\n" % (key, len(values[key]), flags, values[key]) for key in keys]
    return b"".join(requests) + b"mn\r\n"


def _failures(replies: bytes) -> list[bytes]:
    return replies.split(b"\r\n")[:-2]


def receive_until(connection: socket.socket, tail: bytes) -> bytes:
    data = connection.recv(1 << 16)
    while not data.endswith(tail):
        data += connection.recv(1 << 16)
    return data


def parse_values(data: bytes, keys: Iterable[bytes], found: dict[bytes, bytes]) -> None:
    """Read `VALUE key flags size` blocks: they come in the order asked, so a key is only compared, never cut out."""
    position, find, starts = 0, data.find, data.startswith
    for key in keys:
        if starts(key, position + 6):
            end = find(b"\r\n", position) + 2
            stop = end + int(data[position + 9 + len(key) : end])  # the flags are 0: one digit and a space
            found[key] = data[end:stop]
            position = stop + 2


def decorated_key(args: tuple[object, ...], kwargs: Mapping[str, object]) -> bytes:
    """The key of the raw decorator: a digest of the arguments' repr (it does not bind, and confuses equal reprs)."""
    return blake2b(repr((args, sorted(kwargs.items()))).encode(), digest_size=16).hexdigest().encode()


def raw_decorator(client: RawClient | RawRing) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The least a caching decorator can do: repr and BLAKE2b for the key, pickle, get, and set after a miss."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        get, put, loads, dumps = client.get, client.set, pickle.loads, pickle.dumps

        def wrapper(*args: object, **kwargs: object) -> Any:
            key = blake2b(repr((args, sorted(kwargs.items()))).encode(), digest_size=16).hexdigest().encode()
            payload = get(key)
            if payload is not None:
                return loads(payload)
            result = function(*args, **kwargs)
            put(key, dumps(result, 5))
            return result

        return wrapper

    return decorate
