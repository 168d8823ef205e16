"""What happens to a hot key at the end of its ttl, by strategy: a discrete-event simulation around our own policy code.

Run from the root of the repository: ``python -m docs.design.stampede.simulate`` (fifteen seconds, no servers; the
same numbers every time). ``python -m docs.images.stampede`` draws the picture.

Callers are a closed loop, as in the Internet Archive's harness: so many workers, each asks, is served, pauses, and asks
again. What a reply means is for ``Recipe.judge`` to say (that is ``policy.judge``), what is stored is what
``Recipe.seal`` made, and the luck comes out of ``Env.draw``. Simulated are the server (an item, its flag Z, its clock
of whole seconds), the callers and the function.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from heapq import heapify, heappop, heappush
from math import floor
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from cachekit.codecs import Packer, Registry, resolve
from cachekit.env import Env
from cachekit.hooks import Hooks
from cachekit.meta import Reply
from cachekit.policy import CERTAIN, EARLIEST, Policy, Verdict, terms_of
from cachekit.policy import DEFAULTS as LIBRARY
from cachekit.recipe import Recipe, Snapshot

KEY = b"design:stampede:AAAAAAAAAAAAAAAAAAAAAAAA"
GENERATIONS = (1,)
EPOCH_S = 1_000_000.0


class Strategy(NamedTuple):
    """``claim``: whether the one who refreshes has to win the right to it. ``whole_seconds``: readers see the time left
    in whole seconds, as Redis's TTL gave it to the harness.
    """

    name: str
    claim: bool
    beta: float = 0.0
    stale_s: float = 0.0
    whole_seconds: bool = False


class Setting(NamedTuple):
    """``rate``: calls a second while nobody computes or waits. ``delta_s``: the running time of the function."""

    rate: float = 100.0
    workers: int = 50
    ttl_s: float = 20.0
    delta_s: float = 0.5


class Run(NamedTuple):
    """One run of the function. ``early_s``: how long before the end of the ttl it began; negative: after it."""

    began_s: float
    early_s: float
    first: bool


class Wait(NamedTuple):
    """A caller who waited for somebody else's run."""

    began_s: float
    seconds: float


class Outcome(NamedTuple):
    """What happened in ``seconds`` of simulated time from ``since_s`` on; ``ends_s``: when ttls were over."""

    runs: list[Run]
    waits: list[Wait]
    calls: float
    since_s: float
    seconds: float
    oldest_s: float


PLAIN = Strategy("plain expiry, no lock", claim=False)
LOCK = Strategy("plain expiry, one fill (β = 0)", claim=True)
XFETCH = Strategy("XFetch, no lock", claim=False, beta=1.0)
CLAIM = Strategy("XFetch with claim (default)", claim=True, beta=1.0)
STALE = Strategy("stale while it refreshes, claim", claim=True, stale_s=60.0)


