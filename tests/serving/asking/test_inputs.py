"""Every way to name an input gives what the network sees, and every wrong one an error that names it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from decentral.data.datasets import load_dataset
from decentral.errors import UserError
from decentral.serving.asking.inputs import read_inputs
from decentral.serving.stages.model import Network
from decentral.training.images import normalise

DIGITS = Network(
    "mlp", {}, (1, 8, 8), 10, 3, True, "a test", {"name": "digits"}, tuple("0123456789"), (0.0,), (16.0,), 16
)
PLAIN = Network("mlp", {}, (4,), 3, 2, True, "a test")


@pytest.fixture
def seen():
    images = load_dataset("digits")
    return normalise(torch.from_numpy(images.test_images()), images.mean, images.std), images.test_labels


def test_a_number_is_a_test_image_with_its_class(seen):
    pixels, labels = seen
    batch, asked = read_inputs(["digits:7", "digits:0-2"], DIGITS)
    assert torch.equal(batch, pixels[[7, 0, 1, 2]])
    assert [each.name for each in asked] == ["digits:7", "digits:0", "digits:1", "digits:2"]
    assert [each.truth for each in asked] == [int(labels[place]) for place in (7, 0, 1, 2)]


def test_a_picture_is_seen_as_the_models_images_are(tmp_path, seen):
    pixels, _ = seen
    gray = (pixels[7, 0] * 255).round().to(torch.uint8).numpy()
    Image.fromarray(gray, "L").save(tmp_path / "seven.png")
    Image.fromarray(gray, "L").resize((64, 64), Image.Resampling.NEAREST).convert("RGB").save(tmp_path / "large.png")
    batch, asked = read_inputs([str(tmp_path / "seven.png"), str(tmp_path / "large.png")], DIGITS)
    assert torch.allclose(batch[0], pixels[7], atol=1 / 16)
    assert torch.allclose(batch[1], pixels[7], atol=3 / 16)
    assert asked[0].truth is None


def test_arrays_are_one_input_or_several_as_floats_or_pixels(tmp_path, seen):
    pixels, _ = seen
    np.save(tmp_path / "floats.npy", pixels[:2].numpy())
    np.save(tmp_path / "one.npy", pixels[3].numpy().astype(np.float64))
    np.save(tmp_path / "bytes.npy", load_dataset("digits").test_images()[4])
    save_file({"x": pixels[5:7].clone()}, tmp_path / "some.safetensors")
    names = ["floats.npy", "one.npy", "bytes.npy", "some.safetensors"]
    batch, asked = read_inputs([str(tmp_path / name) for name in names], DIGITS)
    assert torch.equal(batch, pixels[[0, 1, 3, 4, 5, 6]])
    assert [each.name.rpartition("/")[2] for each in asked][:3] == ["floats.npy[0]", "floats.npy[1]", "one.npy"]


def bad(folder):
    np.save(folder / "shape.npy", np.zeros((2, 3, 8, 8), np.float32))
    np.save(folder / "words.npy", np.array(["a"]))
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    (folder / "broken.npy").write_bytes(b"nothing")
    (folder / "broken.png").write_bytes(b"nothing")
    (folder / "broken.safetensors").write_bytes(b"nothing")
    save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, folder / "two.safetensors")
    save_file({"a": torch.zeros(1, 1, 8, 8, dtype=torch.int64)}, folder / "whole.safetensors")
    (folder / "notes.txt").write_text("7")


WRONG = {
    "shape.npy": "is of shape",
    "words.npy": "floats, or pixels",
    "objects.npy": "no array",
    "broken.npy": "no array",
    "broken.png": "no picture",
    "broken.safetensors": "no safetensors",
    "two.safetensors": "holds 2 tensors",
    "whole.safetensors": "floats are wanted",
    "notes.txt": "must end in",
    "absent.npy": "no such file",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_named(tmp_path, name):
    bad(tmp_path)
    with pytest.raises(UserError, match=WRONG[name]) as refused:
        read_inputs([str(tmp_path / name)], DIGITS)
    assert name in str(refused.value)


@pytest.mark.parametrize("word", ["digits:355", "digits:3-2", "digitz:1", "digits"])
def test_a_number_that_is_not_there_and_a_dataset_that_is_none_are_named(word):
    with pytest.raises(UserError, match=r"digits"):
        read_inputs([word], DIGITS)


def test_a_model_of_which_nobody_says_how_it_sees_pictures_takes_arrays_alone(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="nobody says"):
        read_inputs([str(tmp_path / "x.png")], PLAIN)
    np.save(tmp_path / "x.npy", np.ones((2, 4), np.float32))
    batch, _ = read_inputs([str(tmp_path / "x.npy")], PLAIN)
    assert batch.shape == (2, 4)
