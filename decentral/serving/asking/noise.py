"""The noise that a client adds to what leaves it, within a stated budget (`decentral.core.budget`)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from decentral.core.budget import Budget
from decentral.core.noise import noised
from decentral.errors import UserError
from decentral.serving.stages.model import FILE as NETWORK
from decentral.serving.stages.model import Network


class Noise:
    """Clips and adds noise to the tensors of one answer after another, from randomness that nobody else has.

    `budget` says what each answer costs; about one input asked again and again, answers add up (`spent`).
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.answers = 0
        self._generator = torch.Generator().manual_seed(secrets.randbits(63))

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What may be sent of the client's last part's outputs, a row an input. Raises ValueError for integers."""
        self.answers += 1
        return noised(tensors, self.budget, self._generator)

    def spent(self) -> tuple[float, float]:
        """Epsilon and delta of an input that was in every answer so far: the worst case."""
        return self.budget.after(self.answers)


def noise_of(stages: Path) -> Noise | None:
    """What the recipe of a cluster has its clients add to the tensors that leave them. Raises UserError."""
    said = Network.load(stages).noise if (stages / NETWORK).exists() else None
    return (
        None if said is None else Noise(Budget.of(said, lambda problem, key: UserError(f"{stages}: noise: {problem}")))
    )
