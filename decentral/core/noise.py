"""Noise that keeps a budget, on tensors of which each row is one input's.

The promise is one about real numbers: floating point is known to leak more (Mironov, "On significance of the least
significant bits for differential privacy", 2012), and a seeded generator is no cryptography.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from decentral.core.budget import Budget


def clipped(tensors: Mapping[str, Float[Tensor, "n ..."]], clip: float, norm: int) -> dict[str, Tensor]:
    """Every input's numbers, of all tensors together, scaled to a norm of `clip` at most. What is not finite is 0."""
    exact = {name: tensor.double().nan_to_num(0.0, 0.0, 0.0) for name, tensor in tensors.items()}
    whole = torch.linalg.vector_norm(torch.cat([tensor.flatten(1) for tensor in exact.values()], 1), norm, dim=1)
    factor = clip / whole.clamp(min=clip)
    return {
        name: (tensor * factor.view(-1, *(1,) * (tensor.dim() - 1))).to(tensors[name].dtype)
        for name, tensor in exact.items()
    }


def noised(
    tensors: Mapping[str, Float[Tensor, "n ..."]], budget: Budget, generator: torch.Generator
) -> dict[str, Tensor]:
    """Clipped, with noise added to every number, drawn in the order of the tensors. Raises ValueError for integers."""
    found = {}
    for name, tensor in clipped(tensors, budget.clip, budget.norm).items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype}: noise needs real numbers")
        noise = _drawn(budget.mechanism, tensor.shape, generator).to(tensor.device)
        found[name] = (tensor.double() + budget.scale * noise).to(tensor.dtype)
    return found


def _drawn(mechanism: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Standard noise, in float64: the difference of two exponential variables is Laplace's."""
    if mechanism == "gaussian":
        return torch.randn(shape, generator=generator, dtype=torch.float64)
    first, second = (torch.empty(shape, dtype=torch.float64).exponential_(generator=generator) for _ in range(2))
    return first - second
