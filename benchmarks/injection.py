"""R10: hostile keys, ttls, CAS numbers, opaques and values against a real memcached; prints one Markdown row.

    python benchmarks/injection.py [count] [seed]

Each request is built by ``cachekit.meta`` or refused by it. What was built is sent with an ``mn`` behind it: exactly
one reply may come before MN, a canary must live, a key that nobody may create must not be there, and the server must
have counted no flush.
"""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(_ROOT), str(_ROOT / "tests")]

from support.hostile import checked_requests, judge, naive_requests  # noqa: E402 - the path comes first
from support.memcached import start_memcached  # noqa: E402


def main(count: int = 100_000, seed: int = 1) -> int:
    """Run it; the exit status is 1 if anything got through, or if the control did not."""
    with start_memcached() as server:
        verdict = judge(server, checked_requests(seed), count)
        control = judge(server, naive_requests(seed), 1_000)
    print("| # | what | refused | sent | injected | control: same input, unchecked, 1 000 requests |")
    print("|---|---|---|---|---|---|")
    what = f"{count:,} hostile keys, ttls, CAS numbers, opaques, values"
    counts = f"{verdict.refused:,} | {verdict.sent:,} | {verdict.injected} | {control.injected} injected"
    print(f"| R10 | {what} | {counts} |")
    return int(verdict.injected > 0 or control.injected == 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
