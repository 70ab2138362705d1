"""torchvision's classifiers: every family is supported, most hidden channels are free, and the function stays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.maxvit import MaxVit

from decentral.core.permutation import PermutationSpec, random_permutation
from decentral.models.tracing import permutation_spec
from decentral.training.merging import permute

Scramble = Callable[[nn.Module], nn.Module]
ErrorOf = Callable[[nn.Module, PermutationSpec, Tensor, int], float]

SWIN = {"patch_size": [4, 4], "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4]}


def maxvit() -> nn.Module:
    return MaxVit((32, 32), 8, 4, [8, 16], [1, 1], 8, stochastic_depth_prob=0.2, num_classes=10)


SMALL: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vit": (partial(models.VisionTransformer, 16, 8, 2, 4, 16, 24, num_classes=10), 16),
    "swin": (partial(models.SwinTransformer, **SWIN, num_classes=10), 32),
    "swin v2": (
        partial(
            models.SwinTransformer,
            **SWIN,
            num_classes=10,
            block=models.swin_transformer.SwinTransformerBlockV2,
            downsample_layer=models.swin_transformer.PatchMergingV2,
        ),
        32,
    ),
    "maxvit": (maxvit, 32),
    "shufflenet": (partial(models.ShuffleNetV2, [2, 3, 2], [8, 12, 20, 28, 32], num_classes=10), 64),
    "convnext": (
        partial(models.ConvNeXt, [CNBlockConfig(8, 12, 2), CNBlockConfig(12, None, 2)], 0.1, num_classes=10),
        32,
    ),
    "densenet": (partial(models.DenseNet, 4, (3, 3), 8, num_classes=10), 64),
    "resnext": (
        partial(models.ResNet, models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=10, groups=4, width_per_group=4),
        32,
    ),
    "regnet": (
        partial(models.RegNet, models.regnet.BlockParams.from_init_params(4, 8, 16.0, 2.0, 8, 0.25), num_classes=10),
        32,
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_all_hidden_channels_of_a_small_network_are_free(name: str, scramble: Scramble, error_of: ErrorOf) -> None:
    build, size = SMALL[name]
    torch.manual_seed(0)
    model = scramble(build())
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    spec = permutation_spec(model, x[:1])
    free = {axis.tensor for axis in spec.axes if axis.axis == 0}
    layers = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    assert [name for name in layers if f"{name}.weight" not in free] == [list(layers)[-1]]
    for seed in range(2):
        assert error_of(model, spec, x, seed) < 1e-9


QUICK = {"mobilenet_v3_small": 64, "mnasnet0_5": 64, "regnet_y_400mf": 64, "shufflenet_v2_x0_5": 64}
SLOW = {"efficientnet_b0": 64, "googlenet": 96, "inception_v3": 299, "densenet121": 64, "resnext50_32x4d": 64,
        "swin_t": 64, "swin_v2_t": 64, "maxvit_t": 224, "convnext_tiny": 64, "vit_b_32": 224, "regnet_x_8gf": 64,
        "wide_resnet50_2": 64, "squeezenet1_0": 64, "alexnet": 64, "vgg11": 64}  # fmt: skip


def check(name: str, size: int, scramble: Scramble, error_of: ErrorOf) -> None:
    torch.manual_seed(0)
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model = scramble(models.get_model(name, weights=None, **options))
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    spec = permutation_spec(model, x[:1])
    assert len(spec.groups) >= 5
    assert error_of(model, spec, x, 0) < 1e-9


@pytest.mark.parametrize("name", QUICK)
def test_permuting_preserves_the_function(name: str, scramble: Scramble, error_of: ErrorOf) -> None:
    check(name, QUICK[name], scramble, error_of)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_permuting_preserves_the_function_of_larger_networks(name: str, scramble: Scramble, error_of: ErrorOf) -> None:
    check(name, SLOW[name], scramble, error_of)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_compute_the_same_after_a_permutation(name: str, scramble: Scramble) -> None:
    """Which only training uses. Layers are as in evaluation here: nothing is drawn, and no batch is normalised."""
    torch.manual_seed(0)
    model = scramble(models.get_model(name, weights=None, init_weights=True))
    x = torch.randn(2, 3, SLOW[name], SLOW[name], dtype=torch.float64)
    spec = permutation_spec(model, x[:1])
    permuted = permute(model, spec, random_permutation(spec, torch.Generator().manual_seed(0)))
    outputs = []
    for network in (model, permuted):
        for module in network.modules():
            module.training = not type(module).__module__.startswith("torch.nn")
        outputs.append(network(x))
    assert len(outputs[0]) == len(outputs[1]) >= 2
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)
    aside = [axis.tensor for axis in spec.axes if "aux" in axis.tensor.lower()]
    before, after = model.state_dict(), permuted.state_dict()
    assert any(not torch.equal(before[tensor], after[tensor]) for tensor in aside)
