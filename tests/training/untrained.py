"""Networks that nobody trained, and images in which they find something."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from decentral.models.catalogue import build_model
from decentral.training.batchnorm import reestimate_batchnorm

SHAPE = (1, 8, 8)


def images(count: int = 200, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype)


def network(name: str, seed: int = 0, **options: Any) -> nn.Module:
    """Untrained, in float64, with statistics of its own; no unit is constant on `images`."""
    torch.manual_seed(seed)
    model = build_model(name, SHAPE, 4, **options).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        elif isinstance(module, nn.Linear):
            nn.init.ones_(module.bias)
    reestimate_batchnorm(model, [images()])
    return model.eval()
