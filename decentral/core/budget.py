"""What noise on an answer promises, and how much noise a promise takes. Free of torch: recipes name it.

Two inputs are neighbours if they differ at all: a client vouches for each answer alone, which is local differential
privacy (Kasiviswanathan et al., "What can we learn privately?", 2011). What is sent is clipped to norm C, so that two
inputs send numbers at most 2 C apart: the sensitivity. Laplace: Dwork, McSherry, Nissim, Smith, "Calibrating noise to
sensitivity", 2006, with the L1 norm. Gaussian: the analytic mechanism of Balle, Wang, "Improving the Gaussian mechanism
for differential privacy", arXiv 1805.06530, theorem 8, with the L2 norm, valid at every epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property

from decentral.errors import UserError
from decentral.registry import nearest

NORMS = {"gaussian": 2, "laplace": 1}
"""Mechanisms, and the norm to which each clips."""

DELTA = 1e-5
"""Of the Gaussian mechanism, where nobody says another."""

_STEPS = 200

Refuse = Callable[[str, tuple[str, ...]], Exception]
"""Makes an error of a problem and the key where it is, `Document.error` of a YAML file for one."""


@dataclass(frozen=True)
class Budget:
    """Of one answer about one input: P(S) <= e^epsilon P'(S) + delta for any two inputs and all that can be sent.

    `clip` bounds the norm of all the numbers that are sent for an input. `delta`: None, 1e-5 for Gaussian noise and 0
    for Laplace's. Raises UserError for what cannot be.
    """

    mechanism: str
    epsilon: float
    clip: float
    delta: float | None = None

    def __post_init__(self) -> None:
        if self.mechanism not in NORMS:
            raise UserError(f"unknown mechanism {self.mechanism!r}; {nearest(self.mechanism, NORMS)}")
        if not (0 < self.epsilon < math.inf and 0 < self.clip < math.inf):
            raise UserError(f"epsilon and clip must be finite and above zero, not {self.epsilon} and {self.clip}")
        if self.mechanism == "gaussian" and not 0 < self.missed < 1:
            raise UserError(f"Gaussian noise needs a delta between 0 and 1, not {self.delta}")
        if self.mechanism == "laplace" and self.missed != 0:
            raise UserError(f"Laplace noise keeps epsilon with a delta of 0, not {self.delta}")

    @classmethod
    def of(cls, values: Mapping[str, object], refuse: Refuse) -> Budget:
        """From plain values, as a file has them. Raises what `refuse` makes."""
        known = [each.name for each in fields(cls)]
        given: dict[str, object] = {}
        for key, value in values.items():
            if key not in known:
                raise refuse(f"unknown key; {nearest(str(key), known)}", (str(key),))
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (isinstance(value, str) if key == "mechanism" else number or (key == "delta" and value is None)):
                raise refuse(f"must be a {'word' if key == 'mechanism' else 'number'}, not {value!r}", (key,))
            given[key] = float(value) if isinstance(value, int | float) else value
        for key in ("mechanism", "epsilon", "clip"):
            if key not in values:
                raise refuse(f"noise needs {key}", ())
        try:
            return cls(**given)  # type: ignore[arg-type]  # checked above
        except UserError as error:
            raise refuse(str(error), ()) from None

    @property
    def missed(self) -> float:
        """Delta, with its default."""
        if self.delta is None:
            return DELTA if self.mechanism == "gaussian" else 0.0
        return self.delta

    @property
    def norm(self) -> int:
        """1 or 2: which norm is clipped."""
        return NORMS[self.mechanism]

    @cached_property
    def scale(self) -> float:
        """What one number's noise is drawn with: a Gaussian's deviation, or a Laplace distribution's scale."""
        sensitivity = 2 * self.clip
        if self.mechanism == "laplace":
            return sensitivity / self.epsilon
        return gaussian_deviation(self.epsilon, self.missed, sensitivity)

    def after(self, answers: int) -> tuple[float, float]:
        """Epsilon and delta of so many answers about one input, which add up (basic composition)."""
        return answers * self.epsilon, min(1.0, answers * self.missed)

    def __str__(self) -> str:
        delta = f", delta {self.missed:g}" if self.missed else ""
        return f"{self.mechanism} noise: epsilon {self.epsilon:g}{delta} for each answer, clipped to {self.clip:g}"


def gaussian_deviation(epsilon: float, delta: float, sensitivity: float) -> float:
    """The smallest deviation whose delta is at most the one given, by bisection."""
    return _least(lambda deviation: gaussian_delta(epsilon, deviation, sensitivity) <= delta, sensitivity)


def gaussian_delta(epsilon: float, deviation: float, sensitivity: float) -> float:
    """Theorem 8: Φ(Δ / 2σ - εσ / Δ) - e^ε Φ(-Δ / 2σ - εσ / Δ), the delta with which the noise keeps epsilon."""
    from scipy.special import log_ndtr  # it takes a moment to import

    near, far = sensitivity / (2 * deviation), epsilon * deviation / sensitivity
    return float(math.exp(log_ndtr(near - far)) - math.exp(epsilon + log_ndtr(-near - far)))


def _least(enough: Callable[[float], bool], start: float) -> float:
    """The smallest positive number that is enough, where all larger ones are too; to the last bit."""
    low = high = start
    while not enough(high):
        high *= 2
    while enough(low):
        low /= 2
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
