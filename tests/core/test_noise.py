"""Noise with a budget: what epsilon and delta promise, measured on the densities themselves."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decentral.core.noise import (
    NORMS,
    clipped,
    gaussian_delta,
    gaussian_deviation,
    gaussian_epsilon,
    noised,
    scale_of,
)

EPSILONS = st.floats(0.05, 20)
DELTAS = st.sampled_from([1e-9, 1e-6, 1e-3, 0.1])


def excess(first: Tensor, second: Tensor, epsilon: float, step: float) -> float:
    """Definition of delta: the most that P(S) - e^ε Q(S) can be, which is over all S where the density exceeds."""
    return float((first - math.exp(epsilon) * second).clamp(min=0).sum() * step)


def normal(grid: Tensor, mean: float, deviation: float) -> Tensor:
    return torch.exp(-((grid - mean) ** 2) / (2 * deviation**2)) / (deviation * math.sqrt(2 * math.pi))


@given(EPSILONS, st.sampled_from([1e-4, 1e-3, 0.1]), st.floats(0.1, 10))
def test_gaussian_noise_keeps_epsilon_and_delta_by_their_definition(epsilon: float, delta: float, clip: float) -> None:
    deviation = scale_of("gaussian", epsilon, delta, clip)
    grid = torch.linspace(-12 * deviation - clip, 12 * deviation + clip, 200_001, dtype=torch.float64)
    step = float(grid[1] - grid[0])
    pair = normal(grid, -clip, deviation), normal(grid, clip, deviation)  # as far apart as clipped inputs can be
    assert excess(*pair, epsilon, step) == pytest.approx(delta, rel=1e-3, abs=1e-9)
    nearer = normal(grid, -clip / 2, deviation), normal(grid, clip / 2, deviation)
    assert excess(*nearer, epsilon, step) < delta
    less = normal(grid, -clip, 0.98 * deviation), normal(grid, clip, 0.98 * deviation)
    assert excess(*less, epsilon, step) > delta  # no smaller noise would do


@given(EPSILONS, st.floats(0.1, 10))
def test_laplace_noise_keeps_epsilon_at_every_point(epsilon: float, clip: float) -> None:
    scale = scale_of("laplace", epsilon, 0.0, clip)
    grid = torch.linspace(-5 * clip, 5 * clip, 10_001, dtype=torch.float64)
    ratio = ((grid + clip).abs() - (grid - clip).abs()).abs() / scale  # of log densities around -clip and clip
    assert float(ratio.max()) == pytest.approx(epsilon)


@given(EPSILONS, DELTAS, st.floats(0.01, 100))
def test_deviation_and_epsilon_are_inverse(epsilon: float, delta: float, sensitivity: float) -> None:
    deviation = gaussian_deviation(epsilon, delta, sensitivity)
    assert gaussian_delta(epsilon, deviation, sensitivity) <= delta
    assert gaussian_epsilon(deviation, delta, sensitivity) == pytest.approx(epsilon, rel=1e-6)


@given(st.floats(0.05, 0.99), DELTAS)
def test_the_analytic_mechanism_adds_no_more_than_the_classical(epsilon: float, delta: float) -> None:
    """Dwork, Roth, "The algorithmic foundations of differential privacy", theorem A.1, for epsilon below one."""
    assert gaussian_deviation(epsilon, delta, 1.0) <= math.sqrt(2 * math.log(1.25 / delta)) / epsilon


@given(EPSILONS, DELTAS)
def test_a_tighter_budget_needs_more_noise(epsilon: float, delta: float) -> None:
    assert gaussian_deviation(epsilon / 2, delta, 1.0) > gaussian_deviation(epsilon, delta, 1.0)
    assert gaussian_deviation(epsilon, delta / 2, 1.0) > gaussian_deviation(epsilon, delta, 1.0)
    assert scale_of("laplace", epsilon / 2, 0.0, 1.0) > scale_of("laplace", epsilon, 0.0, 1.0)


def test_so_much_noise_costs_nothing() -> None:
    assert gaussian_epsilon(1e9, 1e-3, 1.0) == 0.0


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        (("gauss", 1.0, 1e-5, 1.0), "unknown mechanism 'gauss'; there are: gaussian, laplace"),
        (("gaussian", 0.0, 1e-5, 1.0), "above zero"),
        (("gaussian", 1.0, 0.0, 1.0), "needs a delta between 0 and 1"),
        (("laplace", 1.0, 1e-5, 1.0), "delta = 0"),
        (("laplace", 1.0, 0.0, math.inf), "finite"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(budget: tuple[str, float, float, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        scale_of(*budget)


@given(st.integers(0, 999), st.sampled_from([1, 2]), st.floats(0.1, 50))
def test_no_sample_is_longer_than_the_clip_and_short_ones_stay_as_they_are(seed: int, norm: int, clip: float) -> None:
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
    tensors = {"a": torch.zeros(200, 50, 4), "b": torch.zeros(200, 30)}
    found = noised(tensors, mechanism, 1.0, 3.0, torch.Generator().manual_seed(0))
    deviation = 3.0 * (1.0 if mechanism == "gaussian" else math.sqrt(2))
    for name, tensor in found.items():
        assert tensor.shape == tensors[name].shape
        assert float(tensor.std()) == pytest.approx(deviation, rel=0.05)
        assert abs(float(tensor.mean())) < 5 * deviation / math.sqrt(tensor.numel())
    again = noised(tensors, mechanism, 1.0, 3.0, torch.Generator().manual_seed(0))
    other = noised(tensors, mechanism, 1.0, 3.0, torch.Generator().manual_seed(1))
    assert all(torch.equal(found[name], again[name]) for name in tensors)
    assert not torch.equal(found["a"], other["a"])
