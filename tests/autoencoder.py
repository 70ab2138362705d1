"""Autoencoders of diffusers with random weights, small enough for any test."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL


def tiny(seed: int = 0, channels: int = 1, halvings: int = 1, **options: Any) -> Any:
    """Two latent channels, images 2^halvings times smaller. Equal seeds, equal weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoencoderKL(
            **{
                "in_channels": channels,
                "out_channels": channels,
                "latent_channels": 2,
                "block_out_channels": (4,) * (halvings + 1),
                "norm_num_groups": 2,
                "down_block_types": ("DownEncoderBlock2D",) * (halvings + 1),
                "up_block_types": ("UpDecoderBlock2D",) * (halvings + 1),
                **options,
            }
        )
    return model.eval()
