"""A network without its BatchNorm computes what it computed with it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from decentral.errors import UserError
from decentral.models.catalogue import build_model
from decentral.models.folding import fold_batchnorm
from decentral.models.stages import split


def used(model: nn.Module, *shape: int) -> nn.Module:
    """With statistics and scales that are not those of the start."""
    generator = torch.Generator().manual_seed(0)
    model.train()(torch.randn(8, *shape, generator=generator))
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 2.0, generator=generator)
            nn.init.uniform_(module.bias, -1.0, 1.0, generator=generator)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("strided-cnn", (1, 8, 8), {"channels": [4, 8]}),
        ("resnet8", (3, 32, 32), {}),
        ("mlp", (1, 4, 4), {"hidden": [8], "batch_norm": True}),
        ("cnn", (1, 8, 8), {"channels": [4]}),
    ],
)
@torch.no_grad()
def test_it_computes_the_same_without_batchnorm(name, shape, options):
    torch.manual_seed(0)
    model = used(build_model(name, shape, 5, **options), *shape)
    images = torch.randn(6, *shape)
    before = model(images)
    folded = fold_batchnorm(model)
    torch.testing.assert_close(folded(images), before, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, _BatchNorm) for module in folded.modules())
    assert torch.equal(model(images), before), "the network itself stays as it is"


@torch.no_grad()
def test_a_stage_can_be_folded_by_itself():
    model = used(build_model("resnet8", (3, 32, 32), 5), 3, 32, 32)
    images = torch.randn(2, 3, 32, 32)
    first, second = split(model, ["stages.0"], images)
    found = fold_batchnorm(second.network)(fold_batchnorm(first.network)(images))
    torch.testing.assert_close(found, model(images), rtol=1e-4, atol=1e-4)


class Twice(nn.Module):
    """Its convolution is used with BatchNorm and without."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y + self.norm(y)


@pytest.mark.parametrize("model", [Twice(), nn.Sequential(nn.ReLU(), nn.BatchNorm2d(1))])
def test_one_that_follows_no_layer_alone_is_named(model):
    with pytest.raises(UserError, match="cannot be folded"):
        fold_batchnorm(model)
