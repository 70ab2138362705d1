"""Noise with a budget for the activations that leave a client, after each input's own are clipped to a norm.

Two inputs are neighbours if they differ at all: the client vouches for each answer alone, which is local differential
privacy (Kasiviswanathan et al., "What can we learn privately?", 2011). Clipped to norm C, what two inputs send is at
most 2 C apart: the sensitivity. Laplace: Dwork, McSherry, Nissim, Smith, "Calibrating noise to sensitivity", 2006, with
the L1 norm. Gaussian: the analytic mechanism of Balle, Wang, "Improving the Gaussian mechanism for differential
privacy", arXiv 1805.06530, theorem 8 and algorithm 1, with the L2 norm, valid at every epsilon.

The guarantee is of real numbers: that of floating point is known to leak more (Mironov 2012), and a seeded generator is
no cryptography.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from scipy.special import log_ndtr
from torch import Tensor

NORMS = {"gaussian": 2, "laplace": 1}
"""Mechanisms, and the norm to which each clips."""

_STEPS = 200


def scale_of(mechanism: str, epsilon: float, delta: float, clip: float) -> float:
    """What one number's noise is drawn with: a Gaussian's deviation, or a Laplace distribution's scale.

    For activations clipped to `clip`, so of sensitivity 2 `clip`. Raises ValueError for a budget that cannot be.
    """
    if mechanism not in NORMS:
        raise ValueError(f"unknown mechanism {mechanism!r}; there are: {', '.join(sorted(NORMS))}")
    if not (0 < epsilon < math.inf and 0 < clip < math.inf):
        raise ValueError(f"epsilon and clip must be finite and above zero, not {epsilon} and {clip}")
    if mechanism == "laplace":
        if delta != 0:
            raise ValueError(f"the Laplace mechanism keeps epsilon with delta = 0, not {delta}")
        return 2 * clip / epsilon
    if not 0 < delta < 1:
        raise ValueError(f"the Gaussian mechanism needs a delta between 0 and 1, not {delta}")
    return gaussian_deviation(epsilon, delta, 2 * clip)


def gaussian_deviation(epsilon: float, delta: float, sensitivity: float) -> float:
    """The smallest deviation whose delta is at most the one given, by bisection."""
    low = high = sensitivity
    while gaussian_delta(epsilon, high, sensitivity) > delta:
        low, high = high, 2 * high
    while gaussian_delta(epsilon, low, sensitivity) <= delta:
        low, high = low / 2, low
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if gaussian_delta(epsilon, middle, sensitivity) <= delta else (middle, high)
    return high


def gaussian_delta(epsilon: float, deviation: float, sensitivity: float) -> float:
    """Theorem 8: Φ(Δ / 2σ - εσ / Δ) - e^ε Φ(-Δ / 2σ - εσ / Δ), the delta with which the noise keeps epsilon."""
    near, far = sensitivity / (2 * deviation), epsilon * deviation / sensitivity
    return float(math.exp(log_ndtr(near - far)) - math.exp(epsilon + log_ndtr(-near - far)))


def gaussian_epsilon(deviation: float, delta: float, sensitivity: float) -> float:
    """The smallest epsilon that the noise keeps with this delta: what an answer costs."""
    high = 1.0
    while gaussian_delta(high, deviation, sensitivity) > delta:
        high *= 2
    low = 0.0
    if gaussian_delta(low, deviation, sensitivity) <= delta:
        return low
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if gaussian_delta(middle, deviation, sensitivity) <= delta else (middle, high)
    return high


def clipped(tensors: Mapping[str, Float[Tensor, "n ..."]], clip: float, norm: int) -> dict[str, Tensor]:
    """Every sample's numbers, of all tensors together, scaled to a norm of `clip` at most. What is not finite is 0."""
    sizes = [tensor.double().nan_to_num(0.0, 0.0, 0.0).flatten(1) for tensor in tensors.values()]
    whole = torch.linalg.vector_norm(torch.cat(sizes, 1), norm, dim=1)
    factor = (clip / whole.clamp(min=clip)).clamp(max=1.0)
    return {
        name: (tensor.double().nan_to_num(0.0, 0.0, 0.0) * factor.view(-1, *(1,) * (tensor.dim() - 1))).to(tensor.dtype)
        for name, tensor in tensors.items()
    }


def noised(
    tensors: Mapping[str, Float[Tensor, "n ..."]],
    mechanism: str,
    clip: float,
    scale: float,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Clipped, with noise of this scale (`scale_of`) added to every number, drawn in the order of the tensors."""
    found = {}
    for name, tensor in clipped(tensors, clip, NORMS[mechanism]).items():
        noise = _drawn(mechanism, tensor.shape, generator).to(tensor.device)
        found[name] = (tensor.double() + scale * noise).to(tensor.dtype)
    return found


def _drawn(mechanism: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Standard noise, in float64: the difference of two exponential variables is Laplace's."""
    if mechanism == "gaussian":
        return torch.randn(shape, generator=generator, dtype=torch.float64)
    first, second = (torch.empty(shape, dtype=torch.float64).exponential_(generator=generator) for _ in range(2))
    return first - second
