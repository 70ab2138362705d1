"""What the tests of networks share: weights in which nothing is trivial, and the law that all of them obey."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from decentral.core.permutation import PermutationSpec, apply_permutation, random_permutation
from decentral.models.tracing import permutation_spec


@pytest.fixture(scope="session")
def scramble() -> Callable[[nn.Module], nn.Module]:
    """The network in float64 and evaluation mode, its vectors and BatchNorm statistics drawn at random."""

    def scrambled(model: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        model.double().eval()
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.is_floating_point() and (tensor.ndim == 1 or bool((tensor == tensor.flatten()[:1]).all())):
                # Biases of zero, scales of one, tokens of nothing would hide that they are not permuted.
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3 + 0.2)
        return model

    return scrambled


@pytest.fixture(scope="session")
def error_of() -> Callable[[nn.Module, PermutationSpec, Tensor, int], float]:
    """How far a randomly permuted network's outputs are from the network's, relative to the largest."""

    @torch.no_grad()
    def error(model: nn.Module, spec: PermutationSpec, x: Tensor, seed: int) -> float:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        expected = model(x)
        permutation = random_permutation(spec, torch.Generator().manual_seed(seed))
        for name, tensor in apply_permutation(spec, permutation, before).items():
            model.state_dict()[name].copy_(tensor)
        permuted = model(x)
        for name, tensor in before.items():
            model.state_dict()[name].copy_(tensor)
        return float((permuted - expected).abs().max() / expected.abs().max())

    return error


@pytest.fixture
def lawful(
    scramble: Callable[[nn.Module], nn.Module], error_of: Callable[[nn.Module, PermutationSpec, Tensor, int], float]
) -> Callable[[nn.Module], PermutationSpec]:
    """What is free in a network for images [B, 2, 4, 4]; random permutations were seen to keep its function."""

    def spec_of(model: nn.Module) -> PermutationSpec:
        scramble(model)
        x = torch.randn(4, 2, 4, 4, dtype=torch.float64)
        spec = permutation_spec(model, x)
        for seed in range(3):
            assert error_of(model, spec, x, seed) < 1e-9
        return spec

    return spec_of
