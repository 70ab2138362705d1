"""Autoencoders of diffusers, in whose latent space experts live: images in [-1, 1] to latents and back.

R. Rombach et al., "High-resolution image synthesis with latent diffusion models" (arXiv 2112.10752), section 3.1. A
latent is the mean of its image's posterior, moved and scaled to about unit variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from decentral.core.finite import finite
from decentral.errors import UserError
from decentral.models.autoencoder_folder import CONFIG, WEIGHTS, autoencoder_digest

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

BATCH = 16
"""Images that are encoded or decoded together: what lies between them and latents is large."""


def load_autoencoder(folder: Path, digest: str | None = None) -> AutoencoderKL:
    """The autoencoder of a folder, float32 and in evaluation mode. `digest`: which one it has to be; None: any.

    Raises UserError naming the folder, or the first parameter that is wrong.
    """
    from diffusers import AutoencoderKL
    from diffusers.utils import is_accelerate_available

    found = autoencoder_digest(folder)
    if digest not in (None, found):
        raise UserError(f"{folder}: is another autoencoder ({found[:16]}...) than the one agreed on ({digest:.16}...)")
    try:
        with torch.random.fork_rng(devices=[]):  # parameters are drawn before they are read
            model, told = AutoencoderKL.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                torch_dtype=torch.float32,
                low_cpu_mem_usage=is_accelerate_available(),
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise UserError(f"{folder}: {CONFIG} and {WEIGHTS} do not belong together ({error})") from error
    for kind, problem in (
        ("missing_keys", "lacks"),
        ("unexpected_keys", "has the unknown"),
        ("mismatched_keys", "has a wrong"),
    ):
        if names := told[kind]:
            raise UserError(f"{folder / WEIGHTS} {problem} {names[0]}: it is not of this {CONFIG}")
    model.eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if not finite(parameter):
            raise UserError(f"{folder / WEIGHTS} is damaged: {name} is not finite")
        parameter.data = parameter.data.clone()  # where it lies in a file would decide the last bits
    return model


def latent_shape(autoencoder: nn.Module, image_shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, height and width of the latents of such images. Raises UserError for images that do not fit."""
    config = cast(Any, autoencoder).config
    channels, height, width = image_shape
    if channels != config.in_channels:
        raise UserError(f"the autoencoder takes {config.in_channels} channels, the images have {channels}")
    factor = 2 ** (len(config.block_out_channels) - 1)
    if height % factor or width % factor:
        raise UserError(f"the autoencoder makes images {factor} times smaller, which {height}x{width} ones cannot be")
    return int(config.latent_channels), height // factor, width // factor


@torch.no_grad()
def encoded(autoencoder: nn.Module, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n l i j"]:
    """The latents of images in [-1, 1]."""
    model = cast(Any, autoencoder)
    parts = [model.encode(part.to(model.dtype)).latent_dist.mean.float() for part in torch.split(images, BATCH)]
    return scaled(torch.cat(parts), *factors(autoencoder))


@torch.no_grad()
def decoded(autoencoder: nn.Module, latents: Float[Tensor, "n l i j"]) -> Float[Tensor, "n c h w"]:
    """The images of latents, about in [-1, 1]."""
    model, means = cast(Any, autoencoder), unscaled(latents, *factors(autoencoder))
    return torch.cat([model.decode(part.to(model.dtype)).sample.float() for part in torch.split(means, BATCH)])


def factors(autoencoder: nn.Module) -> tuple[float, float]:
    """By what latents are scaled, and from where; zero where the autoencoder knows of no shift."""
    config = cast(Any, autoencoder).config
    return float(config.scaling_factor), float(config.get("shift_factor") or 0.0)


def scaled(means: Float[Tensor, "*any"], scale: float, shift: float) -> Float[Tensor, "*any"]:
    """From means of the posterior to latents."""
    return (means - shift) * scale


def unscaled(latents: Float[Tensor, "*any"], scale: float, shift: float) -> Float[Tensor, "*any"]:
    """The inverse of `scaled`."""
    return latents / scale + shift
