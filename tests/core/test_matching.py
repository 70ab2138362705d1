"""From scores or weights to the permutation that aligns two networks."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decentral.core.matching import assign, weight_matching
from decentral.core.permutation import (
    Block,
    Group,
    PermutationSpec,
    TensorAxis,
    apply_permutation,
    identity_permutation,
    random_permutation,
)


@given(st.integers(1, 6), st.integers(0, 999))
def test_no_assignment_scores_higher(units: int, seed: int) -> None:
    scores = torch.randn(units, units, generator=torch.Generator().manual_seed(seed))
    best = max(sum(float(scores[k, p[k]]) for k in range(units)) for p in itertools.permutations(range(units)))
    assert sum(float(scores[k, source]) for k, source in enumerate(assign(scores))) == pytest.approx(best, abs=1e-5)


@given(st.permutations(range(8)))
def test_a_planted_assignment_is_found(planted: list[int]) -> None:
    scores = torch.full((8, 8), -0.2)
    for unit, source in enumerate(planted):
        scores[unit, source] = 0.9
    assert assign(scores) == tuple(planted)


@pytest.mark.parametrize("blank", [0.0, float("nan")])
def test_units_about_which_nothing_is_known_stay_in_place(blank: float) -> None:
    assert assign(torch.full((5, 5), blank)) == (0, 1, 2, 3, 4)
    scores = torch.full((5, 5), blank)
    scores[1, 2] = scores[2, 1] = 1.0
    assert assign(scores) == (0, 2, 1, 3, 4)


def test_nothing_to_assign_is_an_empty_assignment() -> None:
    assert assign(torch.zeros(0, 0)) == ()


# x -> a -> b -> y with biases; b reads each unit of a at two places, y reads two inputs beside b.
SPEC = PermutationSpec(
    groups=(Group("a", 12, ()), Group("b", 9, ())),
    axes=(
        TensorAxis("a.weight", 0, (Block(0, 12),)),
        TensorAxis("a.bias", 0, (Block(0, 12),)),
        TensorAxis("b.weight", 0, (Block(1, 9),)),
        TensorAxis("b.weight", 1, (Block(0, 12, 2),)),
        TensorAxis("b.bias", 0, (Block(1, 9),)),
        TensorAxis("y.weight", 1, (Block(None, 2), Block(1, 9))),
        TensorAxis("b.running_mean", 0, (Block(1, 9),)),
    ),
)


def weights(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (12, 64), "a.bias": (12,), "b.weight": (9, 24), "b.bias": (9,), "y.weight": (4, 11)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return sum(float((first[name] - second[name]).square().sum()) for name in first)


@given(st.integers(0, 200))
def test_weight_matching_recovers_a_planted_permutation(seed: int) -> None:
    reference = weights(seed)
    planted = random_permutation(SPEC, torch.Generator().manual_seed(seed))
    visible = PermutationSpec(SPEC.groups, SPEC.axes[:-1])
    other = apply_permutation(visible, planted, reference)
    assert planted.compose(weight_matching(SPEC, reference, other)) == identity_permutation(SPEC)


@given(st.integers(0, 200))
def test_weight_matching_brings_networks_closer(seed: int) -> None:
    reference, other = weights(seed), weights(seed + 1000)
    visible = PermutationSpec(SPEC.groups, SPEC.axes[:-1])
    moved = apply_permutation(visible, weight_matching(SPEC, reference, other), other)
    assert distance(reference, moved) <= distance(reference, other) + 1e-4


def test_weight_matching_of_a_network_with_itself_moves_nothing() -> None:
    assert weight_matching(SPEC, weights(0), weights(0)).is_identity


def test_no_sweep_changes_nothing() -> None:
    assert weight_matching(SPEC, weights(0), weights(1), sweeps=0).is_identity
