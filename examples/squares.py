"""The smallest complete program: a slow function, decorated, called three times.

::

    python examples/squares.py                                            # the embedded server: nothing to set up
    python examples/squares.py --servers memcached://127.0.0.1:11211      # a real one; run it twice
"""

from __future__ import annotations

import argparse
import time

from cachekit import Cache

cache = Cache(prefix="examples")


@cache(ttl="10m")
def square(n: int) -> int:
    time.sleep(0.1)  # imagine a query
    return n * n


def main() -> None:
    parser = argparse.ArgumentParser(description="Square 12 three times; only the first time is slow.")
    parser.add_argument("--servers", metavar="URL", help="Memcached servers; default: CACHEKIT_URL, or none")
    cache.configure(parser.parse_args().servers)
    for _ in range(3):
        began = time.perf_counter()
        answer = square(12)
        print(f"square(12) = {answer}   {1000 * (time.perf_counter() - began):8.3f} ms")
    info = square.info()
    print(f"{info.hits} of 3 from the cache, under the key {square.key(12)}")


if __name__ == "__main__":
    main()
