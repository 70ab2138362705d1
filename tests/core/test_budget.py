"""What epsilon and delta promise, measured on the densities themselves."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decentral.core.budget import Budget, gaussian_delta, gaussian_deviation
from decentral.errors import UserError

EPSILONS = st.floats(0.05, 20)
DELTAS = st.sampled_from([1e-9, 1e-6, 1e-3, 0.1])


def excess(first: Tensor, second: Tensor, epsilon: float, step: float) -> float:
    """Definition of delta: the most that P(S) - e^ε Q(S) can be, which is over all S where the density exceeds."""
    return float((first - math.exp(epsilon) * second).clamp(min=0).sum() * step)


def normal(grid: Tensor, mean: float, deviation: float) -> Tensor:
    return torch.exp(-((grid - mean) ** 2) / (2 * deviation**2)) / (deviation * math.sqrt(2 * math.pi))


@given(EPSILONS, st.sampled_from([1e-4, 1e-3, 0.1]), st.floats(0.1, 10))
def test_gaussian_noise_keeps_epsilon_and_delta_by_their_definition(epsilon: float, delta: float, clip: float) -> None:
    deviation = Budget("gaussian", epsilon, clip, delta).scale
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
    scale = Budget("laplace", epsilon, clip).scale
    grid = torch.linspace(-5 * clip, 5 * clip, 10_001, dtype=torch.float64)
    ratio = ((grid + clip).abs() - (grid - clip).abs()).abs() / scale  # of log densities around -clip and clip
    assert float(ratio.max()) == pytest.approx(epsilon)


@given(EPSILONS, DELTAS, st.floats(0.01, 100))
def test_the_deviation_is_the_least_that_keeps_delta(epsilon: float, delta: float, sensitivity: float) -> None:
    deviation = gaussian_deviation(epsilon, delta, sensitivity)
    assert gaussian_delta(epsilon, deviation, sensitivity) <= delta
    assert gaussian_delta(epsilon, 0.999 * deviation, sensitivity) > delta


@given(st.floats(0.05, 0.99), DELTAS)
def test_the_analytic_mechanism_adds_no_more_than_the_classical(epsilon: float, delta: float) -> None:
    """Dwork, Roth, "The algorithmic foundations of differential privacy", theorem A.1, for epsilon below one."""
    assert gaussian_deviation(epsilon, delta, 1.0) <= math.sqrt(2 * math.log(1.25 / delta)) / epsilon


@given(EPSILONS, DELTAS)
def test_a_tighter_budget_needs_more_noise(epsilon: float, delta: float) -> None:
    assert gaussian_deviation(epsilon / 2, delta, 1.0) > gaussian_deviation(epsilon, delta, 1.0)
    assert gaussian_deviation(epsilon, delta / 2, 1.0) > gaussian_deviation(epsilon, delta, 1.0)
    assert Budget("laplace", epsilon / 2, 1.0).scale > Budget("laplace", epsilon, 1.0).scale


def test_answers_add_up() -> None:
    assert Budget("gaussian", 0.5, 1.0, 0.25).after(3) == (1.5, 0.75)
    assert Budget("gaussian", 0.5, 1.0, 0.25).after(9) == (4.5, 1.0)
    assert Budget("laplace", 0.5, 1.0).after(3) == (1.5, 0.0)


def refuse(problem: str, key: tuple[str, ...]) -> UserError:
    return UserError(f"{'.'.join(key)}: {problem}")


GOOD = {"mechanism": "gaussian", "epsilon": 1, "delta": 1e-5, "clip": 4.0}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({**GOOD, "mechanism": "gausian"}, "unknown mechanism 'gausian'.*gaussian"),
        ({**GOOD, "mechanism": 3}, "mechanism: must be a word"),
        ({**GOOD, "epsilon": 0.0}, "above zero"),
        ({**GOOD, "epsilon": True}, "epsilon: must be a number"),
        ({**GOOD, "clip": math.inf}, "finite"),
        ({**GOOD, "delta": 0.0}, "needs a delta between 0 and 1"),
        ({**GOOD, "mechanism": "laplace"}, "delta of 0"),
        ({**GOOD, "sigma": 1.0}, "sigma: unknown key"),
        ({"mechanism": "gaussian", "epsilon": 1.0}, "noise needs clip"),
    ],
)
def test_a_budget_that_cannot_be_is_refused_where_it_stands(values: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Budget.of(values, refuse)


def test_a_budget_says_what_it_promises() -> None:
    assert Budget.of(GOOD, refuse) == Budget("gaussian", 1.0, 4.0, 1e-5)
    assert str(Budget.of(GOOD, refuse)) == "gaussian noise: epsilon 1, delta 1e-05 for each answer, clipped to 4"
    assert Budget("gaussian", 1.0, 4.0).missed == 1e-5
    laplace = Budget.of({"mechanism": "laplace", "epsilon": 2.0, "clip": 1.0}, refuse)
    assert str(laplace) == "laplace noise: epsilon 2 for each answer, clipped to 1"


def test_budgets_are_read_without_torch() -> None:
    code = "import sys, decentral.core.budget; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
