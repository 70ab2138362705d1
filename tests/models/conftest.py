"""What the tests of networks share: weights in which no axis and no statistic is trivial."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

Scramble = Callable[[nn.Module], nn.Module]


@pytest.fixture
def scramble() -> Scramble:
    """The network in float64 and evaluation mode, its vectors and BatchNorm statistics drawn at random."""

    def scrambled(model: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        model.double().eval()
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.ndim == 1:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3 + 0.2)
        return model

    return scrambled
