"""What activations tell of inputs: distance correlation, and how near reconstructions come."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decentral.core.leakage import (
    distance_correlation,
    distances,
    no_peek,
    peak_signal_to_noise,
    squared_distance_correlation,
    structural_similarity,
    u_centred,
    v_centred,
)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed: int, size: int) -> Tensor:
    orthogonal: Tensor = torch.linalg.qr(drawn(seed, size, size)).Q
    return orthogonal


# ---- distance correlation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 5, 200])
def test_independent_samples_come_to_zero_on_average_however_wide_they_are(width: int) -> None:
    """The uncorrected statistic of 30 samples of 200 numbers is 0.8 or more."""
    found = torch.tensor(
        [squared_distance_correlation(drawn(seed, 30, width), drawn(seed + 1000, 30, 3)) for seed in range(300)]
    )
    assert abs(float(found.mean())) < 4 * float(found.std()) / math.sqrt(len(found))
    assert float(found.min()) < 0


@given(st.integers(4, 40), st.integers(1, 6), st.integers(0, 999), st.floats(0.01, 100))
def test_samples_rotated_scaled_and_moved_tell_everything(n: int, width: int, seed: int, scale: float) -> None:
    x = drawn(seed, n, width)
    assert squared_distance_correlation(x, scale * x @ rotation(seed, width) - 7) == pytest.approx(1.0, abs=1e-6)


@given(st.integers(4, 40), st.integers(0, 999), st.floats(-100, 100).filter(lambda slope: abs(slope) > 0.01))
def test_a_line_tells_everything(n: int, seed: int, slope: float) -> None:
    x = drawn(seed, n, 1)
    assert distance_correlation(x, slope * x - 3) == pytest.approx(1.0, abs=1e-6)


@given(st.integers(4, 30), st.integers(0, 999), st.floats(0.01, 100))
def test_it_is_symmetric_and_sees_neither_rotation_nor_scale_nor_place(n: int, seed: int, scale: float) -> None:
    x, y = drawn(seed, n, 3), drawn(seed + 1, n, 4)
    found = squared_distance_correlation(x, y)
    assert squared_distance_correlation(y, x) == pytest.approx(found, abs=1e-9)
    assert squared_distance_correlation(x, scale * y @ rotation(seed, 4) + 7) == pytest.approx(found, abs=1e-6)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert squared_distance_correlation(x[order], y[order]) == pytest.approx(found, abs=1e-9)


def test_what_no_line_describes_is_seen_too() -> None:
    x = drawn(0, 300, 1)
    assert abs(float(torch.corrcoef(torch.stack([x[:, 0], x[:, 0].square()]))[0, 1])) < 0.2
    assert distance_correlation(x, x.square()) > 0.4


def test_noise_that_drowns_a_signal_leaves_less_of_it() -> None:
    x = drawn(0, 200, 4)
    found = [distance_correlation(x, x + scale * drawn(1, 200, 4)) for scale in (0.0, 0.5, 2.0, 8.0)]
    assert found[0] == pytest.approx(1.0)
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.4


def test_constants_tell_nothing_and_three_samples_are_refused() -> None:
    assert distance_correlation(drawn(0, 20, 3), torch.ones(20, 5, dtype=torch.float64)) == 0.0
    with pytest.raises(ValueError, match="needs 4 samples or more, not 3"):
        distance_correlation(drawn(0, 3, 2), drawn(1, 3, 2))


def test_the_number_that_policies_bound_is_never_below_zero() -> None:
    pairs = [(drawn(seed, 12, 2), drawn(seed + 50, 12, 2)) for seed in range(20)]
    assert min(squared_distance_correlation(x, y) for x, y in pairs) < 0
    assert min(distance_correlation(x, y) for x, y in pairs) == 0.0


@given(st.integers(4, 30), st.integers(0, 999))
def test_centred_distances_sum_to_zero_in_every_row(n: int, seed: int) -> None:
    distance = distances(drawn(seed, n, 2, 3))
    for centred in (u_centred(distance), v_centred(distance)):
        torch.testing.assert_close(centred.sum(1), torch.zeros(n, dtype=torch.float64), atol=1e-9, rtol=0)
        torch.testing.assert_close(centred, centred.T)


# ---- NoPeek -------------------------------------------------------------------------------------------------------


@given(st.integers(2, 30), st.integers(0, 999))
def test_the_loss_lies_between_nothing_and_everything(n: int, seed: int) -> None:
    x = drawn(seed, n, 3)
    assert 0 <= float(no_peek(x, drawn(seed + 1, n, 4))) <= 1
    assert float(no_peek(x, 2 * x + 1)) == pytest.approx(1.0, abs=1e-6)


def test_descending_the_loss_makes_activations_tell_less() -> None:
    x = drawn(0, 64, 8).float()
    weight = torch.nn.Parameter(torch.eye(8) + 0.1 * drawn(1, 8, 8).float())
    before = distance_correlation(x, x @ weight.detach())
    optimiser = torch.optim.SGD([weight], lr=0.5)
    for _ in range(60):
        optimiser.zero_grad()
        torch.autograd.backward(no_peek(x, torch.tanh(x @ weight)) + 0.01 * weight.square().sum())
        optimiser.step()
    assert distance_correlation(x, torch.tanh(x @ weight.detach())) < before - 0.1


def test_the_loss_has_a_gradient_where_samples_coincide() -> None:
    x = drawn(0, 8, 2)
    y = torch.zeros(8, 3, dtype=torch.float64, requires_grad=True)
    torch.autograd.backward(no_peek(x, y))
    assert y.grad is not None
    assert bool(y.grad.isfinite().all())


# ---- reconstructions ----------------------------------------------------------------------------------------------


def images(seed: int, side: int = 16) -> Tensor:
    return torch.rand(3, 2, side, side, generator=torch.Generator().manual_seed(seed))


def test_an_image_is_like_itself() -> None:
    x = images(0)
    assert torch.equal(peak_signal_to_noise(x, x), torch.full((3,), math.inf, dtype=torch.float64))
    torch.testing.assert_close(structural_similarity(x, x), torch.ones(3, dtype=torch.float64))


@given(st.floats(0.001, 1.0), st.floats(0.5, 300))
def test_psnr_counts_the_error_in_tenths_of_powers_of_ten(error: float, span: float) -> None:
    x = images(1).double()
    expected = torch.full((3,), -20 * math.log10(error), dtype=torch.float64)
    torch.testing.assert_close(peak_signal_to_noise(x * span, (x + error) * span, span), expected)


@given(st.integers(0, 999), st.sampled_from([8, 11, 16]), st.floats(0.5, 300))
def test_ssim_is_symmetric_bounded_and_sees_no_unit(seed: int, side: int, span: float) -> None:
    x, y = images(seed, side), images(seed + 1, side)
    found = structural_similarity(x, y)
    assert bool((found.abs() <= 1).all())
    torch.testing.assert_close(structural_similarity(y, x), found)
    torch.testing.assert_close(structural_similarity(span * x.double(), span * y.double(), span), found)


def test_ssim_of_flat_images_is_the_likeness_of_their_brightness() -> None:
    """Equation 13 with no variance: (2 μ ν + C1) / (μ² + ν² + C1)."""
    x, y = torch.full((1, 1, 12, 12), 0.25), torch.full((1, 1, 12, 12), 0.75)
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert float(structural_similarity(x, y)) == pytest.approx(expected)


def test_a_negative_is_not_like_its_image_and_more_noise_is_less_like_it() -> None:
    x = images(2)
    assert float(structural_similarity(x, 1 - x).max()) < 0
    noise = drawn(3, *x.shape)
    for measure in (structural_similarity, peak_signal_to_noise):
        found = [float(measure(x.double(), x + scale * noise).mean()) for scale in (0.01, 0.1, 0.5)]
        assert found == sorted(found, reverse=True)
