"""How far apart honest answers may be, from samples, and how sure the samples make us of it.

A rate that was counted has an exact one-sided bound (Clopper and Pearson, Biometrika 26, 1934). A tolerance that is
chosen as one of the honest distances, by its rank, keeps the bound of that rank whatever the distances are distributed
like (Wilks, Ann. Math. Statist. 12, 1941): choosing it and bounding it need no second set of samples. All of this holds
for independent samples of the population that they were drawn from, and says nothing of machines that were not in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log, log1p

import numpy as np
from jaxtyping import Float
from scipy.stats import beta

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Rate:
    """`events` of `trials`, and what can be said of the probability behind them. Raises ValueError."""

    events: int
    trials: int

    def __post_init__(self) -> None:
        if not 0 <= self.events <= self.trials or not self.trials:
            raise ValueError(f"{self.events} of {self.trials} is no rate")

    @property
    def value(self) -> float:
        return self.events / self.trials

    def upper(self, confidence: float = CONFIDENCE) -> float:
        """With this confidence the probability is at most this."""
        if self.events == self.trials:
            return 1.0
        return float(beta.ppf(_sure(confidence), self.events + 1, self.trials - self.events))

    def lower(self, confidence: float = CONFIDENCE) -> float:
        """With this confidence the probability is at least this."""
        return 1 - Rate(self.trials - self.events, self.trials).upper(confidence)


def trials_needed(rate: float, confidence: float = CONFIDENCE) -> int:
    """The fewest trials without an event that bound the probability by `rate`: (1 - rate)ⁿ <= 1 - confidence."""
    if not 0 < rate < 1:
        raise ValueError(f"a rate to be bounded is between 0 and 1, not {rate}")
    return ceil(log(1 - _sure(confidence)) / log1p(-rate))


def events_allowed(trials: int, rate: float, confidence: float = CONFIDENCE) -> int:
    """The most events in so many trials whose upper bound is at most `rate`. Raises ValueError for too few trials."""
    if (needed := trials_needed(rate, confidence)) > trials:
        raise ValueError(f"{trials} samples cannot bound a rate by {rate:g}: it takes {needed}")
    low, high = 0, trials  # that many are allowed, that many are not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if Rate(middle, trials).upper(confidence) <= rate else (low, middle)
    return low


def smallest_tolerance(honest: Float[np.ndarray, " n"], rate: float, confidence: float = CONFIDENCE) -> float:
    """The smallest of the honest distances that rejects an honest answer with probability at most `rate`.

    An answer is rejected if its distance exceeds the tolerance. With this confidence, see the head of this file. Raises
    ValueError for too few samples, and if the tolerance would be infinite or not a number.
    """
    spared = events_allowed(len(honest), rate, confidence)
    found = float(np.sort(honest)[len(honest) - 1 - spared])
    if not np.isfinite(found):
        raise ValueError(f"more than {spared} of {len(honest)} honest answers are no numbers, or of other shapes")
    return found


def rejected(distances: Float[np.ndarray, " n"], tolerance: float) -> Rate:
    """How many exceed the tolerance; what is not a number does."""
    return Rate(int((~(distances <= tolerance)).sum()), len(distances))


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What each tolerance costs and buys; `tolerances` fall, so both rates rise from 0 to 1."""

    tolerances: Float[np.ndarray, " t"]
    false_rejects: Float[np.ndarray, " t"]
    detections: Float[np.ndarray, " t"]


def curve(honest: Float[np.ndarray, " n"], lying: Float[np.ndarray, " m"]) -> Curve:
    """Receiver operating characteristic: rates at every tolerance that tells two samples apart, and at none.

    The first tolerance is infinite, where nothing is rejected but what is not a number; the last is below zero.
    """
    known = np.unique(np.concatenate([honest, lying]))
    tolerances = np.concatenate([[np.inf], known[np.isfinite(known)][::-1], [-1.0]])
    return Curve(tolerances, _exceeding(honest, tolerances), _exceeding(lying, tolerances))


def _exceeding(distances: Float[np.ndarray, " n"], tolerances: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """The share of the distances that exceed each tolerance. An infinite distance exceeds an infinite tolerance too."""
    finite = np.sort(distances[np.isfinite(distances)])
    within = np.searchsorted(finite, tolerances, side="right")
    share: Float[np.ndarray, " t"] = 1 - within / len(distances)
    return share


def _sure(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence is between 0 and 1, not {confidence}")
    return confidence
