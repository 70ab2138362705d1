"""Distances between images by their features, and calibration: against closed forms, scikit-learn and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from decentral.core.fidelity import (
    expected_calibration_error,
    frechet_distance,
    gaussian_fit,
    kernel_distance,
    precision_and_recall,
)

seeds = st.integers(0, 2**32 - 1)


def features(seed: int, count: int, dimensions: int = 5, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    stretch = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    return torch.randn(count, dimensions, generator=generator, dtype=torch.float64) @ stretch + shift


# Fréchet distance


@given(seeds)
def test_the_frechet_distance_is_that_of_scipys_matrix_root(seed: int) -> None:
    a, b = gaussian_fit(features(seed, 40)), gaussian_fit(features(seed + 1, 30, shift=0.5))
    root = np.real(scipy.linalg.sqrtm(a[1].numpy() @ b[1].numpy()))
    expected = np.sum((a[0] - b[0]).numpy() ** 2) + np.trace(a[1].numpy() + b[1].numpy() - 2 * root)
    assert frechet_distance(*a, *b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(*b, *a) == pytest.approx(expected, rel=1e-8)


def test_between_round_gaussians_it_has_a_closed_form() -> None:
    # Covariances that commute: |μ - ν|² + Σ (σ_i - τ_i)².
    mean, other = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, 0.0, 4.0])
    deviations, others = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 0.0])
    found = frechet_distance(mean, deviations.square().diag(), other, others.square().diag())
    assert found == pytest.approx(5 + 1 + 9)


@given(seeds)
def test_of_a_distribution_from_itself_it_is_zero_also_with_fewer_samples_than_dimensions(seed: int) -> None:
    fit = gaussian_fit(features(seed, 4, 8))
    assert frechet_distance(*fit, *fit) == pytest.approx(0, abs=1e-6)


def test_a_fit_is_numpys() -> None:
    sample = features(3, 20)
    mean, covariance = gaussian_fit(sample.float())
    np.testing.assert_allclose(mean, sample.mean(0), atol=1e-5)
    np.testing.assert_allclose(covariance, np.cov(sample.numpy(), rowvar=False), rtol=1e-4, atol=1e-5)


# Kernel distance


@given(seeds)
def test_the_kernel_distance_is_that_of_scikit_learns_kernel(seed: int) -> None:
    a, b = features(seed, 12), features(seed + 1, 9, shift=0.3)

    def without_own(x: Tensor) -> float:
        kernel = polynomial_kernel(x.numpy(), degree=3, coef0=1)  # gamma is 1 / d there too
        return float((kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1)))

    expected = without_own(a) + without_own(b) - 2 * polynomial_kernel(a.numpy(), b.numpy(), degree=3, coef0=1).mean()
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_it_is_unbiased_between_samples_of_one_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [
        kernel_distance(torch.randn(8, 3, generator=generator), torch.randn(8, 3, generator=generator))
        for _ in range(200)
    ]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / np.sqrt(len(draws))
    assert min(draws) < 0


def test_it_grows_with_what_lies_between() -> None:
    real = features(5, 200)
    near, far = features(5, 400)[200:] + 0.2, features(5, 400)[200:] + 2.0
    assert kernel_distance(real, near) < kernel_distance(real, far)


def test_many_samples_are_taken_in_blocks_without_a_difference() -> None:
    a, b = features(6, 1500, 2), features(7, 1100, 2)
    kernel_ab = polynomial_kernel(a.numpy(), b.numpy(), degree=3, coef0=1).mean()
    kernel_aa, kernel_bb = (polynomial_kernel(x.numpy(), degree=3, coef0=1) for x in (a, b))
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel_aa, kernel_bb)]
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * kernel_ab)


# Precision and recall


@given(seeds, st.integers(1, 4))
def test_manifolds_are_those_of_scikit_learns_neighbours(seed: int, k: int) -> None:
    real, generated = features(seed, 30, 3), features(seed + 1, 20, 3, shift=0.5)

    def share(samples: Tensor, centres: Tensor) -> float:
        radii = NearestNeighbors(n_neighbors=k + 1).fit(centres).kneighbors(centres)[0][:, -1]
        distances = np.linalg.norm(samples.numpy()[:, None] - centres.numpy()[None], axis=2)
        return float((distances <= radii).any(1).mean())

    precision, recall = precision_and_recall(real, generated, k)
    assert precision == pytest.approx(share(generated, real))
    assert recall == pytest.approx(share(real, generated))


def test_one_mode_of_two_is_precise_and_forgets_half() -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = torch.randn(200, 2, generator=generator), torch.randn(200, 2, generator=generator) + 100
    real = torch.cat([left, right])
    precision, recall = precision_and_recall(real, left.clone())
    assert (precision, recall) == (1.0, 0.5)
    assert precision_and_recall(real, real + 1000) == (0.0, 0.0)


# Calibration


@given(seeds, st.integers(1, 20))
def test_the_calibration_error_is_the_definitions(seed: int, bins: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = (2 * torch.randn(60, 4, generator=generator, dtype=torch.float64)).softmax(1)
    labels = torch.randint(4, (60,), generator=generator)
    confidence, answer = probabilities.max(1)
    expected = 0.0
    for index in range(bins):
        inside = (confidence > index / bins) & (confidence <= (index + 1) / bins)
        if inside.any():
            accuracy = (answer == labels)[inside].double().mean()
            expected += inside.double().mean().item() * abs(accuracy - confidence[inside].mean()).item()
    assert expected_calibration_error(probabilities, labels, bins) == pytest.approx(expected, abs=1e-12)


def test_who_is_sure_and_right_is_calibrated_and_who_is_sure_and_wrong_is_not() -> None:
    sure = torch.eye(3)
    assert expected_calibration_error(sure, torch.tensor([0, 1, 2])) == 0
    assert expected_calibration_error(sure, torch.tensor([1, 2, 0])) == 1


def test_coins_that_are_called_fair_are_calibrated() -> None:
    labels = torch.randint(2, (20000,), generator=torch.Generator().manual_seed(2))
    assert expected_calibration_error(torch.full((20000, 2), 0.5), labels) < 0.02


# What cannot be measured


def test_too_few_samples_are_refused() -> None:
    one, three = torch.zeros(1, 2), torch.zeros(3, 2)
    with pytest.raises(ValueError, match="two samples"):
        gaussian_fit(one)
    with pytest.raises(ValueError, match="two samples"):
        kernel_distance(one, three)
    with pytest.raises(ValueError, match="more than 3 samples"):
        precision_and_recall(three, torch.zeros(9, 2))
    with pytest.raises(ValueError, match="samples"):
        expected_calibration_error(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
