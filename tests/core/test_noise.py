"""Noise on the tensors that leave a client."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decentral.core.budget import NORMS, Budget
from decentral.core.noise import clipped, noised


@given(st.integers(0, 999), st.sampled_from([1, 2]), st.floats(0.1, 50))
def test_no_input_is_longer_than_the_clip_and_short_ones_stay_as_they_are(seed: int, norm: int, clip: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = {"a": torch.randn(6, 3, 2, generator=generator), "b": torch.randn(6, 4, generator=generator)}
    found = clipped(tensors, clip, norm)

    def length(of: dict[str, Tensor]) -> Tensor:
        rows = torch.cat([tensor.double().flatten(1) for tensor in of.values()], 1)
        lengths: Tensor = torch.linalg.vector_norm(rows, norm, dim=1)
        return lengths

    before, after = length(tensors), length(found)
    assert bool((after <= clip * (1 + 1e-5)).all())
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name][before <= clip], tensor[before <= clip])
    torch.testing.assert_close(after[before > clip], torch.full_like(after[before > clip], clip))


def test_what_is_not_finite_is_sent_as_nothing() -> None:
    """A number that no clip bounds would have no budget."""
    tensors = {"a": torch.tensor([[math.nan, 1.0], [math.inf, 0.5]])}
    assert torch.equal(clipped(tensors, 10.0, 2)["a"], torch.tensor([[0.0, 1.0], [0.0, 0.5]]))


@pytest.mark.parametrize("mechanism", sorted(NORMS))
def test_noise_has_its_scale_its_type_and_its_seed(mechanism: str) -> None:
    tensors, budget = {"a": torch.zeros(200, 50, 4), "b": torch.zeros(200, 30)}, Budget(mechanism, 2.0, 3.0)
    found = noised(tensors, budget, torch.Generator().manual_seed(0))
    deviation = budget.scale * (1.0 if mechanism == "gaussian" else math.sqrt(2))
    for name, tensor in found.items():
        assert (tensor.shape, tensor.dtype) == (tensors[name].shape, tensors[name].dtype)
        assert float(tensor.std()) == pytest.approx(deviation, rel=0.05)
        assert abs(float(tensor.mean())) < 5 * deviation / math.sqrt(tensor.numel())
    again = noised(tensors, budget, torch.Generator().manual_seed(0))
    other = noised(tensors, budget, torch.Generator().manual_seed(1))
    assert all(torch.equal(found[name], again[name]) for name in tensors)
    assert not torch.equal(found["a"], other["a"])


def test_noise_goes_around_what_was_clipped() -> None:
    tensors = {"a": torch.full((5000, 1), 7.0)}
    found = noised(tensors, Budget("laplace", 4.0, 2.0), torch.Generator().manual_seed(0))["a"]
    assert float(found.mean()) == pytest.approx(2.0, abs=0.1)


@given(st.floats(0.1, 8))
def test_nobody_tells_two_inputs_apart_better_than_epsilon_allows(epsilon: float) -> None:
    """Of answers about either, a guess by the likelihood is right in e^ε / (1 + e^ε) of the cases at most."""
    generator, half = torch.Generator().manual_seed(0), 4000
    tensors = {"a": torch.cat([torch.full((half, 1), 9.0), torch.full((half, 1), -9.0)])}
    found = noised(tensors, Budget("laplace", epsilon, 1.0), generator)["a"][:, 0]
    right = float(((found > 0) == (torch.arange(2 * half) < half)).float().mean())
    most = math.exp(epsilon) / (1 + math.exp(epsilon))
    assert right <= most + 4 * math.sqrt(0.25 / (2 * half))