class Simulation:
    """One hot key, and the workers who ask for it."""

    def __init__(self, strategy: Strategy, setting: Setting, seed: int) -> None:
        self.strategy, self.setting, self.random = strategy, setting, Random(seed)
        policy = Policy(ttl=setting.ttl_s, stale=strategy.stale_s, beta=strategy.beta).over(LIBRARY)
        packer = Packer(resolve(None, returns=None, registry=Registry()))
        self.recipe = Recipe(name="hot", packer=packer, ttl=setting.ttl_s, terms=terms_of(policy), generations=(b"g",))
        self.packed = packer.pack("value")
        self.env = Env(("simulated",), Hooks())
        self.env.luck = lambda: self.random.expovariate(1.0)
        self.pause_s = setting.workers / setting.rate
        self.tick_s = self.random.random()  # where between two ticks of the server's clock we are
        self.running, self.waiting = 0, list[tuple[float, int]]()
        self.asks: list[tuple[float, int]] = []
        self.ends: list[tuple[float, int]] = []
        self.runs, self.waits = list[Run](), list[Wait]()
        self.calls, self.oldest_s = 0.0, 0.0

    def play(self, ttls: int) -> Outcome:
        """So many ttls of it, from a random moment of the second or third life of the entry on."""
        ttl_s = self.setting.ttl_s
        begin = EPOCH_S + ttl_s * (1 + self.random.random())
        end = begin + ttls * ttl_s
        self.window = (begin, end)
        self.store(EPOCH_S)
        self.skip(EPOCH_S)
        now = begin
        while now < end:
            if self.ends and (not self.asks or self.ends[0] <= self.asks[0]):
                now, worker = heappop(self.ends)
                self.end_of_run(now, worker)
            else:
                now, worker = heappop(self.asks)
                self.ask(now, worker)
        runs = [run for run in self.runs if begin <= run.began_s < end]
        waits = [wait for wait in self.waits if begin <= wait.began_s < end]
        return Outcome(runs, waits, self.calls, begin, end - begin, self.oldest_s)

    # -- the server

    def store(self, now: float) -> None:
        seconds = self.setting.delta_s
        sealed = self.recipe.seal(KEY, self.packed, self.setting.ttl_s, Snapshot(GENERATIONS, now), seconds)
        self.flags, self.data, lifetime_s = sealed
        self.created_s, self.claimed = now, False
        self.gone_s = floor(now + self.tick_s) + lifetime_s  # by the server's clock

    def reply(self, now: float, *, won: bool = False) -> Reply:
        left_s = self.gone_s - floor(now + self.tick_s)
        if left_s <= 0:
            won, self.claimed = not self.claimed, True
            return Reply("VA", b"", cas=2, ttl=-1, client_flags=0, won=won, claimed=not won)
        return Reply(
            "VA", self.data, cas=1, ttl=left_s, client_flags=self.flags, won=won, claimed=self.claimed and not won
        )

    # -- the callers

    def ask(self, now: float, worker: int) -> None:
        """One call, up to where it is served, runs the function, or waits."""
        self.count(now, now)
        judgement = self.recipe.judge(
            self.reply(now), GENERATIONS, KEY, self.seen(now), self.env.draw(self.strategy.beta)
        )
        verdict = judgement.verdict
        if verdict is Verdict.DUE and self.strategy.claim:
            self.claimed = True  # the R flag: W for the first who asks
            judgement = self.recipe.judge(self.reply(now, won=True), GENERATIONS, KEY, self.seen(now), CERTAIN)
            verdict = judgement.verdict
        if verdict in (Verdict.WON, Verdict.DUE, Verdict.MINE):
            self.begin_run(now, worker)
        elif verdict is Verdict.FRESH or (verdict is Verdict.CLAIMED and judgement.servable()):
            self.served(now, worker)
        elif self.strategy.claim:
            self.waiting.append((now, worker))
        else:
            self.begin_run(now, worker)

    def seen(self, now: float) -> float:
        """The time by this reader's clock."""
        left = self.created_s + self.setting.ttl_s - now
        if not self.strategy.whole_seconds or not self.strategy.beta or left <= 0:
            return now
        return self.created_s + self.setting.ttl_s - floor(left + 0.5)

    def begin_run(self, now: float, worker: int) -> None:
        early_s = self.created_s + self.setting.ttl_s - now
        self.runs.append(Run(now, early_s, first=not self.running))
        self.running += 1
        heappush(self.ends, (now + self.setting.delta_s, worker))

    def end_of_run(self, now: float, worker: int) -> None:
        self.running -= 1
        self.store(now)
        self.rest(now, worker)
        for since, other in self.waiting:
            self.waits.append(Wait(since, now - since))
            self.served(now, other)
        self.waiting.clear()
        if not self.running:
            self.skip(now)

    def served(self, now: float, worker: int) -> None:
        self.oldest_s = max(self.oldest_s, now - self.created_s)
        self.rest(now, worker)

    def rest(self, now: float, worker: int) -> None:
        heappush(self.asks, (now + self.pause_s * (0.02 + 1.96 * self.random.random()), worker))

    def skip(self, now: float) -> None:
        """Go to the first moment at which anything can happen: until then every answer is "fresh". Each worker is then
        somewhere in a pause of his.
        """
        then = self.created_s + self.setting.ttl_s * (1.0 - EARLIEST if self.strategy.beta else 1.0)
        if self.strategy.whole_seconds:
            then -= 0.5
        draw, mean = self.random.random, self.pause_s
        # The pause that a random moment falls into is longer than the average one.
        self.asks = [
            (then + mean * draw() * (0.02**2 + draw() * (1.98**2 - 0.02**2)) ** 0.5, worker)
            for worker in range(self.setting.workers)
        ]
        heapify(self.asks)
        self.count(now, then)
        self.oldest_s = max(self.oldest_s, then - self.created_s)

    def count(self, since: float, now: float) -> None:
        begin, end = self.window
        if since == now:
            self.calls += begin <= now < end
        else:
            self.calls += self.setting.rate * max(0.0, min(now, end) - max(since, begin))


# ----------------------------------------------------------------------------------------------------------- the tables


@cache
def outcomes(strategy: Strategy, setting: Setting, *, seeds: int = 40, ttls: int = 20) -> list[Outcome]:
    return [Simulation(strategy, setting, seed).play(ttls) for seed in range(seeds)]


