"""How probable it is that the lots draw a quorum of colluders: by drawing, beside the closed form.

    python -m benchmarks.consensus_capture [--draws 20000]

Colluders who are a quorum have the vote; `benchmarks.consensus_detection` shows what finds them then. "all collude":
nobody honest is asked, so that nobody disagrees. "one serves": the client's router has chosen a colluder to serve, as
one that is fast may have brought about, and only the others are drawn. Exit code 1 where the lots are not as they
should be.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from decentral.core.calibration import Rate
from decentral.core.lots import draw
from decentral.core.quorum import Sizes, against_colluders, capture, with_deadlines

SIZES = {
    "f=1, 2 of 3": with_deadlines(1),
    "f=1, 3 of 4": against_colluders(1),
    "f=2, 3 of 5": with_deadlines(2),
    "f=2, 5 of 7": against_colluders(2),
}
POPULATIONS = ((20, 2), (20, 6), (20, 10), (100, 10), (100, 30))
"""Peers, and how many of them collude."""
DRAWS = 20_000


@dataclass(frozen=True, slots=True)
class Odds:
    """Of a quorum of colluders among the replicas that are drawn; `preferred`: where one of them serves for sure."""

    population: int
    colluders: int
    sizes: Sizes
    exact: float
    counted: Rate
    all_collude: float
    preferred: float

    @property
    def fits(self) -> bool:
        """Whether what was counted is what the closed form says: its 99.99 % interval has it."""
        return self.counted.lower(0.99995) <= self.exact <= self.counted.upper(0.99995)


def odds(draws: int) -> Iterator[Odds]:
    most = max(sizes.replicas for sizes in SIZES.values())
    for population, colluders in POPULATIONS:
        weights = {f"peer-{number}": 1.0 for number in range(population)}
        bad = set(list(weights)[:colluders])
        seeds = random.Random(population * 1000 + colluders)
        drawn_ones = [[who in bad for who in draw(seeds.randbytes(32), "audit", weights, most)] for _ in range(draws)]
        for sizes in SIZES.values():
            k, q = sizes.replicas, sizes.quorum
            counted = Rate(sum(sum(lot[:k]) >= q for lot in drawn_ones), draws)
            yield Odds(
                population,
                colluders,
                sizes,
                capture(population, colluders, k, q),
                counted,
                capture(population, colluders, k, k),
                capture(population - 1, colluders - 1, k - 1, q - 1),
            )


def show_odds(found: Sequence[Odds]) -> None:
    print("\nHow probable a quorum of colluders is (lots of equal weight); counted by drawing")
    head = ("closed form", "counted", "all collude", "one serves")
    print(f"{'peers':>6}{'collude':>9}  {'size':<10}" + "".join(f"{text:>13}" for text in head))
    for one in found:
        size = f"{one.sizes.quorum} of {one.sizes.replicas}"
        print(
            f"{one.population:>6}{one.colluders:>9}  {size:<10}{one.exact:>13.5f}{one.counted.value:>13.5f}"
            f"{one.all_collude:>13.6f}{one.preferred:>13.5f}{'' if one.fits else '   DIFFERS'}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=DRAWS)
    found = list(odds(parser.parse_args().draws))
    show_odds(found)
    return 0 if all(one.fits for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
