"""Mixed precision: the arithmetic of a training step in 16 bits, while parameters and gradients stay float32.

float16's small exponent loses small gradients, so the loss is scaled up before they are computed and they are scaled
down again after: P. Micikevicius et al., "Mixed precision training" (arXiv 1710.03740), section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from decentral.training.optimiser import Optimiser

FIRST_SCALE, LARGEST_SCALE = 2.0**16, 2.0**24
PATIENCE = 2000
"""Steps with finite gradients after which the scale is doubled; one step without them halves it."""

_KEY = "scale/loss"


def arithmetic(precision: str, device: torch.device) -> torch.autocast:
    """The context of a forward pass in float32, bfloat16 or float16; each operator keeps the type that is safe."""
    return torch.autocast(device.type, dtype=getattr(torch, precision), enabled=precision != "float32")


class ScaledOptimiser:
    """An optimiser for gradients that were computed in float16; a step whose gradients overflowed is left out.

    The scale and its count of good steps are part of the state, under `scale/loss`.
    """

    def __init__(self, inner: Optimiser, parameters: Mapping[str, nn.Parameter]) -> None:
        self._inner, self._parameters = inner, dict(parameters)
        self._scale, self._good = FIRST_SCALE, 0

    @property
    def learning_rate(self) -> float:
        return self._inner.learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self._inner.learning_rate = rate

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """The loss must be float32, as cross-entropy is under autocast: the scale is more than float16 can say."""
        torch.autograd.backward(loss * self._scale)

    @torch.no_grad()
    def step(self) -> None:
        gradients = [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]
        if gradients:
            torch._foreach_div_(gradients, self._scale)
            norms = torch.stack(torch._foreach_norm(gradients, float("inf")))
            if not bool(norms.isfinite().all()):
                for parameter in self._parameters.values():
                    parameter.grad = None
                self._scale, self._good = max(self._scale / 2, 1.0), 0
                return
        self._inner.step()
        self._good += 1
        if self._good == PATIENCE:
            self._scale, self._good = min(2 * self._scale, LARGEST_SCALE), 0

    def state(self) -> dict[str, Tensor]:
        scale = torch.tensor([self._scale, self._good], dtype=torch.float64)
        return {**self._inner.state(), _KEY: scale}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        scale = state.get(_KEY)
        if scale is None or scale.shape != (2,):
            raise ValueError(f"optimiser state {_KEY!r} must be the scale and the number of good steps")
        self._inner.restore({key: tensor for key, tensor in state.items() if key != _KEY})
        self._scale, self._good = float(scale[0]), int(scale[1])
