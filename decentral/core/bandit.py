"""Who should serve next: LinUCB, a linear model of the reward for each arm and a bonus for what is not known of it.

L. Li, W. Chu, J. Langford, R. Schapire, WWW 2010 (arXiv 1003.0146), algorithm 1 (disjoint models); with a discount for
arms that change, after Y. Russac, C. Vernade, O. Cappé, NeurIPS 2019 (arXiv 1909.09146), in its disjoint form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

Context = Float64[np.ndarray, " d"]


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """A = ridge I + sum of x xᵀ and b = sum of r x (lines 5, 6, 12 and 13 of the algorithm), both discounted."""

    a: Float64[np.ndarray, "d d"]
    b: Float64[np.ndarray, " d"]
    ridge: float

    @classmethod
    def new(cls, features: int, ridge: float = 1.0) -> Arm:
        """Of which nothing is known. Raises ValueError unless `ridge` is above zero."""
        if not ridge > 0:
            raise ValueError(f"the ridge must be above zero, not {ridge}")
        return cls(ridge * np.eye(features), np.zeros(features), ridge)

    @property
    def theta(self) -> Context:
        """The reward's coefficients as they are estimated: A⁻¹ b (line 8)."""
        found: Context = np.linalg.solve(self.a, self.b)
        return found

    def bound(self, x: Context, alpha: float) -> float:
        """θᵀ x + α √(xᵀ A⁻¹ x) (line 9): the reward that may still be hoped for."""
        doubt = float(x @ np.linalg.solve(self.a, x))
        return float(self.theta @ x) + alpha * math.sqrt(max(0.0, doubt))

    def learned(self, x: Context, reward: float) -> Arm:
        """After one more reward. Raises ValueError for one that is not finite."""
        if not (np.isfinite(x).all() and np.isfinite(reward)):
            raise ValueError("context and reward are finite")
        return Arm(self.a + np.outer(x, x), self.b + reward * x, self.ridge)

    def faded(self, discount: float) -> Arm:
        """What is still held for true one step later: the past counts `discount` as much, the ridge stays.

        With discount 1 nothing changes. What is not tried for long becomes uncertain again, and so is tried again.
        """
        if not 0 < discount <= 1:
            raise ValueError(f"the discount must be above 0 and at most 1, not {discount}")
        return Arm(discount * self.a + (1 - discount) * self.ridge * np.eye(len(self.b)), discount * self.b, self.ridge)


Arms = Mapping[str, Arm]


def choose(arms: Arms, contexts: Mapping[str, Context], alpha: float = 1.0) -> str:
    """The arm, of those that have a context now, with the highest bound (line 11); of equal ones the lesser name.

    Raises ValueError if there is none, KeyError for a context without an arm.
    """
    if not contexts:
        raise ValueError("there is nobody to choose from")
    return min(contexts, key=lambda name: (-arms[name].bound(contexts[name], alpha), name))


def learn(arms: Arms, name: str, x: Context, reward: float, discount: float = 1.0) -> dict[str, Arm]:
    """After the reward of one step: all arms fade, and this one learns."""
    faded = {each: arm.faded(discount) for each, arm in arms.items()}
    return {**faded, name: faded[name].learned(x, reward)}


def features(latency: float, load: float, price: float, reputation: float) -> Context:
    """[5]: 1; latency (s) and load (tasks that wait) and price (per answer, any unit) as v / (1 + v); reputation.

    All in [0, 1], so that no peer's claim about itself weighs more than another's. Raises ValueError unless they are
    at least 0, and reputation at most 1.
    """
    given = np.array([latency, load, price])
    if not ((given >= 0).all() and 0 <= reputation <= 1):
        raise ValueError("latency, load and price are at least 0, and reputation is in [0, 1]")
    bounded = 1 - 1 / (1 + given)  # 1 for what is infinite
    return np.array([1.0, *bounded, reputation])
