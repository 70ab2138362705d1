"""Multilayer perceptron."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    hidden: Sequence[int] = (256, 128),
    batch_norm: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Flatten, then linear layers of the given widths with ReLU between them; inputs [B, *input_shape]."""
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, width in pairwise((math.prod(input_shape), *hidden)):
        layers.append(nn.Linear(fan_in, width))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
        if dropout:
            layers.append(nn.Dropout(dropout))
    last = hidden[-1] if hidden else math.prod(input_shape)
    return nn.Sequential(*layers, nn.Linear(last, classes))
