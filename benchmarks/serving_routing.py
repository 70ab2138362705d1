"""What a client loses by whom it lets serve: its router beside uniform choice and two ways to go by latency.

    python -m benchmarks.serving_routing [--seeds 3] [--json FILE]

A SIMULATION OF CHOICES: no replica computes anything, and no network carries anything. Router, reputations and their
ledger are the real ones. Requests come at random, ten a second; an answer takes what is drawn around a replica's median
(lognormal, sigma 0.25), times one more than wait there already. Who is dead costs `DEADLINE` seconds, and so does a lie
that audits catch, since the part is asked again. Then, one after another:

    slows down   the quickest replica takes ten times as long
    dies         the one that is now the quickest answers nothing any more
    cheap liar   a newcomer is quicker than all and free, where others have a price; it answers the first requests and
                 tests honestly, and then lies in half of its answers
    quick again  the first is as quick as it was

Regret is what a choice costs in the mean beyond the best choice at that moment, by who knows everything. Recovered: how
many requests after a change the regret of `WINDOW` requests in a row is below `RECOVERED` seconds in the mean for the
first time; never, if that is not before the next change.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path

from benchmarks.dimat_curves import saved
from decentral.core.reputation import TESTS
from decentral.files import write_atomic
from decentral.serving.selection.experience import SMOOTHING, Experience
from decentral.serving.selection.ledger import Ledger
from decentral.serving.selection.reputation import Reputations
from decentral.serving.selection.routing import Router
from decentral.trust.evidence import Fault, FaultKind
from decentral.wire.identity import Identity
from decentral.wire.messages import PeerId

MEDIANS = (0.05, 0.08, 0.11, 0.14, 0.18, 0.22, 0.26, 0.3)
"""Seconds."""
LIAR_MEDIAN, PRICE = 0.03, 0.25
SIGMA, PER_SECOND, DEADLINE, SLOWER = 0.25, 10.0, 3.0, 10.0
HONEST_AT_FIRST, LYING = 20, 0.5
SLOWS, DIES, LIAR, AGAIN = "slows down", "dies", "cheap liar", "quick again"
CHANGES = {"start": 0, SLOWS: 600, DIES: 1200, LIAR: 1800, AGAIN: 2400}
REQUESTS = 3000
WINDOW, RECOVERED = 25, 0.05
PART = "stage-1"
ROUTER = "router"
GOAL = 0.25
"""Of the regret of uniform choice, what the router may have at most; and less than any other way."""


@dataclass(eq=False)
class Replica:
    """As it really is."""

    median: float
    dead: bool = False
    liar: bool = False
    answered: int = 0
    waiting: int = 0

    @property
    def lying(self) -> float:
        """The probability that its next answer is a lie."""
        return LYING if self.liar and self.answered >= HONEST_AT_FIRST else 0.0

    @property
    def cost(self) -> float:
        """Seconds in the mean, if it is asked now."""
        if self.dead:
            return DEADLINE
        return self.median * (1 + self.waiting) * math.exp(SIGMA**2 / 2) + self.lying * DEADLINE


class Uniform:
    """Anybody."""

    def __init__(self, chance: random.Random, ledger: Ledger, known: Sequence[PeerId]) -> None:
        self.chance = chance

    def choose(self, candidates: Sequence[PeerId], now: float) -> PeerId:
        return self.chance.choice(candidates)

    def ended(self, peer: PeerId, seconds: float | None, lied: bool) -> None:
        """Nothing is learned."""

    def beside(self, candidates: Sequence[PeerId], honest: Callable[[PeerId], bool]) -> None:
        """Nobody is tested."""


class LeastLatency(Uniform):
    """Whose smoothed latency is least; each is tried once, and what failed or lied took as long as the deadline."""

    def __init__(self, chance: random.Random, ledger: Ledger, known: Sequence[PeerId]) -> None:
        super().__init__(chance, ledger, known)
        self.usual: dict[PeerId, float] = {}

    def choose(self, candidates: Sequence[PeerId], now: float) -> PeerId:
        return min(candidates, key=lambda peer: self.usual.get(peer, 0.0))

    def ended(self, peer: PeerId, seconds: float | None, lied: bool) -> None:
        took = DEADLINE if seconds is None or lied else seconds
        self.usual[peer] = (1 - SMOOTHING) * self.usual.get(peer, took) + SMOOTHING * took


class LatencyAndLoad(LeastLatency):
    """The same, times one more than wait there already."""

    def __init__(self, chance: random.Random, ledger: Ledger, known: Sequence[PeerId]) -> None:
        super().__init__(chance, ledger, known)
        self._waiting: Counter[PeerId] = Counter()

    def choose(self, candidates: Sequence[PeerId], now: float) -> PeerId:
        peer = min(candidates, key=lambda peer: self.usual.get(peer, 0.0) * (1 + self._waiting[peer]))
        self._waiting[peer] += 1
        return peer

    def ended(self, peer: PeerId, seconds: float | None, lied: bool) -> None:
        super().ended(peer, seconds, lied)
        self._waiting[peer] -= 1


class Routed(Uniform):
    """What a client does: its router, with reputations from every judgement, and tests of newcomers beside."""

    def __init__(self, chance: random.Random, ledger: Ledger, known: Sequence[PeerId]) -> None:
        super().__init__(chance, ledger, known)
        self._now = 0.0
        self._reputations = Reputations(ledger, lambda: self._now)
        self._reputations.record(passed=[*known] * TESTS)
        self._router = Router(self._reputations, lambda: self._now, learned=Experience(ledger), chance=chance)
        for peer in known:
            self._router.announced(peer, PRICE)

    def choose(self, candidates: Sequence[PeerId], now: float) -> PeerId:
        self._now = now
        peer = self._router.serves(PART, candidates)
        self._router.began(peer)
        return peer

    def ended(self, peer: PeerId, seconds: float | None, lied: bool) -> None:
        self._router.ended(peer, None if lied else seconds)
        if seconds is None:
            self._reputations.record([Fault(peer, PART, FaultKind.UNRESPONSIVE, "")])
        else:
            self._judge(peer, not lied)

    def beside(self, candidates: Sequence[PeerId], honest: Callable[[PeerId], bool]) -> None:
        if (peer := self._router.tests(candidates)) is not None:
            self._judge(peer, honest(peer), tested=True)

    def _judge(self, peer: PeerId, right: bool, *, tested: bool = False) -> None:
        if right:
            self._reputations.record(agreed=[] if tested else [peer], passed=[peer] if tested else [])
        else:  # INVALID, which counts like LIED and needs no signature as proof: nobody signs anything here
            self._reputations.record([Fault(peer, PART, FaultKind.INVALID, "")])


WAYS: dict[str, type[Uniform]] = {
    "uniform": Uniform,
    "least latency": LeastLatency,
    "latency x load": LatencyAndLoad,
    ROUTER: Routed,
}


@dataclass
class Played:
    """One way through all changes: what each choice lost, in seconds, and which failed or lied."""

    way: str
    seed: int
    regret: list[float] = field(default_factory=list)
    failed: list[bool] = field(default_factory=list)

    def recovered(self, first: int, end: int) -> int | None:
        """Requests after `first`, see above."""
        for start in range(first, end - WINDOW):
            if statistics.fmean(self.regret[start : start + WINDOW]) < RECOVERED:
                return start - first
        return None


class World:
    """Replicas, and what happens to them, by the seed alone."""

    def __init__(self, seed: int) -> None:
        self.drawn = random.Random(f"{seed}/world")
        *self.known, self._newcomer = [
            Identity.from_seed(f"{seed}/{place}".encode()).id for place in range(len(MEDIANS) + 1)
        ]
        medians = self.drawn.sample(MEDIANS, len(MEDIANS))
        self.replicas = {peer: Replica(median) for peer, median in zip(self.known, medians, strict=True)}
        self._slow: Replica | None = None

    def change(self, step: int) -> None:
        alive = [replica for replica in self.replicas.values() if not replica.dead]
        quickest = min(alive, key=lambda replica: replica.median)
        if step == CHANGES[SLOWS]:
            self._slow = quickest
            quickest.median *= SLOWER
        elif step == CHANGES[DIES]:
            quickest.dead = True
        elif step == CHANGES[LIAR]:
            self.replicas[self._newcomer] = Replica(LIAR_MEDIAN, liar=True)
        elif step == CHANGES[AGAIN] and self._slow is not None:
            self._slow.median /= SLOWER


def play(way: str, seed: int, folder: Path) -> Played:
    world, played, now = World(seed), Played(way, seed), 0.0
    under_way: list[tuple[float, int, PeerId, float | None, bool]] = []
    with Ledger.open(folder / f"{way}-{seed}.sqlite") as ledger:
        chooser = WAYS[way](random.Random(f"{seed}/{way}"), ledger, world.known)
        for step in range(REQUESTS):
            world.change(step)
            now += world.drawn.expovariate(PER_SECOND)
            noise, lie = world.drawn.lognormvariate(0.0, SIGMA), world.drawn.random()
            while under_way and under_way[0][0] <= now:
                _, _, ended, took, lied = heapq.heappop(under_way)
                world.replicas[ended].waiting -= 1
                chooser.ended(ended, took, lied)
            peer = chooser.choose(list(world.replicas), now)
            costs = {each: replica.cost for each, replica in world.replicas.items()}
            played.regret.append(costs[peer] - min(costs.values()))
            asked = world.replicas[peer]
            lied, took = lie < asked.lying, None if asked.dead else asked.median * (1 + asked.waiting) * noise
            played.failed.append(took is None or lied)
            asked.waiting += 1
            asked.answered += took is not None
            heapq.heappush(under_way, (now + (DEADLINE if took is None else took), step, peer, took, lied))

            def honest(tested: PeerId, lie: float = lie) -> bool:
                replica = world.replicas[tested]
                replica.answered += 1
                return lie >= replica.lying

            chooser.beside(list(world.replicas), honest)
    return played


def phases() -> list[tuple[str, int, int]]:
    """Each change with the first request after it and the first after the next."""
    return [(name, first, end) for (name, first), (_, end) in pairwise([*CHANGES.items(), ("end", REQUESTS)])]


def total(plays: Sequence[Played], first: int = 0, end: int = REQUESTS) -> float:
    """Seconds of regret, in the mean over seeds."""
    return statistics.fmean(sum(played.regret[first:end]) for played in plays)


def show(plays: Sequence[Played]) -> bool:
    """Prints the table; whether the goal was reached."""
    by = {way: [played for played in plays if played.way == way] for way in WAYS}
    print(f"{'regret in s':<16}{''.join(f'{name:>18}' for name in CHANGES)}{'all':>10}{'failed or lied':>16}")
    for way, mine in by.items():
        cells = []
        for _, first, end in phases():
            found = [played.recovered(first, end) for played in mine]
            after = [value for value in found if value is not None]
            word = f"{statistics.fmean(after):.0f}" if len(after) == len(found) else "never"
            cells.append(f"{total(mine, first, end):.1f} ({word})".rjust(18))
        failed = statistics.fmean(sum(played.failed) for played in mine)
        print(f"{way:<16}{''.join(cells)}{total(mine):>10.1f}{failed:>16.1f}")
    regret = {way: total(mine) for way, mine in by.items()}
    best = min(regret, key=lambda way: math.inf if way == ROUTER else regret[way])
    share = regret[ROUTER] / regret["uniform"]
    print(
        f"in brackets: requests until recovered, in the mean; never: in one of the seeds at least\n"
        f"the router loses {share:.2f} of what uniform choice loses, at most {GOAL:g} wanted, and "
        f"{regret[ROUTER] / regret[best]:.2f} of what {best!r} does, less than 1 wanted"
    )
    return share <= GOAL and regret[ROUTER] < regret[best]


def draw(plays: Sequence[Played]) -> Path:
    """Regret that has added up, in the mean, with the least and the most of all seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    for way, colour in zip(WAYS, ("tab:grey", "tab:orange", "tab:blue", "tab:red"), strict=True):
        curves = [list(accumulate(played.regret)) for played in plays if played.way == way]
        columns = list(zip(*curves, strict=True))
        axes.plot([statistics.fmean(column) for column in columns], color=colour, label=way)
        least, most = ([end(column) for column in columns] for end in (min, max))
        axes.fill_between(range(REQUESTS), least, most, color=colour, alpha=0.2)
    for name, first in CHANGES.items():
        if first:
            axes.axvline(first, color="black", linestyle=":", linewidth=0.8)
            axes.text(first + 15, 0.98, name, transform=axes.get_xaxis_transform(), va="top", fontsize="small")
    axes.set_yscale("log")
    axes.set_ylim(bottom=1)
    axes.set_xlabel("requests")
    axes.set_ylabel("regret that has added up (s)")
    axes.set_title("a simulation of choices: latencies are drawn, nothing is computed", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return saved(figure, "serving-routing")


def main() -> int:
    """Zero if the goal was reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error("--seeds is 1 or more")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="decentral-routing-") as folder:
        plays = [play(way, seed, Path(folder)) for seed in range(arguments.seeds) for way in WAYS]
    print(
        f"a simulation of choices among {len(MEDIANS)} replicas, {REQUESTS} requests, {arguments.seeds} seeds; "
        f"{time.monotonic() - began:.0f} s"
    )
    reached = show(plays)
    print(f"drawn: {draw(plays).name}")
    if arguments.json:
        content = {"simulated": True, "changes": CHANGES, "plays": [asdict(played) for played in plays]}
        write_atomic(arguments.json, json.dumps(content, indent=1).encode())
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
