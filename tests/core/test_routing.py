"""From the router's logits to weights over those who are there, and to who computes which samples."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decentral.core.flow import ensemble_velocity
from decentral.core.gating import Choice, gate
from decentral.core.routing import combine, group_by_expert, posterior, temperature_at, top_k, top_p

CHOICES: list[Choice] = [
    "full",
    "top-1",
    "top-2",
    "top-99",
    {"threshold": 0.8},
    {"threshold": 1.0},
    {"name": "by-noise", "above": 0.5, "wide": "full", "narrow": "top-1"},
]


@st.composite
def routed(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Logits of 6 samples over up to 8 experts, and which experts are present: at least one."""
    count = draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.0, 0.1, 1.0, 10.0, 1000.0]))
    present = torch.tensor(draw(st.lists(st.booleans(), min_size=count, max_size=count).filter(any)))
    return scale * torch.randn(6, count, generator=generator, dtype=torch.float64), present


everybody = torch.ones(4, dtype=torch.bool)


@given(routed(), st.sampled_from(CHOICES))
def test_weights_sum_to_one_and_nobody_absent_is_asked(problem: tuple[Tensor, Tensor], choice: Choice) -> None:
    logits, present = problem
    weights = gate(choice)(posterior(logits, present), torch.linspace(0, 1, 6, dtype=torch.float64))
    assert (weights >= 0).all()
    assert (weights[:, ~present] == 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(6, dtype=torch.float64))


@given(routed())
def test_the_share_of_the_absent_goes_to_the_rest_in_proportion(problem: tuple[Tensor, Tensor]) -> None:
    logits, present = problem
    before = (logits / 100).softmax(1)  # none so improbable that it would round to zero
    after = posterior(logits / 100, present)
    kept = before * present
    torch.testing.assert_close(after, kept / kept.sum(1, keepdim=True))


@given(routed(), st.integers(1, 9))
def test_the_best_of_those_present_are_asked(problem: tuple[Tensor, Tensor], count: int) -> None:
    logits, present = problem
    probabilities = posterior(logits, present)
    weights = top_k(probabilities, count)
    for probability, weight in zip(probabilities, weights, strict=True):
        order = sorted(range(len(probability)), key=lambda k: (-probability[k].item(), k))
        asked = {k for k in order[:count] if probability[k] > 0}
        assert set(weight.nonzero().flatten().tolist()) == asked


def test_when_all_a_sample_wanted_are_gone_the_next_best_answers() -> None:
    # After e⁻¹⁰⁰⁰ nothing is left of experts 2 and 3 in float64; with 0 and 1 gone, 3 is still better than 2.
    logits = torch.tensor([[0.0, -1.0, -1003.0, -1000.0]], dtype=torch.float64)
    survivors = torch.tensor([False, False, True, True])
    probabilities = posterior(logits, survivors)
    torch.testing.assert_close(probabilities, logits[:, 2:].softmax(1) @ torch.eye(4, dtype=torch.float64)[2:])
    assert top_k(probabilities, 1).tolist() == [[0, 0, 0, 1]]


def test_where_a_router_excluded_all_that_are_left_they_are_equals() -> None:
    oracle = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    survivors = torch.tensor([False, True, True])
    assert posterior(oracle, survivors).tolist() == [[0, 0.5, 0.5]]
    assert posterior(oracle, ~survivors).tolist() == [[1, 0, 0]]


def test_ties_go_to_the_lower_index() -> None:
    equal = torch.full((3, 8), 1 / 8)
    assert top_k(equal, 3).nonzero()[:, 1].tolist() == [0, 1, 2] * 3
    assert top_p(equal, 0.25).nonzero()[:, 1].tolist() == [0, 1] * 3


@given(routed(), st.floats(0.01, 1.0))
def test_a_threshold_takes_no_expert_too_many_and_none_too_few(problem: tuple[Tensor, Tensor], mass: float) -> None:
    logits, present = problem
    probabilities = posterior(logits, present)
    for probability, weight in zip(probabilities, top_p(probabilities, mass), strict=True):
        kept = probability[weight > 0]
        assert kept.sum() >= mass - 1e-12
        assert len(kept) == 1 or kept.sum() - kept.min() < mass + 1e-12


def test_one_expert_alone_has_the_weight_one_to_the_bit() -> None:
    probabilities = torch.rand(50, 4).softmax(1)
    assert top_k(probabilities, 1).unique().tolist() == [0, 1]


def test_a_temperature_softens_and_leaves_the_order() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    soft, sharp = posterior(logits, everybody, 2.0), posterior(logits, everybody, 0.5)
    assert soft[0, 0] < sharp[0, 0]
    assert soft.argsort().equal(sharp.argsort())
    torch.testing.assert_close(soft, (logits / 2).softmax(1))


@pytest.mark.parametrize(("t", "expected"), [(0.0, 1.0), (0.2, 1.0), (0.5, 2.0), (0.35, 1.5), (0.8, 4.0), (1.0, 4.0)])
def test_a_temperature_is_linear_between_measured_times(t: float, expected: float) -> None:
    assert temperature_at(t, [0.2, 0.5, 0.8], [1.0, 2.0, 4.0]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("times", "values"), [([], []), ([0.1], [1.0, 2.0]), ([0.5, 0.5], [1.0, 2.0]), ([0.1, 0.2], [1.0, 0.0])]
)
def test_temperatures_that_cannot_be_are_refused(times: list[float], values: list[float]) -> None:
    with pytest.raises(ValueError, match="temperature"):
        temperature_at(0.5, times, values)


def test_nobody_and_no_number_are_refused() -> None:
    with pytest.raises(ValueError, match="no expert is present"):
        posterior(torch.zeros(1, 4), ~everybody)
    with pytest.raises(ValueError, match="not numbers"):
        posterior(torch.tensor([[0.0, torch.nan, 0.0, 0.0]]), everybody)


@given(routed(), st.sampled_from(CHOICES), st.randoms())
def test_asking_only_who_has_weight_is_the_whole_ensemble(
    problem: tuple[Tensor, Tensor], choice: Choice, order: random.Random
) -> None:
    logits, present = problem
    weights = gate(choice)(posterior(logits, present), torch.full((6,), 0.3, dtype=torch.float64))
    velocities = torch.randn(6, weights.shape[1], 2, 3, dtype=torch.float64)
    groups = group_by_expert(weights > 0)
    parts = [(k, rows, velocities[rows, k]) for k, rows in groups]
    found = combine(parts, weights)
    torch.testing.assert_close(found, ensemble_velocity(velocities, weights))
    order.shuffle(parts)
    assert torch.equal(combine(parts, weights), found)


@given(routed(), st.integers(1, 4))
def test_k_experts_cost_k_evaluations_a_sample_and_no_more(problem: tuple[Tensor, Tensor], count: int) -> None:
    logits, present = problem
    groups = group_by_expert(top_k(posterior(logits, present), count) > 0)
    assert sum(len(rows) for _, rows in groups) <= 6 * count
    assert [expert for expert, _ in groups] == sorted({expert for expert, _ in groups})
    if count <= int(present.sum()) and logits.abs().max() < 100:
        assert sum(len(rows) for _, rows in groups) == 6 * count
