"""Mixing matrices as tensors: row i holds the weights with which peer i averages itself and its neighbours.

Formulas and sources stand in `core.topology`, which is free of torch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from decentral.core import topology as graphs


def mixing_matrix(topology: str, n: int, *, seed: int = 0, **options: object) -> Float[Tensor, "n n"]:
    """The Metropolis-Hastings matrix of a topology over n peers, float64; symmetric, rows and columns sum to one.

    `options` are the topology's own (`degree`, `probability`, `path`). Raises UserError for an impossible graph.
    """
    return torch.from_numpy(graphs.metropolis_hastings(graphs.build(topology, n, seed, **options)))
