"""The networks that recipes may name."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from decentral.errors import UserError
from decentral.models.catalogue import MODELS, build_model, is_torchvision, torchvision_names


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("mlp", (1, 8, 8), {}),
        ("mlp", (64,), {"hidden": [], "batch_norm": True}),
        ("mlp", (3, 4, 5), {"hidden": [7], "batch_norm": True, "dropout": 0.5}),
        ("cnn", (1, 8, 8), {}),
        ("cnn", (3, 33, 20), {"channels": [4, 8, 8], "hidden": 16}),
        ("strided-cnn", (3, 33, 20), {}),
        ("strided-cnn", (1, 8, 8), {"channels": [4, 8]}),
        ("gn-lenet", (1, 28, 28), {}),
        ("resnet8", (3, 32, 32), {}),
        ("resnet20", (3, 32, 32), {}),
        ("resnet32", (1, 8, 8), {}),
        ("vgg11-bn", (3, 32, 32), {"width": 0.125}),
        ("vgg16-bn", (3, 64, 48), {"width": 0.125}),
        ("torchvision/squeezenet1_1", (3, 40, 40), {"dropout": 0.1}),
    ],
)
def test_every_network_classifies_images_of_its_shape(
    name: str, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    model = build_model(name, shape, 7, **options)
    logits = model(torch.randn(2, *shape))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS.names())
def test_a_name_gives_the_same_network_for_the_same_random_state(name: str) -> None:
    options = {"width": 0.125} if name.startswith("vgg") else {}
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_model(name, (3, 32, 32), 10, **options).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_sizes_are_those_of_the_papers() -> None:
    assert parameters(build_model("mlp", (1, 8, 8), 10)) == 50_826
    assert parameters(build_model("gn-lenet", (3, 32, 32), 10)) == 85_354
    assert parameters(build_model("resnet8", (3, 32, 32), 10)) == pytest.approx(78e3, rel=0.01)
    assert parameters(build_model("resnet20", (3, 32, 32), 100, width=8)) == pytest.approx(17.4e6, rel=0.01)
    layers = [m for m in build_model("vgg16-bn", (3, 32, 32), 10, width=0.125).modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == 13


def test_the_perceptron_starts_from_the_weights_of_plain_torch_layers() -> None:
    torch.manual_seed(1234)
    ours = build_model("mlp", (64,), 10)
    torch.manual_seed(1234)
    plain = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    for first, second in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("name", "shape", "options", "complaint"),
    [
        ("mpl", (64,), {}, "did you mean 'mlp'"),
        ("mlp", (64,), {"widths": [3]}, "does not take widths; its options: hidden, batch_norm, dropout"),
        ("mlp", (64,), {"hidden": "256"}, "cannot be built with these options"),
        ("mlp", (64,), {"hidden": [-1]}, "cannot be built with these options"),
        ("cnn", (64,), {}, r"takes images \[channels, height, width\]"),
        ("cnn", (1, 3, 3), {}, "of 4 x 4 pixels or more"),
        ("strided-cnn", (1, 3, 3), {}, "of 4 x 4 pixels or more"),
        ("gn-lenet", (1, 8, 8), {}, "of 15 x 15 pixels or more"),
        ("resnet20", (3, 4, 4), {}, "of 8 x 8 pixels or more"),
        ("vgg11-bn", (1, 8, 8), {}, "of 32 x 32 pixels or more"),
        ("torchvision/resnet81", (3, 32, 32), {}, "did you mean 'resnet18'"),
        ("torchvision/resnet18", (1, 8, 8), {}, r"3 channels, not \[1, 8, 8\]: set data.channels: 3"),
        ("resnet18", (2, 8, 8), {}, r"3 channels, not \[2, 8, 8\]$"),
        ("resnet51", (3, 32, 32), {}, "unknown model 'resnet51'; did you mean 'resnet50'"),
        ("zzz", (3, 32, 32), {}, "there are: cnn.*and torchvision's classifiers"),
        ("torchvision/resnet18", (3, 32, 32), {"weights": "DEFAULT"}, "would download"),
        ("torchvision/resnet18", (3, 32, 32), {"depth": 7}, "cannot be built with these options"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(
    name: str, shape: tuple[int, ...], options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        build_model(name, shape, 10, **options)


def test_auxiliary_outputs_are_left_out() -> None:
    model = build_model("torchvision/googlenet", (3, 32, 32), 5).train()
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)


def test_a_name_that_nobody_took_is_torchvisions() -> None:
    assert not is_torchvision("cnn")
    assert is_torchvision("torchvision/resnet18")
    assert is_torchvision("resnet50")
    with pytest.raises(UserError, match="unknown model 'lenet'; did you mean"):
        is_torchvision("lenet")
    torch.manual_seed(0)
    short = build_model("resnet18", (3, 32, 32), 4).state_dict()
    torch.manual_seed(0)
    long = build_model("torchvision/resnet18", (3, 32, 32), 4).state_dict()
    assert all(torch.equal(short[key], long[key]) for key in long)


def test_the_names_found_in_torchvisions_text_are_those_that_it_registers() -> None:
    from torchvision import models

    assert torchvision_names() == {*models.list_models(module=models)}


def test_the_table_is_free_of_torch() -> None:
    code = "import sys, decentral.models.catalogue as c; c.is_torchvision('resnet50'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
