"""Experts and routers of 8x8 images with random weights."""

from __future__ import annotations

from typing import Any

import torch

from decentral.models.denoisers import unet

EXPERTS = 2
"""Of the run in `conftest`."""


def small(seed: int, outputs: int = 1, **options: Any) -> Any:
    """Equal seeds, equal weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return unet((1, 8, 8), 10, **{"channels": (8, 16), "outputs": outputs, **options}).eval()
