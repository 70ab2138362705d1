"""Linear flow matching in closed form: experts over clusters, weighted by their posterior, are the flow of all data."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decentral.core.flow import (
    Clustered,
    FiniteSet,
    GaussianMixture,
    Mixture,
    ensemble_velocity,
    interpolate,
    velocity_of_data,
    velocity_target,
)

TIMES = [0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0]
TOLERANCE = 1e-10

seeds = st.integers(0, 2**32 - 1)
times = st.sampled_from(TIMES) | st.floats(0.001, 1.0)


def drawing(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def shares(generator: torch.Generator, count: int) -> Tensor:
    weights = torch.rand(count, generator=generator, dtype=torch.float64) + 0.05
    return weights / weights.sum()


def gaussian_mixture(generator: torch.Generator, components: int, dimensions: int) -> GaussianMixture:
    factors = normal(generator, components, dimensions, dimensions) / 2
    covariances = factors @ factors.mT + 0.01 * torch.eye(dimensions, dtype=torch.float64)
    return GaussianMixture(shares(generator, components), 2 * normal(generator, components, dimensions), covariances)


def finite_set(generator: torch.Generator, points: int, dimensions: int) -> FiniteSet:
    return FiniteSet(normal(generator, points, dimensions), shares(generator, points))


def dealt(generator: torch.Generator, components: int, clusters: int) -> Tensor:
    """Clusters of all components, each with at least one."""
    rest = torch.randint(clusters, (components - clusters,), generator=generator)
    return torch.cat([torch.arange(clusters), rest])[torch.randperm(components, generator=generator)]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Clustered, Tensor, float]:
    """A clustered mixture, samples of it at a time, and the time; some samples lie where no data is."""
    generator, t = drawing(draw(seeds)), draw(times)
    clusters, dimensions = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    components = clusters + draw(st.integers(0, 8))
    mixture: Mixture
    if draw(st.booleans()):
        mixture = gaussian_mixture(generator, components, dimensions)
        means = mixture.means
    else:
        mixture = finite_set(generator, components, dimensions)
        means = mixture.points
    data = means[torch.randint(components, (12,), generator=generator)]
    x = interpolate(data, normal(generator, 12, dimensions), torch.full((12,), t, dtype=torch.float64))
    x = torch.cat([x, normal(generator, 4, dimensions)])
    return Clustered(mixture, dealt(generator, components, clusters), clusters), x, t


def worst(found: Tensor, expected: Tensor) -> float:
    """Largest error, relative to velocities larger than one."""
    return ((found - expected).abs() / expected.abs().clamp(min=1)).max().item()


@given(problems())
def test_the_ensembles_flow_is_the_marginal_flow(problem: tuple[Clustered, Tensor, float]) -> None:
    clustered, x, t = problem
    assert worst(clustered.velocity(x, t), clustered.mixture.marginal_velocity(x, t)) < TOLERANCE


@pytest.mark.parametrize("t", TIMES)
def test_on_samples_of_the_distribution_it_holds_absolutely(t: float) -> None:
    generator = drawing(1)
    mixture = gaussian_mixture(generator, 12, 4)
    clustered = Clustered(mixture, dealt(generator, 12, 4), 4)
    data = mixture.means[torch.randint(12, (200,), generator=generator)]
    x = interpolate(data, normal(generator, 200, 4), torch.full((200,), t, dtype=torch.float64))
    assert (clustered.velocity(x, t) - mixture.marginal_velocity(x, t)).abs().max() < TOLERANCE


@pytest.mark.parametrize("t", [t for t in TIMES if t >= 0.1])
@pytest.mark.parametrize("kind", [gaussian_mixture, finite_set])
def test_without_the_clusters_priors_it_does_not_hold(kind: type[Mixture], t: float) -> None:
    generator = drawing(2)
    mixture = kind(generator, 8, 2)
    clustered = Clustered(mixture, torch.tensor([0, 0, 0, 0, 0, 0, 1, 2]), 3)
    x = normal(generator, 50, 2)
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    expected = mixture.marginal_velocity(x, t)
    assert worst(clustered.velocity(x, t), expected) < TOLERANCE
    assert worst(clustered.velocity(x, t, uniform), expected) > 1000 * TOLERANCE


@given(problems())
def test_in_pure_noise_the_posterior_is_the_prior(problem: tuple[Clustered, Tensor, float]) -> None:
    clustered, x, _ = problem
    found = clustered.responsibilities(x, 1.0)
    torch.testing.assert_close(found, clustered.priors.expand_as(found), atol=1e-13, rtol=0)


@given(problems())
def test_responsibilities_are_probabilities(problem: tuple[Clustered, Tensor, float]) -> None:
    clustered, x, t = problem
    found = clustered.responsibilities(x, t)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(len(x), dtype=torch.float64))


def test_near_the_data_the_cluster_is_certain() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    clustered = Clustered(FiniteSet(points), torch.tensor([0, 1, 1]), 2)
    torch.testing.assert_close(clustered.responsibilities(points, 0.001), torch.eye(2, dtype=torch.float64)[[0, 1, 1]])


@pytest.mark.parametrize("t", [0.05, 0.3, 0.7, 0.95])
def test_the_marginal_flow_agrees_with_the_score(t: float) -> None:
    # An independent way to it: u = -(x + t ∇ log p_t(x)) / (1 - t), the gradient taken by autograd.
    generator = drawing(3)
    for mixture in (gaussian_mixture(generator, 5, 3), finite_set(generator, 5, 3)):
        x = normal(generator, 20, 3).requires_grad_()
        density = (mixture.weights.log() + mixture.log_likelihoods(x, t)).logsumexp(1)
        [score] = torch.autograd.grad(density.sum(), x)
        expected = -(x + t * score) / (1 - t)
        torch.testing.assert_close(mixture.marginal_velocity(x.detach(), t), expected.detach(), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("t", [0.2, 0.6, 1.0])
def test_densities_are_those_of_torchs_distributions(t: float) -> None:
    generator = drawing(4)
    mixture, x = gaussian_mixture(generator, 4, 3), normal(generator, 9, 3)
    covariances = (1 - t) ** 2 * mixture.covariances + t**2 * torch.eye(3, dtype=torch.float64)
    reference = torch.distributions.MultivariateNormal((1 - t) * mixture.means, covariances)
    torch.testing.assert_close(mixture.log_likelihoods(x, t), reference.log_prob(x[:, None]))


def test_a_finite_set_is_a_mixture_without_variance() -> None:
    generator = drawing(5)
    points = finite_set(generator, 6, 3)
    gaussians = GaussianMixture(points.weights, points.points, torch.zeros(6, 3, 3, dtype=torch.float64))
    x = normal(generator, 10, 3)
    for t in (0.1, 0.5, 1.0):
        torch.testing.assert_close(points.log_likelihoods(x, t), gaussians.log_likelihoods(x, t))
        torch.testing.assert_close(points.marginal_velocity(x, t), gaussians.marginal_velocity(x, t))


def test_the_flow_carries_noise_to_the_distribution() -> None:
    # One Gaussian: x_t = (1 - t) μ + sqrt((1 - t)² s² + t²) z along every path, so noise z arrives at μ + s z.
    mean, deviation = torch.tensor([1.5, -0.5], dtype=torch.float64), 0.4
    mixture = GaussianMixture(
        torch.ones(1, dtype=torch.float64), mean[None], deviation**2 * torch.eye(2, dtype=torch.float64)[None]
    )
    x = start = normal(drawing(6), 100, 2)
    steps = 500
    for step in range(steps):
        middle = 1 - (step + 0.5) / steps  # the midpoint rule
        half = x - mixture.marginal_velocity(x, 1 - step / steps) / (2 * steps)
        x = x - mixture.marginal_velocity(half, middle) / steps
    torch.testing.assert_close(x, mean + deviation * start, atol=1e-4, rtol=0)


@given(seeds)
def test_the_target_is_the_velocity_of_the_path(seed: int) -> None:
    generator = drawing(seed)
    x0, noise = normal(generator, 5, 2, 3, 3), normal(generator, 5, 2, 3, 3)
    early, late = torch.rand(5, generator=generator).double() * 0.5, torch.full((5,), 0.75, dtype=torch.float64)
    moved = interpolate(x0, noise, late) - interpolate(x0, noise, early)
    torch.testing.assert_close(moved, (late - early).view(-1, 1, 1, 1) * velocity_target(x0, noise))
    torch.testing.assert_close(velocity_of_data(interpolate(x0, noise, late), x0, late), velocity_target(x0, noise))


def test_an_ensemble_of_images_is_weighted_image_by_image() -> None:
    generator = drawing(7)
    velocities, weights = normal(generator, 3, 2, 1, 4, 4), shares(generator, 6).view(3, 2)
    expected = torch.stack([sum(weights[n, k] * velocities[n, k] for k in range(2)) for n in range(3)])
    torch.testing.assert_close(ensemble_velocity(velocities, weights), expected)


def test_what_is_no_partition_is_refused() -> None:
    mixture = finite_set(drawing(8), 3, 2)
    with pytest.raises(ValueError, match="clusters without a component: 1, 3"):
        Clustered(mixture, torch.tensor([0, 2, 2]), 4)
    with pytest.raises(ValueError, match=r"one cluster of 0\.\.1"):
        Clustered(mixture, torch.tensor([0, 1, 2]), 2)


@pytest.mark.parametrize("t", [0.0, -0.1, 1.5, math.nan])
def test_times_outside_the_path_are_refused(t: float) -> None:
    with pytest.raises(ValueError, match="t must be"):
        finite_set(drawing(9), 3, 2).marginal_velocity(torch.zeros(1, 2, dtype=torch.float64), t)


@pytest.mark.parametrize("weights", [[0.5, 0.4], [1.5, -0.5], [1.0, 0.0]])
def test_weights_of_a_mixture_are_checked(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="sum to one"):
        FiniteSet(torch.zeros(2, 2, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64))
