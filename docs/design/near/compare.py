"""Hit ratios of LRU, ARC, S3-FIFO, SIEVE and the store of ``cachekit.near`` on the workloads of this folder.

Run it from the root of the repository: ``python -m docs.design.near.compare``. A minute and a half; the same numbers
every time, but for those of the real text, which is Python's own library as it is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from cachekit.near.option import Near
from cachekit.near.tier import Tier
from docs.design.near.policies import POLICIES, Policy
from docs.design.near.workloads import WORKLOADS

SIZES = (500, 2_000, 8_000)
JUDGES = ("LRU", "ARC", "S3-FIFO")
"""Those that ours is held against: it is to stay within two points of the best of them."""


class Ours:
    """The store itself, with entries of one size and room in bytes to spare."""

    def __init__(self, size: int) -> None:
        self.tier = Tier(Near(ttl=1, entries=size, bytes=1 << 40))

    def access(self, key: Hashable) -> bool:
        wire = b"%d" % key if isinstance(key, int) else str(key).encode()
        node = self.tier.nodes.get(wire)
        if node is not None:
            node.hits += 1
            return True
        self.tier.insert(wire, 1)
        self.tier.shrink()
        return False


def hit_ratio(policy: Policy, stream: list[int] | list[str]) -> float:
    """Percent of the accesses of ``stream`` that were hits."""
    access = policy.access
    return 100.0 * sum([access(key) for key in stream]) / len(stream)


def main() -> None:
    contestants: dict[str, Callable[[int], Policy]] = {**POLICIES, "ours": Ours}
    print("| workload | entries | " + " | ".join(contestants) + " | ours − best |")
    print("|---|---|" + "---|" * (len(contestants) + 1))
    worst = 0.0
    for name, make in WORKLOADS.items():
        stream = make()
        for size in SIZES:
            ratios = {each: hit_ratio(policy(size), stream) for each, policy in contestants.items()}
            behind = ratios["ours"] - max(ratios[each] for each in JUDGES)
            worst = min(worst, behind)
            cells = " | ".join(f"{ratio:.2f}" for ratio in ratios.values())
            print(f"| {name} | {size} | {cells} | {behind:+.2f} |", flush=True)
    print(f"\nworst: {worst:+.2f} points")


if __name__ == "__main__":
    main()