def spread(values: Iterable[float], form: str = ".2f") -> str:
    """Median and quartiles."""
    known = list(values)
    low, _, high = quantiles(known, n=4)
    return f"{median(known):{form}} ({low:{form}} – {high:{form}})".replace("-", "−")


def per_ttl(outcome: Outcome, setting: Setting) -> float:
    return len(outcome.runs) * setting.ttl_s / outcome.seconds


def per_refresh(found: list[Outcome]) -> float:
    runs = [run for outcome in found for run in outcome.runs]
    return len(runs) / sum(run.first for run in runs)


def longest_wait_s(found: list[Outcome]) -> float:
    return max((wait.seconds for outcome in found for wait in outcome.waits), default=0.0)


def waiting_share(found: list[Outcome]) -> float:
    return sum(len(outcome.waits) for outcome in found) / sum(outcome.calls for outcome in found)


def published() -> None:
    """The four published logs, beside the same strategies here."""
    logs = ((PLAIN, 484, 471, 290), (LOCK, 14, 0, 294), (XFETCH, 52, 28, 450), (CLAIM, 17, 0, 317))
    setting = Setting(rate=95.0)
    print("\n## Published and simulated (95 calls/s, as in the logs)\n")
    print(
        "| strategy | runs, those beside another, seconds | runs per ttl | simulated with their clock | seeds below it "
        "| with ours | runs per refresh | simulated with their clock | with ours |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for strategy, runs, beside, seconds in logs:
        measured = runs * setting.ttl_s / seconds
        fine, coarse = outcomes(strategy, setting), outcomes(strategy._replace(whole_seconds=True), setting)
        below = sum(per_ttl(each, setting) < measured for each in coarse)
        print(
            f"| {strategy.name} | {runs}, {beside}, {seconds} | {measured:.2f} "
            f"| {spread(per_ttl(each, setting) for each in coarse)} | {below} of {len(coarse)} "
            f"| {spread(per_ttl(each, setting) for each in fine)} "
            f"| {runs / (runs - beside):.2f} | {per_refresh(coarse):.2f} | {per_refresh(fine):.2f} |",
            flush=True,
        )


def waiting() -> None:
    print("\n## Who waits\n")
    print(
        "| strategy | runs per ttl | runs at once, most | callers who wait for another's run | longest wait, s "
        "| oldest value served, s |"
    )
    print("|---|---|---|---|---|---|")
    setting = Setting()
    for strategy in (PLAIN, LOCK, XFETCH, CLAIM, STALE):
        found = outcomes(strategy, setting)
        print(
            f"| {strategy.name} | {spread(per_ttl(each, setting) for each in found)} | {most_at_once(found)} "
            f"| {100 * waiting_share(found):.3f} % | {longest_wait_s(found):.3f} "
            f"| {max(each.oldest_s for each in found):.2f} |",
            flush=True,
        )


def most_at_once(found: list[Outcome]) -> int:
    most = 0
    for outcome in found:
        begins = [run.began_s for run in outcome.runs]
        most = max(most, *(sum(0 <= later - began < 0.5 for later in begins) for began in begins))
    return most


def sweep(title: str, settings: list[tuple[str, Setting]], head: str) -> None:
    """XFetch with claim, over settings and β; and β = 0 beside them."""
    print(f"\n## {title}\n")
    print(f"| {head} | β | runs per ttl | refreshed before the end, s | callers who wait | longest wait, s |")
    print("|---|---|---|---|---|---|")
    for label, setting in settings:
        for beta in (0.0, 0.5, 1.0, 2.0):
            found = outcomes(CLAIM._replace(beta=beta), setting, seeds=10, ttls=10)
            early = spread(run.early_s for outcome in found for run in outcome.runs)
            print(
                f"| {label} | {beta:g} | {spread(per_ttl(each, setting) for each in found)} | {early} "
                f"| {100 * waiting_share(found):.3f} % | {longest_wait_s(found):.3f} |",
                flush=True,
            )


def main() -> None:
    published()
    waiting()
    rates = [(f"{rate:g}/s", Setting(rate=rate, workers=max(50, int(rate / 2)))) for rate in (1.0, 10.0, 100.0, 1000.0)]
    sweep("Request rates (ttl 20 s, δ 0.5 s)", rates, "calls")
    deltas = [(f"{delta:g} s", Setting(delta_s=delta)) for delta in (0.02, 0.1, 0.5, 2.0, 5.0)]
    sweep("Running times (100 calls/s, ttl 20 s)", deltas, "δ")


if __name__ == "__main__":
    main()
