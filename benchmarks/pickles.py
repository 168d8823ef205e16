"""R11: a pickle that somebody else wrote into the server, under every client flag of 16 bits: does reading it run code?

`python -m benchmarks.pickles [COUNT]` prints a Markdown row; COUNT limits the flags. The control unpickles what was
read.
"""

from __future__ import annotations

import pickle
import socket
import sys
from typing import Any

from benchmarks.servers import servers

SUNG: list[int] = []


def sing(number: int) -> int:
    SUNG.append(number)
    return number


class Canary:
    """Unpickling it appends to SUNG."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sing, (1,)


def measure(count: int) -> tuple[int, int]:
    """How often code ran: in cachekit's five ways of reading, and in the control."""
    from cachekit import MISS, Cache

    payload = pickle.dumps(Canary())
    with servers(1) as (server,), Cache([server.address]) as cache:

        @cache(ttl=60)
        def function(n: int) -> int:
            return n

        host, port = server.address.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as raw:
            for flags in range(count):
                for key in ("foreign", function.key(1)):
                    raw.sendall(b"ms %b %d F%d\r\n%b\r\n" % (key.encode(), len(payload), flags, payload))
                    assert raw.recv(100) == b"HD\r\n"
                cache.get("foreign", MISS)
                cache.gets("foreign", MISS)
                cache.get_many(["foreign"])
                assert function.peek(1) is MISS
                assert function(1) == 1
        ours = len(SUNG)
        SUNG.clear()
        for _ in range(count):
            pickle.loads(payload)
    return ours, len(SUNG)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 65_536
    ours, control = measure(count)
    print("| figure | client flags tried | ways of reading | code ran | control |")
    print("|---|---|---|---|---|")
    print(f"| R11 | {count:,} | 5 | {ours} | {control:,} |")
    return 0 if not ours else 1


if __name__ == "__main__":
    sys.exit(main())
