"""How many replicas answer, how many of them may be faulty, and how many have to agree. Free of torch.

f + 1 of 2 f + 1 where the one who asks has deadlines and believes nobody else; 2 f + 1 of 3 f + 1 to refuse 2 f
colluders too (Castro and Liskov, OSDI 1999).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import comb


@dataclass(frozen=True, slots=True)
class Sizes:
    """So many replicas, of which so many may be faulty, and so many have to agree. Raises ValueError."""

    replicas: int
    faulty: int
    quorum: int

    def __post_init__(self) -> None:
        if not 0 <= self.faulty < self.quorum <= self.replicas:
            raise ValueError(
                f"a quorum of {self.quorum} must be more than f = {self.faulty} and at most {self.replicas}"
            )

    @property
    def lone(self) -> bool:
        """Whether two disjoint quorums are impossible."""
        return 2 * self.quorum > self.replicas


def with_deadlines(faulty: int) -> Sizes:
    """f + 1 of 2 f + 1: for one who asks, waits no longer than a deadline, and believes nobody else."""
    return Sizes(2 * faulty + 1, faulty, faulty + 1)


def against_colluders(faulty: int) -> Sizes:
    """2 f + 1 of 3 f + 1: up to 2 f who tell the same lie are no quorum either."""
    return Sizes(3 * faulty + 1, faulty, 2 * faulty + 1)


def capture(population: int, colluders: int, replicas: int, quorum: int) -> float:
    """How probable it is that `quorum` or more of the `replicas` drawn from a population are colluders.

    The upper tail of the hypergeometric distribution, sum over x >= quorum of C(m, x) C(N - m, k - x) / C(N, k).
    Raises ValueError for more colluders, or more replicas, than there are peers.
    """
    if not (0 <= colluders <= population and 0 < replicas <= population and quorum > 0):
        raise ValueError(f"{colluders} colluders and {replicas} replicas among {population} peers cannot be")
    ways = sum(
        comb(colluders, taken) * comb(population - colluders, replicas - taken) for taken in range(quorum, replicas + 1)
    )
    return float(Fraction(ways, comb(population, replicas)))
