"""Small experts and routers with random weights: what they sample is noise, but who sampled it can be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from decentral.models.denoisers import dit, unet
from decentral.serving.pipeline import DecentralizedDiffusionPipeline

SHAPE, CLASSES = (1, 8, 8), 3


@pytest.fixture(scope="session")
def part() -> Callable[..., nn.Module]:
    """`part(seed, outputs=None, conditional=True, kind="unet", **options)`: an expert, or with outputs a router."""

    def make(seed: int, kind: str = "unet", shape: tuple[int, int, int] = SHAPE, **options: Any) -> nn.Module:
        torch.manual_seed(seed)
        if kind == "unet":
            made: nn.Module = unet(shape, CLASSES, **{"channels": (8, 16), **options})
        else:
            made = dit(shape, CLASSES, **{"heads": 2, "head": 8, "layers": 2, **options})
        for parameter in made.parameters():  # so that outputs depend on inputs: a DiT begins as zero
            parameter.data += 0.1 * torch.randn_like(parameter)
        return made.eval()

    return make


@pytest.fixture
def pipeline(part: Callable[..., nn.Module]) -> DecentralizedDiffusionPipeline:
    """Four conditional experts of 8x8 images in one channel, and a router that knows no labels."""
    return ensemble(part)


def ensemble(part: Callable[..., nn.Module]) -> DecentralizedDiffusionPipeline:
    made = DecentralizedDiffusionPipeline(
        router=part(100, outputs=4, conditional=False), **{f"expert_{k}": part(k) for k in range(4)}
    )
    made.set_progress_bar_config(disable=True)
    return made
