"""Latents are means of the posterior, scaled; the way back undoes the scale; no other autoencoder is taken for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from decentral.errors import UserError
from decentral.models.autoencoder_folder import WEIGHTS, autoencoder_digest
from decentral.models.autoencoders import decoded, encoded, latent_shape, load_autoencoder, scaled, unscaled
from tests.autoencoder import tiny


@given(scale=st.floats(0.01, 10), shift=st.floats(-3, 3), seed=st.integers(0, 2**31))
def test_scaling_back_is_the_inverse_of_scaling(scale: float, shift: float, seed: int) -> None:
    means = torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(unscaled(scaled(means, scale, shift), scale, shift), means)
    torch.testing.assert_close(scaled(unscaled(means, scale, shift), scale, shift), means)


@pytest.mark.parametrize("shift", [None, 0.3])
def test_a_latent_is_the_scaled_mean_of_the_posterior_and_is_decoded_as_that_mean(shift: float | None) -> None:
    model = tiny(shift_factor=shift)
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean = model.encode(images).latent_dist.mean.detach()
    latents = encoded(model, images)
    assert latents.shape == (20, *latent_shape(model, (1, 8, 8))) == (20, 2, 4, 4)
    torch.testing.assert_close(latents, (mean - (shift or 0)) * model.config.scaling_factor)
    torch.testing.assert_close(decoded(model, latents), model.decode(mean).sample.detach(), atol=1e-4, rtol=1e-4)
    assert torch.equal(encoded(model, images), latents), "nothing is drawn"


def test_latents_of_unit_variance_come_from_the_scale_that_says_so() -> None:
    model, images = tiny(), torch.rand(64, 1, 8, 8) * 2 - 1
    spread = float(model.encode(images).latent_dist.mean.detach().std())
    model.register_to_config(scaling_factor=1 / spread)
    assert float(encoded(model, images).std()) == pytest.approx(1, abs=1e-4)


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="takes 3 channels, the images have 1"):
        latent_shape(tiny(channels=3), (1, 8, 8))
    with pytest.raises(UserError, match="4 times smaller, which 10x8 ones cannot be"):
        latent_shape(tiny(halvings=2), (1, 10, 8))


def test_what_was_saved_is_loaded_and_draws_nothing(tmp_path: Path) -> None:
    tiny(3).save_pretrained(tmp_path)
    state = torch.get_rng_state()
    model = load_autoencoder(tmp_path, autoencoder_digest(tmp_path))
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(encoded(model, images), encoded(tiny(3).requires_grad_(False), images)), "to the last bit"


def test_half_precision_on_disk_computes_in_full(tmp_path: Path) -> None:
    tiny().half().save_pretrained(tmp_path)
    assert load_autoencoder(tmp_path).dtype == torch.float32


def test_another_one_than_was_agreed_on_is_refused(tmp_path: Path) -> None:
    tiny(1).save_pretrained(tmp_path / "one")
    tiny(2).save_pretrained(tmp_path / "two")
    with pytest.raises(UserError, match="two: is another autoencoder"):
        load_autoencoder(tmp_path / "two", autoencoder_digest(tmp_path / "one"))


def test_parameters_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    whole = load_file(tmp_path / WEIGHTS)
    bias = whole["decoder.conv_in.bias"]
    without = {name: tensor for name, tensor in whole.items() if name != "decoder.conv_in.bias"}
    for tensors, problem in [
        (without, "lacks decoder.conv_in.bias"),
        ({**whole, "stranger": bias.clone()}, "has the unknown stranger"),
        ({**whole, "decoder.conv_in.bias": bias[:1].clone()}, "do not belong together"),
        ({**whole, "decoder.conv_in.bias": bias * float("nan")}, "decoder.conv_in.bias is not finite"),
    ]:
        save_file(tensors, tmp_path / WEIGHTS)
        with pytest.raises(UserError, match=problem):
            load_autoencoder(tmp_path)
