"""Features are the same for whoever looks, of training and test images alike, and are refused where they cannot be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from decentral.data.datasets import load_dataset
from decentral.errors import UserError
from decentral.models.dinov2 import Dinov2, Shape
from decentral.training.features import IMAGENET_MEAN, IMAGENET_STD, Looking, features

PIXELS = {"features": "pixels", "weights": None, "components": 8}


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def test_whoever_looks_sees_the_same(digits):
    one, other = Looking(digits, np.arange(100), 0), Looking(digits, np.arange(100), 0)
    assert one.train is None and one.test() is None
    assert np.array_equal(one(PIXELS), other(PIXELS))
    assert one.train.shape == (100, 8) and one.test().shape == (355, 8)


def test_an_encoder_is_trained_once_from_the_seed_and_leaves_the_random_state_alone(digits):
    asked = {**PIXELS, "features": "encoder"}
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    one = Looking(digits, np.arange(60), 0)
    rows = one(asked)
    assert torch.equal(torch.rand(1), expected)
    assert len(rows) == 60 and len(one.test()) == 355 and rows.shape[1] == one.test().shape[1]
    assert np.array_equal(Looking(digits, np.arange(60), 0)(asked), rows)
    assert not np.array_equal(Looking(digits, np.arange(60), 1)(asked), rows)


def test_features_are_what_goes_into_the_last_linear_layer():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    pixels = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2)
    found = features(model, lambda part: part.float(), pixels)
    expected = model[:3](torch.from_numpy(pixels).float()).detach().double().numpy()
    assert np.array_equal(found, expected)
    with pytest.raises(UserError, match="no linear layer"):
        features(nn.Conv2d(1, 1, 1), lambda part: part.float(), pixels)


def test_features_from_a_file_are_rows_of_the_training_set(digits, tmp_path):
    rows = torch.randn(1442, 5)
    save_file({"features": rows}, tmp_path / "alone.safetensors")
    save_file({"features": rows, "test": torch.zeros(355, 5)}, tmp_path / "both.safetensors")
    save_file({"features": rows[:7]}, tmp_path / "few.safetensors")
    save_file({"features": rows, "test": torch.zeros(3, 5)}, tmp_path / "odd.safetensors")

    def look(name: str) -> Looking:
        looking = Looking(digits, np.arange(10, 20), 0)
        looking({**PIXELS, "features": str(tmp_path / name)})
        return looking

    assert np.array_equal(look("alone.safetensors").train, rows[10:20].double().numpy())
    assert look("alone.safetensors").test() is None and look("both.safetensors").test().shape == (355, 5)
    for name, problem in [
        ("few.safetensors", "a row of numbers for each of 1442 images"),
        ("odd.safetensors", "'test' must have a row for each test image"),
        ("none.safetensors", "holds no features"),
    ]:
        with pytest.raises(UserError, match=problem):
            look(name)


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"features": "squeezenet1_1"}, "needs its weights in a safetensors file"),
        ({"features": "squeezenet1_1", "weights": "/nowhere.safetensors"}, "are not the weights of 'squeezenet1_1'"),
        ({"features": "dinov2"}, "needs its weights in the folder of a checkpoint"),
        ({"features": "dinov2", "weights": "/nowhere"}, "data.partition.weights: /nowhere: holds no DINOv2"),
        ({"features": "mlp"}, "'mlp' is not pixels, encoder, dinov2 or one of torchvision's names"),
        ({"features": "resnet19"}, "did you mean"),
    ],
)
def test_a_network_that_cannot_look_is_named(digits, asked, problem: str):
    with pytest.raises(UserError, match=problem):
        Looking(digits, np.arange(10), 0)({**PIXELS, **asked})


def test_a_network_of_torchvisions_looks_with_its_own_weights(digits, tmp_path):
    from torchvision import models

    torch.manual_seed(0)
    weights = models.get_model("mobilenet_v3_small", weights=None).state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    asked = {**PIXELS, "features": "mobilenet_v3_small", "weights": str(tmp_path / "weights.safetensors")}
    assert Looking(digits, np.arange(4), 0)(asked).shape == (4, 1024)


@torch.no_grad()
def test_dinov2_looks_from_a_folder_at_images_in_colour_and_of_its_size(digits, tmp_path):
    torch.manual_seed(0)
    shape = Shape(width=8, patch=56, layers=1, heads=2, hidden=16, side=3, registers=0, gated=False)
    network = Dinov2(shape).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"num_attention_heads": 2}')
    looking = Looking(digits, np.arange(5, 9), 0)
    found = looking({**PIXELS, "features": "dinov2", "weights": str(tmp_path)})
    image = torch.from_numpy(digits.train_images(np.arange(5, 6))).float() / digits.white
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    large = functional.interpolate((image.expand(-1, 3, -1, -1) - mean) / std, 224, mode="bilinear", antialias=True)
    np.testing.assert_allclose(found[:1], network(large).double().numpy(), atol=1e-5)
    assert found.shape == (4, 8) and looking.test().shape == (355, 8)
