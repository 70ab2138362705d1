"""Experts may live in the latent space of an autoencoder of diffusers, which decodes what they draw."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from decentral.errors import UserError
from decentral.serving.experts.pipeline import DecentralizedDiffusionPipeline

Part = Callable[..., nn.Module]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def images(pipeline: DecentralizedDiffusionPipeline, output_type: str = "pt") -> Tensor:
    generator = torch.Generator().manual_seed(0)
    found: Tensor = pipeline(4, generator=generator, num_inference_steps=3, output_type=output_type).images
    return found


def autoencoder(shift: float | None = None) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        latent_channels=4,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        shift_factor=shift,
    ).eval()


def test_latents_are_decoded_where_there_is_a_vae(part: Part) -> None:
    vae = autoencoder()
    made = DecentralizedDiffusionPipeline(expert_0=part(0, shape=(4, 8, 8)), vae=vae)
    made.set_progress_bar_config(disable=True)
    latents = images(made, output_type="latent")
    expected = vae.decode(latents / vae.config.scaling_factor).sample
    torch.testing.assert_close(images(made), (expected / 2 + 0.5).clamp(0, 1).detach())
    with pytest.raises(UserError, match="vae does not fit: it has 4 latent channels, the experts have 1"):
        DecentralizedDiffusionPipeline(expert_0=part(0), vae=vae)


def test_a_vae_is_saved_with_the_others_and_stays_with_who_has_no_experts(part: Part, tmp_path: Path) -> None:
    """`experts=()` is how a client of peers loads what it does by itself: the router, and decoding."""
    made = DecentralizedDiffusionPipeline(expert_0=part(0, shape=(4, 8, 8)), vae=autoencoder(shift=0.1))
    made.set_progress_bar_config(disable=True)
    made.save_pretrained(tmp_path / "latent")
    again = DecentralizedDiffusionPipeline.from_pretrained(tmp_path / "latent")
    again.set_progress_bar_config(disable=True)
    latents = images(made, output_type="latent")
    expected = made.vae.decode(latents / made.vae.config.scaling_factor + 0.1).sample
    assert images(again).shape[-2:] == (16, 16), "twice as large as the latents"
    torch.testing.assert_close(images(again), (expected / 2 + 0.5).clamp(0, 1).detach())
    router = DecentralizedDiffusionPipeline(router=part(9, shape=(4, 8, 8), outputs=2), vae=made.vae)
    router.save_pretrained(tmp_path / "routed")
    alone = DecentralizedDiffusionPipeline.from_pretrained(tmp_path / "routed", experts=())
    torch.testing.assert_close(alone.decode(latents, "pt"), images(again))
    shutil.rmtree(tmp_path / "latent" / "vae")
    with pytest.raises(UserError, match="vae is missing"):
        DecentralizedDiffusionPipeline.from_pretrained(tmp_path / "latent")
