"""A recipe's hash covers which autoencoder it means, not where it lies; a folder that is none names key and line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from decentral.errors import RecipeError
from decentral.models.autoencoder_folder import CONFIG, WEIGHTS, autoencoder_digest
from decentral.run.recipe import Recipe, load_recipe
from decentral.run.serving_recipe import load_any_recipe
from tests.autoencoder import tiny


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("autoencoders")
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        tiny(seed).save_pretrained(place / name)
    return place


def test_the_hash_is_of_the_autoencoder_and_not_of_its_folder(folders: Path) -> None:
    plain = load_recipe("diffusion-digits")
    one, same, other = (load_recipe("diffusion-digits", [f"vae={folders / name}"]) for name in ("one", "same", "other"))
    assert one.hash == same.hash and len({plain.hash, one.hash, other.hash}) == 3
    assert one.differences(same) == [] and "vae.digest" in one.differences(other)
    assert one.vae is not None and one.vae.digest == autoencoder_digest(folders / "one")
    assert load_recipe("diffusion-digits", [f"vae.folder={folders / 'one'}"]) == one
    assert load_any_recipe("diffusion-digits", [f"vae={folders / 'one'}"]).hash == one.hash


def test_what_was_written_down_is_read_without_the_folder(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "one", tmp_path / "vae")
    recipe = load_recipe("diffusion-digits", [f"vae={tmp_path / 'vae'}"])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    shutil.rmtree(tmp_path / "vae")
    assert Recipe.from_run(tmp_path).hash == recipe.hash


def test_a_folder_with_another_one_than_the_recipe_says_is_refused(folders: Path, tmp_path: Path) -> None:
    recipe = load_recipe("diffusion-digits", [f"vae={folders / 'one'}"])
    file = tmp_path / "mine.yaml"
    file.write_text(recipe.to_yaml().replace(str(folders / "one"), str(folders / "other")))
    line = next(number for number, text in enumerate(file.read_text().splitlines(), 1) if "digest:" in text)
    with pytest.raises(RecipeError, match=f"{file}:{line}: vae.digest: .*other holds another autoencoder"):
        load_recipe(file)


@pytest.mark.parametrize("written", ["vae: {place}", "vae: {{folder: {place}}}", "vae:\n  folder: {place}"])
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (shutil.rmtree, "there is no folder"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"half"), "safetensors is damaged"),
        (lambda folder: (folder / CONFIG).write_text('{"_class_name": "UNet2DModel"}'), "holds a UNet2DModel"),
    ],
)
def test_a_folder_that_holds_none_is_an_error_with_key_file_and_line(
    folders: Path, tmp_path: Path, written: str, damage, problem: str
) -> None:
    place = tmp_path / "vae"
    shutil.copytree(folders / "one", place)
    damage(place)
    file = tmp_path / "mine.yaml"
    file.write_text(f"algorithm: experts\nmodel: unet\nlearner: diffusion\n{written.format(place=place)}\n")
    line = 5 if "\n" in written else 4
    with pytest.raises(RecipeError, match=problem) as refused:
        load_recipe(file)
    assert (refused.value.key, refused.value.file, refused.value.line) == ("vae.folder", str(file), line)


def test_latents_are_for_those_who_draw_and_are_not_moved_about(folders: Path) -> None:
    with pytest.raises(RecipeError, match="latents are for the learners diffusion and distillation"):
        load_recipe("dimat-digits", [f"vae={folders / 'one'}"])
    with pytest.raises(RecipeError, match=r"data.augment: moves pixels") as refused:
        load_recipe("diffusion-digits", [f"vae={folders / 'one'}", "data.augment=true"])
    assert refused.value.file == "--set data.augment=true"
    with pytest.raises(RecipeError, match=r"vae"):
        load_recipe("diffusion-digits", ["vae=3"])
