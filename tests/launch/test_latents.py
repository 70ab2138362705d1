"""From a recipe with an autoencoder to a cluster that draws: experts know latents alone, and the client decodes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from decentral.errors import UserError
from decentral.launch.assembly import agreed, assemble_learner
from decentral.launch.background import start_serving, stop
from decentral.launch.engine import Options, execute
from decentral.launch.latents import seen
from decentral.models.autoencoders import encoded
from decentral.models.experts import load_denoiser
from decentral.run.recipe import Recipe, Vae, load_recipe
from decentral.serving.access import PIPELINE
from decentral.serving.experts.generation import Wish, generate
from decentral.serving.experts.pipeline import DecentralizedDiffusionPipeline
from tests.autoencoder import tiny
from tests.launch.test_publish import TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("autoencoder")
    tiny(shift_factor=0.1).save_pretrained(place / "vae")
    tiny(7).save_pretrained(place / "other")
    return place


def recipe(folder: Path, name: str = "vae", *settings: str) -> Recipe:
    return load_recipe("diffusion-digits", [*TINY, f"vae={folder / name}", *settings])


def test_experts_and_router_are_networks_of_latents_and_their_data_is_shared_out_by_pixels(folder: Path) -> None:
    latent, plain = recipe(folder), load_recipe("diffusion-digits", TINY)
    for index in range(3):
        learner, other = assemble_learner(latent, index), assemble_learner(plain, index)
        assert learner.model.config.in_channels == 2 and learner.model.config.sample_size == 4
        assert other.model.config.in_channels == 1 and other.model.config.sample_size == 8
        assert learner.assignment.digests == other.assignment.digests
    again = assemble_learner(latent, 0)
    first = assemble_learner(latent, 0)
    assert again.train(1) == first.train(1)


def test_peers_with_other_autoencoders_do_not_agree(folder: Path) -> None:
    one, same, other = (recipe(folder, name) for name in ("vae", "vae", "other"))
    said = [agreed(each, assemble_learner(each, 0)) for each in (one, same, other)]
    assert said[0] == said[1] != said[2]


def test_a_folder_that_changed_since_the_recipe_was_read_is_refused(folder: Path, tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "vae")
    made = load_recipe("diffusion-digits", [*TINY, f"vae={tmp_path / 'vae'}"])
    tiny(1).save_pretrained(tmp_path / "vae")
    with pytest.raises(UserError, match=r"vae.folder: .*is another autoencoder"):
        assemble_learner(made, 0)


def test_what_does_not_fit_the_images_names_the_key(folder: Path, tmp_path: Path) -> None:
    tiny(channels=3).save_pretrained(tmp_path / "vae")
    settings = [*TINY, f"vae={tmp_path / 'vae'}"]
    with pytest.raises(UserError, match=r"vae.folder: the autoencoder takes 3 channels, the images have 1"):
        assemble_learner(load_recipe("diffusion-digits", settings), 0)
    coloured = assemble_learner(load_recipe("diffusion-digits", [*settings, "data.channels=3"]), 0)
    assert coloured.model.config.in_channels == 2
    with pytest.raises(UserError, match=r"vae.digest: is not known"):
        seen(Recipe(vae=Vae(folder=str(folder / "vae"))), None)


def test_a_run_leaves_a_pipeline_that_decodes_what_its_experts_draw(folder: Path, tmp_path: Path) -> None:
    ended, summary = execute(recipe(folder), "sim", Options(out=tmp_path / "run"))
    assert summary["loss"] > 0
    pipeline = DecentralizedDiffusionPipeline.from_pretrained(ended.path / PIPELINE)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(3, 2, class_labels=[1, 2, 3], output_type="latent").images.shape == (3, 2, 4, 4)
    assert pipeline(3, 2, class_labels=[1, 2, 3], output_type="pt").images.shape == (3, 1, 8, 8)
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(encoded(pipeline.vae, images), encoded(tiny(shift_factor=0.1), images))
    assert not list((ended.nodes / "peer-0").rglob("vae")), "an expert's peer has none"


@pytest.mark.slow
def test_peers_serve_latents_and_the_client_decodes_them_to_the_same_images(folder: Path, tmp_path: Path) -> None:
    ended, _ = execute(recipe(folder), "local", Options(out=tmp_path / "run"))
    served = load_denoiser(ended.nodes / "peer-0" / "expert")
    assert served.config.in_channels == 2
    wish = Wish(6, 4, "full", 1.5, (1, 2, 3), 0, micro_batch=3)
    launcher = start_serving(ended, restarts=0)
    try:
        drawn = asyncio.run(generate(ended.path, wish))
    finally:
        stop(ended)
        launcher.wait(60)
    assert drawn.absent == {} and [image.size for image in drawn.images] == [(8, 8)] * 6
    pipeline = DecentralizedDiffusionPipeline.from_pretrained(ended.path / PIPELINE)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(wish.seed)
    alone = pipeline(
        6, 4, class_labels=drawn.labels, guidance_scale=1.5, generator=generator, experts="full", micro_batch=3
    ).images
    assert [image.tobytes() for image in drawn.images] == [image.tobytes() for image in alone]
