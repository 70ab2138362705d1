"""A small network around whatever stands between its stem and its head."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decentral.core.permutation import PermutationSpec


def units(spec: PermutationSpec) -> dict[str, int]:
    return {group.name: group.units for group in spec.groups}


class Net(nn.Module):
    """A stem with 6 channels, something in between, and a head of 3 classes."""

    def __init__(self, between: Callable[..., Tensor], *, out: int = 6, **modules: nn.Module):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        for name, module in modules.items():
            self.add_module(name, module)
        self.head = nn.Linear(out, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self, torch.tanh(self.stem(x))))


def pooled(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1).flatten(1)
