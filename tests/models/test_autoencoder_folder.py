"""An autoencoder is known by what it computes with, and a folder that holds none, or half of one, says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from decentral.errors import UserError
from decentral.models.autoencoder_folder import CONFIG, WEIGHTS, autoencoder_digest
from tests.autoencoder import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny().save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def configure(folder: Path, **changes: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_equal_autoencoders_have_one_digest_wherever_they_come_from(folder: Path, tmp_path: Path) -> None:
    digest = autoencoder_digest(folder)
    assert len(digest) == 64
    tiny().save_pretrained(tmp_path / "again")
    assert autoencoder_digest(tmp_path / "again") == digest
    configure(folder, _diffusers_version="0.1", _name_or_path="elsewhere")
    tensors = load_file(folder / WEIGHTS)
    save_file(dict(reversed(tensors.items())), folder / WEIGHTS, metadata={"format": "pt", "made": "by others"})
    assert autoencoder_digest(folder) == digest


def test_another_scale_or_another_parameter_is_another_autoencoder(folder: Path, tmp_path: Path) -> None:
    digests = {autoencoder_digest(folder)}
    tiny(1).save_pretrained(tmp_path / "other")
    digests.add(autoencoder_digest(tmp_path / "other"))
    configure(folder, scaling_factor=0.2)
    digests.add(autoencoder_digest(folder))
    configure(folder, shift_factor=0.1)
    digests.add(autoencoder_digest(folder))
    change(folder, lambda tensors: tensors["encoder.conv_in.bias"].mul_(1 + 1e-6))
    digests.add(autoencoder_digest(folder))
    assert len(digests) == 5


def test_what_is_no_autoencoder_is_refused_with_its_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / CONFIG).write_text("[]")
    for place, problem in [("nowhere", "there is no folder"), ("empty", "it has no config.json"), ("list", "no model")]:
        with pytest.raises(UserError, match=f"{place}.*{problem}|{problem}.*{place}"):
            autoencoder_digest(tmp_path / place)
    (folder / CONFIG).write_text("{")
    with pytest.raises(UserError, match=r"config.json is damaged"):
        autoencoder_digest(folder)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"_class_name": "UNet2DModel"}, "holds a UNet2DModel, not an AutoencoderKL"),
        ({"_class_name": None}, "holds no model"),
        ({"scaling_factor": 0}, "scaling_factor 0 and shift_factor None cannot be"),
        ({"scaling_factor": float("nan")}, "scaling_factor nan"),
        ({"scaling_factor": True}, "scaling_factor True"),
        ({"shift_factor": "0.1"}, "shift_factor '0.1'"),
        ({"latents_mean": [0.0, 0.0]}, "latents_mean are not applied"),
    ],
)
def test_a_configuration_of_something_else_is_refused(folder: Path, changes: dict[str, object], problem: str) -> None:
    configure(folder, **changes)
    with pytest.raises(UserError, match=problem):
        autoencoder_digest(folder)


def test_parameters_that_are_cut_off_missing_or_a_pickle_are_refused(folder: Path) -> None:
    file = folder / WEIGHTS
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:20], whole + b"\0", b"", b"\xff" * 64):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{WEIGHTS} is damaged"):
            autoencoder_digest(folder)
    save_file({}, file)
    with pytest.raises(UserError, match="holds no parameters"):
        autoencoder_digest(folder)
    shutil.move(file, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=r"diffusion_pytorch_model.bin is a pickle, which is never read"):
        autoencoder_digest(folder)
