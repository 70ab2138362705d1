"""The outer optimiser: what becomes of the average of a round, by name. Nothing of torch is imported.

DiLoCo (arXiv 2311.08105, algorithm 1) takes the change of a whole round, turned round, for a gradient: the last model
less the average of what the peers made of it; and gives it to SGD with Nesterov's momentum.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from decentral.errors import UserError
from decentral.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

OUTERS = Registry("outer optimiser", {"nesterov": "decentral.core.outer:Nesterov"})
"""Constructors `(**options) -> Outer`; they raise UserError for an option that is out of its range."""


class Outer(ABC):
    """Makes the next model of the last one and of an average. Its memory, the trail, is a model too.

    Names in `apart` (buffers, which no gradient is taken of) and integers are the average's.
    """

    @abstractmethod
    def step(
        self,
        last: Mapping[str, Tensor],
        average: Mapping[str, Tensor],
        trail: Mapping[str, Tensor],
        apart: Collection[str] = (),
    ) -> dict[str, Tensor]:
        """The next model."""

    @abstractmethod
    def follow(self, model: Mapping[str, Tensor], trail: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The trail after a `model`; at the beginning it is the model itself."""


class Nesterov(Outer):
    """SGD with Nesterov's momentum, written so that its memory can be read off the models themselves:

        y' = x + learning_rate (average - x)        x' = y' + momentum (y' - y)

    Here x is what PyTorch's SGD calls the parameters and y' - y is -learning_rate times its momentum buffer. Whoever
    sees every x knows every y = (x + momentum y_before) / (1 + momentum), and what it gets wrong fades away by
    momentum / (1 + momentum) a round: the momentum outlives the peer that takes the step.
    """

    def __init__(self, learning_rate: float | int = 0.7, momentum: float | int = 0.9) -> None:
        if not 0 < learning_rate <= 10:
            raise UserError(f"learning_rate must be greater than 0 and at most 10, not {learning_rate}")
        if not 0 <= momentum < 1:
            raise UserError(f"momentum must be at least 0 and less than 1, not {momentum}")
        self.learning_rate, self.momentum = float(learning_rate), float(momentum)

    def step(
        self,
        last: Mapping[str, Tensor],
        average: Mapping[str, Tensor],
        trail: Mapping[str, Tensor],
        apart: Collection[str] = (),
    ) -> dict[str, Tensor]:
        moved: dict[str, Tensor] = {}
        for name, target in average.items():
            if name in apart or not target.is_floating_point():
                moved[name] = target
                continue
            here = last[name] + self.learning_rate * (target - last[name])
            moved[name] = here + self.momentum * (here - trail[name])
        return moved

    def follow(self, model: Mapping[str, Tensor], trail: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: (tensor + self.momentum * trail[name]) / (1 + self.momentum) if name in trail else tensor.clone()
            for name, tensor in model.items()
            if tensor.is_floating_point()
        }
