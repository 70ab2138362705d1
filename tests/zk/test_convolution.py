"""Patches and a product of matrices are a convolution, and cost no more rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from decentral.zk.arguments import Arguments
from decentral.zk.convolution import PatchConvolution
from decentral.zk.export import export
from decentral.zk.setup import settings_of


@pytest.mark.parametrize(
    ("kernel", "options"),
    [(3, {"stride": 2, "padding": 1}), (3, {}), (5, {"padding": 1, "bias": False}), (1, {"stride": 2}), ((3, 1), {})],
)
@torch.no_grad()
def test_it_computes_the_convolution(kernel, options):
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, kernel, **options)
    image = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(PatchConvolution(convolution)(image), convolution(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("convolution", "reason"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "one group"),
        (nn.Conv2d(4, 4, 3, dilation=2), "dilation"),
        (nn.Conv2d(4, 4, 3, padding="same"), "zeros"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), "zeros"),
    ],
)
def test_what_patches_are_not_made_of_is_refused(convolution, reason):
    with pytest.raises(ValueError, match=reason):
        PatchConvolution(convolution)


async def test_its_circuit_has_no_more_rows_and_no_product_of_its_own(prover, tmp_path):
    convolution, image = nn.Conv2d(16, 16, 3, padding=1), torch.randn(1, 16, 8, 8)
    found = []
    for network in (convolution, PatchConvolution(convolution)):
        export(network, [image], tmp_path / "network.onnx")
        found.append(await settings_of(prover, tmp_path / "network.onnx", Arguments(checked=False, rebase=9)))
    assert found[1].rows <= found[0].rows
    assert all(settings.linked for settings in found)
